"""The source that has no random access: webdataset shards and other streams."""

import contextlib
import functools
import itertools
import logging
import sys
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from PIL import Image

from timm_diffsens.data.source import (
    MODES,
    Item,
    Request,
    SequentialSource,
    as_label,
    convert,
    pixel_digest,
)
from timm_diffsens.data.through_timm import create
from timm_diffsens.errors import MeasurementError


class _Counter(logging.Handler):
    """Counts the errors that are logged."""

    count = 0

    def emit(self, record: logging.LogRecord) -> None:
        """Count one."""
        self.count += "error" in record.getMessage().lower()


@contextlib.contextmanager
def _counting_dropped() -> Iterator[_Counter]:
    """Count the images that timm's webdataset reader cannot decode: it logs each, and passes over it."""
    logger, counter = logging.getLogger("timm.data.readers.reader_wds"), _Counter()
    logger.addHandler(counter)
    try:
        yield counter
    finally:
        logger.removeHandler(counter)


class Stream(SequentialSource):
    """timm's `IterableImageDataset`: images that come one after the other, from the first.

    Reading forward is cheap. Reading an earlier image starts again from the first, so that none is kept.
    """

    def __init__(self, request: Request, name: str, advice: str = "check the name and --split") -> None:
        split = request.split or "validation"
        arguments: dict[str, Any] = {"name": name, "split": split, "download": request.download}
        arguments["root"] = None if request.data_dir is None else str(request.data_dir)
        if name.startswith("hfids/"):  # wants a length, which only training uses
            arguments["num_samples"] = sys.maxsize
        self._open = functools.cache(
            lambda channels: create(request.spec, advice, input_img_mode=MODES[channels], **arguments)
        )
        self._lock = threading.Lock()
        self._iterator: Iterator[tuple[Any, Any]] = iter(())
        self._next = -1  # index of the image that `_iterator` gives next; -1: has to start
        self.reader = self._open(3).reader
        names = getattr(self.reader, "class_to_idx", None) or {}
        class_names = tuple(str(name) for name, _ in sorted(names.items(), key=lambda pair: pair[1]))
        super().__init__(request.origin(split), -1, class_names or None)

    def _item(self, index: int, channels: int) -> tuple[Any, Any]:
        with self._lock:
            if not 0 <= self._next <= index:
                self._iterator, self._next = iter(self._open(channels)), 0
            skip = index - self._next
            self._next = -1  # an exception below leaves the stream broken: start again next time
            item = next(itertools.islice(self._iterator, skip, None))
            self._next = index + 1
        return item

    def inspect(self, index: int, channels: int) -> Item:
        """Hash the decoded pixels."""
        image, label = self._item(index, channels)
        return Item(index, as_label(label), pixel_digest(convert(image, channels)))

    def first(self, count: int | None, channels: int) -> list[Item]:
        """The first `count` images, or as many as there are.

        Raises:
            MeasurementError: the stream breaks; timm's streams cannot go on after a damaged image.
        """
        items: list[Item] = []
        numbering: Iterable[int] = itertools.count() if count is None else range(count)
        with _counting_dropped() as counter:
            for index in numbering:
                try:
                    items.append(self.inspect(index, channels))
                except StopIteration:
                    break
                except Exception as error:
                    raise MeasurementError(
                        f"{self.origin.spec}: the stream broke after {len(items)} images: {error}"
                    ) from error
        self.dropped = counter.count
        return items

    def image(self, index: int, channels: int) -> Image.Image:
        """Read up to it."""
        return convert(self._item(index, channels)[0], channels)
