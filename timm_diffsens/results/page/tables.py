"""The tables of the page as plain text: what stands in which cell, and by which number it sorts."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from timm_diffsens.files import slug
from timm_diffsens.results.page.charts import Dot
from timm_diffsens.results.report.numbers import with_error
from timm_diffsens.results.stats.leaderboard import Group

NAMES = {"d": "D", "g": "G", "r": "R"}
NOTHING = "–"
_KEY_DIGITS = 12  # as in the names of the records' files


@dataclass(frozen=True)
class Cell:
    """A text, and the number that it sorts by; None for a missing one, which sorts last."""

    text: str
    value: float | None = None


@dataclass(frozen=True)
class Row:
    """A record in the table of models."""

    id: str
    key: str
    point: str  # id of its point in the charts; trainings of one network share one
    model: str
    note: str
    search: str
    in_fit: bool
    cells: list[Cell]


# Headings of a row's cells, after the model's name.
HEADINGS = [
    "parameters",
    "test error",
    "D",
    "G",
    "R",
    "R, channel-shuffled",
    "R, init",
    "train error",
]


def model_rows(group: Group) -> list[Row]:
    """A row a record, in the group's order: by test error."""
    rows: list[Row] = []
    for number, model in enumerate(plain(group.models)):
        key, in_fit = str(model["key"]), bool(model["in_fit"])
        name = f"{group.slug}-{slug(key[:_KEY_DIGITS])}-{number}"
        rows.append(
            Row(
                id=name,
                key=key,
                point=network_point(group, text(model["network"])) if in_fit else name,
                model=text(model["model"]),
                note=_note(model),
                search=" ".join(text(model.get(field)) for field in ("arch", "library", "error_source")),
                in_fit=in_fit,
                cells=_cells(model),
            )
        )
    return rows


def network_point(group: Group, network: str) -> str:
    """Id of a network's point in the charts, the same in each."""
    return f"{group.slug}-network-{slug(network)}"


def dots(group: Group, rows: Sequence[Row], measure: str) -> list[Dot]:
    """Points of the scatter plot: the networks of the fits, then the records that are in none."""
    fitted = [
        Dot(network_point(group, text(p["network"])), x, error, True, _tip(p, measure))
        for p in plain(group.points)
        if (x := number(p[measure])) and (error := number(p["error"]))
    ]
    apart = [
        Dot(row.point, x, error, False, f"{_tip(model, measure)}; not in the fit: {text(model['reason'])}")
        for row, model in zip(rows, plain(group.models), strict=True)
        if not row.in_fit and (x := number(model[measure])) and (error := number(model["error"]))
    ]
    return fitted + apart


def correlation_rows(group: Group) -> list[list[str]]:
    """Variant, measure, n, Pearson (bootstrap interval), Fisher's interval, ranks, partial, exponent, p."""
    return [
        [
            text(row["variant"]),
            NAMES.get(row["measure"], text(row["measure"])),
            f"{row['n']}",
            ranged(row, "pearson") + (f" ({text(row['note'])})" if text(row["note"]) else ""),
            interval(row, "fisher"),
            _signed(row["spearman"]),
            _signed(row["kendall"]),
            ranged(row, "partial"),
            ranged(row, "exponent"),
            p_value(row["p_corrected"]),
        ]
        for row in plain(group.correlations)
    ]


def comparison_rows(group: Group) -> list[list[str]]:
    """Variant, rival, n, difference of |rho|, its interval, share of the bootstrap samples, answer."""
    return [
        [
            text(row["variant"]),
            f"|ρ| of R above that of {NAMES[row['rival']]}",
            f"{row['n']}",
            _signed(row["difference"]),
            _between(row["low"], row["high"]),
            NOTHING if (share := number(row["probability"])) is None else f"{share:.0%}",
            text(row["answer"]),
        ]
        for row in plain(group.comparisons)
    ]


def plain_rows(frame: pd.DataFrame, columns: Sequence[str]) -> list[list[str]]:
    """The columns as text."""
    return [[text(row.get(name)) for name in columns] for row in plain(frame)]


def plain(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a table as dictionaries."""
    return [{str(name): value for name, value in row.items()} for row in frame.to_dict("records")]


def number(value: Any) -> float | None:
    """A float, or None for what is missing."""
    return None if _missing(value) else float(value)


def text(value: Any) -> str:
    """A string, empty for what is missing."""
    return "" if _missing(value) else str(value)


def _missing(value: Any) -> bool:
    """As `pd.isna` of one value, which takes ten times as long: a page asks a hundred thousand times."""
    return value is None or value is pd.NA or bool(value != value)


def interval(row: dict[str, Any], name: str) -> str:
    """A 95 % interval from the columns `<name>_low` and `<name>_high`."""
    return _between(row[f"{name}_low"], row[f"{name}_high"])


def ranged(row: dict[str, Any], name: str) -> str:
    """A value with its 95 % interval in brackets."""
    limits = interval(row, name)
    return _signed(row[name]) + ("" if limits == NOTHING else f" ({limits})")


def p_value(value: Any) -> str:
    """Two significant digits."""
    p = number(value)
    return NOTHING if p is None else "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def percent(value: float | None, stderr: float | None) -> str:
    """A fraction as a percentage, with its standard error.

    Example:
        >>> percent(0.288, 0.0203), percent(0.05, None), percent(None, None)
        ('28.8 ± 2.0 %', '5.0 %', '–')
    """
    if value is None:
        return NOTHING
    return f"{100 * value:.1f}{'' if stderr is None else f' ± {100 * stderr:.1f}'} %"


def _cells(model: dict[str, Any]) -> list[Cell]:
    parameters, error = number(model["parameters"]), number(model["error"])
    train_error = number(model["train_error"])
    return [
        Cell(_millions(parameters), parameters),
        Cell(percent(error, number(model["error_stderr"])), error),
        *(_measured(model, name) for name in ("d", "g", "r", "channel-shuffled_r", "init_r")),
        Cell(percent(train_error, None), train_error),
    ]


def _measured(model: dict[str, Any], name: str) -> Cell:
    value = number(model.get(name))
    if value is None:
        return Cell(NOTHING)
    return Cell(with_error(value, number(model.get(f"{name}_stderr"))), value)


def _note(model: dict[str, Any]) -> str:
    seed = number(model.get("seed"))
    parts = [text(model["weights"]), "" if seed is None else f"seed {seed:.0f}"]
    if not model["in_fit"]:
        parts.append(f"not in the fit: {text(model['reason'])}")
    return ", ".join(part for part in parts if part)


def _tip(model: dict[str, Any], measure: str) -> str:
    seeds = model.get("seeds") or 1
    value = with_error(number(model[measure]), number(model.get(f"{measure}_stderr")))
    error = percent(number(model["error"]), number(model.get("error_stderr")))
    mean = f", mean of {seeds} trainings" if seeds > 1 else ""
    return f"{text(model['model'])}: test error {error}, {NAMES[measure]} {value}{mean}"


def _millions(parameters: float | None) -> str:
    if parameters is None:
        return NOTHING
    for size, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if parameters >= size:
            return f"{parameters / size:.3g}{unit}"
    return f"{parameters:.0f}"


def _signed(value: Any) -> str:
    """Two decimals; a true minus sign, which screen readers read."""
    x = number(value)
    return NOTHING if x is None else f"{x:.2f}".replace("-", "−")


def _between(low: Any, high: Any) -> str:
    return NOTHING if number(low) is None or number(high) is None else f"{_signed(low)} to {_signed(high)}"
