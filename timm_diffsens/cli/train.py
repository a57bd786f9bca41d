"""`diffsens train`: train small networks on scale detection or CIFAR-10."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from timm_diffsens.cli.options import configured
from timm_diffsens.cli.output import (
    Json,
    Quiet,
    print_error,
    print_json,
    progress_bars,
    progress_console,
    result_console,
)
from timm_diffsens.errors import DiffsensError
from timm_diffsens.schema.training import TrainOptions

if TYPE_CHECKING:
    from timm_diffsens.train.loop import Progress
    from timm_diffsens.train.recipe import Recipe
    from timm_diffsens.train.run import TrainResult


def _train(
    task: Annotated[str, typer.Argument(metavar="TASK", help="scale1, scale2 or cifar10")],
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="net/NAME, a timm name, torchvision/NAME, FILE.py:FACTORY"),
    ],
    config: TrainOptions,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train small networks: checkpoint and error curve of each; goes on where it was interrupted."""
    from timm_diffsens.device import allocator, devices
    from timm_diffsens.models.architectures import find_architecture
    from timm_diffsens.train.recipe import recipes_of
    from timm_diffsens.train.run import tracked_epochs
    from timm_diffsens.train.run import train as run

    allocator.prepare()
    devices.resolve_device(config.device)
    recipes = [recipe for model in models for recipe in recipes_of(task, model, config)]
    for recipe in recipes:
        tracked_epochs(config.track, recipe.epochs or 0)  # what is wrong with it, before anything is trained
    for model in models:
        find_architecture(model)
    results, failed = [], 0
    for recipe in recipes:
        try:
            with _progress(recipe, quiet) as progress:
                result = run(recipe, config, progress=progress)
        except DiffsensError as error:
            if len(recipes) == 1:
                raise
            print_error(f"{recipe.model}, seed {recipe.seed}: {error}")
            failed += 1
            continue
        results.append(result)
        if not as_json:
            _print(result, quiet)
    if as_json:
        print_json([result.to_json() for result in results])
    if failed:
        print_error(f"{failed} of {len(recipes)} trainings failed; the others are done")
        raise typer.Exit(1)


_train.__name__ = "train"
train = configured(_train, config=TrainOptions)


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
        progress_console().print(
            "  it did not fit its training set (error above 1 %): more --epochs, or another --lr",
            soft_wrap=True,
        )


@contextmanager
def _progress(recipe: "Recipe", quiet: bool) -> Iterator["Progress"]:
    """A bar on standard error: epochs, loss, errors; nothing without a terminal."""
    with progress_bars(quiet, "state") as bars:
        name = f"{recipe.model} seed {recipe.seed}"
        bar = bars.add_task(name, total=recipe.epochs, state="")

        def tell(row: dict[str, float | int | None]) -> None:
            held = row["validation_error"]
            text = f"loss {row['loss']:.3g}, train {row['train_error']:.1%}"
            text += "" if held is None else f", validation {held:.1%}"
            bars.update(bar, completed=int(row["epoch"] or 0), state=text)

        yield tell
