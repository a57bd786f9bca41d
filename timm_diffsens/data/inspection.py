"""Every image of a sample is read once before anything is measured: damaged ones are named and left out."""

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from PIL import UnidentifiedImageError

from timm_diffsens.data.source import ImageSource, Item, LeftOut, SequentialSource
from timm_diffsens.errors import DiffsensError, MeasurementError, UsageError, listed, warn

MAX_CORRUPT = 0.01  # share of the sample that may be damaged
MAX_LEFT_OUT = 0.5  # share that may be missing, too large for a rule, or damaged
_WINDOW = 1024  # images inspected before results are collected


def inspect_images(
    source: ImageSource, indices: list[int], channels: int
) -> tuple[list[Item], tuple[str, ...]]:
    """Read every image once: what is known of the readable ones, and the names of the others.

    Raises:
        UsageError: fewer than two can be read.
        MeasurementError: more than 1 % are damaged, or more than half cannot be used.
    """
    found = list(zip(indices, _inspect_each(source, indices, channels), strict=True))
    items = [result for _, result in found if isinstance(result, Item)]
    faults = {source.name(i): _reason(result) for i, result in found if not isinstance(result, Item)}
    named = listed(f"{name} ({reason})" for name, reason in faults.items())
    damaged = sum(not isinstance(result, Item | LeftOut) for _, result in found)
    spec, share = source.origin.spec, f"{len(faults)} of {len(indices)} images"
    if not items:
        raise UsageError(f"{spec} has no readable image: {named}")
    if damaged > MAX_CORRUPT * len(indices) or len(faults) > MAX_LEFT_OUT * len(indices):
        most = "1 %" if damaged > MAX_CORRUPT * len(indices) else "half"
        raise MeasurementError(
            f"{share} of {spec} cannot be read, more than {most}: {named}; replace or remove them"
        )
    if len(items) < 2:
        raise UsageError(f"{spec} has one readable image; sensitivities need at least 2")
    if faults:
        warn(f"{share} cannot be read and are left out: {named}")
    return items, tuple(faults)


def _inspect_each(source: ImageSource, indices: list[int], channels: int) -> Iterator[Item | Exception]:
    """`source.inspect` of each index, in order, or what it raised; several threads where that is safe."""

    def attempt(index: int) -> Item | Exception:
        try:
            return source.inspect(index, channels)
        except DiffsensError:
            raise
        except Exception as error:  # damaged files make PIL raise nearly everything
            return error

    pool = ThreadPoolExecutor(max_workers=min(8, os.cpu_count() or 1) if source.concurrent else 1)
    try:
        for start in range(0, len(indices), _WINDOW):
            yield from pool.map(attempt, indices[start : start + _WINDOW])
    finally:
        pool.shutdown(cancel_futures=True)


def _reason(error: object) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"  # PIL's own words name an address in memory, other ones in every run
    return str(error) or type(error).__name__


def inspect_first(
    source: SequentialSource, images: int | None, channels: int
) -> tuple[list[Item], tuple[str, ...]]:
    """The first `images` images of a stream (None: all), and stand-in names for the damaged ones.

    Raises:
        UsageError: fewer than two came.
        MeasurementError: more than 1 % are damaged, or the stream broke.
    """
    spec, items = source.origin.spec, source.first(images, channels)
    total = len(items) + source.dropped
    share = f"{source.dropped} of {total} images of {spec} cannot be read"
    if len(items) < 2:
        raise UsageError(f"{spec} gave {len(items)} images; sensitivities need at least 2")
    if source.dropped > MAX_CORRUPT * total:
        raise MeasurementError(f"{share}, more than 1 %")
    if source.dropped:
        warn(f"{share} and are left out")
    if images is not None and len(items) < images:
        warn(f"{spec} gave {len(items)} images, not {images}: all of them are used (--images)")
    return items, tuple(f"damaged image {number}" for number in range(source.dropped))
