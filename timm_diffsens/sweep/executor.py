"""Interfaces of a sweep: the executor that does its jobs, and the watch that is called as it goes on."""

import importlib
from collections.abc import Callable, Generator, Sequence
from typing import Any, Protocol

from timm_diffsens.errors import UsageError
from timm_diffsens.sweep.jobs import Job
from timm_diffsens.sweep.outcomes import Outcome

Started = Callable[[Job], None]


class Executor(Protocol):
    """Does jobs somewhere, in processes other than this one; `sweep.worker.Place` starts and keeps those.

    The class is registered, or named as `file.py:attr`. Its constructor gets by name those of these that it
    takes, and the arguments behind its name: `jobs` (models at a time), `threads` (CPU threads a model),
    `gpus` (a model), `address`, `folder` (for files of its own), `options` (of `--slurm`).
    """

    def run(self, jobs: Sequence[Job], started: Started) -> Generator[tuple[Job, Outcome], None, None]:
        """Do every job once; gives each with its outcome as soon as it has ended.

        Closing the iterator, as an exception does, ends all work that is under way.

        Args:
            jobs: each is given to `sweep.work.work`, in a process that nothing else has changed.
            started: called with each job when it begins, by executors that know.
        """


class Watch:
    """What is called as a sweep goes on; this one does nothing."""

    def begin(self, total: int, before: int) -> None:
        """How many jobs there are in all, and how many of them are done already."""

    def started(self, job: Job) -> None:
        """A job has begun."""

    def finished(self, outcome: Outcome) -> None:
        """A job is settled: done, left out, or given up."""

    def retried(self, outcome: Outcome) -> None:
        """A job will be tried again."""


def optional(module: str, engine: str, name: str) -> Any:
    """The library of an engine.

    Raises:
        UsageError: it is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise UsageError(
            f"--engine {engine} needs {name}, which is not installed: pip install 'timm-diffsens[{engine}]'"
        ) from error
