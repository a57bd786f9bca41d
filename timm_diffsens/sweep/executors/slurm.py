"""Jobs as job arrays of Slurm, through submitit: one task a model.

The folder of the sweep has to be the same on all nodes, as do this package and the libraries.
"""

import logging
import subprocess
import time
from collections.abc import Generator, Iterable, Sequence
from pathlib import Path
from typing import Any

from timm_diffsens import registry
from timm_diffsens.errors import MeasurementError, UsageError, first_line
from timm_diffsens.sweep.executor import Started, optional
from timm_diffsens.sweep.jobs import Job
from timm_diffsens.sweep.outcomes import Outcome, failed, lost

_MOST = 1000  # tasks of one array: Slurm's own default limit is 1001
_PAUSE = 0.5  # seconds between two checks of the jobs' files
_QUEUE_PAUSE = 10  # seconds between two checks of the queue; a task missing from two has ended


@registry.register("executors", "slurm", help="job arrays of Slurm", order=2)
class Slurm:
    """So many tasks of an array at a time.

    Args:
        folder: of submitit's own files: scripts, logs, results.
        jobs: models at a time.
        threads, gpus: CPUs and GPUs of a task.
        options: of `sbatch`, by their long names: partition, account, mem, ...; `time` in minutes.
        cluster: None finds Slurm; "local" is submitit's stand-in, processes on this machine.

    Raises:
        UsageError: submitit is not installed. MeasurementError: there is no Slurm here.
    """

    def __init__(
        self,
        folder: Path,
        jobs: int = 1,
        *,
        threads: int = 1,
        gpus: float = 0,
        options: dict[str, str] | None = None,
        cluster: str = "slurm",
    ) -> None:
        submitit = optional("submitit", "slurm", "submitit")
        logging.getLogger("submitit").setLevel(logging.ERROR)  # without accounting it warns at every check
        self.cluster = cluster
        self.errors = submitit.core.utils
        options = {"time": "60", **(options or {})}
        try:
            minutes = int(options.pop("time"))
        except ValueError:
            raise UsageError("--slurm time= needs whole minutes, such as time=60") from None
        try:
            self.executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        except RuntimeError as error:
            raise MeasurementError(f"Slurm cannot be used here: {first_line(error)}") from error
        self.executor.update_parameters(
            name="diffsens",
            timeout_min=minutes,
            cpus_per_task=threads,
            gpus_per_node=int(gpus),
            slurm_array_parallelism=jobs,
            **{f"slurm_{name.replace('-', '_')}": value for name, value in options.items()},
        )

    def run(self, jobs: Sequence[Job], started: Started) -> Generator[tuple[Job, Outcome], None, None]:
        """See `sweep.executor.Executor`; a job counts as started when its array is submitted."""
        from timm_diffsens.sweep.work import work

        for first in range(0, len(jobs), _MOST):
            part = jobs[first : first + _MOST]
            clock = time.monotonic()
            try:
                running = dict(zip(self.executor.map_array(work, part), part, strict=True))
            except OSError as error:  # nowhere to write what the tasks are
                yield from ((job, failed(job, "failed", 0.0, error)) for job in part)
                continue
            try:
                for job in part:
                    started(job)
                missing, checked = set[str](), time.monotonic()
                while running:
                    gone = set[str]()
                    if time.monotonic() - checked > _QUEUE_PAUSE:
                        before, checked = missing, time.monotonic()
                        missing = self._not_queued(task.job_id for task in running)
                        gone = before & missing
                    for task in [task for task in running if task.done() or task.job_id in gone]:
                        job = running.pop(task)
                        yield job, self._outcome(task, job, time.monotonic() - clock)
                    time.sleep(_PAUSE)
            finally:
                for task in running:
                    task.cancel()

    def _not_queued(self, tasks: Iterable[str]) -> set[str]:
        """Tasks that Slurm does not know of any more: without its accounting, submitit waits for them."""
        if self.cluster != "slurm":
            return set()
        command = ["squeue", "--noheader", "--array", "--me", "--format=%i"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        return set(tasks) - set(found.stdout.split()) if found.returncode == 0 else set()

    def _outcome(self, task: Any, job: Job, seconds: float) -> Outcome:
        """Of a task that has ended, or has left the queue, where it may have written its result since."""
        if not (task.done() or task.paths.result_pickle.exists()):
            task.cancel()
            return lost(job, seconds, f"task {task.job_id} has left the queue without a result")
        try:
            found: Outcome = task.result()
        except self.errors.UncompletedJobError as error:
            return lost(job, seconds, first_line(error))
        except Exception as error:  # raised around the job: a package that is missing there, say
            return failed(job, "failed", seconds, error)
        return found
