"""Several records over one another: D, G and R against relative depth."""

import re
from collections.abc import Sequence
from typing import Any

import altair as alt

from timm_diffsens.errors import UsageError
from timm_diffsens.results.report.record_chart import depth_panels, depth_rows
from timm_diffsens.results.report.theme import FONTLESS, legend, numbered_looks
from timm_diffsens.results.stats.paired import Compared, uniquely_named

_POINTS = {"mm": 72 / 25.4, "cm": 72 / 2.54, "in": 72.0, "pt": 1.0}
_PANEL, _GAP, _AROUND = 250, 28, 70  # points: of a panel, between two, of axes and padding


def compare_figure(
    sides: Sequence[Compared], measures: str = "dgr", column: str | None = None
) -> alt.TopLevelMixin:
    """An overlay of the records, with a line each; bars reach one standard error to either side.

    Args:
        sides: the records.
        measures: which of d, g and r have a panel.
        column: width of the figure, `85mm` say; by default panels of 250 points.

    Raises:
        UsageError: not a width.
    """
    names: dict[str, Any] = {side.name: side.layers for side in uniquely_named(sides)}
    looks = numbered_looks(list(names))
    shown = [measure for measure in "dgr" if measure in measures]
    width = _PANEL
    if column is not None:
        width = round((_points(column) - _GAP * (len(shown) - 1)) / len(shown) - _AROUND)
        if width < 40:
            raise UsageError(f"--column {column} is too narrow for {len(shown)} panels: use --only r")
    panels = depth_panels("depth", names, looks, shown, width)
    first = sides[0].record
    subtitle = (
        f"{first.data.title or first.data.spec}, {first.protocol.deformation_text}; bars: one standard error"
    )
    total = max(len(shown) * (width + _AROUND) - _AROUND, 60)
    title = alt.TitleParams("", subtitle=subtitle) if column is None else alt.TitleParams("")
    whole = alt.vconcat(legend(looks, total), panels, spacing=20, title=title)
    whole["config"] = FONTLESS
    whole["datasets"] = {"depth": depth_rows(names)}
    return whole


def _points(width: str) -> float:
    found = re.fullmatch(r"([0-9.]+) ?(mm|cm|in|pt)", width.strip())
    try:
        number = float(found[1]) if found else 0.0
    except ValueError:
        number = 0.0
    if not found or not 0 < number * _POINTS[found[2]] <= 10_000:
        raise UsageError(f"--column must be a width such as 85mm, 3.4in or 240pt, got {width}")
    return number * _POINTS[found[2]]
