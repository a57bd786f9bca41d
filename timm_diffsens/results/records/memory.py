"""Thousands of records at a time."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_garbage_collection() -> Iterator[None]:
    """Records hold no cycles, but so many objects that looking for some takes a third of the time.

    What counts references goes on; only cycles made inside wait until the end.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()
