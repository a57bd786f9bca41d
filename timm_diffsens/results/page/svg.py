"""A chart as inline SVG that takes the page's colours; it shows without JavaScript, and in print.

The script only adds hover and selection to the points. Colours are CSS variables, so that one drawing serves
light and dark.
"""

import re
from collections.abc import Sequence
from typing import Any
from xml.etree import ElementTree

import altair as alt

from timm_diffsens.printable import spelt_out
from timm_diffsens.results.report.export import FigureError, render
from timm_diffsens.results.report.theme import FONT

WIDTH, HEIGHT = 250, 210  # of the plotted area, in CSS pixels where the chart is not scaled
_MARGINS = (54, 8, 14, 40)  # left, above, right and below, for ticks and titles
_NOISE = re.compile(r"aria-|role$|pointer-events$|font-family$|stroke-miterlimit$|version$|class$")
_PLACE = re.compile(r"-?[\d.]+(?:e[+-]?\d+)?")  # Vega writes 1e-14 where it means nothing
_LONG_NUMBER = re.compile(r"-?\d+\.\d{3,}")


def inline_svg(chart: Any, label: str, points: Sequence[dict[str, str]], names: Sequence[str] = ()) -> str:
    """A chart as `<svg>` for the inside of a page: scalable, and with what the script needs at its points.

    Every text of a user's goes in here, through the XML library, and not through the chart.

    Args:
        chart: its layer named "points" has each point's number as its description; of layers whose name
            begins with "names" the texts are numbers, and the lines of those with "bars" are put together.
        label: text alternative.
        points: attributes of each, by number.
        names: texts, by number; not spoken, as the points have names.
    """
    sized = chart.properties(width=WIDTH, height=HEIGHT).configure(**_CONFIG)
    try:
        drawn = render(sized, "svg").decode()
    except FigureError:  # it is reported where the charts' files are written
        return '<p class="chart">not drawn on this machine</p>'
    root = ElementTree.fromstring(drawn)  # noqa: S314 the renderer's own output, a moment old
    said = [{name: spelt_out(text) for name, text in point.items()} for point in points]
    for group in list(root.iter()):
        marks = group.get("class", "")
        if "points_marks" in marks:
            for path in group:
                path.attrib |= {"kept-class": "point", **said[int(path.attrib["aria-label"])]}
        elif " bars" in marks:
            _put_together(group)
        elif " names" in marks:
            for text in group:
                text.text = spelt_out(names[int(text.text or "")])
                text.attrib |= {"kept-class": "label", "kept-aria-hidden": "true"}
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]  # inside HTML the namespace goes without saying
        kept = {
            k.removeprefix("kept-"): _shortened(k, v)
            for k, v in element.attrib.items()
            if not _NOISE.match(k)
        }
        element.attrib.clear()
        element.attrib.update(kept)
    for name in ("width", "height"):
        del root.attrib[name]
    root.attrib["viewBox"] = _frame(root)
    root.attrib |= {"class": "chart", "role": "img", "aria-label": spelt_out(label)}
    return ElementTree.tostring(root, encoding="unicode")


def _put_together(group: ElementTree.Element) -> None:
    """One path for all lines of a colour: a board of hundreds has thousands of error bars."""
    paths: dict[str, str] = {}
    for line in group:
        (x, y), colour = _PLACE.findall(line.attrib["transform"]), line.attrib["stroke"]
        step = f"h{float(across):.1f}" if (across := line.get("x2", "0")) != "0" else ""
        down = f"v{float(line.get('y2', '0')):.1f}" if not step else ""
        paths[colour] = paths.get(colour, "") + f"M{float(x):.1f},{float(y):.1f}{step}{down}"
    tag = group.tag.replace("}g", "}path")
    for line in list(group):
        group.remove(line)
    for colour, path in paths.items():
        ElementTree.SubElement(group, tag, {"kept-class": "bar", "stroke": colour, "d": path})


def axis(form: str, ticks: Sequence[float] | None = None) -> alt.Axis:
    """An axis of the page: number format, and its ticks, five or so where they are not given."""
    chosen: dict[str, Any] = {"tickCount": 5} if ticks is None else {"values": list(ticks)}
    return alt.Axis(format=form, labelFlush=False, **chosen)


def _frame(root: ElementTree.Element) -> str:
    """The same margins around the plotted area in every chart, so that those side by side are of one size."""
    place = next(element.attrib["transform"] for element in root.iter() if "transform" in element.attrib)
    left, top = map(float, _PLACE.findall(place))
    before, above, beside, below = _MARGINS
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


def _shortened(name: str, value: str) -> str:
    """Two decimals of a pixel are enough for a place."""
    if name not in ("d", "transform"):
        return value
    return _LONG_NUMBER.sub(lambda match: f"{float(match[0]):.2f}", value)
