"""The reduction by PyTorch's own operations: the reference, for any device."""

import math
from collections.abc import Iterator, Sequence

import torch

from timm_diffsens.sensitivities.reductions.state import TILE, Block, RunningSums

# Columns taken at once: their temporaries are small beside an activation, and the launches on a GPU few; on
# a CPU they stay in the caches.
COLUMNS = {"cpu": 8 * TILE}
MOST_COLUMNS = 256 * TILE


def add_rows(
    parts: torch.Tensor,
    blocks: Sequence[Block],
    pivot: torch.Tensor,
    drift: torch.Tensor | None,
    sums: RunningSums,
) -> None:
    """See `dispatch.add_rows`."""
    drift = torch.zeros_like(pivot) if drift is None else drift
    for block in blocks:
        _add_block(parts[:, block.first : block.last], block, pivot, drift, sums)


def _add_block(
    images: torch.Tensor, block: Block, pivot: torch.Tensor, drift: torch.Tensor, sums: RunningSums
) -> None:
    numbers, n = images.shape[:2]
    if block.opens:
        drift.zero_()
    norms = pivot.new_empty(numbers, n, math.ceil(len(pivot) / TILE))
    for start, stop in _tiles(len(pivot), COLUMNS.get(pivot.device.type, MOST_COLUMNS)):
        columns = images[:, :, start:stop].to(pivot.dtype)
        gaps = pivot.new_empty(numbers, n, stop - start)
        torch.sub(columns[1:], columns[0], out=gaps[:-1])
        torch.sub(columns[0], pivot[start:stop], out=gaps[-1])
        drift[start:stop] += gaps[-1].sum(dim=0)
        slots = norms[:, :, start // TILE : math.ceil(stop / TILE)]
        width = min(TILE, stop - start)
        torch.linalg.vector_norm(gaps.view(numbers, n, -1, width), dim=3, out=slots)
    _tally(norms.double().square_().sum(dim=2), block, sums)
    if block.after:
        sums.settled.add_(sums.in_block - square_norm(drift) / block.after)
        sums.in_block.zero_()
        pivot.add_(drift, alpha=1 / block.after)


def _tally(squares: torch.Tensor, block: Block, sums: RunningSums) -> None:
    """Add the square norms (M, n) of each image; nothing here waits for the device."""
    sums.in_block.add_(squares[-1].sum())
    squares[-1] *= 2 * block.before / (block.before + 1)
    sums.totals.add_(squares.sum(dim=1))
    sums.products.add_(squares @ squares.T)
    if block.number < sums.kept:
        images = sums.images[block.number : block.number + squares.shape[1]]
        images.copy_(squares.T[: len(images)])


def square_norm(x: torch.Tensor) -> torch.Tensor:
    """Sum of squares of a vector: float32 over tiles, float64 over their sums."""
    whole = len(x) - len(x) % TILE
    tiles = torch.linalg.vector_norm(x[:whole].view(-1, TILE), dim=1)
    rest = torch.linalg.vector_norm(x[whole:])
    return torch.cat([tiles, rest[None]]).double().square_().sum()


def _tiles(d: int, columns: int) -> Iterator[tuple[int, int]]:
    """Ranges of at most so many columns, each of whole tiles or less than one."""
    whole = d - d % TILE
    for start in range(0, whole, columns):
        yield start, min(start + columns, whole)
    if whole < d:
        yield whole, d
