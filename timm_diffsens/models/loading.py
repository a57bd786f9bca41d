"""A model spec or a checkpoint -> a `LoadedModel`: the module, its preprocessing, where it is from."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from timm_diffsens import runtime
from timm_diffsens.errors import DiffsensError, UsageError
from timm_diffsens.models.checkpoints import load_checkpoint, state_sha256
from timm_diffsens.models.code import code_sha256
from timm_diffsens.models.hub import fetch
from timm_diffsens.models.sources import Library, Source, find_source
from timm_diffsens.models.trace import pick_output
from timm_diffsens.models.variants import reinitialise
from timm_diffsens.results.record import InputSpec, Origin, Weights

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_ADVICE = "pass --checkpoint FILE for weights on disk, or --no-pretrained for random ones"


@dataclass(frozen=True)
class InputOptions:
    """What the user asks for instead of the model's own preprocessing; None keeps the model's."""

    size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


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
        return reinitialise(self.module, seed, factory=self.build).eval()


def load_model(
    spec: str,
    *,
    pretrained: bool = True,
    checkpoint: str | Path | None = None,
    seed: int = 0,
    input_options: InputOptions | None = None,
) -> LoadedModel:
    """Load a model by its spec.

    Args:
        spec: a timm name (`resnet50`, `resnet50.a1_in1k`, `hf-hub:owner/name`), `torchvision/resnet50`,
            `net/NAME` (ours), `file.py:factory` or `package.module:factory`.
        pretrained: fetch the published weights; otherwise random ones from `seed`.
        checkpoint: a safetensors file, or a torch file, which is read with `weights_only=True`.
        input_options: size, mean and std in place of the model's own.

    Raises:
        UsageError: unknown name, weights that cannot be fetched, a checkpoint that does not fit.

    Example:
        >>> from timm_diffsens import load_model
        >>> model = load_model("test_resnet", pretrained=False, seed=0)
        >>> model.input.height, model.classes, model.weights.source
        (160, 1000, 'random')
    """
    runtime.prepare()
    metadata = None
    origin: tuple[Origin, str | None, int | None]
    with runtime.seeded(seed):
        source = _resized(find_source(spec), input_options)
        build: Callable[[], nn.Module] | None = source.build
        if pretrained and checkpoint is None and source.pretrained is not None:
            module = fetch(f"the weights of {spec}", source.pretrained, _ADVICE)
            origin = ("pretrained", source.detail, None)
        else:
            module = source.build()
            origin = ("random", None, seed)
    if source.library == "python" and _brings_weights(source, module, seed):
        build, origin = None, ("given", None, None)
    if checkpoint is not None:
        metadata = load_checkpoint(module, Path(checkpoint))
        origin = ("checkpoint", Path(checkpoint).name, None)
    module.eval()
    spec_of_input = _input(spec, source, module, input_options or InputOptions())
    return LoadedModel(
        spec=source.shown or spec,
        arch=_arch(source, module),
        library=source.library,
        module=module,
        input=spec_of_input,
        classes=_classes_seen(module, spec_of_input) if source.library == "python" else _classes(module),
        weights=Weights(
            source=origin[0], detail=origin[1], seed=origin[2], sha256=state_sha256(module.state_dict())
        ),
        build=build,
        class_names=source.class_names or _imagenet_names(module),
        published_error=source.published_error if origin[0] == "pretrained" else None,
        code_sha256=code_sha256(module, source.code_sha256) if source.library == "python" else None,
        metadata=metadata,
    )


def _brings_weights(source: Source, module: nn.Module, seed: int) -> bool:
    """Whether a factory gives weights of its own: most of them are the same from another seed."""
    with runtime.seeded(seed + 1):
        other = dict(source.build().named_parameters())
    same = [
        p.numel() if torch.equal(p, other[name]) else -p.numel()
        for name, p in module.named_parameters()
        if p.ndim > 1 and name in other and p.shape == other[name].shape
    ]
    return sum(same) > 0


def _arch(source: Source, module: nn.Module) -> str:
    config = getattr(module, "pretrained_cfg", None) if source.library == "timm" else None
    return str((config or {}).get("architecture") or source.arch)


def given_model(module: nn.Module, asked: InputOptions) -> LoadedModel:
    """A module that the caller made, with the preprocessing asked for or timm's own for it.

    Raises:
        UsageError: the input size is not known.
    """
    runtime.prepare()
    name = type(module).__name__
    source = Source(
        arch=name, library="python", build=lambda: module, pretrained=None, input=None, detail=None
    )
    spec_of_input = _input(name, source, module, asked)
    return LoadedModel(
        spec=name,
        arch=name,
        library="python",
        module=module,
        input=spec_of_input,
        classes=_classes_seen(module, spec_of_input),
        code_sha256=code_sha256(module),
        weights=Weights(source="given", detail=None, seed=None, sha256=state_sha256(module.state_dict())),
        build=None,
        class_names=_imagenet_names(module),
    )


def _input(spec: str, source: Source, module: nn.Module, asked: InputOptions) -> InputSpec:
    known = source.input or timm_input(module)
    if known is None:
        if asked.size is None:
            raise UsageError(
                f"the input size of {spec} is not known; pass --input-size, and --mean and --std"
            )
        if asked.mean is None or asked.std is None:
            runtime.warn(f"mean and std of {spec} are not known: ImageNet's are used; pass --mean and --std")
        channels = _channels(module)
        known = InputSpec(
            channels=channels,
            height=asked.size[0],
            width=asked.size[1],
            mean=_spread(_IMAGENET_MEAN, channels),
            std=_spread(_IMAGENET_STD, channels),
            crop_pct=1.0,
            crop_mode="center",
            interpolation="bicubic",
        )
    changes: dict[str, Any] = {}
    if asked.size is not None:
        if min(asked.size) < 1:
            raise UsageError(f"--input-size must be at least 1 pixel, got {asked.size}")
        changes |= {"height": asked.size[0], "width": asked.size[1]}
    for name, value in (("mean", asked.mean), ("std", asked.std)):
        if value is not None:
            changes[name] = _per_channel(name, value, known.channels)
    return known.model_copy(update=changes)


def _per_channel(name: str, value: Sequence[float], channels: int) -> tuple[float, ...]:
    values = tuple(float(v) for v in value)
    values = values * channels if len(values) == 1 else values
    if len(values) != channels:
        expected = "1 number" if channels == 1 else f"1 or {channels} numbers"
        raise UsageError(f"--{name} needs {expected}, got {len(values)}")
    if not all(math.isfinite(v) for v in values):
        raise UsageError(f"--{name} must be finite, got {values}")
    if name == "std" and min(values) <= 0:
        raise UsageError(f"--std must be positive, got {values}")
    return values


def _spread(values: Sequence[float], channels: int) -> tuple[float, ...]:
    """Values of three colours for another number of channels: their average."""
    same = len(values) == channels
    return tuple(float(v) for v in values) if same else (float(sum(values) / len(values)),) * channels


def _channels(module: nn.Module) -> int:
    """What the first convolution reads; colour images where there is none."""
    return next((int(m.in_channels) for m in module.modules() if isinstance(m, _ConvNd)), len(_IMAGENET_MEAN))


def timm_input(module: nn.Module) -> InputSpec | None:
    """The preprocessing of a timm model's own configuration, at the size and the channels it was made for.

    None for other modules.
    """
    from timm import models
    from timm.data import resolve_model_data_config

    if not getattr(module, "pretrained_cfg", None) and not getattr(module, "default_cfg", None):
        return None
    config = resolve_model_data_config(module)
    current = getattr(models, "get_model_input_config", None)  # newer than the oldest timm we run with
    channels, height, width = current(module)["input_size"] if current else config["input_size"]
    return InputSpec(
        channels=channels,
        height=height,
        width=width,
        mean=_spread(config["mean"], channels),
        std=_spread(config["std"], channels),
        crop_pct=config["crop_pct"],
        crop_mode=config["crop_mode"],
        interpolation=config["interpolation"],
    )


def _classes(module: nn.Module) -> int | None:
    """What the model says about itself, or else the width of its last linear layer."""
    said = getattr(module, "num_classes", None)
    if isinstance(said, int):
        return said or None
    linear = [m for m in module.modules() if isinstance(m, nn.Linear)]
    return linear[-1].out_features if linear else None


def _classes_seen(module: nn.Module, spec: InputSpec) -> int | None:
    """The width of the network's output (n, classes), seen on a blank image; None for another output.

    A timm model says itself whether what it gives are classes or features.
    """
    if timm_input(module) is not None:
        return _classes(module)
    flags = {part: part.training for part in module.modules()}
    module.eval()
    like = next(iter(module.parameters()), torch.empty(0))
    try:
        with torch.no_grad():
            blank = torch.zeros(
                2, spec.channels, spec.height, spec.width, dtype=like.dtype, device=like.device
            )
            found = pick_output(module(blank))
    except Exception:  # it will fail again when it is measured, where that is reported
        return _classes(module)
    finally:
        for part, flag in flags.items():
            part.training = flag
    return found[1].shape[1] if found is not None and found[1].ndim == 2 else None


def _resized(source: Source, asked: InputOptions | None) -> Source:
    """A network that is fixed to one input size, built for the size asked for (timm's `img_size`)."""
    if asked is None or asked.size is None or not source.fixed_size:
        return source

    def at(make: Callable[..., nn.Module]) -> Callable[[], nn.Module]:
        def build() -> nn.Module:
            try:
                return make(img_size=asked.size)
            except DiffsensError:
                raise
            except (TypeError, AssertionError, ValueError, RuntimeError, ZeroDivisionError) as error:
                raise UsageError(
                    f"{source.arch} cannot be built for --input-size {asked.size}: {error}"
                ) from error

        return build

    pretrained = at(source.pretrained) if source.pretrained is not None else None
    return replace(source, build=at(source.build), pretrained=pretrained)


def _imagenet_names(module: nn.Module) -> tuple[str, ...] | None:
    from timm.data import ImageNetInfo, infer_imagenet_subset

    if not hasattr(module, "pretrained_cfg"):
        subset = "imagenet-1k" if _classes(module) == 1000 else None
    else:
        subset = infer_imagenet_subset(module) if _classes(module) else None
    return tuple(ImageNetInfo(subset).label_names()) if subset else None
