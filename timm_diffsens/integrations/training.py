"""D, G and R during training: an object that any loop calls."""

import time
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import altair as alt
import numpy as np
import torch
from torch import distributed, nn
from torch.nn.parameter import is_lazy
from torch.utils.data import Dataset

from timm_diffsens.benchmark.run import bench
from timm_diffsens.data.scale import NOT_NORMALISED, check_scale
from timm_diffsens.device.precision import FULL, Precision
from timm_diffsens.device.seeding import streams_kept
from timm_diffsens.errors import UsageError, unknown
from timm_diffsens.integrations.loggers import Logger, as_loggers, log_chart, scalars
from timm_diffsens.integrations.sample import fixed_sample
from timm_diffsens.perturb.deformation import Deformation, as_deformations
from timm_diffsens.results.report.theme import MEASURES
from timm_diffsens.results.report.training_chart import training_figure
from timm_diffsens.schema.layers import LayerSensitivity
from timm_diffsens.schema.records import Record
from timm_diffsens.sensitivities.batch_size import BatchSize
from timm_diffsens.sensitivities.measure import measure
from timm_diffsens.sensitivities.probe import Forward, unwrap

if TYPE_CHECKING:
    import pandas as pd

COUNT = 128  # images of a set or a loader, by default
SECONDS = "diffsens/seconds"  # the name under which loggers get what a call cost


@dataclass(frozen=True)
class Measured:
    """One measurement during a training.

    Attributes:
        epoch: as the loop counts.
        seconds: that it took, of the wall clock.
        layers: in order of execution, as `measure` gives them.
    """

    epoch: int
    seconds: float
    layers: list[LayerSensitivity]


class Monitor:
    """D, G and R of every layer as a network is trained, on images that stay the same.

    Called with the network and the epoch from any loop. The training goes on as if it had not been called:
    the mode of every module, gradients, hooks, buffers, and the global random streams of torch (CPU and
    CUDA), numpy and Python are afterwards what they were. Where several processes train, each measures, so
    that none waits for another, and the first one logs. Hooks of the caller's own see the forwards too, and
    lazy modules get their weights, as at any first forward.

    Args:
        images: a tensor (n, c, h, w) as the network wants it, of which all are taken; or a `Dataset` or
            `DataLoader` of such images, with labels or without, of which `count` are taken at random, by
            `seed`; of a loader without a length the first ones. They are read once, and kept on the CPU.
        every: measure at epochs 0, `every`, 2 `every`, and so on.
        layers: a selection or shell patterns, see `models.layers.select_layers`.
        measures: which of `r`, `d` and `g` are logged and drawn.
        loggers: where to, one or several: `TensorBoard`, `WandB`, `MLflow`, or whatever does what `Logger`
            asks for.
        count: images to take.
        diffeo, batch_size, seed, device, precision, forward: as `measure`'s.

    Attributes:
        images: the sample. history: what was measured, in order.

    Raises:
        UsageError: wrong arguments, or fewer than two images.

    Example:
        >>> import torch
        >>> from timm_diffsens.integrations.training import Monitor
        >>> from timm_diffsens.models.nets import make_net
        >>> model, monitor = make_net("lenet"), Monitor(torch.randn(8, 3, 32, 32), every=2, layers="stages")
        >>> for epoch in range(3):  # here the training of an epoch goes first
        ...     measured = monitor(model, epoch)
        >>> [measured.epoch for measured in monitor.history]
        [0, 2]
    """

    def __init__(
        self,
        images: torch.Tensor | Iterable[Any] | Dataset[Any],
        *,
        every: int = 1,
        layers: str | Sequence[str] = "blocks",
        measures: Sequence[str] = ("r", "d", "g"),
        loggers: Logger | Sequence[Logger] = (),
        count: int = COUNT,
        diffeo: Deformation | None = None,
        batch_size: BatchSize = "auto",
        seed: int = 0,
        device: str | torch.device | None = None,
        precision: Precision = FULL,
        forward: Forward | None = None,
    ) -> None:
        if every < 1:
            raise UsageError(f"every must be at least 1, got {every}")
        for name in measures:
            if name not in MEASURES:
                raise unknown("measure", name, MEASURES)
        if diffeo is not None:
            as_deformations(diffeo)
        self.every, self.layers, self.measures = every, layers, tuple(measures)
        self.loggers = as_loggers(loggers)
        self.diffeo, self.batch_size, self.seed = diffeo, batch_size, seed
        self.device, self.precision, self.forward = device, precision, forward
        with streams_kept():
            self.images = fixed_sample(images, count, seed)
        check_scale(self.images)
        self.history: list[Measured] = []

    def __call__(self, model: nn.Module, epoch: int) -> Measured | None:
        """Measure, keep and log; None at epochs that are left out.

        Raises:
            UsageError: the model is no module, or the epoch no whole number. MeasurementError: see `measure`.
        """
        given: Any = model
        if not isinstance(given, nn.Module) or not isinstance(epoch, int | np.integer):
            got = f"({type(model).__name__}, {type(epoch).__name__})"
            raise UsageError(f"expected monitor(model, epoch), a module and a whole number, got {got}")
        if epoch % self.every:
            return None
        with streams_kept():
            begun = time.perf_counter()
            layers = self._measured(model, self.images)
            done = Measured(epoch, time.perf_counter() - begun, layers)
            self.history = [*(other for other in self.history if other.epoch != epoch), done]
            if self.loggers and is_first_process():
                for logger in self.loggers:
                    logger.scalars(self.scalars(done), epoch)
                log_chart(self.loggers, self.figure(), epoch)
        return done

    def check(self, model: nn.Module) -> None:
        """Measure two images, and leave them out of the history: what is wrong shows at once.

        What that is of layers or input is raised or warned of. The model is after it as after any call.

        Raises:
            UsageError, MeasurementError: see `measure`.
        """
        with streams_kept():
            self._measured(model, self.images[:2])

    def _measured(self, model: nn.Module, images: torch.Tensor) -> list[LayerSensitivity]:
        with buffers_kept(unwrap(model)), warnings.catch_warnings():
            warnings.filterwarnings("ignore", NOT_NORMALISED)  # said when the images were given
            return measure(
                model,
                images,
                diffeo=self.diffeo,
                layers=self.layers,
                batch_size=self.batch_size,
                seed=self.seed,
                device=self.device,
                precision=self.precision,
                forward=self.forward,
            )

    def scalars(self, measured: Measured) -> dict[str, float]:
        """What loggers get: `R/layer3` and so on, and `diffsens/seconds`."""
        return {**scalars(measured.layers, self.measures), SECONDS: measured.seconds}

    def rows(self) -> list[dict[str, Any]]:
        """A row for each epoch and layer: `epoch`, `seconds` (of the epoch), and the fields of a layer."""
        return [
            {"epoch": done.epoch, "seconds": done.seconds, **layer.model_dump()}
            for done in self.history
            for layer in done.layers
        ]

    def frame(self) -> "pd.DataFrame":
        """The rows as a table."""
        import pandas as pd

        table: pd.DataFrame = pd.DataFrame(self.rows())
        return table

    def figure(self) -> alt.TopLevelMixin:
        """The measures over depth, a line for an epoch."""
        epochs = {done.epoch: done.layers for done in self.history}
        return training_figure(epochs, self.measures, f"n = {len(self.images)} images")

    def record(self, model: nn.Module, **options: Any) -> Record:
        """The record of the network as it is now, on the same images; `loggers.log_record` logs it.

        Args:
            model: the network.
            options: of `bench`, which hold in place of the monitor's own.

        Raises:
            UsageError: the monitor has a `forward`, which records do not know.
        """
        own: dict[str, Any] = {"layers": self.layers, "batch_size": self.batch_size, "seed": self.seed}
        own |= {"amp": self.precision.amp, "tf32": self.precision.tf32}
        own |= {"device": str(self.device)} if self.device is not None else {}
        own |= {"variants": ["original"]} | ({"deformation": self.diffeo} if self.diffeo else {})
        if self.forward is not None:
            raise UsageError("a record is of a network's own forward, and this monitor has another: forward=")
        module = unwrap(model)
        with streams_kept(), buffers_kept(module):
            return bench(module, **{"dataset": self.images, **own, **options})

    def state_dict(self) -> dict[str, Any]:
        """The history in plain types, for a checkpoint."""
        return {
            "history": [
                {"epoch": done.epoch, "seconds": done.seconds, "layers": [_plain(one) for one in done.layers]}
                for done in self.history
            ]
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on with the history of a checkpoint."""
        self.history = [
            Measured(kept["epoch"], kept["seconds"], [LayerSensitivity(**one) for one in kept["layers"]])
            for kept in state["history"]
        ]


def _plain(layer: LayerSensitivity) -> dict[str, Any]:
    return layer.model_dump(mode="json")


@contextmanager
def buffers_kept(model: nn.Module) -> Iterator[None]:
    """Buffers that a forward changes, in evaluation mode too, are after it what they were before."""
    kept = [
        (module, name, buffer, buffer.detach().clone())
        for module in model.modules()
        for name, buffer in module.named_buffers(recurse=False)
        if not is_lazy(buffer)
    ]
    try:
        yield
    finally:
        with torch.no_grad():
            for module, name, buffer, before in kept:
                if not torch.equal(buffer, before):
                    buffer.copy_(before)
                if getattr(module, name) is not buffer:
                    setattr(module, name, buffer)


def is_first_process() -> bool:
    """Whether this process is the one that logs."""
    together = distributed.is_available() and distributed.is_initialized()
    return not together or distributed.get_rank() == 0
