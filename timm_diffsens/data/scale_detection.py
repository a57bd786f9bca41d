"""Scale detection: two active pixels on an empty image, classified by how far apart they are.

Source: arXiv 2210.01506, Section 3 and Fig. 5. Every pair of pixels is enumerated, labelled exactly, and
belongs either to the training or to the test part, whatever the seed: no training set meets any test set.
"""

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from timm_diffsens.errors import UsageError

Integers = npt.NDArray[np.int64]
Generator = np.random.Generator | Sequence[np.random.Generator]

PARTS = ("train", "test")
_STREAM = 0x5CA1ED  # keeps these random streams apart from all others
_MOST_PIXELS = 4096  # 8 million pairs
_DEFAULTS = {(1, 1): (128, 14, 2), (1, 2): (32, 14, 2), (2, 1): (128, 32, 0), (2, 2): (32, 8, 0)}


@dataclass(frozen=True)
class ScaleSample:
    """Images of a task, half of each class (+1 has one more if their number is odd).

    Attributes:
        images: (n, 1, length) or (n, 1, side, side), float32, ||x||^2 = number of pixels.
        labels: (n,), int64, +1 or -1.
        positions: (n, 2, dims), int64: the two active pixels as (column,) or (row, column).
        indices: (n,), int64: which images of the part these are.
    """

    images: torch.Tensor
    labels: torch.Tensor
    positions: torch.Tensor
    indices: torch.Tensor

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class ScaleDetection:
    """The scale-detection tasks (Section 3) and the deformation that belongs to them (App. B).

    Task 1: y = sign(xi - d) with d the Euclidean distance of the active pixels; pairs with d inside
    [xi - gap/2, xi + gap/2] are left out. Task 2: the image is cut into patches of side xi; y = +1 if both
    pixels are in one patch, else -1. Distances: in 1-D on the circle, as the networks there are periodic
    (a circular convolution cannot tell d from length - d); in 2-D on the plane. `periodic` overrides that.

    Args:
        task: 1 or 2.
        dims: 1 or 2.
        size: length, or side of the square, in pixels; by default 128 in 1-D and 32 in 2-D.
        xi: the scale in pixels; by default 14, in task 2 the patch: 32 in 1-D and 8 in 2-D.
        gap: width of the band of distances that is left out; by default 2; task 2 has none.
        periodic: whether opposite borders touch.

    Raises:
        UsageError: a task or an argument that makes no sense; a class without images.

    Example:
        >>> from timm_diffsens import ScaleDetection
        >>> task = ScaleDetection(task=1, dims=2, size=32, xi=14, gap=2)
        >>> train, test = task.train(1024, seed=0), task.test(512, seed=0)
        >>> train.images.shape, int(train.labels.sum()), round(float(train.images[0].square().sum()))
        (torch.Size([1024, 1, 32, 32]), 0, 1024)
    """

    task: int = 1
    dims: int = 2
    size: int | None = None
    xi: float | None = None
    gap: float | None = None
    periodic: bool | None = None

    def __post_init__(self) -> None:
        for name, value in (("task", self.task), ("dims", self.dims)):
            if value not in (1, 2):
                raise UsageError(f"{name} must be 1 or 2, got {value!r}")
        defaults = (*_DEFAULTS[self.task, self.dims], self.dims == 1)
        for name, default in zip(("size", "xi", "gap", "periodic"), defaults, strict=True):
            if getattr(self, name) is None:
                object.__setattr__(self, name, default)
        self._check()

    def _check(self) -> None:
        size, xi, gap = self.side, self.scale, float(self.gap or 0)
        if int(size) != size or not size >= 4 or size**self.dims > _MOST_PIXELS:
            most = int(_MOST_PIXELS ** (1 / self.dims))
            raise UsageError(f"size must be an integer from 4 to {most} pixels in {self.dims}-D, got {size}")
        if self.task == 2:
            divisors = [d for d in range(2, size) if size % d == 0]
            if xi not in divisors:
                near = sorted(divisors, key=lambda d: abs(d - xi))[:2]
                raise UsageError(
                    f"xi must divide the size {size} into patches, got {xi:g}; "
                    f"nearest: {' or '.join(map(str, near)) or 'none, choose another size'}"
                )
            if gap:
                raise UsageError(f"task 2 has no gap, got {gap:g}")
            return
        if not (math.isfinite(gap) and gap >= 0):
            raise UsageError(f"gap must be a number of pixels of at least 0, got {gap:g}")
        if not (math.isfinite(xi) and xi > 0):
            raise UsageError(f"xi must be a positive number of pixels, got {xi:g}")
        largest = math.sqrt(self.dims) * (size // 2 if self.periodic else size - 1)
        if xi - gap / 2 <= 1 or xi + gap / 2 >= largest:
            raise UsageError(
                f"no images of one class: distances are from 1 to {largest:.3g} pixels, and "
                f"[{xi - gap / 2:g}, {xi + gap / 2:g}] is left out; choose another xi or gap"
            )

    @property
    def side(self) -> int:
        """Length or side in pixels."""
        return int(self.size or 0)

    @property
    def scale(self) -> float:
        """xi in pixels."""
        return float(self.xi or 0)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an image without its channels: (length,) or (side, side)."""
        return (self.side,) * self.dims

    @property
    def amplitude(self) -> float:
        """Value of an active pixel: ||x||^2 = 2 amplitude^2 = number of pixels."""
        return math.sqrt(self.side**self.dims / 2)

    def parameters(self) -> dict[str, Any]:
        """All that defines the task, as plain values."""
        return {**vars(self), "xi": self.scale, "gap": float(self.gap or 0)}

    def count(self, part: str) -> int:
        """How many images a part (train or test) has, half of each class."""
        return 2 * min(len(pairs) for pairs in _pools(self)[_known(part)])

    def train(self, n: int, seed: int = 0) -> ScaleSample:
        """`n` training images chosen by `seed`; a smaller sample is a prefix of a larger one."""
        return self.sample("train", n, seed)

    def test(self, n: int, seed: int = 0) -> ScaleSample:
        """`n` test images chosen by `seed`."""
        return self.sample("test", n, seed)

    def sample(self, part: str, n: int, seed: int = 0) -> ScaleSample:
        """`n` images of a part.

        Raises:
            UsageError: fewer than one image is asked for, or more than there are.
        """
        return self.at(part, choose_pairwise(self.count(part), n, seed, f"scale{self.task} {part}"))

    def at(self, part: str, indices: npt.ArrayLike) -> ScaleSample:
        """Images of a part by index: even ones are of class +1, odd ones of class -1."""
        chosen = np.asarray(indices, dtype=np.int64)
        near, far = _pools(self)[_known(part)]
        if len(chosen) and not 0 <= chosen.min() <= chosen.max() < self.count(part):
            raise UsageError(f"{part} images have the indices 0 to {self.count(part) - 1}")
        pairs = np.where(chosen[:, None] % 2 == 0, near[chosen // 2], far[chosen // 2])
        positions = torch.from_numpy(_positions(self, pairs))
        labels = torch.from_numpy(1 - 2 * (chosen % 2))
        return ScaleSample(self.render(positions), labels, positions, torch.from_numpy(chosen))

    def render(self, positions: torch.Tensor) -> torch.Tensor:
        """Images (n, 1, *shape) of active pixels (n, 2, dims); two on one pixel add up."""
        coordinates = tuple(np.moveaxis(positions.numpy(), -1, 0))
        flat = np.asarray(np.ravel_multi_index(coordinates, self.shape), dtype=np.int64)
        images = torch.zeros(len(flat), self.side**self.dims)
        images.scatter_add_(1, torch.from_numpy(flat), torch.full(flat.shape, self.amplitude))
        return images.view(-1, 1, *self.shape)

    def displace(self, positions: torch.Tensor, generator: Generator) -> torch.Tensor:
        """Move every active pixel by at most one pixel: (n, 2, dims) -> (n, 2, dims), int64.

        In 2-D to one of its four neighbours, or not at all, with equal probability; in 1-D left or right
        with probability 1/2. Moves that leave the image (unless it is periodic), or in task 2 the patch,
        are not among the choices. Both pixels may come to lie on one.

        Args:
            positions: as in `ScaleSample`.
            generator: one for all images, or a sequence of them, one an image.
        """
        start = positions.numpy()
        targets, allowed = _moves(self, start)
        if isinstance(generator, np.random.Generator):
            draws = generator.random((len(start), 2))
        elif len(generator) != len(start):
            count = f"{len(start)} images, got {len(generator)}"
            raise UsageError(f"expected one generator for each of the {count}")
        else:
            draws = np.array([g.random(2) for g in generator]).reshape(-1, 2)
        choice = np.floor(draws * allowed.sum(axis=2)).astype(np.int64)
        rank = np.cumsum(allowed, axis=2) - 1
        which = np.argmax(allowed & (rank == choice[..., None]), axis=2)
        return torch.from_numpy(np.take_along_axis(targets, which[..., None, None], axis=2)[:, :, 0])

    def rms_displacement(self) -> float:
        """Root mean square move of an active pixel, in pixels, over all of its positions."""
        every = np.arange(self.side**self.dims)
        start = _positions(self, np.stack([every, every], axis=1))
        _, allowed = _moves(self, start)
        still = self.dims == 2  # whether the first choice is to stay
        return float(np.sqrt((1 - still * allowed[..., 0] / allowed.sum(axis=2)).mean()))


def choose_pairwise(size: int, n: int | None, seed: int, what: str) -> list[int]:
    """Indices of `n` of `size` images that come in pairs (2 i, 2 i + 1), one of each class.

    Pairs are ordered by raw Philox output of `seed`, which NumPy keeps from version to version.

    Raises:
        UsageError: `n` is below 1 or above `size`.
    """
    if n is not None and not 1 <= n <= size:
        raise UsageError(f"{what} has {size} balanced images, {n} were asked for")
    keys = np.random.Philox(np.random.SeedSequence([_STREAM, seed])).random_raw(size // 2)
    order = np.argsort(keys, kind="stable")
    indices = np.stack([2 * order, 2 * order + 1], axis=1).reshape(-1)
    return [int(i) for i in indices[: size if n is None else n]]


def _known(part: str) -> int:
    if part not in PARTS:
        raise UsageError(f"a scale-detection task has the parts train and test, got {part!r}")
    return PARTS.index(part)


@functools.lru_cache(maxsize=8)
def _pools(task: ScaleDetection) -> list[list[Integers]]:
    """[train, test], each [pairs of class +1, pairs of class -1], as flat pixel indices (count, 2).

    A fixed random half of every class is the training part; all are in a fixed random order.
    """
    pixels = task.side**task.dims
    pairs = np.stack(np.triu_indices(pixels, 1), axis=1).astype(np.int64)
    labels = labels_of(task, _positions(task, pairs))
    parts: list[list[Integers]] = [[], []]
    for label in (1, -1):
        mine = pairs[labels == label]
        keys = np.random.Philox(np.random.SeedSequence([_STREAM, 1, label + 1])).random_raw(len(mine))
        mine = mine[np.argsort(keys, kind="stable")]
        half = (len(mine) + 1) // 2
        parts[0].append(mine[:half])
        parts[1].append(mine[half:])
    return parts


def _positions(task: ScaleDetection, flat: Integers) -> Integers:
    """Flat pixel indices (n, 2) -> coordinates (n, 2, dims)."""
    return np.stack(np.unravel_index(flat, task.shape), axis=-1).astype(np.int64)


def labels_of(task: ScaleDetection, positions: Integers) -> Integers:
    """(n, 2, dims) -> (n,): +1 or -1, and 0 for pairs that the task leaves out."""
    first, second = positions[:, 0], positions[:, 1]
    if task.task == 2:
        patch = int(task.scale)
        same = (first // patch == second // patch).all(axis=1)
        return np.where(same, 1, -1).astype(np.int64)
    steps = np.abs(first - second)
    if task.periodic:
        steps = np.minimum(steps, task.side - steps)
    square = (steps**2).sum(axis=1)  # exact integers; bounds of at most 53 bits are exact too
    low, high = task.scale - float(task.gap or 0) / 2, task.scale + float(task.gap or 0) / 2
    return (np.where(square < low**2, 1, 0) - np.where(square > high**2, 1, 0)).astype(np.int64)


def _moves(task: ScaleDetection, start: Integers) -> tuple[Integers, npt.NDArray[np.bool_]]:
    """Where each pixel could go, (n, 2, choices, dims), and whether it may, (n, 2, choices)."""
    steps = [[-1], [1]] if task.dims == 1 else [[0, 0], [-1, 0], [1, 0], [0, -1], [0, 1]]
    targets = start[:, :, None] + np.array(steps, dtype=np.int64)
    if task.periodic:
        targets %= task.side
    allowed = np.asarray(((targets >= 0) & (targets < task.side)).all(axis=-1))
    if task.task == 2:
        patch = int(task.scale)
        allowed = allowed & (targets // patch == start[:, :, None] // patch).all(axis=-1)
    return targets, allowed
