"""The homogeneous single-channel network, and sensitivities on pairs of pixels measured by running it."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import nn

from timm_diffsens.schema.layers import LayerSensitivity
from timm_diffsens.sensitivities.probe import Probe
from timm_diffsens.theory.pixel_pairs import PairImages
from timm_diffsens.theory.predictions import check_shape

_BATCH = 128


def homogeneous_network(depth: int, filter_size: int, stride: int = 1, *, relu: bool = True) -> nn.Sequential:
    """K convolutions (n, 1, length) -> (n, 1, length / stride^K), one channel, filter [1/F ... 1/F], float64.

    No bias; stride 1 has periodic borders, floor(F/2) places to the left and floor((F - 1)/2) to the right
    (arXiv 2210.01506, App. A), stride F needs none. The filters add up to 1; the paper scales them so that
    the norm is kept, which changes neither D, G nor R.

    Args:
        depth: K.
        filter_size: F.
        stride: 1 or F.
        relu: whether a ReLU follows each convolution.

    Raises:
        UsageError: a stride that is neither 1 nor F, fewer than one layer, or a filter below 2 pixels.
    """
    check_shape(depth, filter_size, stride)
    modules: list[nn.Module] = []
    for _ in range(depth):
        if stride == 1:
            modules.append(nn.CircularPad1d((filter_size // 2, (filter_size - 1) // 2)))
        convolution = nn.Conv1d(1, 1, filter_size, stride, bias=False, dtype=torch.float64)
        nn.init.constant_(convolution.weight, 1 / filter_size)
        modules += [convolution, *([nn.ReLU()] if relu else [])]
    return nn.Sequential(*modules).requires_grad_(False).eval()


@torch.no_grad()
def layer_outputs(network: nn.Sequential, images: torch.Tensor) -> list[torch.Tensor]:
    """What each ReLU of a `homogeneous_network` makes of images (n, 1, length): (n, 1, places)."""
    outputs = []
    for module in network:
        images = module(images)
        if isinstance(module, nn.ReLU):
            outputs.append(images)
    return outputs


@dataclass(frozen=True)
class MeasuredCurve:
    """Layers 1 to K of a network, and the same for the average over channels of each layer."""

    layers: list[LayerSensitivity]
    mean_channel: list[LayerSensitivity]


def measured_curve(model: nn.Module, images: Iterable[PairImages], rectified: bool = True) -> MeasuredCurve:
    """D, G and R of every convolution (after its activation) of any network on (n, 1, length).

    Args:
        model: trained or not; the images take the type and device of its parameters.
        images: batches from `PixelPairs.sample`.
        rectified: add phi(eta), the ReLU already applied, as the paper does for Fig. 7 (App. B.2); otherwise
            eta itself, white noise.
    """
    like = next(model.parameters(), torch.zeros((), dtype=torch.float64))
    with Probe(model, "convs", mean_channel=True) as probe, torch.no_grad():
        for part in images:
            eta = part.eta.relu() if rectified else part.eta
            three = [x.to(like) for x in (part.clean, part.deformed, part.clean + eta)]
            for batch in zip(*(torch.split(x, _BATCH) for x in three), strict=True):
                probe.model(torch.cat(batch))
    pairs = zip(probe.results(), probe.mean_channel_results(), strict=True)
    kept = [(own, mean) for own, mean in pairs if len(own.shape) == 2]  # maps over places
    return MeasuredCurve([own for own, _ in kept], [mean for _, mean in kept])
