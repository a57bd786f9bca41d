"""Exact D, G and R of the homogeneous single-channel network.

Source: arXiv 2210.01506, Section 4 and App. A. The network has filters [1/F, ..., 1/F] in every layer, no
bias, ReLU, stride 1 with periodic borders or stride F. Everything it is given here but unrectified noise is
non-negative, so its layer k is linear: f_k(x) = M_k x with M_k the product of k layer matrices.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from timm_diffsens.errors import UsageError
from timm_diffsens.theory.pixel_pairs import PixelPairs

Array = npt.NDArray[np.float64]

_CONSTANT = 1e-12  # a variance below this share of the mean square is rounding
# E phi(g)^2 = 1/2 and (E phi(g))^2 = 1/(2 pi) of a rectified standard normal number
_SQUARE, _MEAN_SQUARED = 0.5, 1 / (2 * np.pi)


@dataclass(frozen=True)
class Curve:
    """Sensitivities of layers 1 to K; nan where a layer is constant over the images.

    Attributes:
        width: A_k in input pixels.
        d, g, r: with the noise rectified, phi(eta), before it is added (Eqs 4 to 9).
        g_linear, r_linear: with the noise as it is, in the network without its ReLUs.
    """

    width: Array
    d: Array
    g: Array
    r: Array
    g_linear: Array
    r_linear: Array


def effective_receptive_field(layer: int, filter_size: int, stride: int = 1) -> float:
    """A_k of the homogeneous network, in input pixels.

    Stride 1: the rms width of a single pixel's response. A layer adds a step that is uniform over F places,
    so the variance is k (F^2 - 1) / 12 exactly, as long as the response does not wrap around. Stride F: the
    number of pixels that are pooled, F^k.

    Raises:
        UsageError: fewer than 1 layer, a filter below 2 pixels, or a stride that is neither 1 nor F.
    """
    check_shape(layer, filter_size, stride)
    if stride == 1:
        return float(np.sqrt(layer * (filter_size**2 - 1) / 12))
    return float(filter_size**layer)


def exact_curve(pairs: PixelPairs, depth: int, filter_size: int, stride: int = 1) -> Curve:
    """D_k, G_k and R_k at finite depth and length, without asymptotics or sampling.

        D_k = E ||M_k (tau x - x)||^2 / 2 tr Cov(M_k x),   G_k = E ||M_k phi(eta)||^2 / 2 tr Cov(M_k x)

    over independent draws of x from `pairs`, as in Eq. 1. All are traces tr(M_k S M_k^T) of second moments
    S that are known exactly (`energies`). The noise is uniform on the sphere ||eta|| = ||tau x - x||. By
    symmetry E phi(eta_i)^2 = s^2 / 2 and, as the direction of a Gaussian vector is independent of its norm,
    E phi(eta_i) phi(eta_j) = s^2 / (2 pi), with s^2 = E ||tau x - x||^2 / length: the same second moments as
    for independent Gaussian numbers of variance s^2, exactly. So the numerator of G is the sum of
    s^2 / (2 pi) ||M_k 1||^2, which piles up, and (1/2 - 1/(2 pi)) s^2 tr(M_k M_k^T), which averages out;
    the latter with a factor 1 is all there is of unrectified noise (`g_linear`).

    Raises:
        UsageError: a filter, stride, depth or length that do not fit together.
    """
    check_shape(depth, filter_size, stride)
    _check_length(pairs.length, depth, filter_size, stride)

    def energy(moment: Array) -> Array:
        return energies(moment, depth, filter_size, stride)

    shift = pairs.shift_moment()
    variance = float(np.trace(shift)) / pairs.length  # s^2 / a^2
    alone = variance * energy(np.eye(pairs.length))
    together = variance * energy(np.ones((pairs.length, pairs.length)))
    top_d, top_g = energy(shift), (_SQUARE - _MEAN_SQUARED) * alone + _MEAN_SQUARED * together
    bottom, size = 2 * energy(pairs.image_covariance()), energy(pairs.image_moment())
    bottom = np.where(bottom > _CONSTANT * size, bottom, np.nan)
    top_d = np.where(top_d > _CONSTANT * size, top_d, 0)
    width = [effective_receptive_field(k, filter_size, stride) for k in range(1, depth + 1)]
    r, r_linear = (np.where(np.isnan(bottom), np.nan, top_d / top) for top in (top_g, alone))
    return Curve(np.array(width), top_d / bottom, top_g / bottom, r, alone / bottom, r_linear)


def energies(moment: Array, depth: int, filter_size: int, stride: int = 1) -> Array:
    """tr(M_k S M_k^T) = E ||M_k v||^2 for k = 1 to `depth`, for S = E[v v^T] (length, length): (depth,).

    Stride 1: M_k is the k-th power of a circulant matrix; in the Fourier basis it multiplies mode f by
    lambda_f^k, so the trace is the sum of |lambda_f|^2k times the power of v in that mode. Stride F:
    S_k = M S_{k-1} M^T, the averages of S_{k-1} over F x F blocks.
    """
    length = len(moment)
    if stride == 1:
        power = np.fft.fft(_circulant_part(moment)).real / length
        squared = np.abs(np.fft.fft(_kernel(length, filter_size))) ** 2
        return np.array([(squared**k * power).sum() for k in range(1, depth + 1)])
    traces = []
    for _ in range(depth):
        n = len(moment) // filter_size
        moment = moment.reshape(n, filter_size, n, filter_size).mean(axis=(1, 3))
        traces.append(np.trace(moment))
    return np.array(traces)


def _kernel(length: int, filter_size: int) -> Array:
    """First column of M: the response to a pixel at 0."""
    kernel = np.zeros(length)
    kernel[(np.arange(filter_size) - (filter_size - 1) // 2) % length] = 1 / filter_size
    return kernel


def _circulant_part(moment: Array) -> Array:
    """(length,): the sum over i of S[i, i + r]; all that a translation-invariant trace depends on."""
    every = np.arange(len(moment))
    return np.array([moment[every, (every + r) % len(every)].sum() for r in every])


def check_shape(depth: int, filter_size: int, stride: int) -> None:
    """Refuse a network that is none.

    Raises:
        UsageError: a stride that is neither 1 nor F, fewer than one layer, or a filter below 2 pixels.
    """
    if depth < 1 or filter_size < 2:
        raise UsageError(f"expected at least 1 layer and 2 pixels a filter, got {depth} and {filter_size}")
    if stride not in (1, filter_size):
        raise UsageError(f"stride must be 1 or the filter size {filter_size}, got {stride}")


def _check_length(length: int, depth: int, filter_size: int, stride: int) -> None:
    if stride == 1 and filter_size > length:
        raise UsageError(f"a filter of {filter_size} pixels does not fit on a circle of {length}")
    if stride > 1 and length % filter_size**depth:
        raise UsageError(
            f"{depth} layers of stride {filter_size} need a length divisible by {filter_size**depth}, "
            f"got {length}"
        )
