"""R against the size of the deformation, for some layers of one record."""

from typing import Any

import altair as alt
import pandas as pd

from timm_diffsens.results.records.frames import Row, rows_of
from timm_diffsens.results.report.curves import bar, log_scale, with_bars
from timm_diffsens.results.report.layout import Layout
from timm_diffsens.results.report.theme import MEASURES, encodings, numbered_looks, spread_out

_LINES = 5  # layers that are drawn, the first and the output among them


def size_rows(table: pd.DataFrame) -> list[Row]:
    """A row a layer and size, of at most five layers; `variant` is the name of the layer."""
    layers = list(dict.fromkeys(zip(table["index"], table["layer"], strict=True)))
    chosen = {layers[place] for place in spread_out(len(layers), _LINES)}
    return [
        {"variant": row["layer"], "delta": row["delta"], "linear": row["linear"]}
        | bar("r", row["r"], row["r_stderr"])
        for row in rows_of(table)
        if (row["index"], row["layer"]) in chosen and row["r"]
    ]


def size_charts(rows: list[Row], side: int | None, layout: Layout) -> list[Any]:
    """A legend and the chart; filled points are in the linear regime, by `by_size`.

    Args:
        rows: of `size_rows`, which are in the chart's data of the name `sizes`.
        side: at which delta is in pixels; None for that of the input.
        layout: of the figure.
    """
    looks = numbered_looks(list(dict.fromkeys(row["variant"] for row in rows)))
    drawn = encodings(looks)
    span = log_scale([row["delta"] for row in rows], 1.2)
    unit = "pixels" if side is None else f"pixels at a side of {side}"
    x = alt.X("delta:Q", title=f"delta, {unit}", scale=span, axis=alt.Axis(format="~g", tickCount=5))
    base = alt.Chart(alt.NamedData("sizes")).encode(x=x, color=drawn["color"])
    scale = log_scale(row["r"] for row in rows)
    bars, line, at = with_bars(base, "r", MEASURES["r"], scale, drawn)
    tips = ["variant:N", "delta:Q", "r:Q", "r_stderr:Q"]
    points = at.encode(shape=drawn["shape"], tooltip=tips)
    full = points.transform_filter("datum.linear").mark_point(filled=True, size=40, opacity=1)
    width = layout.panel(usual=400)
    panel = alt.layer(bars, line, points.mark_point(filled=False, size=40, opacity=1), full)
    panel = panel.properties(width=width, height=min(width, 250))
    title = "R against the size of the deformation; filled: in the linear regime"
    return [layout.legend(looks), layout.titled(panel, title)]
