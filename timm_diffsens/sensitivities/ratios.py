"""D, G and R of the sums over images, and how far they may be off."""

import math
from typing import Any

import torch
from scipy import special

from timm_diffsens.sensitivities.reductions.state import RunningSums


def values_of(sums: RunningSums, n: int, between: float, threshold: float, floor: float) -> dict[str, Any]:
    """Values and standard errors of one pair by their names in `LayerSensitivity`, or a reason.

    Args:
        sums: of the pair alone, see `RunningSums.of_pair`.
        n: number of images.
        between: mean square distance of two of them, the denominator of D and G.
        threshold, floor: square distances to the mean up to which there is no spread, but rounding of the
            layer, and of what it was made from.
    """
    finite = sums.totals.isfinite().all() and sums.products.isfinite().all()
    if not finite or not math.isfinite(between):
        return {"reason": "non-finite"}
    a, g, b = sums.totals.tolist()
    if between <= 2 * threshold or b == 0:
        return {"reason": "constant"}
    if between <= 2 * floor:
        return {"reason": "rounding alone"}
    d, noise = a / n / between, g / n / between
    share = b / (n - 1)  # equal to `between` in expectation
    products = (sums.products + cross_terms(sums.first, share)).tolist()
    values = {
        "d": d,
        "g": noise,
        "d_stderr": _ratio_stderr(products, 0, 2, d * between / share, n, between),
        "g_stderr": _ratio_stderr(products, 1, 2, noise * between / share, n, between),
    }
    if g == 0:
        return {**values, "reason": "noise does not move it"}
    return {**values, "r": a / g, "r_stderr": _ratio_stderr(products, 0, 1, a / g, n, g / n)}


def cross_terms(first: torch.Tensor, share: float) -> torch.Tensor:
    """What sums of products gain when the image (a_1, ..., g_K, 0) gets its share of the denominator."""
    b = torch.zeros_like(first)
    b[-1] = share
    return torch.outer(first, b) + torch.outer(b, first) + torch.outer(b, b)


def _ratio_stderr(
    products: list[list[float]], top: int, bottom: int, ratio: float, n: int, mean: float
) -> float:
    """Delta method for mean(x) / mean(y): sqrt(sum (x_i - ratio y_i)^2 / (n (n - 1))) / mean(y)."""
    square = products[top][top] - 2 * ratio * products[top][bottom] + ratio**2 * products[bottom][bottom]
    return math.sqrt(max(square, 0.0) / (n * (n - 1))) / mean


def log_ratio_spread(pairs: torch.Tensor) -> float | None:
    """Half the width of the 95 % interval of log(mean(a) / mean(g)); None where an image decides its sign.

    The jackknife over images with Student's t of n - 1 degrees of freedom (Tukey 1958). Of 20 images with
    lognormal distances it holds the truth in 93 to 94 %, the delta method in 89 to 91 %
    (docs/statistics.md).

    Args:
        pairs: (n, 2), a and g of each image, n at least 2.
    """
    n = len(pairs)
    without = (pairs.sum(dim=0) - pairs).clamp_min(0).log()
    logs = without[:, 0] - without[:, 1]
    if not bool(logs.isfinite().all()):
        return None
    return float(special.stdtrit(n - 1, 0.975)) * math.sqrt((n - 1) * float(logs.var(correction=0)))
