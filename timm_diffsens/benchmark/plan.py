"""What is asked for -> a `Plan`: all that can go wrong before anything runs has been tried."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from timm_diffsens.benchmark import parts
from timm_diffsens.benchmark.noted import noted
from timm_diffsens.benchmark.options import SCALE_TASKS, Options
from timm_diffsens.data.loading import ImageSample, load_images, match_labels
from timm_diffsens.data.opening import open_images
from timm_diffsens.data.source import ImageSource
from timm_diffsens.device import devices
from timm_diffsens.errors import UsageError, warn
from timm_diffsens.models.checkpoints import read_recipe
from timm_diffsens.models.loading import InputOptions, LoadedModel, given_model, load_model
from timm_diffsens.schema import records
from timm_diffsens.schema.protocol import Protocol


@dataclass
class Plan:
    """A measurement that is known to be possible: the model and the images are there, nothing has run.

    `retries` is what was tried before, for the record.
    """

    options: Options
    model: LoadedModel
    sample: ImageSample
    device: torch.device
    labels: dict[int, int] | None
    no_labels: str | None
    whole: tuple[ImageSample, dict[int, int]] | None
    model_part: records.Model
    data_part: records.Data
    protocol_part: Protocol
    key_extra: dict[str, Any]
    key: str
    warnings: list[str] = field(default_factory=list)
    retries: list[str] = field(default_factory=list)


def prepare(model: str | nn.Module | LoadedModel, options: Options) -> Plan:
    """Check all arguments, load the model and the images, and work out the record's key."""
    options = _as_trained(options)
    variants, diffeo = options.variant_names, options.diffeo
    device = devices.resolve_device(options.device)
    options.precision.check(device)
    heard: list[str] = []
    with noted(heard):
        source = open_images(  # before weights are fetched
            options.dataset,
            data_dir=options.data_dir,
            split=options.split,
            download=options.download,
            parameters={name: getattr(options, name) for name in ("dims", "size", "xi", "gap")},
        )
        loaded = _load(model, options)
        size = loaded.input.height, loaded.input.width
        _check_task(options, loaded)
        problem = diffeo.problem(size)
        if problem:
            warn(problem)
        sample = _sample(source, options, loaded, options.images)
        labels, reason = _labels(sample, loaded)
        whole = None
        if options.full_error and labels is not None and options.test_error is None:
            everything = _sample(source, options, loaded, None)
            all_labels, reason = _labels(everything, loaded)
            whole = None if all_labels is None else (everything, all_labels)
            labels = labels if whole else None
        if reason and sample.labels is not None and options.test_error is None:
            warn(f"no test error: {reason}; pass --test-error if it is known")
        if "init" in variants and loaded.build is None:
            loaded.fresh(options.seed)  # cannot be done for every module: better known now than at the end
    model_part = parts.model_part(loaded)
    data_part = parts.data_part(sample)
    protocol_part = parts.protocol_part(options, diffeo.rms(size), loaded.dtype)
    extra = {"test_error": options.test_error, "full_error": options.full_error, "code": loaded.code_sha256}
    extra = {name: value for name, value in extra.items() if value is not None and value is not False}
    return Plan(
        options=options,
        model=loaded,
        sample=sample,
        device=device,
        labels=labels,
        no_labels=reason,
        whole=whole,
        model_part=model_part,
        data_part=data_part,
        protocol_part=protocol_part,
        key_extra=extra,
        key=records.record_key(model_part, data_part, protocol_part, variants, extra),
        warnings=heard,
    )


def _as_trained(options: Options) -> Options:
    """Scale detection with the parameters that a checkpoint was trained on, unless others are asked for."""
    given = any(getattr(options, name) is not None for name in ("dims", "size", "xi", "gap"))
    if options.checkpoint is None or options.dataset not in SCALE_TASKS or given:
        return options
    training = (read_recipe(Path(options.checkpoint)) or {}).get("training") or {}
    if training.get("task") != options.dataset:
        return options
    scale = training.get("scale") or {}
    return replace(options, **{n: scale[n] for n in ("dims", "size", "xi", "gap") if n in scale})


def _input_options(options: Options) -> InputOptions:
    """Scale detection is shown as it is, at its own size; 1-D networks say their length themselves."""
    asked, task = options.input, options.task
    if task is None:
        return asked
    if asked.mean is not None or asked.std is not None:
        raise UsageError(f"images of {options.dataset} are normalised as they are: no --mean, no --std")
    size = asked.size or ((task.side, task.side) if task.dims == 2 else None)
    return InputOptions(size=size, mean=(0.0,), std=(1.0,))


def _check_task(options: Options, loaded: LoadedModel) -> None:
    """A network has to take images of the task's shape."""
    if options.task is None:
        return
    wanted = (1, *options.task.shape)[-2:]
    if wanted != (loaded.input.height, loaded.input.width):
        got = f"{loaded.input.height} x {loaded.input.width}"
        raise UsageError(
            f"{options.dataset} has images of {wanted[0]} x {wanted[1]}, {loaded.spec} takes {got}; "
            "give --input-size for the model, or --size and --dims for the task"
        )


def _sample(source: ImageSource, options: Options, loaded: LoadedModel, images: int | None) -> ImageSample:
    return load_images(source, images=images, seed=options.seed, channels=loaded.input.channels)


def _labels(sample: ImageSample, loaded: LoadedModel) -> tuple[dict[int, int] | None, str | None]:
    """Image index -> class of the model, or None and the reason."""
    labels, reason = match_labels(sample, loaded.classes, loaded.class_names)
    return (None if labels is None else dict(zip(sample.indices, labels, strict=True))), reason


def _load(model: str | nn.Module | LoadedModel, options: Options) -> LoadedModel:
    if isinstance(model, str):
        return load_model(
            model,
            pretrained=options.pretrained,
            checkpoint=options.checkpoint,
            seed=options.seed,
            input_options=_input_options(options),
        )
    if options.checkpoint is not None or not options.pretrained:
        raise UsageError("checkpoint and pretrained are for model names; this model has its weights already")
    if isinstance(model, LoadedModel):
        if options.input != InputOptions():
            raise UsageError("input_size, mean and std belong to load_model(..., input_options=...)")
        return model
    return given_model(model, options.input)
