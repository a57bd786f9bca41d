"""`diffsens reproduce`: a figure or table of the paper, made again, and a verdict on each of its claims."""

import math
import time
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from timm_diffsens.cli.output import Json, Quiet, print_json, progress_console, result_console
from timm_diffsens.errors import UsageError

if TYPE_CHECKING:
    from timm_diffsens.reproduce.reports import Report

_BOARD = Path("leaderboard")
_TIME_UP = 3  # exit code: run the same command again


def reproduce(
    targets: Annotated[
        list[str],
        typer.Argument(
            metavar="FIGURE...", help="fig1, fig3, fig4, fig6 to fig14, table1, table2, components, or all."
        ),
    ],
    scale: Annotated[
        str, typer.Option("--scale", help="small: two cores, within the hour; paper: a GPU, days.")
    ] = "small",
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", metavar="DIR", help="Holds folders cifar10 (with train, test), imagenet."),
    ] = None,
    board: Annotated[
        Path | None,
        typer.Option(
            "--board",
            metavar="DIR",
            help="A leaderboard, whose networks are used in place of trainings and measurements. "
            f"[default: {_BOARD.as_posix()}, if there]",
            show_default=False,
        ),
    ] = None,
    checkpoints: Annotated[
        list[Path] | None,
        typer.Option(
            "--checkpoints",
            metavar="DIR",
            help="More of `diffsens train`: used where the recipe is the one needed.",
        ),
    ] = None,
    weights: Annotated[
        list[str] | None,
        typer.Option("--weights", metavar="MODEL=FILE", help="Published weights that are here already."),
    ] = None,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:i.")] = "auto",
    out: Annotated[
        Path, typer.Option("--out", metavar="DIR", help="Gets trainings, records, figures, a page.")
    ] = Path("reproduction"),
    minutes: Annotated[
        float | None,
        typer.Option(
            "--minutes",
            metavar="N",
            help="Stop after so many, with exit code 3; the same command goes on from there.",
        ),
    ] = None,
    page: Annotated[
        Path | None,
        typer.Option("--page", metavar="FILE.md", help="The page as Markdown. [default: DIR/README.md]"),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make figures and tables of arXiv 2210.01506 again, and judge what the paper says of them.

    Each target trains or loads what it needs, and writes figure, data and verdicts to DIR/figures/FIGURE.
    Nothing is trained twice: an interrupted run goes on where it was. What lacks images or weights says so;
    exit 1 if a target could not be made at all, 3 if --minutes are over before the end.
    """
    from timm_diffsens.reproduce.settings import find_settings
    from timm_diffsens.reproduce.targets import chosen

    settings, names = find_settings(scale), chosen(targets)
    kept, files = _folders(board, checkpoints or []), _weights(weights or [])
    until = _until(minutes)
    from timm_diffsens.device import allocator, devices
    from timm_diffsens.files import check_writable_folder
    from timm_diffsens.reproduce.run import reproduce as make
    from timm_diffsens.reproduce.run import write_pages
    from timm_diffsens.reproduce.workspace import TimeUpError, Workspace, find_places

    allocator.prepare()
    devices.resolve_device(device)
    places = find_places(data_dir)
    check_writable_folder(out)

    workspace = Workspace(out, settings, places, kept, checkpoints or [], files, device, until=until)
    if not quiet:
        workspace.progress = partial(progress_console().print, soft_wrap=True)
    reports, failed, over = [], 0, False
    written: list[Path] = []
    try:
        for report in make(names, workspace):
            reports.append(report)
            failed += not report.charts and not report.tables
            if not as_json:
                _print(report)
            written = write_pages(workspace, page)
    except TimeUpError:
        over = True
    if as_json:
        plain = [
            {"target": r.target, "missing": r.missing, "claims": [c.to_json() for c in r.claims]}
            for r in reports
        ]
        print_json({"scale": settings.name, "targets": plain, "written": [str(path) for path in written]})
    elif written:
        progress_console().print("written: " + ", ".join(map(str, written)), soft_wrap=True)
    if over:
        left = f"{minutes:g} minutes are over: {len(reports)} of {len(names)} figures and tables are made"
        progress_console().print(f"{left}; the same command goes on from here", soft_wrap=True)
        raise typer.Exit(_TIME_UP)
    if failed:
        raise typer.Exit(1)


def _folders(board: Path | None, checkpoints: list[Path]) -> Path | None:
    """The board, if there is one; all folders that were asked for are there."""
    for name, folder in (("board", board), *(("checkpoints", each) for each in checkpoints)):
        if folder is not None and not folder.is_dir():
            raise UsageError(f"--{name}: {folder} is no folder")
    for folder in checkpoints:
        if not any(folder.rglob("*.safetensors")):
            raise UsageError(f"--checkpoints: there is no checkpoint, *.safetensors, in {folder} or below it")
    return board or (_BOARD if _BOARD.is_dir() else None)


def _until(minutes: float | None) -> float | None:
    if minutes is not None and not (math.isfinite(minutes) and minutes > 0):
        raise UsageError(f"--minutes must be positive, got {minutes:g}")
    return None if minutes is None else time.monotonic() + 60 * minutes


def _weights(asked: list[str]) -> dict[str, Path]:
    found = {}
    for text in asked:
        model, equals, file = text.partition("=")
        if not equals or not model or not Path(file).is_file():
            raise UsageError(f"--weights {text}: expected MODEL=FILE with a file that is there")
        found[model] = Path(file)
    return found


def _print(report: "Report") -> None:
    """The title, what is missing, and a line for each claim."""
    from timm_diffsens.reproduce.page import measured, verdict

    console = result_console()
    console.print(f"{report.target}: {report.title}", style="bold", soft_wrap=True)
    for line in report.missing:
        console.print(f"  missing: {line}", soft_wrap=True)
    for claim in report.claims:
        plain = claim.to_json()
        console.print(f"  {verdict(plain)}: {claim.says} [{measured(plain)}]", soft_wrap=True)
