"""Images -> deformed and noised images -> one forward a batch -> what every layer made of them."""

import gc
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from timm_diffsens.device import devices
from timm_diffsens.device.evaluation import evaluating
from timm_diffsens.device.precision import FULL, Precision
from timm_diffsens.errors import MeasurementError, UsageError, first_line
from timm_diffsens.perturb.diffeo import Diffeo
from timm_diffsens.perturb.pixels import Deformation
from timm_diffsens.schema.layers import LayerSensitivity
from timm_diffsens.sensitivities.probe import Probe, model_output, unwrap
from timm_diffsens.sensitivities.triplets import Batch, Drawn, Protocol, corrupted, with_layout

BatchSize = int | Literal["auto"]

_AUTO_PIXELS = (
    16 * 224 * 224
)  # images of an automatic batch: cache-friendly on a CPU, and few launches on a GPU
_AUTO_MOST = {"cpu": 64, "cuda": 256}


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
) -> list[LayerSensitivity]:
    """D, G and R of every layer of any module.

    Args:
        model: any module that takes images (n, c, h, w); not changed.
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
    protocol = Protocol(diffeo or Diffeo(), seed=seed)
    module = unwrap(model)
    with on_device(module, device):
        done = run_pass(
            module,
            _as_source(images),
            protocol,
            layers=layers,
            batch_size=batch_size,
            precision=precision,
        )
    return done.layers


def run_pass(
    model: nn.Module,
    source: Callable[[int], Iterator[Batch]],
    protocol: Protocol,
    *,
    layers: str | Sequence[str] = "blocks",
    batch_size: BatchSize = "auto",
    mean_channel: bool = False,
    labels: dict[int, int] | None = None,
    progress: Callable[[int], None] | None = None,
    drawn: Drawn | None = None,
    precision: Precision = FULL,
) -> Pass:
    """Measure one network; after an out-of-memory start again with half the batch.

    Args:
        model: in place on its device.
        source: batch size -> batches; called again after an out-of-memory.
        protocol: how images are moved.
        layers: selection.
        batch_size: images a forward, or "auto".
        mean_channel: measure channel averages too.
        labels: image index -> class, for the top-1 error.
        progress: called with the number of images done after each batch.
        drawn: keeps what is drawn for further passes over the same images under the same protocol.
        precision: of the forwards.
    """
    precision.check(next((p.device for p in model.parameters()), torch.device("cpu")))
    if batch_size != "auto" and (not isinstance(batch_size, int) or batch_size < 1):
        raise UsageError(f"batch size must be a positive number or 'auto', got {batch_size!r}")
    size = batch_size if isinstance(batch_size, int) else _automatic(source, model)
    retries: list[str] = []
    while True:
        try:
            return _run_once(
                model,
                source,
                protocol,
                layers,
                size,
                mean_channel,
                labels,
                progress,
                retries,
                drawn or Drawn(0),
                precision,
            )
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
            if size == 1:
                raise MeasurementError(
                    f"out of memory with one image a batch: {first_line(error)}"
                ) from error
            message = f"out of memory at batch size {size}"
        # outside the handler, whose traceback would keep the activations alive
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
        retries.append(message)
        size //= 2


def _run_once(
    model: nn.Module,
    source: Callable[[int], Iterator[Batch]],
    protocol: Protocol,
    layers: str | Sequence[str],
    size: int,
    mean_channel: bool,
    labels: dict[int, int] | None,
    progress: Callable[[int], None] | None,
    retries: list[str],
    drawn: Drawn,
    precision: Precision,
) -> Pass:
    like = next(iter(model.parameters()), torch.empty(0))
    done, wrong = 0, torch.zeros((), device=like.device)
    probe = Probe(model, layers, mean_channel=mean_channel)
    with probe, torch.no_grad(), precision.applied(like.device), channels_last(model) as layout:
        for indices, triple in drawn.batches(source, size, protocol, like, layout):
            output = model_output(probe.model(triple))
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
            probe.results(),
            probe.mean_channel_results() if mean_channel else None,
            int(wrong) if labels is not None and bool(wrong.isfinite()) else None,
            done,
            size,
            list(retries),
            probe.trace.not_called,
            probe.trace.weights,
        )


def count_wrong(
    model: nn.Module,
    batches: Iterator[Batch],
    protocol: Protocol,
    labels: dict[int, int],
    progress: Callable[[int], None] | None = None,
    precision: Precision = FULL,
) -> tuple[int | None, int]:
    """Top-1 errors (None without finite scores) and images seen, on clean (or corrupted) images only."""
    like = next(iter(model.parameters()), torch.empty(0))
    wrong, done = 0.0, 0
    with (
        torch.no_grad(),
        evaluating(model),
        precision.applied(like.device),
        channels_last(model) as layout,
    ):
        for indices, images in batches:
            images = corrupted(images.to(like.dtype), indices, protocol)
            output = model_output(model(with_layout(images, layout).to(like.device)))
            truth = torch.tensor([labels[i] for i in indices], device=output.device)
            wrong += float(_wrong(output, truth))
            done += len(indices)
            if progress:
                progress(done)
    return (int(wrong) if math.isfinite(wrong) else None), done


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


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is true memory exhaustion, on the GPU or the CPU; nothing else is retried."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and (
        "DefaultCPUAllocator: can't allocate memory" in text
        or "DefaultCPUAllocator: not enough memory" in text
    )


@contextmanager
def on_device(model: nn.Module, device: str | torch.device | None) -> Iterator[None]:
    """Move a module for the duration."""
    home = next((p.device for p in model.parameters()), None)
    target = home if device is None else devices.resolve_device(str(device))
    moves = home is not None and target is not None and home != target
    if moves:
        model.to(target)
    try:
        yield
    finally:
        if moves:
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


def _automatic(source: Callable[[int], Iterator[Batch]], model: nn.Module) -> int:
    _, images = next(iter(source(1)), ((), torch.empty(0, 1, 1, 1)))
    pixels = max(1, math.prod(images.shape[2:]))
    device = next((p.device.type for p in model.parameters()), "cpu")
    return max(1, min(_AUTO_MOST.get(device, 64), _AUTO_PIXELS // pixels))


def _as_source(images: torch.Tensor | Iterable[Any]) -> Callable[[int], Iterator[Batch]]:
    if isinstance(images, torch.Tensor):
        if images.ndim not in (3, 4) or not images.is_floating_point():
            raise UsageError(
                f"expected floating-point images (n, c, h, w), got {images.dtype} {tuple(images.shape)}"
            )
        whole = images

        def cut(size: int) -> Iterator[Batch]:
            for start in range(0, len(whole), size):
                part = whole[start : start + size]
                yield range(start, start + len(part)), part

        return cut
    if isinstance(images, Iterator):
        raise UsageError(
            "expected a loader that can be iterated again, got an iterator; pass the loader itself"
        )
    loader = images

    def regroup(size: int) -> Iterator[Batch]:
        start = 0
        for item in loader:
            batch = item[0] if isinstance(item, list | tuple) and item else item
            if not isinstance(batch, torch.Tensor):
                raise UsageError(
                    f"expected a loader of tensors or (tensor, label) pairs, got {type(item).__name__}"
                )
            for part in torch.split(batch, size):
                yield range(start, start + len(part)), part
                start += len(part)

    return regroup
