"""Two active pixels on a circle: how the pair is distributed, how the pixels move, and exact second moments.

Conventions, as in arXiv 2210.01506, Section 4: one dimension of `length` pixels with periodic borders,
x = a (delta_i + delta_j) with i != j and a = sqrt(length / 2), so that ||x||^2 = length. A deformation moves
each active pixel by one, left or right with probability 1/2 each and independently of the other; two pixels
on one place add up. In task 2 a pixel does not leave its patch: at the patch's border it moves inwards.
"""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from timm_diffsens.errors import UsageError
from timm_diffsens.perturb.noise import matched_noise

Array = npt.NDArray[np.float64]

_MOST_PIXELS = 4096  # matrices of length^2 numbers are held


@dataclass(frozen=True)
class PairImages:
    """Images (n, 1, length), float64: clean, deformed, and the white noise that `matched_noise` gives."""

    clean: torch.Tensor
    deformed: torch.Tensor
    eta: torch.Tensor


@dataclass(frozen=True)
class PixelPairs:
    """A distribution over ordered pairs of distinct pixels, and how a pixel moves.

    Attributes:
        weights: (length, length), symmetric, zero diagonal, sum 1: probability of (i, j).
        left: (length,): probability that pixel i moves to i - 1; otherwise it moves to i + 1.
    """

    weights: Array
    left: Array

    @property
    def length(self) -> int:
        """Pixels on the circle."""
        return len(self.left)

    @property
    def amplitude(self) -> float:
        """Value a of an active pixel: 2 a^2 = length."""
        return math.sqrt(self.length / 2)

    # ---- distributions

    @classmethod
    def task1(cls, length: int, xi: float, gap: float = 2) -> "PixelPairs":
        """Task 1: half of the pairs nearer than xi - gap / 2, half farther than xi + gap / 2.

        Distances are along the circle, which is all that a periodic network can tell.
        """
        distance = _distances(_checked(length))
        near, far = (distance > 0) & (distance < xi - gap / 2), distance > xi + gap / 2
        return cls(
            _balanced(near, far, f"xi = {xi:g}, gap = {gap:g} and length {length}"), np.full(length, 0.5)
        )

    @classmethod
    def task2(cls, length: int, xi: int) -> "PixelPairs":
        """Task 2: half of the pairs within one patch of `xi` pixels, half in two; no pixel leaves its patch.

        Raises:
            UsageError: `xi` does not cut the circle into two patches of two pixels or more.
        """
        if not 2 <= xi < _checked(length) or length % xi:
            raise UsageError(f"xi must cut {length} pixels into patches of at least 2 pixels, got {xi}")
        patch = np.arange(length) // xi
        same = patch[:, None] == patch
        left = np.full(length, 0.5)
        left[::xi], left[xi - 1 :: xi] = 0, 1
        return cls(_balanced(same & ~np.eye(length, dtype=bool), ~same, f"xi = {xi}"), left)

    # ---- exact second moments, in units of a^2

    def occupation(self) -> Array:
        """(length,): E of the number of active pixels at each place; E x = a occupation."""
        return np.asarray(2 * self.weights.sum(axis=1))

    def image_moment(self) -> Array:
        """(length, length): E[x x^T] / a^2 = diag(occupation) + 2 weights."""
        return np.asarray(np.diag(self.occupation()) + 2 * self.weights)

    def image_covariance(self) -> Array:
        """(length, length): Cov(x) / a^2."""
        occupation = self.occupation()
        return np.asarray(self.image_moment() - np.outer(occupation, occupation))

    def shift_moment(self) -> Array:
        """(length, length): E[(tau x - x)(tau x - x)^T] / a^2.

        With u_i = delta_m(i) - delta_i, the change that the move i -> m(i) makes, independent moves give
        E[(u_i + u_j)(u_i + u_j)^T] = E[u_i u_i^T] + E[u_j u_j^T] + E u_i E u_j^T + E u_j E u_i^T.
        """
        moment = 2 * self._mean_change(self._mean_change(self.weights).T)
        every = np.arange(self.length)
        for step, chance in ((-1, self.left), (1, 1 - self.left)):
            share, there = self.occupation() * chance, (every + step) % self.length
            np.add.at(moment, (every, every), share)
            np.add.at(moment, (there, there), share)
            np.add.at(moment, (every, there), -share)
            np.add.at(moment, (there, every), -share)
        return moment

    def _mean_change(self, table: Array) -> Array:
        """sum over i of E u_i table[i]: (length, n) -> (length, n)."""
        to_left = np.roll(self.left[:, None] * table, -1, axis=0)
        to_right = np.roll((1 - self.left)[:, None] * table, 1, axis=0)
        return np.asarray(to_left + to_right - table)

    # ---- samples

    def sample(self, n: int, rng: np.random.Generator) -> PairImages:
        """`n` independent images with their deformations and noise (uniform on the sphere)."""
        start = self.draw(n, rng)
        step = np.where(rng.random((n, 2)) < self.left[start], -1, 1)
        clean, deformed = self.render(start), self.render((start + step) % self.length)
        return PairImages(clean, deformed, matched_noise(clean, deformed, rng))

    def draw(self, n: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
        """`n` independent pairs: (n, 2)."""
        steps = np.cumsum(self.weights)
        flat = np.searchsorted(steps, rng.random(n) * steps[-1], side="right")
        pairs: npt.NDArray[np.int64] = np.stack([flat // self.length, flat % self.length], axis=1)
        return pairs

    def render(self, pairs: npt.NDArray[np.int64]) -> torch.Tensor:
        """Images (n, 1, length) of pairs (n, 2)."""
        images = np.zeros((len(pairs), 1, self.length))
        for column in pairs.T:
            images[np.arange(len(pairs)), 0, column] += self.amplitude
        return torch.from_numpy(images)


def _checked(length: int) -> int:
    if not 4 <= length <= _MOST_PIXELS:
        raise UsageError(f"length must be from 4 to {_MOST_PIXELS} pixels, got {length}")
    return length


def _distances(length: int) -> npt.NDArray[np.int64]:
    """(length, length): along the circle."""
    every = np.arange(length)
    steps = np.abs(every[:, None] - every)
    return np.asarray(np.minimum(steps, length - steps), dtype=np.int64)


def _balanced(near: npt.NDArray[np.bool_], far: npt.NDArray[np.bool_], what: str) -> Array:
    if not near.any() or not far.any():
        raise UsageError(f"no pairs of one class with {what}")
    return np.asarray(near / (2 * near.sum()) + far / (2 * far.sum()))
