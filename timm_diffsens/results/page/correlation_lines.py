"""The page's line charts: a correlation against depth, or against the noise on the images, by variant."""

import json
from collections.abc import Sequence
from hashlib import sha256

import altair as alt

from timm_diffsens.results.numbers import PAGE
from timm_diffsens.results.page.svg import axis, inline_svg
from timm_diffsens.results.records.frames import Row
from timm_diffsens.results.report.theme import Theme, encodings, named_data
from timm_diffsens.schema.records import built_in_variants


def correlation_lines(rows: Sequence[Row], field: str, title: str, label: str, theme: Theme) -> str:
    """A correlation against depth, or against the size of the noise: a line for each variant.

    Args:
        rows: `variant`, the x field, `pearson`; `pearson_low` and `pearson_high`, or None, for a band, which
            only the original gets: more than one would hide each other.
        field: of the x axis.
        title: of the x axis.
        label: text alternative.
        theme: how all variants of the page are drawn.
    """
    present = {v: look for v, look in theme.items() if any(row["variant"] == v for row in rows)}
    drawn = encodings(present)
    colour = alt.Scale(domain=list(present), range=[f"var(--{style_name(v)})" for v in present])
    drawn["color"] = alt.Color("variant:N", scale=colour, legend=None)
    x = alt.X(f"{field}:Q", title=title, scale=alt.Scale(nice=False, domainMin=0), axis=axis("~g"))
    domain, rho_axis = alt.Scale(domain=[-1, 1]), axis("~g", [-1, -0.5, 0, 0.5, 1])
    y, low = (
        alt.Y(f"{name}:Q", title="correlation ρ", scale=domain, axis=rho_axis)
        for name in ("pearson", "pearson_low")
    )
    data = [{**row, "i": str(i)} for i, row in enumerate(rows)]
    base = alt.Chart(named_data("rows")).encode(x=x, color=drawn["color"])
    band = base.transform_filter("datum.variant == 'original' && isValid(datum.pearson_low)")
    band = band.mark_area(opacity=0.15).encode(y=low, y2="pearson_high:Q")
    zero = alt.Chart(alt.Data(values=[{"y": 0}])).mark_rule(color="currentColor", opacity=0.5).encode(y="y:Q")
    line = base.mark_line(strokeWidth=1.6).encode(y=y, strokeDash=drawn["strokeDash"])
    points = base.mark_point(filled=True, size=34, opacity=1).properties(name="points")
    points = points.encode(y=y, shape=drawn["shape"], description="i:N")
    chart = alt.layer(band, zero, line, points)
    chart["datasets"] = {"rows": json.dumps(data)}
    return inline_svg(chart, label, [_spoken(row, field) for row in rows])


def style_name(variant: str) -> str:
    """What a variant is called in style sheets: its name, if it is a plain one."""
    if variant in built_in_variants():
        return variant
    return f"other-{sha256(variant.encode()).hexdigest()[:12]}"


def _spoken(row: Row, field: str) -> dict[str, str]:
    low, high = row["pearson_low"], row["pearson_high"]
    limits = "" if low is None or high is None else f", 95 % interval {PAGE.interval(low, high)}"
    place = {"depth": "depth", "sigma": "noise"}[field]
    return {
        "data-tip": f"{row['variant']}, {place} {row[field]:g}: ρ = {PAGE.decimals(row['pearson'])}{limits}"
    }
