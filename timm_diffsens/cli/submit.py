"""`diffsens submit`: a branch with new records, ready to be pushed."""

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from timm_diffsens.cli.output import OUT, Json, Out, Quiet, print_json, result_console
from timm_diffsens.cli.show import find


def submit(
    records: Annotated[
        list[str],
        typer.Argument(metavar="RECORD...", help="New ones: files, models' names or starts of keys."),
    ],
    repository: Annotated[
        Path, typer.Option("--repository", metavar="DIR", help="A clone of the project that keeps the board.")
    ] = Path(),
    board: Annotated[
        Path, typer.Option("--board", metavar="DIR", help="The board's folder in there.")
    ] = Path("leaderboard"),
    out: Out = OUT,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Prepare a change that adds records to a board: a branch with them and the rebuilt board, and its text.

    Records that would not fit are refused, each with the reason. Nothing is pushed, and what is checked out
    stays as it is.
    """
    from timm_diffsens.results.submit import submit as prepare

    made = prepare([find(text, out / "records") for text in records], repository, board)
    if as_json:
        print_json(asdict(made))
        return
    console = result_console()
    for line in [made.title, "", *made.description.splitlines(), ""]:
        console.print(line, soft_wrap=True)
    console.print(f"branch {made.branch}: {len(made.files)} files, commit {made.commit[:12]}", soft_wrap=True)
    console.print(f"send it: {made.push}", soft_wrap=True)
    for line in (
        "where the repository has docs/render.py, run it on the branch first: pages show the records",
        "and open a change with the text above, in which what is TO BE FILLED IN is said",
    ):
        console.print(line, soft_wrap=True)
