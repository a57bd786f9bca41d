"""Powers of the receptive field: fits, local slopes, and the asymptotic values of the paper."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy.stats

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Exponent:
    """Slope of log X against log A over n layers, from `first` to `last`.

    Attributes:
        stderr: of the least-squares slope, from the scatter about the line; on an exact curve it shows how
            far from a power law that is. None with two layers, through which every line passes.
        sampling: standard error from the choice of images, of the mean of fits to eighths of them; None if
            not known. It is the larger one on measured curves, whose layers err together.
    """

    value: float
    stderr: float | None
    n: int
    first: int
    last: int
    sampling: float | None = None


def asymptotic_exponents(stride: int) -> dict[str, float]:
    """Exponents in A at large depth and length of D, G and R, and of G and R without ReLU.

    Source: arXiv 2210.01506, Eqs 5 and 7 (stride 1: -2, 1, -3), 8 and 9 (stride F: -1, 1, -2).
    """
    d = -2.0 if stride == 1 else -1.0
    return {"d": d, "g": 1.0, "r": d - 1, "g_linear": 0.0, "r_linear": d}


def fit_exponent(width: npt.ArrayLike, value: Any, layers: Sequence[int] | None = None) -> Exponent | None:
    """Least squares of log X on log A; layers whose X is zero, nan or None are left out.

    Args:
        width: A_k of layers 1 to K.
        value: X of the same.
        layers: which to fit over, numbered from 1; by default all.

    Returns:
        None where fewer than two layers are left, or all have one width.

    Example:
        >>> fit_exponent([1, 2, 4, 8], [8, 4, 2, 1], layers=range(2, 5)).value
        -1.0
    """
    widths, values = np.asarray(width, dtype=np.float64), np.asarray(value, dtype=np.float64)
    asked = range(1, len(widths) + 1) if layers is None else layers
    used = [k for k in asked if 1 <= k <= len(widths) and values[k - 1] > 0 and widths[k - 1] > 0]
    if len({float(widths[k - 1]) for k in used}) < 2:
        return None
    index = np.array(used) - 1
    line = scipy.stats.linregress(np.log(widths[index]), np.log(values[index]))
    error = float(line.stderr) if len(used) > 2 else None
    return Exponent(float(line.slope), error, len(used), min(used), max(used))


def local_slopes(width: npt.ArrayLike, value: Any) -> Array:
    """d log X / d log A at every layer: (K,), second-order differences inside and one-sided at the ends.

    nan where a layer that is needed has no positive value.
    """
    widths, values = np.asarray(width, dtype=np.float64), np.asarray(value, dtype=np.float64)
    if len(widths) < 2:
        return np.full(len(widths), np.nan)
    logs = np.log(np.where(values > 0, values, np.nan))
    return np.asarray(np.gradient(logs, np.log(widths)))


def fitted_layers(depth: int, stride: int) -> range:
    """The layers that exponents are fitted over by default.

    Stride 1: the second half, as the powers hold at large k. Stride F: the second quarter (three layers at
    least), as the noise has to pile up first, and the patches must stay small beside xi and the image.
    """
    if stride == 1:
        return range(max(depth // 2, 1), depth + 1)
    first = max(depth // 4, 1)
    return range(first, min(max(depth // 2, first + 2), depth) + 1)


def power_law(width: npt.ArrayLike, value: npt.ArrayLike, exponent: float, layers: Sequence[int]) -> Array:
    """c A^exponent with c fitted to X over `layers`, on logs: (K,); nan where X has no value there."""
    widths, values = np.asarray(width, dtype=np.float64), np.asarray(value, dtype=np.float64)
    index = np.array([k - 1 for k in layers if values[k - 1] > 0], dtype=np.int64)
    if not len(index):
        return np.full(len(widths), np.nan)
    logs = exponent * np.log(widths)
    return np.asarray(np.exp(logs + np.mean(np.log(values[index]) - logs[index])))
