"""A model spec -> where the architecture and its published weights come from."""

import functools
import hashlib
import inspect
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

from torch import nn

from timm_diffsens.errors import DiffsensError, UsageError, first_line, unknown
from timm_diffsens.models.arguments import NO_ARGUMENTS
from timm_diffsens.models.arguments import ModelArguments as ModelArguments
from timm_diffsens.models.factories import call_factory, find_factory, split_spec
from timm_diffsens.models.first_conv import replace_input_channels
from timm_diffsens.models.hub import fetch
from timm_diffsens.models.inputs import plain_input, task_input
from timm_diffsens.models.nets import NETS, check_arguments, make_net
from timm_diffsens.schema.records import InputSpec

Library = Literal["timm", "torchvision", "net", "python"]

_REMOTE = ("hf-hub:", "hf_hub:", "local-dir:")
_NAMES = "`diffsens ls models` lists what needs no configuration"
_HALF = (0.5,)
# What architectures answer with when they cannot be built for a size or a number of channels.
_BUILD_ERRORS = (TypeError, AssertionError, ValueError, RuntimeError, ZeroDivisionError)


@dataclass(frozen=True)
class Source:
    """An architecture before its weights: how to make it, and what is known about its input."""

    arch: str
    library: Library
    build: Callable[[], nn.Module]
    pretrained: Callable[[], nn.Module] | None
    input: InputSpec | None
    detail: str | None
    class_names: tuple[str, ...] | None = None
    published_error: float | None = None
    code_sha256: str | None = None
    shown: str | None = None  # the spec as records have it, where it is not the one given
    fixed_size: bool = False  # takes images of one size only


def find_source(spec: str, arguments: ModelArguments = NO_ARGUMENTS) -> Source:
    """Find out what a model spec means, without making the model.

    Args:
        spec: as `models.loading.load_model` takes it.
        arguments: that `build` makes the architecture with, by the names of its library. With `in_chans` or
            `size` the input is a task's: of that size, mean 0, std 1, nothing cut off.

    Raises:
        UsageError: nothing of that name, the message has the nearest names; an argument that the
            architecture does not take.
    """
    source = _find(spec, arguments)
    return replace(source, input=task_input(arguments, source.input))


def shown_spec(spec: str) -> str:
    """A spec without what does not tell architectures apart: the folders of a file, and `timm/`."""
    if ".py:" in spec and not spec.startswith(("torchvision/", "net/", *_REMOTE)):
        _, name, path = split_spec(spec)
        return f"{path.name}:{name}" if path else spec
    return spec.removeprefix("timm/")


def _find(spec: str, arguments: ModelArguments) -> Source:
    if not spec.strip():
        raise UsageError(
            "empty model spec; expected a name such as resnet50 (`diffsens ls models` lists them)"
        )
    if spec.startswith("torchvision/"):
        return _torchvision(spec.removeprefix("torchvision/"), arguments)
    if spec.startswith("net/"):
        return _net(spec.removeprefix("net/"), arguments)
    if spec.startswith(_REMOTE):
        return _timm_remote(spec, arguments)
    if ":" not in spec:
        return _timm(spec.removeprefix("timm/"), arguments)
    return _python(spec, arguments)


def _timm(spec: str, arguments: ModelArguments) -> Source:
    import timm
    from timm.models import get_pretrained_cfg

    name, dot, tag = spec.partition(".")
    if name not in timm.list_models():
        known = [*timm.list_models(), *(f"torchvision/{n}" for n in torchvision_names())]
        known += [f"net/{n}" for n in NETS]
        raise unknown("model", spec, known, "`diffsens ls models` lists them")
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{name}.*")] if dot else []
    if dot and tag not in tags:
        raise unknown(f"weights tag of {name}", tag, tags, f"it has: {', '.join(tags) or 'none'}")
    found = get_pretrained_cfg(spec, allow_unregistered=False)
    config = found.to_dict() if found else {}
    available = config.get("hf_hub_id") or config.get("url") or config.get("file")
    fixed = bool(config.get("fixed_input_size"))
    make = _timm_maker(spec, arguments, fixed)
    return Source(
        arch=config.get("architecture") or name,
        library="timm",
        build=functools.partial(make, pretrained=False),
        pretrained=functools.partial(make, pretrained=True) if available else _no_weights(spec),
        input=None,
        detail=config.get("hf_hub_id") or config.get("url"),
        fixed_size=fixed,
    )


def _timm_maker(spec: str, arguments: ModelArguments, fixed_size: bool) -> Callable[..., nn.Module]:
    import timm

    arguments.require(f"timm model {spec}", "in_chans", "num_classes", "size")
    given: dict[str, Any] = {name: getattr(arguments, name) for name in ("in_chans", "num_classes")}
    given["img_size"] = arguments.sides if fixed_size else None
    given = {name: value for name, value in given.items() if value is not None}
    make = functools.partial(timm.create_model, spec, **given)
    return _spoken(make, spec, given) if given else make


def _spoken(make: Callable[..., nn.Module], name: str, given: dict[str, Any]) -> Callable[..., nn.Module]:
    """`make`, whose complaints about the arguments name them."""

    def build(**more: Any) -> nn.Module:
        try:
            return make(**more)
        except DiffsensError:
            raise
        except _BUILD_ERRORS as error:
            values = {**given, **more}
            asked = ", ".join(f"{word}={value}" for word, value in values.items() if word != "pretrained")
            raise UsageError(f"{name} cannot be built with {asked}: {first_line(error)}") from error

    return build


def _timm_remote(spec: str, arguments: ModelArguments) -> Source:
    """An architecture named by a configuration elsewhere, which has to be read even for random weights."""
    make = _timm_maker(spec, arguments, fixed_size=False)
    return Source(
        arch=spec.partition(":")[2],
        library="timm",
        build=lambda: fetch(
            f"the configuration of {spec}", functools.partial(make, pretrained=False), _NAMES
        ),
        pretrained=functools.partial(make, pretrained=True),
        input=None,
        detail=spec.partition(":")[2],
    )


def _no_weights(spec: str) -> Callable[[], nn.Module]:
    def refuse(**_: Any) -> nn.Module:
        raise UsageError(
            f"there are no published weights for {spec}; "
            "pass --checkpoint FILE, or --no-pretrained for random weights"
        )

    return refuse


def torchvision_names() -> list[str]:
    """Names of torchvision's image classifiers."""
    import torchvision

    return list(torchvision.models.list_models(module=torchvision.models))


def _torchvision_known() -> list[str]:
    """Networks of images with one output: classifiers and segmentation; neither video nor detection."""
    from torchvision import models

    parts = (models.quantization, models.segmentation)
    return torchvision_names() + [name for part in parts for name in models.list_models(module=part)]


def _torchvision(spec: str, arguments: ModelArguments) -> Source:
    import torchvision

    name, _, tag = spec.partition(".")
    if name not in _torchvision_known():
        raise unknown("torchvision model", name, _torchvision_known(), "`diffsens ls models` lists them")
    enum = torchvision.models.get_model_weights(name)
    members = {w.name: w for w in enum}
    if tag and tag not in members:
        raise unknown(
            f"weights of torchvision/{name}", tag, members, f"it has: {', '.join(members) or 'none'}"
        )
    weights = members[tag] if tag else (enum.DEFAULT if members else None)
    preset, accuracy = _torchvision_input(weights), _accuracy(weights)
    return Source(
        arch=name,
        library="torchvision",
        build=_torchvision_maker(name, arguments, preset),
        pretrained=_torchvision_pretrained(name, arguments, weights),
        input=preset,
        detail=f"{type(weights).__name__}.{weights.name}" if weights is not None else None,
        published_error=None if accuracy is None else 1 - accuracy / 100,
    )


def _torchvision_maker(
    name: str, arguments: ModelArguments, preset: InputSpec | None
) -> Callable[[], nn.Module]:
    """A builder for random weights; torchvision has no word for the channels of the input."""
    import torchvision

    arguments.require(f"torchvision/{name}", "in_chans", "num_classes", "size")
    channels = arguments.in_chans or 3
    extra: dict[str, Any] = {}
    if name in {"googlenet", "inception_v3"}:
        # the published weights imply the input transform (of colours), and it leaves no trace in a state dict
        extra = {"init_weights": True, "transform_input": channels == 3}
    if _has_backbone(name):
        extra["weights_backbone"] = None
    given: dict[str, Any] = {} if arguments.num_classes is None else {"num_classes": arguments.num_classes}
    sides = arguments.sides or ((preset.height, preset.width) if preset else (224, 224))
    if name.startswith("vit_"):  # fixed to one size, which is not the same under all of its weights
        given["image_size"] = sides[0]
    if name.startswith("maxvit"):
        given["input_size"] = sides
    get = functools.partial(torchvision.models.get_model, name, weights=None, **extra, **given)
    make = _spoken(get, f"torchvision/{name}", given) if given else get
    if channels == 3:
        return make
    return lambda: replace_input_channels(make(), channels, sides, f"torchvision/{name}")


def _torchvision_pretrained(name: str, arguments: ModelArguments, weights: Any) -> Callable[[], nn.Module]:
    import torchvision

    if weights is None:
        return _no_weights(f"torchvision/{name}")
    if {"in_chans", "num_classes"} & {*arguments.given}:
        return _no_weights(f"torchvision/{name} with other channels or classes")
    return functools.partial(torchvision.models.get_model, name, weights=weights)


def _has_backbone(name: str) -> bool:
    import torchvision

    return "weights_backbone" in inspect.signature(torchvision.models.get_model_builder(name)).parameters


def _accuracy(weights: Any) -> float | None:
    metrics = (weights.meta.get("_metrics") or {}) if weights is not None else {}
    value = metrics.get("ImageNet-1K", {}).get("acc@1")
    return float(value) if value is not None and math.isfinite(value) else None


def _torchvision_input(weights: Any) -> InputSpec | None:
    """timm's terms for torchvision's resize-then-crop: crop_pct = crop / resize."""
    if weights is None:
        return None
    preset = weights.transforms()
    crop, resize = (getattr(preset, name, None) for name in ("crop_size", "resize_size"))
    if not crop or not resize:
        return None
    return InputSpec(
        channels=3,
        height=crop[0],
        width=crop[0],
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        crop_pct=crop[0] / resize[0],
        crop_mode="center",
        interpolation=preset.interpolation.value,
    )


def _net(name: str, arguments: ModelArguments) -> Source:
    if name not in NETS:
        raise unknown(
            "network", f"net/{name}", [f"net/{n}" for n in NETS], "`diffsens ls models 'net/*'` lists them"
        )
    return Source(
        arch=name,
        library="net",
        build=functools.partial(make_net, name, **_net_arguments(name, arguments)),
        pretrained=_no_weights(f"net/{name}"),
        input=plain_input(3, (1 if arguments.dims == 1 else 32, 32), _HALF, _HALF),
        detail=None,
    )


def _net_arguments(name: str, arguments: ModelArguments) -> dict[str, int]:
    """In the words of our own networks, which take square images."""
    sides = arguments.sides
    if sides and arguments.dims == 2 and sides[0] != sides[1]:
        raise UsageError(f"net/{name} takes square images, got size {sides[0]} x {sides[1]}")
    words = {"in_chans": "channels", "num_classes": "classes", "size": "side"}
    given = {words.get(word, word): getattr(arguments, word) for word in arguments.given}
    given = given | ({"side": sides[1]} if sides else {})
    check_arguments(name, given)
    return given


def _python(spec: str, arguments: ModelArguments) -> Source:
    arguments.require(f"the factory {spec}", "in_chans", "num_classes", "size", "dims")
    _, name, path = split_spec(spec)
    return Source(
        arch=name,
        library="python",
        build=functools.partial(call_factory, spec, find_factory(spec), arguments),
        pretrained=None,
        input=None,
        detail=None,
        code_sha256=hashlib.sha256(path.read_bytes()).hexdigest() if path else None,
        shown=shown_spec(spec) if path else None,
    )
