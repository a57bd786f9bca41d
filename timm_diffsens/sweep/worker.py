"""A process that does one job after another, as long as it is fit for that; the same for every engine."""

import logging
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any

from timm_diffsens.errors import first_line
from timm_diffsens.sweep.jobs import Job
from timm_diffsens.sweep.outcomes import Outcome, lost

_FAREWELL = 10  # seconds for a process to end after its last word
_BEGUN = "begun"  # said of a job by its process; then follow the outcome, and None or why the process ends

_log = logging.getLogger(__name__)


class Place:
    """Room for one process at a time. It is kept from one job to the next where that changes nothing.

    A job that runs code from outside (`Job.built_in`), and every attempt but the first, has a process of its
    own. After an error of any kind, and where something that a model changed cannot be put back
    (`sweep.process`), the next job has a new one.

    Args:
        environment: variables of its processes beside those of this one.

    Attributes:
        job: that is under way; None where none is.
        channel: can be read when there is news; None where there is no process.
    """

    def __init__(self, environment: Mapping[str, str] | None = None) -> None:
        self.environment = dict(environment or {})
        self.job: Job | None = None
        self.channel: Connection | None = None
        self._process: Any = None
        self._begun, self._ready, self._before, self._clock = False, False, "", 0.0

    @property
    def free(self) -> bool:
        """Whether it takes a job: there is none under way, and nothing to be cleared up after the last."""
        return self.job is None and (self.channel is None or self._ready)

    def begin(self, job: Job) -> None:
        """Start a job, in the process that is there or in a new one.

        Raises:
            OSError, EOFError: no process can be started.
        """
        if self.channel is not None and not _alone(job):
            with suppress(OSError):  # it was killed while it was idle
                self.channel.send(job)
                self._begun, self._ready = False, False
                self.job, self._clock = job, time.monotonic()
                return
        self.close()
        self._start(job)

    def hear(self) -> Outcome | None:
        """One piece of news, waited for; the outcome of the job under way where it is that.

        Raises:
            OSError, EOFError: as `begin`; the job is no more under way.
        """
        assert self.channel is not None
        try:
            news = self.channel.recv()
        except (EOFError, OSError):
            return self._after_its_end()
        if news == _BEGUN:
            self._begun = True
        elif isinstance(news, Outcome):
            job, self.job = self.job, None
            self._before = news.model
            if job is not None and (news.error is not None or _alone(job)):
                self.close()
            return news
        elif news is None:
            self._ready = True
        else:
            _log.warning("after %s: %s; a new worker takes over", self._before, news)
            self.close()
        return None

    def do(self, job: Job, seconds: float | None = None) -> Outcome:
        """Begin a job and wait for its outcome, and until the place is free again.

        Args:
            job: to do.
            seconds: after which its process is ended, and lost; None for no limit.
        """
        clock, found = time.monotonic(), None
        try:
            self.begin(job)
            while found is None:
                left = None if seconds is None else max(0.0, clock + seconds - time.monotonic())
                if self.channel is not None and not self.channel.poll(left):
                    self.end()
                    return lost(job, time.monotonic() - clock, f"not done after {seconds:g} seconds")
                found = self.hear()
            while not self.free:
                if self.channel is not None and not self.channel.poll(seconds):
                    self.end()  # it hangs while it puts back what the model changed
                    break
                self.hear()
        except (OSError, EOFError) as error:
            found = found or unstarted(job, error)
        return found

    def close(self) -> None:
        """Let the process end, if there is one, and make it where it does not."""
        if self.channel is not None:
            self.channel.close()
            self._process.join(_FAREWELL)
        self.end()

    def end(self) -> None:
        """End the process, if there is one: what it was writing is whole or not there."""
        if self._process is not None:
            self._process.kill()
            self._process.join()
        if self.channel is not None:
            self.channel.close()
        self.job = self.channel = self._process = None
        self._begun = self._ready = False

    def _start(self, job: Job) -> None:
        context, (channel, theirs) = _context(), multiprocessing.Pipe()
        process = context.Process(target=_serve, args=(theirs, job, self.environment), name="diffsens-worker")
        try:
            process.start()
        except BaseException:
            channel.close()
            raise
        finally:
            theirs.close()  # the worker's end is then the only one, and is closed when it dies
        self.job, self.channel, self._process = job, channel, process
        self._begun, self._clock = True, time.monotonic()  # it has the job already

    def _after_its_end(self) -> Outcome | None:
        """A process that died before it began a job harms none: the job is given to another."""
        job, begun = self.job, self._begun
        self._process.join(_FAREWELL)
        ending = _how_it_ended(self._process.exitcode)
        seconds = time.monotonic() - self._clock
        self.end()
        if job is None:
            return None
        if begun:
            return lost(job, seconds, ending)
        self._start(job)
        return None


def unstarted(job: Job, error: BaseException) -> Outcome:
    """The outcome where there is no memory for a process, or there are too many."""
    return lost(job, 0.0, f"no process could be started: {first_line(error)}")


def _alone(job: Job) -> bool:
    """Whether a process does this job and no other."""
    return job.attempt > 1 or not job.built_in


def _context() -> Any:
    """Processes are forked from one that has imported everything, where there is such a thing."""
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["timm_diffsens.sweep.preloaded"])
    return context


def _serve(channel: Connection, job: Job | None, environment: Mapping[str, str]) -> None:
    """What runs in a worker process: a loop over jobs, until there are no more or it is not fit for one."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the sweep, which ends its workers
    os.environ.update(environment)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.disable(logging.WARNING)
    with suppress(OSError):  # a line of a library's own would tear the table
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())  # type: ignore[union-attr]
    from timm_diffsens.sweep.process import Kept
    from timm_diffsens.sweep.work import work

    with suppress(EOFError, OSError):  # nobody listens any more
        before = None if job is None or _alone(job) else Kept()
        while job is not None:
            channel.send(_BEGUN)
            outcome = work(job)
            channel.send(outcome)
            if before is None or outcome.error is not None:
                return
            unfit = before.restore()
            channel.send(unfit)
            job = None if unfit else channel.recv()


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
