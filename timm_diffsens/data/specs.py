"""Names of data sets and splits, and the folders they stand for: checked before anything is opened.

A name, a split or a folder comes from the user and ends in timm, torchvision, webdataset or Hugging Face
`datasets`, some of which would run a command or a script, or unpickle a file, that they find there. Only
what matches the narrow patterns below gets through.
"""

import importlib.metadata
import importlib.util
import os
import re
from pathlib import Path

from timm_diffsens.errors import UsageError, unknown

TORCH_TWO_SPLITS = ("cifar10", "cifar100", "mnist", "kmnist", "fashion_mnist", "qmnist")
TORCH_FOLDERS = ("image_folder", "folder")
TORCH_OTHERS = ("imagenet", "inaturalist", "inat", "places365")
TORCH_NAMES = (*TORCH_TWO_SPLITS, *TORCH_OTHERS, *TORCH_FOLDERS)

SCALE_TASKS = ("scale1", "scale2")

TRAIN_SPLITS = ("train", "training")
EVALUATION_SPLITS = ("validation", "val", "valid", "eval", "evaluation")
TEST_SPLITS = ("test", "testing")
_ALL_SPLITS = (*TRAIN_SPLITS, *EVALUATION_SPLITS, *TEST_SPLITS)

_BUILT_IN = {
    "dead-leaves": "synthetic images with natural statistics, drawn here, without labels (the default)",
    "cifar10": "CIFAR-10: torchvision's files (--download fetches them) or one image folder per class",
    "imagenet": "a folder in ImageNet's layout, one sub-folder per WordNet id, with or without val/ above",
    "scale1": "scale detection, made here: are two pixels closer than xi (--dims, --size, --xi, --gap)",
    "scale2": "scale detection, made here: are two pixels in one patch of side xi",
    "folder": "any folder of images; labels from its sub-folders, if there are any",
}
_PREFIXES = {
    "torch": f"torchvision's sets, with --download for most: {', '.join(TORCH_NAMES)}",
    "hfds": "a data set of the Hugging Face Hub, fetched whole (package `datasets`)",
    "hfids": "the same as a stream: the first images (package `datasets`)",
    "wds": "local webdataset shards in --data-dir: the first images (package `webdataset`)",
    "tfds": "TensorFlow Datasets: the first images (package `tensorflow-datasets`)",
}
_NAME_PATTERNS = {
    "hfds": r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?",
    "hfids": r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?",
    "wds": r"[A-Za-z0-9_][\w.-]*",
    "tfds": r"[a-z0-9_]+(/[A-Za-z0-9_][\w.-]*)?(:[0-9.*]+)?",
}
_SPLIT_PATTERN = r"[\w\[\]{}%:+|,.-]+"

# prefix -> (module, what to install, lowest major version)
_PACKAGES = {
    "hfds": (("datasets", "datasets", 4),),
    "hfids": (("datasets", "datasets", 4),),
    "wds": (("webdataset", "webdataset", 0),),
    "tfds": (("tensorflow_datasets", "tensorflow-datasets", 0), ("tensorflow", "tensorflow", 0)),
}


def list_datasets() -> list[tuple[str, str]]:
    """Every kind of data set spec with one line on what it is.

    >>> list_datasets()[0][0]
    'dead-leaves'
    """
    return [*_BUILT_IN.items(), *((f"{prefix}/NAME", text) for prefix, text in _PREFIXES.items())]


def parse_spec(spec: str) -> tuple[str, str]:
    """A data set spec -> (prefix, name); the prefix is "" for the built-in ones.

    Raises:
        UsageError: there is no such data set, or the name has characters that a name cannot have.
    """
    if spec in _BUILT_IN:
        return "", spec
    prefix, slash, name = spec.partition("/")
    prefix = prefix.lower()
    if not slash or prefix not in _PREFIXES:
        known = [*_BUILT_IN, *(f"torch/{n}" for n in TORCH_NAMES)]
        raise unknown("data set", spec, known, hint="see `diffsens ls datasets`")
    if prefix == "torch":
        if name.lower() not in TORCH_NAMES:
            raise unknown("data set", spec, [f"torch/{n}" for n in TORCH_NAMES])
        return prefix, name.lower()
    if not re.fullmatch(_NAME_PATTERNS[prefix], name) or name.endswith(".py"):
        raise UsageError(
            f"{spec!r} is no data set name: expected {prefix}/NAME of letters, digits, - _ and ."
        )
    return prefix, name


def check_split(split: str | None) -> None:
    """Refuse a split that could be read as a path or a command.

    Raises:
        UsageError: it could.
    """
    if split is not None and (not re.fullmatch(_SPLIT_PATTERN, split) or set(split) <= {"."}):
        raise UsageError(f"{split!r} is no split name: expected one such as validation, test or train")


def two_way_split(split: str | None) -> str:
    """`train` or `test`, for the sets that have just these; a validation split means the test set.

    Raises:
        UsageError: the split is neither.
    """
    if split in TRAIN_SPLITS:
        return "train"
    if split is None or split in EVALUATION_SPLITS or split in TEST_SPLITS:
        return "test"
    raise unknown("split", split, _ALL_SPLITS, hint="this set has train and test")


def require_packages(spec: str, prefix: str) -> None:
    """Check that the optional packages of a kind of data set are there.

    `datasets` has to be 4 or newer: older ones may run a Python script that lies beside the data.

    Raises:
        UsageError: one is missing or too old; it names the package.
    """
    for module, package, major in _PACKAGES.get(prefix, ()):
        if importlib.util.find_spec(module) is None:
            raise UsageError(f"{spec} needs the package {package!r}: pip install {package}")
        if major and int(importlib.metadata.version(package).split(".")[0]) < major:
            raise UsageError(f"{spec} needs {package} {major} or newer: pip install '{package}>={major}'")


def exists(path: Path) -> bool:
    """Whether there is something at `path`.

    Raises:
        UsageError: that cannot be known, because a folder above may not be read.
    """
    try:
        return path.exists()
    except OSError as error:
        raise UsageError(f"{str(path)!r} cannot be read: {error.strerror}") from None


def existing_folder(spec: str, data_dir: str | Path | None) -> Path:
    """The folder a data set is read from, made absolute.

    Raises:
        UsageError: none was given, it does not exist, it is a file, or it may not be read.
    """
    if data_dir is None:
        raise UsageError(f"data set {spec!r} needs --data-dir, the folder it is read from")
    folder = Path(data_dir).expanduser().absolute()
    if not exists(folder):
        raise UsageError(f"--data-dir {str(folder)!r} does not exist")
    try:
        if not folder.is_dir():
            raise UsageError(
                f"--data-dir {str(folder)!r} is a file; expected a folder (unpack archives first)"
            )
        for child in [folder, *(Path(entry) for entry in os.scandir(folder) if entry.is_dir())]:
            os.scandir(child).close()
    except OSError as error:
        # os.walk, which timm uses, passes over such folders in silence, and class indices would shift
        raise UsageError(
            f"--data-dir {str(folder)!r} cannot be read: {error.strerror}: {error.filename}"
        ) from None
    return folder


def split_folder(folder: Path, split: str | None) -> tuple[Path, str | None]:
    """The sub-folder that holds a split, and its name; the folder itself, and None, if it has no splits.

    timm's synonyms are understood. Without a split asked for, validation is read, else test.

    Raises:
        UsageError: the split asked for is not there, or there are splits and none was asked for.
    """
    children = sorted(e.name for e in os.scandir(folder) if e.is_dir() and not e.name.startswith("."))
    groups = (TRAIN_SPLITS, EVALUATION_SPLITS, TEST_SPLITS)
    synonyms = next((group for group in groups if split in group), ())
    wanted = (split, *synonyms) if split else (*EVALUATION_SPLITS, *TEST_SPLITS)
    splits = [name for name in children if name in _ALL_SPLITS]
    only_splits = bool(children) and len(splits) == len(children)
    for name in wanted:
        # without --split a class folder may be called "test" by chance: then other classes lie beside it
        if name in children and (split or only_splits or name in EVALUATION_SPLITS):
            return folder / name, name
    if split:
        hint = f"choose from {', '.join(splits)}" if splits else "leave --split out to read the folder itself"
        raise UsageError(f"--data-dir {str(folder)!r} has no sub-folder for the split {split!r}; {hint}")
    if only_splits:
        raise UsageError(
            f"--data-dir {str(folder)!r} holds the split {', '.join(splits)}; ask for it with --split"
        )
    return folder, None
