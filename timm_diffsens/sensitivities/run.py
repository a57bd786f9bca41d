"""Images -> deformed and noised images -> one forward a batch -> what every layer made of them."""

import gc
import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeVar

import torch
from torch import nn

from timm_diffsens.device.evaluation import evaluating
from timm_diffsens.errors import MeasurementError, first_line, warn
from timm_diffsens.schema.layers import MEASURES, LayerSensitivity
from timm_diffsens.sensitivities.batch_size import is_out_of_memory
from timm_diffsens.sensitivities.forwards import (
    AS_USUAL,
    PassSettings,
    batch_size_of,
    forwards,
    like_of,
    make_ready,
)
from timm_diffsens.sensitivities.infinitesimal import TangentProbe, run_limit
from timm_diffsens.sensitivities.perturbed import PerturbedImages
from timm_diffsens.sensitivities.probe import Probe, model_output

_Done = TypeVar("_Done")
_NOT_DEFORMED = "the deformation changes these images by rounding alone"


@dataclass
class Pass:
    """One pass of a network over the images.

    Attributes:
        layers: sensitivities of the layers, under each deformation. mean_channel: those of their channel
            averages, if asked for.
        equivariance: E_k in the place of R, if asked for.
        per_image: see `Probe.per_image`, for the layers and, under "mean-channel", for their averages.
        wrong: how many images had another top class than their label; None without labels, or without a
            finite score for each class.
        batch_size: as used in the end. retries: what was tried before.
        not_called: modules that no hook could see. weights: of the convolutions, as applied.
        functional: modules that convolve but are no convolution modules.
    """

    layers: list[list[LayerSensitivity]]
    mean_channel: list[list[LayerSensitivity]] | None
    per_image: dict[str, dict[str, torch.Tensor]]
    equivariance: list[LayerSensitivity] | None
    wrong: int | None
    images: int
    batch_size: int
    retries: list[str]
    not_called: list[str]
    weights: dict[str, torch.Tensor]
    functional: list[str]


def run_pass(
    model: nn.Module,
    images: PerturbedImages,
    settings: PassSettings = AS_USUAL,
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
    settings = make_ready(model, images, settings)
    done, retries = with_less(settings, lambda now: _run_once(model, images, now, labels, progress))
    done.retries = retries
    return done


def with_less(settings: PassSettings, once: Callable[[PassSettings], _Done]) -> tuple[_Done, list[str]]:
    """What `once` gives, after an out-of-memory with half the batch; and what was tried before.

    Raises:
        MeasurementError: not enough memory for one image.
    """
    retries: list[str] = []
    while True:
        size = settings.batch_size
        assert size != "auto"
        try:
            return once(settings), retries
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
    like, size = like_of(model), settings.batch_size
    assert size != "auto"
    done, wrong = 0, torch.zeros((), device=like.device)
    asked, pairs, kept = settings.mean_channel, images.pairs, settings.kept
    both = settings.equivariance
    probe = Probe(model, settings.layers, mean_channel=asked, pairs=pairs, kept=kept, equivariance=both)
    with forwards(model, images, settings) as layout:  # in this order: it runs the model too
        with probe:
            for indices, parts in images.batches(size, like, layout):
                clean = parts[: len(indices)]
                fields = images.perturbation.fields(clean, indices) if settings.equivariance else None
                output = model_output(probe.run(parts, settings.forward, fields))
                if labels is not None:
                    truth = torch.tensor([labels[i] for i in indices]).to(like.device, non_blocking=True)
                    wrong += _wrong(output, truth)
                done += len(indices)
                if progress:
                    progress(done)
        if done < 2:
            raise MeasurementError(f"at least 2 images are needed, got {done}")
        assert probe.trace is not None  # each forward was seen, or `run` raised
        layers = _of_each(probe.results, images)
        averages = _of_each(probe.mean_channel_results, images) if settings.mean_channel else None
        per_image = _distances(probe, settings)
        if settings.infinitesimal:
            _add_limit(_limit(model, images, settings, layout), settings, layers, averages, per_image)
    reasons = Counter(layer.reason for layer in layers[0] if layer.reason)
    if reasons.total() == len(layers[0]):
        warn(f"no layer of {type(model).__name__} has a value: {reasons.most_common(1)[0][0]}")
    return Pass(
        layers=layers,
        mean_channel=averages,
        per_image=per_image,
        equivariance=probe.equivariance_results() if settings.equivariance else None,
        wrong=int(wrong) if labels is not None and bool(wrong.isfinite()) else None,
        images=done,
        batch_size=size,
        retries=[],
        not_called=probe.trace.not_called,
        weights=probe.trace.weights,
        functional=probe.trace.functional,
    )


def _distances(probe: Probe, settings: PassSettings) -> dict[str, dict[str, torch.Tensor]]:
    found = {"": probe.per_image()} if settings.kept else {}
    if settings.kept and settings.mean_channel:
        found["mean-channel"] = probe.per_image(mean_channel=True)
    return found


def _limit(
    model: nn.Module, images: PerturbedImages, settings: PassSettings, layout: torch.memory_format
) -> TangentProbe | str:
    """The small limit, or why there is none."""
    try:
        return run_limit(model, images, settings, layout)
    except MeasurementError as error:
        warn(f"no small limit: {error}")
        return str(error)


def _add_limit(
    found: TangentProbe | str,
    settings: PassSettings,
    layers: list[list[LayerSensitivity]],
    averages: list[list[LayerSensitivity]] | None,
    per_image: dict[str, dict[str, torch.Tensor]],
) -> None:
    """Add the small limit to what was measured, as the last deformation."""
    if isinstance(found, str):
        nothing = {**dict.fromkeys(MEASURES), "r_low": None, "r_high": None, "reason": found}
        for listed in filter(None, (layers, averages)):
            listed.append([layer.model_copy(update=nothing) for layer in listed[0]])
    else:
        layers.append(found.results())
        if averages is not None:
            averages.append(found.mean_channel_results())
    others = {} if isinstance(found, str) else _distances(found, settings)
    for name, distances in per_image.items():
        for layer, values in distances.items():
            pair = others.get(name, {}).get(layer, torch.full_like(values[:, :3], torch.nan))[:, :2]
            distances[layer] = torch.cat([values[:, :-1], pair, values[:, -1:]], dim=1)


def _of_each(
    results: Callable[[int], list[LayerSensitivity]], images: PerturbedImages
) -> list[list[LayerSensitivity]]:
    """The results of each deformation.

    No values where one deformed no image beyond rounding: D, G and R would be ratios of nothing.
    """
    nothing = {**dict.fromkeys(MEASURES), "reason": _NOT_DEFORMED}
    return [
        layers if deformed else [one if one.d is None else one.model_copy(update=nothing) for one in layers]
        for layers, deformed in ((results(k), deformed) for k, deformed in enumerate(images.deformed))
    ]


def count_wrong(
    model: nn.Module,
    images: PerturbedImages,
    labels: dict[int, int],
    settings: PassSettings = AS_USUAL,
    progress: Callable[[int], None] | None = None,
) -> tuple[int | None, int]:
    """Top-1 errors (None without finite scores) and images seen, on clean (or corrupted) images only.

    A forward sees as many images as one of `run_pass` under the same settings.
    """
    like, size = like_of(model), (1 + 2 * images.pairs) * batch_size_of(model, images, settings)
    wrong, done = 0.0, 0
    with evaluating(model), forwards(model, images, settings) as layout:
        for indices, batch in images.corrupted(size, like, layout):
            output = model_output(settings.called(model, batch))
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
    scores = output[: len(truth)] if output.layout == torch.strided else output
    if scores.layout != torch.strided or scores.ndim != 2:
        return torch.tensor(torch.nan, device=output.device)
    if scores.shape[1] == 1:
        errors = (scores[:, 0].sign() != 2 * truth - 1).sum().to(torch.float32)
    else:
        errors = (scores.argmax(1) != truth).sum().to(torch.float32)
    return torch.where(scores.isfinite().all(), errors, torch.nan)
