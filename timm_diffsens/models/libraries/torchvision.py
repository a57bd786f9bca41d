"""torchvision's networks of images with one output: `torchvision/NAME`, with a tag of its weights or not."""

import functools
import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from torch import nn

from timm_diffsens import registry
from timm_diffsens.errors import unknown
from timm_diffsens.models.architectures import Architecture, explained, no_weights
from timm_diffsens.models.arguments import ModelArguments
from timm_diffsens.models.first_conv import replace_input_channels
from timm_diffsens.schema.records import InputSpec

_TASK = ("in_chans", "num_classes")


@registry.register("models", "torchvision", help="torchvision/NAME", order=1)
class TorchvisionModels:
    """Arguments are those of `torchvision.models.get_model`, and `in_chans`, for which it has no word."""

    def names(self, pretrained: bool) -> list[str]:
        """The classifiers, which all have published weights."""
        return [f"torchvision/{name}" for name in torchvision_names()]

    def find(self, name: str, arguments: ModelArguments, given: Mapping[str, Any]) -> Architecture:
        """A classifier or a segmentation network; neither video nor detection."""
        import torchvision

        arguments.require(name, "in_chans", "num_classes", "size")
        arguments = replace(arguments, **{word: given[word] for word in _TASK if word in given})
        arch, _, tag = name.removeprefix("torchvision/").partition(".")
        if arch not in _known():
            raise unknown("torchvision model", arch, _known(), "`diffsens ls models` lists them")
        enum = torchvision.models.get_model_weights(arch)
        members = {w.name: w for w in enum}
        if tag and tag not in members:
            has = f"it has: {', '.join(members) or 'none'}"
            raise unknown(f"weights of torchvision/{arch}", tag, members, has)
        weights = members[tag] if tag else (enum.DEFAULT if members else None)
        preset, accuracy = _input(weights), _accuracy(weights)
        own = {word: value for word, value in given.items() if word not in _TASK}
        make = functools.partial(torchvision.models.get_model, arch)
        if weights is None:
            pretrained = no_weights(f"torchvision/{arch}")
        elif {*_TASK} & {*arguments.given}:
            pretrained = no_weights(f"torchvision/{arch} with other channels or classes")
        else:
            pretrained = functools.partial(explained(make, f"torchvision/{arch}", own), weights=weights)
        return Architecture(
            arch=arch,
            library="torchvision",
            build=functools.partial(_build, arch, arguments, own, preset),
            pretrained=pretrained,
            input=preset,
            detail=f"{type(weights).__name__}.{weights.name}" if weights is not None else None,
            published_error=None if accuracy is None or own else 1 - accuracy / 100,
            arguments=arguments,
        )


def torchvision_names() -> list[str]:
    """Names of torchvision's image classifiers."""
    import torchvision

    return list(torchvision.models.list_models(module=torchvision.models))


def _known() -> list[str]:
    from torchvision import models

    parts = (models.quantization, models.segmentation)
    return torchvision_names() + [name for part in parts for name in models.list_models(module=part)]


def _build(
    arch: str, arguments: ModelArguments, own: Mapping[str, Any], preset: InputSpec | None
) -> nn.Module:
    """With random weights."""
    import torchvision

    channels = arguments.in_chans or 3
    sides = arguments.sides or ((preset.height, preset.width) if preset else (224, 224))
    extra: dict[str, Any] = {}
    if arch in {"googlenet", "inception_v3"}:
        # the published weights imply the input transform (of colours), and it leaves no trace in a state dict
        extra = {"init_weights": True, "transform_input": channels == 3}
    if "weights_backbone" in registry.parameters(torchvision.models.get_model_builder(arch)):
        extra["weights_backbone"] = None
    given: dict[str, Any] = {} if arguments.num_classes is None else {"num_classes": arguments.num_classes}
    if arch.startswith("vit_"):  # fixed to one size, which is not the same under all of its weights
        given["image_size"] = sides[0]
    if arch.startswith("maxvit"):
        given["input_size"] = sides
    given |= own
    make = functools.partial(torchvision.models.get_model, arch, **extra)
    made = explained(make, f"torchvision/{arch}", given)(weights=None)
    return made if channels == 3 else replace_input_channels(made, channels, sides, f"torchvision/{arch}")


def _accuracy(weights: Any) -> float | None:
    metrics = (weights.meta.get("_metrics") or {}) if weights is not None else {}
    value = metrics.get("ImageNet-1K", {}).get("acc@1")
    return float(value) if value is not None and math.isfinite(value) else None


def _input(weights: Any) -> InputSpec | None:
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
