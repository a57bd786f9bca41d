"""Altair charts of one record: one specification for PNG, SVG, PDF and the page."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from timm_diffsens.errors import UsageError
from timm_diffsens.results.records.frames import Row
from timm_diffsens.results.report.export import save_chart
from timm_diffsens.results.report.spectrum_chart import convolutions, spectrum_data, spectrum_rows
from timm_diffsens.results.report.theme import (
    FONTLESS,
    MEASURES,
    MOST_POINTS,
    encodings,
    legend,
    theme_of_records,
)
from timm_diffsens.schema.layers import LayerSensitivity
from timm_diffsens.schema.records import Record

__all__ = ["depth_chart", "describe", "has_spectra", "record_figure", "save_chart", "spectrum_chart"]


def depth_chart(record: Record) -> alt.TopLevelMixin:
    """D, G and R against relative depth on logarithmic axes, a line for each variant.

    Bars (a band for more than forty layers) reach one standard error to either side. A null, or a zero,
    leaves a gap.
    """
    return _figure(record, [_depth_row(record)], {"depth": _depth_rows(record)}, _note_on_bars(record))


def spectrum_chart(record: Record) -> alt.TopLevelMixin:
    """Filter power gamma against mode order, a panel a convolution, and the mean frequency of each.

    As in Figs 4 and 12 of arXiv 2210.01506: full lines trained, dotted lines at initialisation. At most
    twelve convolutions get a panel, spread evenly over depth.

    Raises:
        UsageError: the record has no filter spectra.
    """
    if not has_spectra(record):
        raise UsageError(f"{record.model.spec} has no filter spectra: no convolution larger than 1 x 1")
    return _figure(record, spectrum_rows(record), spectrum_data(record))


def record_figure(record: Record) -> alt.TopLevelMixin:
    """Everything about one record: depth curves, then filter spectra where there are any."""
    rows, data = [_depth_row(record)], {"depth": _depth_rows(record)}
    if has_spectra(record):
        rows, data = rows + spectrum_rows(record), data | spectrum_data(record)
    return _figure(record, rows, data, _note_on_bars(record))


def has_spectra(record: Record) -> bool:
    """Whether there is a filter spectrum to draw."""
    return bool(convolutions(record))


def describe(record: Record) -> str:
    """What was measured on what, in one line."""
    data, protocol, error = record.data, record.protocol, record.test_error
    parts = [
        f"{data.spec}, n = {data.n} images of {record.model.input.height} x {record.model.input.width}",
        protocol.deformation_text,
        f"weights: {record.model.weights.source}",
    ]
    if protocol.corruption_sigma:
        parts.insert(2, f"corruption sigma = {protocol.corruption_sigma:g}")
    if error.value is not None:
        parts.append(f"test error {error.value:.1%} ({error.source})")
    return " · ".join(parts)


def _figure(record: Record, rows: Sequence[Any], data: dict[str, list[Row]], *notes: str) -> Any:
    """Rows of panels below a title and a legend; panels name their data, which is here only once."""
    title = alt.TitleParams(record.model.spec, subtitle=[describe(record), *notes], fontSize=16)
    theme = theme_of_records([record])
    present = {v: look for v, look in theme.items() if v in record.variants or v in record.spectra}
    whole = alt.vconcat(legend(present), *rows, spacing=30, title=title)
    whole["config"] = FONTLESS
    whole["datasets"] = data
    return whole


# ---- sensitivities over depth


def _depth_row(record: Record) -> Any:
    return alt.hconcat(*(_depth_panel(record, measure) for measure in MEASURES), spacing=28)


def _depth_panel(record: Record, measure: str) -> Any:
    theme = theme_of_records([record])
    drawn = encodings({v: theme[v] for v in record.variants})
    x = alt.X("depth:Q", title="relative depth", scale=alt.Scale(domain=[0, 1]))
    x = x.axis(grid=False, labelFlush=False, tickCount=5, format="~g")
    axis, scale = alt.Axis(tickCount=5, format="~g"), _log_scale(record, measure)
    y, low = (
        alt.Y(f"{field}:Q", title=MEASURES[measure], scale=scale, axis=axis)
        for field in (measure, f"{measure}_low")
    )
    base = alt.Chart(alt.NamedData("depth")).encode(x=x, color=drawn["color"])
    spread = (
        base.mark_area(opacity=0.18, clip=True) if _many(record) else base.mark_rule(opacity=0.7, clip=True)
    )
    spread = spread.encode(y=low, y2=f"{measure}_high:Q")
    lines = base.mark_line(strokeWidth=1.6, clip=True).encode(y=y, strokeDash=drawn["strokeDash"])
    points = base.transform_filter("datum.marked").mark_point(filled=True, size=34, opacity=1)
    tips = ["variant:N", "layer:N", "depth:Q", f"{measure}:Q", f"{measure}_stderr:Q"]
    points = points.encode(y=y, shape=drawn["shape"], tooltip=tips)
    return alt.layer(spread, lines, points).properties(width=250, height=250)


def _depth_rows(record: Record) -> list[Row]:
    """One row a variant and layer. What a logarithmic axis cannot show (null, zero) is null: a gap."""
    rows = []
    for variant, layers in record.variants.items():
        every = max(round(len(layers) / 15), 1) if _many(record) else 1
        for layer in layers:
            alone = all(_is_gap(layers, layer.index + step) for step in (-1, 1))
            row: Row = {"variant": variant, "layer": layer.layer, "depth": layer.depth}
            row["marked"] = alone or layer.index % every == 0 or layer is layers[-1]
            for measure in MEASURES:
                row |= _bar(measure, getattr(layer, measure), getattr(layer, f"{measure}_stderr"))
            rows.append(row)
    return rows


def _bar(measure: str, value: float | None, stderr: float | None) -> Row:
    if not value:
        return dict.fromkeys((measure, f"{measure}_stderr", f"{measure}_low", f"{measure}_high"))
    spread = stderr or 0.0
    low = max(value - spread, value / 100)  # a bar that reaches zero leaves the axis, which ends above
    return {
        measure: value,
        f"{measure}_stderr": stderr,
        f"{measure}_low": low,
        f"{measure}_high": value + spread,
    }


def _is_gap(layers: list[LayerSensitivity], index: int) -> bool:
    return not 0 <= index < len(layers) or layers[index].r is None


def _log_scale(record: Record, measure: str) -> alt.Scale:
    """Around the values, not their error bars."""
    values = [v for layers in record.variants.values() for layer in layers if (v := getattr(layer, measure))]
    domain = [min(values) / 1.5, max(values) * 1.5] if values else [0.1, 10]
    return alt.Scale(type="log", domain=domain, nice=False)


def _many(record: Record) -> bool:
    return max(map(len, record.variants.values()), default=0) > MOST_POINTS


def _note_on_bars(record: Record) -> str:
    return f"{'bands' if _many(record) else 'bars'}: one standard error; gaps: layers without a value"
