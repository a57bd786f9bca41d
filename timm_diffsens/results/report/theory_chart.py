"""Sensitivities against the effective receptive field, as in Fig. 7 of the paper."""

import math
from collections.abc import Sequence
from typing import Any

import altair as alt

from timm_diffsens.errors import UsageError, unknown
from timm_diffsens.results.records.frames import Row
from timm_diffsens.results.report.theme import FONTLESS, WIDTH

# colour, dash (None for points alone), whether layers are marked; as far as it goes, as in Fig. 7
STYLES: dict[str, tuple[str, list[int] | None, bool]] = {
    "prediction": ("#000000", [6, 4], False),
    "exact": ("#D55E00", [1, 0], False),
    "homogeneous": ("#D55E00", None, True),
    "exact, no ReLU": ("#009E73", [1, 0], False),
    "homogeneous, no ReLU": ("#009E73", None, True),
    "homogeneous, white noise": ("#AA4499", None, True),
    "trained": ("#0072B2", [1, 0], True),
    "mean channel": ("#0072B2", [2, 3], False),
    "max margin": ("#56B4E9", [1, 0], True),
    "init": ("#888888", [1, 0], False),
    "init, infinite width": ("#888888", [6, 4], False),
    "init, infinite width, biases": ("#888888", [2, 3], False),
}
CURVES = tuple(STYLES)
MEASURES = ("D", "G", "R")

_PANEL = 245
_MOST_POINTS = 16  # of a curve
_LETTER, _SAMPLE = 6.1, 34  # widths in the legend, points


def theory_chart(rows: Sequence[Row]) -> alt.TopLevelMixin:
    """A row of panels for each task: D, G and R against A_k, all logarithmic, a line or points a curve.

    With several depths, a second row for each task shows the local slopes d log X / d log A of the exact
    curves, each labelled with its depth, and the asymptotic value.

    Args:
        rows: long, one a curve, measure and layer: `task` (the panels' title), `depth`, `curve` (one of
            `CURVES`), `measure` (D, G or R), `layer`, `width` (A_k in pixels), `value`, `stderr` or None, and
            `slope` or None. Values of None or 0 leave gaps.

    Raises:
        UsageError: no rows, or an unknown curve or measure.
    """
    if not rows:
        raise UsageError("no curves to draw")
    for row in rows:
        for field, known in (("curve", CURVES), ("measure", MEASURES)):
            if row[field] not in known:
                raise unknown(field, row[field], known)
    present = [curve for curve in CURVES if any(row["curve"] == curve for row in rows)]
    lines = []
    for task in dict.fromkeys(row["task"] for row in rows):
        lines.append(_panels(task, present, _value_panel))
        if len({row["depth"] for row in rows if row["task"] == task}) > 1:
            lines.append(_panels(f"{task}: local slopes", present, _slope_panel, task))
    title = alt.TitleParams(
        "Sensitivity against effective receptive field",
        subtitle="bars: one standard error; gaps: zero, or constant over the images",
        fontSize=16,
    )
    whole = alt.vconcat(_legend(present), *lines, spacing=26, title=title)
    whole["config"] = _CONFIG
    whole["datasets"] = {"curves": _prepared(rows)}
    return whole


_CONFIG = FONTLESS | {"title": {"anchor": "start", "subtitleFontSize": 12, "offset": 10}}


def _prepared(rows: Sequence[Row]) -> list[Row]:
    """What a logarithmic axis cannot show becomes null; ends of the error bars; the end of each curve."""
    ends: dict[tuple[Any, ...], int] = {}
    for row in rows:
        if row.get("slope") is not None:
            ends[_key(row)] = max(row["layer"], ends.get(_key(row), 0))
    return [_prepared_row(row, ends.get(_key(row))) for row in rows]


def _prepared_row(row: Row, end: int | None) -> Row:
    value, spread = row["value"] or None, row.get("stderr") or 0.0
    bars = {} if value is None else {"low": max(value - spread, value / 100), "high": value + spread}
    label = f"K = {row['depth']}" if row["layer"] == end else None
    every = max(math.ceil(row["depth"] / _MOST_POINTS), 1)
    marked = (row["layer"] - 1) % every == 0 or row["layer"] == row["depth"]
    line = f"{row['curve']} {row['depth']}"
    return {**row, "value": value, **bars, "label": label, "line": line, "marked": marked}


def _key(row: Row) -> tuple[Any, ...]:
    return row["task"], row["depth"], row["curve"], row["measure"]


def _panels(title: str, present: list[str], panel: Any, task: str | None = None) -> Any:
    panels = [panel(task or title, measure, present) for measure in MEASURES]
    return alt.hconcat(*panels, spacing=26, title=alt.TitleParams(title, fontSize=13))


def _base(task: str, measure: str, present: list[str]) -> tuple[Any, Any]:
    """The rows of one panel, by curve and depth, and its x axis."""
    x = alt.X("width:Q", title="A_k (pixels)", scale=alt.Scale(type="log", nice=False, padding=8))
    x = x.axis(grid=False, tickCount=5, format="~g")
    data = alt.Chart(alt.NamedData("curves"))
    mine = data.transform_filter((alt.datum.task == task) & (alt.datum.measure == measure))
    return mine.encode(x=x, color=_colour(present), detail="line:N"), x


def _value_panel(task: str, measure: str, present: list[str]) -> Any:
    base, _ = _base(task, measure, present)
    scale, axis = alt.Scale(type="log", nice=False, padding=8), alt.Axis(tickCount=5, format="~g")
    y, low = (alt.Y(f"{field}:Q", title=f"{measure}_k", scale=scale, axis=axis) for field in ("value", "low"))
    drawn = [curve for curve in present if STYLES[curve][1] is not None]
    marked = [curve for curve in present if STYLES[curve][2]]
    lines = base.transform_filter(_among(drawn)).mark_line(strokeWidth=1.6)
    shown = base.transform_filter(_among(marked)).transform_filter("datum.marked")
    points, bars = shown.mark_point(size=26, strokeWidth=1.4), shown.mark_rule()
    tips = ["curve:N", "depth:Q", "layer:Q", "width:Q", "value:Q", "stderr:Q", "slope:Q"]
    return alt.layer(
        bars.encode(y=low, y2="high:Q"),
        lines.encode(y=y, strokeDash=_dash(drawn)),
        points.encode(y=y, tooltip=tips),
    ).properties(width=_PANEL, height=_PANEL)


def _slope_panel(task: str, measure: str, present: list[str]) -> Any:
    base, x = _base(task, measure, present)
    y = alt.Y("slope:Q", title=f"d log {measure}_k / d log A_k", scale=alt.Scale(zero=False, padding=8))
    drawn = [curve for curve in present if curve == "prediction" or curve.startswith("exact")]
    lines = base.transform_filter(_among(drawn)).mark_line(strokeWidth=1.6)
    names = base.transform_filter("datum.label != null && datum.curve == 'exact'").mark_text(
        align="left", dx=5, fontSize=10
    )
    return alt.layer(
        lines.encode(y=y, strokeDash=_dash(drawn)), names.encode(x=x, y=y, text="label:N")
    ).properties(width=_PANEL, height=_PANEL * 0.6)


def _among(curves: list[str]) -> Any:
    return alt.FieldOneOfPredicate(field="curve", oneOf=curves)


def _colour(present: list[str]) -> alt.Color:
    scale = alt.Scale(domain=present, range=[STYLES[curve][0] for curve in present])
    return alt.Color("curve:N", scale=scale, legend=None)


def _dash(drawn: list[str]) -> alt.StrokeDash:
    scale = alt.Scale(domain=drawn, range=[STYLES[curve][1] for curve in drawn])
    return alt.StrokeDash("curve:N", scale=scale, legend=None)


def _legend(present: list[str]) -> Any:
    """A sample of line and point, and the name, of each curve; as many rows as it takes."""
    entries: list[Row] = []
    x, row = 0.0, 0
    for curve in present:
        wide = _SAMPLE + 8 + _LETTER * len(curve) + 22
        if x + wide > WIDTH and x > 0:
            x, row = 0.0, row + 1
        entries.append(
            {"curve": curve, "start": x, "middle": x + _SAMPLE / 2, "end": x + _SAMPLE, "row": row}
        )
        x += wide
    drawn = [curve for curve in present if STYLES[curve][1] is not None]
    marked = [curve for curve in present if STYLES[curve][2]]
    scale = alt.Scale(domain=[0, WIDTH], nice=False)
    start, middle = (alt.X(f"{field}:Q", scale=scale, axis=None) for field in ("start", "middle"))
    y = alt.Y("row:O", axis=None)
    base = alt.Chart(alt.Data(values=entries)).encode(y=y, color=_colour(present))
    lines = base.transform_filter(_among(drawn)).mark_rule(strokeWidth=2)
    points = base.transform_filter(_among(marked)).mark_point(size=34, strokeWidth=1.6).encode(x=middle)
    names = base.mark_text(align="left", dx=_SAMPLE / 2 + 6, fontSize=12)
    return alt.layer(
        lines.encode(x=start, x2="end:Q", strokeDash=_dash(drawn)),
        points,
        names.encode(x=middle, text="curve:N", color=alt.value("#222")),
    ).properties(width=WIDTH, height=math.ceil(18 * (row + 1)), view=alt.ViewConfig(stroke=None))
