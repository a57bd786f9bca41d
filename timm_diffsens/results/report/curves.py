"""Lines with error bars on logarithmic axes, over depth or anything else."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import altair as alt

from timm_diffsens.results.records.frames import Row
from timm_diffsens.results.report.layout import GAP
from timm_diffsens.results.report.theme import MEASURES, MOST_POINTS, Theme, encodings
from timm_diffsens.schema.layers import LayerSensitivity

Curves = Mapping[str, list[LayerSensitivity]]  # name of a line -> the layers of it


def bar(name: str, value: float | None, stderr: float | None) -> Row:
    """A value with its standard error, and the ends of its bar; null is what a logarithm does not know."""
    names = (name, f"{name}_stderr", f"{name}_low", f"{name}_high")
    if not value:
        return dict.fromkeys(names)
    spread = stderr or 0.0
    low = max(value - spread, value / 100)  # a bar that reaches zero leaves the axis, which ends above
    return dict(zip(names, (value, stderr, low, value + spread), strict=True))


def log_scale(values: Iterable[float | None], around: float = 1.5) -> alt.Scale:
    """Around the values, not their error bars."""
    known = [value for value in values if value]
    domain = [min(known) / around, max(known) * around] if known else [0.1, 10]
    return alt.Scale(type="log", domain=domain, nice=False)


def with_bars(
    base: Any, name: str, title: str, scale: alt.Scale, drawn: Mapping[str, Any], band: bool = False
) -> tuple[Any, Any, Any]:
    """Error bars (or a band), the line, and the base at the values' height, for points.

    Args:
        base: with its data, of which the rows are from `bar`, its x and its colour.
        name: of the value.
        title: of the axis.
        scale: of the values.
        drawn: see `theme.encodings`.
        band: in place of bars.
    """
    axis = alt.Axis(tickCount=5, format="~g")
    y, low = (alt.Y(f"{field}:Q", title=title, scale=scale, axis=axis) for field in (name, f"{name}_low"))
    spread = base.mark_area(opacity=0.18) if band else base.mark_rule(opacity=0.7)
    spread.mark.clip = True
    line = base.mark_line(strokeWidth=1.6, clip=True).encode(y=y, strokeDash=drawn["strokeDash"])
    return spread.encode(y=low, y2=f"{name}_high:Q"), line, base.encode(y=y)


def depth_axis() -> alt.X:
    """Relative depth, from 0 to 1."""
    scale = alt.Scale(domain=[0, 1.01], nice=False)  # the bar of the output whole
    x = alt.X("depth:Q", title="relative depth", scale=scale)
    return x.axis(grid=False, labelFlush=False, tickCount=5, format="~g")


def depth_panels(
    data: str, curves: Curves, theme: Theme, measures: Sequence[str] = tuple(MEASURES), width: int = 250
) -> Any:
    """D, G and R side by side, or some of them; the rows of `depth_rows` stand in the data of that name."""
    drawn = encodings({name: theme[name] for name in curves})
    panels = [_depth_panel(data, curves, measure, drawn) for measure in measures]
    return alt.hconcat(*(panel.properties(width=width, height=width) for panel in panels), spacing=GAP)


def _depth_panel(data: str, curves: Curves, measure: str, drawn: dict[str, Any]) -> Any:
    scale = log_scale(getattr(layer, measure) for layers in curves.values() for layer in layers)
    base = alt.Chart(alt.NamedData(data)).encode(x=depth_axis(), color=drawn["color"])
    spread, line, at = with_bars(base, measure, MEASURES[measure], scale, drawn, many(curves))
    tips = ["variant:N", "layer:N", "depth:Q", f"{measure}:Q", f"{measure}_stderr:Q"]
    points = at.transform_filter("datum.marked").mark_point(filled=True, size=34, opacity=1)
    return alt.layer(spread, line, points.encode(shape=drawn["shape"], tooltip=tips))


def depth_rows(curves: Curves) -> list[Row]:
    """One row a variant and layer. What a logarithmic axis cannot show (null, zero) is null: a gap."""
    rows = []
    for variant, layers in curves.items():
        every = max(round(len(layers) / 15), 1) if many(curves) else 1
        for layer in layers:
            alone = all(_is_gap(layers, layer.index + step) for step in (-1, 1))
            row: Row = {"variant": variant, "layer": layer.layer, "depth": layer.depth}
            row["marked"] = alone or layer.index % every == 0 or layer is layers[-1]
            for measure in MEASURES:
                row |= bar(measure, getattr(layer, measure), getattr(layer, f"{measure}_stderr"))
            rows.append(row)
    return rows


def _is_gap(layers: list[LayerSensitivity], index: int) -> bool:
    return not 0 <= index < len(layers) or layers[index].r is None


def many(curves: Curves) -> bool:
    """Whether some line has too many points for bars."""
    return max(map(len, curves.values()), default=0) > MOST_POINTS
