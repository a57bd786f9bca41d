"""What a sweep leaves for readers: a table of all its models, and a summary of it."""

import csv
import io
import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from timm_diffsens.files import write_atomic
from timm_diffsens.printable import csv_cell
from timm_diffsens.sweep.jobs import Job, Kind, outcome_folder, versions
from timm_diffsens.sweep.outcomes import Outcome, read_outcome

NAMES: dict[Kind, str] = {"structure": "coverage", "measured": "sweep"}
_LEFT_TO_THE_FILES = ("names", "key", "record", "seconds")  # long, or different in every run


def write_tables(out: Path, jobs: Sequence[Job], alone: bool = False) -> list[Path]:
    """Write `coverage.csv` (`sweep.csv` where models were measured) and the summary beside it, as JSON.

    They are made from the outcome files of all sweeps into the folder that asked for the same, by the same
    versions: shards, interrupted runs, several patterns.

    Args:
        out: folder of the sweep.
        jobs: of it; the first says what is asked for of models that are not among them.
        alone: without those models: a file of models says all that there is to be.
    """
    outcomes = read_outcomes(out, jobs, alone)
    if not outcomes:
        return []
    table, summary = (out / f"{NAMES[jobs[0].kind]}.{ending}" for ending in ("csv", "json"))
    write_atomic(table, table_text(outcomes).encode(errors="backslashreplace"))
    write_atomic(summary, (json.dumps(summarise(outcomes), indent=1) + "\n").encode())
    return [table, summary]


def read_outcomes(out: Path, jobs: Sequence[Job], alone: bool = False) -> list[Outcome]:
    """Outcomes of these jobs and, unless `alone`, of what differs from the first by its model; by model."""
    like, ids = jobs[0], {job.id for job in jobs}
    found = [read_outcome(path) for path in outcome_folder(out, like.kind).glob("*.json")]
    same = [
        o for o in found if o is not None and (o.job in ids or (not alone and o.job == like.of(o.model).id))
    ]
    return sorted(same, key=lambda outcome: (outcome.model, outcome.name))


def table_text(outcomes: Sequence[Outcome]) -> str:
    """CSV with a line a model; numbers to four digits, so that equal runs give equal text."""
    rows = [{**o.row, "model": o.called, "status": o.status, "cause": o.cause} for o in outcomes]
    names = dict.fromkeys(["model", "status", "cause", *(name for row in rows for name in row)])
    columns = [name for name in names if name not in _LEFT_TO_THE_FILES]
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({n: f"{v:.4g}" if isinstance(v, float) else csv_cell(v) for n, v in row.items()})
    return text.getvalue()


def failures(outcomes: Sequence[Outcome]) -> dict[str, str | None]:
    """Name -> cause; names that several share have the job's id behind them."""
    failed = [outcome for outcome in outcomes if outcome.error is not None]
    count = Counter(outcome.called for outcome in failed)
    return {o.called if count[o.called] == 1 else f"{o.called} [{o.job}]": o.cause for o in failed}


def summarise(outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """Counts by status and library, failures by name and cause, sums over all layers."""
    done = [o.row for o in outcomes if o.status == "done"]
    sums = ("leaf outputs", "layer", "dropped", "layers", "with values", "channel axis known", "not called")
    return {
        "versions": versions(),
        "models": len(outcomes),
        "status": dict(sorted(Counter(o.status for o in outcomes).items())),
        "done by library": dict(sorted(Counter(row["library"] for row in done).items())),
        "sums": {name: sum(row[name] for row in done) for name in sums if any(name in row for row in done)},
        "failures": failures(outcomes),
    }
