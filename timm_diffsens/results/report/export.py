"""Charts as files."""

import io
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import altair as alt
import vl_convert
from altair.utils.schemapi import debug_mode

from timm_diffsens.errors import DiffsensError, unknown
from timm_diffsens.files import write_atomic
from timm_diffsens.printable import all_spelt_out

FORMATS = ("png", "svg", "pdf", "html")
_PIXELS_PER_POINT = 2  # of PNG files
_IN_A_PROCESS = """
import json, sys, vl_convert
form, spec, options = json.load(sys.stdin)
drawn = getattr(vl_convert, f"vegalite_to_{form}")(spec, **options)
sys.stdout.buffer.write(drawn.encode() if isinstance(drawn, str) else drawn)
"""


class FigureError(DiffsensError):
    """A chart cannot be drawn on this machine; whatever else is written does not need it."""


def save_chart(chart: alt.TopLevelMixin, path: str | Path) -> None:
    """Write a chart as .png, .svg, .pdf or .html, atomically; the page needs no network.

    Raises:
        UsageError: another suffix. FigureError: see `render`.
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
    """A chart as the bytes of a png, svg, pdf or html file; equal charts give equal svg, png and html.

    Charts are drawn as they are: that they fit the schema of Vega-Lite is tested, and not looked up each
    time, which takes longer than to draw them.

    Raises:
        FigureError: the address space is limited (`ulimit -v`), and the renderer's JavaScript engine, which
            reserves tens of gigabytes of it and ends the process where it cannot, does not start.
    """
    limit = _address_space()
    if form == "html":
        if limit is not None:
            raise _too_narrow(limit)
        text = io.StringIO()
        chart.save(text, format=form, inline=True, json_kwds={"cls": _InScript})
        return text.getvalue().encode()
    with alt.data_transformers.disable_max_rows():
        spec = _harmless(chart.to_dict(validate=False))
    version = "_".join(alt.SCHEMA_VERSION.split(".")[:2])
    finer = {"ppi": 72 * _PIXELS_PER_POINT} if form == "png" else {}  # in the file too: its size in print
    options = {"vl_version": version, **finer}
    if limit is None:
        drawn = getattr(vl_convert, f"vegalite_to_{form}")(spec, **options)
    else:
        drawn = _drawn_in_a_process(form, spec, options, limit)
    return _renumbered(drawn).encode() if form == "svg" else bytes(drawn)


def _drawn_in_a_process(form: str, spec: dict[str, Any], options: dict[str, Any], limit: int) -> bytes | str:
    """The same in a process of its own, which may be ended."""
    given = json.dumps([form, spec, options]).encode()
    done = subprocess.run(
        [sys.executable, "-c", _IN_A_PROCESS], input=given, capture_output=True, check=False
    )
    if done.returncode:
        raise _too_narrow(limit)
    return done.stdout.decode() if form == "svg" else done.stdout


def _address_space() -> int | None:
    """The limit of this process' address space in bytes, None without one."""
    if sys.platform == "win32":
        return None
    import resource

    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    return None if soft == resource.RLIM_INFINITY else soft


def _too_narrow(limit: int) -> FigureError:
    return FigureError(
        f"figures cannot be drawn in an address space of {limit / 2**30:.3g} GiB (`ulimit -v`): the renderer "
        "reserves 64 GiB of addresses, not memory; everything else is written"
    )


def _harmless(spec: dict[str, Any]) -> dict[str, Any]:
    """All text of a chart spelt out, that of its rows too: the renderer ends the process on some of it."""
    plain: dict[str, Any] = all_spelt_out(spec)
    for name, rows in plain.get("datasets", {}).items():
        if isinstance(rows, str) and "\\" in rows:  # JSON as text, with characters that are not ASCII
            plain["datasets"][name] = json.dumps(all_spelt_out(json.loads(rows)))
    return plain


class _InScript(json.JSONEncoder):
    """JSON for the inside of a script: no text in it can end the script."""

    def encode(self, o: Any) -> str:
        text = super().encode(_harmless(o) if isinstance(o, dict) else o)
        for character in "<>&":
            text = text.replace(character, f"\\u{ord(character):04x}")
        return text


def start_renderer() -> Thread | None:
    """Loads the renderer's scripts beside what goes on; the first chart would wait half a second for them."""
    if _address_space() is not None:
        return None
    empty = alt.Chart(alt.NamedData("nothing")).mark_point()
    thread = Thread(target=render, args=(empty, "svg"))
    thread.start()
    return thread


@contextmanager
def unchecked() -> Iterator[None]:
    """Charts that are put together inside are not checked against the schema, part by part."""
    with debug_mode(False):
        yield


def _renumbered(svg: str) -> str:
    """Vega numbers clip paths and gradients on through a process; here they start from 0 in every file."""
    numbers: dict[str, str] = {}

    def renumber(match: re.Match[str]) -> str:
        return match[1] + numbers.setdefault(match[2], str(len(numbers)))

    return re.sub(r'((?:id="|url\(#)(?:clip|gradient_))(\d+)', renumber, svg)
