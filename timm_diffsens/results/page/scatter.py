"""The page's scatter plots: test error against D, G or R."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import numpy as np

from timm_diffsens.printable import spelt_out
from timm_diffsens.registry import Look
from timm_diffsens.results.page.svg import HEIGHT, WIDTH, axis, inline_svg
from timm_diffsens.results.records.frames import Row
from timm_diffsens.results.report.outliers import LogFrame, furthest, name_marks, name_rows, short_name
from timm_diffsens.results.report.theme import named_data, point_size, spread_out

Ends = tuple[float, float]  # of an axis
MOST_DOTS = 600
_NAME_SIZE = 10  # of the names' font, as in page.css
_FEWEST_TICKS = 3
# Every how many powers of ten, and which multiples of them; tenths are the closest.
_STEPS: list[tuple[int, Sequence[float]]] = [
    *((every, [1]) for every in (4, 2, 1)),
    *((1, factors) for factors in ([1, 3], [1, 2, 5], [1, 1.5, 2, 3, 5, 7])),
    *((1, [tenths / 10 for tenths in range(10, 100, step)]) for step in (5, 2, 1)),
]


@dataclass(frozen=True)
class Dot:
    """A network in a scatter plot.

    Attributes:
        point: id that the chart's point and the table's rows share.
        model, tip: its name, and what is said of it.
        x, error: positive. x_bar, error_bar: one standard error to both sides of them.
        in_fit: or else it is drawn hollow.
        look: how its family is drawn.
    """

    point: str
    model: str
    x: float
    error: float
    x_bar: tuple[float, float]
    error_bar: tuple[float, float]
    in_fit: bool
    look: Look
    tip: str


def scatter(dots: Sequence[Dot], fit: Sequence[Row], title: str, errors: Sequence[float], label: str) -> str:
    """Test error against one measure, both logarithmic, with the fitted power law and its 95 % band.

    The networks of the fit that are furthest from the line have their names beside them.

    Args:
        dots: networks; of more than `MOST_DOTS` some are drawn.
        fit: rows of `x`, `error`, `low`, `high`, ascending in `x`; may be empty.
        title: of the x axis.
        errors: all errors that the y axis must span; the same in charts side by side.
        label: text alternative.
    """
    ordered = sorted(dots, key=lambda dot: (dot.x, dot.point))
    named = _furthest(ordered) if fit else []
    others = [place for place in range(len(ordered)) if place not in named]
    spread = spread_out(len(others), MOST_DOTS - len(named))
    kept = sorted([*named, *(others[place] for place in spread)])
    drawn = [ordered[place] for place in kept]
    domain, x_domain = _log_domain(errors), _log_domain([dot.x for dot in ordered])
    texts = [(kept.index(place), short_name(spelt_out(ordered[place].model))) for place in named]
    frame = LogFrame(x_domain, domain, WIDTH, HEIGHT)
    names = name_rows([(dot.x, dot.error) for dot in drawn], texts, frame, _NAME_SIZE)
    chart = alt.layer(*_layers(title, x_domain, domain, len(drawn)))
    chart["datasets"] = {
        "fit": json.dumps([_inside(row, domain) for row in fit]),
        "dots": json.dumps([_row(i, dot, x_domain, domain) for i, dot in enumerate(drawn)]),
        "names": json.dumps([{**row, "text": str(i)} for i, row in enumerate(names)]),
    }
    said = [{"data-point": dot.point, "data-tip": dot.tip} for dot in drawn]
    return inline_svg(chart, label, said, [row["text"] for row in names])


def _layers(title: str, x_domain: Ends, domain: Ends, count: int) -> list[Any]:
    """Band and line of the law, error bars, so many points, names; the data: `fit`, `dots` and `names`."""
    x_of = {"title": title, "scale": _log_scale(x_domain), "axis": axis(".2~g", log_ticks(*x_domain))}
    y_of = {"title": "test error", "scale": _log_scale(domain), "axis": axis(".2~%", log_ticks(*domain))}
    x, x_low = (alt.X(f"{field}:Q", **x_of) for field in ("x", "x_low"))
    y, y_low, low, error = (alt.Y(f"{field}:Q", **y_of) for field in ("y", "y_low", "low", "error"))
    curve = alt.Chart(named_data("fit")).encode(x=x)
    base = alt.Chart(named_data("dots")).encode(stroke=_as_given(alt.Stroke, "stroke"))
    bars = base.mark_rule()
    points = base.mark_point(size=point_size(count), opacity=1, strokeWidth=1.2).properties(name="points")
    names = name_marks(alt.Chart(named_data("names")).encode(x=x, y=y), _NAME_SIZE)
    return [
        curve.mark_area(color="var(--ink)", opacity=0.12).encode(y=low, y2="high:Q"),
        curve.mark_line(color="var(--ink)", strokeWidth=1.4).encode(y=error),
        bars.encode(x=x_low, x2="x_high:Q", y=y).properties(name="bars-across"),
        bars.encode(x=x, y=y_low, y2="y_high:Q").properties(name="bars-upright"),
        points.encode(
            x=x,
            y=y,
            description="i:N",
            shape=_as_given(alt.Shape, "shape"),
            fill=_as_given(alt.Fill, "fill"),
        ),
        *(layer.properties(name=f"names-{place}") for place, layer in enumerate(names)),
    ]


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


def look_style(look: Look) -> str:
    """What the colour of a look is called in style sheets."""
    return f"look-{look.colour[1:].lower()}"


def _furthest(ordered: Sequence[Dot]) -> list[int]:
    """The networks of the fit that lie furthest from its line."""
    fitted = [place for place, dot in enumerate(ordered) if dot.in_fit]
    x, y = (np.log([getattr(ordered[place], name) for place in fitted]) for name in ("x", "error"))
    return [fitted[place] for place in furthest(x, y)]


def _row(number: int, dot: Dot, x_domain: Ends, domain: Ends) -> Row:
    colour = f"var(--{look_style(dot.look)})"
    (x_low, x_high), (y_low, y_high) = _cut(dot.x_bar, x_domain), _cut(dot.error_bar, domain)
    return {
        "i": str(number),
        "x": dot.x,
        "y": dot.error,
        "x_low": x_low,
        "x_high": x_high,
        "y_low": y_low,
        "y_high": y_high,
        "stroke": colour,
        "fill": colour if dot.in_fit else "var(--paper)",
        "shape": dot.look.point,
    }


def _as_given(channel: Any, field: str) -> Any:
    """A channel whose field holds what is drawn: no text of a user's is among it."""
    return channel(f"{field}:N", scale=None, legend=None)


def _log_domain(values: Sequence[float]) -> Ends:
    """Space around the values: a tenth of their span, at least a fifth of an octave."""
    if not values:
        return 0.1, 1.0
    low, high = min(values), max(values)
    margin = max((high / low) ** 0.1, 1.15)
    return low / margin, high * margin


def _log_scale(domain: Ends) -> alt.Scale:
    return alt.Scale(type="log", domain=list(domain), nice=False)


def _inside(row: Row, domain: Ends) -> Row:
    """A point of the fit, its band cut at the ends of the axis: a clip path would need an id."""
    return {**row, **{name: _cut([row[name]], domain)[0] for name in ("error", "low", "high")}}


def _cut(values: Sequence[float], domain: Ends) -> list[float]:
    return [min(max(value, domain[0]), domain[1]) for value in values]
