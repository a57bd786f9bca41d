"""How variants and families are drawn: the same colour, dash and point in every figure, and on the page."""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from hashlib import sha256
from typing import Any

import altair as alt

from timm_diffsens import registry
from timm_diffsens.registry import Look
from timm_diffsens.results.records.frames import curves_of
from timm_diffsens.schema.records import Record, built_in_variants, in_order

# Of D, G and R where all are in one chart, and of what has no variants.
MEASURES = {"d": "D (deformation)", "g": "G (noise)", "r": "R = D / G"}  # titles of axes
MEASURE_LOOKS = {
    "D": Look("#0072B2"),
    "G": Look("#D55E00", point="square"),
    "R": Look("#009E73", point="triangle-up"),
}
ACCENT = MEASURE_LOOKS["D"].colour
# Outlines of points, about 3.5 pixels to each side of 0, 0; the names are Vega's.
OUTLINES = {
    "circle": "M3.2,0A3.2,3.2,0,1,1,-3.2,0A3.2,3.2,0,1,1,3.2,0",
    "square": "M-3,-3h6v6h-6Z",
    "triangle-up": "M-3.8,3L0,-3.8L3.8,3Z",
    "diamond": "M0,-4.2L4.2,0L0,4.2L-4.2,0Z",
    "cross": "M-1,-3.6h2v2.6h2.6v2h-2.6v2.6h-2v-2.6h-2.6v-2h2.6Z",
    "triangle-down": "M-3.8,-3L0,3.8L3.8,-3Z",
    "triangle-left": "M3,-3.8L-3.8,0L3,3.8Z",
    "triangle-right": "M-3,-3.8L3.8,0L-3,3.8Z",
    "arrow": "M-1.2,4L-1.2,0L-3.4,0L0,-4.2L3.4,0L1.2,0L1.2,4Z",
    "wedge": "M0,-4.2L2,4L-2,4Z",
}
# Of variants that nothing is known of; none of them is that of a built-in one.
_COLOURS = ("#882255", "#7A7A1F", "#332288", "#CC6677", "#663300")
_DASHES = ((1, 2), (10, 2, 2, 2, 2, 2), (4, 2), (14, 3, 5, 3), (1, 5))
_POINTS = ("triangle-down", "wedge", "triangle-left", "arrow", "triangle-right")
# Of families, where nothing but points is drawn: those that are easiest to tell, filled or hollow.
_FAMILY_POINTS = ("circle", "square", "triangle-up", "diamond", "cross", "triangle-down", "triangle-left")
_OTHER_LOOK = Look("#5F6B7A", point="triangle-right")
OTHER_FAMILIES = "other families"  # the name of those that have no look of their own
MOST_FAMILIES = 24  # in a legend
_FEW = 150  # points of a scatter plot
_LETTER = 5.9  # width in the legend, points
_MOST_DASHES, _LONGEST_DASH = 8, 100
# Bundled with the renderer: text is measured, and charts are laid out, alike on every machine.
FONT = "Liberation Sans"
CONFIG: dict[str, Any] = {
    "background": "white",
    "font": FONT,
    "padding": 14,
    "view": {"stroke": "#ccc"},
    "title": {"anchor": "start", "frame": "group", "subtitleFontSize": 12, "offset": 12},
    "axis": {"labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": "normal", "gridColor": "#eee"},
}  # of charts with panels below a title
FONTLESS = {name: value for name, value in CONFIG.items() if name != "font"}  # of charts that go anywhere
WIDTH = 880  # of a row of panels, in points
MOST_POINTS = 40  # of a line whose every layer gets a full-size point and an error bar
Theme = Mapping[str, Look]  # how each variant is drawn, in order


def theme_of(variants: Iterable[str], known: Theme | None = None) -> dict[str, Look]:
    """How each of these variants is drawn, in order.

    A built-in one as it registered itself; another as `known` says; else with colour, dash and point of its
    own, chosen by its name. What would look like another variant is drawn in this last way too.
    """
    built_in = {entry.name: entry.look for entry in registry.built_ins("variants")}
    looks = {**(known or {}), **built_in}
    theme: dict[str, Look] = {}
    for name in in_order(variants):
        look = looks.get(name)
        if look is None or look in theme.values():
            free = _free_looks(name)
            look = next((other for other in free if other not in theme.values()), free[0])
        theme[name] = look
    return theme


def theme_of_records(records: Iterable[Record]) -> dict[str, Look]:
    """How the built-in variants, and all that these records have, are drawn."""
    variants = {*built_in_variants()}
    known: dict[str, Look] = {}
    for record in records:
        variants |= curves_of(record).keys() | record.spectra.keys()
        known = dict(_stated(record)) | known  # the first record that states it
    return theme_of(variants, known)


def _stated(record: Record) -> Iterator[tuple[str, Look]]:
    """What a record says of the looks of its variants, as far as it can be drawn."""
    for extension in record.extensions:
        look = extension.look
        if extension.kind != "variant" or look is None or look.point not in OUTLINES:
            continue
        if 0 < len(look.dash) <= _MOST_DASHES and all(0 <= part <= _LONGEST_DASH for part in look.dash):
            yield extension.name, Look(look.colour, look.dash, look.point)


def _free_looks(name: str) -> list[Look]:
    """Looks for a variant that nothing is known of; with which to begin follows from its name."""
    count = len(_COLOURS)
    begin = int(sha256(name.encode()).hexdigest(), 16)
    places = [((begin + turn) % count, turn // count) for turn in range(count * count)]
    return [Look(_COLOURS[i], _DASHES[(i + k) % count], _POINTS[(i + 2 * k) % count]) for i, k in places]


def family_looks(families: Iterable[str]) -> dict[str, Look]:
    """Looks for families of networks, the largest family first; the smallest share one if there are many.

    Args:
        families: that of each network.

    Returns:
        The look of each family, and of `OTHER_FAMILIES` where there are more than `MOST_FAMILIES`.
    """
    largest = [name for name, _ in Counter(sorted(families)).most_common()]
    if len(largest) <= MOST_FAMILIES:
        return numbered_looks(largest, _FAMILY_POINTS)
    named = [name for name in largest if name != OTHER_FAMILIES][: MOST_FAMILIES - 1]
    return {**numbered_looks(named, _FAMILY_POINTS), OTHER_FAMILIES: _OTHER_LOOK}


def in_legend(family: str, looks: Theme) -> str:
    """What a legend of these looks calls a family."""
    return family if family in looks else OTHER_FAMILIES


def numbered_looks(
    names: Sequence[str], shapes: Sequence[str] = ("circle", "square", "triangle-up", *_POINTS)
) -> dict[str, Look]:
    """Looks for things of which nothing is known but their order, all of them different."""
    colours = (*(look.colour for look in MEASURE_LOOKS.values()), *_COLOURS)
    dashes = ((1, 0), *_DASHES)
    count = len(colours)
    turns = [divmod(i, count) for i in range(len(names))]
    return {
        name: Look(colours[i], dashes[turn % len(dashes)], shapes[(i + turn) % len(shapes)])
        for name, (turn, i) in zip(names, turns, strict=True)
    }


def encodings(theme: Theme) -> dict[str, Any]:
    """Encodings that draw the variants of a chart, all of them, as the theme says."""

    def by_variant(values: Sequence[Any]) -> alt.Scale:
        return alt.Scale(domain=list(theme), range=list(values))

    colours = by_variant([look.colour for look in theme.values()])
    dashes = by_variant([list(look.dash) for look in theme.values()])
    points = by_variant([look.point for look in theme.values()])
    return {
        "color": alt.Color("variant:N", scale=colours, legend=None),
        "strokeDash": alt.StrokeDash("variant:N", scale=dashes, legend=None),
        "shape": alt.Shape("variant:N", scale=points, legend=None),
    }


def legend(theme: Theme, width: int = WIDTH, size: int = 12, *, lines: bool = True) -> Any:
    """Line, point and name of each variant; Vega's own legends show the point or the dashes, never both.

    Args:
        theme: how they are drawn. width: of a row, in points. size: of the text, in points.
        lines: whether there are lines; without them names stand closer together.
    """
    rows: list[dict[str, Any]] = []
    x, line, part = 0.0, 0, size / 12
    long, apart, least = (48, 6, 150) if lines else (14, 26, 80)
    for name in theme:
        wide = part * max(least, long + apart + _LETTER * len(name))
        if rows and x + wide > width:
            x, line = 0.0, line + 1
        ends = {"start": x, "middle": x + part * long / 2, "end": x + part * long}
        rows.append({"variant": name, **ends, "row": line})
        x += wide
    drawn, scale = encodings(theme), alt.Scale(domain=[0, width], nice=False)
    start, middle = (alt.X(f"{field}:Q", scale=scale, axis=None) for field in ("start", "middle"))
    base = alt.Chart(alt.Data(values=rows)).encode(color=drawn["color"])
    if line:
        base = base.encode(y=alt.Y("row:O", axis=None))
    rules = base.mark_rule(strokeWidth=2).encode(x=start, x2="end:Q", strokeDash=drawn["strokeDash"])
    points = base.mark_point(filled=True, size=50, opacity=1).encode(x=middle, shape=drawn["shape"])
    names = base.mark_text(
        align="left", dx=part * (6 + long / 2), fontSize=size, limit=max(width - 60, 40)
    ).encode(x=middle, text="variant:N", color=alt.value("#222"))
    height = 14 if not line else round(18 * part * (line + 1))
    return alt.layer(*([rules] if lines else []), points, names).properties(
        width=width, height=height, view=alt.ViewConfig(stroke=None)
    )


def point_size(count: int) -> int:
    """Area of a point, in square pixels, where there are so many that they hide one another or not."""
    return 48 if count <= _FEW else 24


def axis_ends(values: Sequence[float], span: float) -> tuple[float, float]:
    """Ends of a logarithmic axis around positive values, a factor of at least `span` apart.

    So that flat curves look flat.
    """
    middle, half = math.sqrt(min(values)) * math.sqrt(max(values)), math.sqrt(span)
    return min(*values, middle / half), max(*values, middle * half)


def spread_out(count: int, most: int) -> list[int]:
    """At most so many of `count` positions, the first and the last among them, evenly spread."""
    return list(range(count)) if count <= most else [round(i * (count - 1) / (most - 1)) for i in range(most)]


def named_data(name: str) -> alt.NamedData:
    """Rows that a chart has in its `datasets` as JSON text: lists would be copied with every part of it."""
    return alt.NamedData(name, format=alt.JsonDataFormat(type="json"))
