"""Charts with a panel for each network, layer or measure."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt
import pandas as pd

from timm_diffsens.results.report.theme import ACCENT, CONFIG, Theme, axis_ends, encodings, legend, theme_of

_LEAST_SPAN = 3.0  # of a logarithmic axis, a factor
_CONFIG = CONFIG | {"header": {"labelFontSize": 11, "labelLimit": 260}}


@dataclass(frozen=True)
class Panels:
    """What is drawn of a long table.

    Attributes:
        x, y: column, and title of the axis.
        panel: column with a panel for each of its values.
        log: whether y is logarithmic. Missing values, and zeros on such an axis, leave gaps.
        columns: panels in a row. side: width of a panel, in points.
    """

    x: tuple[str, str]
    y: tuple[str, str]
    panel: str
    title: str
    subtitle: str
    log: bool = False
    columns: int = 3
    side: int = 230

    def curves(self, table: pd.DataFrame, theme: Theme | None = None) -> alt.TopLevelMixin:
        """A line for each `variant`; with a column `<y>_stderr`, bars of one standard error.

        Args:
            table: the rows. theme: how they are drawn, if not as the variants of networks.
        """
        x, title = self.x
        at = alt.X(f"{x}:Q", title=title, scale=alt.Scale(zero=False, nice=False, padding=8))
        at = at.axis(grid=False, tickCount=5, format="~g")
        return self._by_variant(table.astype({x: float}), at, theme, lines=True)

    def points(self, table: pd.DataFrame, theme: Theme | None = None) -> alt.TopLevelMixin:
        """The same where x has names: no lines, and one y for all panels."""
        x, title = self.x
        order = list(dict.fromkeys(table[x]))
        at = alt.X(f"{x}:N", title=title or None, sort=order, axis=alt.Axis(labelAngle=-30))
        return self._by_variant(table, at, theme, lines=False)

    def _by_variant(
        self, table: pd.DataFrame, at: alt.X, theme: Theme | None, *, lines: bool
    ) -> alt.TopLevelMixin:
        (x, _), (y, y_title) = self.x, self.y
        rows, theme = self._rows(table), theme or theme_of(table["variant"])
        drawn = encodings(theme)
        scale = alt.Scale(type="log", nice=False, padding=8) if self.log else alt.Scale(zero=False, padding=8)
        axis = alt.Axis(tickCount=5, format="~g")
        height, low, room = (
            alt.Y(f"{name}:Q", title=y_title, scale=scale, axis=axis) for name in (y, "low", "room_low")
        )
        base = alt.Chart().encode(x=at, color=drawn["color"])
        points = base.mark_point(filled=True, size=26, opacity=1)
        tips = ["variant:N", f"{self.panel}:N", f"{x}:{'Q' if lines else 'N'}", f"{y}:Q"]
        layers = [points.encode(y=height, shape=drawn["shape"], tooltip=tips)]
        if lines:
            line = base.mark_line(strokeWidth=1.6)
            layers.insert(0, line.encode(y=height, strokeDash=drawn["strokeDash"]))
        if "low" in rows:
            layers.append(base.mark_rule(opacity=0.6).encode(y=low, y2="high:Q"))
        if self.log:
            layers.append(base.mark_rule(opacity=0).encode(y=room, y2="room_high:Q"))
        panels = self._faceted(alt.layer(*layers), rows)
        panels = panels.resolve_scale(y="independent") if lines else panels
        return _figure([legend(theme), panels], self.title, self.subtitle)

    def bars(self, table: pd.DataFrame) -> alt.TopLevelMixin:
        """A bar for each row: a representation over places."""
        (x, x_title), (y, y_title) = self.x, self.y
        at = alt.X(f"{x}:Q", title=x_title, axis=alt.Axis(grid=False, tickCount=5))
        height = alt.Y(f"{y}:Q", title=y_title, axis=alt.Axis(tickCount=4, format="~g"))
        bars = alt.Chart().mark_bar(color=ACCENT).encode(x=at, y=height)
        panels = self._faceted(bars, self._rows(table.astype({x: float})))
        panels = panels.resolve_scale(x="independent", y="independent")
        return _figure([panels], self.title, self.subtitle)

    def _rows(self, table: pd.DataFrame) -> pd.DataFrame:
        """What is shown; ends of error bars, and of an axis of at least half a decade around the values."""
        (x, _), (y, _) = self.x, self.y
        rows: pd.DataFrame = table[[name for name in (x, y, self.panel, "variant") if name in table]].copy()
        if self.log:
            rows[y] = rows[y].where(rows[y] > 0)
        if f"{y}_stderr" in table:
            low, rows["high"] = rows[y] - table[f"{y}_stderr"], rows[y] + table[f"{y}_stderr"]
            rows["low"] = low.clip(rows[y] / 100) if self.log else low
        for _, values in rows[y].dropna().groupby(rows[self.panel]) if self.log else ():
            ends = axis_ends(values.tolist(), _LEAST_SPAN)
            rows.loc[values.index[0], ["room_low", "room_high"]] = ends
        return rows

    def _faceted(self, layers: Any, rows: pd.DataFrame) -> Any:
        plain = rows.astype(object).where(rows.notna(), None).to_dict("records")
        whole = layers.properties(width=self.side, height=self.side * 0.8, data=alt.Data(values=plain))
        order = rows[self.panel].drop_duplicates().to_list()
        facet = alt.Facet(f"{self.panel}:N", title=None, sort=order)
        return whole.facet(facet, columns=self.columns, spacing=18)


def pixel_panels(images: Sequence[tuple[str, Any]], title: str, subtitle: str) -> alt.TopLevelMixin:
    """Small images side by side, a square a pixel.

    Args:
        images: (name, array (h, w, 3) of 0 to 255).
        title, subtitle: above them.
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


def _figure(parts: list[Any], title: str, subtitle: str) -> Any:
    text = alt.TitleParams(title, subtitle=[subtitle], fontSize=16)
    whole = alt.vconcat(*parts, spacing=22, title=text)
    whole["config"] = _CONFIG
    return whole
