"""The source that has no random access: webdataset shards and other streams."""

import contextlib
import itertools
import logging
import threading
from collections.abc import Iterable, Iterator
from typing import Any

from PIL import Image

from timm_diffsens.data.sources import Item, Origin, Source, as_label, convert, pixel_digest
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


class Stream(Source):
    """timm's `IterableImageDataset`: images that come one after the other, from the first.

    Reading forward is cheap. Reading an earlier image starts again from the first, so that none is kept.
    """

    def __init__(self, origin: Origin, dataset: Any):
        self._dataset = dataset
        self._lock = threading.Lock()
        self._iterator: Iterator[tuple[Any, Any]] = iter(())
        self._next = -1  # index of the image that `_iterator` gives next; -1: has to start
        self.dropped = 0  # damaged images that timm's webdataset reader passed over
        names = getattr(dataset.reader, "class_to_idx", None) or {}
        class_names = tuple(str(name) for name, _ in sorted(names.items(), key=lambda pair: pair[1]))
        super().__init__(origin, -1, class_names or None)

    def name(self, index: int) -> str:
        """`validation/00000042`: the place in the stream."""
        return f"{self.origin.split}/{index:08d}"

    def _item(self, index: int) -> tuple[Any, Any]:
        with self._lock:
            if not 0 <= self._next <= index:
                self._iterator, self._next = iter(self._dataset), 0
            skip = index - self._next
            self._next = -1  # an exception below leaves the stream broken: start again next time
            item = next(itertools.islice(self._iterator, skip, None))
            self._next = index + 1
        return item

    def inspect(self, index: int) -> Item:
        """Hash the decoded pixels."""
        image, label = self._item(index)
        return Item(index, as_label(label), pixel_digest(convert(image, self.origin.mode)))

    def first(self, count: int | None) -> list[Item]:
        """The first `count` images, or as many as there are.

        Raises:
            MeasurementError: the stream breaks; timm's streams cannot go on after a damaged image.
        """
        items: list[Item] = []
        numbering: Iterable[int] = itertools.count() if count is None else range(count)
        with _counting_dropped() as counter:
            for index in numbering:
                try:
                    items.append(self.inspect(index))
                except StopIteration:
                    break
                except Exception as error:
                    raise MeasurementError(
                        f"{self.origin.spec}: the stream broke after {len(items)} images: {error}"
                    ) from error
        self.dropped = counter.count
        return items

    def image(self, index: int) -> Image.Image:
        """Read up to it."""
        return convert(self._item(index)[0], self.origin.mode)
