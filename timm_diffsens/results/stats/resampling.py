"""Correlations and power laws over resampled sets of networks, many columns at once.

Each statistic follows from weighted resampled_fits, so one matrix product gives it for the data, for every
leave-one-out set (the jackknife) and for every bootstrap sample. `scipy.stats.bootstrap` gives the same
intervals (a test compares them) one statistic at a time, which is too slow for curves over depth.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol

import numpy as np
import numpy.typing as npt
from scipy import special

Array = npt.NDArray[np.float64]

RESAMPLES = 2000
LEVEL = 0.95
_CONSTANT = 1e-12  # variance, relative to that of the data, below which a resample has no spread
_SAME = 1e-8  # range of logarithms below which all values are equal: records have seven digits
_ROUNDING = 1e-12
MANY = 1000  # networks above which no matrix of all weightings is made
_TOGETHER = 2**20  # numbers in memory at a time
EXACT = 1e-9  # spread of a statistic over the resamples below which it has no error


@dataclass(frozen=True)
class ResampledFits:
    """Correlations and lines of a target on columns, a row for each weighting of the networks.

    Row 0 is the data, rows 1 to n leave one network out, the others are bootstrap samples.
    Each array: (1 + n + resamples, columns); a weighting without spread is NaN.
    """

    n: int
    pearson: Array
    slope: Array  # of the least-squares line of the target on the column
    intercept: Array


def resampled_fits(x: Array, y: Array, resamples: int = RESAMPLES, seed: int = 0) -> ResampledFits:
    """Pearson correlation and least-squares line of `y` on each column of `x`, for all weightings.

    Args:
        x: (n, columns), finite logarithms.
        y: (n,), finite logarithms.
        resamples: bootstrap samples; equal n and seed give the same ones, so statistics are paired.
        seed: of the samples.
    """
    return weighted_fits(x, y, _weightings(len(y), resamples, seed))


def weighted_fits(x: Array, y: Array, weights: "Array | Weightings") -> ResampledFits:
    """The same for these weightings of the networks: (weightings, n), rows sum to 1."""
    x_mean, y_mean = x.mean(axis=0), y.mean()
    x, y = x - x_mean, (y - y_mean)[:, None]  # centred first: no digits are lost in the squares
    columns = x.shape[1]
    means = weights @ np.hstack([x, x**2, x * y, y, y**2])
    mean_x, mean_y, mean_yy = means[:, :columns], means[:, -2:-1], means[:, -1:]
    xx, yy = means[:, columns : 2 * columns] - mean_x**2, mean_yy - mean_y**2
    xy = means[:, 2 * columns : 3 * columns] - mean_x * mean_y
    flat = (xx <= _CONSTANT * np.ptp(x, axis=0) ** 2) | (yy <= _CONSTANT * np.ptp(y) ** 2)
    flat |= ~varies(x) | ~varies(y)
    with np.errstate(divide="ignore", invalid="ignore"):
        pearson = np.where(flat, np.nan, np.clip(xy / np.sqrt(xx * yy), -1, 1))
        slope = np.where(flat, np.nan, xy / xx)
    intercept = (mean_y + y_mean) - slope * (mean_x + x_mean)
    return ResampledFits(len(y), pearson, slope, intercept)


def varies(values: Array) -> npt.NDArray[np.bool_]:
    """Whether logarithms differ, along the first axis, by more than rounding."""
    different: npt.NDArray[np.bool_] = np.asarray(np.ptp(values, axis=0) > _SAME)
    return different


class Weightings(Protocol):
    """Weightings of many networks: as a matrix they would not fit into memory."""

    def __matmul__(self, values: Array) -> Array:
        """Weighted means of (n, columns)."""


@dataclass(frozen=True)
class _OfMany:
    """What `_weightings` holds, without holding it."""

    resamples: int
    seed: int

    def __matmul__(self, values: Array) -> Array:
        n, mean = len(values), values.mean(axis=0, keepdims=True)
        source = np.random.default_rng(self.seed)
        means = [mean, (n * mean - values) / (n - 1)]
        together = max(_TOGETHER // n, 1)
        for first in range(0, self.resamples, together):
            count = min(together, self.resamples - first)
            drawn = source.integers(0, n, (count, n)) + n * np.arange(count)[:, None]
            means.append(np.bincount(drawn.ravel(), minlength=count * n).reshape(count, n) @ values / n)
        return np.concatenate(means)


def _weightings(n: int, resamples: int, seed: int) -> "Array | Weightings":
    """(1 + n + resamples, n); each row sums to 1."""
    return _OfMany(resamples, seed) if n > MANY else _matrix(n, resamples, seed)


@lru_cache(maxsize=2)
def _matrix(n: int, resamples: int, seed: int) -> Array:
    data = np.full((1, n), 1 / n)
    jackknife = (1 - np.eye(n)) / max(n - 1, 1)
    drawn = np.random.default_rng(seed).integers(0, n, (resamples, n))
    flat = (drawn + n * np.arange(resamples)[:, None]).ravel()
    bootstrap = np.bincount(flat, minlength=resamples * n).reshape(resamples, n) / n
    weights = np.concatenate([data, jackknife, bootstrap])
    weights.flags.writeable = False  # it is kept for the next call
    return weights


def patterns(table: Array) -> list[tuple[npt.NDArray[np.bool_], npt.NDArray[np.intp]]]:
    """Which rows have values (are finite), and the columns that have theirs in just these rows.

    Such columns can be resampled together.
    """
    present = np.isfinite(table)
    found = np.unique(present, axis=1).T
    return [(rows, np.flatnonzero((present == rows[:, None]).all(axis=0))) for rows in found]


def bca(statistic: Array, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Bias-corrected and accelerated interval: Efron and Tibshirani 1993, Eqs 14.9 to 14.15.

    Args:
        statistic: (1 + n + resamples,), ordered as in `ResampledFits`. Bootstrap samples without a value,
            such as those that drew one network n times, are left out.
        n: number of networks.
        level: of confidence.

    Returns:
        Lower and upper end; NaN where the data, or half of the samples, have no value.
    """
    value, jackknife, samples = statistic[0], statistic[1 : n + 1], statistic[n + 1 :]
    samples = samples[np.isfinite(samples)]
    jackknife = jackknife[np.isfinite(jackknife)]
    if not np.isfinite(value) or 2 * len(samples) < max(len(statistic) - n - 1, 2) or not len(jackknife):
        return np.nan, np.nan
    if np.ptp(samples) <= EXACT * max(abs(value), 1.0):
        return float(value), float(value)
    rounding = _ROUNDING * max(abs(value), 1.0)  # of samples that are the data in another order
    below = (np.mean(samples < value - rounding) + np.mean(samples <= value + rounding)) / 2
    least = 0.5 / len(samples)  # keeps the bias finite where all samples lie on one side
    bias = special.ndtri(np.clip(below, least, 1 - least))
    deviations = jackknife.mean() - jackknife
    scale = np.sum(deviations**2) ** 1.5
    acceleration = np.sum(deviations**3) / (6 * scale) if scale else 0.0
    ends = bias + special.ndtri([(1 - level) / 2, (1 + level) / 2])
    shares = special.ndtr(bias + ends / (1 - acceleration * ends))
    low, high = np.quantile(samples, shares)
    return float(low), float(high)


def fisher_z(pearson: float, n: int, level: float = LEVEL) -> tuple[float, float]:
    """Interval of a Pearson correlation through z = artanh(rho), whose standard error is 1 / sqrt(n - 3).

    Exact in the limit of large n for bivariate normal values (Fisher 1921); NaN for n < 4.

    Example:
        >>> low, high = fisher_z(0.8, 28)
        >>> round(low, 3), round(high, 3)
        (0.609, 0.903)
    """
    if n < 4 or not np.isfinite(pearson):
        return np.nan, np.nan
    if abs(pearson) >= 1:
        return float(pearson), float(pearson)
    half = special.ndtri((1 + level) / 2) / np.sqrt(n - 3)
    return float(np.tanh(np.arctanh(pearson) - half)), float(np.tanh(np.arctanh(pearson) + half))
