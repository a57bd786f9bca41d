"""The same reduction compiled by numba: one pass over a layer's output, on PyTorch's own threads.

The work on one layer takes from ten microseconds to some milliseconds, so the kernel is a plain function for
one thread, compiled by numba, and run by the OpenMP team that PyTorch itself uses (`threads.team`).
"""

import ctypes
import functools
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from timm_diffsens.device import threads
from timm_diffsens.sensitivities.reductions.state import TILE, Block, RunningSums

_FAST_MATH = {"reassoc", "contract", "nsz"}  # sums in vector lanes; infinities and nans stay what they are
# Columns that a thread takes at once: more of them read memory in longer runs, fewer share a layer evenly.
# It depends on the layer's width alone, so that the numbers of threads and images leave the sums as they are.
_LONG, _LONG_FROM = 4 * TILE, 64 * TILE
_NARROW, _NARROW_BELOW = TILE // 4, 2 * TILE

# A task in 64-bit integers: three counters that the threads share, numbers, and addresses; then its blocks,
# and space for what is summed of one image.
_TAKEN, _TEAM, _DONE, _CHUNK, _PAIRS, _IMAGES, _WIDTH, _KEPT, _BRIEF, _BLOCKS = range(10)
_PARTS, _PIVOT, _DRIFT, _SQUARES, _SUMS, _FIELDS = range(10, 16)
_FIRST, _LAST, _BEFORE, _NUMBER, _AFTER = range(len(Block._fields))


@intrinsic  # type: ignore[untyped-decorator]
def _pointer(typing: Any, address: Any) -> Any:
    """An address as a pointer."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.inttoptr(args[0], context.get_value_type(types.voidptr))

    return types.voidptr(types.int64), generate


@intrinsic  # type: ignore[untyped-decorator]
def _count(typing: Any, task: Any, counter: Any) -> Any:
    """A counter's value, which is raised by one in the same moment."""

    def generate(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        integer = ir.IntType(64)
        counters = builder.bitcast(args[0], integer.as_pointer())
        place = builder.gep(counters, [args[1]])
        return builder.atomic_rmw("add", place, ir.Constant(integer, 1), "seq_cst")

    return types.int64(types.voidptr, types.int64), generate


@numba.njit(fastmath=_FAST_MATH)  # type: ignore[untyped-decorator]
def _gaps(clean: Any, deformed: Any, noised: Any, origin: Any, total: Any, real: Any) -> Any:
    """Square norms of deformed - clean, noised - clean, clean - origin; the last gap is added to `total`."""
    from_deformed, from_noised, from_origin = real(0), real(0), real(0)
    for j in range(len(clean)):
        here = real(clean[j])
        x, y, z = real(deformed[j]) - here, real(noised[j]) - here, here - origin[j]
        from_deformed += x * x
        from_noised += y * y
        from_origin += z * z
        total[j] += z
    return from_deformed, from_noised, from_origin


@numba.njit(fastmath=_FAST_MATH)  # type: ignore[untyped-decorator]
def _two_gaps(clean: Any, deformed: Any, noised: Any, real: Any) -> Any:
    """Square norms of deformed - clean and noised - clean, of a further pair."""
    from_deformed, from_noised = real(0), real(0)
    for j in range(len(clean)):
        here = real(clean[j])
        x, y = real(deformed[j]) - here, real(noised[j]) - here
        from_deformed += x * x
        from_noised += y * y
    return from_deformed, from_noised


@numba.njit(fastmath=_FAST_MATH)  # type: ignore[untyped-decorator]
def _move(origin: Any, total: Any, share: Any, real: Any) -> Any:
    """Add `share` of `total` to `origin`, and give the square norm of `total`."""
    square = real(0)
    for j in range(len(total)):
        square += total[j] * total[j]
        origin[j] += total[j] * share
    return square


@numba.njit  # type: ignore[untyped-decorator]
def _tally(squares: Any, memory: Any, image: Any, images: int, which: int, block: Any) -> None:
    """Add the sums over tiles, taken in float64, to those of the layer: the memory of `RunningSums`."""
    numbers = len(image)
    totals, products, kept = memory[0], memory[1 : 1 + numbers], memory[2 + numbers :]
    in_block, settled = memory[1 + numbers, :1], memory[1 + numbers, 1:2]
    before, after = block[_BEFORE], block[_AFTER]
    for i in range(block[_FIRST], block[_LAST]):
        for kind in range(numbers):
            total = 0.0
            for tile in range(len(squares)):
                total += squares[tile, kind * images + i]
            image[kind] = total
        in_block[0] += image[numbers - 1]
        image[numbers - 1] *= 2 * before / (before + 1)
        number = block[_NUMBER] + i - block[_FIRST]
        for kind in range(numbers):
            if number < len(kept):
                kept[number, kind] = image[kind]
            totals[kind] += image[kind]
            for other in range(numbers):
                products[kind, other] += image[kind] * image[other]
    if after:
        gap = 0.0
        for tile in range(len(squares)):
            gap += squares[tile, numbers * images + which]
        settled[0] += in_block[0] - gap / after
        in_block[0] = 0.0


def _kernel(given: Any, real: Any) -> Callable[[Any], None]:
    """What each thread does for a task; `given` is the type of the layer, `real` that of the pivot."""

    # of the closure: numba's cache on disk looks at that, not at globals of other files
    widest, width = TILE, len(Block._fields)

    def share(task: Any) -> None:
        it = carray(task, (_FIELDS,), np.int64)
        d, images, count, chunk = it[_WIDTH], it[_IMAGES], it[_BLOCKS], it[_CHUNK]
        numbers, end = 2 * it[_PAIRS] + 1, _FIELDS + count * width
        it = carray(task, (end + numbers,), np.int64)
        blocks, image = it[_FIELDS:end].reshape((count, width)), it[end:].view(np.float64)
        chunks, tile = -(-d // chunk), min(widest, chunk)
        parts = carray(_pointer(it[_PARTS]), (numbers, images, d), given)
        pivot = carray(_pointer(it[_PIVOT]), (d,), real)
        squares = carray(_pointer(it[_SQUARES]), (-(-d // tile), numbers * images + count), real)
        own = _count(task, _TEAM) * chunk if it[_BRIEF] else 0
        drift = carray(_pointer(it[_DRIFT]), (own + chunk if it[_BRIEF] else d,), real)
        while True:
            number = _count(task, _TAKEN)
            if number >= chunks:
                return
            start, stop = number * chunk, min(number * chunk + chunk, d)
            shift = own - start if it[_BRIEF] else 0
            for which in range(count):
                block = blocks[which]
                if block[_NUMBER] == block[_BEFORE]:
                    drift[start + shift : stop + shift] = 0
                for row in range(block[_FIRST], block[_LAST]):
                    for a in range(start, stop, tile):
                        b = min(a + tile, stop)
                        clean, own_squares = parts[0, row, a:b], squares[a // tile, row:]
                        own_squares[0], own_squares[images], own_squares[(numbers - 1) * images] = _gaps(
                            clean,
                            parts[1, row, a:b],
                            parts[2, row, a:b],
                            pivot[a:b],
                            drift[a + shift : b + shift],
                            real,
                        )
                        for kind in range(2, numbers - 1, 2):
                            deformed, noised = parts[kind + 1, row, a:b], parts[kind + 2, row, a:b]
                            pair = _two_gaps(clean, deformed, noised, real)
                            own_squares[kind * images], own_squares[(kind + 1) * images] = pair
                if block[_AFTER]:
                    for a in range(start, stop, tile):
                        b = min(a + tile, stop)
                        total = drift[a + shift : b + shift]
                        part = real(1 / block[_AFTER])
                        squares[a // tile, numbers * images + which] = _move(pivot[a:b], total, part, real)
            if _count(task, _DONE) == chunks - 1:  # all the others have been written
                rows = 2 + numbers + it[_KEPT]
                memory = carray(_pointer(it[_SUMS]), (rows, numbers), np.float64)
                for which in range(count):
                    _tally(squares, memory, image, images, which, blocks[which])

    return share


@functools.cache
def compiled(given: Any, real: Any) -> Any:
    """The kernel for a pair of NumPy types: compiled, or read from numba's cache if that can be used."""
    signature = types.void(types.voidptr)
    try:
        return numba.cfunc(signature, cache=True)(_kernel(given, real))
    except Exception:  # nowhere to write, or nothing sensible there: an error of ours comes again below
        return numba.cfunc(signature)(_kernel(given, real))


def add_rows(
    parts: torch.Tensor,
    blocks: Sequence[Block],
    pivot: torch.Tensor,
    drift: torch.Tensor | None,
    sums: RunningSums,
) -> None:
    """See `dispatch.add_rows`; `parts` is contiguous, and of float32 or float64."""
    numbers, images, d = parts.shape
    chunk = _LONG if d >= _LONG_FROM else _NARROW if d < _NARROW_BELOW else TILE
    workers = max(1, min(torch.get_num_threads(), -(-d // chunk)))
    squares = -(-d // min(TILE, chunk)) * (numbers * images + len(blocks))
    scratch = pivot.new_empty(squares + (workers * chunk if drift is None else 0))
    place = scratch.data_ptr()
    after = place + squares * scratch.itemsize
    fields = [0, 0, 0, chunk, numbers // 2, images, d, sums.kept, drift is None, len(blocks)]
    fields += [parts.data_ptr(), pivot.data_ptr(), after if drift is None else drift.data_ptr(), place]
    fields += [sums.memory.data_ptr(), *itertools.chain.from_iterable(blocks), *[0] * numbers]
    task = (ctypes.c_int64 * len(fields))(*fields)
    threads.team()(function_for(parts.dtype, pivot.dtype).address, task, workers)


def function_for(given: torch.dtype, real: torch.dtype) -> Any:
    """The compiled kernel for layers and pivots of these types."""
    return compiled(_NUMPY[given], _NUMPY[real])


_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}
