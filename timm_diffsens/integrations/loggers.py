"""What loggers of experiments are given: numbers by layer, the chart over depth, the record as a file."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

import altair as alt

from timm_diffsens.errors import UsageError, warn
from timm_diffsens.results.records.store import record_text
from timm_diffsens.results.report.export import FigureError, render
from timm_diffsens.results.report.record_chart import record_figure
from timm_diffsens.results.report.theme import MEASURES
from timm_diffsens.schema.layers import LayerSensitivity
from timm_diffsens.schema.records import Record

CHART = "diffsens/depth"  # the name of the chart over depth


class Logger(Protocol):
    """Where numbers, pictures and files of an experiment go: what `TensorBoard`, `WandB` and `MLflow` do."""

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """Numbers of an epoch, by name (`R/layer3`)."""

    def picture(self, name: str, png: bytes, epoch: int) -> None:
        """A picture of an epoch."""

    def file(self, name: str, content: bytes) -> None:
        """A file that is kept beside the experiment."""


def as_loggers(given: Any) -> tuple[Logger, ...]:
    """One logger or several, as a tuple.

    Raises:
        UsageError: one of them is none.
    """
    several = tuple(given) if isinstance(given, Iterable) and not isinstance(given, str) else (given,)
    for one in several:
        if isinstance(one, type) or not all(hasattr(one, name) for name in ("scalars", "picture", "file")):
            raise UsageError(
                f"expected loggers such as TensorBoard('runs'), WandB() or MLflow() of "
                f"timm_diffsens.integrations, got {one!r}"
            )
    return several


def scalars(layers: Sequence[LayerSensitivity], measures: Iterable[str] = "rdg") -> dict[str, float]:
    """`R/layer3` and so on -> the values that there are, by measure and then by layer.

    Args:
        layers: of one network.
        measures: some of `d`, `g` and `r`.
    """
    named = {f"{name.upper()}/{one.layer}": getattr(one, name) for name in measures for one in layers}
    return {name: value for name, value in named.items() if value is not None}


def log_chart(loggers: Iterable[Logger], chart: alt.TopLevelMixin, epoch: int) -> None:
    """The chart as a picture; a warning where this machine cannot draw it."""
    try:
        png = render(chart, "png")
    except FigureError as error:
        warn(str(error))
        return
    for logger in loggers:
        logger.picture(CHART, png, epoch)


def log_record(record: Record, loggers: Logger | Iterable[Logger], epoch: int = 0) -> None:
    """A record: D, G and R of the original network by layer, the chart over depth, and the record as a file.

    Args:
        record: what `bench` gives.
        loggers: where to; one, or several.
        epoch: at which numbers and chart are logged.

    Raises:
        UsageError: one of them is no logger.
    """
    loggers = as_loggers(loggers)
    for logger in loggers:
        logger.scalars(scalars(record.variants["original"]), epoch)
        logger.file(f"{record.model.arch}.{record.key[:12]}.json", record_text(record).encode())
    log_chart(loggers, record_figure(record, only=tuple(MEASURES)), epoch)
