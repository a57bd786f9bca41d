"""The tables of a leaderboard's group, from its records."""

from typing import Any

import numpy as np
import pandas as pd

from timm_diffsens.results.records.frames import columns_of, variants_of
from timm_diffsens.results.stats import groups as names
from timm_diffsens.results.stats.comparisons import power_law
from timm_diffsens.results.stats.population import MEASURES
from timm_diffsens.schema.records import Record, built_in_variants

_DIGITS = 7  # of the numbers on the board: what lies beyond may differ between machines
_DESCRIBED = ["model", "key", "file"]
_OF_RECORD = [
    *("model", "network", "spec", "arch", "family", "library", "weights", "parameters"),
    *("error", "error_stderr", "error_source", "train_error", "trained"),
]
_LAST = ["seed", "input", "in_fit", "reason", "key", "file"]


def models(rows: pd.DataFrame, reasons: "pd.Series[Any]") -> pd.DataFrame:
    """One row a record, sorted by test error; columns as `leaderboard.Group` says.

    Args:
        rows: of one group, with their `file`.
        reasons: from `population.left_out`.
    """
    table = rows.rename(columns={"training_seed": "seed"}).assign(
        input=rows["height"].astype("string") + " x " + rows["width"].astype("string"),
        in_fit=reasons.isna(),
        reason=reasons,
    )
    values = [column for variant in variants_of(rows) for column in columns_of(variant)]
    ordered: pd.DataFrame = table[[*_OF_RECORD, *values, *_LAST]].sort_values(
        ["error", "model", "key"], ignore_index=True
    )
    return ordered


def shown_variants(models: pd.DataFrame) -> list[str]:
    """Variants whose R at the output has a column of its own beside that of the original."""
    others = [
        v for v in variants_of(models) if v not in built_in_variants() and models[f"{v}_r"].notna().any()
    ]
    return ["channel-shuffled", "init", *others]


def left_out_table(rows: pd.DataFrame, reasons: "pd.Series[Any]") -> pd.DataFrame:
    """`model`, `key`, `file` and `reason` of the records that are not in the fits."""
    table = rows[_DESCRIBED].assign(reason=reasons)[reasons.notna()]
    ordered: pd.DataFrame = table.sort_values(["model", "key"], ignore_index=True)
    return ordered


def fit_curves(points: pd.DataFrame, drawn: dict[str, Any]) -> pd.DataFrame:
    """The fitted power laws of D, G and R, one below the other."""
    curves = [power_law(points, measure, **drawn) for measure in MEASURES]
    filled = [curve for curve in curves if len(curve)] or curves[:1]
    table: pd.DataFrame = pd.concat(filled, ignore_index=True)
    return table


def not_comparable(
    kept: list[pd.DataFrame], others: list[pd.DataFrame], records: list[Record]
) -> pd.DataFrame:
    """Records of small groups, and in what they differ from the largest group of their data set."""
    firsts = [records[rows.index[0]] for rows in kept]
    tables = []
    for rows in others:
        own = records[rows.index[0]]
        same = [record for record in firsts if record.data.spec == own.data.spec]
        reason = names.differences(own, (same or firsts)[0])
        tables.append(rows[[*_DESCRIBED, "dataset"]].assign(reason=reason))
    empty = pd.DataFrame(columns=[*_DESCRIBED, "dataset", "reason"])
    table = pd.concat(tables) if tables else empty
    ordered: pd.DataFrame = table.sort_values(["dataset", "model", "key"], ignore_index=True)
    return ordered


def rounded(table: pd.DataFrame) -> pd.DataFrame:
    """Numbers with seven significant digits, so that equal records give equal bytes on any machine."""
    columns = {
        name: np.array([float(f"{value:.{_DIGITS}g}") for value in column])
        if column.dtype == "float64"
        else column
        for name, column in table.items()
    }
    whole: pd.DataFrame = pd.DataFrame(columns, index=table.index, columns=table.columns)
    return whole
