"""Names, splits and folders of data sets: checked before anything is opened.

They come from the user and end in timm, torchvision, webdataset or Hugging Face `datasets`, some of which
would run a command or a script, or unpickle a file, that they find there. Only what matches narrow patterns
gets through.
"""

import os
import re
from pathlib import Path

from timm_diffsens.errors import UsageError, unknown
from timm_diffsens.files import absolute

TRAIN_SPLITS = ("train", "training")
EVALUATION_SPLITS = ("validation", "val", "valid", "eval", "evaluation")
TEST_SPLITS = ("test", "testing")
_ALL_SPLITS = (*TRAIN_SPLITS, *EVALUATION_SPLITS, *TEST_SPLITS)


def check_name(prefix: str, name: str, pattern: str) -> None:
    """Refuse a name that could be read as a path, a script or a command.

    Raises:
        UsageError: it does not match the pattern.
    """
    if not re.fullmatch(pattern, name) or name.endswith(".py"):
        raise UsageError(
            f"'{prefix}/{name}' is no data set name: expected {prefix}/NAME of letters, digits, - _ and ."
        )


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
    folder = absolute(Path(data_dir))
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
