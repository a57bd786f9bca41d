"""What is asked for -> a `Plan`: all that can go wrong before anything runs has been tried."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from timm_diffsens import registry
from timm_diffsens.benchmark import parts
from timm_diffsens.data.loading import ImageSample, check_request, load_images, match_labels
from timm_diffsens.data.scale_detection import ScaleDetection
from timm_diffsens.data.specs import SCALE_TASKS
from timm_diffsens.device import devices
from timm_diffsens.device.precision import Precision
from timm_diffsens.errors import UsageError, kept_warnings, warn
from timm_diffsens.models.checkpoints import read_recipe
from timm_diffsens.models.loading import InputOptions, LoadedModel, given_model, load_model
from timm_diffsens.perturb.deformation import problem_of, rms_of
from timm_diffsens.perturb.noise import of_matched_norm
from timm_diffsens.perturb.pixels import ActivePixels
from timm_diffsens.registry import Entry
from timm_diffsens.schema import records
from timm_diffsens.schema.config import Config
from timm_diffsens.sensitivities.triplets import Perturbation

_SCALE = ("dims", "size", "xi", "gap")
_OF_DIFFEO = ("delta", "cut")


@dataclass
class Plan:
    """A measurement that is known to be possible: the model and the images are there, nothing has run.

    `retries` is what was tried before, for the record.
    """

    config: Config
    model: LoadedModel
    sample: ImageSample
    device: torch.device
    perturbation: Perturbation
    variants: list[Entry]
    labels: dict[int, int] | None
    no_labels: str | None
    whole: tuple[ImageSample, dict[int, int]] | None
    parts: parts.Parts
    key: str
    warnings: list[str] = field(default_factory=list)
    retries: list[str] = field(default_factory=list)


def check(config: Config) -> None:
    """Find what is wrong with a configuration whatever the model: names, options that do not fit, the device.

    Raises:
        UsageError: something is.
    """
    precision_of(config).check(devices.resolve_device(config.device))
    task = task_of(config)
    _perturbation(config, task)
    _variants(config)
    _input_options(config, task)
    if isinstance(config.dataset, str):
        check_request(config.dataset, config.data_dir, config.split)


def prepare(model: str | nn.Module | LoadedModel, config: Config) -> Plan:
    """Check all arguments, load the model and the images, and work out the record's key."""
    config = _as_trained(config)
    check(config)  # before weights are fetched
    task, variants = task_of(config), _variants(config)
    perturbation, used = _perturbation(config, task)
    warnings: list[str] = []
    with kept_warnings(warnings):
        loaded = _load(model, config, task)
        size = loaded.input.height, loaded.input.width
        _check_task(config, task, loaded)
        problem = problem_of(perturbation.deformation, size)
        if problem:
            warn(problem)
        sample = _sample(config, task, loaded, config.images)
        labels, reason = _labels(sample, loaded)
        whole = None
        if config.full_error and labels is not None and config.test_error is None:
            everything = _sample(config, task, loaded, None)
            all_labels, reason = _labels(everything, loaded)
            whole = None if all_labels is None else (everything, all_labels)
            labels = labels if whole else None
        if reason and sample.labels is not None and config.test_error is None:
            warn(f"no test error: {reason}; pass --test-error if it is known")
        if "init" in config.variants and loaded.build is None:
            loaded.fresh(config.seed)  # cannot be done for every module: better known now than at the end
    found = parts.Parts(
        model=parts.model_part(loaded),
        data=parts.data_part(sample),
        protocol=parts.protocol_part(
            config, used, rms_of(perturbation.deformation, size), precision_of(config).describe(loaded.dtype)
        ),
        extensions=[parts.extension(entry) for entry in (*used.values(), *variants) if entry.sha256],
        extra=parts.key_extra(config, loaded.code_sha256, variants),
    )
    return Plan(
        config=config,
        model=loaded,
        sample=sample,
        device=devices.resolve_device(config.device),
        perturbation=perturbation,
        variants=variants,
        labels=labels,
        no_labels=reason,
        whole=whole,
        parts=found,
        key=records.record_key(found.model, found.data, found.protocol, config.variants, found.extra),
        warnings=warnings,
    )


def precision_of(config: Config) -> Precision:
    """The precision of the forwards."""
    return Precision(config.amp, config.tf32)


def task_of(config: Config) -> ScaleDetection | None:
    """The scale-detection task, if the data set is one.

    Raises:
        UsageError: its parameters make no sense, or are given for another data set.
    """
    given = {name: getattr(config, name) for name in _SCALE if config.given(name)}
    if isinstance(config.dataset, str) and config.dataset in SCALE_TASKS:
        return ScaleDetection(int(config.dataset.removeprefix("scale")), **given)
    if given:
        raise UsageError(f"{', '.join(given)} belong to scale1 and scale2, not to {config.dataset}")
    return None


def _perturbation(config: Config, task: ScaleDetection | None) -> tuple[Perturbation, dict[str, Entry]]:
    """Deformation and noise, and the registry's entries of both."""
    if task is not None and not config.given("deformation"):
        deformation: Any = ActivePixels(task)
        entry = registry.of_object("deformations", deformation)
    elif isinstance(config.deformation, str):
        entry = registry.find("deformations", config.deformation)
        offered = {name: getattr(config, name) for name in _OF_DIFFEO if entry.takes(name)}
        foreign = [name for name in _OF_DIFFEO if config.given(name) and name not in offered]
        if foreign:
            raise UsageError(f"the deformation {entry.name} takes no {' and no '.join(foreign)}")
        deformation = entry.build(**offered)
        entry = entry.with_values(**offered)
    else:
        deformation, entry = config.deformation, registry.of_object("deformations", config.deformation)
    if not callable(deformation):
        raise UsageError(f"the deformation {entry.name} cannot be called with images; see `Deformation`")
    if isinstance(config.noise, str):
        noise_entry = registry.find("noises", config.noise)
        noise = noise_entry.build()
    else:
        noise, noise_entry = config.noise, registry.of_object("noises", config.noise)
    if noise_entry.sha256 is not None:
        noise = of_matched_norm(noise)
    used = {"deformation": entry, "noise": noise_entry}
    return Perturbation(deformation, noise, config.corruption, config.seed), used


def _variants(config: Config) -> list[Entry]:
    return [registry.find("variants", name) for name in config.variants]


def _as_trained(config: Config) -> Config:
    """Scale detection with the parameters that a checkpoint was trained on, unless others are asked for."""
    given = any(config.given(name) for name in _SCALE)
    if config.checkpoint is None or config.dataset not in SCALE_TASKS or given:
        return config
    training = (read_recipe(Path(config.checkpoint)) or {}).get("training") or {}
    if training.get("task") != config.dataset:
        return config
    scale = training.get("scale") or {}
    return config.changed(**{name: scale[name] for name in _SCALE if name in scale})


def _input_options(config: Config, task: ScaleDetection | None) -> InputOptions:
    """Scale detection is shown as it is, at its own size; 1-D networks say their length themselves."""
    if task is None:
        return InputOptions(config.input_size, config.mean, config.std)
    if config.mean is not None or config.std is not None:
        raise UsageError(f"images of {config.dataset} are normalised as they are: no --mean, no --std")
    size = config.input_size or ((task.side, task.side) if task.dims == 2 else None)
    return InputOptions(size=size, mean=(0.0,), std=(1.0,))


def _check_task(config: Config, task: ScaleDetection | None, loaded: LoadedModel) -> None:
    """A network has to take images of the task's shape."""
    if task is None:
        return
    wanted = (1, *task.shape)[-2:]
    if wanted != (loaded.input.height, loaded.input.width):
        got = f"{loaded.input.height} x {loaded.input.width}"
        raise UsageError(
            f"{config.dataset} has images of {wanted[0]} x {wanted[1]}, {loaded.spec} takes {got}; "
            "give --input-size for the model, or --size and --dims for the task"
        )


def _sample(
    config: Config, task: ScaleDetection | None, loaded: LoadedModel, images: int | None
) -> ImageSample:
    return load_images(
        config.dataset,
        data_dir=config.data_dir,
        split=config.split,
        images=images,
        seed=config.seed,
        download=config.download,
        channels=loaded.input.channels,
        task=task,
    )


def _labels(sample: ImageSample, loaded: LoadedModel) -> tuple[dict[int, int] | None, str | None]:
    """Image index -> class of the model, or None and the reason."""
    labels, reason = match_labels(sample, loaded.classes, loaded.class_names)
    return (None if labels is None else dict(zip(sample.indices, labels, strict=True))), reason


def _load(model: str | nn.Module | LoadedModel, config: Config, task: ScaleDetection | None) -> LoadedModel:
    if isinstance(model, str):
        return load_model(
            model,
            pretrained=config.pretrained,
            checkpoint=config.checkpoint,
            seed=config.seed,
            input_options=_input_options(config, task),
        )
    asked = InputOptions(config.input_size, config.mean, config.std)
    if config.checkpoint is not None or not config.pretrained:
        raise UsageError("checkpoint and pretrained are for model names; this model has its weights already")
    if isinstance(model, LoadedModel):
        if asked != InputOptions():
            raise UsageError("input_size, mean and std belong to load_model(..., input_options=...)")
        return model
    return given_model(model, asked)
