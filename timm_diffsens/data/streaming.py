"""Sets that timm gives as a stream of images."""

import contextlib
import functools
import itertools
import logging
import sys
import threading
from collections.abc import Iterator
from typing import Any

from timm_diffsens.data.source import MODES, Item, Origin, Request, SequentialSource
from timm_diffsens.data.through_timm import create
from timm_diffsens.errors import MeasurementError


class _Dropped(logging.Handler):
    """Counts the images that timm's webdataset reader cannot decode: it logs each, and passes over it."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += "error" in record.getMessage().lower()


class Stream(SequentialSource):
    """timm's `IterableImageDataset`: images that come one after the other, from the first.

    Reading forward is cheap. Reading an earlier image starts again from the first, so that none is kept.
    """

    def __init__(self, request: Request, name: str, advice: str = "check the name and --split") -> None:
        split = request.split or "validation"
        arguments = {**located(request, name), "split": split, "download": request.download}
        if name.startswith("hfids/"):  # wants a length, which only training uses
            arguments["num_samples"] = sys.maxsize
        self._open = functools.cache(
            lambda channels: create(request.spec, advice, input_img_mode=MODES[channels], **arguments)
        )
        self._lock = threading.Lock()
        self._iterator: Iterator[tuple[Any, Any]] = iter(())
        self._next = -1  # index of the image that `_iterator` gives next; -1: has to start
        self.reader = self._open(3).reader
        classes = getattr(self.reader, "class_to_idx", None) or {}
        names = tuple(str(name) for name in sorted(classes, key=lambda name: classes[name]))
        super().__init__(Origin(request.spec, split), -1, names or None)

    def read(self, index: int, channels: int) -> tuple[Any, Any]:
        """Read up to it."""
        with self._lock:
            if not 0 <= self._next <= index:
                self._iterator, self._next = iter(self._open(channels)), 0
            skip = index - self._next
            self._next = -1  # an exception below leaves the stream broken: start again next time
            item = next(itertools.islice(self._iterator, skip, None))
            self._next = index + 1
        return item

    def first(self, count: int | None, channels: int) -> list[Item]:
        """The first `count` images, or as many as there are.

        Raises:
            MeasurementError: the stream breaks; timm's streams cannot go on after a damaged image.
        """
        items: list[Item] = []
        logger, dropped = logging.getLogger("timm.data.readers.reader_wds"), _Dropped()
        logger.addHandler(dropped)
        try:
            with contextlib.suppress(StopIteration):
                while count is None or len(items) < count:
                    items.append(self.inspect(len(items), channels))
        except Exception as error:
            broke = f"the stream broke after {len(items)} images"
            raise MeasurementError(f"{self.origin.spec}: {broke}: {error}") from error
        finally:
            logger.removeHandler(dropped)
        self.dropped = dropped.count
        return items


def located(request: Request, name: str) -> dict[str, Any]:
    """The set's name, and its folder or cache, as timm takes them."""
    return {"name": name, "root": None if request.data_dir is None else str(request.data_dir)}
