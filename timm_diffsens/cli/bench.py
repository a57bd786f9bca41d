"""`diffsens bench`: measure models, write records, print what was found."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from timm_diffsens.cli.completion import completes
from timm_diffsens.cli.options import RUNNING, Force, configured, option
from timm_diffsens.cli.output import (
    OUT,
    Json,
    Out,
    Quiet,
    print_error,
    print_json,
    progress_bars,
    progress_console,
    result_console,
)
from timm_diffsens.errors import DiffsensError, UsageError
from timm_diffsens.schema.config import Config

if TYPE_CHECKING:
    from rich.progress import TaskID

    from timm_diffsens.benchmark.plan import Inputs
    from timm_diffsens.benchmark.run import Progress
    from timm_diffsens.schema.records import Record


def _bench(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="timm name, torchvision/NAME, net/NAME, hf-hub:OWNER/NAME, FILE.py:FACTORY, MODULE:FACTORY",
            autocompletion=completes("models"),
        ),
    ],
    config: Config,
    out: Out = OUT,
    force: Force = False,
    all_layers: Annotated[
        bool, option("--all-layers", help="List every layer, however many.", panel=RUNNING)
    ] = False,
    save_fields: Annotated[
        Path | None,
        option(
            "--save-fields",
            help="Write the (first) deformation's fields too: .npz for --deformation fields:FILE.",
            panel=RUNNING,
            metavar="FILE",
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure models layer by layer: deformations (D), noise (G) and R = D/G. Writes a record of each."""
    inputs = _checked(models, config, out, save_fields)
    results: list[Any] = []
    failures: list[DiffsensError] = []
    for spec in models:
        try:
            result: Any = _measure(spec, inputs, out / "records", force, quiet or as_json, save_fields)
        except DiffsensError as error:
            failures.append(error)
            print_error(f"{spec}: {error}" if len(models) > 1 else str(error))
            # one that was measured but not written is lost nowhere else
            result = getattr(error, "record", {"model": spec, "error": str(error)})
        results.append(result)
        if not as_json and not isinstance(result, dict):
            _print(result, out / "records", all_layers, quiet)
    if as_json:
        print_json(results)
    if failures and len(models) > 1:
        print_error(f"{len(failures)} of {len(models)} models failed; the records of the others are written")
    if failures:
        raise typer.Exit(failures[0].exit_code if len(models) == 1 else 1)


_bench.__name__ = "bench"
bench = configured(_bench)


def _checked(models: Sequence[str], config: Config, out: Path, save_fields: Path | None) -> "Inputs":
    """Find wrong use before anything is measured: model names, options, images, the output folder."""
    from timm_diffsens.benchmark.plan import Inputs
    from timm_diffsens.device import allocator
    from timm_diffsens.models.architectures import find_architecture
    from timm_diffsens.results.records.store import check_writable

    single = {
        "checkpoint": config.checkpoint,
        "test-error": config.test_error,
        "train-error": config.train_error,
        "save-fields": save_fields,
    }
    for name, value in single.items():
        if value is not None and len(models) > 1:
            raise UsageError(f"--{name} belongs to one model, got {len(models)}: {', '.join(models)}")
    allocator.prepare()
    for spec in models:
        find_architecture(spec)
    inputs = Inputs.of(config)
    check_writable(out / "records", inputs.source.origin.spec)
    return inputs


def _measure(
    spec: str, inputs: "Inputs", folder: Path, force: bool, quiet: bool, save_fields: Path | None
) -> "Record":
    from timm_diffsens.benchmark.plan import prepare
    from timm_diffsens.benchmark.run import run_once

    plan = prepare(spec, inputs)
    if plan.sample.note and not quiet:
        progress_console().print(f"{spec}: images are {plan.sample.note}", soft_wrap=True)
    if save_fields is not None:
        plan.save_fields(save_fields)
        progress_console().print(f"fields: {save_fields}", soft_wrap=True)
    with _progress(spec, quiet) as progress:
        record, path, now = run_once(plan, folder, force=force, progress=progress)
    before = "" if now else "measured before, "
    after = "" if now else "; --force measures again"
    progress_console().print(f"{spec}: {before}{path}{after}", soft_wrap=True)
    return record


def _print(record: "Record", folder: Path, all_layers: bool, quiet: bool) -> None:
    from timm_diffsens.cli.show import kept_of, print_record
    from timm_diffsens.results.records.store import record_path
    from timm_diffsens.results.report.advice import advice

    notes = [] if quiet else [text for text in advice(record) if text not in record.warnings]
    distances = kept_of(record_path(folder, record), record)
    print_record(result_console(), record, "original", all_layers, notes, distances)


@contextmanager
def _progress(spec: str, quiet: bool) -> Iterator["Progress"]:
    """A bar a variant on standard error: images, images per second, time left; nothing without a terminal."""
    with progress_bars(quiet, "speed") as bars:
        tasks: dict[str, TaskID] = {}

        def tell(variant: str, done: int, total: int) -> None:
            if variant not in tasks:
                tasks[variant] = bars.add_task(f"{spec} {variant}", total=total, speed="")
            bars.update(tasks[variant], completed=done)
            speed = bars.tasks[tasks[variant]].finished_speed or bars.tasks[tasks[variant]].speed
            bars.update(tasks[variant], speed=f"{speed:.1f} images/s" if speed else "")

        yield tell
