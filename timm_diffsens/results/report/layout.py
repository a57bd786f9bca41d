"""How wide a figure is, and how large its text: as wide as its panels, or as a column of a paper."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import altair as alt

from timm_diffsens.errors import UsageError
from timm_diffsens.results.report.theme import CONFIG, FONTLESS, WIDTH, Theme, legend

GAP = 28  # between two panels, in points
_POINTS = {"mm": 72 / 25.4, "cm": 72 / 2.54, "in": 72.0, "pt": 1.0}
_AROUND = 56  # points beside a panel: the axis on its left and the padding
_APART = 70  # what is between two panels of the usual width, with the axis
_NARROWEST = 40
_SMALL: dict[str, Any] = {  # of a column, whose caption says what a title would
    "padding": 3,
    "title": CONFIG["title"] | {"fontSize": 9, "offset": 4},
    "axis": CONFIG["axis"] | {"labelFontSize": 8, "titleFontSize": 9},
    "legend": {"orient": "top", "labelFontSize": 8},
    "axisY": {"minExtent": 34, "titlePadding": 2},  # however long the labels are, the panel begins here
}


@dataclass(frozen=True)
class Layout:
    """Widths and text of a figure.

    Attributes:
        column: width of the whole, `85mm` say; text is small then, and what the caption says is left out.
            By default panels have a width of their own.

    Raises:
        UsageError: not a width.
    """

    column: str | None = None

    def __post_init__(self) -> None:
        self._width()

    @property
    def text(self) -> int:
        """Size of what is written over panels, in points."""
        return 12 if self.column is None else 9

    def panel(self, count: int = 1, usual: int = 250) -> int:
        """Width of each of so many panels side by side, in points; `usual` where no column is asked for.

        Raises:
            UsageError: so many do not fit.
        """
        if self.column is None:
            return usual
        width = round((self._width() - GAP * (count - 1)) / count) - _AROUND
        if width < _NARROWEST:
            raise UsageError(
                f"--column {self.column} is too narrow for {count} panels: use --only r, or r,deformations"
            )
        return width

    def row(self, panels: int | None = None) -> int:
        """Width of what goes over so many panels, or over the widest row of them there is, in points."""
        if self.column is not None:
            return max(round(self._width()) - _AROUND, _NARROWEST)
        return WIDTH if panels is None else panels * self.panel() + (panels - 1) * _APART

    def legend(self, theme: Theme, panels: int | None = None, *, lines: bool = True) -> Any:
        """That of the theme, over so many panels."""
        return legend(theme, self.row(panels), self.text, lines=lines)

    def titled(self, chart: Any, title: str | alt.TitleParams) -> Any:
        """The chart with a title, where there is room for one."""
        return chart.properties(title=title) if self.column is None else chart

    def figure(
        self,
        parts: Sequence[Any],
        data: Mapping[str, Any],
        title: alt.TitleParams,
        *,
        spacing: int = 20,
        config: Mapping[str, Any] = FONTLESS,
    ) -> Any:
        """The parts one below the other; they name their data, which is in the chart only once."""
        shown = title if self.column is None else alt.TitleParams("")
        whole = alt.vconcat(*parts, spacing=spacing if self.column is None else 8, title=shown)
        whole["config"] = {**config, **({} if self.column is None else _SMALL)}
        whole["datasets"] = dict(data)
        return whole

    def _width(self) -> float:
        if self.column is None:
            return 0.0
        found = re.fullmatch(r"([0-9.]+) ?(mm|cm|in|pt)", self.column.strip())
        try:
            width = float(found[1]) * _POINTS[found[2]] if found else 0.0
        except ValueError:
            width = 0.0
        if not 0 < width <= 10_000:
            raise UsageError(f"--column must be a width such as 85mm, 3.4in or 240pt, got {self.column}")
        return width
