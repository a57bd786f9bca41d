"""The chart of a training: how the curves over depth change from epoch to epoch."""

from collections.abc import Mapping, Sequence

import altair as alt

from timm_diffsens.registry import Look
from timm_diffsens.results.report.curves import depth_panels, depth_rows
from timm_diffsens.results.report.layout import Layout
from timm_diffsens.results.report.theme import MEASURES, spread_out
from timm_diffsens.schema.layers import LayerSensitivity

# Viridis from light to dark, without its yellow, which cannot be seen on white.
_EPOCHS = ("#A5DB36", "#5CC863", "#2DB27D", "#20928C", "#2C728E", "#3D4E8A", "#482475", "#2B0B3A")


def training_figure(
    epochs: Mapping[int, list[LayerSensitivity]], measures: Sequence[str] = tuple(MEASURES), title: str = ""
) -> alt.TopLevelMixin:
    """Some of D, G and R over relative depth, a line for an epoch, early ones light and late ones dark.

    Of more than eight epochs eight are drawn, evenly spread, the first and the last among them.

    Args:
        epochs: epoch -> layers, in order.
        measures: some of `d`, `g` and `r`.
        title: of the figure.
    """
    known = list(epochs)
    shown = [known[place] for place in spread_out(len(known), len(_EPOCHS))]
    curves = {f"epoch {epoch}": epochs[epoch] for epoch in shown}
    colours = [_EPOCHS[place] for place in _spread(len(shown))]
    looks = {name: Look(colour) for name, colour in zip(curves, colours, strict=True)}
    layout = Layout()
    panels = depth_panels("depth", curves, looks, measures, layout.panel(len(measures)))
    heading = alt.TitleParams(title, subtitle="bars: one standard error", fontSize=16)
    figure: alt.TopLevelMixin = layout.figure(
        [layout.legend(looks, len(measures)), panels], {"depth": depth_rows(curves)}, heading
    )
    return figure


def _spread(count: int) -> list[int]:
    """So many of the colours; the last one is the darkest."""
    last = len(_EPOCHS) - 1
    return [last] if count == 1 else [round(place * last / (count - 1)) for place in range(count)]
