"""What the estimators need of a layer's output, read once and reduced where it lies."""

import math
from collections.abc import Iterator

import torch

# Columns whose sums of squares are taken in float32, exact to 1e-6, before float64 takes over; they stay in
# a core's first-level cache.
STRETCH = 2**12
_COLUMNS = 2**20  # of a block: its temporaries are small beside an activation, its launches few


def reduce_rows(
    parts: torch.Tensor, first: int, last: int, pivot: torch.Tensor, drift: torch.Tensor
) -> torch.Tensor:
    """Square norms of moved - clean, noised - clean and clean - pivot: (3, last - first), float64.

    Args:
        parts: (3, n, d), clean, moved and noised representations; half precision is widened first.
        first, last: the images, of n, to take.
        pivot: (d,), of the type in which to calculate.
        drift: (d,), to which the sum of clean - pivot over the images is added.
    """
    if parts.device.type != "cpu":
        return reduce_rows_in_blocks(parts, first, last, pivot, drift, _COLUMNS)
    from timm_diffsens.measures import kernel_cpu  # compiles on import

    if parts.dtype not in (torch.float32, torch.float64):
        parts, first, last = parts[:, first:last].float(), 0, last - first
    squares = kernel_cpu.reduce(
        parts.contiguous().numpy(), first, last, pivot.numpy(), drift.numpy(), torch.get_num_threads()
    )
    return torch.from_numpy(squares)


def reduce_rows_in_blocks(
    parts: torch.Tensor, first: int, last: int, pivot: torch.Tensor, drift: torch.Tensor, columns: int
) -> torch.Tensor:
    """The same through PyTorch's own operations on any device, `columns` of an image at a time."""
    n = last - first
    norms = pivot.new_empty(3, n, math.ceil(len(pivot) / STRETCH))
    for start, stop in _blocks(len(pivot), columns):
        clean, moved, noised = parts[:, first:last, start:stop].to(pivot.dtype).unbind()
        gaps = pivot.new_empty(3, n, stop - start)
        from_moved, from_noised, from_pivot = gaps.unbind()
        torch.sub(moved, clean, out=from_moved)
        torch.sub(noised, clean, out=from_noised)
        torch.sub(clean, pivot[start:stop], out=from_pivot)
        drift[start:stop] += from_pivot.sum(dim=0)
        slots = norms[:, :, start // STRETCH : math.ceil(stop / STRETCH)]
        width = min(STRETCH, stop - start)
        torch.linalg.vector_norm(gaps.view(3, n, -1, width), dim=3, out=slots)
    return norms.double().square_().sum(dim=2)


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
