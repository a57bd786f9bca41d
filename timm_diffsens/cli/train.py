"""`diffsens train`: train small networks on scale detection or CIFAR-10."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timm_diffsens.cli.completion import completes
from timm_diffsens.cli.options import RUNNING, configured, option
from timm_diffsens.cli.output import (
    Json,
    Quiet,
    print_error,
    print_json,
    progress_bars,
    progress_console,
    result_console,
)
from timm_diffsens.cli.recipe_file import read_recipes
from timm_diffsens.errors import DiffsensError, UsageError
from timm_diffsens.schema.training import TrainOptions

if TYPE_CHECKING:
    from timm_diffsens.train.loop import Progress
    from timm_diffsens.train.recipe import Recipe
    from timm_diffsens.train.run import TrainResult


def _train(
    context: typer.Context,
    task: Annotated[str, typer.Argument(metavar="TASK", help="scale1, scale2 or cifar10")],
    config: TrainOptions,
    models: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="MODEL...",
            help="net/NAME, a timm name, torchvision/NAME, FILE.py:FACTORY",
            autocompletion=completes("models"),
        ),
    ] = None,
    recipes: Annotated[
        Path | None,
        option("--recipes", help="In place of MODEL...: a training a line.", panel=RUNNING, metavar="FILE"),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train small networks: checkpoint and error curve of each; goes on where it was interrupted.

    A line of FILE is what follows TASK: `net/lenet --lr 0.02 --seeds 3`. Options given here hold for the
    lines that do not say otherwise. Images are loaded once. One that fails does not stop the others.
    """
    from timm_diffsens.device import allocator
    from timm_diffsens.train.recipe import recipes_of

    allocator.prepare()
    if bool(models) == (recipes is not None):
        raise UsageError("what is to be trained? Give MODEL... or --recipes FILE, and not both")
    if recipes is not None:
        wanted = read_recipes(recipes, task, config, context.command)
    else:
        wanted = [recipe for model in models or () for recipe in recipes_of(task, model, config)]
    _check(wanted, config)
    told = _train_all(wanted, config, as_json, quiet)
    if as_json:
        print_json(told)
    failed = [_name(recipe) for recipe, each in zip(wanted, told, strict=True) if "error" in each]
    if failed:
        names = "; ".join(failed)
        print_error(f"{len(failed)} of {len(wanted)} trainings failed, the others are done: {names}")
        raise typer.Exit(1)


_train.__name__ = "train"
train = configured(_train, config=TrainOptions)


def _name(recipe: "Recipe") -> str:
    return f"{recipe.model}, seed {recipe.seed}"


def _check(recipes: "list[Recipe]", config: TrainOptions) -> None:
    """What is wrong with any of them is said before the first is trained."""
    from timm_diffsens.device import devices
    from timm_diffsens.models.architectures import find_architecture
    from timm_diffsens.train.run import tracked_epochs

    device = devices.resolve_device(config.device)
    for recipe in recipes:
        recipe.check_device(device)
        tracked_epochs(config.track, recipe.epochs or 0)
    for model, arguments in dict.fromkeys((recipe.model, recipe.arguments) for recipe in recipes):
        find_architecture(model, arguments)


def _train_all(
    recipes: "list[Recipe]", config: TrainOptions, as_json: bool, quiet: bool
) -> list[dict[str, Any]]:
    """What came of each, as JSON, printed where that is not asked for; a single one that fails raises."""
    from timm_diffsens.device import devices
    from timm_diffsens.train.data import TaskLoader
    from timm_diffsens.train.run import train as run

    load, told = TaskLoader(config, devices.resolve_device(config.device)), []
    for number, recipe in enumerate(recipes, 1):
        place = f"{number} of {len(recipes)}: " if len(recipes) > 1 else ""
        try:
            with _progress(recipe, place, quiet) as progress:
                result = run(recipe, config, load=load, progress=progress)
        except Exception as error:
            if len(recipes) == 1:
                raise
            kind = "" if isinstance(error, DiffsensError) else f"{type(error).__name__}: "
            print_error(f"{_name(recipe)}: {kind}{error}")
            told.append({"recipe": recipe.to_json(), "error": f"{kind}{error}"})
            continue
        told.append(result.to_json())
        if not as_json:
            _print(result, quiet)
    return told


def _print(result: "TrainResult", quiet: bool) -> None:
    recipe = result.recipe
    held = "" if result.validation_error is None else f", validation {result.validation_error:.2%}"
    text = (
        f"{recipe.task} {recipe.model} seed {recipe.seed}: test error {result.test_error:.2%} "
        f"({result.test_images} images), train {result.train_error:.2%}{held}; "
        f"epoch {result.epoch} of {result.epochs}, {result.seconds:.0f} s"
    )
    result_console().print(text, soft_wrap=True)
    before = "" if result.now else "trained before; --force trains again: "
    progress_console().print(f"  {before}{result.checkpoint}", soft_wrap=True)
    if not result.fitted and not quiet:
        above = f"error above {100 * result.most:g} %"
        advice = f"  it did not fit its training set ({above}): more --epochs, or another --lr"
        progress_console().print(advice, soft_wrap=True)


@contextmanager
def _progress(recipe: "Recipe", place: str, quiet: bool) -> Iterator["Progress"]:
    """A bar on standard error: epochs, loss, errors; nothing without a terminal."""
    with progress_bars(quiet, "state") as bars:
        bar = bars.add_task(place + _name(recipe), total=recipe.epochs, state="")

        def tell(row: dict[str, float | int | None]) -> None:
            held = row["validation_error"]
            text = f"loss {row['loss']:.3g}, train {row['train_error']:.1%}"
            text += "" if held is None else f", validation {held:.1%}"
            bars.update(bar, completed=int(row["epoch"] or 0), state=text)

        yield tell
