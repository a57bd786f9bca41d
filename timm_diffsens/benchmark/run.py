"""Model x images x perturbation -> `Record`. The one file that knows all parts above."""

import time
from collections.abc import Callable, Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from torch import nn

from timm_diffsens.benchmark import parts
from timm_diffsens.benchmark.averages import average_layers, to_record_spectra
from timm_diffsens.benchmark.noted import noted
from timm_diffsens.benchmark.options import Options
from timm_diffsens.benchmark.plan import Plan, prepare
from timm_diffsens.data.loading import ImageSample
from timm_diffsens.device import environment
from timm_diffsens.errors import DiffsensError, MeasurementError, first_line, unknown
from timm_diffsens.models.loading import InputOptions, LoadedModel
from timm_diffsens.models.variants.channel_shuffled import shuffle_channels
from timm_diffsens.models.variants.mean_filter import mean_filters
from timm_diffsens.perturb.streams import stream
from timm_diffsens.results.records.store import check_writable, find_record, load_record, write_record
from timm_diffsens.schema import records
from timm_diffsens.schema.layers import LayerSensitivity, Spectrum
from timm_diffsens.sensitivities.run import Pass, count_wrong, on_device, run_pass
from timm_diffsens.sensitivities.triplets import Batch, Drawn, Protocol

_NO_SCORES = "the network's output is not a finite score for each class"

Progress = Callable[[str, int, int], None]  # variant, images done, images in all


def bench(
    model: str | nn.Module | LoadedModel,
    *,
    out: str | Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
    **options: Any,
) -> records.Record:
    """Measure one model and give its record: what `diffsens bench` does.

    Args:
        model: a spec (see `load_model`), a module (with `input_size`), or a loaded model.
        out: folder that gets `records/<dataset>/<model>.<key>.json`; without it nothing is written. A record
            that is there already is given back without measuring, unless `force`.
        force: measure again.
        progress: called with (variant, images done, images in all).
        options: fields of `Options`.

    Raises:
        UsageError: wrong arguments, before anything is measured.
        MeasurementError: it could not be completed.

    Example:
        >>> from timm_diffsens import bench
        >>> record = bench("test_resnet", pretrained=False, images=16, layers="stages", variants=["original"])
        >>> record.output.layer, record.data.spec, record.trained
        ('output', 'dead-leaves', False)
    """
    known = Options.__dataclass_fields__
    for name in options:
        if name not in known:
            raise unknown("option", name, known)
    asked = Options(**options)
    if out is None:
        return run(prepare(model, asked), progress)
    folder = Path(out) / "records"
    check_writable(folder, asked.dataset)
    return run_once(prepare(model, asked), folder, force=force, progress=progress)[0]


def run_once(
    plan: Plan, folder: Path, *, force: bool = False, progress: Progress | None = None
) -> tuple[records.Record, Path, bool]:
    """The record below `folder`: read if it is there already (unless `force`), else measured and written.

    Returns:
        The record, its file, and whether it was measured now.
    """
    done = None if force else find_record(folder, plan.key)
    if done is not None:
        return load_record(done), done, False
    record = run(plan, progress)
    return record, write_record(folder, record), True


def run(plan: Plan, progress: Progress | None = None) -> records.Record:
    """Measure; nothing is written.

    Raises:
        MeasurementError: the network, or what it was given, failed in its own way.
    """
    try:
        with noted(plan.warnings):
            return _Run(plan, progress).record()
    except DiffsensError:
        raise
    except Exception as error:
        text = first_line(error)
        raise MeasurementError(
            f"{plan.model.spec} could not be run: {type(error).__name__}: {text}"
        ) from error


class _Run:
    """One measurement under way."""

    def __init__(self, plan: Plan, progress: Progress | None) -> None:
        self.plan, self.options, self.model = plan, plan.options, plan.model
        self.transform = plan.sample.transform(plan.model.input)
        self.protocol = Protocol(plan.options.diffeo, plan.options.corrupt, plan.options.seed)
        self.progress, self.drawn = progress, Drawn()
        self.batch_size: int | str = plan.options.batch_size
        self.retries: list[str] = list(plan.retries)
        self.seconds: dict[str, float] = {}
        self.images = 0

    def record(self) -> records.Record:
        plan, names = self.plan, self.options.variant_names
        started, clock = datetime.now(timezone.utc), time.perf_counter()
        environment.reset_peak_memory(plan.device)
        with on_device(self.model.module, plan.device):
            original = self._pass("original", self.model.module, mean_channel="mean-channel" in names)
            test_error = self._test_error(original)
            variants: dict[str, list[LayerSensitivity]] = {"original": original.layers}
            if original.mean_channel is not None:
                variants["mean-channel"] = original.mean_channel
            spectra: dict[str, list[Spectrum]] = {"original": to_record_spectra(original.weights)}
            for name in names:
                if name in variants:
                    continue
                copies = []
                for changed in self._copies(name):
                    done = self._pass(name, changed)
                    copies.append(done.layers)
                    if name == "init" and name not in spectra:  # of the first initialisation
                        spectra[name] = to_record_spectra(done.weights)
                variants[name] = average_layers(copies)
        seconds = time.perf_counter() - clock
        return records.Record(
            key=plan.key,
            model=plan.model_part,
            data=plan.data_part,
            protocol=plan.protocol_part,
            test_error=test_error,
            trained={"random": False, "given": None}.get(plan.model_part.weights.source, True),
            train_error=parts.train_error(plan.model_part.recipe),
            variants={name: variants[name] for name in names},
            spectra=spectra,
            key_extra=plan.key_extra,
            not_called=original.not_called,
            warnings=list(dict.fromkeys(plan.warnings)),
            environment=environment.describe(plan.device, int(self.batch_size), self.retries),
            timings=records.Timings(
                started=started.isoformat(timespec="seconds"),
                seconds=round(seconds, 3),
                seconds_by_variant={name: round(value, 3) for name, value in self.seconds.items()},
                images_per_second=round(self.images / seconds, 3),
                peak_memory_bytes=environment.peak_memory(plan.device),
            ),
        )

    def _pass(self, name: str, module: nn.Module, mean_channel: bool = False) -> Pass:
        clock = time.perf_counter()
        total = len(self.plan.sample)
        with on_device(module, self.plan.device):
            done = run_pass(
                module,
                self._batches,
                self.protocol,
                layers=self.options.layer_names,
                batch_size=self.batch_size,  # type: ignore[arg-type]
                mean_channel=mean_channel,
                labels=self.plan.labels if name == "original" else None,
                progress=self._progress(name, total),
                drawn=self.drawn,
                precision=self.options.precision,
            )
        self.batch_size = done.batch_size  # what fitted once is not tried larger again
        self.retries += done.retries
        self.images += done.images
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - clock
        return done

    def _progress(self, name: str, total: int) -> Callable[[int], None] | None:
        tell = self.progress
        return None if tell is None else lambda done: tell(name, done, total)

    def _batches(self, size: int) -> Iterator[Batch]:
        for positions, images in self.plan.sample.batches(self.transform, size):
            yield [self.plan.sample.indices[i] for i in positions], images

    def _copies(self, name: str) -> Iterator[nn.Module]:
        module, options = self.model.module, self.options
        if name == "channel-shuffled":
            for k in range(options.shuffles):
                generator = stream(options.seed, "channel shuffle", k)
                yield shuffle_channels(module, generator, linear=options.shuffle_linear)
        elif name == "mean-filter":
            yield mean_filters(module)
        elif name == "init":
            for k in range(options.init_samples):
                yield self.model.fresh(int(stream(options.seed, "init", k).integers(2**63)))

    def _test_error(self, original: Pass) -> records.TestError:
        options, plan = self.options, self.plan
        if options.test_error is not None:
            return records.TestError(value=options.test_error, source="given")
        if plan.whole is not None:
            return self._full_error(*plan.whole)
        stated = parts.stated_test_error(plan.model_part.recipe, plan.data_part, options.corrupt)
        if stated is not None and (original.images < stated[1]):
            return _fraction(round(stated[0] * stated[1]), stated[1], "recipe")
        if original.wrong is not None:
            return _fraction(original.wrong, original.images, "measured")
        if plan.labels is not None:
            return records.TestError(reason=_NO_SCORES)
        # what was published holds for ImageNet, clean and prepared as the authors did, and for nothing else
        as_published = plan.sample.labels is None and not options.corrupt and options.input == InputOptions()
        if as_published and plan.model.published_error is not None:
            return records.TestError(value=plan.model.published_error, source="published")
        return records.TestError(reason=plan.no_labels or "not known")

    def _full_error(self, whole: ImageSample, labels: dict[int, int]) -> records.TestError:
        def batches(size: int) -> Iterator[Batch]:
            for positions, images in whole.batches(self.transform, 3 * size):
                yield [whole.indices[i] for i in positions], images

        progress, size = self._progress("test error", len(whole)), int(self.batch_size)
        module, precision = self.plan.model.module, self.options.precision
        wrong, n = count_wrong(module, batches(size), self.protocol, labels, progress, precision)
        if wrong is None:
            return records.TestError(reason=_NO_SCORES)
        return _fraction(wrong, n, "measured on the full split")


def _fraction(wrong: int, n: int, source: Any) -> records.TestError:
    """Error and its binomial standard error."""
    value = wrong / n
    return records.TestError(value=value, stderr=(value * (1 - value) / n) ** 0.5, n=n, source=source)
