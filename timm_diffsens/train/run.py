"""Recipe -> trained network, its files, and what it reached."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from torch import nn

from timm_diffsens import registry
from timm_diffsens.device import devices, environment
from timm_diffsens.errors import DiffsensError, UsageError
from timm_diffsens.files import check_writable_folder, slug, write_atomic
from timm_diffsens.models.arguments import ModelArguments
from timm_diffsens.models.checkpoints import round_to_half, save_checkpoint
from timm_diffsens.models.loading import InputOptions, LoadedModel, load_model
from timm_diffsens.perturb.diffeo import Diffeo
from timm_diffsens.perturb.pixels import ActivePixels
from timm_diffsens.schema.training import DEFAULTS, TrainOptions
from timm_diffsens.sensitivities.perturbed import Perturbation, PerturbedImages, batches_of
from timm_diffsens.sensitivities.run import run_pass
from timm_diffsens.train.data import Images, TaskData, TaskLoader
from timm_diffsens.train.loop import Progress, Session, State, fit, ignored
from timm_diffsens.train.objective import error_of, normalised_margin
from timm_diffsens.train.recipe import FITTED, Recipe

Load = Callable[[Recipe], TaskData]

CHECKPOINT, CURVE, STATE, TRACK = "checkpoint.safetensors", "curve.json", "state.pt", "track.json"
_HASH_DIGITS = 8
_TRACK_IMAGES = 200


@dataclass(frozen=True)
class TrainResult:
    """A finished training.

    Attributes:
        recipe: as run. folder: of its files. checkpoint: safetensors, the recipe in its metadata.
        epoch: the epoch whose weights were kept. epochs: how many were run.
        train_error, validation_error, test_error: of those weights, fractions, without augmentation.
        test_images: how many. seconds: of training, all sessions together.
        now: whether it was trained now, or found done.
        decay_budget: up to the epoch that was kept, see `loop.State`. margin: of the weights, on the training
            images, see `objective.normalised_margin`. None in files of older versions.
    """

    recipe: Recipe
    folder: Path
    checkpoint: Path
    epoch: int
    epochs: int
    train_error: float
    validation_error: float | None
    test_error: float
    test_images: int
    seconds: float
    now: bool = True
    decay_budget: float | None = None
    margin: float | None = None

    @property
    def fitted(self) -> bool:
        """Whether the training error is at most `most`."""
        return self.train_error <= self.most

    @property
    def most(self) -> float:
        """The training error of a network that fits: what its recipe stops at, or else 1 %."""
        asked = self.recipe.until_fitted
        return FITTED if asked is None else asked

    def to_json(self) -> dict[str, Any]:
        """As plain values."""
        plain = {k: v for k, v in vars(self).items() if k not in ("recipe", "folder", "checkpoint")}
        files = {"folder": str(self.folder), "checkpoint": str(self.checkpoint)}
        return {"recipe": self.recipe.to_json(), **files, **plain, "fitted": self.fitted}


def run_folder(out: str | Path, recipe: Recipe) -> Path:
    """`OUT/<task>/<model>.<hash of the recipe>.seed<seed>`."""
    name = f"{slug(recipe.model)}.{recipe.sha256[:_HASH_DIGITS]}.seed{recipe.seed}"
    return Path(out) / recipe.task / name


def train(
    recipe: Recipe,
    config: TrainOptions = DEFAULTS,
    *,
    load: Load | None = None,
    progress: Progress = ignored,
) -> TrainResult:
    """Train one network; what `diffsens train` does.

    Args:
        recipe: what is trained and how; what `config` says of that (`train.recipe.recipes_of`) is ignored.
        config: where. The files go to `run_folder(config.out, recipe)`: an interrupted training is resumed
            there, a finished one is not repeated. D, G and R are tracked on 200 test images.
        load: gives the images, where trainings share a `TaskLoader`.
        progress: called with each epoch's row of the error curve.

    Raises:
        UsageError: wrong arguments. DivergedError: the loss became no number.

    Example:
        >>> import tempfile
        >>> from timm_diffsens.schema.training import TrainOptions
        >>> from timm_diffsens.train.recipe import Recipe
        >>> from timm_diffsens.train.run import train
        >>> recipe = Recipe("scale1", "net/lenet", epochs=1, train_images=128)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     result = train(recipe, TrainOptions(out=folder))
        >>> result.epochs, 0 <= result.test_error <= 1
        (1, True)
    """
    tracked = tracked_epochs(config.track, recipe.epochs or 0)
    folder = run_folder(config.out, recipe)
    check_writable_folder(folder)
    if config.force:
        for name in (STATE, CURVE, CHECKPOINT, TRACK):
            (folder / name).unlink(missing_ok=True)
    done = read_result(folder, recipe)
    if done is not None:
        (folder / STATE).unlink(missing_ok=True)
        return done
    target = devices.resolve_device(config.device)
    recipe.check_device(target)
    data = (load or TaskLoader(config, target))(recipe).to(target)
    loaded = build(recipe, data)
    module = loaded.module.to(target)
    watch = partial(_track, folder / TRACK, data, recipe, tracked)
    with registry.beside(loaded.home):
        state = fit(module, data, recipe, Session(folder / STATE, watch, progress, config.graph))
        return _finish(folder, recipe, loaded, data, state)


def tracked_epochs(asked: str | None, epochs: int) -> list[int]:
    """Epochs to measure at: `auto` means 0, 1, 2, 4, 8, ... and the last.

    Raises:
        UsageError: neither `auto` nor epochs of the training, with commas.
    """
    if asked is None:
        return []
    if asked == "auto":
        return sorted({0, *(2**k for k in range(epochs.bit_length())), epochs})
    try:
        chosen = sorted({int(part) for part in asked.split(",") if part.strip()})
    except ValueError:
        raise UsageError(f"--track must be auto or epochs such as 0,1,10; got {asked!r}") from None
    if not chosen or chosen[0] < 0 or chosen[-1] > epochs:
        raise UsageError(f"--track: epochs are from 0 to {epochs}, got {asked!r}")
    return chosen


def build(recipe: Recipe, data: TaskData) -> LoadedModel:
    """The recipe's architecture with fresh weights, for the task's input and outputs."""
    spec, given = data.input, recipe.arguments.to_json()
    given |= {"in_chans": spec.channels, "num_classes": data.outputs, "size": spec.width}
    if recipe.detection is not None and recipe.detection.dims == 1:
        given["dims"] = 1
    options = InputOptions(size=(spec.height, spec.width), mean=spec.mean, std=spec.std)
    arguments = ModelArguments.from_json(given)
    return load_model(
        recipe.model, pretrained=False, seed=recipe.seed, input_options=options, arguments=arguments
    )


def read_result(folder: Path, recipe: Recipe) -> TrainResult | None:
    """The result of a finished training; None if it is not finished, or its files are damaged."""
    try:
        found = json.loads((folder / CURVE).read_text())
        matches = found["recipe_sha256"] == recipe.sha256 and (folder / CHECKPOINT).is_file()
        values = found["result"]
        return TrainResult(recipe, folder, folder / CHECKPOINT, **values, now=False) if matches else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _finish(folder: Path, recipe: Recipe, loaded: LoadedModel, data: TaskData, state: State) -> TrainResult:
    module = loaded.module
    if recipe.half:
        round_to_half(module)
    result: dict[str, Any] = {
        "epoch": state.best_epoch,
        "epochs": state.epoch,
        "train_error": error_of(module, data.train),
        "validation_error": error_of(module, data.validation) if len(data.validation) else None,
        "test_error": error_of(module, data.test),
        "test_images": len(data.test),
        "seconds": round(sum(float(row["seconds"] or 0) for row in state.curve), 3),
        "decay_budget": state.curve[state.best_epoch - 1].get("decay_budget"),
        "margin": normalised_margin(module, data.train) if recipe.loss == "hinge" else None,
    }
    module.cpu()
    stated = {
        "model": recipe.model,
        "arguments": loaded.arguments.to_json(),
        "input": data.input.model_dump(mode="json"),
        "training": recipe.to_json(),
        "data_sha256": data.sha256,
        "data_note": data.note,
        **result,
    }
    save_checkpoint(module, folder / CHECKPOINT, stated, half=recipe.half)
    device = data.train.x.device
    _write_json(
        folder / CURVE,
        {
            "recipe": recipe.to_json(),
            "recipe_sha256": recipe.sha256,
            "curve": state.curve,
            "result": result,
            "environment": environment.describe(device, recipe.batch_size or 0, []).model_dump(mode="json"),
        },
    )
    (folder / STATE).unlink(missing_ok=True)  # last: until here it can be done again
    return TrainResult(recipe, folder, folder / CHECKPOINT, **result)


def _track(
    path: Path, data: TaskData, recipe: Recipe, epochs: list[int], epoch: int, module: nn.Module
) -> None:
    """Measure D, G and R of every block at chosen epochs, on the first test images."""
    if epoch not in epochs:
        return
    try:
        rows = [row for row in json.loads(path.read_text()) if row["epoch"] < epoch]  # run twice after a kill
    except (OSError, ValueError, TypeError):
        rows = []
    task = recipe.detection
    perturbation = Perturbation((ActivePixels(task) if task else Diffeo(),))
    test = Images(data.test.x[:_TRACK_IMAGES], data.test.y[:_TRACK_IMAGES])
    try:
        layers = run_pass(module, PerturbedImages(batches_of(test.x.cpu()), perturbation)).layers[0]
        error = error_of(module, test)
    except DiffsensError as fault:
        raise UsageError(f"{recipe.model} cannot be tracked: {fault}") from fault
    plain = [layer.rounded().model_dump(mode="json") for layer in layers]
    _write_json(path, [*rows, {"epoch": epoch, "test_error": error, "layers": plain}])


def _write_json(path: Path, value: Any) -> None:
    write_atomic(path, (json.dumps(value, indent=1, allow_nan=False) + "\n").encode())
