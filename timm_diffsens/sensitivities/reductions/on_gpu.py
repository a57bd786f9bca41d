"""The same reduction on a GPU, in Triton: two kernels a layer, and nothing that the host waits for.

In the first each program has some columns. It goes through the batch block by block, with the pivot and the
drift of its columns in registers, so that a layer is read once, and leaves the sums of squares of each image
over its columns. The second adds these up in float64, and then to the running sums. All sums are made in a
fixed order.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
import triton
import triton.language as tl

from timm_diffsens.sensitivities.reductions.state import MOST_IMAGES, Block, RunningSums

_FIELDS = tl.constexpr(len(Block._fields))
_WARPS = {"squares": 4, "tally": 8}
_ROW_BYTES = 512  # of a row that a program reads at once: 16 for each thread of a warp
_COLUMNS_OF_FLOAT64 = 64  # of a program that calculates in float64: 16 rows of them fill the registers
_SLOTS, _PROGRAMS = 8, 512  # of the second kernel: sums of a program, and terms of each that it reads at once


# What is compiled depends on the types and on the constants alone, see `_launch`.
_GENERAL = {
    "do_not_specialize": [
        *("part_stride", "row_stride", "width", "n", "pairs", "count", "slots", "programs", "kept")
    ],
    "do_not_specialize_on_alignment": ["parts", "pivot", "drift", "blocks", "scratch", "memory"],
}


@triton.jit(**_GENERAL)  # type: ignore[untyped-decorator]
def _squares(
    parts: tl.tensor,
    pivot: tl.tensor,
    drift: tl.tensor,
    blocks: tl.tensor,
    scratch: tl.tensor,
    part_stride: tl.tensor,
    row_stride: tl.tensor,
    width: tl.tensor,
    n: tl.tensor,
    pairs: tl.tensor,
    count: tl.tensor,
    slots: tl.tensor,
    programs: tl.tensor,
    UNIT: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    """Sums of squares over `COLUMNS` columns into a row of `scratch`: (M, images), then of moves (blocks)."""
    program = tl.program_id(0)
    start = parts + program.to(tl.int64) * COLUMNS
    if UNIT > 1:
        start = tl.multiple_of(start, 16)
    step = part_stride.to(tl.int64) * UNIT
    within = tl.arange(0, COLUMNS)
    columns = program * COLUMNS + within
    inside = columns < width * UNIT
    real = pivot.dtype.element_ty
    out = scratch + program.to(tl.int64) * slots
    mean = tl.load(pivot + columns, inside, 0.0)
    total = tl.zeros([COLUMNS], real)
    if tl.load(blocks + 2) != tl.load(blocks + 3):  # the first block was open before
        total = tl.load(drift + columns, inside, 0.0)
    moved = 0
    after = 0
    for which in range(count):
        block = blocks + which * _FIELDS
        first, last, after = tl.load(block), tl.load(block + 1), tl.load(block + 4)
        if tl.load(block + 3) == tl.load(block + 2):  # it opens
            total = tl.zeros([COLUMNS], real)
        rows = first + tl.arange(0, ROWS)
        own = rows < last
        here = own[:, None] & inside[None, :]
        place = start + (rows.to(tl.int64) * row_stride * UNIT)[:, None] + within[None, :]
        clean = tl.load(place, here, 0.0).to(real)
        ahead = step
        for pair in range(pairs):
            deformed = tl.load(place + ahead, here, 0.0).to(real)
            noised = tl.load(place + (ahead + step), here, 0.0).to(real)
            ahead += 2 * step
            _store_squares(out + 2 * pair * n + rows, deformed - clean, own)
            _store_squares(out + (2 * pair + 1) * n + rows, noised - clean, own)
        gaps = tl.where(here, clean - mean[None, :], 0.0)
        _store_squares(out + 2 * pairs * n + rows, gaps, own)
        total += tl.sum(gaps, 0)
        if after > 0:
            tl.store(out + (2 * pairs + 1) * n + which, tl.sum(total * total, 0).to(tl.float64))
            mean += total / after.to(real)
            moved += 1
    if moved > 0:
        tl.store(pivot + columns, mean, inside)
    if after == 0:
        tl.store(drift + columns, total, inside)
    if program == 0:
        tl.store(scratch + (programs.to(tl.int64) + 1) * slots, 0.0)  # the counter of `_tally`


@triton.jit  # type: ignore[untyped-decorator]
def _store_squares(places: tl.tensor, gaps: tl.tensor, own: tl.tensor) -> None:
    """The sum of the squares of each row of `gaps` that is one's own."""
    tl.store(places, tl.sum(gaps * gaps, 1).to(tl.float64), own)


@triton.jit(**_GENERAL)  # type: ignore[untyped-decorator]
def _tally(
    scratch: tl.tensor,
    blocks: tl.tensor,
    memory: tl.tensor,
    n: tl.tensor,
    pairs: tl.tensor,
    count: tl.tensor,
    slots: tl.tensor,
    programs: tl.tensor,
    kept: tl.tensor,
    SLOTS: tl.constexpr,
    PROGRAMS: tl.constexpr,
    ROWS: tl.constexpr,
    NUMBERS: tl.constexpr,
) -> None:
    """Add up the rows of `scratch`; the program that is the last to end adds them to `RunningSums.memory`."""
    slot = tl.program_id(0) * SLOTS + tl.arange(0, SLOTS)
    sums = scratch + programs.to(tl.int64) * slots
    total = tl.zeros([SLOTS], tl.float64)
    for start in range(0, programs, PROGRAMS):
        program = start + tl.arange(0, PROGRAMS)
        mask = (program < programs)[:, None] & (slot < slots)[None, :]
        place = scratch + (program.to(tl.int64) * slots)[:, None] + slot[None, :]
        total += tl.sum(tl.load(place, mask, 0.0), 0)
    tl.store(sums + slot, total, slot < slots)
    tl.debug_barrier()  # all threads of the program have stored before it is counted
    if tl.atomic_add(sums + slots, 1.0) == tl.num_programs(0) - 1:
        _add(sums, blocks, memory, n, pairs, count, kept, ROWS, NUMBERS)


@triton.jit  # type: ignore[untyped-decorator]
def _add(
    sums: tl.tensor,
    blocks: tl.tensor,
    memory: tl.tensor,
    n: tl.tensor,
    pairs: tl.tensor,
    count: tl.tensor,
    kept: tl.tensor,
    ROWS: tl.constexpr,
    NUMBERS: tl.constexpr,
) -> None:
    """Add the sums of squares of the images to those of the layer, as `reference` does."""
    numbers = 2 * pairs + 1
    kind = tl.arange(0, NUMBERS)
    known = kind < numbers
    square = memory + (1 + kind[:, None]) * numbers + kind[None, :]
    both = known[:, None] & known[None, :]
    totals, products = tl.load(memory + kind, known, 0.0), tl.load(square, both, 0.0)
    others = memory + (1 + numbers) * numbers
    in_block, settled = tl.load(others), tl.load(others + 1)
    is_clean = (kind == numbers - 1)[:, None]
    for which in range(count):
        block = blocks + which * _FIELDS
        first, last, before = tl.load(block), tl.load(block + 1), tl.load(block + 2)
        number, after = tl.load(block + 3), tl.load(block + 4)
        row = tl.arange(0, ROWS)
        mask = known[:, None] & (first + row < last)[None, :]
        place = sums + kind[:, None] * n + (first + row)[None, :]
        images = tl.load(place, mask, 0.0, cache_modifier=".cg")
        in_block += tl.sum(tl.sum(tl.where(is_clean, images, 0.0), 1), 0)
        share = 2 * before.to(tl.float64) / (before + 1).to(tl.float64)
        images = tl.where(is_clean, images * share, images)
        totals += tl.sum(images, 1)
        products += tl.sum(images[:, None, :] * images[None, :, :], 2)
        kept_row = memory + (2 + numbers + number + row)[None, :] * numbers + kind[:, None]
        tl.store(kept_row, images, mask & (number + row < kept)[None, :])
        if after > 0:
            gap = tl.load(sums + numbers * n + which, cache_modifier=".cg")
            settled += in_block - gap / after.to(tl.float64)
            in_block = tl.full([], 0.0, tl.float64)
    tl.store(memory + kind, totals, known)
    tl.store(square, products, both)
    tl.store(others, in_block)
    tl.store(others + 1, settled)


def add_rows(
    parts: torch.Tensor,
    blocks: Sequence[Block],
    pivot: torch.Tensor,
    drift: torch.Tensor | None,
    sums: RunningSums,
) -> None:
    """See `dispatch.add_rows`; the numbers of a row of `parts` lie side by side in memory."""
    device = parts.get_device()
    if device >= 0 and device != torch.cuda.current_device():
        with torch.cuda.device(device):  # kernels start on the current one
            return add_rows(parts, blocks, pivot, drift, sums)
    numbers, n, d = parts.shape
    unit, pieces = _pieces(parts)
    columns = _COLUMNS_OF_FLOAT64 if pivot.dtype == torch.float64 else _ROW_BYTES // max(2, parts.itemsize)
    programs, slots = -(-d // columns), numbers * n + len(blocks)
    scratch = torch.empty((programs + 1) * slots + 1, dtype=torch.float64, device=parts.device)
    counts = numbers // 2, len(blocks), slots, programs
    table = _table(tuple(blocks), parts.device, _stream(device))
    _launch(
        _squares,
        ("squares", device, parts.dtype, pivot.dtype, unit),
        programs,
        # without a drift any place will do, as none is touched
        (parts, pivot, pivot if drift is None else drift, table, scratch, *pieces, n, *counts),
        (unit, MOST_IMAGES, columns),
    )
    width = 1 << (numbers - 1).bit_length()
    _launch(
        _tally,
        ("tally", device, width),
        -(-slots // _SLOTS),
        (scratch, table, sums.memory, n, *counts, sums.kept),
        (_SLOTS, _PROGRAMS, MOST_IMAGES, width),
    )
    return None


def fits(parts: torch.Tensor) -> bool:
    """Whether there are numbers, those of a row side by side, and strides and d fit into 32 bits."""
    d, (part, row, beside) = parts.shape[2], parts.stride()
    return (beside == 1 or d == 1) and 0 < d < 2**31 and part < 2**31 and row < 2**31


def try_out(device: torch.device) -> None:
    """A launch of both kernels, so that what Triton needs and does not find shows before it is relied on."""
    parts = torch.ones(3, 1, 8, device=device)
    (sums,) = RunningSums.of_layers(1, device)
    add_rows(parts, [Block(0, 1, 0, number=0, after=1)], parts.new_zeros(8), None, sums)


def _pieces(parts: torch.Tensor) -> tuple[int, tuple[int, int, int]]:
    """Numbers that a thread may read at once, 16 bytes or one; strides of parts and rows, and d, in those."""
    sizes = *parts.stride()[:2], parts.shape[2]
    unit = 16 // parts.itemsize
    if any(number % unit for number in sizes) or parts.data_ptr() % 16:
        unit = 1
    return unit, (sizes[0] // unit, sizes[1] // unit, sizes[2] // unit)


def _stream(device: int) -> int:
    return int(triton.runtime.driver.active.get_current_stream(device)) if device >= 0 else 0


@functools.lru_cache(16)
def _table(blocks: tuple[Block, ...], device: torch.device, stream: int) -> torch.Tensor:
    """Blocks as (count, 5) integers on the device: the same for all layers of a batch."""
    table = torch.tensor(blocks, dtype=torch.int32)
    return table.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else table


_ready: dict[Any, Any] = {}  # compiled kernels by what was compiled into them


def _launch(
    kernel: Any, key: tuple[Any, ...], programs: int, arguments: tuple[Any, ...], constants: tuple[int, ...]
) -> None:
    """Start a kernel: by Triton the first time, then what it compiled, without its look at every argument."""
    compiled = _ready.get(key)
    if compiled:
        try:
            compiled[programs, 1, 1](*arguments, *constants)
            return
        except TypeError:  # some versions of Triton expect other arguments here
            _ready[key] = False
    started = kernel[programs, 1, 1](*arguments, *constants, num_warps=_WARPS[key[0]], enable_fp_fusion=True)
    _ready.setdefault(key, started)
