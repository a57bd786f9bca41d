"""Panels of filter spectra: Figs 4 and 12 of arXiv 2210.01506."""

from typing import Any

import altair as alt

from timm_diffsens.results.records.frames import Row
from timm_diffsens.results.report.layout import Layout
from timm_diffsens.results.report.theme import MOST_POINTS, Theme, axis_ends, encodings, spread_out
from timm_diffsens.schema.layers import Spectrum
from timm_diffsens.schema.records import Record

_MOST_PANELS = 12
_PANEL, _APART = 176, 220  # width of one, and from one to the next, in points
_LEAST_SPAN = 10.0  # of an axis of power
_HEAD, _TAIL = 18, 7  # of a long layer name


def spectrum_rows(record: Record, theme: Theme, layout: Layout) -> list[Any]:
    """Filter power gamma against mode order, a panel a convolution; and the mean frequency of each.

    As in Figs 4 and 12 of arXiv 2210.01506: full lines trained, dotted lines at initialisation. At most
    twelve convolutions get a panel, spread evenly over depth.
    """
    drawn = encodings({v: theme[v] for v in record.spectra if record.spectra[v]})
    return [_mode_panels(record, drawn, layout), _frequency_panel(record, drawn, layout)]


def _mode_panels(record: Record, drawn: dict[str, Any], layout: Layout) -> Any:
    count = len(convolutions(record))
    shown = min(count, _MOST_PANELS)
    left_out = f" ({shown} of {count} convolutions)" if shown < count else ""
    title = f"Filter power against mode order, low to high frequency{left_out}"
    x = alt.X("mode:Q", title=None, scale=alt.Scale(nice=False, zero=False))
    x = x.axis(tickCount=4, tickMinStep=1, format="d", grid=False, labelFlush=False)
    scale = alt.Scale(type="log", nice=False, padding=8)
    axis = alt.Axis(tickCount=3, format="~e", grid=False)
    y, low = (alt.Y(f"{field}:Q", title="gamma", scale=scale, axis=axis) for field in ("power", "low"))
    span = alt.Chart().transform_filter("isValid(datum.low)").mark_rule(opacity=0)
    span = span.encode(x=x, y=low, y2="high:Q")
    panel = _lines(x, y, drawn, ["layer:N", "mode:Q", "eigenvalue:Q", "power:Q"], size=14)
    panels = alt.layer(span, panel).properties(width=_PANEL, height=96, data=alt.NamedData("modes"))
    header = alt.Header(labelFontSize=11)
    facet = alt.Facet("panel:N", title=None, sort=alt.SortField("position"), header=header)
    panels = panels.facet(facet, columns=max(layout.row() // _APART, 1), spacing=14)
    panels = panels.resolve_scale(x="independent", y="independent")
    return layout.titled(panels, alt.TitleParams(title, fontSize=13))


def _frequency_panel(record: Record, drawn: dict[str, Any], layout: Layout) -> Any:
    scale = alt.Scale(nice=False, zero=False, padding=10)
    x = alt.X("position:Q", title="convolution, in order", scale=scale)
    count = len(convolutions(record))
    few = {"values": list(range(1, count + 1))} if count <= _MOST_PANELS else {}
    x = x.axis(tickMinStep=1, format="d", grid=False, **few)
    y = alt.Y("frequency:Q", title="mean frequency")
    size = 8 if count > MOST_POINTS else 30
    chart = _lines(x, y, drawn, ["layer:N", "kernel:N", "frequency:Q"], size)
    title = alt.TitleParams("Power-weighted mean eigenvalue of the grid Laplacian", fontSize=13)
    panel = chart.properties(width=layout.row(), height=150, data=alt.NamedData("frequencies"))
    return layout.titled(panel, title)


def _lines(x: alt.X, y: alt.Y, drawn: dict[str, Any], tips: list[str], size: int) -> Any:
    base = alt.Chart().encode(x=x, y=y, color=drawn["color"])
    lines = base.mark_line(strokeWidth=1.6).encode(strokeDash=drawn["strokeDash"])
    points = base.mark_point(filled=True, size=size, opacity=1)
    return alt.layer(lines, points.encode(shape=drawn["shape"], tooltip=["variant:N", *tips]))


def spectrum_data(record: Record) -> dict[str, list[Row]]:
    """The data of those panels, by the names under which they look for it."""
    return {"modes": _mode_rows(record), "frequencies": _frequency_rows(record)}


def convolutions(record: Record) -> list[Spectrum]:
    """Those with a spectrum, in order."""
    spectra: list[Spectrum] = next(filter(None, record.spectra.values()), [])
    return [spectrum for spectrum in spectra if spectrum.power]


def _mode_rows(record: Record) -> list[Row]:
    names = [s.layer for s in convolutions(record)]
    drawn = {names[i]: i + 1 for i in spread_out(len(names), _MOST_PANELS)}
    rows: list[Row] = [
        {
            "variant": variant,
            "layer": s.layer,
            "panel": f"{drawn[s.layer]}. {_shortened(s.layer)}",
            "position": drawn[s.layer],
            "mode": mode,
            "eigenvalue": eigenvalue,
            "power": power or None,
        }
        for variant, spectra in record.spectra.items()
        for s in spectra
        if s.layer in drawn
        for mode, (eigenvalue, power) in enumerate(zip(s.eigenvalues, s.power, strict=True), start=1)
    ]
    for position in drawn.values():
        panel = [row for row in rows if row["position"] == position]
        powers = [row["power"] for row in panel if row["power"]]
        if powers:
            panel[0]["low"], panel[0]["high"] = axis_ends(powers, _LEAST_SPAN)
    return rows


def _frequency_rows(record: Record) -> list[Row]:
    position = {s.layer: i for i, s in enumerate(convolutions(record), start=1)}
    return [
        {
            "variant": variant,
            "layer": s.layer,
            "position": position[s.layer],
            "kernel": " x ".join(map(str, s.kernel)),
            "frequency": s.mean_frequency,
        }
        for variant, spectra in record.spectra.items()
        for s in spectra
        if s.layer in position
    ]


def _shortened(name: str) -> str:
    """Long module paths lose their middle; the block's number, near the front, stays."""
    return name if len(name) <= _HEAD + _TAIL + 1 else f"{name[:_HEAD]}…{name[-_TAIL:]}"
