"""Filters averaged over channels, layer by layer: Tables 1 and 2 of the paper."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from torch import nn

from timm_diffsens.errors import UsageError

Array = npt.NDArray[np.float64]

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@dataclass(frozen=True)
class MeanFilter:
    """One convolution's filter, averaged over output and input channels.

    Attributes:
        layer: name of the module.
        filter: (f,), (fh, fw) or (fd, fh, fw).
        shares: the same divided by the sum of its entries, 1 / size each if homogeneous; None if that is 0.
        variation: standard deviation of the entries over the absolute value of their mean; None if that is 0.
        constant_share: share of the constant mode in the filter's squared norm, size * mean^2 / sum of
            squares = 1 / (1 + variation^2): 1 if homogeneous, 0 if the entries cancel; None if all are 0.
    """

    layer: str
    filter: Array
    shares: Array | None
    variation: float | None
    constant_share: float | None


def mean_filters_by_layer(model: nn.Module) -> list[MeanFilter]:
    """The average filter of every convolution larger than 1 x 1, in order of definition.

    Source: arXiv 2210.01506, App. B.2, Tables 1 and 2: whether a trained network behaves as one channel with
    homogeneous positive filters. In networks at initialisation the average over n filters is a random filter
    with entries of order n^(-1/2), so `constant_share` is 1 / size on average there.

    Raises:
        UsageError: the network has no such convolution.
    """
    found = [
        mean_filter(name, module.weight.detach().double().cpu().numpy())
        for name, module in model.named_modules()
        if isinstance(module, CONVOLUTIONS) and math.prod(module.weight.shape[2:]) > 1
    ]
    if not found:
        raise UsageError(f"{type(model).__name__} has no convolution larger than one pixel")
    return found


def mean_filter(layer: str, weight: Array) -> MeanFilter:
    """The same for a weight (out, in / groups, ...)."""
    average = weight.mean(axis=(0, 1))
    mean, squares = float(average.mean()), float((average**2).sum())
    return MeanFilter(
        layer,
        average,
        average / average.sum() if average.sum() else None,
        float(average.std() / abs(mean)) if mean else None,
        average.size * mean**2 / squares if squares else None,
    )
