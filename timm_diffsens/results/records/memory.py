"""Thousands of records at a time."""

import gc
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from timm_diffsens.errors import DiffsensError

_FOR_A_PROCESS = 500  # files that take longer than to start a process
_MOST_PROCESSES = 8
_TOGETHER = 32  # files that a process is given at a time
_Result = TypeVar("_Result")


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


def mapped(
    function: Callable[[Path], _Result], files: Sequence[Path], *, parallel: bool = False
) -> Iterator[_Result]:
    """A function of each file, in order; one file is in memory at a time, or one for each process.

    Args:
        function: importable by its name where `parallel`, with results that can be pickled.
        files: to read.
        parallel: in several processes, where there are enough files and processors. Only for a program's own
            start: the processes import its main module again.

    Raises:
        DiffsensError: a process was killed.
    """
    processes = min(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        len(files) // _FOR_A_PROCESS,
        _MOST_PROCESSES,
    )
    if not parallel or processes < 2:
        yield from map(function, files)
        return
    context = multiprocessing.get_context("spawn")  # a copy of a process with threads may stand still
    with ProcessPoolExecutor(processes, context, gc.disable) as pool:
        try:
            yield from pool.map(function, files, chunksize=_TOGETHER)
        except BrokenProcessPool:
            raise DiffsensError(
                "a process that read records was killed, perhaps for lack of memory"
            ) from None
