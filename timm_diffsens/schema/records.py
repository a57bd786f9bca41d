"""The record: one measured model, in full. The only place where its shape is defined.

A record is one JSON object. Numbers are rounded to seven significant digits, the precision of the
float32 forwards they come from; NaN and infinity never appear: a value that does not exist is null, and
`reason` says why. Equal records have equal bytes: free-form dictionaries are kept sorted.

`python -m timm_diffsens.schema.records` prints the JSON Schema, kept as `docs/record.schema.json`.
"""

import json
from collections.abc import Iterable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from timm_diffsens import registry
from timm_diffsens.schema.further import Further, LayerValues
from timm_diffsens.schema.layers import LayerSensitivity, Spectrum
from timm_diffsens.schema.protocol import Protocol, digest, protocol_hash
from timm_diffsens.schema.values import Count, Fraction, FreeForm, Name, Part, Seed, Whole

if TYPE_CHECKING:
    import pandas as pd

SCHEMA_VERSION: Final = 2
CLASSES_NAMED: Final = 1000

WeightsOrigin = Literal["pretrained", "checkpoint", "random", "given"]
_Value = TypeVar("_Value")


def _printable(name: str) -> str:
    if not name.isprintable():
        raise ValueError("must be printable")
    return name


def _no_flag(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("must be a number")
    return value


VariantName = Annotated[str, Field(min_length=1, max_length=200), AfterValidator(_printable)]


@cache
def built_in_variants() -> tuple[str, ...]:
    """The variants that this package has, in their order; a record may hold others."""
    return tuple(entry.name for entry in registry.built_ins("variants"))


def in_order(variants: Iterable[str]) -> list[str]:
    """Each variant once: the built-in ones in their order, then the others by name."""
    places = {name: place for place, name in enumerate(built_in_variants())}
    return sorted(set(variants), key=lambda name: (places.get(name, len(places)), name))


def _by_variant(value: dict[str, _Value]) -> dict[str, _Value]:
    return {name: value[name] for name in in_order(value)}


def _rounded(value: dict[str, list[LayerSensitivity]]) -> dict[str, list[LayerSensitivity]]:
    return {name: [layer.rounded() for layer in layers] for name, layers in value.items()}


class Weights(Part):
    """Where the weights are from."""

    sparse: ClassVar[tuple[str, ...]] = ("entry", "origin", "licence")

    source: WeightsOrigin = Field(
        description="pretrained: fetched by timm or torchvision; checkpoint: a file; random: freshly "
        "initialised from `seed`; given: as the caller's own code made them"
    )
    detail: Name | None = Field(None, description="hub id, URL, weights name or file name")
    seed: Seed | None = Field(None, description="seed of random weights")
    sha256: str = Field(description="over the state dict: names, dtypes, shapes and bytes, sorted by name")
    entry: Name | None = Field(
        None,
        description="which of several state dicts in the file; left out if it holds one",
    )
    origin: Name | None = Field(
        None, description="who publishes them: a page, a repository, a package; left out where nobody said"
    )
    licence: Name | None = Field(
        None, description="under which they may be passed on; left out where nobody said"
    )

    @property
    def published(self) -> str:
        """Origin and licence in words; empty where neither is known."""
        said = (self.origin and f"from {self.origin}", self.licence and f"under {self.licence}")
        return ", ".join(filter(None, said))


class InputSpec(Part):
    """What the network is shown: the preprocessing, after timm's `create_transform`."""

    channels: Count
    height: Count
    width: Count
    mean: tuple[float, ...]
    std: tuple[float, ...]
    crop_pct: float
    crop_mode: str
    interpolation: str


class Model(Part):
    """Which network."""

    sparse: ClassVar[tuple[str, ...]] = ("family",)

    spec: Name = Field(description="as given to `diffsens bench`")
    arch: str = Field(description="architecture name, without weights tag or prefix")
    library: Literal["timm", "torchvision", "net", "python"]
    family: Name | None = Field(
        None,
        description="networks of one family are not independent: the module of timm or torchvision that has "
        "it, else its name without its size; left out by older records, where it follows from the name",
    )
    parameters: Whole
    classes: Count | None = Field(None, description="number of classes, null without a classifier")
    weights: Weights
    input: InputSpec
    recipe: FreeForm | None = Field(None, description="training recipe, from the checkpoint's metadata")


class Classes(Part):
    """The classes of labelled images, in the order of their labels."""

    count: Whole
    names: list[Name] = Field(description=f"the first {CLASSES_NAMED:,} of them")
    sha256: str = Field(description="over all of the names, in order, as a JSON list")


class Data(Part):
    """Which images."""

    later: ClassVar[tuple[str, ...]] = ("title",)
    sparse: ClassVar[tuple[str, ...]] = ("classes",)

    spec: Name
    split: str | None = None
    n: Count = Field(description="images measured")
    sample_sha256: str = Field(description="over the sampled images' names, labels and bytes, in order")
    seed: Seed = Field(description="seed that chose the sample")
    labelled: bool
    selection: Literal["random", "first", "all", "given"] = "random"
    skipped: list[Name] = Field(default_factory=list, description="images that could not be read, by name")
    note: str | None = Field(None, description="what the reader must know about the set, e.g. synthetic")
    title: Name | None = Field(None, description="shown where `spec` would mislead: CIFAR-10 (JPEG)")
    parameters: FreeForm | None = Field(None, description="of a set made here: the scale-detection task")
    classes: Classes | None = Field(None, description="left out where labels or names of classes are unknown")


class ExtensionLook(Part):
    """How a thing is drawn in charts."""

    colour: str = Field(pattern=r"^#[0-9A-Fa-f]{6}$")
    dash: tuple[int, ...]
    point: str


class Extension(Part):
    """A thing that is no part of this package but was used: a deformation, a noise, a variant, a data set."""

    kind: str
    spec: Name = Field(description="its name with its arguments")
    parameters: FreeForm = Field(default_factory=dict)
    sha256: str = Field(description="of the source it is from")
    look: ExtensionLook | None = None

    @property
    def name(self) -> str:
        """What the record calls it elsewhere: its spec, and the start of the hash."""
        return f"{self.spec}@{self.sha256[: registry.HASH_DIGITS]}"


class TestError(Part):
    """Top-1 error as a fraction."""

    __test__ = False  # not a pytest class

    value: Fraction | None = None
    stderr: Fraction | None = None
    n: Count | None = None
    source: Literal["measured", "measured on the full split", "recipe", "published", "given"] | None = Field(
        None, description="recipe: measured at the end of the training that made the checkpoint"
    )
    reason: str | None = Field(None, description="why there is no value")


class Environment(Part):
    """Where it ran; not part of the key."""

    package: str
    git: str | None = None
    python: str
    torch: str
    timm: str | None = None
    torchvision: str | None = None
    platform: str
    device: str
    threads: Count
    batch_size: Count = Field(description="images a batch, as used in the end")
    retries: list[str] = Field(default_factory=list, description="batch reductions after out of memory")


class Timings(Part):
    """Seconds and bytes; not part of the key, and the only fields that differ between equal runs."""

    started: str = Field(description="UTC, ISO 8601")
    seconds: float = Field(ge=0)
    seconds_by_variant: Annotated[
        dict[str, float], AfterValidator(lambda value: dict(sorted(value.items())))
    ] = Field(default_factory=dict)
    images_per_second: float = Field(ge=0)
    peak_memory_bytes: Whole | None = None


class Record(Part):
    """One model on one set of images under one protocol."""

    sparse: ClassVar[tuple[str, ...]] = ("extensions", "further", "equivariance")

    schema_version: Annotated[Literal[1, 2], BeforeValidator(_no_flag)] = SCHEMA_VERSION
    key: str = Field(description="sha256 over all that changes the numbers: see `record_key`")
    model: Model
    data: Data
    protocol: Protocol
    test_error: TestError
    trained: bool | None = Field(description="false for random weights, null where nobody can know")
    train_error: Fraction | None = Field(
        None, description="from the checkpoint's metadata, or as given: a fraction"
    )
    variants: Annotated[
        dict[VariantName, list[LayerSensitivity]], AfterValidator(_by_variant), AfterValidator(_rounded)
    ]
    further: list[Further] = Field(
        default_factory=list,
        description="further deformations of the same images, in the same forwards; left out if none",
    )
    equivariance: Annotated[dict[VariantName, LayerValues], AfterValidator(_by_variant)] = Field(
        default_factory=dict,
        description="E_k of the layers' maps, in place of r, under the deformation of the protocol; d and g "
        "are its numerator and denominator over the spread of f_k(tau x); left out if not asked for",
    )
    spectra: Annotated[dict[VariantName, list[Spectrum]], AfterValidator(_by_variant)]
    key_extra: FreeForm = Field(
        default_factory=dict, description="what else went into the key: options that show nowhere else"
    )
    not_called: list[str] = Field(
        default_factory=list, description="modules with parameters that no forward called, so no hook saw"
    )
    warnings: list[Name] = Field(default_factory=list)
    extensions: list[Extension] = Field(
        default_factory=list, description="what was used that is no part of this package; left out if nothing"
    )
    environment: Environment
    timings: Timings

    @model_validator(mode="after")
    def _further_of_the_same_layers(self) -> "Record":
        own = {name: len(layers) for name, layers in self.variants.items()}
        for one in self.further:
            if {name: len(values.n) for name, values in one.variants.items()} != own:
                raise ValueError(f"further: {one.deformation} has other variants or layers than the record")
        for name, values in self.equivariance.items():
            if own.get(name) != len(values.n):
                raise ValueError(f"equivariance: {name} has other layers than the record")
        return self

    @classmethod
    def load(cls, path: str | Path) -> "Record":
        """The record in a file, checked as all that reads records checks it.

        Raises:
            UsageError: no such file, or no sound record.
        """
        record: Record = _results("records.reading").load_record(path)
        return record

    def layers(self) -> "pd.DataFrame":
        """A row for each variant, deformation and layer: see `read_layers`."""
        table: pd.DataFrame = _results("records.frames").layers_frame([self])
        return table

    def _repr_html_(self) -> str:
        """The layer table, for notebooks."""
        text: str = _results("report.notebook").record_html(self)
        return text

    @property
    def output(self) -> LayerSensitivity:
        """The original network's output layer."""
        return self.variants["original"][-1]

    def views(self) -> "list[Record]":
        """The record under each of its deformations, as if it had been measured with that one alone.

        The first is of the deformation of `protocol`; their keys are all that of the record.
        """
        first = self.model_copy(update={"further": []})
        return [first, *(first.model_copy(update=self._under(one)) for one in self.further)]

    def outputs(self) -> "Record":
        """The record with the output of each variant alone, and without spectra."""
        further = [
            one.model_copy(update={"variants": {name: v.last() for name, v in one.variants.items()}})
            for one in self.further
        ]
        last = {name: layers[-1:] for name, layers in self.variants.items()}
        spectra: dict[str, list[Spectrum]] = {name: [] for name in self.spectra}
        moved = {name: values.last() for name, values in self.equivariance.items()}
        update = {"variants": last, "further": further, "spectra": spectra, "equivariance": moved}
        return self.model_copy(update=update)

    def _under(self, one: Further) -> dict[str, Any]:
        variants = {name: values.joined(self.variants[name]) for name, values in one.variants.items()}
        return {"protocol": one.protocol_like(self.protocol), "variants": variants, "equivariance": {}}


def _results(module: str) -> ModuleType:
    """A module of the part that is built on this one, for those who have a record in their hands."""
    return import_module(f"timm_diffsens.results.{module}")


def record_key(
    model: Model,
    data: Data,
    protocol: Protocol,
    variants: Sequence[str],
    extra: Any = None,
    *,
    further: Sequence[Protocol] = (),
    version: int = SCHEMA_VERSION,
) -> str:
    """Hash of everything that changes the numbers: network, weights, preprocessing, images, protocol.

    Left out: what was found on the way (skipped images, sha256 of the protocol) and what only names things
    (classes, weights: the labels are in the sample's hash, weights have their own).

    Args:
        model, data, protocol, variants: of the record.
        extra: its `key_extra`.
        further: the protocols of further deformations.
        version: of the schema.
    """
    unnamed: Any = {"recipe": True, "family": True, "weights": {"entry", "origin", "licence"}}
    others = {"further": [protocol_hash(other) for other in further]} if further else {}
    return digest(
        {
            "schema": version,
            "model": model.model_dump(mode="json", exclude=unnamed),
            "data": data.model_dump(mode="json", exclude={"skipped", "note", "title", "classes"}),
            "protocol": protocol_hash(protocol),
            "variants": sorted(variants),
            "extra": extra or {},
            **others,
        }
    )


def verify_key(record: Record) -> bool:
    """Whether the stored key is the one that follows from the record's content."""
    made_of = (record.model, record.data, record.protocol, list(record.variants), record.key_extra)
    further = [one.protocol_like(record.protocol) for one in record.further]
    return record.key == record_key(*made_of, further=further, version=record.schema_version)


def json_schema() -> dict[str, Any]:
    """The published JSON Schema of a record (`docs/record.schema.json`)."""
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **Record.model_json_schema()}


if __name__ == "__main__":
    print(json.dumps(json_schema(), indent=2))
