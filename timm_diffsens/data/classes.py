"""The classes of a folder of images: its top folders, in natural order."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from timm_diffsens.data.walking import IMAGES, NOWHERE, Tree, natural
from timm_diffsens.errors import listed, warn


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
    classes. A folder without any file is a class too: without it the labels of those after it would shift.

    Args:
        tree: what the walk found. plain_order: sort them as strings, as torchvision's `ImageFolder` does.
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
