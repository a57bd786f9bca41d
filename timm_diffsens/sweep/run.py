"""A sweep: finished jobs are skipped, the others are run, and retried where a retry may help."""

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import replace
from functools import partial
from pathlib import Path

from timm_diffsens.errors import DiffsensError, warn
from timm_diffsens.files import check_writable_folder
from timm_diffsens.results.records.store import find_record
from timm_diffsens.sweep.executor import Executor, Watch
from timm_diffsens.sweep.jobs import Job
from timm_diffsens.sweep.outcomes import RETRIED, SETTLED, Outcome, log_error, read_outcome, write_outcome

ATTEMPTS = 3  # at a job whose worker died, or whose memory ran out


_NOBODY = Watch()


def sweep(jobs: Iterable[Job], executor: Executor, watch: Watch = _NOBODY) -> Generator[Outcome, None, None]:
    """Do all jobs; gives the outcome of each as it is settled, those done before first.

    A job whose worker died, or whose memory ran out, is tried again after all others, twice at most; one
    that raised anything else is not. What fails is logged in `errors.jsonl`, and never ends the sweep; nor
    does a full disk: one `DiffsensWarning` says so.

    Args:
        jobs: of one folder.
        executor: where they are done.
        watch: called with what happens.

    Raises:
        UsageError: the folder cannot be written in.
    """
    jobs = list(jobs)
    for folder in {job.file.parent for job in jobs}:
        check_writable_folder(folder)
    found = {job.id: done_before(job) for job in jobs}
    before = [outcome for outcome in found.values() if outcome is not None]
    watch.begin(len(jobs), len(before))
    yield from before
    pending = [job for job in jobs if found[job.id] is None]
    reported = False

    def written(write: Callable[[], None]) -> None:
        """A failure is reported once; models are still measured."""
        nonlocal reported
        try:
            write()
        except DiffsensError as error:
            if not reported:
                warn(f"{error}; the sweep goes on, but what it cannot write will be done again")
            reported = True

    while pending:
        again: list[Job] = []
        with closing(executor.run(pending, watch.started)) as ended:
            for job, outcome in ended:
                if outcome.error is not None:
                    written(partial(log_error, Path(job.out), outcome))
                if outcome.status in RETRIED and job.attempt < ATTEMPTS:
                    again.append(job.again(f"attempt {job.attempt}: {outcome.cause}"))
                    watch.retried(outcome)
                    continue
                if outcome.status == "lost":  # its worker could not write it
                    written(partial(write_outcome, job, outcome))
                watch.finished(outcome)
                yield outcome
        pending = again


def done_before(job: Job) -> Outcome | None:
    """The outcome of an earlier run, where nothing can have changed since; None if the job is to be done.

    A job with published weights or images from elsewhere is always given to a worker: `run_once` finds out,
    by the record's key, whether it is done.
    """
    if job.force or not job.self_contained:
        return None
    outcome = read_outcome(job.file)
    if outcome is None or outcome.job != job.id or outcome.status not in SETTLED:
        return None
    if outcome.status == "left out":
        limit = job.max_parameters
        same = limit is not None and outcome.row["parameters"] > limit
    elif job.options is not None:
        path = Path(job.out) / "records" / outcome.row["record"]
        same = find_record(path.parent, outcome.row["key"]) == path
    else:
        same = True
    return replace(outcome, before=True) if same else None
