"""The normals of `reference` on CUDA, by Triton."""

# mypy: allow-untyped-defs, allow-incomplete-defs, allow-untyped-decorators, allow-untyped-calls
# Triton evaluates annotations of kernels, and knows no others than its own.

import numpy as np
import torch
import triton
import triton.language as tl

from timm_diffsens.perturb.philox import reference
from timm_diffsens.perturb.philox.reference import Place

_BLOCK = 1024  # counters a program

_LOG, _SIN, _COS = (tl.constexpr(terms) for terms in (reference.LOG, reference.SIN, reference.COS))
_LN2_HIGH, _LN2_LOW = map(tl.constexpr, reference.LN2)
_TAU, _ROUNDS = tl.constexpr(reference.TAU), tl.constexpr(reference.ROUNDS)
_ROOT_HALF, _MANTISSA = tl.constexpr(reference.ROOT_HALF), tl.constexpr(reference.MANTISSA)
_BITS = tl.constexpr(reference.MANTISSA_BITS)


@triton.jit
def _log(u):
    bits = u.to(tl.int32, bitcast=True) - _ROOT_HALF
    exponent = (bits >> _BITS).to(tl.float32)
    f = ((bits & _MANTISSA) + _ROOT_HALF).to(tl.float32, bitcast=True) - 1.0
    square = f * f
    value = f * _LOG[0] + _LOG[1]
    for k in tl.static_range(2, 9):
        value = value * f + _LOG[k]
    small = value * f * square + exponent * _LN2_LOW - square * 0.5
    return f + small + exponent * _LN2_HIGH


@triton.jit
def _box_muller(radial, angular):
    u = radial.to(tl.float32) * 2.3283064365386963e-10 + 1.1641532182693481e-10
    radius = tl.sqrt_rn(_log(u) * -2.0)
    t = angular.to(tl.int32, bitcast=True).to(tl.float32) * 2.3283064365386963e-10
    quarter = tl.floor(t * 4.0 + 0.5)
    x = (t - quarter * 0.25) * _TAU
    square = x * x
    sine = ((square * _SIN[0] + _SIN[1]) * square + _SIN[2]) * square * x + x
    cosine = ((square * _COS[0] + _COS[1]) * square + _COS[2]) * square * square - square * 0.5 + 1.0
    turn = quarter.to(tl.int32)
    odd = (turn & 1) != 0
    first, second = tl.where(odd, sine, cosine), tl.where(odd, cosine, sine)
    first = tl.where(((turn + 1) & 2) != 0, -first, first)
    second = tl.where((turn & 2) != 0, -second, second)
    return radius * first, radius * second


@triton.jit(do_not_specialize=["k0", "k1", "purpose", "start"])
def _kernel(out, images, k0, k1, purpose, start, elements, block: tl.constexpr):
    image = tl.program_id(0)
    number = tl.program_id(1) * block + tl.arange(0, block)
    index = tl.load(images + image)
    zero = tl.zeros((block,), tl.uint32)
    words = tl.philox_impl(
        number.to(tl.uint32) + start.to(tl.uint32),
        zero + purpose.to(tl.uint32),
        zero + index.to(tl.uint32),
        zero + (index >> 32).to(tl.uint32),
        k0.to(tl.uint32),
        k1.to(tl.uint32),
        _ROUNDS,
    )
    row = out + image.to(tl.int64) * elements
    first, second = _box_muller(words[0], words[1])
    third, fourth = _box_muller(words[2], words[3])
    four = tl.interleave(tl.interleave(first, third), tl.interleave(second, fourth))
    place = tl.program_id(1).to(tl.int64) * (4 * block) + tl.arange(0, 4 * block)
    tl.store(row + place, four, mask=place < elements)


def fill(out: torch.Tensor, place: Place) -> None:
    """See `reference.fill`. Nothing waits for the device."""
    images, elements = out.shape
    index = torch.from_numpy(place.images.view(np.int64))
    if out.device.type == "cuda":
        index = index.pin_memory().to(out.device, non_blocking=True)
    grid = (images, triton.cdiv(elements, 4 * _BLOCK))
    # products are not contracted with sums: see `reference`
    settings = {"block": _BLOCK, "enable_fp_fusion": False}
    words = map(_signed, (*place.key, place.purpose, place.first))
    with torch.cuda.device_of(out):
        _kernel[grid](out, index, *words, elements, **settings)


def _signed(word: int) -> int:
    """The same 32 bits as a signed integer, so that there is one kernel for all words."""
    return word - (word >> 31 << 32)
