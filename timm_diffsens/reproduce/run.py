"""Targets one after the other: each is written as soon as it is made, and the page of all that are there."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from timm_diffsens.errors import DiffsensError
from timm_diffsens.files import write_atomic
from timm_diffsens.reproduce.page import html_page, markdown_page
from timm_diffsens.reproduce.reports import Report, read_reports, write_report
from timm_diffsens.reproduce.targets import IN_PAPER, TARGETS
from timm_diffsens.reproduce.workspace import Workspace
from timm_diffsens.results.report.export import unchecked

FIGURES = "figures"


def reproduce(targets: Sequence[str], workspace: Workspace) -> Iterator[Report]:
    """Make targets; their files go to `<out>/figures/<target>/`.

    Trainings and records are kept below the same folder, so that nothing is done twice, whichever target
    needs it, and an interrupted run goes on where it was. A target that fails gives a report that says so.

    Args:
        targets: names of `targets.TARGETS`.
        workspace: with the folder.
    """
    for target in targets:
        try:
            with unchecked():
                report = TARGETS[target](workspace)
        except DiffsensError as error:
            report = Report(target, f"{target} could not be made", missing=[str(error)])
        write_report(report, workspace.out / FIGURES, workspace.settings)
        yield report


def write_pages(workspace: Workspace, markdown: Path | None = None) -> list[Path]:
    """`<out>/index.html` with all targets made so far, and the same as Markdown.

    Args:
        workspace: with the folder.
        markdown: where the Markdown goes, `<out>/README.md` by default; it links to the figures from there.

    Raises:
        DiffsensError: a file could not be written.
    """
    reports = read_reports(workspace.out / FIGURES, IN_PAPER)
    path = markdown or workspace.out / "README.md"
    pages = {
        workspace.out / "index.html": html_page(reports, workspace.out / FIGURES),
        path: markdown_page(reports, workspace.out / FIGURES, path.parent),
    }
    for file, text in pages.items():
        write_atomic(file, text.encode())
    return list(pages)
