"""The tables of the page as plain text: what stands in which cell, and by which number it sorts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from timm_diffsens.files import slug
from timm_diffsens.results.numbers import PAGE, with_error
from timm_diffsens.results.page.scatter import Dot
from timm_diffsens.results.records.frames import rows_of
from timm_diffsens.results.records.store import KEY_DIGITS
from timm_diffsens.results.report.curves import bar
from timm_diffsens.results.report.theme import Theme, in_legend
from timm_diffsens.results.stats.leaderboard import Group
from timm_diffsens.results.stats.tables import shown_variants


@dataclass(frozen=True)
class Cell:
    """A text, and the number that it sorts by; None for a missing one, which sorts last."""

    text: str
    value: float | None = None


@dataclass(frozen=True)
class ModelRow:
    """A record in the table of models."""

    id: str
    key: str
    point: str  # id of its point in the charts; trainings of one network share one
    model: str
    note: str
    search: str
    in_fit: bool
    cells: list[Cell]


def headings(group: Group) -> list[str]:
    """Those of a row's cells, after the model's name."""
    variants = [f"R, {name}" for name in shown_variants(group.models)]
    return ["parameters", "test error", "D", "G", "R", *variants, "train error"]


def model_rows(group: Group) -> list[ModelRow]:
    """A row a record, in the group's order: by test error."""
    rows: list[ModelRow] = []
    measured = ["d", "g", "r", *(f"{name}_r" for name in shown_variants(group.models))]
    for number, model in enumerate(rows_of(group.models)):
        key, in_fit = str(model["key"]), bool(model["in_fit"])
        name = f"{group.slug}-{slug(key[:KEY_DIGITS])}-{number}"
        rows.append(
            ModelRow(
                id=name,
                key=key,
                point=network_point(group, text(model["network"])) if in_fit else name,
                model=text(model["model"]),
                note=_note(model),
                search=" ".join(
                    text(model.get(field)) for field in ("arch", "family", "library", "error_source")
                ),
                in_fit=in_fit,
                cells=_cells(model, measured),
            )
        )
    return rows


def network_point(group: Group, network: str) -> str:
    """Id of a network's point in the charts, the same in each."""
    return f"{group.slug}-network-{slug(network)}"


def dots(group: Group, rows: Sequence[ModelRow], measure: str, looks: Theme) -> list[Dot]:
    """Points of the scatter plot: the networks of the fits, then the records that are in none.

    `looks`: those of families.
    """
    shown = ["network", "model", "family", "seeds", "error", "error_stderr", measure, f"{measure}_stderr"]
    left = [row for row in rows if not row.in_fit]
    fitted = [
        _dot(network_point(group, text(p["network"])), p, measure, looks)
        for p in rows_of(group.points.filter(shown))
        if p[measure] and p["error"]
    ]
    apart = [
        _dot(row.point, model, measure, looks, left_out=text(model["reason"]))
        for row, model in zip(left, rows_of(group.models[[not row.in_fit for row in rows]]), strict=True)
        if model[measure] and model["error"]
    ]
    return fitted + apart


def _dot(point: str, model: dict[str, Any], measure: str, looks: Theme, left_out: str | None = None) -> Dot:
    x_bar, error_bar = (bar("value", model[name], model[f"{name}_stderr"]) for name in (measure, "error"))
    return Dot(
        point=point,
        model=text(model["model"]),
        x=model[measure],
        error=model["error"],
        x_bar=(x_bar["value_low"], x_bar["value_high"]),
        error_bar=(error_bar["value_low"], error_bar["value_high"]),
        in_fit=left_out is None,
        look=looks[in_legend(text(model["family"]), looks)],
        tip=_tip(model, measure) + ("" if left_out is None else f"; not in the fit: {left_out}"),
    )


def correlation_rows(group: Group) -> list[list[str]]:
    """Variant, measure, n, families, Pearson, p, plain intervals, within families, ranks, partial, b."""
    rows = []
    for row in rows_of(group.correlations):
        statistics = [
            PAGE.rho(row) + (f" ({row['note']})" if row["note"] else ""),
            PAGE.p_value(row["p_corrected"]),
            PAGE.interval_of(row, "pearson"),
            PAGE.interval_of(row, "fisher"),
            PAGE.decimals(row["within"]),
            PAGE.decimals(row["spearman"]),
            PAGE.decimals(row["kendall"]),
            PAGE.statistic(row, "partial"),
            PAGE.statistic(row, "exponent"),
        ]
        named = [text(row["variant"]), row["measure"].upper(), f"{row['n']}", f"{row['families']}"]
        rows.append(named + [_unbroken(cell) for cell in statistics])
    return rows


def _unbroken(interval: str) -> str:
    """A cell that may have a line for a value and one for its interval, and no more."""
    return interval.replace(" to ", "\N{NO-BREAK SPACE}to\N{NO-BREAK SPACE}")


def comparison_rows(group: Group) -> list[list[str]]:
    """Variant, rival, n, difference of |rho|, its interval, p, answer."""
    return [
        [
            text(row["variant"]),
            f"|ρ| of R above that of {row['rival'].upper()}",
            f"{row['n']}",
            PAGE.decimals(row["difference"]),
            PAGE.interval(row["low"], row["high"]),
            PAGE.p_value(row["p"]),
            text(row["answer"]),
        ]
        for row in rows_of(group.comparisons)
    ]


def deformation_rows(group: Group) -> list[list[str]]:
    """Deformation, measure, n, rho with its interval over families."""
    return [
        [
            text(row["deformation"]),
            row["measure"].upper(),
            f"{row['n']}",
            PAGE.decimals(row["pearson"]),
            PAGE.interval_of(row, "family"),
        ]
        for row in rows_of(group.deformations)
    ]


def plain_rows(frame: pd.DataFrame, columns: Sequence[str]) -> list[list[str]]:
    """The columns as text."""
    return [[text(row.get(name)) for name in columns] for row in rows_of(frame)]


def text(value: Any) -> str:
    """A string, empty for what is missing."""
    return "" if value is None else str(value)


def _cells(model: dict[str, Any], measured: list[str]) -> list[Cell]:
    parameters, error, train_error = float(model["parameters"]), model["error"], model["train_error"]
    return [
        Cell(_millions(parameters), parameters),
        Cell(PAGE.percentage(error, model["error_stderr"]), error),
        *(Cell(PAGE.measured(model, name), model.get(name)) for name in measured),
        Cell(PAGE.percentage(train_error), train_error),
    ]


def _note(model: dict[str, Any]) -> str:
    seed = model.get("seed")
    parts = [text(model["weights"]), "" if seed is None else f"seed {seed}"]
    if not model["in_fit"]:
        parts.append(f"not in the fit: {text(model['reason'])}")
    return ", ".join(part for part in parts if part)


def _tip(model: dict[str, Any], measure: str) -> str:
    seeds = model.get("seeds") or 1
    value = with_error(model[measure], model.get(f"{measure}_stderr"))
    error = PAGE.percentage(model["error"], model.get("error_stderr"))
    mean = f", mean of {seeds} trainings" if seeds > 1 else ""
    family = f", family {text(model['family'])}"
    return f"{text(model['model'])}: test error {error}, {measure.upper()} {value}{family}{mean}"


def _millions(parameters: float) -> str:
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if parameters >= size:
            return f"{parameters / size:.3g}{unit}"
    return f"{parameters:.0f}"
