"""The record: one measured model, in full. The only place where its shape is defined.

A record is one JSON object. Numbers are rounded to seven significant digits, the precision of the
float32 forwards they come from; NaN and infinity never appear: a value that does not exist is null, and
`reason` says why. Equal records have equal bytes: free-form dictionaries are kept sorted.

`python -m timm_diffsens.schema.records` prints the JSON Schema, kept as `docs/record.schema.json`.
"""

import hashlib
import json
from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

SCHEMA_VERSION: Final = 1
_FORM = "%.7g"

VARIANTS: tuple["VariantName", ...] = ("original", "channel-shuffled", "mean-channel", "mean-filter", "init")
Origin = Literal["pretrained", "checkpoint", "random", "given"]
SpectrumOf = Literal["original", "init"]
VariantName = Literal["original", "channel-shuffled", "mean-channel", "mean-filter", "init"]


def _rounded(value: float) -> float:
    return float(_FORM % value) + 0.0  # no negative zero: it equals zero but prints otherwise


def _all_rounded(values: list[float]) -> list[float]:
    """A call a list, not one a number: most of a record's numbers stand in lists."""
    return [float(_FORM % value) + 0.0 for value in values]


def _grid_rounded(values: list[float]) -> list[float]:
    return list(_remembered(tuple(values)))


@lru_cache(maxsize=256)
def _remembered(values: tuple[float, ...]) -> list[float]:
    """Filters of one size have the same eigenvalues: a few lists in a thousand records."""
    return _all_rounded(list(values))


def _printable(value: Any) -> Any:
    """File names may hold bytes that are no text (lone surrogates in Python); they are spelt out."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _jsonable(value: dict[str, Any]) -> dict[str, Any]:
    """As it will be read back: keys sorted at every level, tuples as lists, no NaN."""
    try:
        plain: dict[str, Any] = json.loads(json.dumps(value, sort_keys=True, allow_nan=False))
    except TypeError as error:
        raise ValueError(f"must be plain JSON: {error}") from None
    return plain


_Key = TypeVar("_Key", bound=str)
_Value = TypeVar("_Value")


def _by_variant(value: dict[_Key, _Value]) -> dict[_Key, _Value]:
    return {name: value[name] for name in sorted(value, key=VARIANTS.index)}


def _sorted(value: dict[_Key, _Value]) -> dict[_Key, _Value]:
    return {name: value[name] for name in sorted(value)}


Number = Annotated[float, AfterValidator(_rounded)]
Numbers = Annotated[list[float], AfterValidator(_all_rounded)]
Grid = Annotated[list[float], AfterValidator(_grid_rounded)]
Name = Annotated[str, BeforeValidator(_printable)]
FreeForm = Annotated[dict[str, Any], AfterValidator(_jsonable)]


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, ser_json_inf_nan="strings")


class Weights(_Part):
    """Where the weights are from."""

    source: Origin = Field(
        description="pretrained: fetched by timm or torchvision; checkpoint: a file; random: freshly "
        "initialised from `seed`; given: as the caller's own code made them"
    )
    detail: Name | None = Field(None, description="hub id, URL, weights name or file name")
    seed: int | None = Field(None, description="seed of random weights")
    sha256: str = Field(description="over the state dict: names, dtypes, shapes and bytes, sorted by name")


class InputSpec(_Part):
    """What the network is shown: the preprocessing, after timm's `create_transform`."""

    channels: int
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float
    crop_mode: str
    interpolation: str


class Model(_Part):
    """Which network."""

    spec: Name = Field(description="as given to `diffsens bench`")
    arch: str = Field(description="architecture name, without weights tag or prefix")
    library: Literal["timm", "torchvision", "net", "python"]
    parameters: int
    classes: int | None = Field(None, description="number of classes, null without a classifier")
    weights: Weights
    input: InputSpec
    recipe: FreeForm | None = Field(None, description="training recipe, from the checkpoint's metadata")


class Data(_Part):
    """Which images."""

    spec: Name
    split: str | None = None
    n: int = Field(description="images measured")
    sample_sha256: str = Field(description="over the sampled images' names, labels and bytes, in order")
    seed: int = Field(description="seed that chose the sample")
    labelled: bool
    selection: Literal["random", "first", "all", "given"] = "random"
    skipped: list[Name] = Field(default_factory=list, description="images that could not be read, by name")
    note: str | None = Field(None, description="what the reader must know about the set, e.g. synthetic")
    title: Name | None = Field(None, description="shown where `spec` would mislead: CIFAR-10 (JPEG)")
    parameters: FreeForm | None = Field(None, description="of a set made here: the scale-detection task")


class Protocol(_Part):
    """How the inputs were moved and which layers were read."""

    deformation: Literal["max-entropy", "active pixels"] = Field(
        "max-entropy", description="active pixels: of scale detection, each moves by at most one pixel"
    )
    delta: Number | None = Field(
        description="deformation size in pixels, by the relation T = 4 delta^2/(pi n^2 ln cut); max-entropy"
    )
    cut: int | None = Field(description="cutoff of the displacement field's Fourier modes; max-entropy")
    rms_displacement: Number = Field(description="exact rms displacement in pixels at this input size")
    noise: Literal["gaussian, norm matched image by image"] = "gaussian, norm matched image by image"
    corruption_sigma: Number = Field(0.0, description="sd of the noise fixed for each image, in input units")
    seed: int
    layers: list[str] = Field(description="the layer selection, as asked for")
    dtype: str = "float32"
    shuffles: int = Field(1, description="channel-shuffled copies averaged over")
    shuffle_linear: bool = False
    init_samples: int = Field(1, description="fresh initialisations averaged over")
    sha256: str = Field("", description="hash of the fields above; equal hashes are comparable")

    @property
    def moves(self) -> str:
        """The deformation in words."""
        if self.delta is None or self.cut is None:
            return "active pixels move by at most one pixel"
        return f"delta = {self.delta:g} px, cut = {self.cut}"


class TestError(_Part):
    """Top-1 error as a fraction."""

    __test__ = False  # not a pytest class

    value: Number | None = None
    stderr: Number | None = None
    n: int | None = None
    source: Literal["measured", "measured on the full split", "recipe", "published", "given"] | None = Field(
        None, description="recipe: measured at the end of the training that made the checkpoint"
    )
    reason: str | None = Field(None, description="why there is no value")


class Layer(_Part):
    """One layer's sensitivities: Eq. 1 of arXiv 2210.01506, with standard errors over images."""

    layer: str = Field(description="module path; `#k` the k-th further call, `[j]` an item of the output")
    index: int = Field(description="0-based order of execution among the measured layers")
    depth: Number = Field(ge=0, le=1, description="(index + 1) / number of measured layers; the output is 1")
    d: Number | None
    g: Number | None
    r: Number | None
    d_stderr: Number | None
    g_stderr: Number | None
    r_stderr: Number | None
    n: int
    reason: str | None = Field(None, description="why a value is null")
    kind: str = Field("", description="class of the module")
    aliases: list[str] = Field(default_factory=list, description="other names of the same tensor")
    shape: list[int] = Field(default_factory=list, description="shape of one sample")
    channel_axis: int | None = Field(None, description="axis of the channels in `shape`, null where unknown")


class Spectrum(_Part):
    """One convolution's filters on the eigenvectors of the grid Laplacian: Eq. 3 of arXiv 2210.01506."""

    layer: str
    kernel: list[int]
    eigenvalues: Grid = Field(description="of the modes, ascending")
    power: Numbers = Field(description="gamma: mean squared projection on each mode")
    low_frequency_share: Number | None = Field(description="share of the constant mode in the power")
    mean_frequency: Number | None = Field(description="power-weighted mean eigenvalue")
    levels: Grid = Field(default_factory=list, description="distinct eigenvalues, ascending")
    level_power: Numbers = Field(
        default_factory=list, description="power summed over the modes of each distinct eigenvalue"
    )
    reason: str | None = None


class Environment(_Part):
    """Where it ran; not part of the key."""

    package: str
    git: str | None = None
    python: str
    torch: str
    timm: str | None = None
    torchvision: str | None = None
    platform: str
    device: str
    threads: int
    batch_size: int = Field(description="images a batch, as used in the end")
    retries: list[str] = Field(default_factory=list, description="batch reductions after out of memory")


class Timings(_Part):
    """Seconds and bytes; not part of the key, and the only fields that differ between equal runs."""

    started: str = Field(description="UTC, ISO 8601")
    seconds: float
    seconds_by_variant: Annotated[dict[str, float], AfterValidator(_sorted)] = Field(default_factory=dict)
    images_per_second: float
    peak_memory_bytes: int | None = None


class Record(_Part):
    """One model on one set of images under one protocol."""

    schema_version: Literal[1] = SCHEMA_VERSION
    key: str = Field(description="sha256 over all that changes the numbers: see `record_key`")
    model: Model
    data: Data
    protocol: Protocol
    test_error: TestError
    trained: bool | None = Field(description="false for random weights, null where nobody can know")
    train_error: Number | None = Field(None, description="from the checkpoint's metadata, a fraction")
    variants: Annotated[dict[VariantName, list[Layer]], AfterValidator(_by_variant)]
    spectra: Annotated[dict[SpectrumOf, list[Spectrum]], AfterValidator(_by_variant)]
    key_extra: FreeForm = Field(
        default_factory=dict, description="what else went into the key: options that show nowhere else"
    )
    not_called: list[str] = Field(
        default_factory=list, description="modules with parameters that no forward called, so no hook saw"
    )
    warnings: list[str] = Field(default_factory=list)
    environment: Environment
    timings: Timings

    @property
    def output(self) -> Layer:
        """The original network's output layer."""
        return self.variants["original"][-1]


def digest(value: Any) -> str:
    """sha256 of a JSON-able value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def protocol_hash(protocol: Protocol) -> str:
    """Hash of what must agree for two records to be comparable: all of the protocol that is an input.

    The rms displacement follows from delta, cut and the input size, so it is left out: networks with
    inputs of different sizes are compared under the same delta, as in the paper.
    """
    return digest(protocol.model_dump(mode="json", exclude={"sha256", "rms_displacement"}))


def record_key(
    model: Model, data: Data, protocol: Protocol, variants: Sequence[str], extra: Any = None
) -> str:
    """Hash of everything that changes the numbers: network, weights, preprocessing, images, protocol.

    Left out: what was found on the way (skipped images, sha256 of the protocol) and what only names things.
    """
    return digest(
        {
            "schema": SCHEMA_VERSION,
            "model": model.model_dump(mode="json", exclude={"recipe"}),
            "data": data.model_dump(mode="json", exclude={"skipped", "note", "title"}),
            "protocol": protocol_hash(protocol),
            "variants": sorted(variants),
            "extra": extra or {},
        }
    )


def verify_key(record: Record) -> bool:
    """Whether the stored key is the one that follows from the record's content."""
    expected = record_key(
        record.model, record.data, record.protocol, list(record.variants), dict(record.key_extra)
    )
    return record.key == expected


def json_schema() -> dict[str, Any]:
    """The published JSON Schema of a record (`docs/record.schema.json`)."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Record.model_json_schema()}


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2))
