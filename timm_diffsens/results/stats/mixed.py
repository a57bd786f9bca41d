"""A line with a random intercept for each family: y = a + b x + u(family) + e, u and e normal."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import optimize

from timm_diffsens.results.stats.resampling import Array

_MOST_LOG_RATIO = 12.0  # of the variance between families to that within
_FEWEST_WITHIN = 4  # degrees of freedom of the variance within families, for what a family's networks tell


@dataclass(frozen=True)
class RandomIntercept:
    """The fit by restricted maximum likelihood, the ratio of the two variances profiled.

    Source: Bates et al. 2015, Section 3.

    Attributes:
        coefficients: a and b. covariance: of their errors, (2, 2).
        variance: of e. ratio: variance of u over it.
        names: of the families, sorted. sizes: networks of each. x_means, rest: mean of x in each, and of
            y - a - b x.
    """

    coefficients: Array
    covariance: Array
    variance: float
    ratio: float
    names: Array | npt.NDArray[np.str_]
    sizes: npt.NDArray[np.intp]
    x_means: Array
    rest: Array

    @classmethod
    def of(cls, x: Array, y: Array, families: Array) -> "RandomIntercept":
        """Fit networks (n,), of families (n,); where each family has one network there is no u beside e."""
        names, place, sizes = np.unique(families, return_inverse=True, return_counts=True)
        design = np.column_stack([np.ones(len(x)), x])

        def fit(ratio: float) -> tuple[float, Array, Array, float]:
            """Criterion, coefficients, their covariance and the variance within at a ratio."""
            shrink = (ratio / (1 + ratio * sizes))[place]

            def weighted(values: Array) -> Array:
                sums = np.array([np.bincount(place, column) for column in values.T])[:, place].T
                solved: Array = values - shrink[:, None] * sums
                return solved

            precision = design.T @ weighted(design)
            coefficients = np.linalg.solve(precision, weighted(design).T @ y)
            rest = (y - design @ coefficients)[:, None]
            variance = float((rest.T @ weighted(rest))[0, 0]) / (len(x) - 2)
            logs = np.log1p(ratio * sizes).sum() + np.linalg.slogdet(precision)[1]
            criterion = (len(x) - 2) * np.log(max(variance, np.finfo(float).tiny)) + logs
            return float(criterion), coefficients, variance * np.linalg.inv(precision), variance

        ratio = 0.0
        if sizes.max() > 1:
            bounds = (-_MOST_LOG_RATIO, _MOST_LOG_RATIO)
            best = optimize.minimize_scalar(lambda log: fit(np.exp(log))[0], bounds=bounds, method="bounded")
            ratio = float(np.exp(best.x))
        _, coefficients, covariance, variance = fit(ratio)
        x_means, rest = (np.bincount(place, values) / sizes for values in (x, y - design @ coefficients))
        return cls(coefficients, covariance, variance, ratio, names, sizes, x_means, rest)

    def predict(self, x: float, family: str | None = None) -> tuple[float, float, float]:
        """y of a network that was not in the fit, the standard error of that, and its degrees of freedom.

        Of a family in the fit it is its best linear unbiased prediction; of another one u is new. The
        degrees of freedom of the sum of the two variances are Satterthwaite's: that between families has as
        many as there are families beyond the line, that within as many as networks beyond the families.

        Where families have hardly more than one network each, the variance within them is not known, and
        every family counts as new.

        Args:
            x: of the network. family: None for one that is not in the fit.
        """
        count, n = len(self.sizes), int(self.sizes.sum())
        at = np.array([1.0, x])
        value, between = float(at @ self.coefficients), self.ratio
        known = np.flatnonzero((self.names == family) & tells_of_families(n, count))
        mean_size = n / count
        if len(known):
            k = known[0]
            share = self.ratio * self.sizes[k] / (1 + self.ratio * self.sizes[k])
            value += share * float(self.rest[k])
            at = at - share * np.array([1.0, self.x_means[k]])
            between = self.ratio * (1 - share)
        # the mean of a family varies by ratio + 1 / size: what is known of u comes with a part of e
        parts = (between + 1 / mean_size, count - 2), (1 - 1 / mean_size, n - count - 1)
        whole = between + 1
        freedom = whole**2 / sum(part**2 / max(each, 1) for part, each in parts)
        error = np.sqrt(self.variance * whole + at @ self.covariance @ at)
        return value, float(error), float(freedom)


def tells_of_families(networks: int, families: int) -> bool:
    """Whether so many networks tell what families have in common: the line takes one of the two."""
    return networks - families - 1 >= _FEWEST_WITHIN
