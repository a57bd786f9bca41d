"""One walk over a folder of images: each real file once, whatever links and pipes lie there."""

import os
import re
import stat
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from timm_diffsens.errors import UsageError

IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")

# written beside images by systems and programs, in lower case
_NOT_DATA = {
    "__macosx",
    "__pycache__",
    "@eadir",
    "lost+found",
    "$recycle.bin",
    "system volume information",
}
NOWHERE = "a link that leads nowhere"
_KINDS = {
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}

_Identity = tuple[int, int] | str


@dataclass
class Tree:
    """What a walk found. Paths are relative to `root`, with forward slashes.

    Attributes:
        files: the images, each real file once. A link to nothing is one that cannot be read.
        folders: that were read; "" is `root` itself. filled: those of them with any file but hidden ones.
        left_out: what is named like an image, or may have been a folder, but is neither: path -> what it is.
        shared: (the path that counts, another path to the same file or folder).
    """

    root: Path
    files: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    filled: set[str] = field(default_factory=set)
    left_out: dict[str, str] = field(default_factory=dict)
    shared: list[tuple[str, str]] = field(default_factory=list)


def walk(root: Path) -> Tree:
    """Find the images below a folder, in natural order (`c9` before `c10`).

    Hidden folders and `__MACOSX` and its like are passed over. Links are followed, but not to a folder that
    they lie in. What several paths lead to counts once, under a path without links if there is one.

    Raises:
        UsageError: a folder may not be read.
    """
    tree = Tree(root)
    found = list(_found(tree))
    inodes = {inode for _, _, inode in found}
    if len(inodes) < len(found) or any(linked for linked, _, _ in found):
        tree.files = _once(found, tree)
    else:  # no file can be another one: their identities need not be asked for
        tree.files = [path for _, path, _ in found]
    tree.files.sort(key=natural)
    return tree


def first_image(root: Path) -> str | None:
    """The path of an image below a folder, one of the nearest; None if there is none. It reads no further."""
    return next((path for _, path, _ in _found(Tree(root))), None)


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder that may hold data, in natural order."""
    try:
        entries = [entry for entry in os.scandir(folder) if not _hidden(entry.name)]
        found = [entry for entry in entries if _is_folder(entry) and not _leads_up(entry, folder, folder)]
    except OSError as error:
        raise unreadable(error) from None
    return sorted((entry.name for entry in found), key=natural)


def unreadable(error: OSError) -> UsageError:
    """A folder that is passed over in silence would shift the labels of those after it."""
    return UsageError(f"--data-dir {str(error.filename)!r} cannot be read: {error.strerror}")


def natural(path: str) -> tuple[list[Any], str]:
    """Sorting key: numbers by their value, letters whatever their case, as timm sorts."""
    pieces: list[Any] = re.split(r"(\d+)", path.lower())
    pieces[1::2] = map(int, pieces[1::2])
    return pieces, path


def _found(tree: Tree) -> Iterator[tuple[bool, str, int]]:
    """(whether a link leads there, path, inode of its name) of each image; `tree` gets all but its files.

    Folders that lie here are read before those that links lead to, so that they keep their own paths.
    """
    real, links = deque([("", False)]), deque[tuple[str, bool]]()
    seen: dict[_Identity, str] = {}
    while real or links:
        place, linked = (real or links).popleft()
        try:
            first = seen.setdefault(_identity(tree.root / place), place)
            if first != place:
                tree.shared.append((first, place))
                continue
            tree.folders.append(place)
            for entry in sorted(os.scandir(tree.root / place), key=lambda entry: entry.name):
                path, via = f"{place}/{entry.name}".lstrip("/"), linked or entry.is_symlink()
                if _is_folder(entry):
                    if not _hidden(entry.name) and not _leads_up(entry, tree.root / place, tree.root):
                        (links if entry.is_symlink() else real).append((path, via))
                elif _is_image(entry, path, tree):
                    yield via, path, entry.inode()
        except OSError as error:
            raise unreadable(error) from None


def _is_image(entry: os.DirEntry[str], path: str, tree: Tree) -> bool:
    if not entry.name.startswith("."):
        tree.filled.add(path.rpartition("/")[0])
    named = entry.name.lstrip(".").lower().endswith(IMAGES) and not entry.name.startswith("._")
    if entry.is_file(follow_symlinks=False):
        return named
    try:
        kind = stat.S_IFMT(entry.stat().st_mode)
    except OSError:
        if not named and not entry.name.startswith("."):
            tree.left_out[path] = NOWHERE
        return named
    if named and kind in _KINDS:
        tree.left_out[path] = _KINDS[kind]
    return named and kind == stat.S_IFREG


def _once(found: list[tuple[bool, str, int]], tree: Tree) -> list[str]:
    kept: dict[_Identity, str] = {}
    for _, path, _ in sorted(found, key=lambda file: (file[0], natural(file[1]))):
        first = kept.setdefault(_identity(tree.root / path), path)
        if first != path:
            tree.shared.append((first, path))
    return list(kept.values())


def _identity(path: Path) -> _Identity:
    """Equal for paths to the same file or folder."""
    try:
        status = path.stat()
    except OSError:
        return str(path)
    return (status.st_dev, status.st_ino) if status.st_ino else os.path.realpath(path)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _NOT_DATA


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a circle of links
        return False


def _leads_up(entry: os.DirEntry[str], folder: Path, root: Path) -> bool:
    """Whether a link leads to a folder that it lies in, or that the walk began below."""
    if not entry.is_symlink():
        return False
    target = os.path.realpath(entry.path)
    return any(os.path.commonpath([target, os.path.realpath(place)]) == target for place in (folder, root))
