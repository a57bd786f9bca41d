"""`diffsens reproduce`: a figure or table of the paper, made again, and a verdict on each of its claims."""

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from timm_diffsens.cli.output import Json, Quiet, print_json, progress_console, result_console
from timm_diffsens.errors import UsageError

if TYPE_CHECKING:
    from timm_diffsens.reproduce.reports import Report

_CHECKPOINTS = [Path("leaderboard") / name for name in ("checkpoints", "checkpoints-fitted")]


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
    checkpoints: Annotated[
        list[Path] | None,
        typer.Option(
            "--checkpoints",
            metavar="DIR",
            help="Of `diffsens train`: used where the recipe is the one needed. "
            f"[default: {' and '.join(folder.as_posix() for folder in _CHECKPOINTS)}, if there]",
            show_default=False,
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
    exit 1 if a target could not be made at all.
    """
    from timm_diffsens.reproduce.settings import find_settings
    from timm_diffsens.reproduce.targets import chosen

    settings, names = find_settings(scale), chosen(targets)
    folders, files = _folders(checkpoints), _weights(weights or [])
    from timm_diffsens.device import allocator, devices
    from timm_diffsens.files import check_writable_folder
    from timm_diffsens.reproduce.run import reproduce as make
    from timm_diffsens.reproduce.run import write_pages
    from timm_diffsens.reproduce.workspace import Workspace, find_places

    allocator.prepare()
    devices.resolve_device(device)
    places = find_places(data_dir)
    check_writable_folder(out)

    workspace = Workspace(out, settings, places, folders, files, device)
    if not quiet:
        workspace.progress = partial(progress_console().print, soft_wrap=True)
    reports, failed = [], 0
    for report in make(names, workspace):
        reports.append(report)
        failed += not report.charts and not report.tables
        if not as_json:
            _print(report)
        written = write_pages(workspace, page)
    if as_json:
        plain = [
            {"target": r.target, "missing": r.missing, "claims": [c.to_json() for c in r.claims]}
            for r in reports
        ]
        print_json({"scale": settings.name, "targets": plain, "written": [str(path) for path in written]})
    else:
        progress_console().print("written: " + ", ".join(map(str, written)), soft_wrap=True)
    if failed:
        raise typer.Exit(1)


def _folders(asked: list[Path] | None) -> list[Path]:
    if asked is None:
        return [folder for folder in _CHECKPOINTS if folder.is_dir()]
    for folder in asked:
        if not folder.is_dir():
            raise UsageError(f"--checkpoints: {folder} is no folder")
    return asked


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
