"""How a job ended: one small JSON file a job, and a log of what failed."""

import errno
import json
import os
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Literal

from timm_diffsens.errors import DiffsensError, first_line, without_options
from timm_diffsens.files import write_atomic
from timm_diffsens.schema.config import ONE_MODEL
from timm_diffsens.sweep.jobs import Job, versions

Status = Literal["done", "left out", "failed", "out of memory", "lost"]

RETRIED: tuple[Status, ...] = ("out of memory", "lost")
SETTLED: tuple[Status, ...] = ("done", "left out")
_LONGEST_MESSAGE = 500


@dataclass(frozen=True)
class Outcome:
    """How one attempt at a job ended.

    Attributes:
        job: its id. model: spec. status: `left out` is larger than asked for, `lost` a worker that died.
        row: what was found, plain values: columns of a table.
        error: class of what was raised, None if nothing was. message: its text.
        seconds: that the attempt took. attempt: from 1. tried: what ended the attempts before.
        versions: of this package, torch, timm and torchvision.
        name: the model with its checkpoint, where it has one.
        before: found done, by an earlier run.
    """

    job: str
    model: str
    status: Status
    row: dict[str, Any] = field(default_factory=dict)
    error: str | None = None
    message: str | None = None
    seconds: float = 0.0
    attempt: int = 1
    tried: tuple[str, ...] = ()
    versions: dict[str, str] = field(default_factory=versions)
    name: str = ""
    before: bool = False

    @property
    def called(self) -> str:
        """What people call it."""
        return self.name or self.model

    @property
    def cause(self) -> str | None:
        """Class and text of the error."""
        return None if self.error is None else f"{self.error}: {self.message}"


def ended(job: Job, status: Status, seconds: float, **more: Any) -> Outcome:
    """The outcome of a job's present attempt."""
    more |= {"attempt": job.attempt, "tried": job.tried, "name": job.name}
    return Outcome(job.id, job.model, status, seconds=round(seconds, 3), **more)


def failed(job: Job, status: Status, seconds: float, error: BaseException) -> Outcome:
    """The outcome of an attempt that raised; named after what lies behind an error of this package."""
    behind = error.__cause__ if isinstance(error, DiffsensError) and error.__cause__ else error
    message = without_options(first_line(error, _LONGEST_MESSAGE), ONE_MODEL)
    return ended(job, status, seconds, error=type(behind).__name__, message=message)


def lost(job: Job, seconds: float, message: str) -> Outcome:
    """The outcome of an attempt whose worker died without one."""
    return ended(job, "lost", seconds, error="LostWorker", message=message)


def write_outcome(job: Job, outcome: Outcome) -> None:
    """Write the outcome where `Job.file` says, whole or not at all."""
    text = json.dumps(asdict(outcome), indent=1, allow_nan=False)
    write_atomic(job.file, text.encode() + b"\n")


def outcome_of(values: dict[str, Any]) -> Outcome:
    """The outcome of the values of its fields, as JSON has them."""
    return Outcome(**{**values, "tried": tuple(values["tried"])})


def read_outcome(path: Path) -> Outcome | None:
    """The outcome in a file; None if there is none that can be read."""
    try:
        return outcome_of(json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError, KeyError):
        return None


def log_error(out: Path, outcome: Outcome) -> None:
    """Append a line to `errors.jsonl`: one write, so that several sweeps may share the file.

    What an earlier write left half, on a disk that was full, stays a line of its own.

    Raises:
        DiffsensError: it cannot be written.
    """
    line = {
        "time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "model": outcome.called,
        "status": outcome.status,
        "class": outcome.error,
        "message": outcome.message,
        "attempt": outcome.attempt,
        "versions": outcome.versions,
    }
    path = out / "errors.jsonl"
    try:
        out.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o666)
        try:
            size = os.fstat(descriptor).st_size  # 0 of what is no regular file
            torn = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
            text = ("\n" * torn + json.dumps(line) + "\n").encode()
            if os.write(descriptor, text) < len(text):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        finally:
            os.close(descriptor)
    except OSError as error:
        raise DiffsensError(f"cannot write {path}: {error.strerror or error}") from error


def tally(reasons: Iterable[str]) -> str:
    """`constant: 3; input-independent: 1`, the most frequent first."""
    counts = sorted(Counter(reasons).items(), key=lambda item: (-item[1], item[0]))
    return "; ".join(f"{reason}: {count}" for reason, count in counts)
