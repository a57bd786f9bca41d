"""Jobs as job arrays of Slurm, through submitit: a task does one model, or several in one process.

The folder of the sweep has to be the same on all nodes, as do this package and the libraries.
"""

import json
import logging
import subprocess
import time
from collections import deque
from collections.abc import Generator, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

from timm_diffsens import registry
from timm_diffsens.errors import MeasurementError, UsageError, first_line
from timm_diffsens.sweep.executor import Started, optional
from timm_diffsens.sweep.jobs import Job
from timm_diffsens.sweep.outcomes import Outcome, failed, lost, outcome_of
from timm_diffsens.sweep.worker import Place

_MOST = 1000  # tasks of one array: Slurm's own default limit is 1001
_PAUSE = 0.5  # seconds between two checks of the jobs' files
_OURS = {"array", "error", "output"}  # by which tasks and their results are found
_RESOURCES = {"gres", "tres_per_task"}
_QUEUE_PAUSE = 10  # seconds between two checks of the queue; a task missing from two has ended


@registry.register("executors", "slurm", help="job arrays of Slurm", order=2)
class Slurm:
    """So many tasks of an array at a time.

    A task writes down what it begins and what came of it. One that is lost costs the model that was under
    way; those that it had not begun are given to others.

    Args:
        folder: of submitit's own files: scripts, logs, results.
        jobs: tasks at a time.
        threads, gpus: CPUs and whole GPUs of a task; with 0 GPUs those that the options ask for.
        options: of `sbatch`, by their long names: partition, account, mem, ...; `time` in minutes a model.
            They are passed on as they are: Slurm knows its own.
        models: that a task does, one after another; it is given so many times the `time`.
        cluster: None finds Slurm; "local" is submitit's stand-in, processes on this machine.

    Raises:
        UsageError: submitit is not installed; an option asks for what is asked for already, or is no
            choice; half a GPU. MeasurementError: there is no Slurm here.
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
        models: int = 1,
    ) -> None:
        if models < 1:
            raise UsageError(f"a task of Slurm does at least 1 model, got models={models}")
        submitit = optional("submitit", "slurm", "submitit")
        logging.getLogger("submitit").setLevel(logging.ERROR)  # without accounting it warns at every check
        self.cluster, self.folder, self.models = cluster, folder, models
        self.errors = submitit.core.utils
        options = {"time": "60", **(options or {})}
        try:
            minutes = int(options.pop("time"))
        except ValueError:
            raise UsageError("--slurm time= needs whole minutes, such as time=60") from None
        options = {name.replace("-", "_"): value for name, value in options.items()}
        _check(options, gpus)
        try:
            self.executor = submitit.AutoExecutor(folder=folder, cluster=cluster)
        except RuntimeError as error:
            raise MeasurementError(f"Slurm cannot be used here: {first_line(error)}") from error
        self.seconds = 60.0 * minutes if models > 1 else None  # else Slurm itself ends the task
        self.executor.update_parameters(
            name="diffsens",
            timeout_min=minutes * models,
            cpus_per_task=threads,
            gpus_per_node=int(gpus) or None,
            slurm_array_parallelism=jobs,
            slurm_additional_parameters=options,
        )

    def run(self, jobs: Sequence[Job], started: Started) -> Generator[tuple[Job, Outcome], None, None]:
        """See `sweep.executor.Executor`."""
        waiting = deque(jobs)
        while waiting:
            count = min(len(waiting), _MOST * self.models)
            part = [waiting.popleft() for _ in range(count)]
            shares = [part[first : first + self.models] for first in range(0, count, self.models)]
            waiting.extend((yield from self._array(shares, started)))

    def _array(
        self, shares: list[list[Job]], started: Started
    ) -> Generator[tuple[Job, Outcome], None, list[Job]]:
        """One array, a task a share; gives at its end the jobs that lost tasks had not begun."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            own = Path(mkdtemp(prefix="journals-", dir=self.folder))
            journals = [own / str(k) for k in range(len(shares))]
            tasks = self.executor.map_array(do_share, shares, journals, [self.seconds] * len(shares))
        except self.errors.FailedJobError as error:
            raise MeasurementError(f"sbatch has refused the tasks: {first_line(error)}") from error
        except OSError as error:  # nowhere to write what the tasks are
            yield from ((job, failed(job, "failed", 0.0, error)) for share in shares for job in share)
            return []
        following = [_Share(*each) for each in zip(shares, journals, strict=True)]
        running = dict(zip(tasks, following, strict=True))
        unbegun, missing, checked = list[Job](), set[str](), time.monotonic()
        try:
            while running:
                gone = set[str]()
                if time.monotonic() - checked > _QUEUE_PAUSE:
                    before, checked = missing, time.monotonic()
                    missing = self._not_queued(task.job_id for task in running)
                    gone = before & missing
                for task, share in list(running.items()):
                    ended = task.done() or task.job_id in gone
                    yield from share.news(started)
                    if ended:
                        del running[task]
                        yield from share.settle(self._result(task))
                        unbegun += share.jobs
                time.sleep(_PAUSE)
        finally:
            for task in running:
                task.cancel()
        return unbegun

    def _not_queued(self, tasks: Iterable[str]) -> set[str]:
        """Tasks that Slurm does not know of any more: without its accounting, submitit waits for them."""
        if self.cluster != "slurm":
            return set()
        command = ["squeue", "--noheader", "--array", "--me", "--format=%i"]
        found = subprocess.run(command, capture_output=True, text=True, check=False)
        return set(tasks) - set(found.stdout.split()) if found.returncode == 0 else set()

    def _result(self, task: Any) -> "list[Outcome] | Exception":
        """Of a task that has ended, or has left the queue, where it may have written its result since."""
        if not (task.done() or task.paths.result_pickle.exists()):
            task.cancel()
            return TimeoutError(f"task {task.job_id} has left the queue without a result")
        try:
            found: list[Outcome] = task.result()
        except self.errors.UncompletedJobError as error:
            return TimeoutError(first_line(error))
        except Exception as error:  # raised around the jobs: a package that is missing there, say
            return error
        return found


def _check(options: dict[str, str], gpus: float) -> None:
    """Raises: UsageError: something is asked for twice or in parts, or is no choice."""
    if not (gpus >= 0 and gpus % 1 == 0):
        raise UsageError(f"a task of Slurm gets whole GPUs, got --gpus {gpus:g}; --gpus 1, say")
    for option, value in options.items():
        shown = option.replace("_", "-")
        if option in _OURS:
            raise UsageError(f"--slurm {shown} is no choice: tasks are found by it")
        if gpus and (option.startswith("gpus") or (option in _RESOURCES and "gpu" in value)):
            raise UsageError(f"--gpus {gpus:g} and --slurm {shown}={value} both ask for GPUs; give one")


class _Share:
    """The jobs of a task that are not settled, as its journal and its result tell."""

    def __init__(self, jobs: list[Job], journal: Path) -> None:
        self.jobs, self.journal = list(jobs), journal
        self.begun: Job | None = None
        self.any, self.read, self.clock = False, 0, time.monotonic()

    def news(self, started: Started) -> Generator[tuple[Job, Outcome], None, None]:
        """What the journal has more than at the last time; the last line may be half there."""
        try:
            lines = self.journal.read_text().split("\n")[self.read : -1]
        except OSError:
            return
        self.read += len(lines)
        for line in lines:
            values = json.loads(line)
            if values is None:
                self.begun, self.any, self.clock = self.jobs[0], True, time.monotonic()
                started(self.begun)
            else:
                yield self._settled(outcome_of(values))

    def settle(self, result: "list[Outcome] | Exception") -> Generator[tuple[Job, Outcome], None, None]:
        """The others of a task that has ended; those that it lost unbegun are left, unless it began none."""
        if not isinstance(result, Exception):
            yield from map(self._settled, result[len(result) - len(self.jobs) :] if self.jobs else [])
            return
        wanted = self.jobs[:1] if self.begun else [] if self.any else self.jobs[:]
        for job in wanted:
            seconds = time.monotonic() - self.clock
            was_lost = isinstance(result, TimeoutError)
            yield self._settled(
                lost(job, seconds, str(result)) if was_lost else failed(job, "failed", seconds, result)
            )

    def _settled(self, outcome: Outcome) -> tuple[Job, Outcome]:
        self.begun = None
        return self.jobs.pop(0), outcome


def do_share(jobs: Sequence[Job], journal: Path, seconds: float | None) -> list[Outcome]:
    """What a task does: its jobs, in their order; the journal has a line for each begun and each ended."""
    place, found = Place(), list[Outcome]()
    try:
        with journal.open("w", buffering=1) as lines:
            for job in jobs:
                print("null", file=lines)
                found.append(place.do(job, seconds))
                print(json.dumps(asdict(found[-1])), file=lines)
    finally:
        place.end()
    return found
