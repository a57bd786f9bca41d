"""Jobs on a Ray cluster: actors, each of which keeps a process that goes from model to model.

The folder of the sweep has to be the same on all nodes (a shared file system), as do this package and the
libraries that it measures with.
"""

import time
from collections import deque
from collections.abc import Generator, Sequence
from typing import Any

from timm_diffsens import registry
from timm_diffsens.errors import MeasurementError, first_line
from timm_diffsens.sweep.executor import Started, optional
from timm_diffsens.sweep.jobs import Job
from timm_diffsens.sweep.outcomes import Outcome, failed, lost
from timm_diffsens.sweep.worker import Place


@registry.register("executors", "ray", help="actors of a Ray cluster", order=1)
class Ray:
    """As many actors as the cluster has room for; one that dies is replaced.

    Args:
        address: of a running cluster, or `auto`; None starts Ray on this machine, for the time of the sweep.
        threads, gpus: CPUs and GPUs that an actor takes up, of what its node has.

    Raises:
        UsageError: Ray is not installed.
    """

    def __init__(self, address: str | None = None, *, threads: int = 1, gpus: float = 0) -> None:
        self.ray = optional("ray", "ray", "Ray")
        self.address, self.threads, self.gpus = address, threads, gpus

    def run(self, jobs: Sequence[Job], started: Started) -> Generator[tuple[Job, Outcome], None, None]:
        """See `sweep.executor.Executor`; Ray does not say when an actor has been given its place."""
        ours = not self.ray.is_initialized()
        if ours:
            more: dict[str, Any] = {} if self.address else {"include_dashboard": False}
            try:
                self.ray.init(address=self.address, log_to_driver=False, logging_level="ERROR", **more)
            except (ConnectionError, RuntimeError, ValueError) as error:
                where = f" at {self.address}" if self.address else ""
                raise MeasurementError(f"no Ray cluster{where}: {first_line(error)}") from error
        # Ray's own retries would do a model again that broke its actor, and say nothing of it
        actors = self.ray.remote(
            num_cpus=self.threads, num_gpus=self.gpus, max_restarts=0, max_task_retries=0
        )(Place)
        waiting, running = deque(jobs), dict[Any, tuple[Any, Job]]()
        clock = time.monotonic()
        try:
            while waiting or running:
                while waiting and len(running) < self._room():
                    actor, job = actors.remote(), waiting.popleft()
                    running[actor.do.remote(job)] = actor, job
                (reference,), _ = self.ray.wait(list(running), num_returns=1)
                actor, job = running.pop(reference)
                outcome = self._outcome(reference, job, time.monotonic() - clock)
                if waiting and outcome.error is None:
                    following = waiting.popleft()
                    running[actor.do.remote(following)] = actor, following
                else:
                    self.ray.kill(actor)
                yield job, outcome
        finally:
            for actor, _ in running.values():
                self.ray.kill(actor)
            if ours:
                self.ray.shutdown()

    def _room(self) -> int:
        """How many actors the cluster has room for, one at least: it may be growing."""
        there = self.ray.cluster_resources()
        rooms = [there.get("CPU", 0) / self.threads]
        if self.gpus:
            rooms.append(there.get("GPU", 0) / self.gpus)
        return max(1, int(min(rooms)))

    def _outcome(self, reference: Any, job: Job, seconds: float) -> Outcome:
        errors = self.ray.exceptions
        died = (errors.RayActorError, errors.WorkerCrashedError, errors.NodeDiedError)
        try:
            found: Outcome = self.ray.get(reference)
        except (*died, errors.OutOfMemoryError, errors.ObjectLostError, errors.RaySystemError) as error:
            return lost(job, seconds, f"{type(error).__name__}: {first_line(error)}")
        except errors.RayError as error:  # raised around the job: a package that is missing there, say
            return failed(job, "failed", seconds, error)
        return found
