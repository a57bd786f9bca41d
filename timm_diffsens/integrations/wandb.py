"""Weights & Biases: numbers and charts of a run, records as artifacts; offline too (`WANDB_MODE=offline`)."""

import io
import re
from collections.abc import Mapping
from typing import Any

from PIL import Image

from timm_diffsens.integrations.optional import optional

_EPOCH = "epoch"  # the axis of our numbers: steps of a run belong to the loop that trains


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
        """Numbers of a step of ours would be dropped where the loop that trains is at a later one."""
        for group in {name.partition("/")[0] for name in values} - self._defined:
            self.run.define_metric(f"{group}/*", step_metric=_EPOCH)
            self._defined.add(group)
        self.run.log({**values, _EPOCH: epoch})
