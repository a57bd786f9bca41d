"""Everything that `diffsens train` can be asked for."""

from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from timm_diffsens.schema import limits
from timm_diffsens.schema.config import MODEL, RUNNING, Copies, Options, option, options

_task = partial(option, section="Task")
_model = partial(option, section=MODEL)
_how = partial(option, section="Optimisation")
_running = partial(option, section=RUNNING)


_WIDTH, _DEPTH, _FILTER, _STRIDE = (
    Field(le=limits.ARGUMENTS[name]) for name in ("width", "depth", "filter", "stride")
)
Images = Annotated[int | None, Field(le=limits.IMAGES)]
Epochs = Annotated[int | None, Field(le=limits.EPOCHS)]


class TrainOptions(Options):
    """The command line's form of a `Recipe`, and where it is run; None leaves a value to the recipe."""

    dims: int | None = _task(None, "1 or 2 dimensions.")
    size: int | None = _task(None, "Side of the images.", "pixels")
    xi: float | None = _task(None, "scale1: the distance; scale2: side of a patch.", "pixels")
    gap: float | None = _task(None, "scale1: distances around xi that are left out.", "pixels")
    train_images: Images = _task(None, "How many, chosen by the seed.")
    validation_images: Images = _task(None, "Held out to choose the epoch; 0: none.")
    corruption: float = _task(
        0.0,
        "Standard deviation of noise that is fixed for each image, in units of the network's input.",
        recorded="corrupt",
        metavar="SIGMA",
        aliases=("corrupt",),
    )
    data_dir: Path | None = _task(None, "cifar10: folder of the images.", metavar="DIR")
    test_dir: Path | None = _task(None, "Its test images, if elsewhere.", metavar="DIR")
    download: bool = _task(False, "Fetch cifar10.")
    width: Annotated[int | None, _WIDTH] = _model(None, "Channels, of the networks that have it.")
    depth: Annotated[int | None, _DEPTH] = _model(None, "Layers of net/simple.")
    filter: Annotated[int | None, _FILTER] = _model(None, "Filter size of net/simple.")
    stride: Annotated[int | None, _STRIDE] = _model(None, "Stride of net/simple.")
    bias: str | None = _model(None, "Biases of net/simple: none, last or all.")
    bias_mean: float | None = _model(None, "Mean of its initial biases, but of the read-out's.")
    bias_std: float | None = _model(None, "Their standard deviation.")
    weight_mean: float | None = _model(None, "Mean of its initial filters, times sqrt(fan in).")
    weight_std: float | None = _model(None, "Standard deviation of its initial filters.")
    readout_mean: float | None = _model(None, "Mean of its initial read-out.")
    gain: float | None = _model(None, "What the outputs of its layers are multiplied by.")
    epochs: Epochs = _how(None, "Of training, and of the schedule if it stops before.")
    batch_size: Annotated[int | None, Field(le=limits.BATCH)] = _how(None, "Images a step.")
    optimizer: str | None = _how(None, "sgd, adam or adamw.")
    lr: float | None = _how(None, "Learning rate.")
    momentum: float = _how(0.9, "Momentum of sgd.")
    weight_decay: float | None = _how(None, "L2 penalty; of adamw, decoupled decay.")
    decay: str = _how("all", "What decays: all parameters, weights (filters and matrices) or filters.")
    schedule: str = _how("cosine", "cosine or constant.")
    loss: str | None = _how(None, "hinge or cross-entropy.")
    augment: bool = _task(True, "cifar10: translations and flips.")
    patience: Epochs = _how(None, "Stop after so many epochs without a better one.")
    after_zero: Epochs = _how(
        None, "Stop at so many times the epoch at which the training loss reached zero.", metavar="N"
    )
    until_fitted: bool = _how(
        False,
        "Stop once the training error, in evaluation mode and without augmentation, is at most --fitted-at, "
        "after --epochs at the latest; the schedule runs over --epochs and is cut.",
    )
    fitted_at: float = _how(0.001, "Share of the training images.", metavar="ERROR")
    amp: bool = _how(False, "Train in bfloat16 (autocast).", aliases=("bfloat16",))
    channels_last: bool = _how(False, "CUDA: weights and images with the channels innermost.")
    half: bool = _how(False, "Round the trained weights to float16: small files.")
    seed: int = _how(0, "Of weights, images and order.")
    seeds: Copies = _how(1, "Train so many, from --seed on.", metavar="N")
    track: str | None = _running(None, "Measure D, G and R after these epochs.", metavar="auto|E,...")
    device: str = _running("auto", "auto, cpu, cuda or cuda:i.")
    graph: bool = _running(True, "CUDA: replay the steps as a CUDA graph.")
    out: Path = _running(Path("runs"), "Files go below DIR/TASK.", metavar="DIR")
    force: bool = _running(False, "Train again what is done.")

    def chosen(self, kind: type) -> dict[str, Any]:
        """The options with a value that are fields of a dataclass, under the names that it has for them."""
        known, wanted = options(TrainOptions), {field.name for field in fields(kind)}
        values = {known[name].recorded or name: value for name, value in self if value is not None}
        return {name: value for name, value in values.items() if name in wanted}


DEFAULTS = TrainOptions()
