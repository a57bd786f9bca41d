"""How a network is run: its settings, its device, the layout of its images in memory."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy as is_uninitialized

from timm_diffsens.device import devices, seeding
from timm_diffsens.device.evaluation import eager, evaluating
from timm_diffsens.device.precision import FULL, Precision
from timm_diffsens.models.lazy import sized
from timm_diffsens.models.trace import Call, calls_of, differing
from timm_diffsens.sensitivities.batch_size import BatchSize, chosen_batch_size, is_out_of_memory
from timm_diffsens.sensitivities.perturbed import PerturbedImages
from timm_diffsens.sensitivities.probe import Forward


@dataclass(frozen=True)
class PassSettings:
    """What a pass measures, and how.

    Attributes:
        layers: a selection or shell patterns, see `models.layers.select_layers`.
        batch_size: images a forward (which sees each of them 1 + 2 K times, with K deformations), or "auto".
        mean_channel: measure channel averages too.
        equivariance: E_k of the first deformation too.
        infinitesimal: the small limit of the first deformation comes after the deformations.
        kept: the distances of so many images are given one by one, see `Probe.per_image`.
        precision: of the forwards.
        forward: called as `forward(model, images)` in place of `model(images)`, for models that want more
            than images; however many images it is given, (parts x n, c, h, w) in a pass.
    """

    layers: str | Sequence[str] = "blocks"
    batch_size: BatchSize = "auto"
    mean_channel: bool = False
    kept: int = 0
    infinitesimal: bool = False
    equivariance: bool = False
    precision: Precision = FULL
    forward: Forward | None = None

    def called(self, model: nn.Module, images: torch.Tensor) -> Any:
        """What the model makes of images."""
        return self.forward(model, images) if self.forward else model(images)


AS_USUAL = PassSettings()


def like_of(model: nn.Module) -> torch.Tensor:
    """A tensor of the type and on the device of the network."""
    return next(iter(model.parameters()), torch.empty(0))


@contextmanager
def on_device(model: nn.Module, device: str | torch.device | None) -> Iterator[None]:
    """A module on that device for the duration; where it is by default."""
    home = next((p.device for p in model.parameters()), None)
    target = home if device is None else devices.resolve_device(str(device))
    elsewhere = home is not None and target is not None and home != target
    if elsewhere:
        model.to(target)
    try:
        yield
    finally:
        if elsewhere:
            model.to(home)


def make_ready(model: nn.Module, images: PerturbedImages, settings: PassSettings) -> PassSettings:
    """Check that there are numbers; run lazy modules once, under the seed; choose a batch size."""
    first = images.first()
    with seeding.seeded(images.perturbation.seed):
        sized(model, lambda: None if first is None else settings.called(model, _three(first, like_of(model))))
    return replace(settings, batch_size=batch_size_of(model, images, settings))


def batch_size_of(model: nn.Module, images: PerturbedImages, settings: PassSettings) -> int:
    """The batch size that is asked for, or one that suits network, images and their deformations."""
    settings.precision.check(like_of(model).device)
    first = images.first() if settings.batch_size == "auto" else None
    return chosen_batch_size(settings.batch_size, first, like_of(model).device, images.pairs)


def _three(image: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """An image (1, ...) and two others, for a forward of its own."""
    three = torch.cat([image, image.flip(-1), image / 2])
    return three.to(like.device, like.dtype if like.is_floating_point() else three.dtype)


@contextmanager
def forwards(
    model: nn.Module, images: PerturbedImages, settings: PassSettings
) -> Iterator[torch.memory_format]:
    """As forwards are run: without gradients, in the precision asked for, in the layout that is given.

    The layout is channels-last where that pays and every part of the network gives the same in it: `view`
    and `as_strided` see how numbers lie in memory.
    """
    like, first = like_of(model), images.first()
    with torch.no_grad(), settings.precision.applied(like.device), eager(), ExitStack() as stack:
        layout = torch.contiguous_format
        if first is not None and first.ndim == 4 and _prefers_channels_last(model):
            three = _three(first, like)
            with evaluating(model):
                plain = calls_of(model, lambda: settings.called(model, three))
            layout = stack.enter_context(channels_last(model))
            if not _gives(model, settings, three.contiguous(memory_format=layout), plain):
                stack.close()
                layout = torch.contiguous_format
        yield layout


def _gives(model: nn.Module, settings: PassSettings, images: torch.Tensor, plain: list[Call]) -> bool:
    """Whether all parts of a network give these numbers, to rounding."""
    try:
        with evaluating(model):
            return not differing(plain, calls_of(model, lambda: settings.called(model, images)))
    except Exception as error:  # whatever the network's own code checks
        if is_out_of_memory(error):
            raise
        return False


def _prefers_channels_last(model: nn.Module) -> bool:
    """Whether convolutions dominate: a network whose only convolution cuts patches is left alone."""
    convolutions = sum(isinstance(m, nn.Conv2d) for m in model.modules())
    return convolutions > sum(isinstance(m, nn.Linear) for m in model.modules())


@contextmanager
def channels_last(model: nn.Module) -> Iterator[torch.memory_format]:
    """Keep convolution weights channels-last for the duration, where that pays; gives the images' layout.

    Afterwards they are the very tensors that they were: other parameters may share their memory.
    """
    weights = [
        m.weight for m in model.modules() if isinstance(m, nn.Conv2d) and not is_uninitialized(m.weight)
    ]
    plain = [(w, w.data) for w in dict.fromkeys(weights) if w.is_contiguous()]
    swapped = plain if _prefers_channels_last(model) else []
    for weight, data in swapped:
        weight.data = data.contiguous(memory_format=torch.channels_last)
    try:
        yield torch.channels_last if swapped else torch.contiguous_format
    finally:
        for weight, data in swapped:
            weight.data = data
