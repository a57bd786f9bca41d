"""Images -> deformed and noised images -> one forward a batch -> what every layer made of them."""

import gc
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from timm_diffsens.device import devices
from timm_diffsens.device.evaluation import evaluating
from timm_diffsens.device.precision import FULL, Precision
from timm_diffsens.errors import MeasurementError, first_line
from timm_diffsens.perturb.deformation import Deformation
from timm_diffsens.perturb.diffeo import Diffeo
from timm_diffsens.schema.layers import LayerSensitivity
from timm_diffsens.sensitivities.batch_size import BatchSize, chosen_batch_size, is_out_of_memory
from timm_diffsens.sensitivities.probe import Forward, Probe, model_output, unwrap
from timm_diffsens.sensitivities.triplets import Perturbation, PerturbedImages, batches_of


@dataclass(frozen=True)
class PassSettings:
    """What a pass measures, and how.

    Attributes:
        layers: a selection or shell patterns, see `models.layers.select_layers`.
        batch_size: images a forward (which sees three times as many), or "auto".
        mean_channel: measure channel averages too.
        precision: of the forwards.
        forward: called as `forward(model, images)` in place of `model(images)`, for models that want more
            than images; however many images it is given, (3 n, c, h, w) in a pass.
    """

    layers: str | Sequence[str] = "blocks"
    batch_size: BatchSize = "auto"
    mean_channel: bool = False
    precision: Precision = FULL
    forward: Forward | None = None


@dataclass
class Pass:
    """One pass of a network over the images.

    Attributes:
        layers: sensitivities of the layers. mean_channel: those of their channel averages, if asked for.
        wrong: how many images had another top class than their label; None without labels, or without a
            finite score for each class.
        batch_size: as used in the end. retries: what was tried before.
        not_called: modules that no hook could see. weights: of the convolutions, as applied.
    """

    layers: list[LayerSensitivity]
    mean_channel: list[LayerSensitivity] | None
    wrong: int | None
    images: int
    batch_size: int
    retries: list[str]
    not_called: list[str]
    weights: dict[str, torch.Tensor]


def measure(
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
    """D, G and R of every layer of any module.

    Args:
        model: any module that takes images (n, c, h, w), or more than images, see `forward`; not changed.
        images: a tensor (n, c, h, w) as the network wants it (normalised), or a loader that yields such
            tensors or (tensor, label) pairs; it is iterated again after an out-of-memory.
        diffeo: the deformation; by default `Diffeo(delta=1, cut=3)`. `ActivePixels` takes images (n, c, l)
            too.
        layers: a selection or shell patterns, see `models.layers.select_layers`.
        batch_size: images a forward (which sees three times as many), or "auto". It does not change
            the numbers beyond rounding; after an out-of-memory it is halved.
        seed: of the deformations and the noise; each image has its own stream.
        device: where to run; by default where the model is.
        precision: of the forwards.
        forward: called as `forward(model, images)` in place of `model(images)`, for models that want more
            than images. The images come in three equal parts (clean, deformed, noised), in one tensor.

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
    perturbed = PerturbedImages(batches_of(images), Perturbation(diffeo or Diffeo(), seed=seed))
    settings = PassSettings(layers, batch_size, precision=precision, forward=forward)
    module = unwrap(model)
    with on_device(module, device):
        return run_pass(module, perturbed, settings).layers


def run_pass(
    model: nn.Module,
    images: PerturbedImages,
    settings: PassSettings = PassSettings(),
    *,
    labels: dict[int, int] | None = None,
    progress: Callable[[int], None] | None = None,
) -> Pass:
    """Measure one network; after an out-of-memory start again with half the batch.

    Args:
        model: in place on its device.
        images: and their perturbation.
        settings: what is measured, and how.
        labels: image index -> class, for the top-1 error.
        progress: called with the number of images done after each batch.

    Raises:
        UsageError: wrong settings. MeasurementError: fewer than two images, no output tensor, not enough
            memory for one image.
    """
    settings = replace(settings, batch_size=_batch_size(model, images, settings))
    retries: list[str] = []
    while True:
        size = settings.batch_size
        assert size != "auto"
        try:
            done = _run_once(model, images, settings, labels, progress)
            done.retries = retries
            return done
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise MeasurementError(
                    f"out of memory with one image a batch: {first_line(error)}"
                ) from error
        # outside the handler, whose traceback would keep the activations alive
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        retries.append(f"out of memory at batch size {size}")
        settings = replace(settings, batch_size=size // 2)


def _run_once(
    model: nn.Module,
    images: PerturbedImages,
    settings: PassSettings,
    labels: dict[int, int] | None,
    progress: Callable[[int], None] | None,
) -> Pass:
    like, size = _like(model), settings.batch_size
    assert size != "auto"
    done, wrong = 0, torch.zeros((), device=like.device)
    probe = Probe(model, settings.layers, mean_channel=settings.mean_channel)
    with probe, torch.no_grad(), settings.precision.applied(like.device), channels_last(model) as layout:
        for indices, triplets in images.batches(size, like, layout):
            output = model_output(probe.run(triplets, settings.forward))
            if labels is not None:
                truth = torch.tensor([labels[i] for i in indices]).to(like.device, non_blocking=True)
                wrong += _wrong(output, truth)
            done += len(indices)
            if progress:
                progress(done)
        if done < 2:
            raise MeasurementError(f"at least 2 images are needed, got {done}")
        assert probe.trace is not None
        return Pass(
            layers=probe.results(),
            mean_channel=probe.mean_channel_results() if settings.mean_channel else None,
            wrong=int(wrong) if labels is not None and bool(wrong.isfinite()) else None,
            images=done,
            batch_size=size,
            retries=[],
            not_called=probe.trace.not_called,
            weights=probe.trace.weights,
        )


def count_wrong(
    model: nn.Module,
    images: PerturbedImages,
    labels: dict[int, int],
    settings: PassSettings = PassSettings(),
    progress: Callable[[int], None] | None = None,
) -> tuple[int | None, int]:
    """Top-1 errors (None without finite scores) and images seen, on clean (or corrupted) images only.

    A forward sees as many images as one of `run_pass` under the same settings: three batches.
    """
    like, size = _like(model), 3 * _batch_size(model, images, settings)
    wrong, done = 0.0, 0
    with (
        torch.no_grad(),
        evaluating(model),
        settings.precision.applied(like.device),
        channels_last(model) as layout,
    ):
        for indices, batch in images.corrupted(size, like, layout):
            output = model_output(settings.forward(model, batch) if settings.forward else model(batch))
            truth = torch.tensor([labels[i] for i in indices], device=output.device)
            wrong += float(_wrong(output, truth))
            done += len(indices)
            if progress:
                progress(done)
    return (int(wrong) if math.isfinite(wrong) else None), done


def _like(model: nn.Module) -> torch.Tensor:
    """A tensor of the type and on the device of the network."""
    return next(iter(model.parameters()), torch.empty(0))


def _batch_size(model: nn.Module, images: PerturbedImages, settings: PassSettings) -> int:
    settings.precision.check(_like(model).device)
    first = images.first() if settings.batch_size == "auto" else None
    return chosen_batch_size(settings.batch_size, first, _like(model).device)


def _wrong(output: torch.Tensor, truth: torch.Tensor) -> torch.Tensor:
    """How many of the first samples have another top class than `truth`; nan where scores are no scores.

    A single score stands for two classes by its sign; zero is wrong.
    """
    scores = output[: len(truth)]
    if scores.ndim != 2:
        return torch.tensor(torch.nan, device=output.device)
    if scores.shape[1] == 1:
        errors = (scores[:, 0].sign() != 2 * truth - 1).sum().to(torch.float32)
    else:
        errors = (scores.argmax(1) != truth).sum().to(torch.float32)
    return torch.where(scores.isfinite().all(), errors, torch.nan)


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


@contextmanager
def channels_last(model: nn.Module) -> Iterator[torch.memory_format]:
    """Keep convolution weights channels-last for the duration; gives the layout for the images.

    Pays where convolutions dominate; a network whose only convolution cuts patches is left alone.
    """
    weights = [m.weight for m in model.modules() if isinstance(m, nn.Conv2d)]
    others = sum(isinstance(m, nn.Linear) for m in model.modules())
    swapped = [w for w in weights if w.is_contiguous()] if len(weights) > others else []
    for weight in swapped:
        weight.data = weight.data.contiguous(memory_format=torch.channels_last)
    try:
        yield torch.channels_last if swapped else torch.contiguous_format
    finally:
        for weight in swapped:
            weight.data = weight.data.contiguous(memory_format=torch.contiguous_format)
