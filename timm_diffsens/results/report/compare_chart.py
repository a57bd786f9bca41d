"""Several records over one another: D, G and R against relative depth."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from timm_diffsens.results.report.curves import depth_panels, depth_rows
from timm_diffsens.results.report.layout import Layout
from timm_diffsens.results.report.theme import numbered_looks
from timm_diffsens.results.stats.paired import Compared, uniquely_named


def compare_figure(
    sides: Sequence[Compared], measures: Sequence[str] = "dgr", column: str | None = None
) -> alt.TopLevelMixin:
    """An overlay of the records, with a line each; bars reach one standard error to either side.

    Args:
        sides: the records.
        measures: which of d, g and r have a panel.
        column: width of the figure, `85mm` say; by default panels of 250 points.

    Raises:
        UsageError: not a width, or one that is too narrow.
    """
    names: dict[str, Any] = {side.name: side.layers for side in uniquely_named(sides)}
    looks, layout = numbered_looks(list(names)), Layout(column)
    shown = [measure for measure in "dgr" if measure in measures]
    panels = depth_panels("depth", names, looks, shown, layout.panel(len(shown)))
    first = sides[0].record
    subtitle = (
        f"{first.data.title or first.data.spec}, {first.protocol.deformation_text}; bars: one standard error"
    )
    whole: alt.TopLevelMixin = layout.figure(
        [layout.legend(looks, len(shown)), panels],
        {"depth": depth_rows(names)},
        alt.TitleParams("", subtitle=subtitle),
    )
    return whole
