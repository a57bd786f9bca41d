"""`diffsens demo`: the whole chain on built-in data, in a few minutes."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from timm_diffsens.cli.output import Json, Quiet, print_json, progress_bars, progress_console, result_console
from timm_diffsens.schema import limits

if TYPE_CHECKING:
    from timm_diffsens.schema.records import Record
    from timm_diffsens.train.demo import Progress
    from timm_diffsens.train.recipe import Recipe
    from timm_diffsens.train.run import TrainResult


def demo(
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="Gets records, page and weights.")] = Path(
        "demo"
    ),
    epochs: Annotated[int, typer.Option("--epochs", min=1, max=limits.EPOCHS, help="Of each training.")] = 25,
    seed: Annotated[
        int, typer.Option("--seed", min=0, max=limits.SEED, help="Of weights, images and order.")
    ] = 0,
    device: Annotated[str, typer.Option("--device", help="auto, cpu, cuda or cuda:i.")] = "auto",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train small networks on scale detection, measure them, and build the leaderboard with its page.

    It takes about two minutes on two cores; a run that was interrupted goes on where it was.
    """
    from timm_diffsens.device import allocator, devices
    from timm_diffsens.files import check_writable_folder
    from timm_diffsens.results.board import write_board
    from timm_diffsens.results.stats.leaderboard import Choices, build_leaderboard
    from timm_diffsens.train.demo import demo_recipes, run_demo

    allocator.prepare()
    devices.resolve_device(device)
    check_writable_folder(out / "records")
    recipes = demo_recipes(epochs, seed)
    done = []
    if not as_json and not quiet:
        progress_console().print(f"{len(recipes)} networks, some two minutes on two cores", soft_wrap=True)
    with _progress(recipes, quiet) as progress:
        for training, record in run_demo(out, recipes, device=device, progress=progress):
            done.append(training.to_json())
            if not as_json:
                _print(training, record)
    board = build_leaderboard(out, Choices(resamples=500))
    written = write_board(board, out)
    if as_json:
        print_json({"trainings": done, "written": [str(path) for path in written]})
        return
    from timm_diffsens.cli.board import print_board

    print_board(board)
    result_console().print(f"Open {out / 'index.html'} for the page.", soft_wrap=True)
    next_steps = "Next, a model of your own, any timm name or file.py:factory, on a folder of images:"
    for line in (next_steps, "diffsens bench resnet18 --dataset folder --data-dir FOLDER"):
        result_console().print(line, soft_wrap=True)


def _print(training: "TrainResult", record: "Record") -> None:
    output = record.output
    values = "  ".join(
        f"{name} = {value:.3g}" if value is not None else f"{name} = none"
        for name, value in (("D", output.d), ("G", output.g), ("R", output.r))
    )
    result_console().print(
        f"{training.recipe.model:14} train {training.train_error:6.1%}  test {training.test_error:6.1%}  "
        f"{values}  ({f'{training.seconds:.0f} s' if training.now else 'done before'})",
        soft_wrap=True,
    )


@contextmanager
def _progress(recipes: "list[Recipe]", quiet: bool) -> Iterator["Progress"]:
    """On standard error one bar over all epochs; without a terminal a line as each network begins."""
    position = {recipe.model: k for k, recipe in enumerate(recipes)}
    console = progress_console()
    with progress_bars(quiet) as bars:
        bar = bars.add_task("training", total=sum(recipe.epochs or 0 for recipe in recipes))

        def show(model: str, row: dict[str, float | int | None]) -> None:
            before = sum(recipe.epochs or 0 for recipe in recipes[: position[model]])
            here = f"{position[model] + 1} of {len(recipes)}"
            if not row["epoch"] and not quiet and not console.is_terminal:
                console.print(f"{here}: {model}", soft_wrap=True)
            text = f"{model}, {here}, epoch {row['epoch']}"
            bars.update(bar, completed=before + int(row["epoch"] or 0), description=text)

        yield show
