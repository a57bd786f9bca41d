"""Sets that timm opens by `library/NAME`: tables of the Hugging Face Hub, TensorFlow Datasets, webdataset.

`datasets` has to be 4 or newer: older ones may run a Python script that lies beside the data.
"""

import contextlib
import functools
import itertools
import logging
import os
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from timm_diffsens import registry
from timm_diffsens.data.folders import check_name
from timm_diffsens.data.source import MODES, Item, Origin, Request, SequentialSource
from timm_diffsens.data.through_timm import Encoded, create
from timm_diffsens.errors import MeasurementError, UsageError

_HUB_NAME = r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?"
_HUB_ADVICE = "check the name and --split; without a network, give a cache that holds it with --data-dir"
_SHARDS_ADVICE = "give a split of its _info.json, or the shards themselves: --split 'name-{0000..0009}.tar'"


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
        arguments = {**_located(request, name), "split": split, "download": request.download}
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


def _located(request: Request, name: str) -> dict[str, Any]:
    """The set's name, and its folder or cache, as timm takes them."""
    return {"name": name, "root": None if request.data_dir is None else str(request.data_dir)}


@registry.register(
    "datasets",
    "hfds/NAME",
    help="a data set of the Hugging Face Hub, fetched whole (package `datasets`)",
    order=7,
)
def hub(request: Request) -> Encoded:
    """A table of images; --data-dir is the cache."""
    check_name("hfds", request.name, _HUB_NAME)
    request.require("datasets", "datasets", 4)
    split = request.split or "validation"
    dataset = create(request.spec, _HUB_ADVICE, **_located(request, f"hfds/{request.name}"), split=split)
    return Encoded(Origin(request.spec, split), dataset)


@registry.register(
    "datasets", "hfids/NAME", help="the same as a stream: the first images (package `datasets`)", order=8
)
def hub_stream(request: Request) -> Stream:
    """The first images of a table."""
    check_name("hfids", request.name, _HUB_NAME)
    request.require("datasets", "datasets", 4)
    return Stream(request, f"hfids/{request.name}")


@registry.register(
    "datasets",
    "tfds/NAME",
    help="TensorFlow Datasets: the first images (package `tensorflow-datasets`)",
    order=10,
)
def tfds(request: Request) -> Stream:
    """The first images of a set; --data-dir is the cache."""
    check_name("tfds", request.name, r"[a-z0-9_]+(/[A-Za-z0-9_][\w.-]*)?(:[0-9.*]+)?")
    request.require("tensorflow_datasets", "tensorflow-datasets")
    request.require("tensorflow", "tensorflow")
    return Stream(request, f"tfds/{request.name}")


@registry.register(
    "datasets",
    "wds/NAME",
    help="local webdataset shards in --data-dir: the first images (package `webdataset`)",
    order=9,
)
def shards(request: Request) -> Stream:
    """The first images of the shards of a split.

    Shard names come from a file of the data set: they must be files inside its folder, as webdataset would
    run `pipe:` names as commands and pass over missing files.
    """
    check_name("wds", request.name, r"[A-Za-z0-9_][\w.-]*")
    request.require("webdataset", "webdataset")
    root = request.folder()
    if request.split and ":" in request.split:
        raise UsageError(f"--split {request.split!r}: shards are files in --data-dir, not URLs or commands")
    source = Stream(request, f"wds/{request.name}", _SHARDS_ADVICE)
    for filename in map(str, source.reader.split_info.filenames):
        path = Path(os.path.normpath(root / filename))
        if not path.is_relative_to(root):
            raise UsageError(f"{request.spec}: the shard {filename!r} lies outside --data-dir {str(root)!r}")
        if not path.is_file():
            raise UsageError(f"{request.spec}: the shard {str(path)!r} does not exist")
    return source
