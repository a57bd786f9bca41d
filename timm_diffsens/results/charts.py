"""Altair charts of one record: one specification for PNG, SVG, PDF and the page."""

from collections.abc import Sequence
from typing import Any

import altair as alt

from timm_diffsens.errors import UsageError
from timm_diffsens.results.record import VARIANTS, Layer, Record, Spectrum

Row = dict[str, Any]

# Told apart by colour (Okabe and Ito 2008), dash and point: full original and dashed shuffled as in Fig. 3,
# dotted initialisation as in Fig. 4.
COLOURS = ["#0072B2", "#D55E00", "#009E73", "#AA4499", "#555555"]
DASHES = [[1, 0], [7, 4], [9, 3, 2, 3], [14, 4], [2, 3]]
POINTS = ["circle", "square", "triangle-up", "diamond", "cross"]
MEASURES = {"d": "D (deformation)", "g": "G (noise)", "r": "R = D / G"}
_MOST_BARS = (
    40  # layers: beyond, error bars would touch; a band takes their place, and every k-th has a point
)
_WIDTH = 880  # of a row, in points
_MOST_PANELS = 12  # of filter spectra
_HEAD, _TAIL = 18, 7  # of a long layer name


def depth_chart(record: Record) -> alt.TopLevelMixin:
    """D, G and R against relative depth on logarithmic axes, a line for each variant.

    Bars (a band for more than forty layers) reach one standard error to either side. A null, or a zero,
    leaves a gap.
    """
    return _figure(record, [_depth_row(record)], _note_on_bars(record))


def spectrum_chart(record: Record) -> alt.TopLevelMixin:
    """Filter power gamma against mode order, a panel a convolution, and the mean frequency of each.

    As in Figs 4 and 12 of arXiv 2210.01506: full lines trained, dotted lines at initialisation. At most
    twelve convolutions get a panel, spread evenly over depth.

    Raises:
        UsageError: the record has no filter spectra.
    """
    if not has_spectra(record):
        raise UsageError(f"{record.model.spec} has no filter spectra: no convolution larger than 1 x 1")
    return _figure(record, _spectrum_rows(record))


def record_figure(record: Record) -> alt.TopLevelMixin:
    """Everything about one record: depth curves, then filter spectra where there are any."""
    rows = [_depth_row(record), *(_spectrum_rows(record) if has_spectra(record) else [])]
    return _figure(record, rows, _note_on_bars(record))


def has_spectra(record: Record) -> bool:
    """Whether there is a filter spectrum to draw."""
    return bool(_convolutions(record))


def describe(record: Record) -> str:
    """What was measured on what, in one line."""
    data, protocol, error = record.data, record.protocol, record.test_error
    parts = [
        f"{data.spec}, n = {data.n} images of {record.model.input.height} x {record.model.input.width}",
        f"delta = {protocol.delta:g} px, cut = {protocol.cut}",
        f"weights: {record.model.weights.source}",
    ]
    if protocol.corruption_sigma:
        parts.insert(2, f"corruption sigma = {protocol.corruption_sigma:g}")
    if error.value is not None:
        parts.append(f"test error {error.value:.1%} ({error.source})")
    return " · ".join(parts)


def _figure(record: Record, rows: Sequence[Any], *notes: str) -> Any:
    title = alt.TitleParams(record.model.spec, subtitle=[describe(record), *notes], fontSize=16)
    whole = alt.vconcat(_legend([*record.variants, *record.spectra]), *rows, spacing=30).properties(
        title=title
    )
    styled = whole.configure(background="white", padding=14)
    styled = styled.configure_view(stroke="#ccc")
    styled = styled.configure_title(anchor="start", frame="group", subtitleFontSize=12, offset=12)
    return styled.configure_axis(
        labelFontSize=11, titleFontSize=12, titleFontWeight="normal", gridColor="#eee"
    )


# ---- sensitivities over depth


def _depth_row(record: Record) -> Any:
    data = alt.Data(values=_depth_rows(record))
    return alt.hconcat(*(_depth_panel(record, data, measure) for measure in MEASURES), spacing=28)


def _depth_panel(record: Record, data: alt.Data, measure: str) -> Any:
    look = _look(list(record.variants))
    x = alt.X("depth:Q", title="relative depth", scale=alt.Scale(domain=[0, 1]))
    x = x.axis(grid=False, labelFlush=False, tickCount=5, format="~g")
    axis, scale = alt.Axis(tickCount=5, format="~g"), _log_scale(record, measure)
    y, low = (
        alt.Y(f"{field}:Q", title=MEASURES[measure], scale=scale, axis=axis)
        for field in (measure, f"{measure}_low")
    )
    base = alt.Chart(data).encode(x=x, color=look["color"])
    spread = (
        base.mark_area(opacity=0.18, clip=True) if _many(record) else base.mark_rule(opacity=0.7, clip=True)
    )
    spread = spread.encode(y=low, y2=f"{measure}_high:Q")
    lines = base.mark_line(strokeWidth=1.6, clip=True).encode(y=y, strokeDash=look["strokeDash"])
    points = base.transform_filter("datum.marked").mark_point(filled=True, size=34, opacity=1)
    tips = ["variant:N", "layer:N", "depth:Q", f"{measure}:Q", f"{measure}_stderr:Q"]
    points = points.encode(y=y, shape=look["shape"], tooltip=tips)
    return alt.layer(spread, lines, points).properties(width=250, height=250)


def _depth_rows(record: Record) -> list[Row]:
    """One row a variant and layer. What a logarithmic axis cannot show (null, zero) is null: a gap."""
    rows = []
    for variant, layers in record.variants.items():
        every = max(round(len(layers) / 15), 1) if _many(record) else 1
        for layer in layers:
            alone = all(_is_gap(layers, layer.index + step) for step in (-1, 1))
            row: Row = {"variant": variant, "layer": layer.layer, "depth": layer.depth}
            row["marked"] = alone or layer.index % every == 0 or layer is layers[-1]
            for measure in MEASURES:
                row |= _bar(measure, getattr(layer, measure), getattr(layer, f"{measure}_stderr"))
            rows.append(row)
    return rows


def _bar(measure: str, value: float | None, stderr: float | None) -> Row:
    if not value:
        return dict.fromkeys((measure, f"{measure}_stderr", f"{measure}_low", f"{measure}_high"))
    spread = stderr or 0.0
    low = max(value - spread, value / 100)  # a bar that reaches zero leaves the axis, which ends above
    return {
        measure: value,
        f"{measure}_stderr": stderr,
        f"{measure}_low": low,
        f"{measure}_high": value + spread,
    }


def _is_gap(layers: list[Layer], index: int) -> bool:
    return not 0 <= index < len(layers) or layers[index].r is None


def _log_scale(record: Record, measure: str) -> alt.Scale:
    """Around the values, not their error bars."""
    values = [v for layers in record.variants.values() for layer in layers if (v := getattr(layer, measure))]
    domain = [min(values) / 1.5, max(values) * 1.5] if values else [0.1, 10]
    return alt.Scale(type="log", domain=domain, nice=False)


def _many(record: Record) -> bool:
    return max(map(len, record.variants.values()), default=0) > _MOST_BARS


def _note_on_bars(record: Record) -> str:
    return f"{'bands' if _many(record) else 'bars'}: one standard error; gaps: layers without a value"


# ---- filter spectra


def _spectrum_rows(record: Record) -> list[Any]:
    variants = [v for v in record.spectra if record.spectra[v]]
    return [_mode_panels(record, variants), _frequency_panel(record, variants)]


def _mode_panels(record: Record, variants: Sequence[str]) -> Any:
    count = len(_convolutions(record))
    shown = len(_spread_out(count))
    left_out = f" ({shown} of {count} convolutions)" if shown < count else ""
    title = alt.TitleParams(f"Filter power against mode order, low to high frequency{left_out}", fontSize=13)
    x = alt.X("mode:Q", title=None, scale=alt.Scale(nice=False, zero=False))
    x = x.axis(tickCount=4, tickMinStep=1, format="d", grid=False, labelFlush=False)
    y = alt.Y("power:Q", title="gamma", scale=alt.Scale(type="log", nice=False, padding=8))
    y = y.axis(tickCount=3, format="~e", grid=False)
    panel = _lines(x, y, variants, ["layer:N", "mode:Q", "eigenvalue:Q", "power:Q"], size=14)
    panels = panel.properties(width=176, height=96, data=alt.Data(values=_mode_rows(record))).facet(
        alt.Facet("panel:N", title=None, sort=alt.SortField("position"), header=alt.Header(labelFontSize=11)),
        columns=4,
        spacing=14,
    )
    return panels.resolve_scale(x="independent", y="independent").properties(title=title)


def _frequency_panel(record: Record, variants: Sequence[str]) -> Any:
    x = alt.X(
        "position:Q", title="convolution, in order", scale=alt.Scale(nice=False, zero=False, padding=10)
    )
    x = x.axis(tickMinStep=1, format="d", grid=False)
    y = alt.Y("frequency:Q", title="mean frequency")
    size = 8 if len(_convolutions(record)) > _MOST_BARS else 30
    chart = _lines(x, y, variants, ["layer:N", "kernel:N", "frequency:Q"], size)
    title = alt.TitleParams("Power-weighted mean eigenvalue of the grid Laplacian", fontSize=13)
    return chart.properties(
        width=_WIDTH, height=150, title=title, data=alt.Data(values=_frequency_rows(record))
    )


def _lines(x: alt.X, y: alt.Y, variants: Sequence[str], tips: list[str], size: int) -> Any:
    look = _look(variants)
    base = alt.Chart().encode(x=x, y=y, color=look["color"])
    lines = base.mark_line(strokeWidth=1.6).encode(strokeDash=look["strokeDash"])
    points = base.mark_point(filled=True, size=size, opacity=1)
    return alt.layer(lines, points.encode(shape=look["shape"], tooltip=["variant:N", *tips]))


def _convolutions(record: Record) -> list[Spectrum]:
    spectra = record.spectra.get("original") or record.spectra.get("init") or []
    return [spectrum for spectrum in spectra if spectrum.power]


def _mode_rows(record: Record) -> list[Row]:
    names = [s.layer for s in _convolutions(record)]
    drawn = {names[i]: i + 1 for i in _spread_out(len(names))}
    return [
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


def _frequency_rows(record: Record) -> list[Row]:
    position = {s.layer: i for i, s in enumerate(_convolutions(record), start=1)}
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


# ---- looks


def _look(variants: Sequence[str]) -> dict[str, Any]:
    """Encodings that give a variant the same look in every figure."""
    present = [v for v in VARIANTS if v in variants]

    def by_variant(values: Sequence[Any]) -> alt.Scale:
        return alt.Scale(domain=present, range=[values[VARIANTS.index(v)] for v in present])

    return {
        "color": alt.Color("variant:N", scale=by_variant(COLOURS), legend=None),
        "strokeDash": alt.StrokeDash("variant:N", scale=by_variant(DASHES), legend=None),
        "shape": alt.Shape("variant:N", scale=by_variant(POINTS), legend=None),
    }


def _legend(variants: Sequence[str]) -> Any:
    """Line, point and name of each variant; Vega's own legends show the point or the dashes, never both."""
    present = [v for v in VARIANTS if v in variants]
    rows = [
        {"variant": v, "start": 150 * i, "middle": 150 * i + 18, "end": 150 * i + 36}
        for i, v in enumerate(present)
    ]
    look, scale = _look(present), alt.Scale(domain=[0, _WIDTH], nice=False)
    x, middle = (alt.X(f"{field}:Q", scale=scale, axis=None) for field in ("start", "middle"))
    base = alt.Chart(alt.Data(values=rows)).encode(color=look["color"])
    lines = base.mark_rule(strokeWidth=2).encode(x=x, x2="end:Q", strokeDash=look["strokeDash"])
    points = base.mark_point(filled=True, size=50, opacity=1).encode(x=middle, shape=look["shape"])
    names = base.mark_text(align="left", dx=24, fontSize=12).encode(
        x=middle, text="variant:N", color=alt.value("#222")
    )
    return alt.layer(lines, points, names).properties(
        width=_WIDTH, height=14, view=alt.ViewConfig(stroke=None)
    )


def _spread_out(count: int) -> list[int]:
    """At most twelve of `count` positions, first and last among them, evenly spread."""
    if count <= _MOST_PANELS:
        return list(range(count))
    return [round(i * (count - 1) / (_MOST_PANELS - 1)) for i in range(_MOST_PANELS)]


def _shortened(name: str) -> str:
    """Long module paths lose their middle; the block's number, near the front, stays."""
    return name if len(name) <= _HEAD + _TAIL + 1 else f"{name[:_HEAD]}…{name[-_TAIL:]}"
