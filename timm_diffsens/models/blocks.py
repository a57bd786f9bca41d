"""Where the repeated blocks of a network are, read from its module tree and from what was called."""

import re
from collections import Counter

from timm_diffsens.models.trace import Trace

_COVERED = 0.7  # share of a module's weight layers held by its repeated parts, for it to be a stage
_NUMBER = re.compile(r"\d+")


def find_blocks(seen: Trace) -> list[str]:
    """Names of the modules that are blocks, in the order of the module tree; empty if there are none.

    The tree is descended from the root, through lists and through stages. A module with two or more
    weight layers is a block, unless most of its weight layers are in two or more numbered parts of one class
    that have two or more weight layers themselves: then every module of its class is a stage. Attributes
    of the root before and after the numbered or repeated ones are stem and head. Blocks that hold less than
    half of the network's weight layers are none (the head of a plain network).
    """
    tree = _Tree(seen)
    stages = {tree.kinds[name] for name in tree.kinds if name and tree.is_stage(name)}
    found: list[str] = []

    def descend(name: str) -> None:
        for child in tree.children.get(name, []):
            if tree.weights[child] < 2:
                continue
            if child in tree.containers or tree.kinds[child] in stages:
                descend(child)
            else:
                found.append(child)

    descend("")
    found = _trimmed(found, tree)
    covered = sum(tree.weights[name] for name in found)
    return found if len(found) > 1 and 2 * covered >= tree.weights[""] else []


class _Tree:
    """The module tree, with the number of weight layers called under each module."""

    def __init__(self, seen: Trace) -> None:
        self.kinds, self.containers = seen.kinds, seen.containers
        self.children: dict[str, list[str]] = {}
        self.weights: Counter[str] = Counter()
        for name in self.kinds:
            if name:
                self.children.setdefault(name.rpartition(".")[0], []).append(name)
        for module in {call.module for call in seen.calls if call.leaf and call.weight}:
            parts = module.split(".")
            self.weights.update(".".join(parts[:i]) for i in range(len(parts) + 1))

    def is_stage(self, name: str) -> bool:
        """Whether most of a module's weight layers are in numbered parts of one class."""
        if name in self.containers or self.weights[name] < 4:
            return False
        held: dict[tuple[str, str], list[int]] = {}
        for part in self._parts(name):
            if self.weights[part] >= 2:
                held.setdefault((self.kinds[part], _NUMBER.sub("#", part)), []).append(self.weights[part])
        return any(
            len(weights) > 1 and "#" in pattern[len(name) :] and sum(weights) >= _COVERED * self.weights[name]
            for (_, pattern), weights in held.items()
        )

    def _parts(self, name: str) -> list[str]:
        """Children, seen through lists."""
        parts: list[str] = []
        for child in self.children.get(name, []):
            parts += self._parts(child) if child in self.containers else [child]
        return parts


def _trimmed(found: list[str], tree: _Tree) -> list[str]:
    """Without single modules directly under the root at either end."""
    count = Counter(tree.kinds[name] for name in found)
    keep = [bool(_NUMBER.search(name)) or count[tree.kinds[name]] > 1 for name in found]
    if not any(keep):
        return found
    first, last = keep.index(True), len(keep) - keep[::-1].index(True)
    return found[first:last]
