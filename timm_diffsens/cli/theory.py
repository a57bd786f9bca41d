"""`diffsens theory`: predicted, exact and measured scaling with the effective receptive field."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timm_diffsens.cli.figures import Figure
from timm_diffsens.cli.output import Json, Quiet, plain_table, print_json, progress_console, result_console
from timm_diffsens.results.numbers import MISSING, PLAIN, fixed_error, significant, with_error

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from rich.table import Table

    from timm_diffsens.schema.layers import LayerSensitivity
    from timm_diffsens.theory.exponents import Exponent
    from timm_diffsens.theory.margins import MarginResult
    from timm_diffsens.theory.receptive_field import Diffusion
    from timm_diffsens.theory.report import TheoryResult
    from timm_diffsens.theory.trained import SeedExponent, TrainedCurves

_MOST_ROWS = 16
_FILTERS = (2, 3, 4, 5)  # of the table of Proposition A.1, and those asked for
_LAYERS = 12
_MARGIN = ("k", "share", "bias", "D", "exact", "G", "exact", "R", "exact")
_NAMES = {"d": "D", "g": "G", "r": "R", "g_linear": "G, no ReLU", "r_linear": "R, no ReLU"}


def theory(
    checkpoints: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[CHECKPOINT]...",
            help="Networks to measure too: net/simple trained on scale1 or scale2 with --dims 1, any seeds.",
            show_default=False,
        ),
    ] = None,
    *,
    task: Annotated[
        list[int] | None,
        typer.Option("--task", help="1 (stride 1) or 2 (stride = filter); by default both."),
    ] = None,
    depth: Annotated[
        list[int] | None, typer.Option("--depth", help="Layers; several show how the powers are approached.")
    ] = None,
    filter_size: Annotated[
        int | None, typer.Option("--filter", help="Filter size; 3 in task 1, 2 in 2.")
    ] = None,
    length: Annotated[
        int | None, typer.Option("--length", help="Pixels; 128, more for other depths.")
    ] = None,
    xi: Annotated[float | None, typer.Option("--xi", help="The task's scale in pixels.")] = None,
    gap: Annotated[float | None, typer.Option("--gap", help="Of task 1, in pixels; 2.")] = None,
    margin: Annotated[
        bool,
        typer.Option("--max-margin", help="The single-channel network of largest margin, too."),
    ] = False,
    images: Annotated[
        int | None, typer.Option("--images", help="For the measured curves; a multiple of 8.")
    ] = None,
    seed: Annotated[int, typer.Option("--seed", help="Of the images and the noise.")] = 0,
    figure: Figure = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write theory.json, .csv and .svg there.")
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Scaling of D, G and R with depth in networks that pool: exact, measured, and the paper's exponents.

    The network has one channel and homogeneous filters (arXiv 2210.01506, Section 4 and App. A); with
    checkpoints trained networks stand beside it, and the same with fresh weights.
    """
    from timm_diffsens.errors import UsageError

    if checkpoints and any(value is not None for value in (task, depth, filter_size, length, xi, gap)):
        raise UsageError("the checkpoints say which task, depth, filter, length, xi and gap: leave those out")
    from timm_diffsens.device import allocator

    allocator.prepare()
    from timm_diffsens.theory.margins import run_max_margin
    from timm_diffsens.theory.receptive_field import diffusion
    from timm_diffsens.theory.report import GAP, run_theory, theory_setting
    from timm_diffsens.theory.trained import trained_curves

    trained = trained_curves(checkpoints or [], images=images, seed=seed)
    settings = [found.setting for found in trained] or [
        theory_setting(
            t,
            k,
            filter_size=filter_size,
            length=length,
            xi=xi,
            images=images,
            seed=seed,
            gap=GAP if gap is None else gap,
        )
        for t in dict.fromkeys(task or (1, 2))
        for k in dict.fromkeys(depth or (None,))
    ]
    results, margins = [], []
    for number, setting in enumerate(settings):
        if not quiet:
            progress_console().print(f"{setting.title}: {setting.depth} layers", soft_wrap=True)
        results.append(trained[number].theory if trained else run_theory(setting))
        if margin:
            margins.append(run_max_margin(setting))
    sizes = sorted({*_FILTERS, *(s.filter_size for s in settings if s.stride == 1)})
    table = [diffusion(size, _LAYERS) for size in sizes]
    document = _document(results, trained, margins, table)
    if as_json:
        print_json(document)
    else:
        _print(results, trained, margins, table)
    for path in _write(results, trained, margins, document, figure, out):
        progress_console().print(f"written: {path}", soft_wrap=True)


def _document(
    results: "Sequence[TheoryResult]",
    trained: "Sequence[TrainedCurves]",
    margins: "Sequence[MarginResult]",
    table: "Sequence[Diffusion]",
) -> dict[str, Any]:
    from timm_diffsens.theory.margins import margin_document
    from timm_diffsens.theory.report import theory_document
    from timm_diffsens.theory.trained import trained_document

    settings = [theory_document(result) for result in results]
    for document, found in zip(settings, trained, strict=False):
        document["trained"] = trained_document(found)
    for document, largest in zip(settings, margins, strict=False):
        document["max_margin"] = margin_document(largest)
    return {"settings": settings, "proposition_a1": [vars(row) for row in table]}


def _write(
    results: "Sequence[TheoryResult]",
    trained: "Sequence[TrainedCurves]",
    margins: "Sequence[MarginResult]",
    document: dict[str, Any],
    figure: Path | None,
    out: Path | None,
) -> "Iterator[Path]":
    """The figure, and the folder's three files."""
    if figure is None and out is None:
        return
    import json

    import pandas as pd

    from timm_diffsens.files import write_atomic
    from timm_diffsens.results.report.export import save_chart
    from timm_diffsens.results.report.tables import csv_table
    from timm_diffsens.results.report.theory_chart import theory_chart
    from timm_diffsens.theory.margins import margin_rows
    from timm_diffsens.theory.report import theory_rows
    from timm_diffsens.theory.trained import trained_rows

    rows = [row for result in results for row in theory_rows(result)]
    rows += [row for found in trained for row in trained_rows(found)]
    rows += [row for largest in margins for row in margin_rows(largest)]
    if out is not None:
        table, text = pd.DataFrame(rows), json.dumps(document, indent=2, allow_nan=False)
        for name, content in (("theory.csv", csv_table(table, None)), ("theory.json", text + "\n")):
            write_atomic(out / name, content.encode())
            yield out / name
    for path in filter(None, (figure, out and out / "theory.svg")):
        save_chart(theory_chart(rows), path)
        yield path


# ---- tables


def _print(
    results: "Sequence[TheoryResult]",
    trained: "Sequence[TrainedCurves]",
    margins: "Sequence[MarginResult]",
    table: "Sequence[Diffusion]",
) -> None:
    console = result_console()

    def show(table: "Table", note: str, *title: str) -> None:
        for line in title:
            console.print(line, style="bold")
        console.print(table)
        console.print(note, style="dim")

    for number, result in enumerate(results):
        setting = result.setting
        size = f"{setting.depth} layers, {setting.length} pixels, xi = {setting.xi:g}"
        show(*_layers(result), f"{setting.title}: {size}, {setting.images} images")
        console.print()
        show(*_exponents(result))
        console.print()
        show(*_infinite(result), "at initialisation, infinitely many channels")
        console.print()
        if margins:
            show(*_margins(result, margins[number]), "single channel of largest margin")
            console.print()
        if trained:
            found = trained[number]
            errors = ", ".join(f"{100 * seed.test_error:.2f}%" for seed in found.seeds)
            console.print(
                f"trained, seeds {', '.join(str(s.seed) for s in found.seeds)}: test error {errors}"
            )
            show(*_trained(found))
            console.print()
    title = f"Proposition A.1: the Gaussian after {_LAYERS} layers of stride 1"
    show(_diffusion_table(table), "Variance 2 D k, centre i - v k; widths in pixels.", title)


def _layers(result: "TheoryResult") -> "tuple[Table, str]":
    """Each layer: predicted and measured A, exact values beside measured ones."""
    titles = ("k", "A_k", "run", "D", "run", "G", "run", "no ReLU", "run", "white", "R", "run")
    table, exact, depth = plain_table(titles, gap=1), result.exact, result.setting.depth
    every = -(-depth // _MOST_ROWS)
    for i in sorted({*range(0, depth, every), depth - 1}):
        run, linear, white = result.homogeneous[i], result.linear[i], result.white[i]
        table.add_row(
            *(str(i + 1), significant(exact.width[i]), significant(result.fields[i].width)),
            *(significant(exact.d[i]), _run(run, "d")),
            *(significant(exact.g[i]), _run(run, "g")),
            *(significant(exact.g_linear[i]), _run(linear, "g"), _run(white, "g")),
            *(significant(exact.r[i]), _run(run, "r")),
        )
    shown = f"every {every} layers, --json has all. " if every > 1 else ""
    return table, (
        f"{shown}A in pixels. run: measured on the homogeneous network. G and R with rectified noise; "
        "white: G with white noise on the image."
    )


def _run(layer: "LayerSensitivity", measure: str) -> str:
    return with_error(getattr(layer, measure), getattr(layer, f"{measure}_stderr")).replace(" ", "")


def _exponents(result: "TheoryResult") -> "tuple[Table, str]":
    """Fits to the exact and to the measured curve, beside the paper's exponents."""
    from timm_diffsens.theory.report import theory_exponents

    table = plain_table(("exponent of", "asymptotic", "exact", "measured", "from images"), gap=1)
    for name, found in theory_exponents(result).items():
        measured = found.measured
        spread = "" if measured is None or measured.sampling is None else f"± {measured.sampling:.2g}"
        fits = _exponent(found.exact), _exponent(measured)
        table.add_row(_NAMES[name], f"{found.asymptotic:g}", *fits, spread)
    fitted = result.setting.fitted
    return table, (
        f"Least squares on logs over layers {fitted[0]} to {fitted[-1]}, ± standard error of the slope. "
        "From images: standard error from which images were drawn."
    )


def _infinite(result: "TheoryResult") -> "tuple[Table, str]":
    """Random networks of infinite width: first and last layer, and exponents."""
    from timm_diffsens.theory.report import fit_of

    titles = [title for name in ("no biases", "biases") for title in (f"{name}: layer 1", "last", "exponent")]
    table = plain_table(("", *titles), gap=1)
    for m in "dgr":
        cells = []
        for layers in result.infinite.values():
            fit = fit_of(result.setting, layers, m, result.setting.pooling)
            cells += [significant(getattr(layer, m)) for layer in (layers[0], layers[-1])]
            cells.append(PLAIN.decimals(fit.value if fit else None))
        table.add_row(_NAMES[m], *cells)
    pooling = result.setting.pooling
    return table, (
        f"Biases: N(0, 1), with a gain of sqrt F. Exponents over layers {pooling[0]} to {pooling[-1]}; "
        "--json has all layers."
    )


def _margins(result: "TheoryResult", largest: "MarginResult") -> "tuple[Table, str]":
    """Filters of the network of largest margin, and its D, G and R beside the exact homogeneous ones."""
    table, exact, found = plain_table(_MARGIN, gap=1), result.exact, largest.found
    for k, layer in enumerate(largest.layers):
        share, bias = found.free.constant_shares[k], found.free.biases[k]
        pairs = [(_run(layer, m), significant(getattr(exact, m)[k])) for m in "dgr"]
        table.add_row(
            str(k + 1), f"{share:.4f}", significant(bias), *(cell for pair in pairs for cell in pair)
        )
    both = {m: (largest.exponents[m], largest.exact[m]) for m in "dgr"}
    values = {m: [PLAIN.decimals(fit.value if fit else None) for fit in fits] for m, fits in both.items()}
    fits = ", ".join(f"{_NAMES[m]} {own} ({exact})" for m, (own, exact) in values.items())
    pooling = result.setting.pooling
    return table, (
        f"Normalised margin {found.free.margin:.4g}, of homogeneous filters {found.homogeneous.margin:.4g}. "
        f"Share: of the constant mode in the filter. Exponents over layers {pooling[0]} to {pooling[-1]} "
        f"(exact, homogeneous): {fits}."
    )


def _trained(found: "TrainedCurves") -> "tuple[Table, str]":
    """Exponents of the trained network beside the homogeneous one's."""
    from timm_diffsens.theory.trained import CURVES, homogeneous_exponents, trained_exponents

    homogeneous = homogeneous_exponents(found)
    table = plain_table(("exponent of", "homogeneous", *CURVES), gap=1)
    for measure, fits in trained_exponents(found).items():
        exact = homogeneous[measure]
        cells = (_exponent(fits[curve], 2) for curve in CURVES)
        table.add_row(_NAMES[measure], PLAIN.decimals(exact.value if exact else None), *cells)
    return table, (
        f"Fitted over layers {found.fitted[0]} to {found.fitted[-1]}: mean over seeds ± its standard error; "
        "homogeneous: exact, over the same layers."
    )


def _exponent(found: "Exponent | SeedExponent | None", decimals: int = 3) -> str:
    return MISSING if found is None else fixed_error(found.value, found.stderr, decimals)


def _diffusion_table(rows: "Sequence[Diffusion]") -> "Table":
    titles = ("F", "D printed", "D exact", "v printed", "v exact", "width printed", "exact", "measured")
    table = plain_table(titles, gap=1)
    for row in rows:
        constants = (row.constant_printed, row.constant_exact, row.drift_printed, row.drift_exact)
        widths = (row.width_printed, row.width_exact, row.width_measured)
        table.add_row(str(row.filter_size), *(f"{value:.4g}" for value in (*constants, *widths)))
    return table
