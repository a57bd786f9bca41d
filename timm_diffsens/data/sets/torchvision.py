"""torchvision's sets."""

from pathlib import Path
from typing import Any

from timm_diffsens import registry
from timm_diffsens.data.sets.folder import PlainFolder
from timm_diffsens.data.source import ImageSource, Origin, Request
from timm_diffsens.data.splits import exists, two_way_split
from timm_diffsens.data.through_timm import create
from timm_diffsens.errors import UsageError, unknown

_TWO_SPLITS = ("cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist", "qmnist")
_OTHERS = ("imagenet", "inaturalist", "inat", "places365")
_FOLDERS = ("image_folder", "folder")
_NAMES = (*_TWO_SPLITS, *_OTHERS, *_FOLDERS)


class Decoded(ImageSource):
    """A torchvision set: `dataset[index]` is (PIL image, label)."""

    def __init__(self, origin: Origin, dataset: Any) -> None:
        self._dataset = dataset
        found = (getattr(dataset, name, None) for name in ("wnids", "classes", "all_categories"))
        names = next(filter(None, found), None)
        super().__init__(origin, len(dataset), tuple(map(str, names)) if names else None)

    def name(self, index: int) -> str:
        """`test/00000042`; the path inside the folder where there is one."""
        files = getattr(self._dataset, "samples", None)
        if files:
            return Path(files[index][0]).relative_to(self._dataset.root).as_posix()
        return super().name(index)

    def read(self, index: int, channels: int) -> tuple[Any, Any]:
        """Read and decode."""
        return self._dataset[index]  # type: ignore[no-any-return]


@registry.register(
    "datasets",
    "torch/NAME",
    help=f"torchvision's sets, with --download for most: {', '.join(_NAMES)}",
    order=6,
)
def torchvision(request: Request) -> ImageSource:
    """Open one of torchvision's sets."""
    name, home = request.name.lower(), request.data_dir
    if name in _FOLDERS:
        return PlainFolder(request, request.folder())
    if name not in _NAMES:
        raise unknown("data set", request.spec, [f"torch/{known}" for known in _NAMES])
    if home is not None and not exists(home):
        if not request.download:
            raise UsageError(
                f"--data-dir {str(home)!r} does not exist; pass --download to fetch {name} into it"
            )
    else:
        home = request.folder()
    split = request.split or "validation"
    shown: str | None = split
    if name in _TWO_SPLITS:
        split = shown = two_way_split(request.split)
    if any(home.glob("*/processed/*.pt")):
        raise UsageError(
            f"{str(home)!r} holds */processed/*.pt, pickles of an old torchvision; remove them first"
        )
    if name == "imagenet":
        advice = "for a folder of images without the archives use --dataset imagenet"
    elif request.download:
        advice = "without a network, fetch it elsewhere and give its folder with --data-dir"
    else:
        advice = "pass --download to fetch it, or another --data-dir"
    dataset = create(
        request.spec,
        advice,
        name=f"torch/{name}",
        root=str(home),
        split=split,
        search_split=False,
        download=request.download,
    )
    return Decoded(Origin(request.spec, shown), dataset)
