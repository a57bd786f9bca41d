"""Altair charts of one record: one specification for PNG, SVG, PDF and the page."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import altair as alt

from timm_diffsens.errors import UsageError
from timm_diffsens.results.records.frames import Row, layers_frame, rows_of
from timm_diffsens.results.records.per_image import PerImage
from timm_diffsens.results.report.curves import (
    bar,
    depth_axis,
    depth_panels,
    depth_rows,
    log_scale,
    many,
    with_bars,
)
from timm_diffsens.results.report.layout import Layout
from timm_diffsens.results.report.size_chart import size_charts, size_rows
from timm_diffsens.results.report.spectrum_chart import convolutions, spectrum_data, spectrum_rows
from timm_diffsens.results.report.theme import MEASURES, Theme, encodings, numbered_looks, theme_of_records
from timm_diffsens.results.stats.sizes import by_size
from timm_diffsens.schema.records import Record

PANELS = (*MEASURES, "deformations", "equivariance", "sizes", "spectra")
_OF_VARIANTS = {"depth", "equivariance", "spectra"}  # whose lines are those of the first legend
_Drawn = tuple[list[Any], dict[str, list[Row]]]  # charts, one below the other, and their data


def record_figure(
    record: Record,
    distances: PerImage | None = None,
    only: Sequence[str] = (),
    column: str | None = None,
) -> alt.TopLevelMixin:
    """D, G and R against relative depth, then whatever else was measured, and filter spectra.

    Where there are further deformations, the original network under each of them has panels of its own.
    Axes of sensitivities are logarithmic, with a line for each variant; bars (a band for more than forty
    layers) reach one standard error to either side. A null, or a zero, leaves a gap. For the spectra see
    `spectrum_rows`. Panels name their data, which is in the chart only once.

    Args:
        record: what to draw.
        distances: of single images, for a paired test of the sizes.
        only: some of `PANELS`. d, g and r are those over depth; beside `deformations`, those of that row.
        column: width of the figure, `85mm` say; by default panels have a width of their own.

    Raises:
        UsageError: panels that the record does not have, or a column that is too narrow.
    """
    theme, layout = theme_of_records([record]), Layout(column)
    parts = _parts(record, distances, theme, layout, [name for name in MEASURES if name in only])
    asked = _asked(record, only, list(parts))
    rows: list[Any] = []
    data: dict[str, list[Row]] = {}
    alone = len(only) if only and asked == ["depth"] else None
    if _OF_VARIANTS & {*asked}:
        drawn = {*record.variants, *(record.spectra if "spectra" in asked else ())}
        rows = [layout.legend({v: look for v, look in theme.items() if v in drawn}, alone)]
    for name in asked:
        charts, values = parts[name]()
        rows, data = rows + charts, data | values
    note = f"{'bands' if many(record.variants) else 'bars'}: one standard error; gaps: layers without a value"
    said = _described(record) if alone == 1 else [" · ".join(_described(record))]
    title = alt.TitleParams(record.model.spec, subtitle=[*said, note], fontSize=16)
    whole = layout.figure(rows, data, title, spacing=30)
    apart: dict[str, Any] = dict.fromkeys(("color", "strokeDash", "shape"), "independent")
    resolved: alt.TopLevelMixin = whole.resolve_scale(**apart)  # variants, deformations, layers: each its own
    return resolved


def _asked(record: Record, only: Sequence[str], parts: list[str]) -> list[str]:
    """Parts of the figure; d, g and r are over depth, unless they say of what the deformations are.

    Raises:
        UsageError: the record does not have one.
    """
    if not only:
        return parts
    asked = [name for name in only if name not in MEASURES]
    if len(asked) < len(only) and "deformations" not in asked:
        asked = ["depth", *asked]
    for name in asked:
        if name not in parts:
            there = ", ".join([*MEASURES, *(part for part in parts if part != "depth")])
            raise UsageError(
                f"{record.model.spec} has no panel {name}, which was not measured: choose of {there}"
            )
    return asked


def _described(record: Record) -> list[str]:
    """What was measured on what."""
    data, protocol, error = record.data, record.protocol, record.test_error
    parts = [
        f"{data.spec}, n = {data.n} images of {record.model.input.height} x {record.model.input.width}",
        protocol.deformation_text,
        f"corruption sigma = {protocol.corruption_sigma:g}" if protocol.corruption_sigma else "",
        f"weights: {record.model.weights.source}",
        "" if error.value is None else f"test error {error.value:.1%} ({error.source})",
    ]
    return [part for part in parts if part]


def _parts(
    record: Record, distances: PerImage | None, theme: Theme, layout: Layout, measures: list[str]
) -> dict[str, Callable[[], _Drawn]]:
    """What the record has, in order, by name: a function that draws it."""
    shown = measures or list(MEASURES)
    parts: dict[str, Callable[[], _Drawn]] = {"depth": partial(_depth, record, theme, layout, shown)}
    if record.further:
        parts["deformations"] = partial(_deformations, record, layout, shown)
    moved = [row for row in rows_of(layers_frame([record])) if row["e"]] if record.equivariance else []
    if moved:
        parts["equivariance"] = partial(_equivariance, moved, theme, layout)
    sizes = size_rows(by_size(record, distances))
    if sizes:
        side = record.protocol.reference_side
        parts["sizes"] = lambda: (size_charts(sizes, side, layout), {"sizes": sizes})
    if convolutions(record):
        parts["spectra"] = lambda: (spectrum_rows(record, theme, layout), spectrum_data(record))
    return parts


def _depth(record: Record, theme: Theme, layout: Layout, measures: list[str]) -> _Drawn:
    panels = depth_panels("depth", record.variants, theme, measures, layout.panel(len(measures)))
    return [panels], {"depth": depth_rows(record.variants)}


def _deformations(record: Record, layout: Layout, measures: list[str]) -> _Drawn:
    """The original network under each deformation."""
    under = {view.protocol.deformation_text: view.variants["original"] for view in record.views()}
    looks = numbered_looks(list(under))
    panels = depth_panels("deformations", under, looks, measures, layout.panel(len(measures)))
    charts = [layout.legend(looks), layout.titled(panels, "original, under each deformation")]
    return charts, {"deformations": depth_rows(under)}


def _equivariance(moved: list[Row], theme: Theme, layout: Layout) -> _Drawn:
    """E of the layers that have a map against relative depth."""
    drawn = encodings({v: theme[v] for v in dict.fromkeys(row["variant"] for row in moved)})
    base = alt.Chart(alt.NamedData("equivariance")).encode(x=depth_axis(), color=drawn["color"])
    bars, line, at = with_bars(base, "e", "E", log_scale(row["e"] for row in moved), drawn)
    tips = ["variant:N", "layer:N", "depth:Q", "e:Q", "e_stderr:Q"]
    points = at.mark_point(filled=True, size=34, opacity=1).encode(shape=drawn["shape"], tooltip=tips)
    panel = alt.layer(bars, line, points).properties(width=layout.panel(), height=min(layout.panel(), 250))
    titled = layout.titled(panel, "equivariance E: near 0 the map moves with the image")
    rows = [
        {name: row[name] for name in ("variant", "layer", "depth")} | bar("e", row["e"], row["e_stderr"])
        for row in moved
    ]
    return [titled], {"equivariance": rows}
