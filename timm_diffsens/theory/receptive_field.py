"""How far one pixel spreads: the effective receptive field A_k, measured, and Proposition A.1."""

import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from timm_diffsens.device.evaluation import evaluating
from timm_diffsens.errors import UsageError
from timm_diffsens.models.containers import tensors
from timm_diffsens.models.layers import Layer, select_layers
from timm_diffsens.models.trace import call_name, trace
from timm_diffsens.theory.homogeneous import homogeneous_network
from timm_diffsens.theory.predictions import effective_receptive_field

Array = npt.NDArray[np.float64]

_BATCH = 64


@dataclass(frozen=True)
class ReceptiveField:
    """A_k of one layer, in input pixels; nan where the layer does not respond.

    Attributes:
        layer: its name.
        width: see `receptive_fields`.
        shift: mean displacement of the response along the circle (stride 1; nan with a stride).
    """

    layer: str
    width: float
    shift: float


def receptive_fields(model: nn.Module, length: int, positions: int | None = None) -> list[ReceptiveField]:
    """A_k of every convolution of a network on images (n, 1, length) with periodic borders.

    The response to a pixel is the change that it makes on an empty image, |f_k(a delta_i) - f_k(0)| summed
    over channels, with a = sqrt(length / 2). Layers with as many places as the image (stride 1): the rms
    width of that response along the circle, averaged over i. Layers with fewer: the number of pixels that
    one place of the layer pools, (sum_i w_i)^2 / sum_i w_i^2 with w_i its response to pixel i, averaged over
    places; F^k for homogeneous filters. In the homogeneous network both equal `effective_receptive_field`.

    Args:
        model: takes (n, 1, length) of the type of its parameters.
        length: in pixels.
        positions: measure the rms width on so many pixels, evenly spread, rather than all: enough where the
            network is translation-equivariant. Pooled pixels always need all.

    Raises:
        UsageError: no convolution makes (channels, places).
    """
    pixels = np.arange(length)
    if positions is not None and positions < length:
        pixels = np.unique(np.linspace(0, length - 1, positions).round().astype(np.int64))
    responses = _responses(model, length, pixels)
    if any(response.shape[1] < length for response in responses.values()) and len(pixels) < length:
        pixels = np.arange(length)
        responses = _responses(model, length, pixels)
    return [
        _spread(name, response, pixels) if response.shape[1] == length else _pooled(name, response)
        for name, response in responses.items()
    ]


def _spread(name: str, response: Array, pixels: npt.NDArray[np.int64]) -> ReceptiveField:
    """Mean and variance of the offset from the pixel, with the circle cut opposite to the response's centre.

    Args:
        name: of the layer.
        response: (pixels, length), not negative.
        pixels: where each row's pixel is.
    """
    length = response.shape[1]
    total = response.sum(axis=1)
    if not (total > 0).all():
        return ReceptiveField(name, math.nan, math.nan)
    share = response / total[:, None]
    angle = np.angle(share @ np.exp(2j * np.pi * np.arange(length) / length))
    middle = np.round(angle * length / (2 * np.pi)).astype(np.int64)[:, None]
    offset = (np.arange(length) - middle + length // 2) % length - length // 2
    mean = (share * offset).sum(axis=1)
    variance = (share * offset**2).sum(axis=1) - mean**2
    shift = (middle[:, 0] + mean - pixels + length / 2) % length - length / 2
    return ReceptiveField(name, float(np.sqrt(max(variance.mean(), 0))), float(shift.mean()))


def _pooled(name: str, response: Array) -> ReceptiveField:
    """(sum w)^2 / sum w^2 of every place over all pixels; response (pixels, places)."""
    squares = (response**2).sum(axis=0)
    alive = squares > 0
    if not alive.any():
        return ReceptiveField(name, math.nan, math.nan)
    number = response.sum(axis=0)[alive] ** 2 / squares[alive]
    return ReceptiveField(name, float(number.mean()), math.nan)


@torch.no_grad()
def _responses(model: nn.Module, length: int, pixels: npt.NDArray[np.int64]) -> dict[str, Array]:
    """Layer -> (pixels, places): what each pixel alone changes, summed over channels."""
    example = next(model.parameters(), torch.zeros(()))
    images = torch.zeros(len(pixels) + 1, 1, length, dtype=example.dtype, device=example.device)
    images[torch.arange(len(pixels)), 0, torch.from_numpy(pixels)] = math.sqrt(length / 2)
    with evaluating(model):
        layers = convolutions_of(model, images[:3] if len(images) > 2 else images[[0, 1, 0]])
        with _outputs(model, layers) as seen:
            model(images[-1:])
            empty = dict(seen)
            parts: dict[str, list[Array]] = {layer.name: [] for layer in layers}
            for batch in torch.split(images[:-1], _BATCH):
                model(batch)
                for name, output in seen.items():
                    parts[name].append((output - empty[name]).abs().sum(dim=1).double().cpu().numpy())
    return {name: np.concatenate(part) for name, part in parts.items()}


def convolutions_of(model: nn.Module, images: torch.Tensor) -> list[Layer]:
    """The layers that are a map over places, (channels, places): the paper's layers 1 to K.

    Each convolution is read after the norm and activation that directly follow it.

    Args:
        model: in evaluation mode.
        images: three of them.

    Raises:
        UsageError: there is none.
    """
    layers = select_layers(trace(model, lambda numbers: ((images[numbers],), {})), "convs")
    found = [layer for layer in layers if len(layer.shape) == 2 and layer.fold == 1]
    if not found:
        raise UsageError("the network has no convolutions over one dimension: (channels, places)")
    return found


@contextmanager
def _outputs(model: nn.Module, layers: list[Layer]) -> Iterator[dict[str, torch.Tensor]]:
    """While open, holds the outputs of the last forward by the names of the layers."""
    names = {layer.call: layer.name for layer in layers}
    seen: dict[str, torch.Tensor] = {}
    counts: dict[str, int] = {}

    def keep(module_name: str, output: object) -> None:
        count = counts.get(module_name, 0)
        counts[module_name] = count + 1
        for path, tensor in tensors(output):
            name = names.get(call_name(module_name, count) + path)
            if name is not None:
                seen[name] = tensor.clone()  # a later layer may work in place

    with ExitStack() as stack:
        hook = model.register_forward_pre_hook(lambda *_: counts.clear())
        stack.callback(hook.remove)
        for module_name in {layer.module for layer in layers}:
            hook = model.get_submodule(module_name).register_forward_hook(
                lambda _module, _args, output, of=module_name: keep(of, output)
            )
            stack.callback(hook.remove)
        yield seen


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
