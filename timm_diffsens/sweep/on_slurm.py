"""Jobs as job arrays of Slurm, through submitit: one task a model.

The folder of the sweep has to be the same on all nodes, as do this package and the libraries.
"""

import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from timm_diffsens.errors import MeasurementError, UsageError, first_line
from timm_diffsens.sweep.executors import Started, lost
from timm_diffsens.sweep.jobs import Job
from timm_diffsens.sweep.outcomes import Outcome, failed
from timm_diffsens.sweep.work import work

_MOST = 1000  # tasks of one array: Slurm's own default limit is 1001
_PAUSE = 0.5  # seconds between two looks at the jobs' files
_MINUTES = 60


class Slurm:
    """So many tasks of an array at a time.

    Args:
        folder: of submitit's own files: scripts, logs, results.
        jobs: models at a time.
        cpus, gpus: of a task.
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
        cpus: int = 1,
        gpus: float = 0,
        options: dict[str, str] | None = None,
        cluster: str = "slurm",
    ) -> None:
        submitit = _import_submitit()
        self.errors = submitit.core.utils
        options = dict(options or {})
        try:
            minutes = int(options.pop("time", _MINUTES))
        except ValueError:
            raise UsageError("--slurm time= needs whole minutes, such as time=60") from None
        try:
            self.executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        except RuntimeError as error:
            raise MeasurementError(f"Slurm cannot be used here: {first_line(error)}") from error
        self.executor.update_parameters(
            name="diffsens",
            timeout_min=minutes,
            cpus_per_task=cpus,
            gpus_per_node=int(gpus),
            slurm_array_parallelism=jobs,
            **{f"slurm_{name.replace('-', '_')}": value for name, value in options.items()},
        )

    def run(self, jobs: Sequence[Job], started: Started) -> Generator[tuple[Job, Outcome], None, None]:
        """See `sweep.executors.Executor`; a job counts as started when its array is submitted."""
        for first in range(0, len(jobs), _MOST):
            part = jobs[first : first + _MOST]
            clock = time.monotonic()
            running = dict(zip(self.executor.map_array(work, part), part, strict=True))
            try:
                for job in part:
                    started(job)
                while running:
                    ready = [task for task in running if task.done()]
                    for task in ready:
                        job = running.pop(task)
                        yield job, self._outcome(task, job, time.monotonic() - clock)
                    time.sleep(0 if ready else _PAUSE)
            finally:
                for task in running:
                    task.cancel()

    def _outcome(self, task: Any, job: Job, seconds: float) -> Outcome:
        try:
            found: Outcome = task.result()
        except self.errors.UncompletedJobError as error:
            return lost(job, seconds, first_line(error))
        except Exception as error:  # raised around the job: a package that is missing there, say
            return failed(job, "failed", seconds, error)
        return found


def _import_submitit() -> Any:
    try:
        import submitit
    except ImportError as error:
        raise UsageError(
            "--engine slurm needs submitit, which is not installed: pip install 'timm-diffsens[slurm]'"
        ) from error
    return submitit
