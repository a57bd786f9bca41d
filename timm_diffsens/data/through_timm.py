"""Data sets that timm's `create_dataset` opens, and those of them that hold encoded files."""

import contextlib
import hashlib
import io
import sys
from typing import Any

from PIL import Image

from timm_diffsens.data.source import ImageSource, Item, Origin, as_label, convert
from timm_diffsens.errors import UsageError, first_line


def create(spec: str, advice: str, **arguments: Any) -> Any:
    """`timm.data.create_dataset`; every failure is a `UsageError` of one line, nothing goes to stdout."""
    from timm_diffsens.device import allocator

    allocator.prepare()
    from timm.data import create_dataset

    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout belongs to `--json`
            return create_dataset(**arguments)
    except Exception as error:  # timm, torchvision and the others raise nearly everything, assertions too
        reason = first_line(error).removesuffix("You can use download=True to download it").rstrip(" .:")
        raise UsageError(f"{spec} could not be opened: {reason}; {advice}") from error


class Encoded(ImageSource):
    """timm's `ImageDataset` over encoded files, through its public reader.

    Not through its `__getitem__`, which puts the next image in the place of one that cannot be decoded.
    """

    def __init__(self, origin: Origin, dataset: Any) -> None:
        self.reader = dataset.reader
        classes = self.reader.class_to_idx
        names = tuple(str(name) for name in sorted(classes, key=lambda name: classes[name]))
        self.labelled = "" not in names  # timm's class for images in the root folder itself
        super().__init__(origin, len(self.reader), names if names and self.labelled else None)

    def _bytes(self, index: int) -> tuple[bytes, Any]:
        try:
            handle, label = self.reader[index]
        except KeyError as error:
            raise UsageError(f"{self.origin.spec} has no {error}: expected 'image' and 'label'") from None
        with handle:
            return handle.read(), label

    def inspect(self, index: int, channels: int) -> Item:
        """Hash the encoded bytes, and decode them to know that it can be done."""
        data, label = self._bytes(index)
        convert(Image.open(io.BytesIO(data)), channels)
        return Item(index, as_label(label) if self.labelled else None, hashlib.sha256(data).hexdigest())

    def image(self, index: int, channels: int) -> Image.Image:
        """Read and decode."""
        return convert(Image.open(io.BytesIO(self._bytes(index)[0])), channels)
