"""Data sets that timm's `create_dataset` opens, and those of them that are tables of encoded files."""

import contextlib
import sys
from typing import Any

from timm_diffsens.data.source import Encoded, Origin, as_label
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


class Table(Encoded):
    """timm's `ImageDataset` over a table of encoded files, through its public reader.

    Not through its `__getitem__`, which puts the next image in the place of one that cannot be decoded.
    """

    def __init__(self, origin: Origin, dataset: Any) -> None:
        self.reader = dataset.reader
        classes = self.reader.class_to_idx
        names = tuple(str(name) for name in sorted(classes, key=lambda name: classes[name]))
        super().__init__(origin, len(self.reader), names or None)

    def encoded(self, index: int) -> tuple[bytes, int | None]:
        """From the reader.

        Raises:
            UsageError: the table has other columns.
        """
        try:
            handle, label = self.reader[index]
        except KeyError as error:
            raise UsageError(f"{self.origin.spec} has no {error}: expected 'image' and 'label'") from None
        with handle:
            return handle.read(), as_label(label)
