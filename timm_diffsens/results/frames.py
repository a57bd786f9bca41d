"""Records as pandas tables: one row a record, or one row a layer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from timm_diffsens.results.record import VARIANTS, Layer, Record, VariantName

MEASURES = ("d", "g", "r", "d_stderr", "g_stderr", "r_stderr")
_TEXT = "string"
_OF_RECORD = {
    "key": _TEXT,
    "file": _TEXT,
    "model": _TEXT,
    "arch": _TEXT,
    "library": _TEXT,
    "weights": _TEXT,
    "parameters": "int64",
    "dataset": _TEXT,
    "protocol": _TEXT,
    "sample": _TEXT,
    "n": "int64",
    "trained": "boolean",
    "error": "float64",
    "error_stderr": "float64",
    "error_source": _TEXT,
}
_OF_OUTPUT = {
    (measure if variant == "original" else f"{variant}_{measure}"): "float64"
    for variant in VARIANTS
    for measure in MEASURES
}
_COLUMNS = {**_OF_RECORD, **_OF_OUTPUT, "path": _TEXT}
_LAYER_COLUMNS = {
    "variant": _TEXT,
    "layer": _TEXT,
    "index": "int64",
    "depth": "float64",
    **dict.fromkeys(MEASURES, "float64"),
    "n": "int64",
    "reason": _TEXT,
    "kind": _TEXT,
}


def records_frame(records: Sequence[tuple[Path, Record]]) -> pd.DataFrame:
    """One row a record; `store.read_records` documents the columns."""
    return _frame([_row(path, record) for path, record in records], _COLUMNS)


def layers_frame(record: Record) -> pd.DataFrame:
    """One row for each variant and layer, in order.

    Columns: variant, layer, index, depth, d, g, r, d_stderr, g_stderr, r_stderr, n, reason, kind.
    """
    rows = [
        {"variant": variant, **{name: getattr(layer, name) for name in _LAYER_COLUMNS if name != "variant"}}
        for variant, layers in record.variants.items()
        for layer in layers
    ]
    return _frame(rows, _LAYER_COLUMNS)


def output_layer(record: Record, variant: VariantName = "original") -> Layer | None:
    """The last layer of a variant, or None where that variant was not measured."""
    layers = record.variants.get(variant)
    return layers[-1] if layers else None


def _row(path: Path, record: Record) -> dict[str, Any]:
    model, error = record.model, record.test_error
    row: dict[str, Any] = {
        "key": record.key,
        "file": path.name,
        "model": model.spec,
        "arch": model.arch,
        "library": model.library,
        "weights": model.weights.source,
        "parameters": model.parameters,
        "dataset": record.data.spec,
        "protocol": record.protocol.sha256,
        "sample": record.data.sample_sha256,
        "n": record.data.n,
        "trained": record.trained,
        "error": error.value,
        "error_stderr": error.stderr,
        "error_source": error.source,
        "path": str(path),
    }
    for variant in record.variants:
        layer = output_layer(record, variant)
        prefix = "" if variant == "original" else f"{variant}_"
        row |= {f"{prefix}{measure}": getattr(layer, measure, None) for measure in MEASURES}
    return row


def _frame(rows: list[dict[str, Any]], columns: dict[str, str]) -> pd.DataFrame:
    data = {name: pd.Series([row.get(name) for row in rows], dtype=dtype) for name, dtype in columns.items()}
    frame: pd.DataFrame = pd.DataFrame(data, columns=list(columns))
    return frame
