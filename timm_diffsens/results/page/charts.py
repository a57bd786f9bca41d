"""The overview charts of the page: Altair specifications, drawn here as SVG that the page's colours fit.

The charts stand in the page as they are, so they show without JavaScript and in print; the script only adds
hover and selection to their points. Colours are CSS variables, so that one drawing serves light and dark.
"""

import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Any
from xml.etree import ElementTree

import altair as alt

from timm_diffsens.results.numbers import PAGE
from timm_diffsens.results.report.export import render
from timm_diffsens.results.report.theme import FONT, Theme, encodings, named_data
from timm_diffsens.schema.records import built_in_variants

Rows = Sequence[dict[str, Any]]

WIDTH, HEIGHT = 250, 210  # of the plotted area, in CSS pixels where the chart is not scaled
_ROOM = (54, 8, 14, 40)  # left, above, right and below, for ticks and titles
_FEWEST_TICKS = 3
# Every how many powers of ten, and which multiples of them; tenths are the closest.
_STEPS: list[tuple[int, Sequence[float]]] = [
    *((every, [1]) for every in (4, 2, 1)),
    *((1, factors) for factors in ([1, 3], [1, 2, 5], [1, 1.5, 2, 3, 5, 7])),
    *((1, [tenths / 10 for tenths in range(10, 100, step)]) for step in (5, 2, 1)),
]
_NOISE = re.compile(r"aria-|role$|pointer-events$|font-family$|stroke-miterlimit$|version$|class$")
_PLACE = re.compile(r"-?[\d.]+")
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")


@dataclass(frozen=True)
class Dot:
    """A network in a scatter plot."""

    point: str  # id that the chart's point and the table's rows share
    x: float
    error: float
    in_fit: bool
    tip: str


def scatter(dots: Sequence[Dot], fit: Rows, title: str, errors: Sequence[float], label: str) -> str:
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
    scale, axis = _log_scale(domain), _axis(".2~%", log_ticks(*domain))
    x = alt.X("x:Q", title=title, scale=_log_scale(x_domain), axis=_axis(".2~g", log_ticks(*x_domain)))
    y, low, line = (
        alt.Y(f"{field}:Q", title="test error", scale=scale, axis=axis) for field in ("y", "low", "error")
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


def lines(rows: Rows, field: str, title: str, label: str, theme: Theme) -> str:
    """A correlation against depth, or against the size of the noise: a line for each variant.

    Args:
        rows: `variant`, the x field, `pearson`; `pearson_low` and `pearson_high`, or None, for a band, which
            only the original gets: more than one would hide each other.
        field: of the x axis.
        title: of the x axis.
        label: text alternative.
        theme: how all variants of the page are drawn.
    """
    present = {v: look for v, look in theme.items() if any(row["variant"] == v for row in rows)}
    drawn = encodings(present)
    colour = alt.Scale(domain=list(present), range=[f"var(--{style_name(v)})" for v in present])
    drawn["color"] = alt.Color("variant:N", scale=colour, legend=None)
    x = alt.X(f"{field}:Q", title=title, scale=alt.Scale(nice=False, domainMin=0), axis=_axis("~g"))
    domain, axis = alt.Scale(domain=[-1, 1]), _axis("~g", [-1, -0.5, 0, 0.5, 1])
    y, low = (
        alt.Y(f"{name}:Q", title="correlation ρ", scale=domain, axis=axis)
        for name in ("pearson", "pearson_low")
    )
    data = [{**row, "i": str(i)} for i, row in enumerate(rows)]
    base = alt.Chart(named_data("rows")).encode(x=x, color=drawn["color"])
    band = base.transform_filter("datum.variant == 'original' && isValid(datum.pearson_low)")
    band = band.mark_area(opacity=0.15).encode(y=low, y2="pearson_high:Q")
    zero = alt.Chart(alt.Data(values=[{"y": 0}])).mark_rule(color="currentColor", opacity=0.5).encode(y="y:Q")
    line = base.mark_line(strokeWidth=1.6).encode(y=y, strokeDash=drawn["strokeDash"])
    points = base.mark_point(filled=True, size=34, opacity=1).properties(name="points")
    points = points.encode(y=y, shape=drawn["shape"], description="i:N")
    chart = alt.layer(band, zero, line, points)
    chart["datasets"] = {"rows": json.dumps(data)}
    return inline_svg(chart, label, [_spoken(row, field) for row in rows])


def style_name(variant: str) -> str:
    """What a variant is called in style sheets: its name, if it is a plain one."""
    if variant in built_in_variants():
        return variant
    return f"other-{sha256(variant.encode()).hexdigest()[:12]}"


def inline_svg(chart: Any, label: str, points: Sequence[dict[str, str]]) -> str:
    """A chart as `<svg>` for the inside of a page: scalable, and with what the script needs at its points.

    Every text of a user's goes in here, through the XML library, and not through the chart.

    Args:
        chart: its layer named "points" has each point's number as its description.
        label: text alternative.
        points: attributes of each, by number.
    """
    sized = chart.properties(width=WIDTH, height=HEIGHT).configure(**_CONFIG)
    drawn = render(sized, "svg").decode()
    root = ElementTree.fromstring(drawn)  # noqa: S314 the renderer's own output, a moment old
    for group in root.iter():
        if "points_marks" in group.get("class", ""):
            for path in group:
                path.attrib |= points[int(path.attrib["aria-label"])]
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]  # inside HTML the namespace goes without saying
        kept = {k: _shortened(k, v) for k, v in element.attrib.items() if not _NOISE.match(k)}
        if "data-tip" in kept:
            kept["class"] = "point"
        element.attrib.clear()
        element.attrib.update(kept)
    for name in ("width", "height"):
        del root.attrib[name]
    root.attrib["viewBox"] = _frame(root)
    root.attrib |= {"class": "chart", "role": "img", "aria-label": label}
    return ElementTree.tostring(root, encoding="unicode")


def _frame(root: ElementTree.Element) -> str:
    """The same room around the plotted area in every chart, so that those side by side are of one size."""
    place = next(element.attrib["transform"] for element in root.iter() if "transform" in element.attrib)
    left, top = map(float, _PLACE.findall(place))
    before, above, beside, below = _ROOM
    x, y = left - before, top - above
    return f"{x:g} {y:g} {before + WIDTH + beside} {above + HEIGHT + below}"


_CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": FONT,  # for the layout; the page shows its own
    "padding": 4,
    "view": {"stroke": "currentColor", "strokeOpacity": 0.25},
    "axis": {
        "labelFontSize": 11,
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "labelColor": "currentColor",
        "titleColor": "currentColor",
        "domain": False,
        "gridColor": "currentColor",
        "gridOpacity": 0.1,
        "tickColor": "currentColor",
        "tickOpacity": 0.4,
    },
    "axisY": {"minExtent": 34, "maxExtent": 34},
}


def _spoken(row: dict[str, Any], field: str) -> dict[str, str]:
    low, high = row["pearson_low"], row["pearson_high"]
    limits = "" if low is None or high is None else f", 95 % interval {PAGE.interval(low, high)}"
    place = {"depth": "depth", "sigma": "noise"}[field]
    return {
        "data-tip": f"{row['variant']}, {place} {row[field]:g}: ρ = {PAGE.decimals(row['pearson'])}{limits}"
    }


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


def _axis(form: str, ticks: Sequence[float] | None = None) -> alt.Axis:
    chosen: dict[str, Any] = {"tickCount": 5} if ticks is None else {"values": list(ticks)}
    return alt.Axis(format=form, labelFlush=False, **chosen)


def _ranged(scale: alt.Scale, values: Sequence[str]) -> alt.Scale:
    ranged = scale.copy()
    ranged["range"] = list(values)
    return ranged


def _log_domain(values: Sequence[float]) -> list[float]:
    """Room around the values: a tenth of their span, at least a fifth of an octave."""
    if not values:
        return [0.1, 1.0]
    low, high = min(values), max(values)
    room = max((high / low) ** 0.1, 1.15)
    return [low / room, high * room]


def _log_scale(domain: list[float]) -> alt.Scale:
    return alt.Scale(type="log", domain=domain, nice=False)


def _inside(row: dict[str, Any], domain: list[float]) -> dict[str, Any]:
    """A point of the fit, its band cut at the ends of the axis: a clip path would need an id."""
    cut = {name: min(max(row[name], domain[0]), domain[1]) for name in ("error", "low", "high")}
    return {**row, **cut}


def _shortened(name: str, value: str) -> str:
    """Two decimals of a pixel are enough for a place."""
    if name not in ("d", "transform"):
        return value
    return _LONG_NUMBER.sub(lambda match: f"{float(match[0]):.2f}", value)
