"""Standard normals from Philox 4x32-10: the reference, in NumPy.

Philox is a function of a key (two words of 32 bits) and a counter (four) whose values, four words each, are
as good as random. Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC11.
Here

    key = seed (two words),  counter = (element // 4, CRC-32 of the purpose, image (two words)).

Each number stands in words of its own, as it is: distinct (seed, purpose, image, element) never meet, as
long as the CRC-32 of the purposes differ, seeds are taken modulo 2^64, and an image has less than 2^34
elements. Two words give two normals by Box and Muller's transform,

    u = fl(word 0) 2^-32 + 2^-33 in (0, 1],   t = fl(signed word 1) 2^-32 in [-1/2, 1/2],
    sqrt(-2 log u) (cos 2 pi t, sin 2 pi t),

in float32, by polynomials: products, sums, roots and roundings alone, which every device rounds alike. So
the normals of all three implementations (`compiled`, `on_gpu`) are equal to the bit. They differ
from those in exact arithmetic by less than 1e-6; the largest possible is 6.77.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from timm_diffsens.device import threads

MULTIPLIERS, KEY_STEPS, ROUNDS = (0xD2511F53, 0xCD9E8D57), (0x9E3779B9, 0xBB67AE85), 10
WORD = 0xFFFFFFFF

# Minimax polynomials of Moshier's Cephes library (logf.c, sinf.c), highest power first.
LOG = (
    7.0376836292e-2,
    -1.1514610310e-1,
    1.1676998740e-1,
    -1.2420140846e-1,
    1.4249322787e-1,
    -1.6668057665e-1,
    2.0000714765e-1,
    -2.4999993993e-1,
    3.3333331174e-1,
)  # log(1 + f) = f - f^2 / 2 + f^3 P(f), sqrt(1/2) - 1 <= f < sqrt(2) - 1
LN2 = (0.693359375, -2.12194440e-4)  # their sum; the product of the first with an exponent is exact
SIN = (-1.9515295891e-4, 8.3321608736e-3, -1.6666654611e-1)  # x + x^3 P(x^2), |x| <= pi / 4
COS = (2.443315711809948e-5, -1.388731625493765e-3, 4.166664568298827e-2)  # 1 - x^2 / 2 + x^4 P(x^2)
TAU = 6.283185307179586
ROOT_HALF, MANTISSA, MANTISSA_BITS = 0x3F3504F3, 0x7FFFFF, 23  # the bits of sqrt(1/2) in float32

_SLAB = 2**13  # counters at a time, for the processor's caches

_F = np.float32
Array = npt.NDArray[Any]
Words = tuple[Array, Array, Array, Array]


@dataclass(frozen=True)
class Place:
    """Where in Philox's space a batch of draws is.

    Attributes:
        key: seed, low and high word. purpose: CRC-32 of its name.
        images: uint64, one an image. first: value of the counter's first word at their first element.
    """

    key: tuple[int, int]
    purpose: int
    images: npt.NDArray[np.uint64]
    first: int = 0

    @classmethod
    def of(cls, seed: int, purpose: str, images: Sequence[int], first: int = 0) -> "Place":
        """The place of a (seed, purpose) and images."""
        key = seed & WORD, seed >> 32 & WORD
        return cls(key, zlib.crc32(purpose.encode()), np.asarray(images, dtype=np.uint64), first)


def fill(out: torch.Tensor, place: Place) -> None:
    """Write standard normals into `out` (images, elements), float32 and contiguous."""
    images, elements = out.shape
    blocks = -(-elements // 4)
    four = np.empty((images * blocks, 4), dtype=np.float32)

    def slab(number: int) -> None:
        rows = four[number * _SLAB : (number + 1) * _SLAB]
        image, block = np.divmod(np.arange(len(rows), dtype=np.uint64) + number * _SLAB, np.uint64(blocks))
        index, purpose = place.images[image], np.full_like(block, place.purpose)
        words = philox((block + place.first, purpose, index & WORD, index >> 32), place.key)
        for k in (0, 2):
            rows[:, k], rows[:, k + 1] = _box_muller(words[k], words[k + 1])

    threads.share(slab, -(-len(four) // _SLAB))
    out.copy_(torch.from_numpy(four).view(images, 4 * blocks)[:, :elements])


def philox(counter: Words, key: tuple[int, int]) -> Words:
    """Philox 4x32-10: words of 32 bits, as uint64."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for _ in range(ROUNDS):
        low, high = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0, c1 = (high >> 32) ^ c1 ^ k0, high & WORD
        c2, c3 = (low >> 32) ^ c3 ^ k1, low & WORD
        k0, k1 = k0 + KEY_STEPS[0] & WORD, k1 + KEY_STEPS[1] & WORD
    return c0, c1, c2, c3


def _box_muller(radial: Array, angular: Array) -> tuple[Array, Array]:
    """Two normals from two words of 32 bits."""
    u = radial.astype(np.float32) * _F(2**-32) + _F(2**-33)
    radius = np.sqrt(_log(u) * _F(-2))
    t = angular.astype(np.uint32).view(np.int32).astype(np.float32) * _F(2**-32)
    quarter = np.floor(t * _F(4) + _F(0.5))
    x = (t - quarter * _F(0.25)) * _F(TAU)
    square = x * x
    sine = _polynomial(SIN, square) * square * x + x
    cosine = _polynomial(COS, square) * square * square - square * _F(0.5) + _F(1)
    # by quarters of a turn: sine and cosine change places where it is odd, and signs (the first bit)
    turn, s, c = quarter.astype(np.int32), sine.view(np.int32), cosine.view(np.int32)
    swap = (s ^ c) & -(turn & 1)
    first, second = swap ^ c ^ (turn + 1 >> 1 << 31), swap ^ s ^ (turn >> 1 << 31)
    return radius * first.view(np.float32), radius * second.view(np.float32)


def _log(u: Array) -> Array:
    """Of float32 in (0, 1]."""
    bits = u.view(np.int32) - ROOT_HALF
    exponent = (bits >> MANTISSA_BITS).astype(np.float32)
    f = ((bits & MANTISSA) + ROOT_HALF).view(np.float32) - _F(1)
    square = f * f
    small = _polynomial(LOG, f) * f * square + exponent * _F(LN2[1]) - square * _F(0.5)
    log: Array = f + small + exponent * _F(LN2[0])
    return log


def _polynomial(coefficients: tuple[float, ...], x: Array) -> Array:
    value: Array = x * _F(coefficients[0]) + _F(coefficients[1])
    for coefficient in coefficients[2:]:
        value = value * x + _F(coefficient)
    return value
