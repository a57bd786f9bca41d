"""A data set spec -> an open `Source`, through timm's `create_dataset`."""

import contextlib
import os
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from timm_diffsens.data import dead_leaves, specs
from timm_diffsens.data.scale_detection import PARTS, ScaleDetection
from timm_diffsens.data.sources import DeadLeaves, Encoded, Origin, ScaleImages, Source, Torchvision
from timm_diffsens.data.streaming import Stream
from timm_diffsens.device import allocator
from timm_diffsens.errors import UsageError, first_line, warn

_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")
_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR10_FILES = "cifar-10-batches-py"  # where torchvision keeps them
_CIFAR10_NOTE = "CIFAR-10 read from an image folder, possibly re-encoded: not the original files"
_JPEG, _JPEG_TITLE = (".jpg", ".jpeg"), "CIFAR-10 (JPEG)"


@dataclass(frozen=True)
class Request:
    """What the user asked for."""

    spec: str
    data_dir: Path | None
    split: str | None
    images: int | None  # None: all
    download: bool
    mode: str  # PIL mode that images are converted to: RGB or L
    task: ScaleDetection | None = None

    def origin(self, split: str | None, note: str | None = None) -> Origin:
        """How the sample will name what was opened."""
        return Origin(self.spec, split, self.mode, note)

    def folder(self) -> Path:
        """The data folder, which must exist."""
        return specs.existing_folder(self.spec, self.data_dir)


def open_source(request: Request) -> Source:
    """Open a data set.

    Raises:
        UsageError: an unknown name, a folder or a package that is missing, a set that cannot be had.
    """
    prefix, name = specs.parse_spec(request.spec)
    specs.check_split(request.split)
    specs.require_packages(request.spec, prefix)
    if prefix == "torch":
        return _torchvision(request, name)
    if prefix == "hfds":
        return _hub(request, name)
    if prefix == "wds":
        return _shards(request, name)
    if prefix:
        return _stream(request, f"{prefix}/{name}")
    if name == "dead-leaves":
        return _dead_leaves(request)
    if name in specs.SCALE_TASKS:
        return _scale_detection(request, name)
    if name == "cifar10":
        return _cifar10(request)
    return _image_folder(request, request.folder())


def _create(request: Request, advice: str, **arguments: Any) -> Any:
    """`timm.data.create_dataset`, with every failure told in one line and nothing printed on stdout."""
    allocator.prepare()
    from timm.data import create_dataset

    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout belongs to `--json`
            return create_dataset(input_img_mode=request.mode, **arguments)
    except Exception as error:  # timm, torchvision and the others raise nearly everything, assertions too
        reason = first_line(error).removesuffix("You can use download=True to download it").rstrip(" .:")
        raise UsageError(f"{request.spec} could not be opened: {reason}; {advice}") from error


def _dead_leaves(request: Request) -> Source:
    if request.data_dir is not None:
        raise UsageError(
            "dead-leaves is drawn, not read, so it takes no --data-dir; "
            f"to read {str(request.data_dir)!r} add --dataset folder"
        )
    if request.split is not None:
        raise UsageError(f"dead-leaves has no splits, so it takes no --split (got {request.split!r})")
    return DeadLeaves(request.origin(None, dead_leaves.NOTE))


def _scale_detection(request: Request, name: str) -> Source:
    if request.data_dir is not None:
        raise UsageError(f"{name} is made here, not read, so it takes no --data-dir")
    split = specs.two_way_split(request.split)
    assert split in PARTS
    task = request.task or ScaleDetection(int(name.removeprefix("scale")))
    if name != f"scale{task.task}":
        raise UsageError(f"data set {name}, but the parameters are of task {task.task}")
    text = ", ".join(f"{key} {value}" for key, value in task.parameters().items() if key != "task")
    return ScaleImages(request.origin(split, f"scale detection, made here: {text}"), task)


def _image_folder(request: Request, folder: Path, note: str | None = None) -> Source:
    root, split = specs.split_folder(folder, request.split)
    dataset = _create(
        request,
        f"expected images ({' '.join(_EXTENSIONS)}) in {str(root)!r} or its sub-folders",
        name="",
        root=str(root),
        search_split=False,
        input_key=";".join(_EXTENSIONS),
    )
    source = Encoded(request.origin(split, note), dataset, files=True)
    if 0 < source.stray < source.size:
        warn(
            f"{source.stray} images lie in {root.name!r} itself, beside the class folders, so they have no "
            "class and the set is read as unlabelled; move them away to have the labels used"
        )
    return source


def _cifar10(request: Request) -> Source:
    """torchvision's files where they are there or can be fetched, else an image folder of the ten classes."""
    home = request.data_dir
    if request.download or home is None or not specs.exists(home) or specs.exists(home / _CIFAR10_FILES):
        return _torchvision(request, "cifar10")
    folder = request.folder()
    if not any(entry.is_dir() for entry in os.scandir(folder)):
        raise UsageError(
            f"no CIFAR-10 in {str(folder)!r}: expected {_CIFAR10_FILES}/ or one folder of images per class; "
            "pass --download to fetch it, or another --data-dir"
        )
    source = _image_folder(request, folder, _CIFAR10_NOTE)
    if source.size > 0 and source.name(0).lower().endswith(_JPEG):
        source.origin = replace(source.origin, title=_JPEG_TITLE)  # lossy: errors are not the originals'
    if source.class_names not in (_CIFAR10, tuple("0123456789")):
        found = "no classes" if source.class_names is None else f"{len(source.class_names)} classes"
        raise UsageError(
            f"{str(folder)!r} is not CIFAR-10: it has {found}, expected the folders {', '.join(_CIFAR10)}; "
            "use --dataset folder for other images"
        )
    return source


def _torchvision(request: Request, name: str) -> Source:
    fresh = request.data_dir is not None and not specs.exists(request.data_dir)
    if fresh and not request.download:
        raise UsageError(
            f"--data-dir {str(request.data_dir)!r} does not exist; pass --download to fetch {name} into it"
        )
    folder = request.data_dir if fresh and request.data_dir else request.folder()
    split = request.split or "validation"
    shown: str | None = split
    if name in specs.TORCH_FOLDERS:
        folder, shown = specs.split_folder(folder, request.split)
    elif name in specs.TORCH_TWO_SPLITS:
        split = shown = specs.two_way_split(request.split)
    if any(folder.glob("*/processed/*.pt")):
        raise UsageError(
            f"{str(folder)!r} holds */processed/*.pt, pickles of an old torchvision; remove them first"
        )
    if name == "imagenet":
        advice = "for a folder of images without the archives use --dataset imagenet"
    elif request.download:
        advice = "without a network, fetch it elsewhere and give its folder with --data-dir"
    else:
        advice = "pass --download to fetch it, or another --data-dir"
    dataset = _create(
        request,
        advice,
        name=f"torch/{name}",
        root=str(folder),
        split=split,
        search_split=False,
        download=request.download,
    )
    return Torchvision(request.origin(shown), dataset)


def _hub(request: Request, name: str) -> Source:
    split = request.split or "validation"
    advice = "check the name and --split; without a network, give a cache that holds it with --data-dir"
    cache = None if request.data_dir is None else str(request.data_dir)
    dataset = _create(request, advice, name=f"hfds/{name}", root=cache, split=split)
    return Encoded(request.origin(split), dataset, files=False)


def _stream(request: Request, name: str) -> Source:
    split = request.split or "validation"
    arguments: dict[str, Any] = {"download": request.download}
    if name.startswith("hfids/"):  # wants a length, which only training uses
        arguments["num_samples"] = request.images or sys.maxsize
    root = None if request.data_dir is None else str(request.data_dir)
    dataset = _create(request, "check the name and --split", name=name, root=root, split=split, **arguments)
    return Stream(request.origin(split), dataset)


def _shards(request: Request, name: str) -> Source:
    root = request.folder()
    split = request.split or "validation"
    if ":" in split:
        raise UsageError(f"--split {split!r}: shards are files in --data-dir, not URLs or commands")
    advice = "give a split of its _info.json, or the shards themselves: --split 'name-{0000..0009}.tar'"
    dataset = _create(request, advice, name=f"wds/{name}", root=str(root), split=split)
    _check_shards(request.spec, root, dataset.reader.split_info.filenames)
    return Stream(request.origin(split), dataset)


def _check_shards(spec: str, root: Path, filenames: Any) -> None:
    """Shard names come from a file of the data set: they must be files inside its folder.

    webdataset would run `pipe:` names as commands and pass over missing files.
    """
    for filename in filenames:
        path = Path(os.path.normpath(root / str(filename)))
        if not path.is_relative_to(root):
            raise UsageError(f"{spec}: the shard {str(filename)!r} lies outside --data-dir {str(root)!r}")
        if not path.is_file():
            raise UsageError(f"{spec}: the shard {str(path)!r} does not exist")
