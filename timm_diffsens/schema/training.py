"""Everything that `diffsens train` can be asked for."""

from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from timm_diffsens.schema.config import MODEL, RUNNING, Option, Options, options

_TASK, _HOW = "Task", "Optimisation"


def _of(section: str, help: str, unit: str = "", **more: Any) -> Option:
    return Option(help, section, "run", unit, **more)


class TrainOptions(Options):
    """The command line's form of a `Recipe`, and where it is run; None leaves a value to the recipe."""

    dims: Annotated[int | None, _of(_TASK, "1 or 2 dimensions.")] = None
    size: Annotated[int | None, _of(_TASK, "Side of the images.", "pixels")] = None
    xi: Annotated[float | None, _of(_TASK, "scale1: the distance; scale2: side of a patch.", "pixels")] = None
    gap: Annotated[float | None, _of(_TASK, "scale1: distances around xi that are left out.", "pixels")] = (
        None
    )
    train_images: Annotated[int | None, _of(_TASK, "How many, chosen by the seed.")] = None
    validation_images: Annotated[int | None, _of(_TASK, "Held out to choose the epoch; 0: none.")] = None
    corruption: Annotated[
        float,
        _of(
            _TASK,
            "Standard deviation of noise that is fixed for each image, in units of the network's input.",
            recorded="corrupt",
            metavar="SIGMA",
            aliases=("corrupt",),
        ),
    ] = 0.0
    data_dir: Annotated[Path | None, _of(_TASK, "cifar10: folder of the images.", metavar="DIR")] = None
    test_dir: Annotated[Path | None, _of(_TASK, "Its test images, if elsewhere.", metavar="DIR")] = None
    download: Annotated[bool, _of(_TASK, "Fetch cifar10.")] = False
    width: Annotated[int | None, _of(MODEL, "Channels, of the networks that have it.")] = None
    depth: Annotated[int | None, _of(MODEL, "Layers of net/simple.")] = None
    filter: Annotated[int | None, _of(MODEL, "Filter size of net/simple.")] = None
    stride: Annotated[int | None, _of(MODEL, "Stride of net/simple.")] = None
    epochs: Annotated[int | None, _of(_HOW, "Of training, and of the schedule if it stops before.")] = None
    batch_size: Annotated[int | None, _of(_HOW, "Images a step.")] = None
    optimizer: Annotated[str | None, _of(_HOW, "sgd, adam or adamw.")] = None
    lr: Annotated[float | None, _of(_HOW, "Learning rate.")] = None
    momentum: Annotated[float, _of(_HOW, "Momentum of sgd.")] = 0.9
    weight_decay: Annotated[float | None, _of(_HOW, "L2 penalty; of adamw, decoupled decay.")] = None
    schedule: Annotated[str, _of(_HOW, "cosine or constant.")] = "cosine"
    loss: Annotated[str | None, _of(_HOW, "hinge or cross-entropy.")] = None
    augment: Annotated[bool, _of(_TASK, "cifar10: translations and flips.")] = True
    patience: Annotated[int | None, _of(_HOW, "Stop after so many epochs without a better one.")] = None
    until_fitted: Annotated[
        bool,
        _of(
            _HOW,
            "Stop once the training error, in evaluation mode and without augmentation, is at most 1 %, "
            "after --epochs at the latest; the schedule runs over --epochs and is cut.",
        ),
    ] = False
    amp: Annotated[bool, _of(_HOW, "Train in bfloat16 (autocast).")] = False
    half: Annotated[bool, _of(_HOW, "Round the trained weights to float16: small files.")] = False
    seed: Annotated[int, _of(_HOW, "Of weights, images and order.")] = 0
    seeds: Annotated[int, Field(ge=1), _of(_HOW, "Train so many, from --seed on.", metavar="N")] = 1
    track: Annotated[
        str | None, _of(RUNNING, "Measure D, G and R after these epochs.", metavar="auto|E,...")
    ] = None
    device: Annotated[str, _of(RUNNING, "auto, cpu, cuda or cuda:i.")] = "auto"
    out: Annotated[Path, _of(RUNNING, "Files go below DIR/TASK.", metavar="DIR")] = Path("runs")
    force: Annotated[bool, _of(RUNNING, "Train again what is done.")] = False

    def chosen(self, kind: type) -> dict[str, Any]:
        """The options with a value that are fields of a dataclass, under the names that it has for them."""
        known, wanted = options(TrainOptions), {field.name for field in fields(kind)}
        values = {known[name].recorded or name: value for name, value in self if value is not None}
        return {name: value for name, value in values.items() if name in wanted}


DEFAULTS = TrainOptions()
