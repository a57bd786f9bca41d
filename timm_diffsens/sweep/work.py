"""One job, done in whatever process or machine an executor chose for it."""

import time
import warnings
from pathlib import Path
from typing import Any

import torch

from timm_diffsens.benchmark.plan import prepare
from timm_diffsens.benchmark.run import run_once
from timm_diffsens.device import allocator
from timm_diffsens.errors import DiffsensError
from timm_diffsens.schema.config import Config
from timm_diffsens.sensitivities.batch_size import is_out_of_memory
from timm_diffsens.sweep.jobs import Job
from timm_diffsens.sweep.outcomes import Outcome, Status, ended, failed, tally, write_outcome
from timm_diffsens.sweep.structure import count_parameters, structure


def work(job: Job) -> Outcome:
    """Do a job, write its outcome and give it back; whatever the model raises is part of the outcome.

    What is written is settled before this returns: the record, then the outcome.
    """
    clock = time.perf_counter()
    allocator.prepare()
    if job.threads is not None:
        torch.set_num_threads(job.threads)
    try:
        with warnings.catch_warnings(record=True):  # a record keeps those that matter
            outcome = _done(job, clock)
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # `sys.exit` of a model's own code too
        status: Status = "out of memory" if _memory_ran_out(error) else "failed"
        outcome = failed(job, status, time.perf_counter() - clock, error)
    try:
        write_outcome(job, outcome)
    except DiffsensError as error:  # a full disk
        return failed(job, "failed", time.perf_counter() - clock, error)
    return outcome


def _done(job: Job, clock: float) -> Outcome:
    if job.max_parameters is not None:
        parameters = count_parameters(job.model)
        if parameters > job.max_parameters:
            row = {"model": job.model, "parameters": parameters}
            return ended(job, "left out", time.perf_counter() - clock, row=row)
    row, before = (structure(job.model), False) if job.options is None else _measured(job)
    return ended(job, "done", time.perf_counter() - clock, row=row, before=before)


def _measured(job: Job) -> tuple[dict[str, Any], bool]:
    """The model's record in one row: counts of layers, the output's D, G and R, and what it took.

    Returns:
        The row, and whether the record was there before.
    """
    plan = prepare(job.model, Config(**(job.options or {})))
    plan.retries += job.tried
    folder = Path(job.out) / "records"
    record, path, now = run_once(plan, folder, force=job.force)
    layers = record.variants["original"]
    reasons = [layer.reason for layer in layers if layer.reason is not None]
    row = {
        "model": record.model.spec,
        "library": record.model.library,
        "parameters": record.model.parameters,
        "input": f"{record.model.input.channels}x{record.model.input.height}x{record.model.input.width}",
        "images": record.data.n,
        "layers": len(layers),
        "with values": len(layers) - len(reasons),
        "without values": tally(reasons),
        "not called": len(record.not_called),
        **{f"R {name}": variant[-1].r for name, variant in record.variants.items()},
        "D": layers[-1].d,
        "G": layers[-1].g,
        "batch size": record.environment.batch_size,
        "retries": len(record.environment.retries),
        "seconds": record.timings.seconds,
        "record": path.relative_to(folder).as_posix(),
        "key": record.key,
    }
    return row, not now


def _memory_ran_out(error: BaseException | None) -> bool:
    """Whether memory exhaustion is what lies behind an error."""
    return error is not None and (is_out_of_memory(error) or _memory_ran_out(error.__cause__))
