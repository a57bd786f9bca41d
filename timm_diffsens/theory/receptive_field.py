"""How far one pixel spreads: the effective receptive field A_k, measured, and Proposition A.1."""

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from timm_diffsens.theory.homogeneous import homogeneous_network, layer_outputs
from timm_diffsens.theory.predictions import effective_receptive_field

Array = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ReceptiveField:
    """A_k of one layer, in input pixels.

    Attributes:
        width: see `receptive_fields`.
        shift: mean displacement of the response along the circle (stride 1; nan with a stride).
    """

    width: float
    shift: float


def receptive_fields(
    network: nn.Sequential, length: int, positions: int | None = None
) -> list[ReceptiveField]:
    """A_k of every layer of a `homogeneous_network` on images (n, 1, length), measured by running it.

    Layers with as many places as the image (stride 1): the rms width along the circle of the response to
    pixel i, averaged over i. Layers with fewer: the number of pixels that one place of the layer pools,
    (sum_i w_i)^2 / sum_i w_i^2 with w_i its response to pixel i, averaged over places; F^k for homogeneous
    filters. Both equal `effective_receptive_field`.

    Args:
        network: its filters may have other weights, not negative.
        length: in pixels.
        positions: measure the rms width on so many pixels, evenly spread, rather than all. Pooled pixels need
            all.
    """
    pixels = np.linspace(0, length - 1, min(positions or length, length)).round().astype(np.int64)
    images = torch.zeros(len(pixels), 1, length, dtype=torch.float64)
    images[torch.arange(len(pixels)), 0, torch.from_numpy(pixels)] = math.sqrt(length / 2)
    responses = [output[:, 0].numpy() for output in layer_outputs(network, images)]
    return [_spread(r, pixels) if r.shape[1] == length else _pooled(r) for r in responses]


def _spread(response: Array, pixels: npt.NDArray[np.int64]) -> ReceptiveField:
    """Mean and variance of the offset from the pixel, with the circle cut opposite to the response's centre.

    Args:
        response: (pixels, length), not negative.
        pixels: where each row's pixel is.
    """
    length = response.shape[1]
    share = response / response.sum(axis=1, keepdims=True)
    angle = np.angle(share @ np.exp(2j * np.pi * np.arange(length) / length))
    middle = np.round(angle * length / (2 * np.pi)).astype(np.int64)[:, None]
    offset = (np.arange(length) - middle + length // 2) % length - length // 2
    mean = (share * offset).sum(axis=1)
    variance = (share * offset**2).sum(axis=1) - mean**2
    shift = (middle[:, 0] + mean - pixels + length / 2) % length - length / 2
    return ReceptiveField(float(np.sqrt(max(variance.mean(), 0))), float(shift.mean()))


def _pooled(response: Array) -> ReceptiveField:
    """(sum w)^2 / sum w^2 of every place over all pixels; response (pixels, places)."""
    number = response.sum(axis=0) ** 2 / (response**2).sum(axis=0)
    return ReceptiveField(float(number.mean()), math.nan)


# ---- Proposition A.1


@dataclass(frozen=True)
class Diffusion:
    """The Gaussian that a pixel turns into after `layers` layers of stride 1, in pixels: one row of a table.

    Variance 2 D k and centre i - v k with diffusion constant D and drift v.
    """

    filter_size: int
    layers: int
    constant_printed: float
    constant_exact: float
    drift_printed: float
    drift_exact: float
    drift_measured: float
    width_printed: float
    width_exact: float
    width_measured: float


def diffusion(filter_size: int, layers: int) -> Diffusion:
    """Proposition A.1 for one filter size: printed and exact constants, and the width of the network itself.

    Printed: D = (F - 1)^3 / (12 F), v = 0 for odd F; D = (F^3 - 3 F^2 + 6 F - 4) / (12 F),
    v = (1 - F) / (2 F) for even F: the integrals of x^2 / F and x / F over the patch. Exact: a step is
    uniform over F places, so its mean is v = 0 for odd F and -1/2 for even F (places -F/2 to F/2 - 1), and
    its variance is (F^2 - 1) / 12; as the variance after k steps is 2 D k, D = (F^2 - 1) / 24. The printed D
    has the integral for the sum, no factor 1/2, and for even F is taken about 0 instead of the mean. It is
    2/3 of the exact one for F = 3, and twice as large for large F.

    Raises:
        UsageError: a filter below 2 pixels, or no layer.
    """
    exact = effective_receptive_field(layers, filter_size)
    f, odd = filter_size, filter_size % 2 == 1
    printed = (f - 1) ** 3 / (12 * f) if odd else (f**3 - 3 * f**2 + 6 * f - 4) / (12 * f)
    length = 2 * filter_size * layers  # the response never wraps
    measured = receptive_fields(homogeneous_network(layers, filter_size), length, positions=1)[-1]
    return Diffusion(
        filter_size=f,
        layers=layers,
        constant_printed=printed,
        constant_exact=(f**2 - 1) / 24,
        drift_printed=0.0 if odd else (1 - f) / (2 * f),
        drift_exact=0.0 if odd else -0.5,
        drift_measured=-measured.shift / layers,
        width_printed=math.sqrt(2 * printed * layers),
        width_exact=exact,
        width_measured=measured.width,
    )
