"""What the estimators need of a layer's output, read once and reduced where it lies."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

# Columns whose sums of squares are taken in float32, exact to 1e-6, before float64 takes over; they stay in
# a core's first-level cache.
STRETCH = 2**12
_COLUMNS = 2**20  # of a block: its temporaries are small beside an activation, its launches few


@dataclass(frozen=True)
class Portion:
    """Images of one stretch: as many of it as one batch has.

    Attributes:
        parts: (3, n, d), clean, moved and noised representations.
        first, last: the images, of n, that belong to the portion.
        before: images before the stretch, whose mean the pivot is.
        opens: whether they are the first of the stretch.
        after: images up to its end, if they are its last, else 0.
    """

    parts: torch.Tensor
    first: int
    last: int
    before: int
    opens: bool
    after: int


def new_numbers(device: torch.device) -> torch.Tensor:
    """(6, 3), float64: the numbers that are kept of a layer, all zero.

    Rows: sums of (a, g, b) over images; three of sums of their products; (a, g, b) of the first image; and
    sum ||f - pivot||^2 over the open stretch, the square sum about the mean before it, nothing.
    """
    return torch.zeros(6, 3, dtype=torch.float64, device=device)


def add_rows(
    portion: Portion, pivot: torch.Tensor, drift: torch.Tensor | None, numbers: torch.Tensor
) -> None:
    """Add images to the running sums of a layer, in place.

    a = ||moved - clean||^2, g = ||noised - clean||^2 and b = 2 N / (N + 1) ||clean - pivot||^2, N being the
    number of images before the stretch. At its end the pivot becomes the mean of all.

    Args:
        portion: the images; half precision is widened first.
        pivot: (d,), of the type in which to calculate.
        drift: (d,), sum of clean - pivot over the open stretch; what it holds is forgotten where one opens.
            None if the portion both opens and closes it.
        numbers: see `new_numbers`.
    """
    parts = portion.parts
    if parts.device.type != "cpu":
        add_rows_in_blocks(portion, pivot, drift, numbers, _COLUMNS)
        return
    if parts.dtype not in (torch.float32, torch.float64):
        parts = parts[:, portion.first : portion.last].float()
        portion = replace(portion, parts=parts, first=0, last=parts.shape[1])
    elif not parts.is_contiguous():
        portion = replace(portion, parts=parts.contiguous())
    from timm_diffsens.measures import kernel_cpu  # needs numba, which takes a while to import

    kernel_cpu.add(portion, pivot, drift, numbers)


def add_rows_in_blocks(
    portion: Portion,
    pivot: torch.Tensor,
    drift: torch.Tensor | None,
    numbers: torch.Tensor,
    columns: int,
) -> None:
    """The same through PyTorch's own operations on any device, `columns` of an image at a time."""
    n = portion.last - portion.first
    if drift is None:
        drift = torch.zeros_like(pivot)
    elif portion.opens:
        drift.zero_()
    norms = pivot.new_empty(3, n, math.ceil(len(pivot) / STRETCH))
    for start, stop in _blocks(len(pivot), columns):
        parts = portion.parts[:, portion.first : portion.last, start:stop]
        clean, moved, noised = parts.to(pivot.dtype).unbind()
        gaps = pivot.new_empty(3, n, stop - start)
        from_moved, from_noised, from_pivot = gaps.unbind()
        torch.sub(moved, clean, out=from_moved)
        torch.sub(noised, clean, out=from_noised)
        torch.sub(clean, pivot[start:stop], out=from_pivot)
        drift[start:stop] += from_pivot.sum(dim=0)
        slots = norms[:, :, start // STRETCH : math.ceil(stop / STRETCH)]
        width = min(STRETCH, stop - start)
        torch.linalg.vector_norm(gaps.view(3, n, -1, width), dim=3, out=slots)
    _tally(norms.double().square_().sum(dim=2), portion, numbers)
    if portion.after:
        numbers[5, 1] += numbers[5, 0] - square_norm(drift) / portion.after
        numbers[5, 0] = 0
        pivot.add_(drift, alpha=1 / portion.after)


def _tally(squares: torch.Tensor, portion: Portion, numbers: torch.Tensor) -> None:
    """Add the square norms (3, n) of each image; nothing here waits for the device."""
    numbers[5, 0] += squares[2].sum()
    squares[2] *= 2 * portion.before / (portion.before + 1)
    numbers[0] += squares.sum(dim=1)
    numbers[1:4] += squares @ squares.T
    if portion.before == 0:
        numbers[4] = squares[:, 0]


def square_norm(x: torch.Tensor) -> torch.Tensor:
    """Sum of squares of a vector: float32 over stretches, float64 over their sums."""
    whole = len(x) - len(x) % STRETCH
    stretches = torch.linalg.vector_norm(x[:whole].view(-1, STRETCH), dim=1)
    rest = torch.linalg.vector_norm(x[whole:])
    return torch.cat([stretches, rest[None]]).double().square_().sum()


def _blocks(d: int, columns: int) -> Iterator[tuple[int, int]]:
    """Ranges of columns, each of whole stretches or less than one."""
    whole = d - d % STRETCH
    for start in range(0, whole, columns):
        yield start, min(start + columns, whole)
    if whole < d:
        yield whole, d
