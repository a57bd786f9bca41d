"""A model spec or a checkpoint -> a `LoadedModel`: the module, its preprocessing, where it is from."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import nn

from timm_diffsens import registry
from timm_diffsens.device import allocator, seeding
from timm_diffsens.errors import UsageError, first_line
from timm_diffsens.models.architectures import Architecture, Library, find_architecture, resized, shown_spec
from timm_diffsens.models.arguments import NO_ARGUMENTS, ModelArguments
from timm_diffsens.models.checkpoints import load_checkpoint, read_recipe, state_sha256
from timm_diffsens.models.classes import classes_of, classes_seen, imagenet_names
from timm_diffsens.models.code import code_sha256
from timm_diffsens.models.hub import fetch
from timm_diffsens.models.inputs import InputOptions as InputOptions
from timm_diffsens.models.inputs import check_input, find_input, input_channels, task_input
from timm_diffsens.models.inputs import timm_input as timm_input
from timm_diffsens.models.lazy import complete
from timm_diffsens.models.variants.init import reinitialise
from timm_diffsens.models.weight_files import Checkpoint
from timm_diffsens.models.weights import is_lazy, refuse_meta
from timm_diffsens.schema.records import InputSpec, Weights, WeightsOrigin

_Origin = tuple[WeightsOrigin, str | None, int | None]  # source, detail, seed

_OF_IMAGENET = ("timm", "torchvision")  # libraries whose networks of as many classes have ImageNet's
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
        class_names: WordNet ids in the order of the classes of timm's and torchvision's networks for an
            ImageNet; None where the classes may be others.
        published_error: top-1 error (fraction) that the weights' authors state, on ImageNet's validation set.
        code_sha256: of the code of an architecture that is no library's.
        metadata: of the checkpoint.
        arguments: that the architecture was built with.
        home: the module of the user's file that it is from, for `registry.beside`.
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
    home: Any = field(default=None, repr=False, compare=False)

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
    asked = input_options or InputOptions()
    recipe_arguments, recipe_input = _read_recipe(spec, checkpoint)
    with seeding.seeded(seed):
        found = resized(find_architecture(spec, arguments or recipe_arguments or NO_ARGUMENTS), asked.size)
        if checkpoint is not None and arguments is None and recipe_arguments is not None:
            _refuse_larger(found, Path(checkpoint))
        module, origin = _made(spec, found, pretrained and checkpoint is None, seed)
    published, own = origin[0] == "pretrained", found.library == "python"
    shown = _input_of(spec, found, module, asked, recipe_input, published)
    with registry.beside(found.home):
        found, module = _sized(spec, found, module, shown, seed)
        brought = own and _brings_weights(found, module, seed)
        file = None if checkpoint is None else load_checkpoint(module, Path(checkpoint))
        classes = _classes_found(spec, found, module, shown)
    if brought:
        origin = ("given", None, None)
    if checkpoint is not None:
        origin = ("checkpoint", Path(checkpoint).name, None)
    return LoadedModel(
        spec=shown_spec(spec) if own else spec,
        arch=_arch(found, module),
        library=found.library,
        module=module,
        input=shown,
        classes=classes,
        weights=_weights(module, origin, file),
        build=None if brought else found.build,
        class_names=imagenet_names(classes) if found.library in _OF_IMAGENET else None,
        published_error=found.published_error if published and not found.arguments.given else None,
        code_sha256=code_sha256(module, found.source and found.source()) if own else None,
        metadata=file.metadata if file else None,
        arguments=found.arguments,
        home=found.home,
    )


def _made(spec: str, found: Architecture, pretrained: bool, seed: int) -> tuple[nn.Module, _Origin]:
    """The network, in evaluation mode, and where its weights are from."""
    if pretrained and found.pretrained is not None:
        module = fetch(f"the weights of {spec}", found.pretrained, _ADVICE)
        origin: _Origin = ("pretrained", found.detail, None)
    else:
        module, origin = found.build(), ("random", None, seed)
    module.eval()  # not all give themselves back
    return module, origin


def _sized(
    spec: str, found: Architecture, module: nn.Module, shown: InputSpec, seed: int
) -> tuple[Architecture, nn.Module]:
    """The same, whose lazy layers have their sizes.

    Raises:
        UsageError: they cannot have them; parameters are on the meta device.
    """
    if is_lazy(module):
        build = functools.partial(complete, spec, found.build, _input_shape(shown, found.arguments.dims))
        found = replace(found, build=build)
        with seeding.seeded(seed):
            module = build()
        module.eval()
    refuse_meta(module)
    return found, module


def _input_of(
    spec: str,
    found: Architecture,
    module: nn.Module,
    asked: InputOptions,
    recipe: InputSpec | None,
    published: bool,
) -> InputSpec:
    """How images are prepared; under published weights as their authors did, at whatever size."""
    arguments = found.arguments
    if published:
        known, asked = find_architecture(spec).input, replace(asked, size=asked.size or arguments.sides)
    else:
        known = recipe or found.input
        known = known or task_input(arguments, timm_input(module), input_channels(module))
    return find_input(spec, known, module, asked, arguments.dims)


def _weights(module: nn.Module, origin: _Origin, file: Checkpoint | None = None) -> Weights:
    sha256 = state_sha256(module.state_dict())
    entry = file.entry if file else None
    return Weights(source=origin[0], detail=origin[1], seed=origin[2], sha256=sha256, entry=entry)


def _read_recipe(spec: str, checkpoint: str | Path | None) -> tuple[ModelArguments | None, InputSpec | None]:
    """What a checkpoint's recipe says about the architecture's arguments and its input."""
    if checkpoint is None:
        return None, None
    checkpoint = Path(checkpoint)
    recipe = read_recipe(checkpoint) or {}
    model = recipe.get("model")
    if not isinstance(model, str):  # another program's recipe
        return None, None
    if shown_spec(model) != shown_spec(spec):
        raise UsageError(f"checkpoint {checkpoint.name!r} was made from {model}, not from {spec}")
    try:
        given = recipe.get("arguments")
        arguments = None if given is None else ModelArguments.from_json(given)
        given = recipe.get("input")
        shown = None if given is None else InputSpec.model_validate(given)
        if shown is not None:
            check_input(shown)
        return arguments, shown
    except ValueError as error:  # ours and pydantic's
        text = _first_fault(error)
        raise UsageError(f"the recipe in checkpoint {checkpoint.name!r} is not understood: {text}") from error


def _first_fault(error: ValueError) -> str:
    if not isinstance(error, ValidationError):
        return first_line(error)
    fault = error.errors(include_url=False)[0]
    return f"input.{'.'.join(map(str, fault['loc']))}: {fault['msg']}, got {str(fault['input'])[:50]}"


def _refuse_larger(found: Architecture, checkpoint: Path) -> None:
    """Refuse a recipe whose network has more parameters than its file has bytes, before it takes memory."""
    if found.library == "python":  # code of the user's own, which a recipe cannot size by numbers
        return
    try:
        with torch.device("meta"):
            count = sum(p.numel() for p in found.build().parameters())
    except (NotImplementedError, RuntimeError):  # it reads numbers while it is built
        return
    size = checkpoint.stat().st_size
    if count > size:
        raise UsageError(
            f"the recipe in checkpoint {checkpoint.name!r} describes a network of {count:,} parameters, "
            f"and the file has {size:,} bytes"
        )


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
    known = type(module).__module__.partition(".")[0] in _OF_IMAGENET
    return LoadedModel(
        spec=name,
        arch=name,
        library="python",
        module=module,
        input=spec_of_input,
        classes=classes,
        code_sha256=code_sha256(module),
        weights=_weights(module, ("given", None, None)),
        build=None,
        class_names=imagenet_names(classes) if known else None,
    )


def _classes_found(spec: str, found: Architecture, module: nn.Module, shown: InputSpec) -> int | None:
    if found.library != "python":
        return classes_of(module)
    arguments = found.arguments
    classes = classes_seen(module, _input_shape(shown, arguments.dims))
    if arguments.num_classes not in (None, classes) and classes is not None:
        raise UsageError(
            f"{spec} gives {classes} scores where num_classes={arguments.num_classes} was asked for; "
            "let its function take num_classes"
        )
    return classes


def _input_shape(spec: InputSpec, dims: int) -> tuple[int, ...]:
    return (spec.channels, spec.width) if dims == 1 else (spec.channels, spec.height, spec.width)
