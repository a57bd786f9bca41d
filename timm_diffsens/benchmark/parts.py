"""The record's parts that are known before anything runs: model, data, protocol."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from timm_diffsens.data.loading import ImageSample
from timm_diffsens.errors import UsageError
from timm_diffsens.models.checkpoints import recipe_in
from timm_diffsens.models.loading import LoadedModel
from timm_diffsens.registry import Entry
from timm_diffsens.schema import records
from timm_diffsens.schema.config import Config
from timm_diffsens.schema.families import family_of_name
from timm_diffsens.schema.protocol import SMALL_LIMIT, Protocol, digest, protocol_hash
from timm_diffsens.sensitivities.statistics import STATISTICS_BATCH

OF_DIFFEO = ("delta", "reference_side", "cut")
DRAWS = "Philox4x32-10"  # of noise and fields: `perturb.philox`


@dataclass(frozen=True)
class Parts:
    """The parts of a record, and what else goes into its key; a protocol for each deformation."""

    model: records.Model
    data: records.Data
    train_error: float | None
    protocols: list[Protocol]
    extensions: list[records.Extension]
    extra: dict[str, Any]


def model_part(loaded: LoadedModel, config: Config) -> records.Model:
    """Which network, with which weights and preprocessing."""
    return records.Model(
        spec=loaded.spec,
        arch=loaded.arch,
        library=loaded.library,
        family=_family(loaded),
        parameters=loaded.parameters,
        classes=loaded.classes,
        weights=_published(loaded, config),
        input=loaded.input,
        recipe=recipe_in(loaded.metadata),
    )


def _published(loaded: LoadedModel, config: Config) -> records.Weights:
    """The weights, with origin and licence as given, or as timm states them of weights that it fetched."""
    stated: dict[str, Any] = {}
    if loaded.weights.source == "pretrained":
        stated = getattr(loaded.module, "pretrained_cfg", None) or {}
    origin = config.origin or stated.get("origin_url")
    licence = config.licence or stated.get("license")
    return loaded.weights.model_copy(update={"origin": origin, "licence": licence})


def _family(loaded: LoadedModel) -> str:
    """The library's module that the network is in, or its name without its size."""
    home = type(loaded.module).__module__
    known = loaded.library in ("timm", "torchvision") and home.startswith(f"{loaded.library}.models.")
    return home.rpartition(".")[2] if known else family_of_name(loaded.arch)


def train_error(recipe: dict[str, Any] | None, given: float | None = None) -> float | None:
    """Error on the training set as the recipe of a checkpoint states it, a fraction, or else as it is given.

    Raises:
        UsageError: the two differ.
    """
    value = (recipe or {}).get("train_error")
    stated = float(value) if isinstance(value, int | float) and 0 <= value <= 1 else None
    if None not in (stated, given) and stated != given:
        raise UsageError(f"--train-error: expected what the checkpoint states, {stated}, got {given}")
    return given if stated is None else stated


def stated_test_error(
    recipe: dict[str, Any] | None, data: records.Data, corruption: float
) -> tuple[float, int] | None:
    """Test error and its number of images that the recipe of a checkpoint states, if it is on these data."""
    training = (recipe or {}).get("training") or {}
    value, n = (recipe or {}).get("test_error"), (recipe or {}).get("test_images")
    same = training.get("task") == data.spec and training.get("scale") == data.parameters
    # of CIFAR-10 there are several encodings, and the recipe's is not known to be this one
    if not same or data.parameters is None or data.split != "test" or training.get("corrupt") != corruption:
        return None
    if not (isinstance(value, int | float) and isinstance(n, int)):
        return None
    return (float(value), int(n)) if 0 <= value <= 1 and 1 <= n < 2**53 else None


def data_part(sample: ImageSample) -> records.Data:
    """Which images."""
    return records.Data(
        spec=sample.spec,
        split=sample.split,
        n=len(sample),
        sample_sha256=sample.sha256,
        seed=sample.seed,
        labelled=sample.labels is not None,
        selection=sample.selection,
        skipped=list(sample.skipped),
        note=sample.note,
        title=sample.title,
        parameters=sample.task.parameters() if sample.task else None,
        classes=None if sample.class_names is None else _classes(sample.class_names),
    )


def _classes(names: tuple[str, ...]) -> records.Classes:
    return records.Classes(
        count=len(names), names=list(names[: records.CLASSES_NAMED]), sha256=digest(list(names))
    )


def protocol_part(
    config: Config, deformation: Entry, noise: Entry, rms: float | None, dtype: str
) -> Protocol:
    """How they are perturbed by one of the deformations.

    Args:
        config: its options of the group "protocol" stand under their own names; one that the record's format
            does not know, under `options`, where it is not at its default.
        deformation, noise: their entries.
        rms: exact rms displacement in pixels, if the deformation says it.
        dtype: of the forwards.
    """
    asked = config.values("protocol")
    values = {name: value for name, value in asked.items() if name in Protocol.model_fields}
    values |= {name: deformation.values.get(name) for name in OF_DIFFEO}
    if deformation.sha256 is None:  # what stands in a field of its own is no part of the name
        named = {name: value for name, value in deformation.parameters.items() if name not in OF_DIFFEO}
        deformation = replace(deformation, parameters=named)
    values |= {"deformation": deformation.recorded, "noise": noise.recorded}
    defaults = {name: field.default for name, field in type(config).model_fields.items()}
    further = {name: v for name, v in asked.items() if name not in values and v != defaults[name]}
    statistics = f"of the measured images, in batches of {STATISTICS_BATCH}"
    known = {"rms_displacement": rms, "dtype": dtype, "init_statistics": statistics, "draws": DRAWS}
    part = Protocol(**values, **known, options=further)
    return part.model_copy(update={"sha256": protocol_hash(part)})


def limit_of(protocol: Protocol) -> Protocol:
    """That of the limit of small deformations, which have no size."""
    changed = {
        "deformation": f"{protocol.deformation}, {SMALL_LIMIT}",
        "delta": None,
        "rms_displacement": None,
    }
    part = protocol.model_copy(update=changed)
    return part.model_copy(update={"sha256": protocol_hash(part)})


def extension(entry: Entry) -> records.Extension:
    """What a record says of a thing that is no part of this package."""
    look = None if entry.look is None else records.ExtensionLook(**asdict(entry.look))
    return records.Extension(
        kind=entry.kind.removesuffix("s"),
        spec=entry.spec,
        parameters=dict(entry.values or entry.parameters),
        sha256=entry.sha256 or "",
        look=look,
    )


def key_extra(config: Config, code_sha256: str | None) -> dict[str, Any]:
    """What else changes what is in the record, but shows nowhere else."""
    extra = {**config.values("key"), "code": code_sha256}
    return {name: value for name, value in extra.items() if value is not None and value is not False}
