"""The files of a leaderboard, beside its records."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import altair as alt

from timm_diffsens.errors import UsageError
from timm_diffsens.files import write_atomic
from timm_diffsens.results.page.build import render_page
from timm_diffsens.results.records.memory import without_garbage_collection
from timm_diffsens.results.report.board_charts import AS_ON_THE_PAGE, Drawing, board_charts
from timm_diffsens.results.report.board_text import MARKER, csv_text, markdown
from timm_diffsens.results.report.export import FigureError, render, unchecked
from timm_diffsens.results.stats.leaderboard import Leaderboard

_GUIDE = "CONTRIBUTING.md"
FIGURE_FORMATS = ("png", "svg", "pdf")


@without_garbage_collection()
def write_board(
    board: Leaderboard, folder: Path, figures: Path | None = None, drawing: Drawing = AS_ON_THE_PAGE
) -> list[Path]:
    """Write `leaderboard.csv`, `README.md` with its `figures/*.svg`, and `index.html`; returns their paths.

    All is made before anything is written, and each file is replaced whole. Equal boards give equal bytes.

    Args:
        board: what to show.
        folder: of the leaderboard, with its records.
        figures: a folder for the charts as PNG, SVG and PDF too.
        drawing: of the charts in that folder.

    Raises:
        UsageError: `README.md` is there and not from here.
        FigureError: charts could not be drawn; everything else is written.
        DiffsensError: a file could not be written.
    """
    readme = folder / "README.md"
    if readme.exists() and not readme.read_bytes().startswith(MARKER.encode()):
        raise UsageError(f"{readme} was not written by this command, and would be lost; choose another --out")
    with unchecked():
        content = _content(board, folder, figures, drawing)
    for path, data in content.items():
        if isinstance(data, bytes):
            write_atomic(path, data)
    for data in content.values():
        if isinstance(data, FigureError):
            raise data
    return list(content)


def _content(
    board: Leaderboard, folder: Path, figures: Path | None, drawing: Drawing
) -> dict[Path, bytes | FigureError]:
    """What to write, by path, or why not. Charts are drawn outside of Python; the page is made meanwhile."""
    charts = board_charts(board)
    guide = _GUIDE if (folder / _GUIDE).exists() else None
    wanted: dict[Path, tuple[alt.TopLevelMixin, str]] = {}
    if figures is not None:
        for name, chart in board_charts(board, drawing).items():
            wanted |= {figures / f"{name}.{form}": (chart, form) for form in FIGURE_FORMATS}
    wanted |= {folder / "figures" / f"{name}.svg": (chart, "svg") for name, chart in charts.items()}
    with ThreadPoolExecutor(1) as beside:
        drawn = beside.map(lambda chart: _drawn(*chart), wanted.values())
        listed = {folder / "leaderboard.csv": csv_text(board).encode()}
        pages = {
            folder / "README.md": markdown(board, charts, guide).encode(),
            folder / "index.html": render_page(board).encode(),
        }
        return {**listed, **dict(zip(wanted, drawn, strict=True)), **pages}


def _drawn(chart: alt.TopLevelMixin, form: str) -> bytes | FigureError:
    try:
        return render(chart, form)
    except FigureError as error:
        return error
