"""D, G and R of plain arrays: Eq. 1 of the paper, one to one."""

import math
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from timm_diffsens.errors import UsageError

Array = npt.NDArray[np.float64]


class Sensitivity(NamedTuple):
    """D (deformation), G (noise) and R = D / G."""

    d: float
    g: float
    r: float


def sensitivity(clean: Any, deformed: Any, noised: Any) -> Sensitivity:
    """D, G and R of a representation on n images: arrays or tensors (n, ...) -> (d, g, r).

        D = E ||f(tau x) - f(x)||^2 / E ||f(x1) - f(x2)||^2,
        G = E ||f(x + eta) - f(x)||^2 / E ||f(x1) - f(x2)||^2,   R = D / G

    Source: arXiv 2210.01506, Section 1. The denominator is over distinct pairs, so it is unbiased: by
    sum over i != j of ||f_i - f_j||^2 = 2 n sum over i of ||f_i - mean||^2 it equals 2 tr Cov with Cov the
    sample covariance. (The authors' code averages all n^2 pairs, the zero diagonal too: smaller by
    (n - 1)/n.) D and G are ratios of unbiased means, so biased at order 1/n.

    A constant representation gives nan for D and G, as does R where noise does not move it. Numbers that are
    not finite, or whose squares are not, give nan or inf, never a finite value.

    Raises:
        UsageError: the shapes differ, or there are fewer than two images.

    Example:
        >>> import numpy as np
        >>> from timm_diffsens import sensitivity
        >>> clean = np.array([[0.0, 0.0], [2.0, 0.0]])
        >>> sensitivity(clean, clean + [1, 0], clean + [0, 2])
        Sensitivity(d=0.25, g=1.0, r=0.25)
    """
    arrays = [_array(a) for a in (clean, deformed, noised)]
    if len({a.shape for a in arrays}) > 1:
        raise UsageError(f"shapes differ: {', '.join(str(a.shape) for a in arrays)}")
    if arrays[0].ndim == 0:
        raise UsageError("expected arrays (n, ...), got single numbers")
    n = len(arrays[0])
    if n < 2:
        raise UsageError(f"the denominator needs at least 2 images, got {n}")
    f, f_deformed, f_noised = (a.reshape(n, -1) for a in arrays)
    with np.errstate(invalid="ignore", over="ignore"):
        denominator = mean_pair_distance(f)
        numerator_d, numerator_g = mean_square(f_deformed - f), mean_square(f_noised - f)
        return Sensitivity(
            _ratio(numerator_d, denominator),
            _ratio(numerator_g, denominator),
            _ratio(numerator_d, numerator_g),
        )


def mean_square(rows: Array) -> np.float64:
    """E ||row||^2."""
    return np.mean(np.sum(rows**2, axis=1), dtype=np.float64)


def mean_pair_distance(rows: Array) -> np.float64:
    """E ||f(x1) - f(x2)||^2 over distinct pairs = 2 / (n - 1) sum ||f_i - mean||^2."""
    rows = rows - rows[0]  # a constant representation is then zero exactly, not to rounding
    return np.sum((rows - rows.mean(axis=0)) ** 2, dtype=np.float64) * 2 / (len(rows) - 1)


def _ratio(top: np.float64, bottom: np.float64) -> float:
    return float(top / bottom) if 0 < bottom < math.inf else math.nan


def _array(array: Any) -> Array:
    """An array, tensor or nested list in float64."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        array = array.double() if array.is_floating_point() else array
    return np.asarray(array, dtype=np.float64)
