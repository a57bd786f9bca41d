"""`diffsens sweep`: many models, in this process' children, on a Ray cluster or on Slurm."""

import json
import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timm_diffsens import registry
from timm_diffsens.cli.completion import completes
from timm_diffsens.cli.options import MODEL, RUNNING, Force, configured, option
from timm_diffsens.cli.output import OUT, Json, Quiet, print_error, print_json, result_console
from timm_diffsens.cli.sweep_view import print_summary, watching
from timm_diffsens.errors import DiffsensError, UsageError
from timm_diffsens.schema import limits
from timm_diffsens.schema.config import Config

if TYPE_CHECKING:
    from timm_diffsens.sweep.executor import Executor
    from timm_diffsens.sweep.jobs import Job
    from timm_diffsens.sweep.outcomes import Outcome

_MACHINES = "Machines"


def _sweep(
    patterns: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="PATTERN...",
            help="Shell patterns such as 'resnet*', or model names.",
            autocompletion=completes("models"),
        ),
    ] = None,
    *,
    config: Config,
    models: Annotated[
        Path | None,
        option(
            "--models",
            help="Models in place of patterns, each with options of its own: a CSV table or YAML list.",
            panel=MODEL,
            metavar="FILE",
        ),
    ] = None,
    structure: Annotated[
        bool,
        option("--structure", help="No numbers: what the probe sees, on the meta device.", panel=MODEL),
    ] = False,
    max_parameters: Annotated[
        str | None,
        option("--max-parameters", help="Leave out larger models: 30M, 5e6.", panel=MODEL, metavar="N"),
    ] = None,
    engine: Annotated[
        str,
        option(
            "--engine",
            help="local, ray, slurm, or file.py:attr.",
            panel=_MACHINES,
            autocompletion=completes("executors"),
        ),
    ] = "local",
    jobs: Annotated[
        str | None,
        option(
            "--jobs",
            help="local, slurm: models at a time. auto: one a GPU, else 1; one a core with --structure; "
            "slurm: no limit.",
            panel=_MACHINES,
            metavar="N|auto",
        ),
    ] = None,
    threads: Annotated[int | None, option("--threads", help="CPU threads a model.", panel=_MACHINES)] = None,
    gpus: Annotated[float | None, option("--gpus", help="ray, slurm: GPUs a model.", panel=_MACHINES)] = None,
    shard: Annotated[
        str | None, option("--shard", help="Do the i-th of N parts.", panel=_MACHINES, metavar="i/N")
    ] = None,
    address: Annotated[
        str | None, option("--address", help="ray: of a running cluster, or auto.", panel=_MACHINES)
    ] = None,
    slurm: Annotated[
        list[str] | None,
        option(
            "--slurm",
            help="slurm: partition=gpu, time=60 (minutes a model), ...",
            panel=_MACHINES,
            metavar="KEY=VALUE",
        ),
    ] = None,
    out: Annotated[
        Path, option("--out", help="Records, outcomes, tables, errors.jsonl.", panel=RUNNING, metavar="DIR")
    ] = OUT,
    board: Annotated[
        bool, option("--board", help="Then make the leaderboard of all records there.", panel=RUNNING)
    ] = False,
    errors: Annotated[
        Path | None,
        option(
            "--errors",
            help="With --board: published errors, timm's results-imagenet.csv.",
            panel=RUNNING,
            metavar="FILE",
        ),
    ] = None,
    force: Force = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure many models; what is done already is skipped, and no failure ends the others.

    Everything is a file as soon as it is known, so a sweep that was interrupted goes on where it was.

    Columns of --models: model, and options of `diffsens bench` by name (checkpoint, input_size, mean, std,
    dataset, data_dir, test_error, licence, ...); what is given beside it holds for rows that say nothing.
    """
    from timm_diffsens.device import allocator

    allocator.prepare()
    from timm_diffsens.results.records.published import read_errors
    from timm_diffsens.sweep.jobs import Job, take_shard
    from timm_diffsens.sweep.run import sweep as run
    from timm_diffsens.sweep.tables import write_tables

    _check_workers("--threads", threads)
    given = {"jobs": None if jobs == "auto" else jobs, "gpus": gpus, "address": address, "options": slurm}
    job = Job(
        "",
        out=str(out.resolve()),
        options=None if structure else config.plain(),
        max_parameters=_count(max_parameters),
        force=force,
    )
    if errors is not None:
        if not board:
            raise UsageError("--errors is about the board: give --board too")
        read_errors(errors)  # or it raises, before anything is measured
    asked = _asked(job, patterns or [], models, config)
    workers = _workers(engine, jobs, job)
    executor = _executor(engine, out, given, workers, threads)
    todo = [replace(one, threads=_threads(engine, workers, threads)) for one in take_shard(asked, shard)]
    outcomes: list[Outcome] = []
    interrupted = False
    try:
        with watching(quiet) as watch, closing(run(todo, executor, watch)) as settled:
            outcomes.extend(settled)
    except KeyboardInterrupt:
        interrupted = True
        raise
    finally:
        left = len(todo) - len(outcomes) if interrupted else 0
        made = partial(_board, out, errors) if board and not interrupted else list
        tables = partial(write_tables, out.resolve(), [job, *asked], alone=models is not None)
        written = _conclude(tables, outcomes, left, made, as_json, force)
    if not written or any(outcome.error is not None for outcome in outcomes):
        raise typer.Exit(1)


_sweep.__name__ = "sweep"
sweep = configured(_sweep, sweep=True)


def _asked(job: "Job", patterns: list[str], models: Path | None, config: Config) -> "list[Job]":
    """A job for each model; whatever is wrong with what is asked for is found before any process is started.

    Args:
        job: like all of them, without a model.
    """
    from timm_diffsens.benchmark.plan import Inputs
    from timm_diffsens.sweep.jobs import find_models
    from timm_diffsens.sweep.models_file import named, read_models

    if bool(patterns) == (models is not None):
        raise UsageError("needs either PATTERN... or --models FILE")
    if models is None:
        if job.options is not None:
            Inputs.of(config)
        names = find_models(patterns, config.pretrained and job.options is not None)
        return [job.of(name) for name in names]
    rows = read_models(models, config)
    if job.options is None:
        return [job.of(model) for model in dict.fromkeys(row.model for row in rows)]
    alike = {json.dumps(row.inputs, sort_keys=True): row for row in rows}
    for row in alike.values():
        with named(row.where):
            Inputs.of(Config(**row.options))
    jobs: dict[str, Job] = {}
    for row in rows:
        one = replace(job, model=row.model, options=row.options)
        if one.id in jobs:
            raise UsageError(f"{row.where}: asks for the same as a row before it")
        jobs[one.id] = one
    return list(jobs.values())


def _conclude(
    tables: Callable[[], list[Path]],
    outcomes: "Sequence[Outcome]",
    left: int,
    board: Callable[[], list[Path]],
    as_json: bool,
    force: bool,
) -> bool:
    """Tables, board and summary, also of a sweep that was interrupted; gives whether all could be written."""
    from timm_diffsens.sweep.tables import summarise

    files, written = list[Path](), True
    try:
        files = tables()
        files += board()
    except DiffsensError as error:  # a full disk: the more reason to print what is known
        print_error(str(error))
        written = False
    summary = summarise(outcomes) | {"left": left, "before": sum(outcome.before for outcome in outcomes)}
    if as_json:
        print_json({**summary, "outcomes": [asdict(outcome) for outcome in outcomes], "written": files})
    else:
        print_summary(result_console(), summary, files, force=force)
    return written


def _board(out: Path, errors: Path | None) -> list[Path]:
    """Make the leaderboard of all records there."""
    from timm_diffsens.results.board import write_board
    from timm_diffsens.results.page.record_data import pack
    from timm_diffsens.results.stats.leaderboard import Choices, build_leaderboard

    made = build_leaderboard(out, Choices(errors), pack=pack, parallel=True)
    return [] if made.main is None else write_board(made, out)


def _executor(engine: str, out: Path, given: dict[str, Any], jobs: int, threads: int | None) -> "Executor":
    """The engine with the options that it takes.

    Raises:
        UsageError: one of `given` (parameter -> value, None where it was not given) that it does not take.
    """
    entry = registry.find("executors", engine)
    for parameter, value in given.items():
        if value is not None and not entry.takes(parameter):
            name = "--slurm" if parameter == "options" else f"--{parameter}"
            owners = [other.name for other in registry.entries("executors") if other.takes(parameter)]
            raise UsageError(f"{name} is for --engine {' or '.join(owners)}, got --engine {engine}")
    executor: Executor = entry.build(
        jobs=jobs,
        threads=threads or 1,
        gpus=given["gpus"] or 0,
        address=given["address"],
        folder=(out / "sweep" / entry.name.rpartition(":")[2]).resolve(),
        options=_pairs(given["options"] or []),
    )
    if not callable(getattr(executor, "run", None)):
        raise UsageError(f"--engine {engine} is a {type(executor).__name__} without run(jobs, started)")
    return executor


def _pairs(given: Sequence[str]) -> dict[str, str]:
    """`KEY=VALUE` each."""
    pairs = [text.partition("=") for text in given]
    for key, equals, value in pairs:
        if not (key and equals and value):
            raise UsageError(f"--slurm needs KEY=VALUE, such as partition=gpu; got {key + equals + value!r}")
    return {key: value for key, _, value in pairs}


def _workers(engine: str, asked: str | None, job: "Job") -> int:
    """How many models at a time; `auto` where nothing was asked for."""
    if asked not in (None, "auto"):
        try:
            workers = int(asked)
        except ValueError:
            raise UsageError(f"--jobs needs a whole number, or auto; got {asked!r}") from None
        _check_workers("--jobs", workers)
        return workers
    if engine != "local":  # Slurm's scheduler knows best how many fit
        return limits.WORKERS if registry.split_arguments(engine)[0] == "slurm" else 1
    if job.options is None:
        return os.cpu_count() or 1
    from timm_diffsens.sweep.executors.local import visible_gpus

    return max(1, len(visible_gpus())) if job.on_any_gpu else 1


def _check_workers(name: str, value: int | None) -> None:
    if value is not None and not 1 <= value <= limits.WORKERS:
        raise UsageError(f"{name} must be at least 1 and at most {limits.WORKERS:,}, got {value}")


def _threads(engine: str, jobs: int, asked: int | None) -> int | None:
    """Of each worker: those of the machine are shared among the processes on it."""
    if asked is not None or engine != "local":
        return asked or 1
    return None if jobs == 1 else max(1, (os.cpu_count() or 1) // jobs)


def _count(text: str | None) -> int | None:
    """`30M`, `5e6`, `12000`."""
    if text is None:
        return None
    unit = {"K": 1e3, "M": 1e6, "G": 1e9}.get(text[-1:].upper(), 1)
    try:
        value = float(text[:-1] if unit > 1 else text) * unit
    except ValueError:
        value = 0
    if not 1 <= value < float("inf"):
        raise UsageError(f"--max-parameters needs a number such as 30M or 5e6, got {text!r}")
    return round(value)
