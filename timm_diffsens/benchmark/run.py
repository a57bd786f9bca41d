"""Model x images x perturbation -> `Record`. The one file that knows all parts above."""

import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import torch
from torch import nn

from timm_diffsens import registry
from timm_diffsens.benchmark.averages import average_layers, filter_spectra
from timm_diffsens.benchmark.parts import stated_test_error
from timm_diffsens.benchmark.plan import Inputs, Plan, precision_of, prepare, refuse_weights
from timm_diffsens.data.loading import ImageSample
from timm_diffsens.device import environment
from timm_diffsens.errors import (
    DiffsensError,
    MeasurementError,
    UsageError,
    errors_in_python,
    failing,
    kept_warnings,
    warn,
)
from timm_diffsens.models.checkpoints import state_sha256
from timm_diffsens.models.loading import LoadedModel
from timm_diffsens.models.trace import measured_modules
from timm_diffsens.models.weights import check_applied, copied_weights
from timm_diffsens.perturb.streams import stream
from timm_diffsens.results.records.per_image import MOST_KEPT, PerImage, per_image_path, write_per_image
from timm_diffsens.results.records.store import (
    check_writable,
    find_record,
    load_record,
    record_path,
    write_record,
)
from timm_diffsens.schema import records
from timm_diffsens.schema.config import Config, described
from timm_diffsens.schema.further import Further, LayerValues
from timm_diffsens.schema.layers import LayerSensitivity, Spectrum
from timm_diffsens.sensitivities.forwards import PassSettings, on_device
from timm_diffsens.sensitivities.perturbed import KEPT, Batch, PerturbedImages
from timm_diffsens.sensitivities.probe import unwrap
from timm_diffsens.sensitivities.run import Pass, count_wrong, run_pass
from timm_diffsens.sensitivities.statistics import set_running_statistics

_WORSE = 0.01  # level of the test for errors that are worse than guessing
_NO_SCORES = "the network's output is not a finite score for each class"

Progress = Callable[[str, int, int], None]  # variant, images done, images in all


def bench(
    model: str | nn.Module | LoadedModel,
    *,
    out: str | Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
    config: Config | Mapping[str, Any] | None = None,
    **options: Any,
) -> records.Record:
    """Measure one model and give its record: what `diffsens bench` does.

    Args:
        model: a spec (see `load_model`), a module (with `input_size`), or a loaded model.
        out: folder that gets `records/<dataset>/<model>.<key>.json`; without it nothing is written. A record
            that is there already is given back without measuring, unless `force`.
        force: measure again.
        progress: called with (variant, images done, images in all).
        config: the options, if they are in a `Config` or a dictionary already.
        options: fields of `Config`. `dataset` may be a tensor (n, c, h, w), a (tensor, labels) pair, a
            `Dataset` or a `DataLoader`; `deformation` and `noise` may be objects.

    Raises:
        UsageError: wrong arguments, before anything is measured.
        MeasurementError: it could not be completed.

    Example:
        >>> from timm_diffsens import bench
        >>> record = bench("test_resnet", pretrained=False, images=16, layers="stages", variants=["original"])
        >>> record.output.layer, record.data.spec, record.trained
        ('output', 'dead-leaves', False)
    """
    with errors_in_python():
        asked = config if isinstance(config, Config) else Config(**(config or {}))
        asked = asked.changed(**options)
        if out is None:
            return run(prepare(model, asked), progress)
        refuse_weights(model, asked)
        inputs, folder = Inputs.of(asked), Path(out) / "records"
        check_writable(folder, inputs.source.origin.spec)
        return run_once(prepare(model, inputs), folder, force=force, progress=progress)[0]


bench.__doc__ = f"{bench.__doc__}\n    Options:\n\n{described(Config)}\n"


class UnwrittenError(MeasurementError):
    """A record was measured, and is here, but could not be written."""

    def __init__(self, message: str, record: records.Record) -> None:
        super().__init__(message)
        self.record = record


def run_once(
    plan: Plan, folder: Path, *, force: bool = False, progress: Progress | None = None
) -> tuple[records.Record, Path, bool]:
    """The record below `folder`: read if it is there already (unless `force`), else measured and written.

    Returns:
        The record, its file, and whether it was measured now.

    Raises:
        UnwrittenError: it was measured but could not be written; the record is the error's `record`.
    """
    done = None if force else find_record(folder, plan.key)
    if done is not None and (per_image_path(done).exists() or not plan.config.per_image):
        return _as_stated(load_record(done), plan, folder), done, False
    record, per_image = _measured(plan, progress)
    known = record_path(folder, record).exists()
    try:
        if per_image:
            write_per_image(record_path(folder, record), record, per_image)
        return record, write_record(folder, record), True
    except DiffsensError as error:
        if not known:
            per_image_path(record_path(folder, record)).unlink(missing_ok=True)  # no use without its record
        raise UnwrittenError(str(error), record) from error.__cause__


def _as_stated(record: records.Record, plan: Plan, folder: Path) -> records.Record:
    """The record with origin and licence of the weights as they are stated now, which are in no key."""
    old, now = record.model.weights, plan.parts.model.weights
    stated = {name: getattr(now, name) or getattr(old, name) for name in ("origin", "licence")}
    if all(getattr(old, name) == value for name, value in stated.items()):
        return record
    model = record.model.model_copy(update={"weights": old.model_copy(update=stated)})
    record = record.model_copy(update={"model": model})
    write_record(folder, record)
    return record


def run(plan: Plan, progress: Progress | None = None) -> records.Record:
    """Measure; nothing is written.

    Raises:
        MeasurementError: the network, or what it was given, failed in its own way.
    """
    return _measured(plan, progress)[0]


def _measured(plan: Plan, progress: Progress | None) -> tuple[records.Record, PerImage]:
    given = plan.model.input
    images = f"images of {given.channels} x {given.height} x {given.width} (--input-size gives it others)"
    with (
        failing(f"{plan.model.spec} could not be run on {images}"),
        kept_warnings(plan.warnings),
        registry.beside(*plan.homes),
    ):
        measurement = _Run(plan, progress)
        return measurement.record(), measurement.per_image


class _Run:
    """One measurement under way."""

    def __init__(self, plan: Plan, progress: Progress | None) -> None:
        self.plan, self.config, self.model = plan, plan.config, plan.model
        self.transform = plan.sample.transform(plan.model.input)
        self.images = self._perturbed(plan.sample, keep=KEPT)
        self.settings = PassSettings(
            layers=self.config.layers,
            batch_size=self.config.batch_size,
            kept=min(len(plan.sample), MOST_KEPT) if self.config.per_image else 0,
            infinitesimal=self.config.infinitesimal,
            equivariance=self.config.equivariance,
            precision=precision_of(self.config),
        )
        self.per_image: PerImage = {}
        self.equivariance: dict[str, list[list[LayerSensitivity]]] = {}  # variant -> of each copy
        self.progress = progress
        self.retries: list[str] = list(plan.retries)
        self.seconds: dict[str, float] = {}
        self.forwards = 0

    def record(self) -> records.Record:
        plan, parts = self.plan, self.plan.parts
        started, clock = datetime.now(timezone.utc), time.perf_counter()
        environment.reset_peak_memory(plan.device)
        with on_device(self.model.module, plan.device):
            original = self._original()
            test_error = self._test_error(original)
            layers = {"original": original.layers}  # of each deformation
            self._warn_of_functional(original)
            spectra = {"original": filter_spectra(original.weights)}
            for name, variant in plan.variants.items():
                if original.mean_channel is not None and getattr(variant, "channel_averages", False):
                    layers[name] = original.mean_channel
                elif getattr(variant, "copies", 1):
                    copies = zip(*self._copies(name, variant, spectra), strict=True)
                    layers[name] = [average_layers(under) for under in copies]
                else:
                    layers[name] = original.layers
        seconds = time.perf_counter() - clock
        return records.Record(
            key=plan.key,
            model=parts.model,
            data=parts.data,
            protocol=parts.protocols[0],
            test_error=test_error,
            trained={"random": False, "given": None}.get(parts.model.weights.source, True),
            train_error=parts.train_error,
            variants={name: under[0] for name, under in layers.items()},
            further=[
                Further.of(protocol, {name: under[k] for name, under in layers.items()})
                for k, protocol in enumerate(parts.protocols[1:], 1)
            ],
            equivariance={
                name: LayerValues.of(average_layers(copies)) for name, copies in self.equivariance.items()
            },
            spectra=spectra,
            key_extra=parts.extra,
            not_called=original.not_called,
            warnings=list(dict.fromkeys(plan.warnings)),
            extensions=parts.extensions,
            environment=environment.describe(plan.device, int(self.settings.batch_size), self.retries),
            timings=records.Timings(
                started=started.isoformat(timespec="seconds"),
                seconds=round(seconds, 3),
                seconds_by_variant={name: round(value, 3) for name, value in self.seconds.items()},
                images_per_second=round(self.forwards / seconds, 3),
                peak_memory_bytes=environment.peak_memory(plan.device),
            ),
        )

    def _warn_of_functional(self, original: Pass) -> None:
        names = [name for name, v in self.plan.variants.items() if getattr(v, "convolution_modules", False)]
        if original.functional and names:
            warn(
                f"{', '.join(original.functional)} of {self.model.spec} convolve, but are no convolution "
                f"modules: not shuffled nor averaged in {', '.join(names)}"
            )

    def _original(self) -> Pass:
        averages = any(getattr(v, "channel_averages", False) for v in self.plan.variants.values())
        settings = replace(self.settings, mean_channel=averages)
        done = self._pass("original", self.model.module, settings)
        if done.mean_channel is not None:
            self._keep("mean-channel", done, done.per_image.get("mean-channel"))
        return done

    def _copies(
        self, name: str, variant: Any, spectra: dict[str, list[Spectrum]]
    ) -> Iterator[list[list[LayerSensitivity]]]:
        """The layers of each changed copy, under each deformation; filter spectra of the first, if any."""
        module, copies = self.model.module, getattr(variant, "copies", 1)
        foreign = name not in records.built_in_variants()
        before = state_sha256(module.state_dict()) if foreign else None
        for k in range(copies):
            generator = stream(self.config.seed, getattr(variant, "stream", name), k)
            changed = variant(module, generator, **registry.accepted(variant, factory=self.model.build))
            if not isinstance(changed, nn.Module) or changed is module:
                raise UsageError(f"the variant {name} gave {type(changed).__name__}, expected a changed copy")
            if foreign and state_sha256(module.state_dict()) != before:
                raise UsageError(f"the variant {name} changed the model that it was given, not a copy of it")
            changed.eval()
            if getattr(variant, "fresh", False):
                with on_device(changed, self.plan.device):
                    self.retries += set_running_statistics(changed, self.images, self.settings)
            stays = getattr(variant, "convolution_modules", False)
            given = copied_weights(measured_modules(unwrap(changed))) if stays else {}
            done = self._pass(name, changed, self.settings, k if copies > 1 else None)
            check_applied(given, done.weights)
            if getattr(variant, "spectra", False):
                spectra.setdefault(name, filter_spectra(done.weights))
            yield done.layers

    def _pass(self, name: str, module: nn.Module, settings: PassSettings, copy: int | None = None) -> Pass:
        clock = time.perf_counter()
        labels = self.plan.labels if name == "original" else None
        progress = self._progress(name, len(self.plan.sample))
        with on_device(module, self.plan.device):
            done = run_pass(module, self.images, settings, labels=labels, progress=progress)
        # what fitted once is not tried larger again
        self.settings = replace(self.settings, batch_size=done.batch_size)
        self.retries += done.retries
        self.forwards += done.images
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - clock
        self._keep(name if copy is None else f"{name}#{copy}", done, done.per_image.get(""))
        if done.equivariance is not None:
            self.equivariance.setdefault(name, []).append(done.equivariance)
        return done

    def _keep(self, name: str, done: Pass, distances: Mapping[str, torch.Tensor] | None) -> None:
        """Each image's distances, as `per_image` writes them."""
        if not distances:
            return
        none = torch.full_like(next(iter(distances.values())), torch.nan)
        columns = [distances.get(layer.layer, none) for layer in done.layers[0]]
        self.per_image[name] = torch.stack(columns).mT.float().numpy()

    def _progress(self, name: str, total: int) -> Callable[[int], None] | None:
        tell = self.progress
        return None if tell is None else lambda done: tell(name, done, total)

    def _test_error(self, original: Pass) -> records.TestError:
        config, plan = self.config, self.plan
        if config.test_error is not None:
            return records.TestError(value=config.test_error, source="given")
        if plan.whole is not None:
            return self._full_error(*plan.whole)
        stated = stated_test_error(plan.parts.model.recipe, plan.parts.data, config.corruption)
        if stated is not None and (original.images < stated[1]):
            return _fraction(round(stated[0] * stated[1]), stated[1], "recipe")
        if original.wrong is not None:
            self._warn_if_guessed(original.wrong, original.images, plan.labels or {})
            return _fraction(original.wrong, original.images, "measured")
        if plan.labels is not None:
            return records.TestError(reason=_NO_SCORES)
        # what was published holds for ImageNet, clean and prepared as the authors did, and for nothing else
        as_published = (
            plan.sample.labels is None
            and not config.corruption
            and not any(map(config.given, ("input_size", "mean", "std")))
        )
        if as_published and plan.model.published_error is not None:
            return records.TestError(value=plan.model.published_error, source="published")
        return records.TestError(reason=plan.no_labels or "not known")

    def _full_error(self, whole: ImageSample, labels: dict[int, int]) -> records.TestError:
        module, progress = self.plan.model.module, self._progress("test error", len(whole))
        wrong, n = count_wrong(module, self._perturbed(whole), labels, self.settings, progress)
        if wrong is None:
            return records.TestError(reason=_NO_SCORES)
        self._warn_if_guessed(wrong, n, labels)
        return _fraction(wrong, n, "measured on the full split")

    def _warn_if_guessed(self, wrong: int, n: int, labels: Mapping[int, int]) -> None:
        """Binomial tests against guesses among the classes that occur; random weights guess among all.

        Where the order of the outputs is assumed the error has to be below that of guesses: in another order
        they are guesses.
        """
        from scipy.special import bdtr, bdtrc

        classes = len(set(labels.values()))
        if self.model.weights.source == "random":
            classes = max(classes, self.model.classes or 0)
        if classes > 1 and bdtr(n - wrong, n, 1 / classes) < _WORSE:
            warn(
                f"worse than guessing: do the labels fit? {wrong / n:.1%} of {n} images are wrong, "
                f"{1 - 1 / classes:.1%} would be by a guess among {classes} classes"
            )
        elif self.plan.assumed_order and self.model.weights.source != "random":
            by_chance = bdtrc(n - wrong - 1, n, 1 / classes) if wrong < n else 1.0
            if by_chance > _WORSE:
                warn(
                    f"no better than guessing: {wrong / n:.1%} of {n} images are wrong; are the outputs in "
                    "the order of ImageNet's WordNet ids, as is assumed? Else pass --test-error"
                )

    def _perturbed(self, sample: ImageSample, keep: int = 0) -> PerturbedImages:
        def batches(size: int) -> Iterator[Batch]:
            for positions, images in sample.batches(self.transform, size):
                yield [sample.indices[i] for i in positions], images

        return PerturbedImages(batches, self.plan.perturbation, keep)


def _fraction(wrong: int, n: int, source: Any) -> records.TestError:
    """Error and its binomial standard error."""
    value = wrong / n
    return records.TestError(value=value, stderr=(value * (1 - value) / n) ** 0.5, n=n, source=source)
