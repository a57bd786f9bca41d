"""The leaderboard as one HTML file that opens from the disk and asks nobody for anything.

Overview charts are Altair's, drawn here as SVG; the curves of one network are drawn by the page's own script
when it is selected. Vega in the page would take 0.9 MB of the 2 MB that a page with a hundred networks may
have, would show nothing without JavaScript, and draws points that neither keyboard nor screen reader reach.

Nothing of a record reaches the page but spelt out (see `printable`) and escaped: Jinja2 escapes all text,
charts get theirs through an XML library, curves are base64, and the script builds elements and sets text,
never markup. Should anything slip through, the page's content security policy runs only the script whose hash
it names, and loads nothing.
"""

import base64
import colorsys
import hashlib
import json
import re
from functools import cache
from pathlib import Path
from typing import Any

import jinja2

from timm_diffsens.printable import spelt_out
from timm_diffsens.results.numbers import PAGE, is_missing
from timm_diffsens.results.page import tables as page_tables
from timm_diffsens.results.page.correlation_lines import correlation_lines, style_name
from timm_diffsens.results.page.record_data import deflated, pack
from timm_diffsens.results.page.scatter import MOST_DOTS, look_style, scatter
from timm_diffsens.results.page.tables import ModelRow
from timm_diffsens.results.records.frames import rows_of
from timm_diffsens.results.report.board_charts import board_families
from timm_diffsens.results.report.theme import MEASURES, OUTLINES, Theme, in_legend, theme_of_records
from timm_diffsens.results.stats.held_out import held_out_sentence
from timm_diffsens.results.stats.leaderboard import Group, Leaderboard, Series

TEMPLATES = Path(__file__).parent / "templates"
_TOGETHER = 16  # records that are deflated together: they share the names of layers and of facts
SCRIPTS = ("plot.js", "tips.js", "table.js", "details.js", "page.js")  # in the order in which they run


def render_page(board: Leaderboard) -> str:
    """The whole page; equal boards give equal text."""
    theme, families = theme_of_records(record for _, record in board.records), board_families(board)
    script, style = _script(), _read("page.css") + _colours(theme, families)
    rows = [page_tables.model_rows(group) for group in board.groups]
    return _template().render(
        board=board,
        groups=[_group(group, own, theme, families) for group, own in zip(board.groups, rows, strict=True)],
        series=[_series(series, theme) for series in board.series],
        not_comparable=page_tables.plain_rows(board.not_comparable, ["model", "dataset", "file", "reason"]),
        data=_for_script(board, [row for own in rows for row in own], theme),
        script=script,
        style=style,
        policy=_policy(script, style),
        faulty=[[path.name, fault.replace(str(path), path.name)] for path, fault in board.faulty],
        theme=_drawn(theme),
    )


def _group(group: Group, rows: list[ModelRow], theme: Theme, families: Theme) -> dict[str, Any]:
    by_depth = rows_of(group.by_depth)
    present = {in_legend(str(family), families) for family in group.models["family"]}
    return {
        "group": group,
        "rows": rows,
        "headings": page_tables.headings(group),
        "scatter": _scatter_plots(group, rows, families),
        "families": [
            {"name": name, "style": look_style(look), "outline": OUTLINES[look.point]}
            for name, look in families.items()
            if name in present
        ],
        "depth": _line_plots(by_depth, "depth", "relative depth", theme),
        "variants": [v for v in theme if any(row["variant"] == v for row in by_depth)],
        "correlations": page_tables.correlation_rows(group),
        "comparisons": page_tables.comparison_rows(group),
        "deformations": page_tables.deformation_rows(group),
        "verdict": _sentences(group.verdict),
        "held_out": held_out_sentence(group.held_out),
        "left_out": page_tables.plain_rows(group.left_out, ["model", "file", "reason"]),
    }


def _sentences(verdict: str) -> tuple[str, str]:
    """The first sentence, which answers the question, and the others; with the letter for rho."""
    first, stop, others = re.sub(r"\brho\b", "ρ", verdict).partition(". ")
    return f"{first}{stop.strip()}", others


def _series(series: Series, theme: Theme) -> dict[str, Any]:
    rows = [{"variant": "original", **row} for row in rows_of(series.rows)]
    return {"series": series, "charts": _line_plots(rows, "sigma", "noise on the images", theme)}


def _scatter_plots(group: Group, rows: list[ModelRow], looks: Theme) -> list[tuple[str, str]]:
    """A caption and a chart for each of D, G and R that any network has."""
    correlations = {
        row["measure"]: row for row in rows_of(group.correlations) if row["variant"] == "original"
    }
    dots = {measure: page_tables.dots(group, rows, measure, looks) for measure in MEASURES}
    errors = [dot.error for listed in dots.values() for dot in listed]
    plots = []
    for measure, own in dots.items():
        if own:
            fit = rows_of(group.fits[group.fits["measure"] == measure])
            label = f"Test error against {measure.upper()} of {len(own)} networks, both axes logarithmic."
            chart = scatter(own, fit, MEASURES[measure], errors, label)
            some = f"; {MOST_DOTS} of {len(own)} networks are drawn" if len(own) > MOST_DOTS else ""
            plots.append((_rho(measure, correlations.get(measure)) + some, chart))
    return plots


def _line_plots(rows: list[dict[str, Any]], field: str, title: str, theme: Theme) -> list[tuple[str, str]]:
    """The same for correlations against `field`."""
    plots = []
    for measure in MEASURES:
        own = [row for row in rows if row["measure"] == measure and row["pearson"] is not None]
        if own:
            label = _describe_lines(measure, own, field, title)
            plots.append((MEASURES[measure], correlation_lines(own, field, title, label, theme)))
    return plots


def _rho(measure: str, row: dict[str, Any] | None) -> str:
    """The correlation that a scatter plot shows, in words."""
    if row is None or is_missing(row["pearson"]):
        return f"{measure.upper()}: no correlation, too few networks"
    note = f" ({row['note']})" if row["note"] else ""
    return f"{measure.upper()}: ρ = {PAGE.rho(row)}{note}"


def _describe_lines(measure: str, rows: list[dict[str, Any]], field: str, title: str) -> str:
    """The line of the original networks in words: its two ends."""
    text = f"Correlation of the test error with {measure.upper()} against {title}."
    own = [row for row in rows if row["variant"] == "original"]
    if own:
        text += " " + ", ".join(f"{row['pearson']:.2f} at {row[field]:g}" for row in (own[0], own[-1])) + "."
    return text


def _for_script(board: Leaderboard, rows: list[ModelRow], theme: Theme) -> str:
    """What the script needs, as JSON that is safe inside `<script>`: no `<`, `>` or `&`."""
    pages = {record.key: board.pages.get(record.key) or pack(record) for _, record in board.records}
    known = [row for row in rows if row.key in pages]
    parts = [known[first : first + _TOGETHER] for first in range(0, len(known), _TOGETHER)]
    content = {
        "variants": _drawn(theme),
        "places": {
            row.id: [number, place] for number, part in enumerate(parts) for place, row in enumerate(part)
        },
        "parts": [deflated([pages[row.key] for row in part]) for part in parts],
    }
    text = json.dumps(content, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _drawn(theme: Theme) -> dict[str, dict[str, str]]:
    """What the legends and the script draw variants with."""
    return {
        name: {
            "style": style_name(name),
            "dash": " ".join(map(str, look.dash)),
            "outline": OUTLINES[look.point],
        }
        for name, look in theme.items()
    }


def _colours(theme: Theme, families: Theme) -> str:
    """The colours of variants and families, in light and in dark, as rules of the style sheet."""
    colours = {style_name(name): look.colour for name, look in theme.items()}
    colours |= {look_style(look): look.colour for look in families.values()}
    light = "; ".join(f"--{name}: {colour}" for name, colour in colours.items())
    dark = "; ".join(f"--{name}: {_on_dark(colour)}" for name, colour in colours.items())
    rules = [
        f":root {{ {light}; }}",
        f'@media (prefers-color-scheme: dark) {{ :root:not([data-theme="light"]) {{ {dark}; }} }}',
        f':root[data-theme="dark"] {{ {dark}; }}',
        *(f".line.{name} {{ color: var(--{name}); }}" for name in colours),
    ]
    return "\n".join(rules) + "\n"


def _on_dark(colour: str) -> str:
    """A colour of the same hue that shows on a dark ground."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5))
    hue, light, full = colorsys.rgb_to_hls(red, green, blue)
    parts = colorsys.hls_to_rgb(hue, min(light + 0.27, 0.85), 0.85 * full)
    return "#" + "".join(f"{round(255 * part):02x}" for part in parts)


def _policy(script: str, style: str) -> str:
    """Nothing may be loaded; only this script runs and only this style applies."""
    return (
        f"default-src 'none'; script-src '{_sha256(script)}'; style-src '{_sha256(style)}'; "
        "base-uri 'none'; form-action 'none'"
    )


def _sha256(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


@cache
def _script() -> str:
    parts = "\n".join(_read(name) for name in SCRIPTS)
    return f'(() => {{\n"use strict";\n{parts}}})();\n'


def _read(name: str) -> str:
    return (TEMPLATES / name).read_text(encoding="utf-8")


def _finished(value: Any) -> Any:
    """What stands between braces in the template: text is spelt out, and escaped afterwards."""
    return spelt_out(value) if isinstance(value, str) and not hasattr(value, "__html__") else value


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES, encoding="utf-8"),
        autoescape=True,
        finalize=_finished,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("page.html.j2")
