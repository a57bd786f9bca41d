"""`diffsens leaderboard`: does R predict the test error, over all records?"""

import os
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timm_diffsens.cli.figures import Column, Only, need, panels
from timm_diffsens.cli.output import OUT, Json, Out, Quiet, print_error, print_json, progress_console
from timm_diffsens.errors import UsageError
from timm_diffsens.schema import limits

if TYPE_CHECKING:
    from timm_diffsens.results.stats.leaderboard import Choices

_RESAMPLES, _FEWEST_RESAMPLES = 2000, 100


def leaderboard(
    files: Annotated[
        list[Path] | None, typer.Argument(metavar="FILE...", help="With --check: the new records.")
    ] = None,
    out: Out = OUT,
    check: Annotated[
        bool, typer.Option("--check", help="Would these records fit on the board? Writes nothing.")
    ] = False,
    predicted: Annotated[
        str | None,
        typer.Option(
            "--predict",
            metavar="RECORD",
            help="Which test error does the board expect? A file, a model's name, or the start of a key. "
            "Writes nothing.",
        ),
    ] = None,
    errors: Annotated[
        Path | None,
        typer.Option("--errors", metavar="FILE", help="Published errors: timm's results-imagenet.csv."),
    ] = None,
    figures: Annotated[
        Path | None,
        typer.Option(
            "--figures", metavar="DIR", help="Charts as PNG, SVG and PDF too, with error bars and families."
        ),
    ] = None,
    only: Only = None,
    column: Column = None,
    names: Annotated[
        bool, typer.Option("--names", help="In those figures networks' names, in place of families.")
    ] = False,
    include_unfitted: Annotated[
        bool, typer.Option("--include-unfitted", help="Fit networks with a train error above 1 % too.")
    ] = False,
    resamples: Annotated[
        int,
        typer.Option(
            "--resamples",
            min=_FEWEST_RESAMPLES,
            max=limits.RESAMPLES,
            help="Bootstrap samples of the networks.",
        ),
    ] = _RESAMPLES,
    seed: Annotated[int, typer.Option("--seed", min=0, max=limits.SEED, help="Of the bootstrap.")] = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Correlate test error with D, G and R over DIR/records; write leaderboard.csv, README.md, index.html.

    With --predict: where the power laws of these correlations put the test error of another network.

    Exit 1 if a file below DIR/records is no record; everything else is built all the same.
    """
    if check:
        _check(files or [], out, as_json)
        return
    from timm_diffsens.results.stats.leaderboard import Choices, build_leaderboard

    if files:
        raise UsageError(f"{files[0]} is given without --check; records are read from {out / 'records'}")
    need("--figures DIR", figures, only=only, column=column, names=names)
    choices = Choices(errors, include_unfitted, resamples, seed)
    if predicted:
        _predict(predicted, out, choices, as_json)
        return
    from timm_diffsens.results.board import write_board
    from timm_diffsens.results.page.record_data import pack
    from timm_diffsens.results.report.board_charts import Drawing
    from timm_diffsens.results.report.export import FigureError, start_renderer
    from timm_diffsens.results.report.layout import Layout
    from timm_diffsens.results.report.theme import MEASURES

    shown = panels(only, tuple(MEASURES)) or list(MEASURES)
    drawing = Drawing(Layout(column), shown, "names" if names else "families")
    drawing.layout.panel(len(shown))  # or it raises, before anything is done
    start_renderer()
    board = build_leaderboard(out, choices, pack=pack, parallel=True)
    written, not_drawn = list[Path](), None
    try:
        written = [] if board.main is None else write_board(board, out, figures, drawing)
    except FigureError as error:
        not_drawn = error
    if as_json:
        from timm_diffsens.results.report.board_text import plain_board

        print_json({**plain_board(board), "written": [str(path) for path in written]})
    else:
        from timm_diffsens.cli.board import print_board

        print_board(board)
        if written:
            progress_console().print("written: " + ", ".join(map(str, written)), soft_wrap=True)
    for _, fault in board.faulty:
        print_error(f"left out: {fault}")
    if not_drawn:
        print_error(str(not_drawn))
    if board.faulty or not_drawn:
        raise typer.Exit(1)


def _predict(text: str, out: Path, choices: "Choices", as_json: bool) -> None:
    """Where the laws of the board put the network of a record."""
    from timm_diffsens.cli.board import print_prediction
    from timm_diffsens.cli.show import find
    from timm_diffsens.results.records.frames import rows_of
    from timm_diffsens.results.records.reading import load_record
    from timm_diffsens.results.stats.leaderboard import build_leaderboard
    from timm_diffsens.results.stats.prediction import predict

    record = load_record(find(text, out / "records"))
    found = predict(build_leaderboard(out, replace(choices, resamples=_FEWEST_RESAMPLES)), record)
    if as_json:
        told: dict[str, Any] = {
            "model": record.model.spec,
            "group": found.group.title,
            "family": found.family,
        }
        told |= {"family on the board": found.known, "test error": record.test_error.value}
        print_json({**told, "predictions": rows_of(found.rows), "cautions": [*found.cautions()]})
    else:
        print_prediction(found)


def _check(files: list[Path], out: Path, as_json: bool) -> None:
    """Each file with what is wrong with it; exit 1 if anything is."""
    from timm_diffsens.cli.validate import files_named, print_checked
    from timm_diffsens.results.page.record_data import pack
    from timm_diffsens.results.records.store import record_files
    from timm_diffsens.results.report.submission import submission_faults
    from timm_diffsens.results.stats.leaderboard import Choices, build_leaderboard

    if not files:
        raise UsageError("--check needs the files of new records: `diffsens leaderboard --check FILE...`")
    named, board = files_named(files), None
    aside = {os.path.realpath(path) for path in named}
    records = out / "records"
    if records.is_dir() and any(os.path.realpath(path) not in aside for path in record_files(records)):
        board = build_leaderboard(
            out, Choices(resamples=_FEWEST_RESAMPLES), without=named, pack=pack, parallel=True
        )
    print_checked({path: submission_faults(path, board) for path in named}, as_json)
