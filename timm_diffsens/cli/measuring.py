"""Options that the verbs which measure share, and how their values are read."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from timm_diffsens.errors import UsageError

IMAGES, MODEL, MOVES, RUN = "Images", "Model", "Perturbation and layers", "Running"


def option(*names: str, help: str, panel: str, metavar: str | None = None) -> Any:
    """A Typer option under a heading of the help page."""
    return typer.Option(*names, help=help, rich_help_panel=panel, metavar=metavar)


Pretrained = Annotated[
    bool, option("--pretrained/--no-pretrained", help="Published or random weights.", panel=MODEL)
]
Dataset = Annotated[str, option("--dataset", help="`diffsens ls datasets` lists them.", panel=IMAGES)]
DataDir = Annotated[
    Path | None, option("--data-dir", help="Where the images are.", panel=IMAGES, metavar="DIR")
]
Split = Annotated[str | None, option("--split", help="Split of the dataset.", panel=IMAGES)]
Images = Annotated[
    str, option("--images", help="How many, chosen by the seed.", panel=IMAGES, metavar="N|all")
]
FullError = Annotated[bool, option("--full-error", help="Test error over the whole split.", panel=IMAGES)]
Delta = Annotated[float, option("--delta", help="Size of the deformation in pixels.", panel=MOVES)]
Cut = Annotated[int, option("--cut", help="Cutoff of the deformation's Fourier modes.", panel=MOVES)]
Corrupt = Annotated[
    float,
    option("--corrupt", help="Noise fixed for each image, input units.", panel=MOVES, metavar="SIGMA"),
]
Seed = Annotated[int, option("--seed", help="Of sample, moves, shuffles, random weights.", panel=MOVES)]
Layers = Annotated[
    list[str] | None,
    option("--layers", help="stages, blocks (default), convs, all, or patterns.", panel=MOVES),
]
Variants = Annotated[
    list[str] | None,
    option(
        "--variants",
        help="original, channel-shuffled, mean-channel (default), mean-filter, init; or all.",
        panel=MOVES,
    ),
]
Shuffles = Annotated[int, option("--shuffles", help="Shuffled copies to average.", panel=MOVES)]
ShuffleLinear = Annotated[bool, option("--shuffle-linear", help="Shuffle linear layers too.", panel=MOVES)]
InitSamples = Annotated[int, option("--init-samples", help="Initialisations to average.", panel=MOVES)]
Device = Annotated[str, option("--device", help="auto, cpu, cuda or cuda:i.", panel=RUN)]
BatchSize = Annotated[
    str, option("--batch-size", help="Images a batch; a forward sees three times as many.", panel=RUN)
]
Amp = Annotated[bool, option("--amp", help="Forwards in bfloat16 (autocast): other numbers.", panel=RUN)]
TF32 = Annotated[bool, option("--tf32", help="Forwards in TF32 on CUDA: other numbers.", panel=RUN)]
Force = Annotated[bool, option("--force", help="Measure again what is done.", panel=RUN)]


def split_commas(values: Sequence[str] | None) -> list[str]:
    """Options that list may be given several times, or with commas."""
    return [part.strip() for value in values or [] for part in value.split(",") if part.strip()]


def whole(name: str, value: str) -> int:
    """A whole number, or a `UsageError` that names the option."""
    try:
        return int(value)
    except ValueError:
        other = {"--images": "all", "--batch-size": "auto"}.get(name)
        raise UsageError(
            f"{name} needs a whole number{f' or {other}' if other else ''}, got {value!r}"
        ) from None


def image_count(value: str) -> int | None:
    """`--images`: None stands for all."""
    return None if value == "all" else whole("--images", value)


def batch_size_given(value: str) -> int | str:
    """`--batch-size`: a number or auto."""
    return value if value == "auto" else whole("--batch-size", value)
