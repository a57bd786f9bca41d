"""R against the size of the deformation, for some layers of one record."""

from typing import Any

import altair as alt
import pandas as pd

from timm_diffsens.results.records.frames import Row, rows_of
from timm_diffsens.results.report.theme import encodings, legend, numbered_looks, spread_out

_LINES = 5  # layers that are drawn, the first and the output among them


def size_rows(table: pd.DataFrame) -> list[Row]:
    """A row a layer and size, of at most five layers; `variant` is the name of the layer."""
    layers = list(dict.fromkeys(zip(table["index"], table["layer"], strict=True)))
    chosen = {layers[place] for place in spread_out(len(layers), _LINES)}
    rows = []
    for row in rows_of(table):
        if (row["index"], row["layer"]) in chosen and row["r"]:
            spread = row["r_stderr"] or 0.0
            ends = {"low": max(row["r"] - spread, row["r"] / 100), "high": row["r"] + spread}
            names = ("delta", "r", "r_stderr", "linear")
            rows.append({"variant": row["layer"], **{name: row[name] for name in names}, **ends})
    return rows


def size_chart(rows: list[Row], data: str, side: int | None) -> Any:
    """The chart and its legend; filled points are in the linear regime.

    Args:
        rows: of `size_rows`, which are in the chart's data of the name `data`.
        side: at which delta is in pixels; None for that of the input.
    """
    looks = numbered_looks(list(dict.fromkeys(row["variant"] for row in rows)))
    drawn = encodings(looks)
    deltas = [row["delta"] for row in rows]
    span = alt.Scale(type="log", domain=[min(deltas) / 1.2, max(deltas) * 1.2], nice=False)
    unit = "pixels" if side is None else f"pixels at a side of {side}"
    x = alt.X("delta:Q", title=f"delta, {unit}", scale=span, axis=alt.Axis(format="~g", tickCount=5))
    values = [row["r"] for row in rows]
    scale = alt.Scale(type="log", domain=[min(values) / 1.5, max(values) * 1.5], nice=False)
    axis = alt.Axis(tickCount=5, format="~g")
    base = alt.Chart(alt.NamedData(data)).encode(x=x, color=drawn["color"])
    y = alt.Y("r:Q", title="R = D / G", scale=scale, axis=axis)
    bars = base.mark_rule(opacity=0.7, clip=True).encode(y=alt.Y("low:Q", scale=scale), y2="high:Q")
    lines = base.mark_line(strokeWidth=1.6, clip=True).encode(y=y, strokeDash=drawn["strokeDash"])
    tips = ["variant:N", "delta:Q", "r:Q", "r_stderr:Q"]
    hollow = base.mark_point(filled=False, size=40, opacity=1).encode(y=y, shape=drawn["shape"], tooltip=tips)
    full = base.transform_filter("datum.linear").mark_point(filled=True, size=40, opacity=1)
    panel = alt.layer(bars, lines, hollow, full.encode(y=y, shape=drawn["shape"])).properties(
        width=400, height=250, title="R against the size of the deformation; filled: in the linear regime"
    )
    return alt.vconcat(legend(looks), panel, spacing=12)
