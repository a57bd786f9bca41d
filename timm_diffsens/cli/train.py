"""`diffsens train`: train small networks on scale detection or CIFAR-10."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timm_diffsens.cli.output import (
    Json,
    Quiet,
    print_error,
    print_json,
    progress_bars,
    progress_console,
    result_console,
)
from timm_diffsens.errors import DiffsensError, UsageError

if TYPE_CHECKING:
    from timm_diffsens.train.loop import Progress
    from timm_diffsens.train.recipe import Recipe
    from timm_diffsens.train.run import TrainResult

_TASK, _MODEL, _HOW, _RUN = "Task", "Model", "Optimisation", "Running"
_TRACKED = "auto"


def _option(*names: str, help: str, panel: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, metavar=metavar)


def train(
    task: Annotated[str, typer.Argument(metavar="TASK", help="scale1, scale2 or cifar10")],
    models: Annotated[
        list[str],
        typer.Argument(metavar="MODEL...", help="net/NAME, a timm name, torchvision/NAME, FILE.py:FACTORY"),
    ],
    dims: Annotated[int | None, _option("--dims", help="1 or 2 dimensions.", panel=_TASK)] = None,
    size: Annotated[int | None, _option("--size", help="Pixels a side.", panel=_TASK)] = None,
    xi: Annotated[
        float | None, _option("--xi", help="scale1: the distance; scale2: the patch.", panel=_TASK)
    ] = None,
    gap: Annotated[
        float | None, _option("--gap", help="scale1: distances around xi left out.", panel=_TASK)
    ] = None,
    train_images: Annotated[
        int | None, _option("--train-images", help="How many, chosen by the seed.", panel=_TASK)
    ] = None,
    validation_images: Annotated[
        int | None, _option("--validation-images", help="Held out to choose the epoch; 0: none.", panel=_TASK)
    ] = None,
    corrupt: Annotated[
        float,
        _option("--corrupt", help="Noise fixed for each image, input units.", panel=_TASK, metavar="SIGMA"),
    ] = 0.0,
    data_dir: Annotated[
        Path | None, _option("--data-dir", help="cifar10: where it is.", panel=_TASK, metavar="DIR")
    ] = None,
    test_dir: Annotated[
        Path | None, _option("--test-dir", help="Its test images, if apart.", panel=_TASK, metavar="DIR")
    ] = None,
    download: Annotated[bool, _option("--download", help="Fetch cifar10.", panel=_TASK)] = False,
    width: Annotated[
        int | None, _option("--width", help="Channels, of the networks that have it.", panel=_MODEL)
    ] = None,
    depth: Annotated[int | None, _option("--depth", help="Layers of net/simple.", panel=_MODEL)] = None,
    filter_size: Annotated[
        int | None, _option("--filter", help="Filter size of net/simple.", panel=_MODEL)
    ] = None,
    stride: Annotated[int | None, _option("--stride", help="Stride of net/simple.", panel=_MODEL)] = None,
    no_augment: Annotated[
        bool, _option("--no-augment", help="cifar10: no translations and flips.", panel=_TASK)
    ] = False,
    epochs: Annotated[
        int | None, _option("--epochs", help="Of training; of the schedule, if it stops before.", panel=_HOW)
    ] = None,
    batch_size: Annotated[int | None, _option("--batch-size", help="Images a step.", panel=_HOW)] = None,
    optimizer: Annotated[str | None, _option("--optimizer", help="sgd, adam or adamw.", panel=_HOW)] = None,
    lr: Annotated[float | None, _option("--lr", help="Learning rate.", panel=_HOW)] = None,
    momentum: Annotated[float, _option("--momentum", help="Of sgd.", panel=_HOW)] = 0.9,
    weight_decay: Annotated[float | None, _option("--weight-decay", help="L2.", panel=_HOW)] = None,
    schedule: Annotated[str, _option("--schedule", help="cosine or constant.", panel=_HOW)] = "cosine",
    loss: Annotated[str | None, _option("--loss", help="hinge or cross-entropy.", panel=_HOW)] = None,
    patience: Annotated[
        int | None, _option("--patience", help="Stop after so many epochs without a better one.", panel=_HOW)
    ] = None,
    until_fitted: Annotated[
        bool,
        _option(
            "--until-fitted",
            help="Stop once the training error, in evaluation mode and without augmentation, is at most 1 %, "
            "after --epochs at the latest; the schedule runs over --epochs and is cut.",
            panel=_HOW,
        ),
    ] = False,
    amp: Annotated[bool, _option("--amp", help="Train in bfloat16 (autocast).", panel=_HOW)] = False,
    half: Annotated[
        bool, _option("--half", help="Round the trained weights to float16: small files.", panel=_HOW)
    ] = False,
    seed: Annotated[int, _option("--seed", help="Of weights, images and order.", panel=_HOW)] = 0,
    seeds: Annotated[
        int, _option("--seeds", help="Train so many, from --seed on.", panel=_HOW, metavar="N")
    ] = 1,
    track: Annotated[
        str | None,
        _option(
            "--track", help="Measure D, G, R after these epochs.", panel=_RUN, metavar=f"{_TRACKED}|E,..."
        ),
    ] = None,
    device: Annotated[str, _option("--device", help="auto, cpu, cuda or cuda:i.", panel=_RUN)] = "auto",
    out: Annotated[Path, _option("--out", help="Files go below DIR/TASK.", panel=_RUN, metavar="DIR")] = Path(
        "runs"
    ),
    force: Annotated[bool, _option("--force", help="Train again what is done.", panel=_RUN)] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train small networks: checkpoint and error curve of each; goes on where it was interrupted."""
    from timm_diffsens.device import allocator, devices
    from timm_diffsens.models.architectures import find_architecture
    from timm_diffsens.models.arguments import ModelArguments
    from timm_diffsens.train.recipe import Recipe
    from timm_diffsens.train.run import train as run

    allocator.prepare()
    devices.resolve_device(device)
    if seeds < 1:
        raise UsageError(f"--seeds must be at least 1, got {seeds}")
    scale = {"dims": dims, "size": size, "xi": xi, "gap": gap}
    given = {name: value for name, value in scale.items() if value is not None}
    shape = {"width": width, "depth": depth, "filter": filter_size, "stride": stride}
    arguments = ModelArguments.from_json({k: v for k, v in shape.items() if v is not None})
    recipes = [
        Recipe(
            task,
            model,
            arguments,
            scale=given or None,
            epochs=epochs,
            batch_size=batch_size,
            optimizer=optimizer,
            lr=lr,
            momentum=momentum,
            weight_decay=weight_decay,
            schedule=schedule,
            loss=loss,
            train_images=train_images,
            validation_images=validation_images,
            augment=False if no_augment else None,
            corrupt=corrupt,
            patience=patience,
            until_fitted=until_fitted,
            amp=amp,
            half=half,
            seed=seed + k,
        )
        for model in models
        for k in range(seeds)
    ]
    for model in models:
        find_architecture(model)
    results, failed = [], 0
    for recipe in recipes:
        tracked = _tracked(track, recipe.epochs or 0)
        try:
            with _progress(recipe, quiet) as progress:
                result = run(
                    recipe,
                    out=out,
                    data_dir=data_dir,
                    test_dir=test_dir,
                    download=download,
                    device=device,
                    track=tracked,
                    force=force,
                    progress=progress,
                )
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


def _tracked(asked: str | None, epochs: int) -> list[int]:
    """Epochs to measure at: `auto` means 0, 1, 2, 4, 8, ... and the last."""
    if asked is None:
        return []
    if asked == _TRACKED:
        powers = [2**k for k in range(epochs.bit_length()) if 2**k <= epochs]
        return sorted({0, *powers, epochs})
    try:
        chosen = sorted({int(part) for part in asked.split(",") if part.strip()})
    except ValueError:
        raise UsageError(f"--track must be {_TRACKED} or epochs such as 0,1,10; got {asked!r}") from None
    if not chosen or chosen[0] < 0 or chosen[-1] > epochs:
        raise UsageError(f"--track: epochs are from 0 to {epochs}, got {asked!r}")
    return chosen


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
def _progress(recipe: "Recipe", quiet: bool) -> Iterator["Progress | None"]:
    """A bar on standard error: epochs, loss, errors; nothing without a terminal."""
    with progress_bars(quiet, "state") as bars:
        if bars is None:
            yield None
            return
        name = f"{recipe.model} seed {recipe.seed}"
        bar = bars.add_task(name, total=recipe.epochs, state="")

        def tell(row: dict[str, float | int | None]) -> None:
            held = row["validation_error"]
            text = f"loss {row['loss']:.3g}, train {row['train_error']:.1%}"
            text += "" if held is None else f", validation {held:.1%}"
            bars.update(bar, completed=int(row["epoch"] or 0), state=text)

        yield tell
