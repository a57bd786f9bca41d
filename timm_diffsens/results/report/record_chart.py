"""Altair charts of one record: one specification for PNG, SVG, PDF and the page."""

from collections.abc import Mapping, Sequence
from typing import Any

import altair as alt

from timm_diffsens.results.records.frames import Row, layers_frame, rows_of
from timm_diffsens.results.records.per_image import PerImage
from timm_diffsens.results.report.size_chart import size_chart, size_rows
from timm_diffsens.results.report.spectrum_chart import convolutions, spectrum_data, spectrum_rows
from timm_diffsens.results.report.theme import (
    FONTLESS,
    MEASURES,
    MOST_POINTS,
    Theme,
    encodings,
    legend,
    numbered_looks,
    theme_of_records,
)
from timm_diffsens.results.stats.sizes import by_size
from timm_diffsens.schema.layers import LayerSensitivity
from timm_diffsens.schema.records import Record

Curves = Mapping[str, list[LayerSensitivity]]  # name of a line -> the layers of it


def record_figure(record: Record, distances: PerImage | None = None) -> alt.TopLevelMixin:
    """D, G and R against relative depth, then filter spectra where there are any.

    Where there are further deformations, the original network under each of them has panels of its own.
    Axes of sensitivities are logarithmic, with a line for each variant; bars (a band for more than forty
    layers) reach one standard error to either side. A null, or a zero, leaves a gap. For the spectra see
    `spectrum_rows`. Panels name their data, which is in the chart only once.
    """
    theme = theme_of_records([record])
    rows = [depth_panels("depth", record.variants, theme)]
    data = {"depth": depth_rows(record.variants)}
    if record.further:
        under = {view.protocol.deformation_text: view.variants["original"] for view in record.views()}
        looks = numbered_looks(list(under))
        panels = depth_panels("deformations", under, looks)
        rows += [legend(looks), panels.properties(title="original, under each deformation")]
        data["deformations"] = depth_rows(under)
    moved = [row for row in rows_of(layers_frame([record])) if row["e"]] if record.equivariance else []
    if moved:
        rows += [_equivariance_panel(moved, theme)]
        data["equivariance"] = [
            {name: row[name] for name in ("variant", "layer", "depth", "e")} for row in moved
        ]
    sizes = size_rows(by_size(record, distances))
    if sizes:
        rows += [size_chart(sizes, "sizes", record.protocol.reference_side)]
        data["sizes"] = sizes
    if convolutions(record):
        rows, data = rows + spectrum_rows(record, theme), data | spectrum_data(record)
    note = (
        f"{'bands' if _many(record.variants) else 'bars'}: one standard error; gaps: layers without a value"
    )
    title = alt.TitleParams(record.model.spec, subtitle=[_described(record), note], fontSize=16)
    present = {v: look for v, look in theme.items() if v in record.variants or v in record.spectra}
    whole = alt.vconcat(legend(present), *rows, spacing=30, title=title)
    apart: dict[str, Any] = dict.fromkeys(("color", "strokeDash", "shape"), "independent")
    whole = whole.resolve_scale(**apart)  # variants, deformations and layers have looks of their own
    whole["config"] = FONTLESS
    whole["datasets"] = data
    return whole


def _described(record: Record) -> str:
    """What was measured on what, in one line."""
    data, protocol, error = record.data, record.protocol, record.test_error
    parts = [
        f"{data.spec}, n = {data.n} images of {record.model.input.height} x {record.model.input.width}",
        protocol.deformation_text,
        f"corruption sigma = {protocol.corruption_sigma:g}" if protocol.corruption_sigma else "",
        f"weights: {record.model.weights.source}",
        "" if error.value is None else f"test error {error.value:.1%} ({error.source})",
    ]
    return " · ".join(filter(None, parts))


def depth_panels(
    data: str, curves: Curves, theme: Theme, measures: Sequence[str] = tuple(MEASURES), width: int = 250
) -> Any:
    """D, G and R side by side, or some of them; the rows of `depth_rows` stand in the data of that name."""
    drawn = encodings({name: theme[name] for name in curves})
    panels = [_depth_panel(data, curves, measure, drawn) for measure in measures]
    return alt.hconcat(*(panel.properties(width=width, height=width) for panel in panels), spacing=28)


def _depth_panel(data: str, curves: Curves, measure: str, drawn: dict[str, Any]) -> Any:
    x = alt.X("depth:Q", title="relative depth", scale=alt.Scale(domain=[0, 1]))
    x = x.axis(grid=False, labelFlush=False, tickCount=5, format="~g")
    axis, scale = alt.Axis(tickCount=5, format="~g"), _log_scale(curves, measure)
    y, low = (
        alt.Y(f"{field}:Q", title=MEASURES[measure], scale=scale, axis=axis)
        for field in (measure, f"{measure}_low")
    )
    base = alt.Chart(alt.NamedData(data)).encode(x=x, color=drawn["color"])
    spread = base.mark_area(opacity=0.18) if _many(curves) else base.mark_rule(opacity=0.7)
    spread.mark.clip = True
    spread = spread.encode(y=low, y2=f"{measure}_high:Q")
    lines = base.mark_line(strokeWidth=1.6, clip=True).encode(y=y, strokeDash=drawn["strokeDash"])
    points = base.transform_filter("datum.marked").mark_point(filled=True, size=34, opacity=1)
    tips = ["variant:N", "layer:N", "depth:Q", f"{measure}:Q", f"{measure}_stderr:Q"]
    points = points.encode(y=y, shape=drawn["shape"], tooltip=tips)
    return alt.layer(spread, lines, points)


def _equivariance_panel(moved: list[Row], theme: Theme) -> Any:
    """E of the layers that have a map against relative depth."""
    drawn = encodings({v: theme[v] for v in dict.fromkeys(row["variant"] for row in moved)})
    x = alt.X("depth:Q", title="relative depth", scale=alt.Scale(domain=[0, 1]))
    y = alt.Y("e:Q", title="E", scale=alt.Scale(type="log", nice=False))
    base = alt.Chart(alt.NamedData("equivariance")).encode(x=x, y=y, color=drawn["color"])
    lines = base.mark_line(strokeWidth=1.6).encode(strokeDash=drawn["strokeDash"])
    tips = ["variant:N", "layer:N", "depth:Q", "e:Q"]
    points = base.mark_point(filled=True, size=34, opacity=1).encode(shape=drawn["shape"], tooltip=tips)
    title = "equivariance E: near 0 the map moves with the image"
    return alt.layer(lines, points).properties(width=250, height=250, title=title)


def depth_rows(curves: Curves) -> list[Row]:
    """One row a variant and layer. What a logarithmic axis cannot show (null, zero) is null: a gap."""
    rows = []
    for variant, layers in curves.items():
        every = max(round(len(layers) / 15), 1) if _many(curves) else 1
        for layer in layers:
            alone = all(_is_gap(layers, layer.index + step) for step in (-1, 1))
            row: Row = {"variant": variant, "layer": layer.layer, "depth": layer.depth}
            row["marked"] = alone or layer.index % every == 0 or layer is layers[-1]
            for measure in MEASURES:
                row |= _bar(measure, getattr(layer, measure), getattr(layer, f"{measure}_stderr"))
            rows.append(row)
    return rows


def _bar(measure: str, value: float | None, stderr: float | None) -> Row:
    names = (measure, f"{measure}_stderr", f"{measure}_low", f"{measure}_high")
    if not value:
        return dict.fromkeys(names)
    spread = stderr or 0.0
    low = max(value - spread, value / 100)  # a bar that reaches zero leaves the axis, which ends above
    return dict(zip(names, (value, stderr, low, value + spread), strict=True))


def _is_gap(layers: list[LayerSensitivity], index: int) -> bool:
    return not 0 <= index < len(layers) or layers[index].r is None


def _log_scale(curves: Curves, measure: str) -> alt.Scale:
    """Around the values, not their error bars."""
    values = [v for layers in curves.values() for layer in layers if (v := getattr(layer, measure))]
    domain = [min(values) / 1.5, max(values) * 1.5] if values else [0.1, 10]
    return alt.Scale(type="log", domain=domain, nice=False)


def _many(curves: Curves) -> bool:
    return max(map(len, curves.values()), default=0) > MOST_POINTS
