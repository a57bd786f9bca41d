"""What a network is shown: its own preprocessing, a task's, or what the user asks for."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.nn.modules.conv import _ConvNd

from timm_diffsens.errors import UsageError, warn
from timm_diffsens.models.arguments import ModelArguments
from timm_diffsens.schema import limits
from timm_diffsens.schema.records import InputSpec

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_ASSUMED = f"mean {', '.join(map(str, _IMAGENET_MEAN))} and std {', '.join(map(str, _IMAGENET_STD))}"


@dataclass(frozen=True)
class InputOptions:
    """What the user asks for instead of the model's own preprocessing; None keeps the model's.

    `channels` are for a network whose first convolution is lazy and reads what it is given.
    """

    size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    channels: int | None = None


def plain_input(
    channels: int, sides: tuple[int, int], mean: Sequence[float] = (0.0,), std: Sequence[float] = (1.0,)
) -> InputSpec:
    """Images of that size as they are, unless `mean` and `std` say otherwise: nothing is cut off."""
    return InputSpec(
        channels=channels,
        height=sides[0],
        width=sides[1],
        mean=_spread(mean, channels),
        std=_spread(std, channels),
        crop_pct=1.0,
        crop_mode="center",
        interpolation="bicubic",
    )


def task_input(
    arguments: ModelArguments, known: InputSpec | None, channels: int | None = None
) -> InputSpec | None:
    """The input of an architecture that was built for a task: mean 0, std 1, of the task's size and channels.

    Args:
        arguments: `in_chans` and `size` make an input the task's; without both it stays what is known.
        known: of the architecture itself; gives what `arguments` leave open.
        channels: if they are known from elsewhere.

    Returns:
        None where size or channels are not known.
    """
    if arguments.in_chans is None and arguments.size is None:
        return known
    channels = arguments.in_chans or (known.channels if known else channels)
    sides = arguments.sides or ((known.height, known.width) if known else None)
    return plain_input(channels, sides) if channels and sides else None


def find_input(
    spec: str, known: InputSpec | None, module: nn.Module, asked: InputOptions, dims: int = 2
) -> InputSpec:
    """What is known, or timm's own for the module, changed as asked for.

    Raises:
        UsageError: the input size is not known; one of mean and std is given, the other not known; impossible
            values.
    """
    known = known or timm_input(module)
    if known is None:
        if asked.size is None:
            raise UsageError(
                f"the input size of {spec} is not known; pass --input-size, and --mean and --std"
            )
        if (asked.mean is None) != (asked.std is None):
            one, other = ("--mean", "--std") if asked.mean is None else ("--std", "--mean")
            raise UsageError(f"{other} is given, {one} is not, and {spec} has none of its own: pass both")
        if asked.mean is None:
            warn(
                f"mean and std of {spec} are not known: ImageNet's are used ({_ASSUMED}); "
                "pass --mean and --std"
            )
        given = max(len(asked.mean or ()), len(asked.std or ()))
        channels = input_channels(module, asked.channels or (given if given > 1 else None))
        known = plain_input(channels, asked.size, _IMAGENET_MEAN, _IMAGENET_STD)
    changes: dict[str, Any] = {}
    if asked.size is not None:
        if min(asked.size) < 1:
            raise UsageError(f"--input-size must be at least 1 pixel, got {asked.size}")
        if max(asked.size) > limits.SIDE:
            raise UsageError(f"--input-size must be at most {limits.SIDE:,} pixels a side, got {asked.size}")
        changes |= {"height": asked.size[0] if dims == 2 else 1, "width": asked.size[1]}
    for name, value in (("mean", asked.mean), ("std", asked.std)):
        if value is not None:
            changes[name] = _per_channel(name, value, known.channels)
    return known.model_copy(update=changes)


def check_input(shown: InputSpec) -> None:
    """Refuse an input from a recipe that could not be made, or only with a great deal of memory.

    Raises:
        UsageError: sides, channels, colours or crop out of range.
    """
    sizes = {"channels": shown.channels, "height": shown.height, "width": shown.width}
    for name, value in sizes.items():
        most = limits.ARGUMENTS["in_chans"] if name == "channels" else limits.SIDE
        if not 1 <= value <= most:
            raise UsageError(f"input.{name} must be from 1 to {most:,}, got {value}")
    if math.prod(sizes.values()) > limits.INPUT_NUMBERS:
        raise UsageError(f"an input holds at most {limits.INPUT_NUMBERS:,} numbers, got {sizes}")
    for name, values in (("mean", shown.mean), ("std", shown.std)):
        _per_channel(name, values, shown.channels)
    if not limits.CROP[0] <= shown.crop_pct <= limits.CROP[1]:
        raise UsageError(
            f"input.crop_pct must be from {limits.CROP[0]} to {limits.CROP[1]}, got {shown.crop_pct}"
        )


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


def input_channels(module: nn.Module, given: int | None = None) -> int:
    """What the first convolution reads; what is given if it is lazy; colours where nothing says it."""
    first = next((int(m.in_channels) for m in module.modules() if isinstance(m, _ConvNd)), None)
    return first or (given if first is not None and given else len(_IMAGENET_MEAN))


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
