"""Altair charts of a leaderboard: error against D, G and R, and correlations against depth and noise."""

import json
from typing import Any

import altair as alt

from timm_diffsens.results.numbers import PLAIN
from timm_diffsens.results.records.frames import Row, rows_of
from timm_diffsens.results.report.theme import (
    ACCENT,
    CONFIG,
    MEASURE_LOOKS,
    MEASURES,
    Theme,
    encodings,
    legend,
    named_data,
    theme_of_records,
)
from timm_diffsens.results.stats.leaderboard import Group, Leaderboard, Series

_SIDE = 250  # of a panel, in points
_FIT = "#555555"
_CONFIG = CONFIG | {"aria": False}  # pictures in a page of text, which describes them


def board_charts(board: Leaderboard) -> dict[str, alt.TopLevelMixin]:
    """Every chart of a leaderboard by the name of its file, without suffix.

    `<group>-scatter` and `<group>-depth` for each group, and one for each series; those without anything to
    draw are not there.
    """
    charts: dict[str, alt.TopLevelMixin] = {}
    theme = theme_of_records(record for _, record in board.records)
    for group in board.groups:
        if len(group.points):
            charts[f"{group.slug}-scatter"] = scatter_chart(group)
        if len(group.by_depth):
            charts[f"{group.slug}-depth"] = depth_correlation_chart(group, theme)
    return charts | {series.slug: series_chart(series) for series in board.series}


def scatter_chart(group: Group) -> alt.TopLevelMixin:
    """Test error against D, G and R at the output on logarithmic axes: Fig. 1 (middle), Figs 8 and 10.

    A point is a network, the line the power law e ~ a X^b, the band holds 95 % of the resampled fits.
    """
    data = {"points": rows_of(group.points[["model", "seeds", "error", *MEASURES]])}
    for measure in MEASURES:
        fit = group.fits[group.fits["measure"] == measure]
        data[f"fit_{measure}"] = rows_of(fit[["x", "error", "low", "high"]])
    panels = alt.hconcat(*(_scatter_panel(group, measure, data) for measure in MEASURES), spacing=28)
    note = "line: e ~ a X^b, least squares on logarithms; band: 95 % of the fits to resampled networks"
    return _figure(group.title, [_counted(group), note], panels, data)


def _counted(group: Group) -> str:
    """How many points there are, and what they stand for."""
    seeds = int(group.points["seeds"].sum()) - len(group.points)
    means = ", means over training seeds" if seeds else ""
    unfitted = f"; {group.unfitted} did not fit their training set" if group.unfitted else ""
    return f"{len(group.points)} networks{means}{unfitted}"


def _scatter_panel(group: Group, measure: str, data: dict[str, list[Row]]) -> Any:
    axis = alt.Axis(tickCount=4, format="~g", labelOverlap="greedy", labelSeparation=6)
    y_scale, x_scale = (_log_scale([row[name] for row in data["points"]]) for name in ("error", measure))

    def x(field: str) -> Any:
        return alt.X(f"{field}:Q", title=MEASURES[measure], scale=x_scale, axis=axis)

    def y(field: str) -> Any:
        return alt.Y(f"{field}:Q", title="test error", scale=y_scale, axis=axis)

    tips = ["model:N", "seeds:Q", f"{measure}:Q", "error:Q"]
    base = alt.Chart(named_data(f"fit_{measure}")).encode(x=x("x"))
    band = base.mark_area(opacity=0.18, color=_FIT, clip=True).encode(y=y("low"), y2="high:Q")
    line = base.mark_line(strokeWidth=1.6, color=_FIT, clip=True).encode(y=y("error"))
    dots = alt.Chart(named_data("points")).mark_point(filled=True, size=42, opacity=0.85, color=ACCENT)
    dots = dots.encode(x=x(measure), y=y("error"), tooltip=tips)
    title = alt.TitleParams(_rho(group, measure), fontSize=12, fontWeight="normal", anchor="middle")
    title.frame = "group"
    return alt.layer(band, line, dots).properties(width=_SIDE, height=_SIDE, title=title)


def _rho(group: Group, measure: str) -> str:
    table = group.correlations
    rows = rows_of(table[(table["variant"] == "original") & (table["measure"] == measure)])
    if not rows or rows[0]["pearson"] is None:
        return "rho: no value"
    return f"rho = {PLAIN.rho(rows[0], rows[0]['note'] or 'no interval')}"


def depth_correlation_chart(group: Group, theme: Theme) -> alt.TopLevelMixin:
    """Correlation of the test error with D_k, G_k and R_k against relative depth, a line a variant.

    `theme`: how all the variants of the board are drawn.
    """
    theme = {v: look for v, look in theme.items() if (group.by_depth["variant"] == v).any()}
    names = ["variant", "depth", "n", "pearson", "pearson_low", "pearson_high"]
    by_measure = {measure: group.by_depth[group.by_depth["measure"] == measure] for measure in MEASURES}
    panels = [_depth_panel(measure, encodings(theme)) for measure in MEASURES]
    whole = alt.vconcat(legend(theme), alt.hconcat(*panels, spacing=28), spacing=24)
    note = "bands: 95 % intervals over families, of the original networks, one depth at a time"
    data: dict[str, list[Row]] = {measure: rows_of(table[names]) for measure, table in by_measure.items()}
    return _figure(group.title, [note], whole, data | {"zero": [{"zero": 0}]})


def _depth_panel(measure: str, drawn: dict[str, Any]) -> Any:
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
    return alt.layer(ruled, band, lines, points).properties(width=_SIDE, height=_SIDE)


def series_chart(series: Series) -> alt.TopLevelMixin:
    """Correlation of the test error with D, G and R against the noise on the images: Fig. 1 (right)."""
    rows = [{**row, "measure": row["measure"].upper()} for row in rows_of(series.rows)]

    def by_measure(part: str) -> dict[str, Any]:
        values = [getattr(look, part) for look in MEASURE_LOOKS.values()]
        return {"title": None, "scale": alt.Scale(domain=list(MEASURE_LOOKS), range=values)}

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
    panel = panel.properties(width=420, height=280)
    return _figure(series.title, ["bars: 95 % intervals over families"], panel, {"rows": rows})


def _figure(title: str, subtitle: list[str], whole: Any, data: dict[str, list[Row]]) -> Any:
    """Panels below a title; they name their data, which is text: Altair would copy and check every row."""
    framed = alt.vconcat(whole, title=alt.TitleParams(title, subtitle=subtitle, fontSize=16))
    framed["config"] = _CONFIG
    framed["datasets"] = {name: json.dumps(rows) for name, rows in data.items()}
    return framed


def _log_scale(values: list[float | None]) -> alt.Scale:
    known = [value for value in values if value]
    domain = [min(known) / 1.2, max(known) * 1.2] if known else [0.1, 1]
    return alt.Scale(type="log", domain=domain, nice=False)
