"""Jobs on this machine: so many places at a time, each with a process that goes from model to model."""

import os
from collections import deque
from collections.abc import Generator, Sequence
from multiprocessing.connection import Connection, wait

from timm_diffsens import registry
from timm_diffsens.errors import UsageError
from timm_diffsens.sweep.executor import Started
from timm_diffsens.sweep.jobs import Job
from timm_diffsens.sweep.outcomes import Outcome
from timm_diffsens.sweep.worker import Place, unstarted

_VISIBLE = "CUDA_VISIBLE_DEVICES"


@registry.register("executors", "local", help="processes of this machine")
class Local:
    """So many jobs at a time, each in a process that is forked from one that has imported everything.

    Where there are GPUs and the jobs do not name one, each process sees one of them; in turn, if there are
    more processes than GPUs.

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
        waiting = deque(jobs)
        gpus = visible_gpus() if any(job.on_any_gpu for job in jobs) else []
        pinned = [{_VISIBLE: gpu} for gpu in gpus] or [{}]
        places = [Place(pinned[k % len(pinned)]) for k in range(min(self.jobs, len(jobs)))]
        try:
            while waiting or any(place.job for place in places):
                for place in [place for place in places if place.free][: len(waiting)]:
                    job = waiting.popleft()
                    try:
                        place.begin(job)
                    except (OSError, EOFError) as error:
                        yield job, unstarted(job, error)
                    else:
                        started(job)
                yield from _news(places)
            for place in places:
                place.close()
        finally:
            for place in places:
                place.end()


def _news(places: Sequence[Place]) -> Generator[tuple[Job, Outcome], None, None]:
    """What those say that have something to say; waited for, unless all are free."""
    listening = {place.channel: place for place in places if place.channel is not None}
    for channel in wait(list(listening), 0 if all(place.free for place in places) else None):
        assert isinstance(channel, Connection)
        place = listening[channel]
        job = place.job
        try:
            outcome = place.hear()
        except (OSError, EOFError) as error:
            assert job is not None
            outcome = unstarted(job, error)
        if job is not None and outcome is not None:
            yield job, outcome


def visible_gpus() -> list[str]:
    """The GPUs that this process may use, as CUDA_VISIBLE_DEVICES names them."""
    import torch

    count = torch.cuda.device_count()
    given = os.environ.get(_VISIBLE)
    return (list(map(str, range(count))) if given is None else given.split(","))[:count]
