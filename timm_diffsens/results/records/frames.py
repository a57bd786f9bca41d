"""Records as pandas tables: one row a record, or one row a layer."""

import json
from collections.abc import Callable, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any

import pandas as pd

from timm_diffsens.results.records.apart import traits
from timm_diffsens.schema.families import family_of
from timm_diffsens.schema.layers import MEASURES, LayerSensitivity
from timm_diffsens.schema.protocol import digest
from timm_diffsens.schema.records import Record, built_in_variants, in_order

Row = dict[str, Any]  # of a table, or of a chart's data
_TEXT = "string"
_OF_LAYER = {
    "layer": _TEXT,
    "index": "int64",
    "depth": "float64",
    **dict.fromkeys(MEASURES, "float64"),
    "n": "int64",
    "reason": _TEXT,
    "kind": _TEXT,
}
_LAYER_COLUMNS = {
    **dict.fromkeys(("key", "model", "dataset", "protocol", "variant", "deformation"), _TEXT),
    "delta": "float64",
    "reference_side": "Int64",
    "rms": "float64",
    **_OF_LAYER,
    **dict.fromkeys(("e", "e_stderr"), "float64"),
}


def records_frame(records: Sequence[tuple[Path, Record]]) -> pd.DataFrame:
    """One row a record; `store.read_records` documents the columns."""
    return rows_frame([record_row(path, record) for path, record in records])


def rows_frame(rows: Sequence[Row]) -> pd.DataFrame:
    """The same of what `record_row` gives."""
    found = {name.removesuffix("_r"): None for row in rows for name in row if name.endswith("_r")}
    names = in_order([*built_in_variants(), *found])
    of_outputs = [column for variant in names for column in columns_of(variant)]
    columns = {"key": _TEXT, "file": _TEXT} | {name: kind for name, (kind, _) in _OF_RECORD.items()}
    columns |= {**dict.fromkeys(of_outputs, "float64"), "path": _TEXT}
    return _frame(list(rows), columns)


def columns_of(variant: str, measures: Sequence[str] = MEASURES) -> list[str]:
    """The columns of a variant in a table of records.

    Example:
        >>> columns_of("original", ["d", "r"]), columns_of("init", ["d", "r"])
        (['d', 'r'], ['init_d', 'init_r'])
    """
    prefix = "" if variant == "original" else f"{variant}_"
    return [prefix + measure for measure in measures]


def variants_of(frame: pd.DataFrame) -> list[str]:
    """The variants whose columns a table of records or networks has, in order."""
    found = [name.removesuffix("_r") for name in map(str, frame.columns) if name.endswith("_r")]
    return in_order(["original", *(name for name in found if f"{name}_d" in frame and f"{name}_g" in frame)])


def layers_frame(records: Sequence[Record]) -> pd.DataFrame:
    """One row for each record, variant, deformation and layer, in order; see `store.read_layers`."""
    rows = [
        {
            "key": record.key,
            "model": record.model.spec,
            "dataset": record.data.spec,
            "protocol": view.protocol.sha256,
            "variant": variant,
            "deformation": view.protocol.deformation,
            "delta": view.protocol.delta,
            "reference_side": view.protocol.reference_side,
            "rms": view.protocol.rms_displacement,
            **{name: getattr(layer, name) for name in _OF_LAYER},
            **_equivariance(view, variant, place),
        }
        for record in records
        for view in record.views()
        for variant, layers in view.variants.items()
        for place, layer in enumerate(layers)
    ]
    return _frame(rows, _LAYER_COLUMNS)


def _equivariance(view: Record, variant: str, place: int) -> Row:
    """E_k of a layer and its error, where it was measured."""
    values = view.equivariance.get(variant)
    return {} if values is None else {"e": values.r[place], "e_stderr": values.r_stderr[place]}


def curves_of(record: Record) -> dict[str, list[LayerSensitivity]]:
    """The layers of each variant, then those of the original network under each further deformation."""
    _, *further = record.views()
    others = {f"original, {view.protocol.deformation_text}": view.variants["original"] for view in further}
    return {**record.variants, **others}


def output_layer(record: Record, variant: str = "original") -> LayerSensitivity | None:
    """The last layer of a variant, or None where that variant was not measured."""
    layers = record.variants.get(variant)
    return layers[-1] if layers else None


def data_parameters(record: Record) -> str | None:
    """Parameters of a generated data set as JSON with sorted keys, or None where there are none."""
    parameters = record.data.parameters
    return json.dumps(parameters, sort_keys=True) if parameters else None


def readable_name(record: Record) -> str:
    """The spec with what tells networks of one spec apart; a factory goes before the file that it is from.

    `cifar_networks.py:vit` is "vit (cifar_networks.py)", `net/resnet20` of width 8 "net/resnet20, width 8".
    """
    file, py, factory = record.model.spec.partition(".py:")
    name = f"{factory} ({file}.py)" if py else record.model.spec
    given = _training(record).get("arguments")
    arguments = given if isinstance(given, dict) else {}
    return ", ".join([name, *(f"{k} {v}" for k, v in sorted(arguments.items()) if (k, v) != ("dims", 2))])


def with_names(frame: pd.DataFrame, records: Sequence[Record]) -> pd.DataFrame:
    """The frame with `spec`, as given, and in `model` a readable name, with the size where it has several.

    Args:
        frame: `records_frame` of the records, in their order.
    """
    readable = [readable_name(record) for record in records]
    named: pd.DataFrame = frame.assign(spec=frame["model"], model=readable)
    size = named["height"].astype("string") + " x " + named["width"].astype("string")
    several = size.groupby([named["model"], named["dataset"]]).transform("nunique") > 1
    named.loc[several, "model"] += ", " + size[several]
    return named


def network_of(record: Record) -> str:
    """What a network is, beyond one training of it: equal for records that differ by the training seed alone.

    The settings of a training stand under `training` in the recipe that `diffsens train` writes. Weights
    without them are networks of their own; the same weights shown images in two ways (another size, say) are
    two.
    """
    model = record.model
    named = model.model_dump(mode="json", include={"spec", "arch", "library", "parameters", "input"})
    if _seed(record) is None:
        named["weights"] = model.weights.sha256
    else:
        named["training"] = {name: value for name, value in _training(record).items() if name != "seed"}
    return digest(named)[:12]


def rows_of(table: pd.DataFrame) -> list[Row]:
    """The rows of a table as plain values; None for what is missing."""
    plain = table.astype(object)
    rows: list[Row] = plain.where(plain.notna(), None).to_dict("records")
    return rows


def _training(record: Record) -> dict[str, Any]:
    settings = (record.model.recipe or {}).get("training")
    return settings if isinstance(settings, dict) else {}


def _seed(record: Record) -> int | None:
    seed = _training(record).get("seed")
    return seed if isinstance(seed, int) and not isinstance(seed, bool) else None


# Column -> its type, and how to get it of a record.
_OF_RECORD: dict[str, tuple[str, Callable[[Record], Any]]] = {
    "key": (_TEXT, attrgetter("key")),
    "model": (_TEXT, attrgetter("model.spec")),
    "arch": (_TEXT, attrgetter("model.arch")),
    "family": (_TEXT, lambda record: family_of(record.model)),
    "library": (_TEXT, attrgetter("model.library")),
    "weights": (_TEXT, attrgetter("model.weights.source")),
    "parameters": ("int64", attrgetter("model.parameters")),
    "dataset": (_TEXT, attrgetter("data.spec")),
    "protocol": (_TEXT, attrgetter("protocol.sha256")),
    "sample": (_TEXT, attrgetter("data.sample_sha256")),
    "n": ("int64", attrgetter("data.n")),
    "trained": ("boolean", attrgetter("trained")),
    "error": ("float64", attrgetter("test_error.value")),
    "error_stderr": ("float64", attrgetter("test_error.stderr")),
    "error_source": (_TEXT, attrgetter("test_error.source")),
    "train_error": ("float64", attrgetter("train_error")),
    "split": (_TEXT, attrgetter("data.split")),
    "data_parameters": (_TEXT, data_parameters),
    "corruption_sigma": ("float64", attrgetter("protocol.corruption_sigma")),
    "height": ("int64", attrgetter("model.input.height")),
    "width": ("int64", attrgetter("model.input.width")),
    "weights_detail": (_TEXT, attrgetter("model.weights.detail")),
    "weights_sha256": (_TEXT, attrgetter("model.weights.sha256")),
    "network": (_TEXT, network_of),
    "training_seed": ("UInt64", _seed),
}


def record_row(path: Path, record: Record) -> Row:
    """A record's row of the table of records, its `traits`, see there, and its name in comparisons."""
    row = {name: get(record) for name, (_, get) in _OF_RECORD.items()}
    row |= {"file": path.name, "path": str(path), "traits": traits(record)}
    row["readable"] = readable_name(record)
    for variant in record.variants:
        layer = output_layer(record, variant)
        values = [getattr(layer, measure, None) for measure in MEASURES]
        row |= dict(zip(columns_of(variant), values, strict=True))
    return row


def _frame(rows: list[Row], columns: dict[str, str]) -> pd.DataFrame:
    data = {name: pd.Series([row.get(name) for row in rows], dtype=dtype) for name, dtype in columns.items()}
    frame: pd.DataFrame = pd.DataFrame(data, columns=list(columns))
    return frame
