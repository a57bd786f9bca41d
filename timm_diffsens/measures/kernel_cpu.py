"""One pass over a layer's output on the CPU: three square norms of every image and the sum over images.

Importing this module compiles the kernel, or loads it from numba's cache.
"""

import threading
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import torch
from numba import prange

from timm_diffsens.measures.reductions import STRETCH

# PyTorch's own OpenMP threads, where both use one library; others would fight with them for the cores.
numba.config.THREADING_LAYER_PRIORITY = ["omp", "tbb", "workqueue"]
_FAST_MATH = {"reassoc", "contract", "nsz"}  # sums in vector lanes; infinities and nans stay what they are
_lock = threading.Lock()  # numba's last choice of threads does not bear two callers


def _reduce(parts: Any, first: int, last: int, pivot: Any, drift: Any, squares: Any) -> None:
    """See `reduce`; squares (stretches, 3, last - first)."""
    real = pivot.dtype.type
    for stretch in prange(squares.shape[0]):
        start = stretch * STRETCH
        stop = min(start + STRETCH, len(pivot))
        origin, total = pivot[start:stop], drift[start:stop]
        for row in range(first, last):
            clean = parts[0, row, start:stop]
            moved = parts[1, row, start:stop]
            noised = parts[2, row, start:stop]
            from_moved, from_noised, from_pivot = real(0), real(0), real(0)
            for j in range(stop - start):
                here = real(clean[j])
                a, g, b = real(moved[j]) - here, real(noised[j]) - here, here - origin[j]
                from_moved += a * a
                from_noised += g * g
                from_pivot += b * b
                total[j] += b
            squares[stretch, 0, row - first] = from_moved
            squares[stretch, 1, row - first] = from_noised
            squares[stretch, 2, row - first] = from_pivot


def _compile() -> Callable[..., None]:
    signatures = [
        f"void({parts}[:,:,::1], int64, int64, {real}[::1], {real}[::1], {real}[:,:,::1])"
        for parts, real in (("float32", "float32"), ("float32", "float64"), ("float64", "float64"))
    ]
    options: dict[str, Any] = {"parallel": True, "nogil": True, "fastmath": _FAST_MATH}
    threads = torch.get_num_threads()
    try:
        compiled = numba.njit(signatures, cache=True, **options)(_reduce)
    except RuntimeError:  # no folder to write the cache to
        compiled = numba.njit(signatures, **options)(_reduce)
    finally:  # starting its threads, numba gives OpenMP, and so PyTorch, one for every core
        torch.set_num_threads(threads)
    return compiled  # type: ignore[no-any-return]


_kernel = _compile()


def reduce(
    parts: np.ndarray, first: int, last: int, pivot: np.ndarray, drift: np.ndarray, threads: int
) -> np.ndarray:
    """Square norms (3, last - first), float64, of images `first` to `last` of `parts` (3, n, d).

    They are those of moved - clean, noised - clean and clean - pivot; the sum over images of the last is
    added to `drift` (d,). Arithmetic is in the type of `pivot`.
    """
    squares = np.empty((-(-len(pivot) // STRETCH), 3, last - first), pivot.dtype)
    with _lock:
        numba.set_num_threads(max(1, min(threads, numba.config.NUMBA_NUM_THREADS)))
        _kernel(parts, first, last, pivot, drift, squares)
    total: np.ndarray = squares.sum(axis=0, dtype=np.float64)
    return total
