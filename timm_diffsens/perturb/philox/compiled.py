"""The normals of `reference`, compiled by numba: loops without branches, which become vector code."""

import functools
from typing import Any

import numba
import numpy as np
import torch

from timm_diffsens.device import threads
from timm_diffsens.perturb.philox import reference
from timm_diffsens.perturb.philox.reference import Place

_CHUNK = 2**12  # counters, some 25 microseconds: less is not worth handing to another thread

_U, _F, _I = np.uint64, np.float32, np.int32
_M0, _M1 = map(_U, reference.MULTIPLIERS)
_W0, _W1 = map(_U, reference.KEY_STEPS)
_WORD, _SHIFT = _U(reference.WORD), _U(32)
_LOG, _SIN, _COS = (tuple(map(_F, terms)) for terms in (reference.LOG, reference.SIN, reference.COS))
_LN2_HIGH, _LN2_LOW = map(_F, reference.LN2)
_UNIT, _HALF_UNIT, _TAU = _F(2.0**-32), _F(2.0**-33), _F(reference.TAU)
_QUARTER, _HALF, _ONE, _FOUR, _MINUS_TWO = _F(0.25), _F(0.5), _F(1), _F(4), _F(-2)
_ROOT_HALF, _MANTISSA, _BITS = _I(reference.ROOT_HALF), _I(reference.MANTISSA), _I(reference.MANTISSA_BITS)
_ONE_BIT, _TWO_BIT = _I(1), _I(2)

# Not "fast": without contracted products the results do not depend on the processor, or on the loop.
_inline = numba.njit(inline="always", error_model="numpy")


@_inline  # type: ignore[untyped-decorator]
def _philox(c0: Any, c1: Any, c2: Any, c3: Any, k0: Any, k1: Any) -> Any:
    for _ in range(reference.ROUNDS):
        low, high = _M0 * c0, _M1 * c2
        c0, c1 = (high >> _SHIFT) ^ c1 ^ k0, high & _WORD
        c2, c3 = (low >> _SHIFT) ^ c3 ^ k1, low & _WORD
        k0, k1 = (k0 + _W0) & _WORD, (k1 + _W1) & _WORD
    return c0, c1, c2, c3


@_inline  # type: ignore[untyped-decorator]
def _log(u: Any) -> Any:
    bits = np.float32(u).view(np.int32) - _ROOT_HALF
    exponent = _F(_I(bits) >> _BITS)
    f = np.int32((_I(bits) & _MANTISSA) + _ROOT_HALF).view(np.float32) - _ONE
    square = f * f
    value = f * _LOG[0] + _LOG[1]
    for k in range(2, 9):
        value = value * f + _LOG[k]
    small = value * f * square + exponent * _LN2_LOW - square * _HALF
    return f + small + exponent * _LN2_HIGH


@_inline  # type: ignore[untyped-decorator]
def _box_muller(radial: Any, angular: Any) -> Any:
    radius = np.sqrt(_MINUS_TWO * _log(_F(np.uint32(radial)) * _UNIT + _HALF_UNIT))
    t = _F(_I(np.uint32(angular))) * _UNIT
    quarter = np.floor(t * _FOUR + _HALF)
    x = (t - quarter * _QUARTER) * _TAU
    square = x * x
    sine = ((square * _SIN[0] + _SIN[1]) * square + _SIN[2]) * square * x + x
    cosine = ((square * _COS[0] + _COS[1]) * square + _COS[2]) * square * square - square * _HALF + _ONE
    turn = _I(quarter)
    odd = (turn & _ONE_BIT) != 0
    first, second = (sine if odd else cosine), (cosine if odd else sine)
    first = -first if ((turn + _ONE_BIT) & _TWO_BIT) != 0 else first
    second = -second if (turn & _TWO_BIT) != 0 else second
    return radius * first, radius * second


def _part(out: Any, images: Any, k0: Any, k1: Any, purpose: Any, first: Any, start: int, stop: int) -> None:
    """Write the counters `start` to `stop` of all those of `out` (images, elements)."""
    elements = out.shape[1]
    blocks, whole = -(-elements // 4), elements // 4
    for i in range(start // blocks, -(-stop // blocks)):
        low, high = images[i] & _WORD, images[i] >> _SHIFT
        begin, end = max(start - i * blocks, 0), min(stop - i * blocks, blocks)
        row, base = out[i, 4 * begin : 4 * min(end, whole)], first + _U(begin)
        for b in range(len(row) // 4):
            w0, w1, w2, w3 = _philox(base + _U(b), purpose, low, high, k0, k1)
            row[4 * b], row[4 * b + 1] = _box_muller(w0, w1)
            row[4 * b + 2], row[4 * b + 3] = _box_muller(w2, w3)
        if end > whole:  # less than four numbers
            w0, w1, w2, w3 = _philox(first + _U(whole), purpose, low, high, k0, k1)
            four = (*_box_muller(w0, w1), *_box_muller(w2, w3))
            for j in range(4 * whole, elements):
                out[i, j] = four[j - 4 * whole]


@functools.cache
def _compiled() -> Any:
    """Compiled, or read from numba's cache if that can be used."""
    signature = "void(float32[:, ::1], uint64[::1], uint64, uint64, uint64, uint64, int64, int64)"
    settings = {"nogil": True, "error_model": "numpy"}
    try:
        return numba.njit(signature, cache=True, **settings)(_part)
    except Exception:  # nowhere to write, or nothing sensible there: an error of ours comes again below
        return numba.njit(signature, **settings)(_part)


def fill(out: torch.Tensor, place: Place) -> None:
    """See `reference.fill`."""
    array, (images, elements) = out.numpy(), out.shape
    counters = images * -(-elements // 4)
    words = [_U(word) for word in (*place.key, place.purpose, place.first)]
    size = max(_CHUNK, -(-counters // (4 * torch.get_num_threads())))

    def some(number: int) -> None:
        _compiled()(array, place.images, *words, number * size, min(number * size + size, counters))

    threads.share(some, -(-counters // size))
