"""Networks of one family are not independent: what their families leave of a correlation."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import special

from timm_diffsens.results.stats.mixed import RandomIntercept
from timm_diffsens.results.stats.resampling import EXACT, MANY, Array, Weightings

FEWEST_FAMILIES = 3  # that an interval over families needs
FOR_VARIANCE = 5  # families that a variance between families needs
_TOGETHER = 2**20  # numbers in memory at a time
_MOST_DRAWN, _FEWEST_DRAWS = 2**22, 400  # numbers permuted, and permutations, where networks are many
_LARGEST = 1 - 1e-12  # correlation that still has a Fisher z


@dataclass(frozen=True)
class Jackknifed:
    """A value with its 95 % interval and the p-value of zero (two-sided); NaN below three families."""

    value: float
    low: float = np.nan
    high: float = np.nan
    p: float = np.nan


@dataclass(frozen=True)
class _WithoutEach:
    """What `leave_families_out` gives, without holding it."""

    place: npt.NDArray[np.intp]

    def __matmul__(self, values: Array) -> Array:
        sums = np.column_stack([np.bincount(self.place, column) for column in values.T])
        left = len(values) - np.bincount(self.place)[:, None]
        total = values.sum(axis=0, keepdims=True)
        return np.concatenate([total / len(values), np.where(left, total - sums, 0) / np.maximum(left, 1)])


def leave_families_out(families: Array) -> Array | Weightings:
    """Weightings of the networks: all of them, then without each family; (1 + families, n), rows sum to 1."""
    _, place = np.unique(families, return_inverse=True)
    count = place.max(initial=-1) + 1
    if len(place) > MANY:
        return _WithoutEach(place)
    kept = np.vstack([np.ones(len(place)), place != np.arange(count)[:, None]])
    weights: Array = kept / np.maximum(kept.sum(axis=1, keepdims=True), 1)
    return weights


def jackknife(statistic: Array) -> Jackknifed:
    """Interval of a statistic by leaving out whole families.

    The delete-a-group jackknife (Kott 2001), with Student's t of families - 1 degrees of freedom. With few
    families a bootstrap of whole families is too short: of 6 families of 3 networks it holds the truth in 80
    to 90 % of boards, this one in 93 to 96 % (docs/statistics.md).

    Args:
        statistic: (1 + families,), in the order of `leave_families_out`; of all networks first.
    """
    value, without = float(statistic[0]), statistic[1:]
    count = len(without)
    if count < FEWEST_FAMILIES or not np.isfinite(statistic).all():
        return Jackknifed(value)
    error = float(np.sqrt((count - 1) / count * np.sum((without - without.mean()) ** 2)))
    if error <= EXACT * max(abs(value), 1.0):
        return Jackknifed(value, value, value, float(abs(value) <= EXACT))
    half = float(special.stdtrit(count - 1, 0.975)) * error
    return Jackknifed(
        value, value - half, value + half, 2 * float(special.stdtr(count - 1, -abs(value) / error))
    )


def jackknife_rho(rho: Array) -> Jackknifed:
    """The same for correlations, through Fisher's z, in which errors hardly depend on the value."""
    found = jackknife(np.arctanh(np.clip(rho, -_LARGEST, _LARGEST)))
    return Jackknifed(float(rho[0]), float(np.tanh(found.low)), float(np.tanh(found.high)), found.p)


def within_families(x: Array, y: Array, families: Array, draws: int, seed: int) -> tuple[float, float]:
    """Correlation of what is left after the means of families, and its p: y permuted inside of families.

    Exact but for the number of permutations, whatever the distributions. NaN without four networks that have
    others of their family, or where nothing varies in families.

    Args:
        x, y: (n,), logarithms. families: (n,).
        draws: permutations. seed: of these.
    """
    _, place, sizes = np.unique(families, return_inverse=True, return_counts=True)
    draws = min(draws, max(_FEWEST_DRAWS, _MOST_DRAWN // len(place)))
    order = np.argsort(place, kind="stable")
    order = order[sizes[place[order]] > 1]
    place = place[order]
    if len(order) < 4:
        return np.nan, np.nan
    x, y = (_without_means(values[order], place) for values in (x, y))
    scale = float(np.sqrt(np.sum(x**2) * np.sum(y**2)))
    if scale <= EXACT:
        return np.nan, np.nan
    rng, permuted = np.random.default_rng(seed), np.empty(draws)
    together = max(_TOGETHER // len(order), 1)  # draws of a block: all of them may be more than the memory
    for first in range(0, draws, together):
        block = permuted[first : first + together]
        keys = rng.random((len(block), len(order))) + place  # sorts inside of families
        block[:] = np.abs(y[np.argsort(keys, axis=1)] @ x) / scale
    rho = float(x @ y) / scale
    return rho, float((1 + np.sum(permuted >= abs(rho) - EXACT)) / (1 + draws))


def _without_means(values: Array, place: npt.NDArray[np.intp]) -> Array:
    centred: Array = values - (np.bincount(place, values) / np.maximum(np.bincount(place), 1))[place]
    return centred


def random_intercept(x: Array, y: Array, families: Array) -> Jackknifed:
    """Slope b of y = a + b x + u(family) + e, u and e normal, by restricted maximum likelihood.

    See `mixed.RandomIntercept`. Student's t has as many degrees of freedom as there are networks beyond the
    families and the slope. NaN below five families, or with one network each.

    Args:
        x, y: (n,), logarithms. families: (n,).
    """
    families = np.asarray(families)
    count = len(np.unique(families))
    freedom = len(x) - count - 1
    if count < FOR_VARIANCE or freedom < 2:
        return Jackknifed(np.nan)
    found = RandomIntercept.of(x, y, families)
    slope, error = float(found.coefficients[1]), float(np.sqrt(found.covariance[1, 1]))
    half = float(special.stdtrit(freedom, 0.975)) * error
    p = 2 * float(special.stdtr(freedom, -abs(slope) / error)) if error else float(slope == 0)
    return Jackknifed(slope, slope - half, slope + half, p)
