"""The training loop: it can be resumed after a kill at any moment, with the same result.

Everything random in an epoch (order, augmentation, dropout) is a function of the seed and the epoch, so the
state is that of the network and the optimiser and nothing else. It is saved atomically after each epoch.
"""

import copy
import io
import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from timm_diffsens.device import seeding
from timm_diffsens.device.precision import FULL
from timm_diffsens.errors import MeasurementError, UsageError, warn
from timm_diffsens.files import write_atomic
from timm_diffsens.perturb.streams import stream
from timm_diffsens.train.data import TaskData
from timm_diffsens.train.objective import error_of, fitted_error
from timm_diffsens.train.recipe import Recipe
from timm_diffsens.train.steps import Steps, capture_graph, own_stream

_NEARLY_FITTED = 0.05  # running training error from which on it is worth a pass over all training images

Row = dict[str, float | int | None]
Watch = Callable[[int, nn.Module], None]  # epochs done, the network in evaluation mode
Progress = Callable[[Row], None]


def ignored(*_: object) -> None:
    """Does nothing: the default watch and progress."""


class DivergedError(MeasurementError):
    """The loss is no longer a number."""


@dataclass
class State:
    """A training between two epochs.

    Attributes:
        epoch: epochs done.
        best: weights of the latest epoch with the least validation error (of the latest one without a
            validation set, or where the training is one until fitted), and what that epoch and error were.
            improved: the latest epoch that was better than all before.
        curve: a row an epoch: epoch, lr, loss, train_error (running, on augmented images), decay_budget (sum
            over all steps up to here of learning rate times weight decay, of SGD over 1 - momentum: what
            decays alone is left with exp of minus that; None with Adam, whose coupled decay is no rate, and
            where earlier rows are of a version without it), validation_error, seconds; trained until fitted,
            also fitted_error: that on all training images of the weights that would be kept, None while the
            running one is above 5 %.
    """

    model: dict[str, torch.Tensor]
    optimizer: dict[str, Any]
    best: dict[str, torch.Tensor]
    epoch: int = 0
    best_epoch: int = 0
    best_error: float | None = None
    improved: int = 0
    curve: list[Row] = field(default_factory=list)

    def save(self, path: Path, recipe: Recipe) -> None:
        """Write atomically."""
        buffer = io.BytesIO()
        torch.save({**vars(self), "recipe": recipe.sha256}, buffer)
        write_atomic(path, buffer.getvalue())

    @classmethod
    def load(cls, path: Path, recipe: Recipe) -> "State | None":
        """What was saved for this very recipe; None where there is nothing, or it cannot be read."""
        try:
            found = torch.load(path, map_location="cpu", weights_only=True)
        except FileNotFoundError:
            return None
        except Exception as error:  # a damaged file fails in many ways
            warn(f"{path.name} cannot be read ({type(error).__name__}): training starts anew")
            return None
        if not isinstance(found, dict) or found.pop("recipe", None) != recipe.sha256:
            return None
        return cls(**found)


@dataclass(frozen=True)
class Session:
    """What surrounds a training and changes none of its numbers beyond rounding.

    Attributes:
        state_file: where the state is saved after each epoch, and resumed from.
        watch: called before the first epoch, after each one, and where a training is resumed.
        progress: called with each new row.
        graph: on CUDA, replay steps as a CUDA graph where the network allows it.
    """

    state_file: Path | None = None
    watch: Watch = ignored
    progress: Progress = ignored
    graph: bool = True


def fit(module: nn.Module, data: TaskData, recipe: Recipe, session: Session = Session()) -> State:
    """Train a module in place, on its device; it ends with the selected weights.

    Args:
        module: with fresh weights.
        data: on the same device.
        recipe: how.
        session: where its state is saved, and who is told of it.

    Raises:
        DivergedError: the loss became infinite or no number; the state of the last good epoch is kept.
    """
    device = data.train.x.device
    if recipe.channels_last:
        module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimizer = make_optimizer(module, recipe)
    file = session.state_file
    state = State.load(file, recipe) if file else None
    if state is None:
        weights = _weights(module)
        state = State(weights, optimizer.state_dict(), weights)
    module.load_state_dict(state.model)
    optimizer.load_state_dict(state.optimizer)
    module.eval()
    session.watch(state.epoch, module)  # of a resumed training again: the kill may have come before it
    with FULL.applied(device), own_stream(device):
        capture = capture_graph if session.graph and device.type == "cuda" else None
        steps = Steps(module, data.train, recipe, capture)
        while state.epoch < _last_epoch(recipe, state):
            row = _epoch(steps, optimizer, data, state)
            _advance(state, module, optimizer, row)
            if file:
                state.save(file, recipe)
            session.progress(row)
            module.eval()
            session.watch(state.epoch, module)
    module.load_state_dict(state.best)
    module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    module.eval()
    return state


def make_optimizer(module: nn.Module, recipe: Recipe) -> torch.optim.Optimizer:
    """SGD, Adam (L2 penalty in the gradient) or AdamW (decoupled decay: Loshchilov and Hutter 2019).

    A mean-field network divides its output by its width H, and with it all gradients: SGD multiplies the
    learning rate by H, and divides the decay by H, so that both act on the scale of the weights: a step of
    plain SGD takes lr * decay of a weight, at any width. Adam is invariant to the scale of gradients.

    What does not decay (`Recipe.decay`) is in a second group of parameters.
    """
    lr, decay = recipe.lr or 0.0, recipe.weight_decay or 0.0
    groups = _groups(module, recipe)
    if recipe.optimizer != "sgd":
        adam = torch.optim.Adam if recipe.optimizer == "adam" else torch.optim.AdamW
        return adam(groups, lr=lr, weight_decay=decay)
    scale = float(getattr(module, "lr_scale", 1.0))
    return torch.optim.SGD(groups, lr=lr * scale, momentum=recipe.momentum, weight_decay=decay / scale)


def _groups(module: nn.Module, recipe: Recipe) -> list[dict[str, Any]]:
    if recipe.decay == "all":
        return [{"params": list(module.parameters())}]
    filters = {part.weight for part in module.modules() if isinstance(part, _ConvNd)}
    groups: tuple[list[nn.Parameter], ...] = ([], [])
    for parameter in module.parameters():
        decays = parameter in filters if recipe.decay == "filters" else parameter.ndim > 1
        groups[not decays].append(parameter)
    if recipe.weight_decay and not groups[0]:
        raise UsageError(f"--decay {recipe.decay}: {recipe.model} has none, so that nothing would decay")
    return [{"params": groups[0]}, {"params": groups[1], "weight_decay": 0.0}]


def learning_rate(recipe: Recipe, epoch: int) -> float:
    """Of an epoch (from 0), as a multiple of the first: constant, or cosine annealing to zero."""
    if recipe.schedule == "constant":
        return 1.0
    return (1 + math.cos(math.pi * epoch / (recipe.epochs or 1))) / 2


def _last_epoch(recipe: Recipe, state: State) -> int:
    most = recipe.epochs or 0
    error = state.curve[-1].get("fitted_error") if state.curve else None
    if recipe.until_fitted is not None and error is not None and error <= recipe.until_fitted:
        return state.epoch
    if recipe.after_zero is not None:
        zero = next((int(row["epoch"] or 0) for row in state.curve if row["loss"] == 0), most)
        return min(most, recipe.after_zero * zero)
    return most if recipe.patience is None else min(most, max(state.improved, 1) + recipe.patience)


def _epoch(steps: Steps, optimizer: torch.optim.Optimizer, data: TaskData, state: State) -> Row:
    module, recipe, epoch = steps.module, steps.recipe, state.epoch
    clock, factor = time.perf_counter(), learning_rate(recipe, epoch)
    for group in optimizer.param_groups:
        group["lr"] = optimizer.defaults["lr"] * factor
    rng = stream(recipe.seed, "epoch", epoch)
    module.train()
    with seeding.seeded(int(rng.integers(2**63))):
        loss, wrong = steps.epoch(optimizer, rng)
    if not math.isfinite(loss):
        raise DivergedError(
            f"{recipe.model} diverged in epoch {epoch + 1}: the loss is {loss}; try a lower --lr than "
            f"{recipe.lr:g}"
        )
    rate = (recipe.lr or 0.0) * factor
    row: Row = {
        "epoch": epoch + 1,
        "lr": rate,
        "loss": loss,
        "train_error": wrong,
        "decay_budget": _decay_budget(state, recipe, rate * steps.in_epoch),
        "validation_error": error_of(module, data.validation) if len(data.validation) else None,
    }
    if recipe.until_fitted is not None:
        near = wrong <= _NEARLY_FITTED
        row["fitted_error"] = fitted_error(module, data.train, recipe) if near else None
    return {**row, "seconds": round(time.perf_counter() - clock, 3)}


def _decay_budget(state: State, recipe: Recipe, rates: float) -> float | None:
    """That of the curve's last row and of an epoch with this sum of learning rates; see `State.curve`."""
    before = state.curve[-1].get("decay_budget") if state.curve else 0.0
    if before is None or recipe.optimizer == "adam":
        return None
    carried = 1 - recipe.momentum if recipe.optimizer == "sgd" else 1.0
    return before + rates * (recipe.weight_decay or 0.0) / carried


def _advance(state: State, module: nn.Module, optimizer: torch.optim.Optimizer, row: Row) -> None:
    state.epoch += 1
    state.curve.append(row)
    state.model, state.optimizer = _weights(module), copy.deepcopy(optimizer.state_dict())
    error = None if "fitted_error" in row else row["validation_error"]  # the last is kept, not the best
    if error is None or state.best_error is None or error < state.best_error:
        state.improved = state.epoch
    if error is None or state.best_error is None or error <= state.best_error:
        state.best, state.best_epoch, state.best_error = state.model, state.epoch, error


def _weights(module: nn.Module) -> dict[str, torch.Tensor]:
    return {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in module.state_dict().items()
    }
