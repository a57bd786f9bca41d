"""`diffsens ls`: what there is."""

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from timm_diffsens import registry
from timm_diffsens.cli.output import (
    OUT,
    Json,
    Out,
    Quiet,
    plain_table,
    print_error,
    print_json,
    progress_console,
    result_console,
)
from timm_diffsens.errors import UsageError, failing, unknown
from timm_diffsens.patterns import matching
from timm_diffsens.printable import spelt_out
from timm_diffsens.results.numbers import MISSING, significant
from timm_diffsens.results.records.apart import in_words

_KINDS = tuple(kind for kind in registry.KINDS if kind != "models")
TOPICS = ("models", "layers", *_KINDS, "records")


def ls(
    topic: Annotated[str, typer.Argument(metavar="|".join(TOPICS), help="What to list.")],
    pattern: Annotated[
        str | None, typer.Argument(help="Shell pattern over the names; for layers, the model.")
    ] = None,
    layers: Annotated[
        list[str] | None,
        typer.Option("--layers", help="For layers: stages, blocks, convs, all or patterns, with commas."),
    ] = None,
    pretrained: Annotated[
        bool, typer.Option("--pretrained", help="For models: only those with published weights.")
    ] = False,
    input_size: Annotated[
        int | None, typer.Option("--input-size", help="For layers: of a network that does not say its own.")
    ] = None,
    out: Out = OUT,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """List models, the layers of one, records, or what else there is, built in and of installed packages."""
    bad: list[str] = []
    if topic == "models":
        rows = _models(pattern, pretrained)
    elif topic == "layers":
        rows = _layers(pattern, layers or ["blocks"], input_size)
    elif topic in _KINDS:
        rows = _things(topic, pattern)
    elif topic == "records":
        rows, bad = _records(pattern, out / "records")
    else:
        raise unknown("topic", topic, TOPICS, f"expected one of {', '.join(TOPICS)}")
    if as_json:
        print_json(rows)
    elif not rows:
        progress_console().print("none")
    elif list(rows[0]) == ["name"]:
        for row in rows:
            typer.echo(spelt_out(row["name"]))
    else:
        result_console().print(_table(rows))
    for fault in bad:
        print_error(f"left out: {fault}")
    if bad:
        raise typer.Exit(1)


def _models(pattern: str | None, pretrained: bool) -> list[dict[str, Any]]:
    from timm_diffsens.device import allocator

    allocator.prepare()
    from timm_diffsens.models.architectures import known_names

    names = known_names(pretrained)
    found = matching(names, pattern)
    if not found:
        raise unknown("model", pattern or "", names, "patterns are those of a shell: '*resnet*'")
    return [{"name": name} for name in found]


def _layers(spec: str | None, selection: list[str], size: int | None) -> list[dict[str, Any]]:
    if spec is None:
        raise UsageError("ls layers needs a model: `diffsens ls layers resnet50`")
    from timm_diffsens.device import allocator

    allocator.prepare()
    from timm_diffsens.models.layers import list_layers
    from timm_diffsens.models.loading import InputOptions, load_model

    options = None if size is None else InputOptions(size=(size, size), mean=(0.5,), std=(0.5,))
    with failing(f"{spec} could not be run"):
        model = load_model(spec, pretrained=False, input_options=options)
        with registry.beside(model.home):
            found = list_layers(model, selection)
    return [
        {
            "name": layer.name,
            "kind": layer.kind,
            "shape": list(layer.shape),
            "channel_axis": layer.channel_axis,
            "depth": round(layer.depth, 4),
            "aliases": list(layer.aliases),
            "reason": layer.reason,
        }
        for layer in found
    ]


def _things(kind: str, pattern: str | None) -> list[dict[str, Any]]:
    described = {entry.name: entry.help for entry in registry.entries(kind)}
    found = matching(list(described), pattern)
    if not found:
        raise unknown(registry.KINDS[kind].word, pattern or "", described)
    return [{"name": name, "description": described[name]} for name in found]


def _records(pattern: str | None, folder: Path) -> tuple[list[dict[str, Any]], list[str]]:
    """The records, and what is wrong with other files."""
    from timm_diffsens.results.records.apart import apart
    from timm_diffsens.results.records.frames import rows_frame, rows_of
    from timm_diffsens.results.records.store import read_rows

    good, bad = read_rows(folder, parallel=True)
    columns = ["key", "model", "dataset", "n", "trained", "error"]
    columns += ["d", "g", "r", "r_stderr", "protocol", "path"]
    told = ({"apart": each or None} for each in apart(good))
    rows = [row | more for row, more in zip(rows_of(rows_frame(good)[columns]), told, strict=True)]
    return [row for row in rows if matching([row["model"]], pattern)], bad


def _table(rows: list[dict[str, Any]]) -> Table:
    """Columns that have a value in some row, in short form."""
    shown = [name for name in rows[0] if any(row[name] not in (None, []) for row in rows)]
    shown = [name for name in shown if name not in _ONLY_IN_JSON]
    numbers = {name for name in shown if all(isinstance(row[name], int | float | None) for row in rows)}
    table = plain_table(shown, left={*shown} - numbers)
    for row in rows:
        table.add_row(*(_cell(name, row[name]) for name in shown))
    return table


_ONLY_IN_JSON = {"channel_axis", "r_stderr", "protocol", "path"}


def _cell(name: str, value: Any) -> str:
    if value is None:
        return MISSING
    if name == "key":
        return str(value)[:12]
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return significant(value)
    if isinstance(value, dict):
        return in_words(value)
    if isinstance(value, list):
        return (" x " if name == "shape" else ", ").join(map(str, value))
    return str(value)
