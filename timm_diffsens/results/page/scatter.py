"""The page's scatter plots: test error against D, G or R."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass

import altair as alt

from timm_diffsens.results.page.svg import axis, inline_svg
from timm_diffsens.results.records.frames import Row
from timm_diffsens.results.report.theme import named_data

_FEWEST_TICKS = 3
# Every how many powers of ten, and which multiples of them; tenths are the closest.
_STEPS: list[tuple[int, Sequence[float]]] = [
    *((every, [1]) for every in (4, 2, 1)),
    *((1, factors) for factors in ([1, 3], [1, 2, 5], [1, 1.5, 2, 3, 5, 7])),
    *((1, [tenths / 10 for tenths in range(10, 100, step)]) for step in (5, 2, 1)),
]


@dataclass(frozen=True)
class Dot:
    """A network in a scatter plot."""

    point: str  # id that the chart's point and the table's rows share
    x: float
    error: float
    in_fit: bool
    tip: str


def scatter(dots: Sequence[Dot], fit: Sequence[Row], title: str, errors: Sequence[float], label: str) -> str:
    """Test error against one measure, both logarithmic, with the fitted power law and its 95 % band.

    Args:
        dots: networks, with positive `x` and `error`; filled circles in the fit, hollow diamonds outside.
        fit: rows of `x`, `error`, `low`, `high`, ascending in `x`; may be empty.
        title: of the x axis.
        errors: all errors that the y axis must span; the same in charts side by side.
        label: text alternative.
    """
    ordered = sorted(dots, key=lambda dot: (dot.x, dot.point))
    data = [{"i": str(i), "x": d.x, "y": d.error, "fit": d.in_fit} for i, d in enumerate(ordered)]
    domain, x_domain = _log_domain(errors), _log_domain([dot.x for dot in ordered])
    scale, y_axis = _log_scale(domain), axis(".2~%", log_ticks(*domain))
    x = alt.X("x:Q", title=title, scale=_log_scale(x_domain), axis=axis(".2~g", log_ticks(*x_domain)))
    y, low, line = (
        alt.Y(f"{field}:Q", title="test error", scale=scale, axis=y_axis) for field in ("y", "low", "error")
    )
    curve = alt.Chart(named_data("fit"))
    band = curve.mark_area(color="var(--accent)", opacity=0.15).encode(x=x, y=low, y2="high:Q")
    drawn = curve.mark_line(color="var(--accent)", strokeWidth=1.4).encode(x=x, y=line)
    within = alt.Scale(domain=[True, False])
    points = (
        alt.Chart(named_data("dots"), name="points")
        .mark_point(size=46, opacity=1, strokeWidth=1.4, stroke="var(--accent)")
        .encode(
            x=x,
            y=y,
            description="i:N",
            shape=alt.Shape("fit:N", scale=_ranged(within, ["circle", "diamond"]), legend=None),
            fill=alt.Fill("fit:N", scale=_ranged(within, ["var(--accent)", "transparent"]), legend=None),
        )
    )
    chart = alt.layer(band, drawn, points)
    chart["datasets"] = {
        "fit": json.dumps([_inside(row, domain) for row in fit]),
        "dots": json.dumps(data),
    }
    return inline_svg(chart, label, [{"data-point": d.point, "data-tip": d.tip} for d in ordered])


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between two positive ones, at least three where the range is wider than a fifth.

    Vega's own leave a short logarithmic axis with one label or none.

    Example:
        >>> log_ticks(0.05, 20), log_ticks(0.11, 0.34), log_ticks(0.024, 0.032)
        ([0.1, 1.0, 10.0], [0.15, 0.2, 0.3], [0.024, 0.026, 0.028, 0.03, 0.032])
    """
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    for every, factors in _STEPS:
        ticks = [
            float(f"{factor}e{k}") for k in range(first, last + 1) if k % every == 0 for factor in factors
        ]
        inside = [tick for tick in ticks if low <= tick <= high]
        if len(inside) >= _FEWEST_TICKS:
            break
    return inside


def _ranged(scale: alt.Scale, values: Sequence[str]) -> alt.Scale:
    ranged = scale.copy()
    ranged["range"] = list(values)
    return ranged


def _log_domain(values: Sequence[float]) -> list[float]:
    """Space around the values: a tenth of their span, at least a fifth of an octave."""
    if not values:
        return [0.1, 1.0]
    low, high = min(values), max(values)
    margin = max((high / low) ** 0.1, 1.15)
    return [low / margin, high * margin]


def _log_scale(domain: list[float]) -> alt.Scale:
    return alt.Scale(type="log", domain=domain, nice=False)


def _inside(row: Row, domain: list[float]) -> Row:
    """A point of the fit, its band cut at the ends of the axis: a clip path would need an id."""
    cut = {name: min(max(row[name], domain[0]), domain[1]) for name in ("error", "low", "high")}
    return {**row, **cut}
