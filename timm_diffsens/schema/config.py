"""Everything a measurement can be asked for: each option stands here, once.

The options of `diffsens bench` and `diffsens sweep`, the keyword arguments of `bench(...)`, the checks and
the record's protocol are made from the fields of `Config`.
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from timm_diffsens import registry
from timm_diffsens.errors import UsageError, unknown
from timm_diffsens.files import absolute
from timm_diffsens.schema import limits
from timm_diffsens.schema.protocol import read_delta

OptionGroup = Literal["model", "data", "protocol", "key", "run"]

MODEL, RUNNING = "Model", "Running"  # headings that other verbs have too


@dataclass(frozen=True)
class Option:
    """What there is to know of a field besides its name, type and default.

    Attributes:
        help: one sentence. section: heading on the help page. unit: of its number.
        group: the part of a record that it goes into. protocol: it must agree for records to be comparable;
            key: it changes what is in the record otherwise; run: it changes no number beyond rounding.
        recorded: its name in the protocol, where that is another one; "" where the protocol has it under
            another form.
        metavar: what stands for its value on the help page.
        text: on the command line a text, which the field's own validator reads.
        repeatable: on the command line it may be given several times.
        one_model: it belongs to one model, so a sweep does not have it.
        aliases: other names for it.
        kind: of the registry, whose names are its values.
    """

    help: str
    section: str
    group: OptionGroup = "run"
    unit: str = ""
    recorded: str | None = None
    metavar: str | None = None
    text: bool = False
    repeatable: bool = False
    one_model: bool = False
    aliases: tuple[str, ...] = ()
    kind: str = ""

    @property
    def sentence(self) -> str:
        """The help with the unit."""
        return f"{self.help[:-1]}, in {self.unit}." if self.unit else self.help


def option(default: Any, help: str, unit: str = "", **more: Any) -> Any:
    """A field of this default; the others are the arguments of its `Option`."""
    extra: dict[str, Any] = {"option": Option(help, unit=unit, **more)}
    return Field(default, json_schema_extra=extra)


_model = partial(option, section=MODEL, group="model")
_images = partial(option, section="Images", group="data")
_perturbation = partial(option, section="Perturbation", group="protocol")
_reading = partial(option, section="Layers and variants", group="protocol")
_running = partial(option, section=RUNNING)


def split_commas(value: Any) -> list[str]:
    """A text, or several, as the parts between commas; arguments (`name:a=1,b=2`) stay with their name.

    So does the name of a file (`fields:a,b.npz`) up to its suffix.
    """
    parts: list[str] = []
    for text in [value] if isinstance(value, str) else value:
        first = len(parts)
        for part in str(text).split(","):
            if len(parts) > first and _goes_on(parts[-1], part):
                parts[-1] += f",{part}"
            else:
                parts.append(part)
    return [part.strip() for part in parts if part.strip()]


def _goes_on(spec: str, part: str) -> bool:
    """Whether what follows a comma belongs to the spec before it."""
    name, _, file = spec.strip().partition(":")
    endings = registry.suffixes(name) if file else ()
    if endings:
        return not spec.rstrip().endswith(endings)
    return "=" in spec and re.match(r"\s*\w+=", part) is not None


def _whole(value: Any, word: str) -> int:
    try:
        if isinstance(value, bool) or int(value) != (value if isinstance(value, float) else int(value)):
            raise ValueError
        return int(value)
    except (TypeError, ValueError, OverflowError):
        raise UsageError(f"needs a whole number or {word}, got {value!r}") from None


def _count(value: Any) -> int | None:
    count = None if value is None or value == "all" else _whole(value, "all")
    if count is not None and count > limits.IMAGES:
        raise UsageError(f"must be at most {limits.shown(limits.IMAGES)}, got {value}")
    return count


def _batch_size(value: Any) -> int | str:
    size = value if value == "auto" else _whole(value, "auto")
    if size != "auto" and size < 1:
        raise UsageError(f"must be a positive number or auto, got {value}")
    if size != "auto" and size > limits.BATCH:
        raise UsageError(f"must be at most {limits.shown(limits.BATCH)}, got {value}")
    return size


def _size(value: Any) -> tuple[int, int] | None:
    if value is None:
        return None
    given = value.lower().replace("x", ",").split(",") if isinstance(value, str) else value
    given = given if isinstance(given, Sequence) else [given]
    try:
        sides = [_whole(side, "") for side in given]
    except UsageError:
        sides = []
    if len(sides) not in (1, 2) or min(sides) < 2:
        raise UsageError(f"needs H or H,W of at least 2 pixels, got {value!r}")
    if max(sides) > limits.SIDE:
        raise UsageError(f"must be at most {limits.shown(limits.SIDE)} pixels a side, got {value!r}")
    return sides[0], sides[-1]


def _numbers(value: Any) -> tuple[float, ...] | None:
    if value is None or isinstance(value, int | float):
        return None if value is None else (float(value),)
    try:
        return tuple(float(part) for part in split_commas(value)) or None
    except ValueError:
        raise UsageError(f"needs numbers separated by commas, got {','.join(map(str, value))!r}") from None


def _sizes(value: Any) -> tuple[float | str, ...] | None:
    """Numbers of pixels, and texts PIXELS@SIDE as they are."""
    if value is None:
        return None
    given = [value] if isinstance(value, int | float) else value
    read = [(part, *read_delta(part)) for part in split_commas(given)]
    for _, delta, _ in read:
        if not (math.isfinite(delta) and delta > 0):
            raise UsageError(f"must be a positive number of pixels, got {delta}")
    sizes = tuple(delta if side is None else part for part, delta, side in read) or None
    if sizes and len(sizes) > limits.DEFORMATIONS:
        raise UsageError(f"takes at most {limits.DEFORMATIONS} sizes, got {len(sizes)}")
    return sizes


def _specs(value: Any) -> tuple[Any, ...]:
    """Specs between commas, or a sequence of specs and objects; one object is one thing."""
    if isinstance(value, list | tuple):
        parts = [part for each in value for part in (split_commas(each) if isinstance(each, str) else [each])]
    else:
        parts = split_commas(value) if isinstance(value, str) else [value]
    if not 1 <= len(parts) <= limits.DEFORMATIONS:
        raise UsageError(f"needs between 1 and {limits.DEFORMATIONS} things, got {len(parts)}")
    return tuple(parts)


def _layers(value: Any) -> tuple[str, ...]:
    return tuple(split_commas(value or ())) or ("blocks",)


def _variants(value: Any) -> tuple[str, ...]:
    """Specs as given, built-ins first in their own order; `original` is always among them."""
    asked = ["original"]
    built_in = [entry.name for entry in registry.built_ins("variants")]
    for name in split_commas(value or DEFAULT_VARIANTS):
        if name != "all":
            registry.find("variants", name)  # or it raises
        asked += built_in if name == "all" else [name]
    ordered = [name for name in built_in if name in asked]
    return (*ordered, *dict.fromkeys(name for name in asked if name not in ordered))


DEFAULT_VARIANTS = ("original", "channel-shuffled", "mean-channel")


Count = Annotated[int | None, BeforeValidator(_count)]
Sides = Annotated[tuple[int, int] | None, BeforeValidator(_size)]
Floats = Annotated[tuple[float, ...] | None, BeforeValidator(_numbers)]
Copies = Annotated[int, Field(ge=1, le=limits.COPIES)]
Seed = Annotated[int, Field(ge=0, le=limits.SEED)]


class Options(BaseModel):
    """Options of a verb, checked on construction.

    Raises:
        UsageError: an unknown name, or a value out of range.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)

    def __init__(self, **values: Any) -> None:
        known = options(type(self))
        names = {alias: name for name, each in known.items() for alias in each.aliases}
        values = {names.get(name, name): value for name, value in values.items()}
        for name in values:
            if name not in known:
                raise unknown("option", name, known)
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise _usage_error(error, type(self)) from None

    def given(self, name: str) -> bool:
        """Whether an option was given, be it with the value of its default."""
        return name in self.model_fields_set

    def all_given(self) -> dict[str, Any]:
        """The options that were given."""
        return {name: value for name, value in self if self.given(name)}


class Config(Options):
    """What `bench` can be asked for.

    Values are checked on construction, whether they come from Python or as text from a command line.

    Raises:
        UsageError: an unknown name, or a value out of range.

    Example:
        >>> Config(layers="stages", variants="original", images="all").layers
        ('stages',)
    """

    checkpoint: Path | None = _model(
        None, "Weights: a safetensors or torch file.", metavar="FILE", one_model=True
    )
    pretrained: bool = _model(True, "Published or random weights.")
    input_size: Sides = _model(
        None, "Size of the input, in place of the model's own.", "pixels", metavar="H[,W]", text=True
    )
    mean: Floats = _model(
        None, "Mean that is subtracted, one or one a channel.", metavar="M,...", repeatable=True
    )
    std: Floats = _model(
        None, "Deviation that is divided by, one or one a channel.", metavar="S,...", repeatable=True
    )
    origin: str | None = _model(
        None, "For the record: who publishes the weights.", metavar="TEXT", one_model=True, group="run"
    )
    licence: str | None = _model(
        None, "For the record: under which licence.", metavar="TEXT", one_model=True, group="run"
    )
    dataset: Any = _images(
        "dead-leaves",
        "Which images; `diffsens ls datasets` lists the names.",
        metavar="SPEC",
        kind="datasets",
    )
    data_dir: Path | None = _images(None, "Folder of the images.", metavar="DIR")
    split: str | None = _images(None, "Split of the data set.")
    images: Count = _images(500, "How many images, chosen by the seed.", metavar="N|all", text=True)
    download: bool = _images(False, "Fetch the data set, where that can be done.")
    full_error: bool = _images(False, "Test error over the whole split.", group="key")
    test_error: Annotated[float | None, Field(ge=0, le=1)] = _images(
        None, "A known test error, as a fraction.", one_model=True, group="key"
    )
    train_error: Annotated[float | None, Field(ge=0, le=1)] = _images(
        None, "A known error on the training set, as a fraction.", one_model=True, group="key"
    )
    dims: int | None = _images(None, "scale1, scale2: 1 or 2 dimensions.")
    size: int | None = _images(None, "scale1, scale2: side of the images.", "pixels")
    xi: float | None = _images(None, "scale1: the distance; scale2: side of a patch.", "pixels")
    gap: float | None = _images(None, "scale1: distances around xi that are left out.", "pixels")
    deformation: Annotated[Any, BeforeValidator(_specs)] = _perturbation(
        ("diffeo",),
        "Deformation (default diffeo), or several, of which the first is that of tables and boards; "
        "`diffsens ls deformations` lists the names.",
        metavar="SPEC,...",
        repeatable=True,
        kind="deformations",
    )
    delta: Annotated[tuple[float | str, ...], BeforeValidator(_sizes)] = _perturbation(
        (1.0,),
        "Size of the deformation (default 1), or several, of which the first is that of tables and boards; "
        "in pixels of the input, or of images of another side (1@224: s/224 pixels of an input of side s).",
        metavar="PIXELS[@SIDE],...",
        repeatable=True,
    )
    cut: Annotated[int, Field(le=limits.CUT)] = _perturbation(3, "Cutoff of the deformation's Fourier modes.")
    components: bool = _perturbation(
        False, "Translation, rotation, dilation and shear of the (first) size too.", recorded=""
    )
    infinitesimal: bool = _perturbation(
        False, "The limit of small deformations too, by forward-mode derivatives.", recorded=""
    )
    equivariance: bool = _perturbation(
        False, "How far the layers' maps move with the image too.", group="key"
    )
    noise: Any = _perturbation(
        "gaussian", "Noise; its norm is that of the deformation.", metavar="SPEC", kind="noises"
    )
    corruption: Annotated[float, Field(ge=0, allow_inf_nan=False)] = _perturbation(
        0.0,
        "Standard deviation of noise that is fixed for each image, in units of the network's input.",
        recorded="corruption_sigma",
        metavar="SIGMA",
        aliases=("corrupt",),
    )
    seed: Seed = _perturbation(0, "Of the sample, the perturbations, the shuffles and random weights.")
    layers: Annotated[tuple[str, ...], BeforeValidator(_layers)] = _reading(
        ("blocks",), "stages, blocks (default), convs, all, or shell patterns.", repeatable=True
    )
    variants: Annotated[tuple[str, ...], BeforeValidator(_variants)] = _reading(
        DEFAULT_VARIANTS,
        "Default: original,channel-shuffled,mean-channel; `diffsens ls variants` lists more; or all.",
        recorded="",
        repeatable=True,
        kind="variants",
        group="key",
    )
    shuffles: Copies = _reading(3, "Channel-shuffled copies that are averaged.")
    shuffle_linear: bool = _reading(False, "Shuffle the inputs of linear layers too.")
    init_samples: Copies = _reading(3, "Fresh initialisations that are averaged.")
    device: str = _running("auto", "auto, cpu, cuda or cuda:i.")
    batch_size: Annotated[int | Literal["auto"], BeforeValidator(_batch_size)] = _running(
        "auto",
        "Images a batch; a forward sees each 1 + 2 K times, with K deformations.",
        metavar="N|auto",
        text=True,
    )
    per_image: bool = _running(True, "Keep each image's distances in a file beside the record.")
    amp: bool = _running(
        False, "Forwards in bfloat16 (autocast): other numbers.", recorded="", group="protocol"
    )
    tf32: bool = _running(False, "Forwards in TF32 on CUDA: other numbers.", recorded="", group="protocol")

    def values(self, *groups: OptionGroup) -> dict[str, Any]:
        """The options of these groups, under the names that records have for them."""
        return {
            each.recorded or name: getattr(self, name)
            for name, each in options(type(self)).items()
            if each.group in groups and each.recorded != ""
        }

    def changed(self, **values: Any) -> "Config":
        """The same with other values."""
        return type(self)(**{**self.all_given(), **values})

    def plain(self) -> dict[str, Any]:
        """What was given, as JSON values that another process reads the same in another folder.

        Raises:
            UsageError: an option is an object, which no other process has.
        """
        found: dict[str, Any] = {}
        for name, value in self.all_given().items():
            if isinstance(value, Path):
                value = str(absolute(value))
            elif name in _SPECS:
                specs = value if isinstance(value, tuple) else (value,)
                other = next((spec for spec in specs if not isinstance(spec, str)), None)
                if other is not None:
                    raise UsageError(f"{name} must be a spec here, got a {type(other).__name__}")
                made = [registry.absolute(spec) for spec in specs]
                value = made if isinstance(value, tuple) else made[0]
            elif isinstance(value, tuple):
                value = [registry.absolute(v) if isinstance(v, str) else v for v in value]
            found[name] = value
        return found


_SPECS = ("dataset", "deformation", "noise")


def options(config: type[Options]) -> dict[str, Option]:
    """Name of each field of a configuration -> what there is to know of it, in order."""
    fields: dict[str, Any] = config.model_fields
    return {name: field.json_schema_extra["option"] for name, field in fields.items()}


# options that a sweep does not have
ONE_MODEL = [f"--{name.replace('_', '-')}" for name, each in options(Config).items() if each.one_model]


def described(config: type[Config]) -> str:
    """A line for each option: its name, its default, and what it is."""
    return "\n".join(
        f"    {name} = {config.model_fields[name].default!r}: {each.sentence}"
        for name, each in options(config).items()
    )


def _usage_error(error: ValidationError, config: type[Options]) -> UsageError:
    """The first fault, with the option's name, what was expected, and what came."""
    fault = error.errors(include_url=False)[0]
    name = str(fault["loc"][0])
    said = fault.get("ctx", {}).get("error")
    if said is not None:
        return said if str(said).startswith("unknown ") else UsageError(f"{name} {said}")
    expected = fault["msg"].partition("should be ")[2]
    if fault["type"].startswith(("greater", "less")):
        ends = (_bound(config.model_fields[name], kind) for kind in ("ge", "le"))
        low, high = (None if end is None else limits.shown(end) for end in ends)
        expected = (
            f"between {low} and {high}" if low and high else f"at least {low}" if low else f"at most {high}"
        )
    return UsageError(f"{name} must be {expected}, got {fault['input']!r}")


def _bound(field: FieldInfo, kind: str) -> float | None:
    found = (getattr(data, kind, None) for data in field.metadata)
    return next((bound for bound in found if bound is not None), None)
