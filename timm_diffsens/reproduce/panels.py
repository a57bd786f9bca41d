"""Charts with a panel for each network, layer or measure."""

from collections.abc import Sequence
from typing import Any

import altair as alt
import pandas as pd

from timm_diffsens.results.records.frames import Row
from timm_diffsens.results.report.theme import ACCENT, CONFIG, axis_ends, encodings, legend, theme_of

_LEAST_SPAN = 3.0  # of a logarithmic axis, a factor

_CONFIG = CONFIG | {"header": {"labelFontSize": 11, "labelLimit": 260}}


def curve_panels(
    table: pd.DataFrame,
    x: str,
    y: str,
    panel: str,
    *,
    title: str,
    subtitle: str = "",
    x_title: str,
    y_title: str,
    log: bool = True,
    columns: int = 3,
    side: int = 230,
) -> alt.TopLevelMixin:
    """A line a variant in each panel; with a column `<y>_stderr`, bars of one standard error.

    Args:
        table: long: columns `variant`, x, y and `panel`. Missing values, and zeros on
            a logarithmic axis, leave gaps.
    """
    rows = _rows(table, [x, y, panel], log)
    theme = theme_of(row["variant"] for row in rows)
    drawn = encodings(theme)
    at = alt.X(f"{x}:Q", title=x_title, scale=alt.Scale(zero=False, nice=False, padding=8))
    at = at.axis(grid=False, tickCount=5, format="~g")
    scale = alt.Scale(type="log", nice=False, padding=8) if log else alt.Scale(zero=False, padding=8)

    def height(name: str) -> Any:
        return alt.Y(f"{name}:Q", title=y_title, scale=scale, axis=alt.Axis(tickCount=5, format="~g"))

    base = alt.Chart().encode(x=at, color=drawn["color"])
    layers = [base.mark_line(strokeWidth=1.6).encode(y=height(y), strokeDash=drawn["strokeDash"])]
    points = base.mark_point(filled=True, size=26, opacity=1)
    tips = ["variant:N", f"{panel}:N", f"{x}:Q", f"{y}:Q"]
    layers.append(points.encode(y=height(y), shape=drawn["shape"], tooltip=tips))
    if f"{y}_stderr" in table:
        layers.append(base.mark_rule(opacity=0.6).encode(y=height("low"), y2="high:Q"))
    if log:
        _add_room(rows, y, panel)
        layers.append(base.mark_rule(opacity=0).encode(y=height("room_low"), y2="room_high:Q"))
    panels = _faceted(alt.layer(*layers), rows, panel, columns, side).resolve_scale(y="independent")
    return _figure([legend(theme), panels], title, subtitle)


def _add_room(rows: list[Row], y: str, panel: str) -> None:
    """Ends of an axis of at least half a decade around each panel's values."""
    for name in {row[panel] for row in rows}:
        own = [row for row in rows if row[panel] == name]
        values = [row[y] for row in own if row[y] is not None]
        if values:
            low, high = axis_ends(values, _LEAST_SPAN)
            own[0] |= {"room_low": low, "room_high": high}


def bar_panels(
    table: pd.DataFrame,
    x: str,
    y: str,
    panel: str,
    *,
    title: str,
    subtitle: str = "",
    x_title: str,
    y_title: str,
    columns: int = 4,
    side: int = 190,
) -> alt.TopLevelMixin:
    """Bars in each panel: a representation over places."""
    rows = _rows(table, [x, y, panel], log=False)
    bars = alt.Chart().mark_bar(color=ACCENT)
    at = alt.X(f"{x}:Q", title=x_title, axis=alt.Axis(grid=False, tickCount=5))
    bars = bars.encode(x=at, y=alt.Y(f"{y}:Q", title=y_title, axis=alt.Axis(tickCount=4, format="~g")))
    panels = _faceted(bars, rows, panel, columns, side)
    return _figure([panels.resolve_scale(x="independent", y="independent")], title, subtitle)


def pixel_panels(images: Sequence[tuple[str, Any]], *, title: str, subtitle: str = "") -> alt.TopLevelMixin:
    """Small images side by side, a square a pixel.

    Args:
        images: (name, array (h, w, 3) of 0 to 255).
    """
    panels = []
    for name, array in images:
        height, width = array.shape[:2]
        rows = [
            {"x": i, "y": j, "colour": "#{:02x}{:02x}{:02x}".format(*map(int, array[j, i]))}
            for j in range(height)
            for i in range(width)
        ]
        marks = alt.Chart(alt.Data(values=rows)).mark_rect(strokeWidth=0)
        marks = marks.encode(
            x=alt.X("x:O", axis=None), y=alt.Y("y:O", axis=None), color=alt.Color("colour:N", scale=None)
        )
        panels.append(marks.properties(width=160, height=160 * height / width, title=name))
    return _figure([alt.hconcat(*panels, spacing=16)], title, subtitle)


def _faceted(layers: Any, rows: list[Row], panel: str, columns: int, side: int) -> Any:
    order = list(dict.fromkeys(row[panel] for row in rows))
    whole = layers.properties(width=side, height=side * 0.8, data=alt.Data(values=rows))
    return whole.facet(alt.Facet(f"{panel}:N", title=None, sort=order), columns=columns, spacing=18)


def _rows(table: pd.DataFrame, names: list[str], log: bool) -> list[Row]:
    """Plain values; null for what is missing or cannot be shown; ends of error bars."""
    x, y, panel = names
    rows = []
    for record in table.to_dict("records"):
        value = record[y]
        shown = None if pd.isna(value) or (log and value <= 0) else float(value)
        row: Row = {
            x: float(record[x]),
            y: shown,
            panel: str(record[panel]),
            "variant": record.get("variant"),
        }
        spread = record.get(f"{y}_stderr")
        if shown is not None and spread is not None and not pd.isna(spread):
            row |= {
                "low": max(shown - spread, shown / 100) if log else shown - spread,
                "high": shown + spread,
            }
        rows.append(row)
    return rows


def _figure(parts: list[Any], title: str, subtitle: str) -> Any:
    text = alt.TitleParams(title, subtitle=[subtitle] if subtitle else [], fontSize=16)
    whole = alt.vconcat(*parts, spacing=22, title=text)
    whole["config"] = _CONFIG
    return whole
