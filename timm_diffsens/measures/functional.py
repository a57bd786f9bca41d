"""D, G and R of plain arrays: Eq. 1 of the paper, one to one."""

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


def sensitivity(clean: Any, moved: Any, noised: Any) -> Sensitivity:
    """D, G and R of a representation on n images: arrays or tensors (n, ...) -> (d, g, r).

        D = E ||f(tau x) - f(x)||^2 / E ||f(x1) - f(x2)||^2,
        G = E ||f(x + eta) - f(x)||^2 / E ||f(x1) - f(x2)||^2,   R = D / G

    Source: arXiv 2210.01506, Section 1. The denominator is over distinct pairs, so it is unbiased: by
    sum over i != j of ||f_i - f_j||^2 = 2 n sum over i of ||f_i - mean||^2 it equals 2 tr Cov with Cov the
    sample covariance. (The authors' code averages all n^2 pairs, the zero diagonal too: smaller by
    (n - 1)/n.) D and G are ratios of unbiased means, so biased at order 1/n.

    A constant representation gives nan (0/0), as does R where noise does not move it.

    Raises:
        UsageError: the shapes differ, or there are fewer than two images.

    Example:
        >>> import numpy as np
        >>> from timm_diffsens import sensitivity
        >>> clean = np.array([[0.0, 0.0], [2.0, 0.0]])
        >>> sensitivity(clean, clean + [1, 0], clean + [0, 2])
        Sensitivity(d=0.25, g=1.0, r=0.25)
    """
    arrays = [_rows(a) for a in (clean, moved, noised)]
    if len({a.shape for a in arrays}) > 1:
        raise UsageError(f"shapes differ: {', '.join(str(np.shape(a)) for a in (clean, moved, noised))}")
    f, f_moved, f_noised = arrays
    if len(f) < 2:
        raise UsageError(f"the denominator needs at least 2 images, got {len(f)}")
    denominator = mean_pair_distance(f)
    with np.errstate(divide="ignore", invalid="ignore"):
        numerator_d, numerator_g = mean_square(f_moved - f), mean_square(f_noised - f)
        values = numerator_d / denominator, numerator_g / denominator, numerator_d / numerator_g
    return Sensitivity(*(float(v) for v in values))


def mean_square(rows: Array) -> np.float64:
    """E ||row||^2."""
    return np.mean(np.sum(rows**2, axis=1), dtype=np.float64)


def mean_pair_distance(rows: Array) -> np.float64:
    """E ||f(x1) - f(x2)||^2 over distinct pairs = 2 / (n - 1) sum ||f_i - mean||^2."""
    rows = rows - rows[0]  # a constant representation is then zero exactly, not to rounding
    return np.sum((rows - rows.mean(axis=0)) ** 2, dtype=np.float64) * 2 / (len(rows) - 1)


def _rows(array: Any) -> Array:
    """(n, ...) of any kind -> (n, d) in float64."""
    if hasattr(array, "detach"):
        array = array.detach().cpu()
        array = array.double() if array.is_floating_point() else array
    rows = np.asarray(array, dtype=np.float64)
    if rows.ndim == 0:
        raise UsageError("expected an array (n, ...), got a single number")
    return rows.reshape(len(rows), -1)
