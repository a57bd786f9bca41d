"""What the command line prints, and where: results on standard output, all else on standard error."""

import json
import math
import os
import sys
import warnings
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TextIO

import typer
from rich.console import Console
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from timm_diffsens.errors import DiffsensWarning
from timm_diffsens.printable import spelt_out
from timm_diffsens.results.numbers import MISSING, significant, with_error

if TYPE_CHECKING:
    from rich.progress import Progress

    from timm_diffsens.schema.layers import LayerSensitivity
    from timm_diffsens.schema.records import Record

_PIPED_WIDTH = 120  # columns where there is no terminal to ask
_WIDE_ENOUGH_FOR_KIND = 110
_MOST_ROWS = 40
_BAR_WIDTH = 10
_LONGEST_KIND, _SHORTEST_NAME, _GAP = 22, 12, 2
_EIGHTHS = ("", *"▏▎▍▌▋▊▉")


def silence(quiet: bool) -> bool:
    """What `--quiet` does: no warnings are shown until the verb is done."""
    if quiet:
        warnings.simplefilter("ignore", DiffsensWarning)
    return quiet


# Options that every verb shares.
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show no warnings.", callback=silence)]
Out = Annotated[Path, typer.Option("--out", metavar="DIR", help="Records are under DIR/records.")]
OUT = Path("leaderboard")


def result_console() -> Console:
    """Standard output, for results."""
    return _console(stderr=False)


def progress_console() -> Console:
    """Standard error, for progress and warnings."""
    return _console(stderr=True)


def _console(stderr: bool) -> Console:
    """Text as it is: no markup (layer names hold brackets), emoji or highlighting."""
    stream = sys.stderr if stderr else sys.stdout
    asked = stream.isatty() or "COLUMNS" in os.environ
    width = None if asked else _PIPED_WIDTH
    return _Edge(stderr=stderr, width=width, markup=False, emoji=False, highlight=False)


class _Edge(Console):
    """All text is spelt out before it reaches the terminal: what strangers named does nothing there."""

    def render_str(self, text: str, **options: Any) -> Text:
        """Of a string."""
        return super().render_str(spelt_out(text), **options)

    def render(self, renderable: Any, options: Any = None) -> Iterable[Segment]:
        """Of whatever is shown; what rich draws itself (bars, tables) comes here part by part."""
        if isinstance(renderable, Text) and not renderable.plain.isprintable():
            renderable = Text(spelt_out(renderable.plain), style=renderable.style)
        return super().render(renderable, options)


@contextmanager
def progress_bars(quiet: bool, *fields: str) -> "Iterator[Progress]":
    """Bars on standard error, with these fields beside them; nothing where they would not be seen."""
    from rich import progress

    columns = (
        progress.TextColumn("{task.description}"),
        progress.BarColumn(),
        progress.MofNCompleteColumn(),
        *(progress.TextColumn(f"{{task.fields[{field}]}}") for field in fields),
        progress.TimeRemainingColumn(),
    )
    hidden = quiet or not sys.stderr.isatty()
    with progress.Progress(*columns, console=progress_console(), disable=hidden) as bars:
        yield bars


@contextmanager
def nothing_but_json(asked: bool) -> Iterator[None]:
    """Where JSON is asked for, what is printed inside goes to standard error, but for `print_json`."""
    if not asked:
        yield
        return
    _for_json.append(sys.stdout)
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        _for_json.pop()


_for_json: list[TextIO] = []


def print_json(value: Any) -> None:
    """One JSON document on standard output; records and other pydantic models may be in it.

    Raises:
        ValueError: there is a NaN or an infinity in it.
    """
    text = json.dumps(value, indent=2, allow_nan=False, default=_plain).replace("\x7f", "\\u007f")
    stream = _for_json[-1] if _for_json else sys.stdout
    stream.write(text + "\n")
    stream.flush()


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is no JSON")


def print_error(message: str) -> None:
    """`error: ...` on standard error."""
    _labelled("error: ", "bold red", message)


def print_warning(message: str) -> None:
    """`warning: ...` on standard error."""
    _labelled("warning: ", "yellow", message)


def _labelled(label: str, style: str, message: str) -> None:
    with though_unheard():
        progress_console().print(Text.assemble((label, style), message), soft_wrap=True)


@contextmanager
def though_unheard() -> Iterator[None]:
    """What is printed inside ends nothing where it cannot be written: standard error in a file, say, on a
    disk that is full. A reader that has gone away ends the verb as ever.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError:
        forget(sys.stderr)


def forget(stream: TextIO) -> None:
    """What a stream that cannot be written has buffered, and is still given, must not fail again: not when
    the process ends, nor when `multiprocessing` flushes standard error before it starts another one.
    """
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def showing_warnings() -> Iterator[None]:
    """Inside, each `DiffsensWarning` is one `warning: ...` line on standard error, shown once."""
    shown: set[str] = set()
    with warnings.catch_warnings():
        show_others = warnings.showwarning

        def show(message: Any, category: Any, *place: Any, **more: Any) -> None:
            if not issubclass(category, DiffsensWarning):
                lines = [spelt_out(line) for line in str(message).split("\n")]
                show_others(
                    message if "\n".join(lines) == str(message) else "\n".join(lines),
                    category,
                    *place,
                    **more,
                )
            elif str(message) not in shown:
                shown.add(str(message))
                print_warning(str(message))

        warnings.showwarning = show
        warnings.simplefilter("always", DiffsensWarning)
        yield


def plain_table(titles: Sequence[str], left: Collection[str] = (), gap: int = 2) -> Table:
    """A table without lines; columns named in `left` to the left, the others to the right."""
    table = Table(box=None, pad_edge=False, padding=(0, gap, 0, 0), header_style="bold")
    for title in titles:
        table.add_column(title, justify="left" if title in left else "right", overflow="fold")
    return table


def layer_table(layers: Sequence["LayerSensitivity"], *, width: int, all_layers: bool = False) -> Table:
    """A row for each layer: D, G and R with standard errors, and R as a bar on a logarithmic scale.

    Args:
        layers: of one variant.
        all_layers: show every row; otherwise the middle is left out beyond forty.
        width: columns of the terminal. In narrow ones the kind goes, and long names lose their middle.
    """
    wide = width >= _WIDE_ENOUGH_FOR_KIND
    rows = _layer_rows(layers, wide)
    titles = ["layer", *(["kind"] if wide else []), "depth", "D", "G", "R"]
    widths = [max(map(len, column)) for column in zip(titles, *rows, strict=True)]
    bar_width = _BAR_WIDTH if wide else _BAR_WIDTH // 2
    left = width - sum(widths[1:]) - _GAP * len(titles) - bar_width
    rows = [[_cut(row[0], left), *row[1:]] for row in rows]
    lasts = _last_column(layers, bar_width)
    left_out = 0 if all_layers else max(len(rows) - _MOST_ROWS, 0)

    table = Table(box=None, pad_edge=False, padding=(0, _GAP, 0, 0), header_style="bold")
    for title in titles:
        table.add_column(title, no_wrap=True, justify="left" if title in ("layer", "kind") else "right")
    table.add_column("log R", min_width=bar_width)
    if left_out:
        table.caption = f"{left_out} layers in the middle are left out; --all-layers lists them"
    for index, (row, last) in enumerate(zip(rows, lasts, strict=True)):
        if left_out and index == _MOST_ROWS // 2:
            table.add_row("...")
        if not left_out or not _MOST_ROWS // 2 <= index < len(rows) - _MOST_ROWS // 2:
            table.add_row(*row, last)
    return table


def deformation_table(record: "Record", variant: str) -> Table:
    """A row for each deformation of a record: D, G and R at the output of a variant."""
    table = plain_table(["deformation", "rms", "D", "G", "R"], left={"deformation"})
    for view in record.views():
        layer, protocol = view.variants[variant][-1], view.protocol
        values = [with_error(getattr(layer, name), getattr(layer, f"{name}_stderr")) for name in "dgr"]
        rms = protocol.rms_displacement
        table.add_row(
            protocol.deformation_text, MISSING if rms is None else f"{significant(rms)} px", *values
        )
    return table


def _layer_rows(layers: Sequence["LayerSensitivity"], wide: bool) -> list[list[str]]:
    rows = []
    for layer in layers:
        values = [with_error(getattr(layer, name), getattr(layer, f"{name}_stderr")) for name in "dgr"]
        kind = [_cut(layer.kind, _LONGEST_KIND)] if wide else []
        shown = values if wide else [value.replace(" ", "") for value in values]
        rows.append([layer.layer, *kind, f"{layer.depth:.2f}", *shown])
    return rows


def _last_column(layers: Sequence["LayerSensitivity"], width: int) -> list[Text]:
    """A bar for R, or why there is no value."""
    bars = _bars([layer.r for layer in layers], width)
    return [
        Text(bar, style="cyan") if layer.reason is None else Text(layer.reason, style="dim")
        for layer, bar in zip(layers, bars, strict=True)
    ]


def _bars(values: Sequence[float | None], width: int) -> list[str]:
    """Bars whose lengths go with the logarithm, from an eighth of a block to `width` blocks."""
    logs = [math.log(value) if value else None for value in values]
    present = [log for log in logs if log is not None]
    if not present:
        return [""] * len(logs)
    low, span = min(present), max(present) - min(present)
    full = 8 * width
    sizes = [0 if log is None else max(round(full * (log - low) / span), 1) if span else full for log in logs]
    return ["█" * (size // 8) + _EIGHTHS[size % 8] for size in sizes]


def _cut(name: str, width: int) -> str:
    """Long names lose their middle."""
    width = max(width, _SHORTEST_NAME)
    return name if len(name) <= width else f"{name[: width - width // 2 - 1]}…{name[-(width // 2) :]}"
