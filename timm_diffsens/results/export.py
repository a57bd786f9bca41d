"""Charts as files."""

import io
import re
from pathlib import Path
from typing import Any

import altair as alt

from timm_diffsens.errors import unknown
from timm_diffsens.results.files import write_atomic

FORMATS = ("png", "svg", "pdf", "html")
_PIXELS_PER_POINT = 2  # of PNG files


def save_chart(chart: alt.TopLevelMixin, path: str | Path) -> None:
    """Write a chart as .png, .svg, .pdf or .html, atomically; the page needs no network.

    Raises:
        UsageError: another suffix.
    """
    path = Path(path)
    form = figure_format(path)
    write_atomic(path, render(chart, form))


def figure_format(path: str | Path) -> str:
    """The format that the name's suffix asks for: png, svg, pdf or html.

    Raises:
        UsageError: another suffix, or none.
    """
    suffix = Path(path).suffix
    form = suffix.lower().lstrip(".")
    if form not in FORMATS:
        choices = [f".{name}" for name in FORMATS]
        raise unknown("figure format", suffix or str(path), choices, f"choose one of {', '.join(choices)}")
    return form


def render(chart: alt.TopLevelMixin, form: str) -> bytes:
    """A chart as the bytes of a png, svg, pdf or html file; equal charts give equal svg, png and html."""
    if form in ("png", "pdf"):
        binary = io.BytesIO()
        chart.save(binary, format=form, scale_factor=_PIXELS_PER_POINT if form == "png" else 1)
        return binary.getvalue()
    text = io.StringIO()
    options: dict[str, Any] = {"inline": True} if form == "html" else {}
    chart.save(text, format=form, **options)
    return _renumbered(text.getvalue()).encode() if form == "svg" else text.getvalue().encode()


def _renumbered(svg: str) -> str:
    """Vega numbers clip paths and gradients on through a process; here they start from 0 in every file."""
    numbers: dict[str, str] = {}

    def renumber(match: re.Match[str]) -> str:
        return match[1] + numbers.setdefault(match[2], str(len(numbers)))

    return re.sub(r'((?:id="|url\(#)(?:clip|gradient_))(\d+)', renumber, svg)
