"""Trained simple CNNs against the theory: curves and exponents, averaged over seeds (Fig. 7 of the paper)."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from scipy.stats import sem

from timm_diffsens.data.scale_detection import ScaleDetection
from timm_diffsens.errors import UsageError
from timm_diffsens.models.checkpoints import read_recipe
from timm_diffsens.models.loading import load_model
from timm_diffsens.models.nets.simple import SimpleCNN
from timm_diffsens.models.variants.init import reinitialise
from timm_diffsens.schema.layers import LayerSensitivity
from timm_diffsens.spectra.filter_means import mean_filters_by_layer
from timm_diffsens.theory.exponents import Exponent, asymptotic_exponents, fit_exponent
from timm_diffsens.theory.homogeneous import measured_curve
from timm_diffsens.theory.report import (
    Setting,
    TheoryResult,
    TheoryRow,
    fit_of,
    layer_rows,
    run_theory,
    theory_setting,
)

CURVES = ("trained", "mean channel", "init")
_VALUES = {"d", "g", "r", "d_stderr", "g_stderr", "r_stderr"}
_NETWORK = "net/simple"
_DEFAULTS = {name: given.default for name, given in inspect.signature(SimpleCNN).parameters.items()}


@dataclass(frozen=True)
class SeedCurves:
    """One training.

    Attributes:
        seed, test_error (a fraction), decay_budget, margin: as its checkpoint states them, see
            `train.run.TrainResult`; the last two None in files of older versions.
        constant_shares: of the average filter of each layer, see `spectra.filter_means.MeanFilter`.
        curves: its layers by curve (`CURVES`).
    """

    seed: int
    test_error: float
    decay_budget: float | None
    margin: float | None
    constant_shares: list[float | None]
    curves: Mapping[str, list[LayerSensitivity]]


@dataclass(frozen=True)
class TrainedCurves:
    """All seeds of one network, on one task.

    Attributes:
        setting: the task, and the images the curves were measured on.
        recipe: of the training, less the seed.
        seeds: in order.
    """

    setting: Setting
    recipe: Mapping[str, Any]
    seeds: list[SeedCurves]

    @cached_property
    def theory(self) -> TheoryResult:
        """The homogeneous network on the same task."""
        return run_theory(self.setting)

    @property
    def fitted(self) -> range:
        """The layers that exponents are fitted over, see `Setting.pooling`."""
        return self.setting.pooling


@dataclass(frozen=True)
class SeedExponent:
    """Exponent of a curve: mean over seeds, and its standard error (None with one seed)."""

    value: float
    stderr: float | None
    seeds: int


def trained_curves(
    checkpoints: Sequence[Path], *, images: int | None = None, seed: int = 0
) -> list[TrainedCurves]:
    """Measure simple CNNs that `diffsens train` has trained on 1-D scale detection.

    Trainings that differ in nothing but the seed are put together. Each network is measured as it is, by
    the mean of its channels, and with fresh weights.

    Args:
        checkpoints: with their recipe, as `diffsens train` writes them.
        images: a multiple of 8; by default as in `theory_setting`.
        seed: of the images and the noise. Fresh weights have the seed of the training.

    Raises:
        UsageError: a checkpoint without a recipe, of another architecture or task, or given twice.
    """
    groups: dict[str, TrainedCurves] = {}
    for path in checkpoints:
        recipe = _recipe(path)
        training = dict(recipe["training"])
        number = training.pop("seed")
        group = groups.setdefault(
            repr(training), TrainedCurves(_setting(path, recipe, images, seed), training, [])
        )
        if any(found.seed == number for found in group.seeds):
            raise UsageError(f"{path}: seed {number} of this training was given already")
        group.seeds.append(_measured(path, recipe, group.setting, number))
    return [replace(g, seeds=sorted(g.seeds, key=lambda s: s.seed)) for g in groups.values()]


def _recipe(path: Path) -> dict[str, Any]:
    recipe = read_recipe(path)
    if recipe is None or "training" not in recipe:
        raise UsageError(f"{path} has no recipe in it; expected a checkpoint that `diffsens train` wrote")
    if recipe["model"] != _NETWORK or recipe["training"]["task"] not in ("scale1", "scale2"):
        raise UsageError(
            f"{path} is {recipe['model']} trained on {recipe['training']['task']}; the theory is about "
            f"{_NETWORK} on scale1 or scale2 with --dims 1"
        )
    return recipe


def _setting(path: Path, recipe: Mapping[str, Any], images: int | None, seed: int) -> Setting:
    arguments, training = _DEFAULTS | recipe["arguments"], recipe["training"]
    number = int(training["task"].removeprefix("scale"))
    task = ScaleDetection(**{**training["scale"], "task": number})
    depth, size = arguments["depth"], arguments["filter"]
    setting = theory_setting(
        number,
        depth,
        filter_size=size,
        length=task.side,
        xi=task.xi,
        images=images,
        seed=seed,
        gap=float(task.gap or 0),
    )
    if task.dims != 1 or arguments["stride"] != setting.stride:
        raise UsageError(
            f"{path} has {task.dims} dimensions and stride {arguments['stride']}; the theory of task "
            f"{number} is for 1 dimension and stride {setting.stride}"
        )
    return setting


def _measured(path: Path, recipe: Mapping[str, Any], setting: Setting, seed: int) -> SeedCurves:
    module = load_model(_NETWORK, checkpoint=path).module
    trained = measured_curve(module, setting.batches())
    fresh = measured_curve(reinitialise(module, seed=seed), setting.batches())
    return SeedCurves(
        seed,
        recipe["test_error"],
        recipe.get("decay_budget"),
        recipe.get("margin"),
        [found.constant_share for found in mean_filters_by_layer(module)],
        dict(zip(CURVES, (trained.layers, trained.mean_channel, fresh.layers), strict=True)),
    )


def trained_rows(found: TrainedCurves) -> list[TheoryRow]:
    """Rows for `results.report.theory_chart`: means over seeds, with the standard error over them.

    With one seed the error is that of its images.
    """
    rows = []
    for curve in CURVES:
        seeds = [layer_rows(found.setting, curve, seed.curves[curve]) for seed in found.seeds]
        rows += [_mean_row(same) if len(same) > 1 else same[0] for same in zip(*seeds, strict=True)]
    return rows


def _mean_row(rows: Sequence[TheoryRow]) -> TheoryRow:
    values = [row["value"] for row in rows]
    if None in values:
        return {**rows[0], "value": None, "stderr": None, "slope": None}
    slopes = [row["slope"] for row in rows]
    slope = None if None in slopes else float(np.mean(slopes))
    return {**rows[0], "value": float(np.mean(values)), "stderr": float(sem(values)), "slope": slope}


def trained_exponents(found: TrainedCurves) -> dict[str, dict[str, SeedExponent | None]]:
    """By measure (d, g, r) and curve: fitted to each seed over `found.fitted`, then averaged.

    None where a seed has fewer than two layers with a value.
    """
    return {m: {curve: _seed_exponent(found, curve, m) for curve in CURVES} for m in "dgr"}


def _seed_exponent(found: TrainedCurves, curve: str, measure: str) -> SeedExponent | None:
    fits = [fit_of(found.setting, seed.curves[curve], measure, found.fitted) for seed in found.seeds]
    values = [fit.value for fit in fits if fit is not None]
    if len(values) < len(fits):
        return None
    spread = float(sem(values)) if len(values) > 1 else None
    return SeedExponent(float(np.mean(values)), spread, len(values))


def homogeneous_exponents(found: TrainedCurves) -> dict[str, Exponent | None]:
    """What the homogeneous network has over the same layers, exactly, by measure; None as above."""
    exact = found.theory.exact
    return {m: fit_exponent(exact.width, getattr(exact, m), found.fitted) for m in "dgr"}


def trained_document(found: TrainedCurves) -> TheoryRow:
    """Everything as plain values."""
    powers, exact = asymptotic_exponents(found.setting.stride), homogeneous_exponents(found)
    exponents = {
        measure: {
            "asymptotic": powers[measure],
            "homogeneous": None if (fit := exact[measure]) is None else fit.value,
            **{curve: None if one is None else vars(one) for curve, one in fits.items()},
        }
        for measure, fits in trained_exponents(found).items()
    }
    return {
        "training": dict(found.recipe),
        "fitted_layers": [found.fitted[0], found.fitted[-1]],
        "exponents": exponents,
        "seeds": [
            {
                "seed": seed.seed,
                "test_error": seed.test_error,
                "decay_budget": seed.decay_budget,
                "margin": seed.margin,
                "constant_shares": seed.constant_shares,
                "curves": {c: [x.model_dump(include=_VALUES) for x in seed.curves[c]] for c in CURVES},
            }
            for seed in found.seeds
        ],
    }
