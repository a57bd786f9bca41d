"""`diffsens bench`: measure models, write records, print what was found."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from timm_diffsens.cli import measuring as ask
from timm_diffsens.cli.measuring import IMAGES, MODEL, RUN, option, split_commas, whole
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

if TYPE_CHECKING:
    from rich.progress import TaskID

    from timm_diffsens.benchmark.options import Options
    from timm_diffsens.benchmark.run import Progress
    from timm_diffsens.schema.records import Record


def bench(
    models: Annotated[
        list[str],
        typer.Argument(
            metavar="MODEL...",
            help="timm name, torchvision/NAME, net/NAME, hf-hub:OWNER/NAME, FILE.py:FACTORY, MODULE:FACTORY",
        ),
    ],
    checkpoint: Annotated[
        Path | None,
        option("--checkpoint", help="Weights: a safetensors or torch file.", panel=MODEL, metavar="FILE"),
    ] = None,
    pretrained: ask.Pretrained = True,
    input_size: Annotated[
        str | None,
        option("--input-size", help="In place of the model's own.", panel=MODEL, metavar="H[,W]"),
    ] = None,
    mean: Annotated[
        list[str] | None, option("--mean", help="Per channel, or one.", panel=MODEL, metavar="M,...")
    ] = None,
    std: Annotated[
        list[str] | None, option("--std", help="Per channel, or one.", panel=MODEL, metavar="S,...")
    ] = None,
    dataset: ask.Dataset = "dead-leaves",
    data_dir: ask.DataDir = None,
    split: ask.Split = None,
    images: ask.Images = "500",
    download: Annotated[
        bool, option("--download", help="Fetch the dataset, for those that can.", panel=IMAGES)
    ] = False,
    full_error: ask.FullError = False,
    test_error: Annotated[
        float | None, option("--test-error", help="A known test error, a fraction.", panel=IMAGES)
    ] = None,
    dims: Annotated[
        int | None, option("--dims", help="scale1, scale2: 1 or 2 dimensions.", panel=IMAGES)
    ] = None,
    size: Annotated[int | None, option("--size", help="scale1, scale2: pixels a side.", panel=IMAGES)] = None,
    xi: Annotated[
        float | None, option("--xi", help="scale1: the distance; scale2: the patch.", panel=IMAGES)
    ] = None,
    gap: Annotated[
        float | None, option("--gap", help="scale1: distances around xi left out.", panel=IMAGES)
    ] = None,
    delta: ask.Delta = 1.0,
    cut: ask.Cut = 3,
    corrupt: ask.Corrupt = 0.0,
    seed: ask.Seed = 0,
    layers: ask.Layers = None,
    variants: ask.Variants = None,
    shuffles: ask.Shuffles = 1,
    shuffle_linear: ask.ShuffleLinear = False,
    init_samples: ask.InitSamples = 1,
    device: ask.Device = "auto",
    batch_size: ask.BatchSize = "auto",
    amp: ask.Amp = False,
    tf32: ask.TF32 = False,
    out: Out = OUT,
    force: ask.Force = False,
    all_layers: Annotated[
        bool, option("--all-layers", help="List every layer, however many.", panel=RUN)
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure models layer by layer: deformations (D), noise (G) and R = D/G. Writes a record of each."""
    from timm_diffsens.benchmark.options import DEFAULT_VARIANTS, Options

    options = Options(
        dataset=dataset,
        data_dir=data_dir,
        split=split,
        images=ask.image_count(images),
        download=download,
        pretrained=pretrained,
        checkpoint=checkpoint,
        input_size=_size(input_size),
        mean=_numbers("--mean", mean),
        std=_numbers("--std", std),
        delta=delta,
        cut=cut,
        corrupt=corrupt,
        seed=seed,
        layers=split_commas(layers) or ["blocks"],
        variants=split_commas(variants) or DEFAULT_VARIANTS,
        shuffles=shuffles,
        shuffle_linear=shuffle_linear,
        init_samples=init_samples,
        device=device,
        batch_size=ask.batch_size_given(batch_size),
        amp=amp,
        tf32=tf32,
        full_error=full_error,
        test_error=test_error,
        dims=dims,
        size=size,
        xi=xi,
        gap=gap,
    )
    _check(models, options, out)
    records, failed = [], 0
    for spec in models:
        try:
            record = _measure(spec, options, out / "records", force, quiet, say=not as_json)
        except DiffsensError as error:
            if len(models) == 1:
                raise
            print_error(f"{spec}: {error}")
            failed += 1
            continue
        records.append(record)
        if not as_json:
            _print(record, all_layers, quiet)
    if as_json:
        print_json(records)
    if failed:
        print_error(f"{failed} of {len(models)} models failed; the records of the others are written")
        raise typer.Exit(1)


def _check(models: Sequence[str], options: "Options", out: Path) -> None:
    """Find wrong use before anything is measured: model names, options, the output folder."""
    from timm_diffsens.device import allocator, devices
    from timm_diffsens.models.architectures import find_architecture
    from timm_diffsens.results.records.store import check_writable

    if options.checkpoint is not None and len(models) > 1:
        raise UsageError(
            f"--checkpoint holds the weights of one model, got {len(models)}: {', '.join(models)}"
        )
    if options.test_error is not None and len(models) > 1:
        raise UsageError(f"--test-error belongs to one model, got {len(models)}: {', '.join(models)}")
    _ = (options.variant_names, options.task, options.diffeo, options.input)
    options.precision.check(devices.resolve_device(options.device))
    allocator.prepare()
    for spec in models:
        find_architecture(spec)
    check_writable(out / "records", options.dataset)


def _measure(spec: str, options: "Options", folder: Path, force: bool, quiet: bool, say: bool) -> "Record":
    from timm_diffsens.benchmark.plan import prepare
    from timm_diffsens.benchmark.run import run_once

    plan = prepare(spec, options)
    if say and not quiet and plan.sample.note:
        progress_console().print(f"{spec}: images are {plan.sample.note}", soft_wrap=True)
    with _progress(spec, quiet) as progress:
        record, path, now = run_once(plan, folder, force=force, progress=progress)
    before = "" if now else "measured before, "
    after = "" if now else "; --force measures again"
    progress_console().print(f"{spec}: {before}{path}{after}", soft_wrap=True)
    return record


def _print(record: "Record", all_layers: bool, quiet: bool) -> None:
    from timm_diffsens.cli.show import print_record
    from timm_diffsens.results.report.advice import advice

    notes = [] if quiet else [text for text in advice(record) if text not in record.warnings]
    print_record(result_console(), record, "original", all_layers, notes)


@contextmanager
def _progress(spec: str, quiet: bool) -> Iterator["Progress | None"]:
    """A bar a variant on standard error: images, images per second, time left; nothing without a terminal."""
    with progress_bars(quiet, "speed") as bars:
        if bars is None:
            yield None
            return
        tasks: dict[str, TaskID] = {}

        def tell(variant: str, done: int, total: int) -> None:
            if variant not in tasks:
                tasks[variant] = bars.add_task(f"{spec} {variant}", total=total, speed="")
            bars.update(tasks[variant], completed=done)
            speed = bars.tasks[tasks[variant]].finished_speed or bars.tasks[tasks[variant]].speed
            bars.update(tasks[variant], speed=f"{speed:.1f} images/s" if speed else "")

        yield tell


def _numbers(option: str, values: Sequence[str] | None) -> list[float] | None:
    try:
        return [float(part) for part in split_commas(values)] or None
    except ValueError:
        raise UsageError(
            f"{option} needs numbers separated by commas, got {','.join(values or [])!r}"
        ) from None


def _size(value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    parts = [whole("--input-size", part) for part in value.lower().replace("x", ",").split(",")]
    if len(parts) not in (1, 2):
        raise UsageError(f"--input-size needs H or H,W, got {value!r}")
    return parts[0], parts[-1]
