"""The classes of a folder of images: its top folders, in natural order."""

import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from timm_diffsens.data.walking import IMAGES, NOWHERE, Tree, natural
from timm_diffsens.errors import UsageError, listed, warn

# names of sets, not of classes
_OF_SETS = re.compile(r"train|val|test|eval|dev|set|split|fold|part|image|mask|label|annot", re.IGNORECASE)


@dataclass(frozen=True)
class Classes:
    """Which class each image of a tree is of.

    Attributes:
        names: of the classes, in the order of the labels. depth: folders above those of the classes.
    """

    names: tuple[str, ...]
    depth: int

    def labels(self, paths: Iterable[str]) -> list[int]:
        """Of images by their paths in the tree."""
        position = {name: label for label, name in enumerate(self.names)}
        return [position[path.split("/")[self.depth]] for path in paths]


def classes_of(tree: Tree, plain_order: bool = False) -> Classes | None:
    """The top folders, with what is odd about them as warnings; None where images lie beside them.

    Where there is one top folder alone, the first folders below it of which there are several are the
    classes; if there are never several, it is the one class itself, as for torchvision's `ImageFolder`:
    nothing tells which level is meant, and the label is 0 at each. A folder without any file is a class too:
    without it the labels of those after it would shift.

    Args:
        tree: what the walk found. plain_order: sort them as strings, as torchvision's `ImageFolder` does, and
            take the top folders whatever is in them, as it does.

    Raises:
        UsageError: all of them have the same class folders inside, so that they are sets, not classes.
    """
    stray = [path for path in tree.files if "/" not in path]
    if 0 < len(stray) < len(tree.files) and not any((tree.root / path).exists() for path in stray):
        tree.left_out |= dict.fromkeys(stray, NOWHERE)  # no reason to take the labels of the others away
        tree.files, stray = [path for path in tree.files if "/" in path], []
    _say_what_is_left_out(tree)
    if stray:
        if len(stray) < len(tree.files):
            warn(
                f"{len(stray)} images lie in {tree.root.name!r} itself, beside the class folders, so they "
                "have no class and the set is read as unlabelled; move them away to have the labels used"
            )
        return None
    layout = _Layout(tree)
    base, folders = ("", layout.classes_in("")) if plain_order else layout.level()
    if not plain_order:
        layout.refuse_sets(tree.root, folders)
    names = [folder.removeprefix(base).strip("/") for folder in folders]
    ours, plain = sorted(names, key=natural), sorted(names)
    classes = Classes(tuple(plain if plain_order else ours), base.count("/") + 1 if base else 0)
    if base:
        warn(
            f"the classes are the folders in {base!r}, the only folder of images: {listed(classes.names)}; "
            "give it with --data-dir"
        )
    layout.say_which_are_empty(base, folders)
    _say_what_is_shared(tree, classes)
    if not plain_order and ours != plain:
        _say_where_they_differ(ours, plain)
    return classes


def in_plain_order(files: list[str]) -> list[str]:
    """Images as torchvision's `ImageFolder` sorts them: by class, folder, name; none beside the classes."""
    inside = [path for path in files if "/" in path]
    return sorted(inside, key=lambda path: (path.split("/")[0], *path.rpartition("/")))


class _Layout:
    """Which folders of a tree hold images, and which hold nothing at all."""

    def __init__(self, tree: Tree) -> None:
        self.direct = {_parent(path) for path in tree.files}
        self.holding = _with_parents(self.direct)
        self.filled = _with_parents(tree.filled) | self.holding
        self.children = defaultdict[str, list[str]](list)
        for folder in tree.folders:
            if folder:
                self.children[_parent(folder)].append(folder)

    def level(self) -> tuple[str, list[str]]:
        """The folder that the class folders lie in ("" is the root), and the class folders."""
        base, top = "", self.classes_in("")
        inside = top
        while len(inside) == 1 and inside[0] not in self.direct:
            base = inside[0]
            inside = self.classes_in(base)
        several = sum(folder in self.holding for folder in inside) > 1
        return (base, inside) if several else ("", top)

    def refuse_sets(self, root: Path, folders: list[str]) -> None:
        """Where the folders have two or more sub-folders of images each, by the same names: sets, it may be.

        Raises:
            UsageError: they are called so (`training_set`, `images`); else a warning says what is taken.
        """
        inside = [self._sub_folders(folder) for folder in folders]
        if len(folders) < 2 or len(inside[0]) < 2 or any(names != inside[0] for names in inside):
            return
        if not all(_OF_SETS.search(folder) for folder in folders):
            warn(
                f"the classes are the top folders, {listed(folders)}, each with the same sub-folders "
                f"({listed(sorted(inside[0], key=natural))}): if those are the classes, give one top folder "
                "with --data-dir"
            )
        else:
            raise UsageError(
                f"--data-dir {str(root)!r}: {listed(folders)} have the same sub-folders of images "
                f"({listed(sorted(inside[0], key=natural))}), so they are sets, not classes: give one of "
                "them with --data-dir; if they are the classes, --dataset torch/folder reads them so"
            )

    def _sub_folders(self, folder: str) -> set[str]:
        """Names of the folders of images in a folder, below any that hold one folder alone."""
        inside = [folder]
        while len(inside) == 1 and inside[0] not in self.direct:
            folder = inside[0]
            inside = [each for each in self.children[folder] if each in self.holding]
        return {each.removeprefix(f"{folder}/") for each in inside} if len(inside) > 1 else set()

    def classes_in(self, base: str) -> list[str]:
        return [f for f in self.children[base] if f in self.holding or f not in self.filled]

    def say_which_are_empty(self, base: str, folders: list[str]) -> None:
        empty = [folder for folder in folders if folder not in self.holding]
        if empty:
            warn(
                f"class folders without a file: {listed(empty)}; they count as classes, so that the labels "
                "of the others stay: remove what is no class"
            )
        others = [folder for folder in self.children[base] if folder not in folders]
        if others:
            warn(f"folders without an image ({' '.join(IMAGES)}) are no classes: {listed(others)}")


def _say_where_they_differ(ours: list[str], plain: list[str]) -> None:
    first = next(k for k, (one, other) in enumerate(zip(ours, plain, strict=True)) if one != other)
    warn(
        f"classes are in natural order: class {first} is {ours[first]!r}; torchvision's ImageFolder sorts "
        f"them as strings, so that it is {plain[first]!r}: --dataset torch/folder reads them so"
    )


def _say_what_is_left_out(tree: Tree) -> None:
    if tree.left_out:
        found = [f"{path} ({what})" for path, what in tree.left_out.items()]
        warn(f"left out of {tree.root.name!r}: {listed(found)}")


def _say_what_is_shared(tree: Tree, classes: Classes) -> None:
    def top(path: str) -> list[str]:
        return path.split("/")[: classes.depth + 1]

    twice = [f"{other} is {first}" for first, other in tree.shared if top(first) != top(other)]
    if twice:
        warn(f"one file or folder in two classes counts once, in the first: {listed(twice)}")


def _parent(path: str) -> str:
    return path.rpartition("/")[0]


def _with_parents(folders: Iterable[str]) -> set[str]:
    """The folders and all above them, the root aside."""
    found = set[str]()
    for folder in folders:
        while folder and folder not in found:
            found.add(folder)
            folder = _parent(folder)
    return found
