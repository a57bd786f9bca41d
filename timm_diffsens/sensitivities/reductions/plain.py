"""What the estimators need of a layer's output, read once and reduced where it lies."""

import functools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch

# Columns whose sums of squares are taken in float32, exact to 1e-6, before float64 takes over; they stay in
# a core's first-level cache.
STRETCH = 2**12
ROWS = 16  # images of a stretch; the more, the less the pivot is written
COLUMNS = 2**20  # of a block: its temporaries are small beside an activation, its launches few


class Portion(NamedTuple):
    """Images of one stretch: as many of it as one batch has.

    Attributes:
        first, last: the images of the batch that belong to the portion.
        before: images before the stretch, whose mean the pivot is.
        opens: whether they are the first of the stretch.
        after: images up to its end, if they are its last, else 0.
    """

    first: int
    last: int
    before: int
    opens: bool
    after: int


@functools.lru_cache(64)
def portions_of(n: int, count: int, open_count: int) -> tuple[Portion, ...]:
    """How the next `n` images fall into stretches.

    They end at 1, 2, 4, 8, 16 images, then at multiples of 16.

    Args:
        n: images of the batch.
        count: images before the batch.
        open_count: of those, the last that belong to a stretch that goes on.
    """
    made: list[Portion] = []
    first = 0
    while first < n:
        before, opens = count - open_count, open_count == 0
        last = min(n, first + _stretch_end(count) - count)
        count += last - first
        closes = count == _stretch_end(count - 1)
        open_count = 0 if closes else open_count + last - first
        made.append(Portion(first, last, before, opens, count if closes else 0))
        first = last
    return tuple(made)


def _stretch_end(count: int) -> int:
    """Where the stretch that image `count` (from 0) is in ends."""
    return 1 << count.bit_length() if 0 < count < ROWS else (count // ROWS + 1) * ROWS if count else 1


def new_numbers(device: torch.device) -> torch.Tensor:
    """(6, 3), float64: the numbers that are kept of a layer, all zero.

    Rows: sums of (a, g, b) over images; three of sums of their products; (a, g, b) of the first image; and
    sum ||f - pivot||^2 over the open stretch, the square sum about the mean before it, nothing.
    """
    return torch.zeros(6, 3, dtype=torch.float64, device=device)


def add_rows_in_blocks(
    parts: torch.Tensor,
    portions: Sequence[Portion],
    pivot: torch.Tensor,
    drift: torch.Tensor | None,
    numbers: torch.Tensor,
    columns: int,
) -> None:
    """`dispatch.add_rows` by PyTorch's own operations on any device, `columns` of an image at a time."""
    drift = torch.zeros_like(pivot) if drift is None else drift
    for portion in portions:
        _add_portion(parts[:, portion.first : portion.last], portion, pivot, drift, numbers, columns)


def _add_portion(
    images: torch.Tensor,
    portion: Portion,
    pivot: torch.Tensor,
    drift: torch.Tensor,
    numbers: torch.Tensor,
    columns: int,
) -> None:
    n = images.shape[1]
    if portion.opens:
        drift.zero_()
    norms = pivot.new_empty(3, n, math.ceil(len(pivot) / STRETCH))
    for start, stop in _blocks(len(pivot), columns):
        clean, moved, noised = images[:, :, start:stop].to(pivot.dtype).unbind()
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
