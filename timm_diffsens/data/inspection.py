"""Every image of a sample is read once before anything is measured: damaged ones are named and left out."""

import itertools
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

from PIL import UnidentifiedImageError

from timm_diffsens.data.source import ImageSource, Item, SequentialSource
from timm_diffsens.errors import DiffsensError, MeasurementError, UsageError, warn

MAX_CORRUPT = 0.01  # share of the sample that may be unreadable
_WINDOW = 1024  # images inspected before results are collected


def inspect_images(
    source: ImageSource, indices: list[int], channels: int
) -> tuple[list[Item], tuple[str, ...]]:
    """Read every image once: what is known of the readable ones, and the names of the others.

    Raises:
        UsageError: none can be read.
        MeasurementError: more than 1 % cannot.
    """
    items: list[Item] = []
    faults: dict[str, str] = {}
    for index, result in zip(indices, _inspect_each(source, indices, channels), strict=True):
        if isinstance(result, Item):
            items.append(result)
        else:
            faults[source.name(index)] = _reason(result)
    if not items:
        raise UsageError(f"{source.origin.spec} has no readable image: {_list_faults(faults)}")
    if len(faults) > MAX_CORRUPT * len(indices):
        raise MeasurementError(
            f"{len(faults)} of {len(indices)} images of {source.origin.spec} cannot be read, more than 1 %: "
            f"{_list_faults(faults)}; replace or remove them"
        )
    if len(items) < 2:
        raise UsageError(f"{source.origin.spec} has one readable image; sensitivities need at least 2")
    if faults:
        warn(
            f"{len(faults)} of {len(indices)} images cannot be read and are left out: {_list_faults(faults)}"
        )
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
        remaining = iter(indices)
        while window := list(itertools.islice(remaining, _WINDOW)):
            yield from pool.map(attempt, window)
    finally:
        pool.shutdown(cancel_futures=True)


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "not an image"  # PIL's own words name an address in memory, other ones in every run
    return str(error) or type(error).__name__


def _list_faults(faults: dict[str, str], count: int = 5) -> str:
    shown = [f"{name} ({reason})" for name, reason in itertools.islice(faults.items(), count)]
    return ", ".join(shown) + (f" and {len(faults) - count} more" if len(faults) > count else "")


def inspect_first(
    source: SequentialSource, images: int | None, channels: int
) -> tuple[list[Item], tuple[str, ...]]:
    """The first `images` images of a stream (None: all), and stand-in names for the damaged ones.

    Raises:
        UsageError: fewer than two came.
        MeasurementError: more than 1 % are damaged, or the stream broke.
    """
    spec = source.origin.spec
    items = source.first(images, channels)
    skipped = tuple(f"damaged image {number}" for number in range(source.dropped))
    if len(items) < 2:
        raise UsageError(f"{spec} gave {len(items)} images; sensitivities need at least 2")
    total = len(items) + len(skipped)
    if len(skipped) > MAX_CORRUPT * total:
        raise MeasurementError(f"{len(skipped)} of {total} images of {spec} cannot be read, more than 1 %")
    if skipped:
        warn(f"{len(skipped)} of {total} images of {spec} cannot be read and are left out")
    if images is not None and len(items) < images:
        warn(f"{spec} gave {len(items)} images, not {images}: all of them are used (--images)")
    return items, skipped
