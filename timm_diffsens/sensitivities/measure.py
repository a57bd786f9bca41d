"""Any module on any images -> D, G and R of its layers: what others call."""

from collections.abc import Iterable, Sequence
from typing import Any, overload

import torch
from torch import nn

from timm_diffsens.device.precision import FULL, Precision
from timm_diffsens.errors import MeasurementError
from timm_diffsens.perturb.deformation import Deformation, as_deformations
from timm_diffsens.perturb.diffeo import Diffeo
from timm_diffsens.schema.layers import LayerSensitivity
from timm_diffsens.sensitivities.batch_size import BatchSize
from timm_diffsens.sensitivities.forwards import PassSettings, forwards, make_ready, on_device
from timm_diffsens.sensitivities.infinitesimal import run_limit
from timm_diffsens.sensitivities.perturbed import Perturbation, PerturbedImages, batches_of
from timm_diffsens.sensitivities.probe import Forward, unwrap
from timm_diffsens.sensitivities.run import run_pass, with_less


def measure_infinitesimal(
    model: nn.Module,
    images: torch.Tensor | Iterable[Any],
    *,
    diffeo: Deformation | None = None,
    layers: str | Sequence[str] = "blocks",
    batch_size: BatchSize = "auto",
    seed: int = 0,
    device: str | torch.device | None = None,
    precision: Precision = FULL,
    forward: Forward | None = None,
) -> list[LayerSensitivity]:
    """D0, G0 and R0 of every layer: the limit of D, G and R for small deformations.

    With v = d/d(eps) tau_(eps) x at eps = 0+, n white noise of the norm of v, J the Jacobian of a layer and
    B the denominator of D, D0 = E ||J v||^2 / B and G0 = E ||J n||^2 / B: D and G over delta^2 in the limit
    of a small delta. R0 = D0 / G0. What a network detaches is a constant to a derivative.

    Args:
        model, images, layers, batch_size, seed, device, precision, forward: as `measure`'s; a forward sees
            twice the images, with a tangent each, which costs as much as four.
        diffeo: a deformation with displacement fields; by default `Diffeo()`.

    Raises:
        UsageError: wrong arguments. MeasurementError: the network has no forward-mode derivative, named with
            the reason; fewer than two images.
    """
    (one,) = as_deformations([Diffeo() if diffeo is None else diffeo])
    perturbed = PerturbedImages(batches_of(images), Perturbation((one,), seed=seed))
    settings, module = PassSettings(layers, batch_size, precision=precision, forward=forward), unwrap(model)

    def once(settings: PassSettings) -> list[LayerSensitivity]:
        with forwards(module, perturbed, settings) as layout:
            found = run_limit(module, perturbed, settings, layout).results()
        if max((layer.n for layer in found), default=0) < 2:
            raise MeasurementError("at least 2 images are needed")
        return found

    with on_device(module, device):
        return with_less(make_ready(module, perturbed, settings), once)[0]


@overload
def measure(
    model: nn.Module,
    images: torch.Tensor | Iterable[Any],
    *,
    diffeo: Deformation | None = ...,
    layers: str | Sequence[str] = ...,
    batch_size: BatchSize = ...,
    seed: int = ...,
    device: str | torch.device | None = ...,
    precision: Precision = ...,
    forward: Forward | None = ...,
) -> list[LayerSensitivity]: ...


@overload
def measure(
    model: nn.Module,
    images: torch.Tensor | Iterable[Any],
    *,
    diffeo: Sequence[Deformation],
    layers: str | Sequence[str] = ...,
    batch_size: BatchSize = ...,
    seed: int = ...,
    device: str | torch.device | None = ...,
    precision: Precision = ...,
    forward: Forward | None = ...,
) -> list[list[LayerSensitivity]]: ...


def measure(
    model: nn.Module,
    images: torch.Tensor | Iterable[Any],
    *,
    diffeo: Deformation | Sequence[Deformation] | None = None,
    layers: str | Sequence[str] = "blocks",
    batch_size: BatchSize = "auto",
    seed: int = 0,
    device: str | torch.device | None = None,
    precision: Precision = FULL,
    forward: Forward | None = None,
) -> list[LayerSensitivity] | list[list[LayerSensitivity]]:
    """D, G and R of every layer of any module.

    Args:
        model: any module that takes images (n, c, h, w), or more than images, see `forward`; not changed.
        images: a tensor (n, c, h, w) as the network wants it (normalised), or a loader that yields such
            tensors or (tensor, label) pairs; it is iterated again after an out-of-memory.
        diffeo: the deformation; by default `Diffeo(delta=1, cut=3)`. `ActivePixels` takes images (n, c, l)
            too. With a sequence of K deformations the result is a list for each, and the cost (1 + 2 K) / 3
            of that of one: the clean forward is shared.
        layers: a selection or shell patterns, see `models.layers.select_layers`.
        batch_size: images a forward (which sees each of them 1 + 2 K times), or "auto". It does not change
            the numbers beyond rounding; after an out-of-memory it is halved.
        seed: of the deformations and the noise; each image has its own stream.
        device: where to run; by default where the model is.
        precision: of the forwards.
        forward: called as `forward(model, images)` in place of `model(images)`, for models that want more
            than images. The images come in 1 + 2 K equal parts (clean, deformed, noised, ...), in one tensor.

    Raises:
        UsageError: wrong arguments. MeasurementError: fewer than two images, no output tensor.

    Example:
        >>> from timm_diffsens import measure
        >>> import timm, torch
        >>> model = timm.create_model("test_resnet", pretrained=False)
        >>> for layer in measure(model, torch.rand(8, 3, 64, 64), layers="stages"):
        ...     print(f"{layer.layer:8} {layer.depth:.2f}", layer.r is not None)
        layer1   0.20 True
        layer2   0.40 True
        layer3   0.60 True
        layer4   0.80 True
        output   1.00 True
    """
    deformations = as_deformations(Diffeo() if diffeo is None else diffeo)
    perturbed = PerturbedImages(batches_of(images), Perturbation(deformations, seed=seed))
    settings = PassSettings(layers, batch_size, precision=precision, forward=forward)
    module = unwrap(model)
    with on_device(module, device):
        found = run_pass(module, perturbed, settings).layers
    return found if isinstance(diffeo, Sequence) else found[0]
