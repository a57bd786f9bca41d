"""A callback for Lightning, of the package `lightning` as of `pytorch_lightning`."""

import importlib
import inspect
from typing import Any

from torch import nn

from timm_diffsens.errors import UsageError, listed, unknown
from timm_diffsens.integrations.loggers import Logger, log_chart, log_record
from timm_diffsens.integrations.mlflow import MLflow
from timm_diffsens.integrations.optional import missing
from timm_diffsens.integrations.tensorboard import TensorBoard
from timm_diffsens.integrations.training import Monitor
from timm_diffsens.integrations.wandb import WandB


def _bases() -> tuple[type, ...]:
    """`Callback` of each package that is installed: a trainer takes those of its own package."""
    found = []
    for package in ("lightning.pytorch", "pytorch_lightning"):
        try:
            found.append(importlib.import_module(package).Callback)
        except ImportError:
            continue
    return tuple(found)


_BASES: Any = _bases()


class Sensitivity(*_BASES):  # type: ignore[misc]
    """Lightning callback: D, G and R of every layer at the end of training epochs, see `Monitor`.

    The numbers are logged as those of the module itself, so that they are in the trainer's loggers, in the
    progress of other callbacks (`EarlyStopping("R/output")`) and in checkpoints; the chart over depth goes to
    those of the trainer's loggers that take pictures (TensorBoard, Weights & Biases, MLflow). The weights are
    to the bit those of a training without the callback.

    Args:
        images: see `Monitor`; by default taken from the trainer's first validation loader.
        module: which part of the `LightningModule` is measured (`model`, say), by default all of it.
        record: log the record of the network at the end of the training, as a file.
        options: of `Monitor`: `every`, `layers`, `measures`, `count`, `diffeo`, ...

    Attributes:
        monitor: with `history`, `rows()`, `frame()` and `figure()`; None before the training begins.

    Raises:
        UsageError: neither package is installed.
    """

    def __init__(self, images: Any = None, *, module: str = "", record: bool = False, **options: Any) -> None:
        if not _BASES:
            raise missing("lightning", "Sensitivity", "lightning")
        super().__init__()
        known = [name for name in inspect.signature(Monitor).parameters if name not in ("images", "loggers")]
        for name in options:
            if name not in known:
                raise unknown("option", name, known)
        self.module, self.with_record, self.options = module, record, options
        self.monitor: Monitor | None = None if images is None else Monitor(images, **options)
        self._state: dict[str, Any] | None = None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Take the images, if none were given, and see that module and layers can be measured.

        Raises:
            UsageError: no such part or layers, see `Monitor.check`.
        """
        if self.monitor is None:
            self.monitor = Monitor(_first_loader(trainer.val_dataloaders), **self.options)
        self.monitor.check(self._network(pl_module))
        if self._state is not None:
            self.monitor.load_state_dict(self._state)
            self._state = None

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        """Measure, if it is the epoch's turn."""
        assert self.monitor is not None
        done = self.monitor(self._network(pl_module), trainer.current_epoch)
        if done is None:
            return
        pl_module.log_dict(self.monitor.scalars(done), on_epoch=True, sync_dist=trainer.world_size > 1)
        if loggers := _with_pictures(trainer):
            log_chart(loggers, self.monitor.figure(), trainer.current_epoch)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Log the record, if it was asked for."""
        if self.with_record and self.monitor is not None:
            record = self.monitor.record(self._network(pl_module))
            log_record(record, _with_pictures(trainer), trainer.current_epoch)

    def state_dict(self) -> dict[str, Any]:
        """The history, for the checkpoint."""
        return {} if self.monitor is None else self.monitor.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """The history of the checkpoint that the training goes on from."""
        self._state = state_dict or None

    def _network(self, pl_module: nn.Module) -> nn.Module:
        try:
            return pl_module.get_submodule(self.module)
        except AttributeError:
            names = [name for name, _ in pl_module.named_modules() if name]
            parts = listed(name for name, _ in pl_module.named_children())
            raise unknown("module", self.module, names, f"{type(pl_module).__name__} has {parts}") from None


def _first_loader(loaders: Any) -> Any:
    """The first one, of what a trainer may have in the place of one.

    Raises:
        UsageError: there is none.
    """
    while isinstance(loaders, dict | list | tuple):
        loaders = next(iter(loaders.values() if isinstance(loaders, dict) else loaders), None)
    if loaders is None:
        raise UsageError("the trainer has no validation loader: Sensitivity(images) with images of your own")
    return loaders


def _with_pictures(trainer: Any) -> list[Logger]:
    """Those of the trainer's loggers that take pictures and files, on the process that logs."""
    if not trainer.is_global_zero:
        return []
    return [found for logger in trainer.loggers if (found := _adapted(logger)) is not None]


def _adapted(logger: Any) -> Logger | None:
    kinds = {kind.__name__ for kind in type(logger).__mro__}  # of either package
    if "TensorBoardLogger" in kinds:
        return TensorBoard(logger.experiment)
    if "WandbLogger" in kinds:
        return WandB(logger.experiment)
    if "MLFlowLogger" in kinds:
        return MLflow(logger.run_id, logger.experiment)
    return None
