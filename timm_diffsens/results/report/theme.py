"""How a variant looks: the same colour, dash and point in every figure."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from timm_diffsens.schema.records import VARIANTS

# Told apart by colour (Okabe and Ito 2008), dash and point: full original and dashed shuffled as in Fig. 3,
# dotted initialisation as in Fig. 4.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#AA4499", "#555555"]
DASHES = [[1, 0], [7, 4], [9, 3, 2, 3], [12, 5], [2, 3]]
POINTS = ["circle", "square", "triangle-up", "diamond", "cross"]
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
WIDTH = 880  # of a row of panels, in points
MOST_POINTS = 40  # of a line whose every layer gets a full-size point and an error bar


def look(variants: Sequence[str]) -> dict[str, Any]:
    """Encodings that give a variant the same look in every figure."""
    present = [v for v in VARIANTS if v in variants]

    def by_variant(values: Sequence[Any]) -> alt.Scale:
        return alt.Scale(domain=present, range=[values[VARIANTS.index(v)] for v in present])

    return {
        "color": alt.Color("variant:N", scale=by_variant(COLOURS), legend=None),
        "strokeDash": alt.StrokeDash("variant:N", scale=by_variant(DASHES), legend=None),
        "shape": alt.Shape("variant:N", scale=by_variant(POINTS), legend=None),
    }


def legend(variants: Sequence[str]) -> Any:
    """Line, point and name of each variant; Vega's own legends show the point or the dashes, never both."""
    present = [v for v in VARIANTS if v in variants]
    rows = [
        {"variant": v, "start": 150 * i, "middle": 150 * i + 24, "end": 150 * i + 48}
        for i, v in enumerate(present)
    ]
    encodings, scale = look(present), alt.Scale(domain=[0, WIDTH], nice=False)
    x, middle = (alt.X(f"{field}:Q", scale=scale, axis=None) for field in ("start", "middle"))
    base = alt.Chart(alt.Data(values=rows)).encode(color=encodings["color"])
    lines = base.mark_rule(strokeWidth=2).encode(x=x, x2="end:Q", strokeDash=encodings["strokeDash"])
    points = base.mark_point(filled=True, size=50, opacity=1).encode(x=middle, shape=encodings["shape"])
    names = base.mark_text(align="left", dx=30, fontSize=12).encode(
        x=middle, text="variant:N", color=alt.value("#222")
    )
    return alt.layer(lines, points, names).properties(
        width=WIDTH, height=14, view=alt.ViewConfig(stroke=None)
    )


def named_data(name: str) -> alt.NamedData:
    """Rows that a chart has in its `datasets` as JSON text: lists would be copied with every part of it."""
    return alt.NamedData(name, format=alt.JsonDataFormat(type="json"))
