"""Weights & Biases: numbers and charts of a run, records as artifacts; offline too (`WANDB_MODE=offline`)."""

import io
import re
from collections.abc import Mapping
from typing import Any

from PIL import Image

from timm_diffsens.integrations.optional import optional

EPOCH = "diffsens_epoch"  # the axis of what is logged here: the run's steps belong to the loop that trains


class WandB:
    """A `Logger` that logs to a run of Weights & Biases.

    Args:
        run: of `wandb.init`; by default the one that is under way, else a new one.

    Raises:
        UsageError: wandb is not installed.
    """

    def __init__(self, run: Any = None) -> None:
        self.wandb = optional("wandb", "WandB", "loggers")
        self.run = run or self.wandb.run or self.wandb.init()
        self._defined: set[str] = set()
        self._last: tuple[int, int] | None = None  # epoch and step of what was logged last

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """See `Logger`."""
        self._log(values, epoch)

    def picture(self, name: str, png: bytes, epoch: int) -> None:
        """See `Logger`."""
        self._log({name: self.wandb.Image(Image.open(io.BytesIO(png)))}, epoch)

    def file(self, name: str, content: bytes) -> None:
        """See `Logger`; an artifact of the type `record`."""
        artifact = self.wandb.Artifact(re.sub(r"[^\w.-]", "-", name), type="record")
        with artifact.new_file(name, mode="wb") as file:
            file.write(content)
        self.run.log_artifact(artifact)

    def _log(self, values: Mapping[str, Any], epoch: int) -> None:
        """Into the row of the step at which the run is, which the loop that trains ends.

        A row, or a step, of its own would put the run ahead of that loop, and what the loop logs after it
        at a step of its count would be dropped. Only where nothing was logged since the epoch before is the
        row ended here.
        """
        for group in {name.partition("/")[0] for name in values} - self._defined:
            self.run.define_metric(f"{group}/*", step_metric=EPOCH)
            self._defined.add(group)
        if self._last is not None and self._last[0] != epoch and self._last[1] == self.run.step:
            self.run.log({}, commit=True)
        self.run.log({**values, EPOCH: epoch}, commit=False)
        self._last = epoch, self.run.step
