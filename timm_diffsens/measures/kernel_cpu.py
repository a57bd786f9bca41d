"""One pass over a layer's output on the CPU, on PyTorch's own threads.

The work on one layer takes from ten microseconds to some milliseconds, so the kernel is a plain function for
one thread, compiled by numba, and run by the OpenMP team that PyTorch itself uses (`runtime.team`).
"""

import functools
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from llvmlite import ir
from numba import carray, types
from numba.extending import intrinsic

from timm_diffsens import runtime
from timm_diffsens.measures.reductions import STRETCH, Portion

_FAST_MATH = {"reassoc", "contract", "nsz"}  # sums in vector lanes; infinities and nans stay what they are
# Stretches that a thread takes at once: more of them read memory in longer runs, fewer share a layer evenly.
_LONG, _LONG_FROM = 4, 64 * STRETCH

# A task in 64-bit integers: three counters that the threads share, numbers, and addresses.
_TAKEN, _TEAM, _DONE, _CHUNK, _IMAGES, _WIDTH, _FIRST, _LAST, _BEFORE, _AFTER, _OPENS, _BRIEF = range(12)
_PARTS, _PIVOT, _DRIFT, _SQUARES, _NUMBERS, _FIELDS = range(12, 18)
_ROWS = 6  # of the numbers, see `reductions.Portion`


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
def _gaps(clean: Any, moved: Any, noised: Any, origin: Any, total: Any, real: Any) -> Any:
    """Square norms of moved - clean, noised - clean, clean - origin; the last gap is added to `total`."""
    from_moved, from_noised, from_origin = real(0), real(0), real(0)
    for j in range(len(clean)):
        here = real(clean[j])
        x, y, z = real(moved[j]) - here, real(noised[j]) - here, here - origin[j]
        from_moved += x * x
        from_noised += y * y
        from_origin += z * z
        total[j] += z
    return from_moved, from_noised, from_origin


@numba.njit(fastmath=_FAST_MATH)  # type: ignore[untyped-decorator]
def _move(origin: Any, total: Any, share: Any, real: Any) -> Any:
    """Add `share` of `total` to `origin`, and give the square norm of `total`."""
    square = real(0)
    for j in range(len(total)):
        square += total[j] * total[j]
        origin[j] += total[j] * share
    return square


@numba.njit  # type: ignore[untyped-decorator]
def _tally(squares: Any, numbers: Any, n: int, before: int, after: int) -> None:
    """Add the sums over stretches, taken in float64, to the numbers of the layer."""
    for i in range(n):
        a, g, b = 0.0, 0.0, 0.0
        for stretch in range(len(squares)):
            a += squares[stretch, i]
            g += squares[stretch, n + i]
            b += squares[stretch, 2 * n + i]
        numbers[5, 0] += b
        b *= 2 * before / (before + 1)
        image = (a, g, b)
        for kind in range(3):
            if before + i == 0:
                numbers[4, kind] = image[kind]
            numbers[0, kind] += image[kind]
            for other in range(3):
                numbers[1 + kind, other] += image[kind] * image[other]
    if after:
        gap = 0.0
        for stretch in range(len(squares)):
            gap += squares[stretch, 3 * n]
        numbers[5, 1] += numbers[5, 0] - gap / after
        numbers[5, 0] = 0.0


def _kernel(given: Any, real: Any) -> Callable[[Any], None]:
    """What each thread does for a task; `given` is the type of the layer, `real` that of the pivot."""

    stretch = STRETCH  # of the closure: numba's cache on disk looks at that, not at globals of other files

    def share(task: Any) -> None:
        it = carray(task, (_FIELDS,), np.int64)
        d, first, last, after, chunk = it[_WIDTH], it[_FIRST], it[_LAST], it[_AFTER], it[_CHUNK]
        n, chunks = last - first, -(-d // chunk)
        parts = carray(_pointer(it[_PARTS]), (3, it[_IMAGES], d), given)
        pivot = carray(_pointer(it[_PIVOT]), (d,), real)
        squares = carray(_pointer(it[_SQUARES]), (-(-d // stretch), 3 * n + 1), real)
        own = _count(task, _TEAM) * chunk if it[_BRIEF] else 0
        drift = carray(_pointer(it[_DRIFT]), (own + chunk if it[_BRIEF] else d,), real)
        while True:
            number = _count(task, _TAKEN)
            if number >= chunks:
                return
            start, stop = number * chunk, min(number * chunk + chunk, d)
            shift = own - start if it[_BRIEF] else 0
            if it[_OPENS]:
                drift[start + shift : stop + shift] = 0
            for row in range(first, last):
                for a in range(start, stop, stretch):
                    b = min(a + stretch, stop)
                    found = _gaps(
                        parts[0, row, a:b],
                        parts[1, row, a:b],
                        parts[2, row, a:b],
                        pivot[a:b],
                        drift[a + shift : b + shift],
                        real,
                    )
                    for kind in range(3):
                        squares[a // stretch, kind * n + row - first] = found[kind]
            if after:
                for a in range(start, stop, stretch):
                    b = min(a + stretch, stop)
                    total = drift[a + shift : b + shift]
                    squares[a // stretch, 3 * n] = _move(pivot[a:b], total, real(1 / after), real)
            if _count(task, _DONE) == chunks - 1:  # all the others have been written
                numbers = carray(_pointer(it[_NUMBERS]), (_ROWS, 3), np.float64)
                _tally(squares, numbers, n, it[_BEFORE], after)

    return share


@functools.cache
def compiled(given: Any, real: Any) -> Any:
    """The kernel for a pair of NumPy types: compiled, or read from numba's cache if that can be used."""
    signature = types.void(types.voidptr)
    try:
        return numba.cfunc(signature, cache=True)(_kernel(given, real))
    except Exception:  # nowhere to write, or nothing sensible there: an error of ours comes again below
        return numba.cfunc(signature)(_kernel(given, real))


def add(portion: Portion, pivot: torch.Tensor, drift: torch.Tensor | None, numbers: torch.Tensor) -> None:
    """See `reductions.add_rows`; `parts` is contiguous, and of float32 or float64."""
    parts, n, d = portion.parts, portion.last - portion.first, len(pivot)
    chunk = STRETCH * (_LONG if d >= _LONG_FROM else 1)
    threads = max(1, min(torch.get_num_threads(), -(-d // chunk)))
    brief = drift is None
    if drift is None:
        drift = pivot.new_empty(threads * chunk)
    squares = pivot.new_empty((-(-d // STRETCH), 3 * n + 1))
    task = np.array(
        [
            *(0, 0, 0, chunk, parts.shape[1], d, portion.first, portion.last),
            *(portion.before, portion.after, portion.opens, brief),
            *(each.data_ptr() for each in (parts, pivot, drift, squares, numbers)),
        ],
        dtype=np.int64,
    )
    function = compiled(_NUMPY[parts.dtype], _NUMPY[pivot.dtype])
    runtime.team()(function.address, task.ctypes.data, threads)


_NUMPY = {torch.float32: np.float32, torch.float64: np.float64}
