"""Names, splits and folders of data sets: checked before anything is opened.

They come from the user and end in timm, torchvision, webdataset or Hugging Face `datasets`, some of which
would run a command or a script, or unpickle a file, that they find there. Only what matches narrow patterns
gets through.
"""

import itertools
import re
from pathlib import Path

from timm_diffsens.data.walking import first_image, subfolders
from timm_diffsens.errors import UsageError, listed, unknown, warn

TRAIN_SPLITS = ("train", "training")
EVALUATION_SPLITS = ("validation", "val", "valid", "eval", "evaluation")
TEST_SPLITS = ("test", "testing")
_GROUPS = (TRAIN_SPLITS, EVALUATION_SPLITS, TEST_SPLITS)
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
    folder = Path(data_dir).expanduser().absolute()
    if not exists(folder):
        raise UsageError(f"--data-dir {str(folder)!r} does not exist")
    if not folder.is_dir():
        raise UsageError(f"--data-dir {str(folder)!r} is a file; expected a folder (unpack archives first)")
    for name in subfolders(folder):
        subfolders(folder / name)  # other libraries pass over what may not be read, and labels would shift
    return folder


def split_folder(folder: Path, split: str | None) -> tuple[Path, str | None]:
    """The sub-folder that holds a split, and its name; the folder itself, and None, if it has no splits.

    timm's synonyms are understood. Without a split asked for, validation is read, else test.

    Raises:
        UsageError: the split asked for is not there, or there are splits and none was asked for.
    """
    home = _unwrapped(folder)
    children = subfolders(home)
    splits = [name for name in children if name.lower() in _ALL_SPLITS]
    if "valid" in splits and "invalid" in children:
        splits.remove("valid")
    if split:
        wanted = (split, *next((group for group in _GROUPS if split in group), ()))
        found = _first(wanted, children)
        if found is None:
            hint = f"choose from {', '.join(splits)}" if splits else "leave --split out to read it all"
            raise UsageError(f"--data-dir {str(folder)!r} has no sub-folder for the split {split!r}; {hint}")
        return home / found, found
    others = [name for name in children if name not in splits and first_image(home / name)] if splits else []
    if not splits or not (not others or _are_splits(home, splits, others)):
        return folder, None
    found = _first((*EVALUATION_SPLITS, *TEST_SPLITS), splits)
    if found is None:
        raise UsageError(
            f"--data-dir {str(folder)!r} holds the split {', '.join(splits)}; ask for it with --split"
        )
    _say_what_is_passed_over(home, found, splits, others)
    return home / found, found


def _first(wanted: tuple[str, ...], names: list[str]) -> str | None:
    """The first name that is wanted; whatever its case if it is a split's."""
    alike = {name.lower(): name for name in names if name.lower() in _ALL_SPLITS}
    return next((name if name in names else alike[name] for name in wanted if name in {*names, *alike}), None)


def _unwrapped(folder: Path) -> Path:
    """Below folders that hold but one folder of images, unless that is a split."""
    home, seen = folder, set[Path]()
    while home.resolve() not in seen and "/" in (first_image(home) or ""):
        seen.add(home.resolve())
        inside = list(itertools.islice((n for n in subfolders(home) if first_image(home / n)), 2))
        if len(inside) != 1 or inside[0].lower() in _ALL_SPLITS:
            break
        home = home / inside[0]
    return home


def _are_splits(home: Path, splits: list[str], others: list[str]) -> bool:
    """Whether names of splits beside other folders of images are splits, not classes by chance.

    They have class folders of their own, and one is a validation split, or all its classes are those of
    another folder too.
    """
    classes = {name: set(subfolders(home / name)) for name in (*splits, *others)}
    return any(
        _has_classes(home / name)
        and (
            name.lower() in EVALUATION_SPLITS
            or (len(own := classes[name]) > 1 and any(own <= classes[n] for n in classes if n != name))
        )
        for name in splits
    )


def _has_classes(folder: Path) -> bool:
    return any(first_image(folder / name) for name in subfolders(folder))


def _say_what_is_passed_over(home: Path, found: str, splits: list[str], others: list[str]) -> None:
    """Where what is read as a split may have been a class."""
    same = len(others) == 1 and subfolders(home / others[0]) == subfolders(home / found)
    flat = not others and not any(_has_classes(home / name) for name in splits)
    beside = [name for name in splits if name != found and first_image(home / name)] if flat else others
    if beside and not same:
        warn(
            f"{found!r} in {str(home)!r} is read as a split, and {listed(beside)} beside it passed over; if "
            "they are classes, rename the folder"
        )
