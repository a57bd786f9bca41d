"""Brute-force versions of what the package computes: slow, obviously right, and independent of its code.

Everything is in float64 and goes by explicit loops over pairs, modes, pixels or grid points.
"""

import itertools
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

Array = npt.NDArray[np.float64]

# ---- D, G and R


def mean_pair_distance(rows: Any) -> float:
    """Mean of ||f_i - f_j||^2 over all pairs of distinct samples."""
    vectors = [_vector(row) for row in rows]
    distances = [
        float(np.sum((vectors[i] - vectors[j]) ** 2))
        for i in range(len(vectors))
        for j in range(len(vectors))
        if i != j
    ]
    return math.fsum(distances) / len(distances)


def mean_move(clean: Any, moved: Any) -> float:
    """Mean of ||moved_i - clean_i||^2."""
    moves = [float(np.sum((_vector(b) - _vector(a)) ** 2)) for a, b in zip(clean, moved, strict=True)]
    return math.fsum(moves) / len(moves)


def sensitivity(clean: Any, moved: Any, noised: Any) -> tuple[float, float, float]:
    """D, G and R by Eq. 1 of arXiv 2210.01506, word by word."""
    between = mean_pair_distance(clean)
    by_deformation, by_noise = mean_move(clean, moved), mean_move(clean, noised)
    return by_deformation / between, by_noise / between, by_deformation / by_noise


def _vector(sample: Any) -> Array:
    if isinstance(sample, torch.Tensor):
        sample = sample.detach().cpu().double().numpy()
    return np.array(sample, dtype=np.float64).ravel()


# ---- deformations


def modes(cut: int) -> list[tuple[int, int]]:
    """All (i, j) with i, j >= 1 and sqrt(i^2 + j^2) < cut + 1/2."""
    return [
        (i, j) for i in range(1, cut + 1) for j in range(1, cut + 1) if math.sqrt(i**2 + j**2) < cut + 0.5
    ]


def temperature(delta: float, cut: int, side: int) -> float:
    """T = 4 delta^2 / (pi n^2 ln cut)."""
    return 4 * delta**2 / (math.pi * side**2 * math.log(cut))


def displacement_field(normals: Any, height: int, width: int, delta: float, cut: int) -> Array:
    """(2, height, width) in pixels, (dx, dy), from standard normal numbers.

    `normals[component][j - 1][i - 1]` belongs to sin(i pi x) sin(j pi y), x across and y down.
    """
    field = np.zeros((2, height, width))
    for component, side in enumerate((width, height)):
        for row, column in itertools.product(range(height), range(width)):
            x, y = column / (width - 1), row / (height - 1)
            for i, j in modes(cut):
                spread = math.sqrt(temperature(delta, cut, side) / (i**2 + j**2))
                coefficient = spread * float(normals[component][j - 1][i - 1])
                wave = math.sin(i * math.pi * x) * math.sin(j * math.pi * y)
                field[component, row, column] += side * coefficient * wave
    return field


def resample(image: Any, field: Any) -> Array:
    """(c, h, w) read bilinearly at x - tau(x), places outside moved to the border."""
    image, field = np.array(image, dtype=np.float64), np.array(field, dtype=np.float64)
    _, height, width = image.shape
    moved = np.zeros_like(image)
    for row, column in itertools.product(range(height), range(width)):
        x = min(max(column - field[0, row, column], 0), width - 1)
        y = min(max(row - field[1, row, column], 0), height - 1)
        left, top = math.floor(x), math.floor(y)
        right, bottom = min(left + 1, width - 1), min(top + 1, height - 1)
        across, down = x - left, y - top
        moved[:, row, column] = (
            image[:, top, left] * (1 - across) * (1 - down)
            + image[:, top, right] * across * (1 - down)
            + image[:, bottom, left] * (1 - across) * down
            + image[:, bottom, right] * across * down
        )
    return moved


# ---- filters


def grid_laplacian(kernel: Sequence[int]) -> Array:
    """Degree minus adjacency of a grid with free borders, points in C order."""
    points = list(itertools.product(*(range(size) for size in kernel)))
    matrix = np.zeros((len(points), len(points)))
    for (a, p), (b, q) in itertools.product(enumerate(points), enumerate(points)):
        if sum(abs(u - v) for u, v in zip(p, q, strict=True)) == 1:
            matrix[a, a] += 1
            matrix[a, b] -= 1
    return matrix


def laplacian_eigenbasis(kernel: Sequence[int]) -> tuple[Array, Array]:
    """Eigenvalues, ascending, and eigenvectors (columns) of the grid Laplacian."""
    values, vectors = np.linalg.eigh(grid_laplacian(kernel))
    return values, vectors


def mode_powers(weight: Any) -> Array:
    """Mean over (c, c') of the squared projection of each filter on each of those eigenvectors."""
    weight = np.array(weight, dtype=np.float64)
    _, vectors = laplacian_eigenbasis(weight.shape[2:])
    powers = np.zeros(vectors.shape[1])
    for c, c_in in itertools.product(range(weight.shape[0]), range(weight.shape[1])):
        for mode in range(len(powers)):
            powers[mode] += float(np.dot(vectors[:, mode], weight[c, c_in].ravel())) ** 2
    return powers / (weight.shape[0] * weight.shape[1])


# ---- activations

_NAME = re.compile(r"(?P<module>[^#\[]*)(#(?P<call>\d+))?(?P<items>(\[[^\]]+\])*)")


def activations(model: nn.Module, images: torch.Tensor, names: Sequence[str]) -> dict[str, torch.Tensor]:
    """What the named module calls return for these images: copies, taken before anything can overwrite them.

    Names are `layer1.0.relu` (first call of that module), `layer1.0.relu#1` (second call), `attn[0]`,
    `pair[1][0]`, `head[out]` (item of the output), and "" for the network itself. The model runs once, in
    evaluation mode, and is put back.

    Raises:
        KeyError: a named call did not happen.

    Example:
        >>> relu = nn.ReLU(inplace=True)
        >>> model = nn.Sequential(nn.Flatten(), relu, nn.Linear(2, 2, bias=False), relu)
        >>> _ = nn.init.constant_(model[2].weight, -1)
        >>> found = activations(model, torch.tensor([[-1.0, 3.0]]), ["0", "1", "2", "1#1", ""])
        >>> {name: tensor.tolist() for name, tensor in found.items()}
        {'0': [[-1.0, 3.0]], '1': [[0.0, 3.0]], '2': [[-3.0, -3.0]], '1#1': [[0.0, 0.0]], '': [[0.0, 0.0]]}
    """
    asked = {name: _parse(name) for name in names}
    found: dict[str, torch.Tensor] = {}
    with ExitStack() as stack:
        for module in {module for module, _, _ in asked.values()}:
            hook = _Copier(
                {n: (call, items) for n, (owner, call, items) in asked.items() if owner == module}, found
            )
            stack.callback(model.get_submodule(module).register_forward_hook(hook).remove)
        stack.enter_context(_evaluating(model))
        stack.enter_context(torch.no_grad())
        model(images)
    missing = [name for name in names if name not in found]
    if missing:
        raise KeyError(f"not called: {', '.join(missing)}")
    return {name: found[name] for name in names}


def layer_sensitivities(
    model: nn.Module, clean: torch.Tensor, moved: torch.Tensor, noised: torch.Tensor, names: Sequence[str]
) -> dict[str, tuple[float, float, float]]:
    """D, G and R at the named calls, each part going through the network on its own."""
    parts = [activations(model, part, names) for part in (clean, moved, noised)]
    return {name: sensitivity(*(part[name] for part in parts)) for name in names}


class _Copier:
    """A hook that counts the calls of one module and copies the outputs asked for."""

    def __init__(self, asked: dict[str, tuple[int, list[str]]], found: dict[str, torch.Tensor]) -> None:
        self.asked, self.found, self.calls = asked, found, 0

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        for name, (call, items) in self.asked.items():
            if call == self.calls:
                self.found[name] = _item(output, items).detach().clone()
        self.calls += 1


def _parse(name: str) -> tuple[str, int, list[str]]:
    """`pair#1[0][out]` -> ("pair", 1, ["0", "out"])."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(f"not the name of a call: {name!r}")
    return match["module"], int(match["call"] or 0), re.findall(r"\[([^\]]+)\]", match["items"])


def _item(output: Any, items: list[str]) -> torch.Tensor:
    for item in items:
        if isinstance(output, dict):
            output = {str(key): value for key, value in output.items()}[item]
        elif isinstance(output, list | tuple):
            output = output[int(item)]
        else:
            output = getattr(output, item)
    return output


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    flags = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, flag in flags.items():
            module.training = flag


# ---- theory


def layer_matrix(length: int, filter_size: int, stride: int = 1) -> np.ndarray:
    """M of one layer of the homogeneous network: (length / stride, length).

    Stride 1: row a has 1/F at the columns a - floor(F/2) to a + floor((F - 1)/2), modulo length (App. A:
    centred for odd F, F/2 ones to the left for even F). Stride F: row a has them at a F to a F + F - 1.
    """
    rows = np.arange(0, length, stride)[:, None]
    first = -(filter_size // 2) if stride == 1 else 0
    columns = (rows + first + np.arange(filter_size)) % length
    matrix = np.zeros((len(rows), length))
    np.put_along_axis(matrix, columns, 1 / filter_size, axis=1)
    return matrix
