"""TensorBoard: numbers and charts as events, files beside them."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from timm_diffsens.files import write_atomic
from timm_diffsens.integrations.optional import optional


class TensorBoard:
    """A `Logger` that writes what `tensorboard --logdir` shows.

    Args:
        writer: a `SummaryWriter`, or the folder of a new one.

    Raises:
        UsageError: TensorBoard is not installed.
    """

    def __init__(self, writer: Any = "runs") -> None:
        if isinstance(writer, str | Path):
            optional("tensorboard", "TensorBoard", "loggers")
            from torch.utils.tensorboard import SummaryWriter

            writer = SummaryWriter(str(writer))
        self.writer = writer

    def scalars(self, values: Mapping[str, float], epoch: int) -> None:
        """See `Logger`."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, epoch)
        self.writer.flush()

    def picture(self, name: str, png: bytes, epoch: int) -> None:
        """See `Logger`."""
        pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))
        self.writer.add_image(name, pixels, epoch, dataformats="HWC")
        self.writer.flush()

    def file(self, name: str, content: bytes) -> None:
        """See `Logger`; TensorBoard has no artifacts, so it is put into the folder of the events."""
        write_atomic(Path(self.writer.log_dir) / name, content)
