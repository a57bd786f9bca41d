"""Jobs on this machine: one process a model, so that all its memory is given back."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Generator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from typing import Any

from timm_diffsens import registry
from timm_diffsens.errors import UsageError, first_line
from timm_diffsens.sweep.executor import Started
from timm_diffsens.sweep.jobs import Job
from timm_diffsens.sweep.outcomes import Outcome, lost

_FAREWELL = 10  # seconds for a process to end after its last word


@registry.register("executors", "local", help="processes of this machine")
class Local:
    """So many jobs at a time, each in a process that is forked from one that has imported everything.

    Args:
        jobs: processes at a time.

    Raises:
        UsageError: fewer than one.
    """

    def __init__(self, jobs: int = 1) -> None:
        if jobs < 1:
            raise UsageError(f"--jobs must be at least 1, got {jobs}")
        self.jobs = jobs

    def run(self, jobs: Sequence[Job], started: Started) -> Generator[tuple[Job, Outcome], None, None]:
        """See `sweep.executor.Executor`."""
        context: Any = multiprocessing.get_context("spawn")
        if "forkserver" in multiprocessing.get_all_start_methods():
            context = multiprocessing.get_context("forkserver")
            context.set_forkserver_preload(["timm_diffsens.sweep.preloaded"])
        waiting, running = deque(jobs), dict[Connection, _Worker]()
        try:
            while waiting or running:
                while waiting and len(running) < self.jobs:
                    job = waiting.popleft()
                    try:
                        worker = _Worker(context, job)
                    except (OSError, EOFError) as error:  # no memory for it, or too many processes
                        yield job, lost(job, 0.0, f"no process could be started: {first_line(error)}")
                        continue
                    running[worker.receiver] = worker
                    started(job)
                for receiver in wait(list(running)):
                    worker = running.pop(receiver)  # type: ignore[call-overload]
                    yield worker.job, worker.outcome()
        finally:
            for worker in running.values():
                worker.end()


class _Worker:
    """A process at work on a job."""

    def __init__(self, context: Any, job: Job) -> None:
        self.job, self.clock = job, time.monotonic()
        self.receiver, sender = context.Pipe(duplex=False)
        self.process = context.Process(target=_serve, args=(job, sender), name=job.model)
        try:
            self.process.start()
        except BaseException:
            self.receiver.close()
            raise
        finally:
            sender.close()  # the worker's end is then the only one, and is closed when it dies

    def outcome(self) -> Outcome:
        """What it sent, or that it died; the process has ended then."""
        try:
            found: Outcome | None = self.receiver.recv()
        except (EOFError, OSError):
            found = None
        self.process.join(_FAREWELL)
        ending = _how_it_ended(self.process.exitcode)
        self.end()
        return found or lost(self.job, time.monotonic() - self.clock, ending)

    def end(self) -> None:
        """Make it end, if it has not: what it was writing is whole or not there."""
        self.process.kill()
        self.process.join()
        self.receiver.close()


def _serve(job: Job, sender: Connection) -> None:
    """What runs in a worker process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the sweep, which ends its workers
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.disable(logging.WARNING)
    with suppress(OSError):  # a line of a library's own would tear the table
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())  # type: ignore[union-attr]
    from timm_diffsens.sweep.work import work

    sender.send(work(job))


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _how_it_ended(code: int | None) -> str:
    if code is not None and code < 0:
        name = signal.Signals(-code).name
        return f"the worker was ended by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"the worker ended with code {code} and said nothing"
