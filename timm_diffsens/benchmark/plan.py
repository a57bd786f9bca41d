"""What is asked for -> a `Plan`: all that can go wrong before anything runs has been tried."""

from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from timm_diffsens import registry
from timm_diffsens.benchmark import parts
from timm_diffsens.data.labels import doubt, match_labels, named_alike
from timm_diffsens.data.loading import ImageSample, load_images
from timm_diffsens.data.opening import open_images
from timm_diffsens.data.scale_detection import ScaleDetection
from timm_diffsens.data.source import ImageSource
from timm_diffsens.device import devices
from timm_diffsens.device.precision import Precision
from timm_diffsens.errors import UsageError, failing, kept_warnings, warn
from timm_diffsens.models.checkpoints import read_recipe, recipe_in
from timm_diffsens.models.classes import imagenet_names
from timm_diffsens.models.inputs import plain_input
from timm_diffsens.models.layers import check_names
from timm_diffsens.models.loading import InputOptions, LoadedModel, given_model, load_model
from timm_diffsens.perturb.components import COMPONENTS, Component
from timm_diffsens.perturb.deformation import problem_of, rms_of
from timm_diffsens.perturb.limit import has_fields
from timm_diffsens.perturb.noise import of_matched_norm
from timm_diffsens.perturb.pixels import ActivePixels
from timm_diffsens.perturb.stored import StoredFields, save_fields
from timm_diffsens.registry import Entry
from timm_diffsens.schema import limits, records
from timm_diffsens.schema.config import Config, options
from timm_diffsens.schema.protocol import Protocol, read_delta
from timm_diffsens.sensitivities.perturbed import Perturbation
from timm_diffsens.sensitivities.probe import unwrap

_OF_SIZE = {"delta": ("delta", "reference_side"), "cut": ("cut",)}  # option -> parameters of a deformation
_SCALE = ("dims", "size", "xi", "gap")
_ASSUMED = "the order of the {:,} outputs is not known, that of ImageNet's WordNet ids is assumed"
_RGB, _IMAGE = 3, ("channels", "height", "width")


@dataclass
class Plan:
    """A measurement that is known to be possible: the model and the images are there, nothing has run.

    `assumed_order`: the order of the network's outputs is not known, and taken to be ImageNet's; `retries` is
    what was tried before, for the record; `homes` are the modules of the user's files whose code it runs, for
    `registry.beside`.
    """

    config: Config
    model: LoadedModel
    sample: ImageSample
    device: torch.device
    perturbation: Perturbation
    variants: dict[str, Any]
    labels: dict[int, int] | None
    no_labels: str | None
    whole: tuple[ImageSample, dict[int, int]] | None
    parts: parts.Parts
    key: str
    assumed_order: bool = False
    warnings: list[str] = field(default_factory=list)
    retries: list[str] = field(default_factory=list)
    homes: list[Any] = field(default_factory=list)

    def save_fields(self, file: Path) -> None:
        """Write the fields by which the first deformation displaces the images; see `stored.save_fields`."""
        shown, perturbation = self.model.input, self.perturbation
        size = shown.height, shown.width
        with registry.beside(*self.homes):
            save_fields(file, perturbation.deformations[0], self.sample.indices, size, perturbation.seed)


@dataclass(frozen=True)
class Inputs:
    """What a configuration asks for whatever the model: images, perturbation, variants.

    Attributes:
        config: scale detection has the parameters that a checkpoint was trained on, unless others are given.
        source: the open data set.
        perturbation: of the images. deformations, noise: the registry's entries of what it does.
        variants: name in the record -> the variant, ready for use, in order.
        foreign: entries of all that is no part of this package.
    """

    config: Config
    source: ImageSource
    perturbation: Perturbation
    deformations: list[Entry]
    noise: Entry
    variants: dict[str, Any]
    foreign: list[Entry]

    @classmethod
    def of(cls, config: Config) -> "Inputs":
        """Find everything, and what is wrong with it.

        Raises:
            UsageError: unknown names, options that do not fit together, images that are not there.
        """
        config = _as_trained(config)
        precision_of(config).check(devices.resolve_device(config.device))
        source = open_images(
            config.dataset,
            data_dir=config.data_dir,
            split=config.split,
            download=config.download,
            parameters={name: getattr(config, name) for name in _SCALE},
        )
        made, noise = _deformations(config, source.task), _noise(config)
        perturbation = Perturbation(tuple(d for d, _ in made), noise[0], config.corruption, config.seed)
        deformed_by = [entry for _, entry in made]
        _input_options(config, source)
        entries = [registry.find("variants", name) for name in config.variants]
        variants = {entry.recorded: _variant(entry, config) for entry in entries}
        things = [*deformed_by, noise[1], *entries, *([source.entry] if source.entry else [])]
        foreign = {entry.spec: entry for entry in things if entry.sha256 is not None}
        return cls(config, source, perturbation, deformed_by, noise[1], variants, list(foreign.values()))


def refuse_weights(model: str | nn.Module | LoadedModel, config: Config) -> None:
    """Raises: UsageError: weights are asked for beside a model that has its own."""
    if not isinstance(model, str) and (config.checkpoint is not None or not config.pretrained):
        raise UsageError("checkpoint and pretrained are for model names; this model has its weights already")


def prepare(model: str | nn.Module | LoadedModel, asked: Config | Inputs) -> Plan:
    """Check all arguments, load the model and the images, and work out the record's key."""
    refuse_weights(model, asked if isinstance(asked, Config) else asked.config)
    inputs = Inputs.of(asked) if isinstance(asked, Config) else asked  # before weights are fetched
    config, source, deformations = inputs.config, inputs.source, inputs.perturbation.deformations
    warnings: list[str] = []
    homes = [entry.module for entry in inputs.foreign]
    with kept_warnings(warnings), registry.beside(*homes):
        loaded = _load(model, config, source)
        check_names(unwrap(loaded.module), config.layers)
        size = loaded.input.height, loaded.input.width
        for deformation in deformations:
            if problem := problem_of(deformation, size):
                warn(problem)
            if isinstance(deformation, Component):
                deformation.displacement(1, size)  # or it raises, which is better known now
        images = None if source.all_by_default and not config.given("images") else config.images
        sample = _sample(source, config, loaded, images)
        for deformation in deformations:
            if isinstance(deformation, StoredFields) and (problem := deformation.problem_on(sample.indices)):
                warn(problem)
        sample.transform(loaded.input)  # tensors have to be of the size that the network takes
        labels, reason, whole = _scored(sample, config, loaded)
        assumed = config.test_error is None and labels is not None and _order_is_assumed(sample, loaded)
        if assumed:
            warnings.append(_ASSUMED.format(loaded.classes))
        if "init" in config.variants and loaded.build is None:
            loaded.fresh(config.seed)  # cannot be done for every module: better known now than at the end
    dtype = precision_of(config).describe(loaded.dtype)
    found = parts.Parts(
        model=parts.model_part(loaded, config),
        data=parts.data_part(sample),
        train_error=parts.train_error(recipe_in(loaded.metadata), config.train_error),
        protocols=[
            parts.protocol_part(config, entry, inputs.noise, rms_of(deformation, size), dtype)
            for deformation, entry in zip(deformations, inputs.deformations, strict=True)
        ],
        extensions=[parts.extension(entry) for entry in inputs.foreign],
        extra=parts.key_extra(config, loaded.code_sha256),
    )
    if (config.infinitesimal or config.equivariance) and not has_fields(deformations[0]):
        name = inputs.deformations[0].name
        raise UsageError(
            f"the deformation {name} has no displacement fields: no small limit, no equivariance"
        )
    if config.infinitesimal:
        found.protocols.append(parts.limit_of(found.protocols[0]))
    first, *further = found.protocols
    _refuse_twice(found.protocols)
    variants = list(inputs.variants)
    key = records.record_key(found.model, found.data, first, variants, found.extra, further=further)
    return Plan(
        config=config,
        model=loaded,
        sample=sample,
        device=devices.resolve_device(config.device),
        perturbation=inputs.perturbation,
        variants=inputs.variants,
        labels=labels,
        no_labels=reason,
        whole=whole,
        parts=found,
        key=key,
        assumed_order=assumed,
        warnings=warnings,
        homes=[*homes, loaded.home],
    )


def precision_of(config: Config) -> Precision:
    """The precision of the forwards."""
    return Precision(config.amp, config.tf32)


def _deformations(config: Config, task: ScaleDetection | None) -> list[tuple[Any, Entry]]:
    """Each deformation asked for, of each size asked for where it has one; with the registry's entries."""
    own = None if config.given("deformation") else task
    asked = config.deformation if own is None else (ActivePixels(own),)
    named = {registry.split_arguments(one)[0] for one in asked if isinstance(one, str)}
    parts_too = [name for name in COMPONENTS if config.components and name not in named]
    found = []
    for one in (*asked, *parts_too):
        sizes = config.delta[:1] if one in parts_too else config.delta
        made = [_made("deformations", one, {**_offered(config), **_size(size)}) for size in sizes]
        for name, of in _OF_SIZE.items():
            if config.given(name) and one not in parts_too and (own is None or not config.components):
                _check_taken(name, of, [entry for _, entry in made], config)
        # it takes no size, or holds its own
        alike = len({tuple(map(entry.values.get, _OF_SIZE["delta"])) for _, entry in made}) == 1
        found += made[:1] if alike else made
    if len(found) > limits.DEFORMATIONS:
        raise UsageError(f"at most {limits.DEFORMATIONS} deformations fit a pass, got {len(found)}")
    return found


def _size(size: float | str) -> dict[str, Any]:
    """One size of a configuration as the parameters of a deformation."""
    delta, side = read_delta(str(size))
    return {"delta": delta} if side is None else {"delta": delta, "reference_side": side}


def _check_taken(name: str, of: tuple[str, ...], made: list[Entry], config: Config) -> None:
    """Raises: UsageError: the deformation has no such number, or holds another than was asked for.

    Args:
        name: of the option. of: the parameters that it stands for.
    """
    asked = config.delta if name == "delta" else (getattr(config, name),)
    wanted = [_size(one) if name == "delta" else {name: one} for one in asked]
    values = {tuple(map(one.get, of)) for one in wanted}
    if {tuple(map(entry.values.get, of)) for entry in made} != values:
        entry = made[0]
        known = (each for one in wanted for each in one)
        lacks = next((each for each in known if each not in entry.values and not entry.takes(each)), None)
        held = ", ".join(f"{each}={entry.values[each]}" for each in of if entry.values.get(each) is not None)
        holds = f"takes no {lacks}" if lacks else f"has {held}"
        raise UsageError(
            f"the deformation {entry.name} {holds}: leave out --{name} {','.join(map(str, asked))}"
        )


def _refuse_twice(protocols: list[Protocol]) -> None:
    hashes = [protocol.sha256 for protocol in protocols]
    for place, protocol in enumerate(protocols):
        if protocol.sha256 in hashes[:place]:
            raise UsageError(f"a deformation is asked for twice: {protocol.deformation_text}")


def _noise(config: Config) -> tuple[Any, Entry]:
    noise, entry = _made("noises", config.noise, _offered(config))
    return (noise if entry.sha256 is None else of_matched_norm(noise)), entry


def _made(kind: str, asked: Any, options: dict[str, Any]) -> tuple[Any, Entry]:
    """A thing by its spec, with the options of the protocol that it takes; or the object that was given."""
    if isinstance(asked, str):
        entry = registry.find(kind, asked)
        if "delta" in entry.parameters:  # a size of its own, in its own unit
            options = {name: value for name, value in options.items() if name not in _OF_SIZE["delta"]}
            if "@" in str(entry.parameters["delta"]):
                entry = replace(entry, parameters={**entry.parameters, **_size(entry.parameters["delta"])})
        offered = {name: value for name, value in options.items() if entry.takes(name)}
        thing, entry = entry.build(**offered), entry.with_values(**offered)
        if entry.sha256 is None and is_dataclass(thing):  # all arguments, so that equal things have one name
            entry = replace(
                entry, parameters={each.name: getattr(thing, each.name) for each in fields(thing)}
            )
    else:
        thing, entry = asked, registry.of_object(kind, asked)
    stated = getattr(thing, "stated", None)  # what a record says in place of the arguments, a file's say
    entry = entry if stated is None else replace(entry, parameters=stated)
    if not callable(thing):
        raise UsageError(
            f"the {registry.KINDS[kind].word} {entry.name} is a {type(thing).__name__}: not callable"
        )
    return thing, entry


def _offered(config: Config) -> dict[str, Any]:
    return {name: getattr(config, name) for name, each in options(Config).items() if each.group == "protocol"}


def _variant(entry: Entry, config: Config) -> Any:
    thing = entry.build(**_offered(config))
    copies = getattr(thing, "copies", 1)
    if not isinstance(copies, int) or copies < 0 or (copies and not callable(thing)):
        raise UsageError(
            f"the variant {entry.name} has copies = {copies!r}, or cannot be called with a model"
        )
    return thing


def _as_trained(config: Config) -> Config:
    """Scale detection with the parameters that a checkpoint was trained on, unless others are asked for."""
    given = any(config.given(name) for name in _SCALE)
    if config.checkpoint is None or given or not isinstance(config.dataset, str):
        return config
    training = (read_recipe(Path(config.checkpoint)) or {}).get("training") or {}
    if training.get("task") != config.dataset:
        return config
    scale = training.get("scale") or {}
    return config.changed(**{name: scale[name] for name in _SCALE if name in scale})


def _input_options(config: Config, source: ImageSource) -> InputOptions:
    """Tensors are shown as they are, at their own size; 1-D networks say their length themselves."""
    shape = source.shape(_RGB)
    if shape is None:
        return InputOptions(config.input_size, config.mean, config.std)
    if config.mean is not None or config.std is not None:
        raise UsageError(f"images of {source.origin.spec} are normalised as they are: no --mean, no --std")
    sides = (shape[1], shape[2]) if len(shape) == len(_IMAGE) else None
    return InputOptions(
        config.input_size or sides, mean=(0.0,), std=(1.0,), channels=shape[0] if shape else None
    )


def _sample(source: ImageSource, config: Config, loaded: LoadedModel, images: int | None) -> ImageSample:
    return load_images(source, images=images, seed=config.seed, channels=loaded.input.channels)


def _scored(
    sample: ImageSample, config: Config, loaded: LoadedModel
) -> tuple[dict[int, int] | None, str | None, tuple[ImageSample, dict[int, int]] | None]:
    """The sample's labels, or why there are none; and the whole split with its own, for --full-error."""
    labels, reason = _labels(sample, loaded)
    whole = None
    if config.full_error and labels is not None and config.test_error is None:
        everything = _sample(sample.source, config, loaded, None)
        all_labels, reason = _labels(everything, loaded)
        whole = None if all_labels is None else (everything, all_labels)
        labels = labels if whole else None
    unsure = doubt(whole[0] if whole else sample, loaded.classes)
    if labels is not None and unsure and config.test_error is None:
        warn(f"{unsure} --test-error gives the known error")
    if reason and sample.labels is not None and config.test_error is None:
        warn(f"no test error: {reason}; pass --test-error if it is known")
    return labels, reason, whole


def _order_is_assumed(sample: ImageSample, loaded: LoadedModel) -> bool:
    """Whether labels are matched by the names of classes that the network, no library's, need not have."""
    return loaded.class_names is None and named_alike(sample.class_names, imagenet_names(loaded.classes))


def _labels(sample: ImageSample, loaded: LoadedModel) -> tuple[dict[int, int] | None, str | None]:
    """Image index -> class of the model, or None and the reason."""
    names = loaded.class_names or imagenet_names(loaded.classes)
    labels, reason = match_labels(sample, loaded.classes, names, certain=loaded.class_names is not None)
    return (None if labels is None else dict(zip(sample.indices, labels, strict=True))), reason


def _load(model: str | nn.Module | LoadedModel, config: Config, source: ImageSource) -> LoadedModel:
    if isinstance(model, str):
        asked = _input_options(config, source)
        with failing(f"{model} could not be made"):
            return load_model(
                model,
                pretrained=config.pretrained,
                checkpoint=config.checkpoint,
                seed=config.seed,
                input_options=asked,
            )
    if isinstance(model, LoadedModel):
        if any(map(config.given, ("input_size", "mean", "std"))):
            raise UsageError("input_size, mean and std belong to load_model(..., input_options=...)")
        if source.shape(_RGB) is None or source.task is not None:
            return model
        plain = plain_input(model.input.channels, (model.input.height, model.input.width))
        return replace(model, input=plain)  # tensors are shown as they are
    return given_model(model, _input_options(config, source), config.seed)
