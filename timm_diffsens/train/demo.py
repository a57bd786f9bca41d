"""The whole chain on built-in data: small networks of several families, trained on task 1 and measured."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from timm_diffsens.benchmark.plan import prepare
from timm_diffsens.benchmark.run import run_once
from timm_diffsens.device.devices import resolve_device
from timm_diffsens.models.arguments import ModelArguments
from timm_diffsens.schema.config import Config
from timm_diffsens.schema.records import Record
from timm_diffsens.schema.training import TrainOptions
from timm_diffsens.train.data import TaskLoader
from timm_diffsens.train.loop import Row, ignored
from timm_diffsens.train.recipe import Recipe
from timm_diffsens.train.run import TrainResult, train

TASK = "scale1"
IMAGES = 500
# Families that pool in different ways, from not at all to all the way; narrow enough for two cores.
# The last number is the learning rate: at 0.05 the VGG without batch-norm ends at a constant output.
NETWORKS: tuple[tuple[str, ModelArguments, float], ...] = (
    ("net/fc2", ModelArguments(), 0.05),
    ("net/fc4", ModelArguments(), 0.05),
    ("net/lenet", ModelArguments(), 0.05),
    ("net/alexnet", ModelArguments(width=16), 0.05),
    ("net/vgg11", ModelArguments(width=8), 0.01),
    ("net/vgg11_bn", ModelArguments(width=8), 0.05),
    ("net/vgg13_bn", ModelArguments(width=8), 0.05),
    ("net/resnet18", ModelArguments(width=4), 0.05),
)

Progress = Callable[[str, Row], None]  # model, row of its error curve


def demo_recipes(epochs: int = 25, seed: int = 0) -> list[Recipe]:
    """Task 1 as in Fig. 8 of arXiv 2210.01506 (2-D, xi = 14, gap 2, side 32, 1,024 images)."""
    return [
        Recipe(TASK, model, arguments, epochs=epochs, seed=seed, lr=lr) for model, arguments, lr in NETWORKS
    ]


def run_demo(
    out: Path, recipes: list[Recipe], *, device: str = "auto", progress: Progress = ignored
) -> Iterator[tuple[TrainResult, Record]]:
    """Train and measure, one network after the other; what is done already is read.

    Args:
        out: gets `runs/` and `records/`.
        recipes: of the networks, see `demo_recipes`.
        device: auto, cpu, cuda or cuda:i.
        progress: called with each epoch's row, and with epoch 0 before a training.
    """
    running = TrainOptions(out=out / "runs", device=device)
    load = TaskLoader(running, resolve_device(device))
    for recipe in recipes:
        progress(recipe.model, {"epoch": 0})
        training = train(recipe, running, load=load, progress=partial(progress, recipe.model))
        options = Config(
            dataset=TASK,
            checkpoint=training.checkpoint,
            images=IMAGES,
            layers="blocks",
            variants=("original", "channel-shuffled", "mean-channel", "init"),
            device=device,
        )
        record, _, _ = run_once(prepare(recipe.model, options), out / "records")
        yield training, record
