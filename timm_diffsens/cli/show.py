"""`diffsens show`: one record."""

import re
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from timm_diffsens.cli.figures import Column, Figure, draw, need, panels
from timm_diffsens.cli.output import OUT, Json, Out, Quiet, print_json, result_console
from timm_diffsens.errors import UsageError, unknown, warn
from timm_diffsens.results.numbers import some_of, sparkline, with_error

if TYPE_CHECKING:
    from rich.console import Console

    from timm_diffsens.results.records.per_image import PerImage
    from timm_diffsens.schema.records import Record

_SHORTEST_KEY = 4
_FEW = 5  # images that are wrong, or right, below which the binomial standard error is no interval
_MOST_LISTED = 8
_CURVE_WIDTH = 60
_NAME_WIDTH = 16


def show(
    record: Annotated[
        str, typer.Argument(metavar="RECORD", help="A record's file, a model's name, or the start of a key.")
    ],
    out: Out = OUT,
    figure: Figure = None,
    only: Annotated[
        str | None,
        typer.Option(
            "--only",
            metavar="PANEL,...",
            help="Panels of the figure: r, d, g, deformations, equivariance, sizes, spectra.",
        ),
    ] = None,
    column: Column = None,
    variant: Annotated[str, typer.Option("--variant", help="Which network's layers to list.")] = "original",
    all_layers: Annotated[bool, typer.Option("--all-layers", help="List every layer.")] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Show one record: layer table, depth curves and a summary; --figure draws it."""
    from timm_diffsens.results.records.store import load_record

    need("--figure FILE", figure, only=only, column=column)
    variant_hint = "RECORD@VARIANT is for `diffsens compare`, `show` has --variant VARIANT"
    file = find(record, out / "records", variant_hint if "@" in record else "")
    found = load_record(file)
    distances = kept_of(file, found)
    if variant not in found.variants:
        raise unknown("variant", variant, found.variants, f"the record has {', '.join(found.variants)}")
    chart = None
    if figure is not None:
        from timm_diffsens.results.report.record_chart import PANELS, record_figure

        chart = record_figure(found, distances, panels(only, PANELS), column)
    if as_json:
        print_json(found)
    else:
        from timm_diffsens.results.report.advice import advice

        notes = [] if quiet else dict.fromkeys([*found.warnings, *advice(found)])
        print_record(result_console(), found, variant, all_layers, notes, distances)
    if figure is not None:
        draw(chart, figure)


def find(text: str, folder: Path, more: str = "") -> Path:
    """The file `text`, or that of the record below `folder` of that model or with a key that starts so.

    Args:
        text: a file, a name or the start of a key.
        folder: of the records.
        more: to be said where there is none.

    Raises:
        UsageError: there is none, or more than one.
    """
    from timm_diffsens.results.records.apart import apart, in_words
    from timm_diffsens.results.records.store import left_out, read_rows

    if is_path(text):
        return Path(text)
    rows, bad = read_rows(folder, parallel=True)
    if bad:
        warn(left_out(bad))
    is_key = re.fullmatch(f"[0-9a-f]{{{_SHORTEST_KEY},64}}", text)
    matches = [row for row in rows if is_key and row["key"].startswith(text)]
    matches = matches or [row for row in rows if row["model"] == text]
    for spelling in ("readable", "arch"):
        matches = matches or [row for row in rows if row[spelling] == text]
    if not matches:
        hint = f"records are looked up below {folder}; `diffsens ls records` lists them"
        hint += f"; {more}" if more else ""
        raise unknown("record", text, sorted({row["model"] for row in rows}), hint)
    if len(matches) > 1:
        told = [in_words(each) for each in apart(matches)]
        names = [
            f"{r['key'][:12]} ({r['model']} on {r['dataset']}, n = {r['n']}{f', {words}' if words else ''})"
            for r, words in zip(matches, told, strict=True)
        ]
        listed = some_of(names, _MOST_LISTED)
        raise UsageError(f"{len(matches)} records match {text!r}; give the start of a key: {listed}")
    return Path(matches[0]["path"])


def kept_of(file: Path, record: "Record") -> "PerImage | None":
    """The distances of single images, if they were kept."""
    from timm_diffsens.results.records.per_image import read_per_image

    try:
        return read_per_image(file, record)
    except UsageError:
        return None


def is_path(text: str) -> bool:
    """Whether this names a file, or what stands in place of one."""
    try:
        return not stat.S_ISDIR(Path(text).stat().st_mode)
    except (OSError, ValueError):
        return text.endswith(".json")


def print_record(
    console: "Console",
    record: "Record",
    variant: str,
    all_layers: bool,
    notes: Iterable[str],
    distances: "PerImage | None" = None,
) -> None:
    """Header, layer table of one variant, curves over depth, a summary, and what to mind."""
    from timm_diffsens.cli.output import deformation_table, layer_table
    from timm_diffsens.results.report.summary import summary

    for name, value in _header(record):
        console.print(f"{name:<11} {value}", soft_wrap=True)
    layers = record.variants[variant]
    console.print()
    console.print(f"{variant}, {len(layers)} layers")
    console.print(layer_table(layers, all_layers=all_layers, width=console.width))
    console.print()
    if record.further:
        console.print(f"{variant} at the output, under each deformation")
        console.print(deformation_table(record, variant))
        console.print()
    for line in [*_curves(record), *_equivariance(record), *_spectra(record)]:
        console.print(line, soft_wrap=True)
    console.print()
    console.print(summary(record, distances))
    for line in notes:
        console.print(f"warning: {line}", style="yellow", soft_wrap=True)


def _header(record: "Record") -> list[tuple[str, str]]:
    model, data, protocol = record.model, record.data, record.protocol
    named = ": ".join(filter(None, (model.weights.detail, model.weights.entry)))
    weights = model.weights.source + (f" ({named})" if named else "")
    published = f", {model.weights.published}" if model.weights.published else ""
    trained = {True: "", False: ", untrained", None: ", not known whether trained"}[record.trained]
    split = f", {data.split}" if data.split else ""
    note = f" ({data.note})" if data.note else ""
    precision = "" if protocol.dtype == "float32" else f", forwards in {protocol.dtype}"
    noise = f", {protocol.noise_text}" if protocol.noise_text else ""
    corruption = f", corruption sigma = {protocol.corruption_sigma:g}" if protocol.corruption_sigma else ""
    return [
        ("model", f"{model.spec} ({model.library}, {model.parameters:,} parameters)"),
        ("weights", weights + trained + published),
        ("data", f"{data.spec}{split}, {data.n} images of {model.input.height} x {model.input.width}{note}"),
        ("normalised", f"mean {_by_channel(model.input.mean)}, std {_by_channel(model.input.std)}"),
        (
            "protocol",
            f"{protocol.deformation_text} ({protocol.rms_text}){noise}, "
            f"layers = {','.join(protocol.layers)}, seed = {protocol.seed}{corruption}{precision}",
        ),
        ("test error", _error(record)),
        ("key", record.key[:12]),
    ]


def _by_channel(values: tuple[float, ...]) -> str:
    """One number where all channels have the same."""
    shown = values[:1] if len(set(values)) == 1 else values
    return " ".join(f"{value:g}" for value in shown)


def _error(record: "Record") -> str:
    error = record.test_error
    if error.value is None:
        return f"not known ({error.reason})" if error.reason else "not known"
    spread = f" ± {error.stderr:.1%}" if error.stderr is not None else ""
    if error.stderr is not None and error.n and min(error.value, 1 - error.value) * error.n < _FEW:
        from scipy.stats import binomtest

        wrong = binomtest(round(error.value * error.n), error.n)
        ends = wrong.proportion_ci(method="wilson")  # ± 0 of few images would be no error bar
        spread = f", 95 %: {ends.low:.1%} to {ends.high:.1%}"
    over = f" over {error.n} images" if error.n is not None else ""
    return f"{error.value:.1%}{spread} ({error.source}{over})"


def _curves(record: "Record") -> list[str]:
    """R over depth, a line a variant, all on one logarithmic scale, with the ends written out."""
    from timm_diffsens.results.records.frames import curves_of

    curves = curves_of(record)
    scale = [layer.r for layers in curves.values() for layer in layers if layer.r]
    drawn = {name: [layer.r for layer in layers] for name, layers in curves.items()}
    width = max(_NAME_WIDTH, *map(len, curves))
    return ["R over depth (log scale)", *(_curve(width, *one, scale) for one in drawn.items())]


def _curve(width: int, variant: str, values: "list[float | None]", scale: "list[float]") -> str:
    present = [value for value in values if value is not None]
    first, last = (with_error(present[i] if present else None, None) for i in (0, -1))
    return f"  {variant:<{width}} {first:>9} {sparkline(values, _CURVE_WIDTH, scale)} {last}"


def _equivariance(record: "Record") -> list[str]:
    """E over depth, of the layers that have a map."""
    drawn = {name: [e for e in values.r if e is not None] for name, values in record.equivariance.items()}
    scale = [e for values in drawn.values() for e in values if e]
    width = max([_NAME_WIDTH, *map(len, drawn)])
    lines = [_curve(width, name, list(values), scale) for name, values in drawn.items() if values]
    return (
        ["equivariance E over depth (log scale): 0 moves with the image, 1 does not", *lines] if lines else []
    )


def _spectra(record: "Record") -> list[str]:
    """Mean frequency and share of the constant mode, first to last convolution."""
    lines = []
    scale = [s.mean_frequency for spectra in record.spectra.values() for s in spectra if s.mean_frequency]
    width = max(_NAME_WIDTH, *map(len, record.spectra))
    for variant, spectra in record.spectra.items():
        drawn = [s for s in spectra if s.mean_frequency is not None]
        shares = [s.low_frequency_share for s in drawn if s.low_frequency_share is not None]
        constant = f"; constant mode {min(shares):.0%} to {max(shares):.0%}" if shares else ""
        if drawn:
            curve = _curve(width, variant, [s.mean_frequency for s in drawn], scale)
            lines.append(f"{curve} ({len(drawn)} convolutions{constant})")
    return ["mean frequency of the filters over depth (log scale)", *lines] if lines else []
