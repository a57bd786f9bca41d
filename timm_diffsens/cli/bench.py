"""`diffsens bench`: measure models, write records, print what was found."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

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

    from timm_diffsens.measures.bench import Progress
    from timm_diffsens.measures.options import Options
    from timm_diffsens.results.record import Record

_IMAGES, _MODEL, _MOVES, _RUN = "Images", "Model", "Perturbation and layers", "Running"


def _option(*names: str, help: str, panel: str, metavar: str | None = None) -> Any:
    return typer.Option(*names, help=help, rich_help_panel=panel, metavar=metavar)


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
        _option("--checkpoint", help="Weights: a safetensors or torch file.", panel=_MODEL, metavar="FILE"),
    ] = None,
    pretrained: Annotated[
        bool, _option("--pretrained/--no-pretrained", help="Published or random weights.", panel=_MODEL)
    ] = True,
    input_size: Annotated[
        str | None,
        _option("--input-size", help="In place of the model's own.", panel=_MODEL, metavar="H[,W]"),
    ] = None,
    mean: Annotated[
        list[str] | None, _option("--mean", help="Per channel, or one.", panel=_MODEL, metavar="M,...")
    ] = None,
    std: Annotated[
        list[str] | None, _option("--std", help="Per channel, or one.", panel=_MODEL, metavar="S,...")
    ] = None,
    dataset: Annotated[
        str, _option("--dataset", help="`diffsens ls datasets` lists them.", panel=_IMAGES)
    ] = "dead-leaves",
    data_dir: Annotated[
        Path | None, _option("--data-dir", help="Where the images are.", panel=_IMAGES, metavar="DIR")
    ] = None,
    split: Annotated[str | None, _option("--split", help="Split of the dataset.", panel=_IMAGES)] = None,
    images: Annotated[
        str, _option("--images", help="How many, chosen by the seed.", panel=_IMAGES, metavar="N|all")
    ] = "500",
    download: Annotated[
        bool, _option("--download", help="Fetch the dataset, for those that can.", panel=_IMAGES)
    ] = False,
    full_error: Annotated[
        bool, _option("--full-error", help="Test error over the whole split.", panel=_IMAGES)
    ] = False,
    test_error: Annotated[
        float | None, _option("--test-error", help="A known test error, a fraction.", panel=_IMAGES)
    ] = None,
    dims: Annotated[
        int | None, _option("--dims", help="scale1, scale2: 1 or 2 dimensions.", panel=_IMAGES)
    ] = None,
    size: Annotated[
        int | None, _option("--size", help="scale1, scale2: pixels a side.", panel=_IMAGES)
    ] = None,
    xi: Annotated[
        float | None, _option("--xi", help="scale1: the distance; scale2: the patch.", panel=_IMAGES)
    ] = None,
    gap: Annotated[
        float | None, _option("--gap", help="scale1: distances around xi left out.", panel=_IMAGES)
    ] = None,
    delta: Annotated[
        float, _option("--delta", help="Size of the deformation in pixels.", panel=_MOVES)
    ] = 1.0,
    cut: Annotated[
        int, _option("--cut", help="Cutoff of the deformation's Fourier modes.", panel=_MOVES)
    ] = 3,
    corrupt: Annotated[
        float,
        _option("--corrupt", help="Noise fixed for each image, input units.", panel=_MOVES, metavar="SIGMA"),
    ] = 0.0,
    seed: Annotated[
        int, _option("--seed", help="Of sample, moves, shuffles, random weights.", panel=_MOVES)
    ] = 0,
    layers: Annotated[
        list[str] | None,
        _option("--layers", help="stages, blocks (default), convs, all, or patterns.", panel=_MOVES),
    ] = None,
    variants: Annotated[
        list[str] | None,
        _option(
            "--variants",
            help="original, channel-shuffled, mean-channel (default), mean-filter, init; or all.",
            panel=_MOVES,
        ),
    ] = None,
    shuffles: Annotated[int, _option("--shuffles", help="Shuffled copies to average.", panel=_MOVES)] = 1,
    shuffle_linear: Annotated[
        bool, _option("--shuffle-linear", help="Shuffle linear layers too.", panel=_MOVES)
    ] = False,
    init_samples: Annotated[
        int, _option("--init-samples", help="Initialisations to average.", panel=_MOVES)
    ] = 1,
    device: Annotated[str, _option("--device", help="auto, cpu, cuda or cuda:i.", panel=_RUN)] = "auto",
    batch_size: Annotated[
        str, _option("--batch-size", help="Images a batch; a forward sees three times as many.", panel=_RUN)
    ] = "auto",
    out: Out = OUT,
    force: Annotated[bool, _option("--force", help="Measure again what is done.", panel=_RUN)] = False,
    all_layers: Annotated[
        bool, _option("--all-layers", help="List every layer, however many.", panel=_RUN)
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure models layer by layer: deformations (D), noise (G) and R = D/G. Writes a record of each."""
    from timm_diffsens.measures.options import DEFAULT_VARIANTS, Options

    options = Options(
        dataset=dataset,
        data_dir=data_dir,
        split=split,
        images=None if images == "all" else _whole("--images", images),
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
        layers=_split(layers) or ["blocks"],
        variants=_split(variants) or DEFAULT_VARIANTS,
        shuffles=shuffles,
        shuffle_linear=shuffle_linear,
        init_samples=init_samples,
        device=device,
        batch_size=batch_size if batch_size == "auto" else _whole("--batch-size", batch_size),
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
    from timm_diffsens import runtime
    from timm_diffsens.models.sources import find_source
    from timm_diffsens.results.store import check_writable

    if options.checkpoint is not None and len(models) > 1:
        raise UsageError(
            f"--checkpoint holds the weights of one model, got {len(models)}: {', '.join(models)}"
        )
    if options.test_error is not None and len(models) > 1:
        raise UsageError(f"--test-error belongs to one model, got {len(models)}: {', '.join(models)}")
    _ = (options.variant_names, options.task, options.diffeo, options.input)
    runtime.resolve_device(options.device)
    runtime.prepare()
    for spec in models:
        find_source(spec)
    check_writable(out / "records", options.dataset)


def _measure(spec: str, options: "Options", folder: Path, force: bool, quiet: bool, say: bool) -> "Record":
    from timm_diffsens.measures.bench import run_once
    from timm_diffsens.measures.plan import prepare

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
    from timm_diffsens.results.advice import advice

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


def _split(values: Sequence[str] | None) -> list[str]:
    """Options that list may be given several times, or with commas."""
    return [part.strip() for value in values or [] for part in value.split(",") if part.strip()]


def _numbers(option: str, values: Sequence[str] | None) -> list[float] | None:
    try:
        return [float(part) for part in _split(values)] or None
    except ValueError:
        raise UsageError(
            f"{option} needs numbers separated by commas, got {','.join(values or [])!r}"
        ) from None


def _whole(option: str, value: str) -> int:
    try:
        return int(value)
    except ValueError:
        other = {"--images": "all", "--batch-size": "auto"}.get(option)
        raise UsageError(
            f"{option} needs a whole number{f' or {other}' if other else ''}, got {value!r}"
        ) from None


def _size(value: str | None) -> tuple[int, int] | None:
    if value is None:
        return None
    parts = [_whole("--input-size", part) for part in value.lower().replace("x", ",").split(",")]
    if len(parts) not in (1, 2):
        raise UsageError(f"--input-size needs H or H,W, got {value!r}")
    return parts[0], parts[-1]
