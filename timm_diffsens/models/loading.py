"""A model spec or a checkpoint -> a `LoadedModel`: the module, its preprocessing, where it is from."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from timm_diffsens.device import allocator, seeding
from timm_diffsens.errors import DiffsensError, UsageError, first_line
from timm_diffsens.models.architectures import Architecture, Library, find_architecture, shown_spec
from timm_diffsens.models.arguments import NO_ARGUMENTS, ModelArguments
from timm_diffsens.models.checkpoints import load_checkpoint, read_recipe, state_sha256
from timm_diffsens.models.classes import classes_of, classes_seen, imagenet_names
from timm_diffsens.models.code import code_sha256
from timm_diffsens.models.hub import fetch
from timm_diffsens.models.inputs import InputOptions as InputOptions
from timm_diffsens.models.inputs import find_input, input_channels, task_input
from timm_diffsens.models.inputs import timm_input as timm_input
from timm_diffsens.models.lazy import complete
from timm_diffsens.models.variants.init import reinitialise
from timm_diffsens.models.weights import is_lazy, refuse_meta
from timm_diffsens.schema.records import InputSpec, Weights, WeightsOrigin

_ADVICE = "pass --checkpoint FILE for weights on disk, or --no-pretrained for random ones"


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be measured.

    Attributes:
        spec: as given. arch: architecture name. library: where the architecture is from.
        module: the network, in evaluation mode.
        input: preprocessing. classes: number of classes, or None without a classifier.
        weights: where they are from.
        build: makes the architecture with fresh random weights, None for a given module and for a factory
            that brings its weights.
        class_names: WordNet ids in the order of the classes, where the classes are ImageNet's.
        published_error: top-1 error (fraction) that the weights' authors state, on ImageNet's validation set.
        code_sha256: of the code of an architecture that is no library's.
        metadata: of the checkpoint.
        arguments: that the architecture was built with.
    """

    spec: str
    arch: str
    library: Library
    module: nn.Module
    input: InputSpec
    classes: int | None
    weights: Weights
    build: Callable[[], nn.Module] | None
    class_names: tuple[str, ...] | None = None
    published_error: float | None = None
    code_sha256: str | None = None
    metadata: dict[str, str] | None = None
    arguments: ModelArguments = NO_ARGUMENTS

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input: (c, h, w), or (c, length) where the network reads sequences."""
        return _input_shape(self.input, self.arguments.dims)

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.module.parameters())

    @property
    def dtype(self) -> str:
        """Number format of the parameters: "float32", say."""
        like = next((p for p in self.module.parameters() if p.is_floating_point()), torch.empty(0))
        return str(like.dtype).removeprefix("torch.")

    def fresh(self, seed: int) -> nn.Module:
        """The same architecture with fresh random weights."""
        fresh = reinitialise(self.module, seed, factory=self.build)
        fresh.eval()
        return fresh


def load_model(
    spec: str,
    *,
    pretrained: bool = True,
    checkpoint: str | Path | None = None,
    seed: int = 0,
    input_options: InputOptions | None = None,
    arguments: ModelArguments | None = None,
) -> LoadedModel:
    """Load a model by its spec.

    Args:
        spec: a timm name (`resnet50`, `resnet50.a1_in1k`, `hf-hub:owner/name`), `torchvision/resnet50`,
            `net/NAME` (ours), `file.py:factory`, `package.module:factory`, or the name of an entry point
            `timm_diffsens.models` of an installed package; arguments of the architecture may follow, as
            `NAME:key=value,...`.
        pretrained: fetch the published weights; otherwise random ones from `seed`.
        checkpoint: a safetensors file, or a torch file, which is read with `weights_only=True`. One that
            `save_checkpoint` wrote says in its recipe how its architecture was built and its images prepared.
        input_options: size, mean and std in place of the model's own, or of the recipe's.
        arguments: of the architecture; by default those of the recipe, or its own. An architecture built for
            a size or a number of channels is shown images as they are (mean 0, std 1), but under published
            weights.

    Raises:
        UsageError: unknown name, weights that cannot be fetched, a checkpoint that does not fit or was made
            from another architecture, arguments that the architecture does not take.

    Example:
        >>> from timm_diffsens import load_model
        >>> model = load_model("test_resnet", pretrained=False, seed=0)
        >>> model.input.height, model.classes, model.weights.source
        (160, 1000, 'random')
    """
    allocator.prepare()
    found_weights, asked = None, input_options or InputOptions()
    recipe_arguments, recipe_input = (
        (None, None) if checkpoint is None else _read_recipe(spec, Path(checkpoint))
    )
    origin: tuple[WeightsOrigin, str | None, int | None]
    with seeding.seeded(seed):
        found = _resized(find_architecture(spec, arguments or recipe_arguments or NO_ARGUMENTS), asked)
        arguments = found.arguments
        build: Callable[[], nn.Module] | None = found.build
        if pretrained and checkpoint is None and found.pretrained is not None:
            module = fetch(f"the weights of {spec}", found.pretrained, _ADVICE)
            origin = ("pretrained", found.detail, None)
        else:
            module = found.build()
            origin = ("random", None, seed)
    module.eval()
    if origin[0] == "pretrained":  # prepared as its authors did, at whatever size
        known, asked = find_architecture(spec).input, replace(asked, size=asked.size or arguments.sides)
    else:
        known = recipe_input or found.input
        known = known or task_input(arguments, timm_input(module), input_channels(module))
    spec_of_input = find_input(spec, known, module, asked, arguments.dims)
    if is_lazy(module):
        build = functools.partial(complete, spec, found.build, _input_shape(spec_of_input, arguments.dims))
        found = replace(found, build=build)
        with seeding.seeded(seed):
            module = build()
        module.eval()
    refuse_meta(module)
    if found.library == "python" and _brings_weights(found, module, seed):
        build, origin = None, ("given", None, None)
    if checkpoint is not None:
        found_weights = load_checkpoint(module, Path(checkpoint))
        origin = ("checkpoint", Path(checkpoint).name, None)
    classes = _classes_found(spec, found, module, spec_of_input, arguments)
    published = origin[0] == "pretrained" and not arguments.given
    return LoadedModel(
        spec=shown_spec(spec) if found.library == "python" else spec,
        arch=_arch(found, module),
        library=found.library,
        module=module,
        input=spec_of_input,
        classes=classes,
        weights=Weights(
            source=origin[0],
            detail=origin[1],
            seed=origin[2],
            sha256=state_sha256(module.state_dict()),
            entry=found_weights.entry if found_weights else None,
        ),
        build=build,
        class_names=imagenet_names(classes),
        published_error=found.published_error if published else None,
        code_sha256=code_sha256(module, found.source and found.source())
        if found.library == "python"
        else None,
        metadata=found_weights.metadata if found_weights else None,
        arguments=arguments,
    )


def _read_recipe(spec: str, checkpoint: Path) -> tuple[ModelArguments | None, InputSpec | None]:
    """What a checkpoint's recipe says about the architecture's arguments and its input."""
    recipe = read_recipe(checkpoint) or {}
    model = recipe.get("model")
    if not isinstance(model, str):  # another program's recipe
        return None, None
    if shown_spec(model) != shown_spec(spec):
        raise UsageError(f"checkpoint {checkpoint.name!r} was made from {model}, not from {spec}")
    try:
        given = recipe.get("arguments")
        arguments = None if given is None else ModelArguments.from_json(given)
        shown = recipe.get("input")
        return arguments, None if shown is None else InputSpec.model_validate(shown)
    except ValueError as error:  # ours and pydantic's
        text = first_line(error)
        raise UsageError(f"the recipe in checkpoint {checkpoint.name!r} is not understood: {text}") from error


def _brings_weights(found: Architecture, module: nn.Module, seed: int) -> bool:
    """Whether a factory gives weights of its own: most of them are the same from another seed."""
    with seeding.seeded(seed + 1):
        other = dict(found.build().named_parameters())
    same = [
        p.numel() if torch.equal(p, other[name]) else -p.numel()
        for name, p in module.named_parameters()
        if p.ndim > 1 and name in other and p.shape == other[name].shape
    ]
    return sum(same) > 0


def _arch(found: Architecture, module: nn.Module) -> str:
    config = getattr(module, "pretrained_cfg", None) if found.library == "timm" else None
    return str((config or {}).get("architecture") or found.arch)


def given_model(module: nn.Module, asked: InputOptions, seed: int = 0) -> LoadedModel:
    """A module that the caller made, with the preprocessing asked for or timm's own for it.

    Its lazy layers are run once, under the seed.

    Raises:
        UsageError: the input size is not known; parameters are on the meta device.
    """
    allocator.prepare()
    name = type(module).__name__
    spec_of_input = find_input(name, None, module, asked)
    refuse_meta(module)
    if is_lazy(module):
        with seeding.seeded(seed):
            complete(name, lambda: module, _input_shape(spec_of_input, 2))
    classes = classes_seen(module, _input_shape(spec_of_input, 2))
    return LoadedModel(
        spec=name,
        arch=name,
        library="python",
        module=module,
        input=spec_of_input,
        classes=classes,
        code_sha256=code_sha256(module),
        weights=Weights(source="given", detail=None, seed=None, sha256=state_sha256(module.state_dict())),
        build=None,
        class_names=imagenet_names(classes),
    )


def _classes_found(
    spec: str, found: Architecture, module: nn.Module, shown: InputSpec, arguments: ModelArguments
) -> int | None:
    if found.library != "python":
        return classes_of(module)
    classes = classes_seen(module, _input_shape(shown, arguments.dims))
    if arguments.num_classes not in (None, classes) and classes is not None:
        raise UsageError(
            f"{spec} gives {classes} scores where num_classes={arguments.num_classes} was asked for; "
            "let its function take num_classes"
        )
    return classes


def _input_shape(spec: InputSpec, dims: int) -> tuple[int, ...]:
    return (spec.channels, spec.width) if dims == 1 else (spec.channels, spec.height, spec.width)


def _resized(found: Architecture, asked: InputOptions | None) -> Architecture:
    """A network that is fixed to one input size, built for the size asked for (timm's `img_size`)."""
    if asked is None or asked.size is None or not found.fixed_size:
        return found

    def at(make: Callable[..., nn.Module]) -> Callable[[], nn.Module]:
        def build() -> nn.Module:
            try:
                return make(img_size=asked.size)
            except DiffsensError:
                raise
            except (TypeError, AssertionError, ValueError, RuntimeError, ZeroDivisionError) as error:
                raise UsageError(
                    f"{found.arch} cannot be built for --input-size {asked.size}: {error}"
                ) from error

        return build

    pretrained = at(found.pretrained) if found.pretrained is not None else None
    return replace(found, build=at(found.build), pretrained=pretrained)
