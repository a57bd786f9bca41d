"""Jobs as tasks of a Ray cluster: one worker process a model, on whichever node has room.

The folder of the sweep has to be the same on all nodes (a shared file system), as do this package and the
libraries that it measures with.
"""

import time
from collections.abc import Generator, Sequence
from typing import Any

from timm_diffsens import registry
from timm_diffsens.errors import MeasurementError, first_line
from timm_diffsens.sweep.executor import Started, optional
from timm_diffsens.sweep.jobs import Job
from timm_diffsens.sweep.outcomes import Outcome, failed, lost


@registry.register("executors", "ray", help="tasks of a Ray cluster", order=1)
class Ray:
    """Every job is a task with `max_calls=1`: its process ends with it, and gives all memory back.

    Args:
        address: of a running cluster, or `auto`; None starts Ray on this machine, for the time of the sweep.
        threads, gpus: CPUs and GPUs that a task takes up, of what its node has.

    Raises:
        UsageError: Ray is not installed.
    """

    def __init__(self, address: str | None = None, *, threads: int = 1, gpus: float = 0) -> None:
        self.ray = optional("ray", "ray", "Ray")
        self.address, self.threads, self.gpus = address, threads, gpus

    def run(self, jobs: Sequence[Job], started: Started) -> Generator[tuple[Job, Outcome], None, None]:
        """See `sweep.executor.Executor`; Ray does not say when a task begins."""
        from timm_diffsens.sweep.work import work

        ours = not self.ray.is_initialized()
        if ours:
            more: dict[str, Any] = {} if self.address else {"include_dashboard": False}
            try:
                self.ray.init(address=self.address, log_to_driver=False, logging_level="ERROR", **more)
            except (ConnectionError, RuntimeError, ValueError) as error:
                where = f" at {self.address}" if self.address else ""
                raise MeasurementError(f"no Ray cluster{where}: {first_line(error)}") from error
        # Ray's own retries would do a model again that broke its worker, and say nothing of it
        task = self.ray.remote(num_cpus=self.threads, num_gpus=self.gpus, max_calls=1, max_retries=0)(work)
        clock = time.monotonic()
        running = {task.remote(job): job for job in jobs}
        try:
            while running:
                ready, _ = self.ray.wait(list(running), num_returns=1)
                for reference in ready:
                    job = running.pop(reference)
                    yield job, self._outcome(reference, job, time.monotonic() - clock)
        finally:
            for reference in running:
                self.ray.cancel(reference, force=True)
            if ours:
                self.ray.shutdown()

    def _outcome(self, reference: Any, job: Job, seconds: float) -> Outcome:
        errors = self.ray.exceptions
        died = (errors.WorkerCrashedError, errors.NodeDiedError, errors.OutOfMemoryError)
        try:
            found: Outcome = self.ray.get(reference)
        except (*died, errors.ObjectLostError, errors.RaySystemError) as error:
            return lost(job, seconds, f"{type(error).__name__}: {first_line(error)}")
        except errors.RayError as error:  # raised around the job: a package that is missing there, say
            return failed(job, "failed", seconds, error)
        return found
