"""Convolution filters on the eigenvectors of the grid Laplacian."""

import itertools
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import scipy.fft

from timm_diffsens.errors import UsageError

Array = npt.NDArray[np.float64]

_EQUAL = 1e-9  # eigenvalues of the grid are at most 4 a dimension; equal ones differ by rounding only


class FilterSpectrum(NamedTuple):
    """How a layer's filters are spread over spatial frequencies.

    Attributes:
        eigenvalues: of the modes, ascending. power: gamma, the mean squared projection on each mode.
        low_frequency_share: share of the constant mode in the total power.
        mean_frequency: power-weighted mean eigenvalue.
        levels: the distinct eigenvalues. level_power: power summed over the modes of each, which, unlike
            that of a single mode in a degenerate pair, does not depend on the choice of eigenvectors.
    """

    eigenvalues: Array
    power: Array
    low_frequency_share: float
    mean_frequency: float
    levels: Array
    level_power: Array


def filter_spectrum(weight: Any) -> FilterSpectrum:
    """gamma_l = mean over (c, c') of the squared projection of each filter on the l-th eigenvector.

    The eigenvectors are those of the Laplacian of the fh x fw grid with free borders, ordered by eigenvalue.
    That Laplacian is a sum of two path Laplacians, whose eigenvectors are the DCT-II cosines, so the
    projections are an orthonormal two-dimensional DCT-II, and the eigenvalue of mode (i, j) is
    (2 - 2 cos(pi i / fh)) + (2 - 2 cos(pi j / fw)). Source: arXiv 2210.01506, Eq. 3 and Fig. 4.

    Args:
        weight: (out, in / groups, fh, fw), array or tensor; (out, in / groups, f) in one dimension.

    Raises:
        UsageError: fewer than three dimensions, an empty weight, or only zeros (no shares exist).

    Example:
        >>> import numpy as np
        >>> from timm_diffsens import filter_spectrum
        >>> flat = filter_spectrum(np.ones((4, 2, 3, 3)))
        >>> round(flat.low_frequency_share, 6), round(abs(flat.mean_frequency), 6)
        (1.0, 0.0)
        >>> len(flat.eigenvalues), len(flat.levels)
        (9, 6)
    """
    array = np.asarray(
        weight.detach().cpu().double() if hasattr(weight, "detach") else weight, dtype=np.float64
    )
    if array.ndim < 3 or array.size == 0:
        raise UsageError(f"expected a convolution weight (out, in / groups, fh, fw), got shape {array.shape}")
    kernel = array.shape[2:]
    projections = scipy.fft.dctn(array, type=2, norm="ortho", axes=tuple(range(2, array.ndim)))
    power = (projections**2).mean(axis=(0, 1)).ravel()
    if not np.isfinite(power).all() or power.sum() == 0:
        raise UsageError("the filters are all zero or not finite: their power has no shares")
    eigenvalues = laplacian_eigenvalues(kernel)
    order = np.argsort(eigenvalues, kind="stable")
    eigenvalues, power = eigenvalues[order], power[order]
    starts = np.flatnonzero(np.diff(eigenvalues, prepend=-1.0) > _EQUAL)
    return FilterSpectrum(
        eigenvalues,
        power,
        float(power[0] / power.sum()),
        float((eigenvalues * power).sum() / power.sum()),
        eigenvalues[starts],
        np.add.reduceat(power, starts),
    )


def laplacian_eigenvalues(kernel: tuple[int, ...]) -> Array:
    """Eigenvalue of each mode (i, j, ...) of a grid with free borders, in C order."""
    along = [2 - 2 * np.cos(np.pi * np.arange(size) / size) for size in kernel]
    return np.array([sum(values) for values in itertools.product(*along)])
