"""Altair charts of a leaderboard: error against D, G and R, and correlations against depth and noise."""

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import altair as alt
import numpy as np
import pandas as pd

from timm_diffsens.registry import Look
from timm_diffsens.results.numbers import PLAIN
from timm_diffsens.results.records.frames import Row, rows_of
from timm_diffsens.results.report.curves import bar, log_scale
from timm_diffsens.results.report.layout import GAP, Layout
from timm_diffsens.results.report.outliers import LogFrame, furthest, name_marks, name_rows, short_name
from timm_diffsens.results.report.theme import (
    ACCENT,
    CONFIG,
    MEASURE_LOOKS,
    MEASURES,
    Theme,
    encodings,
    family_looks,
    in_legend,
    named_data,
    point_size,
    theme_of_records,
)
from timm_diffsens.results.stats.leaderboard import Group, Leaderboard, Series

_FIT = "#555555"
_CONFIG = CONFIG | {"aria": False}  # pictures in a page of text, which describes them
_MOST_BARS = 200  # networks with error bars: more would hide one another, and make a figure of megabytes
_SMALLER = 3  # names in a panel than the text over it
_BETWEEN = 1.2  # an axis goes on beyond the points by this factor


@dataclass(frozen=True)
class Drawing:
    """How the charts of a leaderboard are drawn.

    Attributes:
        layout: width and text.
        measures: which of d, g and r have a panel.
        points: what tells the points of a scatter from one another, `families` by their look, with the names
            of a few beside them, or `names` beside all; with bars of one standard error; or None.
    """

    layout: Layout = field(default_factory=Layout)
    measures: Sequence[str] = tuple(MEASURES)
    points: str | None = None


PLAIN_POINTS = Drawing()
AS_ON_THE_PAGE = Drawing(points="families")


def board_charts(board: Leaderboard, drawing: Drawing = AS_ON_THE_PAGE) -> dict[str, alt.TopLevelMixin]:
    """Every chart of a leaderboard by the name of its file, without suffix.

    `<group>-scatter` and `<group>-depth` for each group, and one for each series; those without anything to
    draw are not there.
    """
    charts: dict[str, alt.TopLevelMixin] = {}
    theme = theme_of_records(record for _, record in board.records)
    families = board_families(board)
    for group in board.groups:
        if len(group.points):
            charts[f"{group.slug}-scatter"] = scatter_chart(group, drawing, families)
        if group.correlates and len(group.by_depth):
            charts[f"{group.slug}-depth"] = depth_correlation_chart(group, theme, drawing)
    return charts | {series.slug: series_chart(series, drawing) for series in board.series}


def board_families(board: Leaderboard) -> dict[str, Look]:
    """How families are drawn: the same in all groups of a board."""
    return family_looks(str(family) for group in board.groups for family in group.models["family"])


def scatter_chart(
    group: Group, drawing: Drawing = PLAIN_POINTS, families: Theme | None = None
) -> alt.TopLevelMixin:
    """Test error against D, G and R at the output on logarithmic axes: Fig. 1 (middle), Figs 8 and 10.

    A point is a network, the line the power law e ~ a X^b, the band holds 95 % of the resampled fits. With
    families (`families`: their looks, if not of this group alone) others are there too, hollow.
    """
    layout, measures = drawing.layout, drawing.measures
    looks: Theme = {}
    if drawing.points == "families":
        looks = family_looks(group.models["family"].astype(str)) if families is None else families
    data = {"points": _point_rows(group.points, drawing, looks)}
    if looks:
        data["apart"] = _point_rows(group.models[~group.models["in_fit"].astype(bool)], drawing, looks)
        present = {row["variant"] for rows in data.values() for row in rows}
        looks = {name: look for name, look in looks.items() if name in present}
    for measure in measures:
        fit = group.fits[group.fits["measure"] == measure]
        data[f"fit_{measure}"] = rows_of(fit[["x", "error", "low", "high"]])
    panels = [_scatter_panel(group, measure, data, drawing, looks) for measure in measures]
    note = "line: e ~ a X^b, least squares on logarithms; band: 95 % of the fits to resampled networks"
    note += "; bars: one standard error" if drawing.points and _count(data) <= _MOST_BARS else ""
    row = alt.hconcat(*panels, spacing=GAP)
    whole = alt.vconcat(layout.legend(looks, lines=False), row, spacing=16) if looks else row
    return _figure(group.title, [_counted(group, data), note], whole, data, layout)


def _point_rows(table: pd.DataFrame, drawing: Drawing, looks: Theme) -> list[Row]:
    """Networks: of `Group.points`, or of `Group.models`."""
    if drawing.points is None:
        return rows_of(table[["model", "seeds", "error", *MEASURES]])
    return [
        {"model": row["model"], "seeds": row.get("seeds"), "variant": in_legend(str(row["family"]), looks)}
        | bar("error", row["error"], row["error_stderr"])
        | {key: v for m in MEASURES for key, v in bar(m, row[m], row[f"{m}_stderr"]).items()}
        for row in rows_of(table)
    ]


def _count(data: dict[str, list[Row]]) -> int:
    return sum(len(data.get(name, [])) for name in ("points", "apart"))


def _counted(group: Group, data: dict[str, list[Row]]) -> str:
    """How many points there are, and what they stand for."""
    seeds = int(group.points["seeds"].sum()) - len(group.points)
    means = ", means over training seeds" if seeds else ""
    unfitted = f"; {group.unfitted} did not fit their training set" if group.unfitted else ""
    apart = len(data.get("apart", []))
    hollow = f"; hollow: {apart} records that are not in the fit" if apart else ""
    return f"{len(group.points)} networks{means}{unfitted}{hollow}"


def _scatter_panel(
    group: Group, measure: str, data: dict[str, list[Row]], drawing: Drawing, looks: Theme
) -> Any:
    axis = alt.Axis(tickCount=4, format="~g", labelOverlap="greedy", labelSeparation=6)
    shown = [
        row for name in ("points", "apart") for row in data.get(name, []) if row["error"] and row[measure]
    ]
    y_scale, x_scale = (log_scale([row[name] for row in shown], _BETWEEN) for name in ("error", measure))

    def x(field: str) -> Any:
        return alt.X(f"{field}:Q", title=MEASURES[measure], scale=x_scale, axis=axis)

    def y(field: str) -> Any:
        return alt.Y(f"{field}:Q", title="test error", scale=y_scale, axis=axis)

    fit = alt.Chart(named_data(f"fit_{measure}")).encode(x=x("x"))
    band = fit.mark_area(opacity=0.18, color=_FIT, clip=True).encode(y=y("low"), y2="high:Q")
    line = fit.mark_line(strokeWidth=1.6, color=_FIT, clip=True).encode(y=y("error"))
    size, rho = drawing.layout.text, _rho(group, measure)
    title = alt.TitleParams(rho, fontSize=size, fontWeight="normal", anchor="middle", frame="group")
    side = drawing.layout.panel(len(drawing.measures))
    dots = _dots(measure, x, y, drawing, looks, _count(data))
    if drawing.points == "names":
        dots += _names(measure, x, y, [row[measure] for row in data["points"] if row[measure]])
    elif looks and len(group.fits[group.fits["measure"] == measure]):
        frame = LogFrame(tuple(x_scale.domain), tuple(y_scale.domain), side, side)
        data[f"names_{measure}"] = _outliers(measure, data["points"], shown, frame, size - _SMALLER)
        names = alt.Chart(named_data(f"names_{measure}")).encode(x=x("x"), y=y("y"))
        dots += name_marks(names, size - _SMALLER, color="#222", limit=side)
    return alt.layer(band, line, *dots).properties(width=side, height=side, title=title)


def _outliers(measure: str, fitted: list[Row], shown: list[Row], frame: LogFrame, size: int) -> list[Row]:
    """Names of the networks that are furthest from the line."""
    used = [row for row in fitted if row["error"] and row[measure]]
    x, y = (np.log([row[name] for row in used]) for name in (measure, "error"))
    names = [(place, short_name(used[place]["model"])) for place in furthest(x, y)]
    points = [(row[measure], row["error"]) for row in shown]  # those of the fit come first
    return name_rows(points, names, frame, size)


def _dots(
    measure: str, x: Callable[[str], Any], y: Callable[[str], Any], drawing: Drawing, looks: Theme, count: int
) -> list[Any]:
    """So many networks, with bars and the looks of their families."""
    tips = ["model:N", "seeds:Q", f"{measure}:Q", "error:Q"]
    base, apart = (alt.Chart(named_data(name)) for name in ("points", "apart"))
    size = point_size(count) if drawing.points else 42
    dots = base.mark_point(filled=True, size=size, opacity=0.85, color=ACCENT)
    dots = dots.encode(x=x(measure), y=y("error"), tooltip=tips)
    barred = ([apart, base] if looks else [base]) if drawing.points and count <= _MOST_BARS else []
    bars = [layer for part in barred for layer in _bars(part, measure, x, y)]
    if not looks:
        return [*bars, dots]
    drawn = encodings(looks)
    hollow = apart.mark_point(filled=False, fill="white", size=0.9 * size, strokeWidth=1.2)
    hollow = hollow.encode(x=x(measure), y=y("error"), tooltip=["variant:N", *tips])
    points = [layer.encode(shape=drawn["shape"]) for layer in (hollow, dots)]
    return [layer.encode(color=drawn["color"]) for layer in (*bars, *points)]


def _bars(base: Any, measure: str, x: Callable[[str], Any], y: Callable[[str], Any]) -> list[Any]:
    """One standard error of the measure, across, and of the test error, upright."""
    bars = base.mark_rule(opacity=0.5, color=ACCENT, clip=True)
    across = bars.encode(x=x(f"{measure}_low"), x2=f"{measure}_high:Q", y=y("error"))
    return [across, bars.encode(x=x(measure), y=y("error_low"), y2="error_high:Q")]


def _names(measure: str, x: Callable[[str], Any], y: Callable[[str], Any], values: list[float]) -> list[Any]:
    """Beside the networks, on the side where the panel goes on."""
    middle = math.sqrt(min(values) * max(values))
    base = alt.Chart(named_data("points")).encode(x=x(measure), y=y("error"), text="model:N")
    return [
        base.transform_filter(f"datum.{measure} {side} {middle!r}").mark_text(
            align=align, dx=dx, dy=-4, fontSize=7, clip=True
        )
        for side, align, dx in (("<=", "left", 5), (">", "right", -5))
    ]


def _rho(group: Group, measure: str) -> str:
    table = group.correlations
    rows = rows_of(table[(table["variant"] == "original") & (table["measure"] == measure)])
    if not rows or rows[0]["pearson"] is None:
        return "rho: no value"
    return f"rho = {PLAIN.rho(rows[0], rows[0]['note'] or 'no interval')}"


def depth_correlation_chart(
    group: Group, theme: Theme, drawing: Drawing = AS_ON_THE_PAGE
) -> alt.TopLevelMixin:
    """Correlation of the test error with D_k, G_k and R_k against relative depth, a line a variant.

    `theme`: how all the variants of the board are drawn.
    """
    theme = {v: look for v, look in theme.items() if (group.by_depth["variant"] == v).any()}
    names = ["variant", "depth", "n", "pearson", "pearson_low", "pearson_high"]
    measures, layout = drawing.measures, drawing.layout
    by_measure = {measure: group.by_depth[group.by_depth["measure"] == measure] for measure in measures}
    side = layout.panel(len(measures))
    panels = [_depth_panel(measure, encodings(theme), side) for measure in measures]
    whole = alt.vconcat(layout.legend(theme), alt.hconcat(*panels, spacing=GAP), spacing=24)
    note = "bands: 95 % intervals over families, of the original networks, one depth at a time"
    data: dict[str, list[Row]] = {measure: rows_of(table[names]) for measure, table in by_measure.items()}
    return _figure(group.title, [note], whole, data | {"zero": [{"zero": 0}]}, layout)


def _depth_panel(measure: str, drawn: dict[str, Any], side: int) -> Any:
    x = alt.X("depth:Q", title="relative depth", scale=alt.Scale(domain=[0, 1]))
    x = x.axis(grid=False, tickCount=5, format="~g")
    axis, scale = alt.Axis(values=[-1, -0.5, 0, 0.5, 1], format="~g"), alt.Scale(domain=[-1, 1])
    y, low, zero = (
        alt.Y(f"{field}:Q", title=f"rho(error, {measure.upper()}_k)", scale=scale, axis=axis)
        for field in ("pearson", "pearson_low", "zero")
    )
    base = alt.Chart(named_data(measure)).encode(x=x, color=drawn["color"])
    original = "datum.variant == 'original' && isValid(datum.pearson_low)"
    band = base.transform_filter(original).mark_area(opacity=0.18).encode(y=low, y2="pearson_high:Q")
    lines = base.mark_line(strokeWidth=1.6).encode(y=y, strokeDash=drawn["strokeDash"])
    tips = ["variant:N", "depth:Q", "n:Q", "pearson:Q", "pearson_low:Q", "pearson_high:Q"]
    points = base.mark_point(filled=True, size=30, opacity=1)
    points = points.encode(y=y, shape=drawn["shape"], tooltip=tips)
    ruled = alt.Chart(named_data("zero")).mark_rule(color="#999").encode(y=zero)
    return alt.layer(ruled, band, lines, points).properties(width=side, height=side)


def series_chart(series: Series, drawing: Drawing = AS_ON_THE_PAGE) -> alt.TopLevelMixin:
    """Correlation of the test error with D, G and R against the noise on the images: Fig. 1 (right)."""
    layout, measures = drawing.layout, drawing.measures
    rows = [
        {**row, "measure": row["measure"].upper()}
        for row in rows_of(series.rows)
        if row["measure"] in measures
    ]
    looks = {name: look for name, look in MEASURE_LOOKS.items() if name.lower() in measures}

    def by_measure(part: str) -> dict[str, Any]:
        values = [getattr(look, part) for look in looks.values()]
        return {"title": None, "scale": alt.Scale(domain=list(looks), range=values)}

    x = alt.X("sigma:Q", title="corruption sigma (input units)", scale=alt.Scale(padding=12, nice=False))
    x = x.axis(grid=False, format="~g")
    y, low = (
        alt.Y(f"{field}:Q", title="rho with the test error", scale=alt.Scale(domain=[-1, 1]))
        for field in ("pearson", "pearson_low")
    )
    colour = alt.Color("measure:N", **by_measure("colour"))
    base = alt.Chart(named_data("rows")).encode(x=x, color=colour)
    bars = base.transform_filter("isValid(datum.pearson_low)").mark_rule(opacity=0.6)
    points = base.mark_point(filled=True, size=50, opacity=1)
    tips = ["measure:N", *(f"{field}:Q" for field in series.rows if field != "measure")]
    points = points.encode(y=y, shape=alt.Shape("measure:N", **by_measure("point")), tooltip=tips)
    lines = base.mark_line(strokeWidth=1.4).encode(y=y)
    panel = alt.layer(bars.encode(y=low, y2="pearson_high:Q"), lines, points)
    width = layout.panel(usual=420)
    panel = panel.properties(width=width, height=min(width, 280))
    return _figure(series.title, ["bars: 95 % intervals over families"], panel, {"rows": rows}, layout)


def _figure(title: str, subtitle: list[str], whole: Any, data: dict[str, list[Row]], layout: Layout) -> Any:
    """Panels below a title; they name their data, which is text: Altair would copy and check every row."""
    texts = {name: json.dumps(rows) for name, rows in data.items()}
    above = alt.TitleParams(title, subtitle=subtitle, fontSize=16)
    return layout.figure([whole], texts, above, config=_CONFIG)
