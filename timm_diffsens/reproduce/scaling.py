"""Fig. 7, Tables 1 and 2: trained simple CNNs against the theory of homogeneous filters."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from timm_diffsens.errors import UsageError
from timm_diffsens.models.loading import load_model
from timm_diffsens.models.variants.init import reinitialise
from timm_diffsens.reproduce.claims import POSITIVE, Claim, Finding
from timm_diffsens.reproduce.reports import Report
from timm_diffsens.reproduce.settings import seeds_of
from timm_diffsens.reproduce.workspace import Workspace
from timm_diffsens.results.report.theory_chart import theory_chart
from timm_diffsens.schema.layers import LayerSensitivity
from timm_diffsens.spectra.filter_means import MeanFilter, mean_filters_by_layer
from timm_diffsens.theory.exponents import asymptotic_exponents, fit_exponent
from timm_diffsens.theory.homogeneous import homogeneous_network, measured_curve
from timm_diffsens.theory.report import (
    GROUPS,
    Setting,
    TheoryResult,
    run_theory,
    theory_exponents,
    theory_rows,
)
from timm_diffsens.theory.trained import (
    SeedExponent,
    TrainedCurves,
    homogeneous_exponents,
    trained_curves,
    trained_exponents,
    trained_rows,
)

_ZERO = 1e-12  # below one image in any test set
NEAR = 0.15  # of an exponent: how far from the exact one it may be and still follow it
_IMAGES_OF_RELU = 1024  # in all groups; G varies little from image to image
FLAT = 0.1  # an exponent below which, on either side of 0, a curve is called flat
CLOSE = math.log(1.25)  # factor by which the mean channel may differ and still overlap
HOMOGENEOUS = 0.9  # share of the constant mode in a mean filter from which on it is called so


def figure_7(workspace: Workspace) -> Report:
    """D, G and R against A_k for both tasks: trained, mean channel, initial, predicted."""
    report = Report("fig7", "Sensitivities against the effective receptive field, both tasks")
    for task in (1, 2):
        (found,) = trained_curves(_checkpoints(workspace, task))
        result = run_theory(found.setting)
        report.claims.append(_tested(found, workspace.settings.caveats.get("simple", "")))
        rows = theory_rows(result) + trained_rows(found)
        report.charts[f"task-{task}"] = theory_chart(rows)
        report.tables[f"task-{task}"] = pd.DataFrame(rows)
        report.tables[f"task-{task}-exponents"] = _exponent_table(found, result)
        report.claims += _claims(found, result, workspace.settings.caveats.get("simple", ""))
    return report


def table_1(workspace: Workspace) -> Report:
    """Average filters by layer, task 1."""
    return _table(workspace, 1)


def table_2(workspace: Workspace) -> Report:
    """Average filters by layer, task 2."""
    return _table(workspace, 2)


def _checkpoints(workspace: Workspace, task: int) -> list[Path]:
    recipe, seeds = workspace.settings.simple[task - 1], workspace.settings.simple_seeds[task - 1]
    return [workspace.trained(one) for one in seeds_of(recipe, seeds)]


def _tested(found: TrainedCurves, likely: str) -> Claim:
    task = found.setting.task
    return Claim(
        f"fig7.task{task}-learned",
        f"task {task}: the generalization error is exactly zero",
        "App. B.2",
        "test error over all test images",
        (-math.inf, _ZERO),
        tuple(Finding(f"seed {seed.seed}", seed.test_error) for seed in found.seeds),
        likely,
    )


def _exponent_table(found: TrainedCurves, result: TheoryResult) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    homogeneous = homogeneous_exponents(found, result)
    for measure, fits in trained_exponents(found).items():
        exact = homogeneous[measure]
        rows.append(
            {"measure": measure.upper(), "curve": "homogeneous", "exponent": exact and exact.value}
            | {"stderr": None, "seeds": 0}
        )
        for curve, fit in fits.items():
            value = {"exponent": fit and fit.value, "stderr": fit and fit.stderr, "seeds": fit and fit.seeds}
            rows.append({"measure": measure.upper(), "curve": curve} | value)
    table: pd.DataFrame = pd.DataFrame(rows)
    return table


# ---- claims


def _claims(found: TrainedCurves, result: TheoryResult, likely: str) -> list[Claim]:
    task, fits, exact = found.setting.task, trained_exponents(found), homogeneous_exponents(found, result)
    name, source = f"task {task}", f"Section 4.{task}, Fig. 7"
    over = f"over layers {found.fitted[0]} to {found.fitted[-1]}"
    claims = []
    for measure in "dgr":
        letter, truth, power = measure.upper(), exact[measure], asymptotic_exponents(found.setting.stride)
        shown = "none" if truth is None else f"{truth.value:.2f}"
        claims += [
            Claim(
                f"fig7.task{task}-{measure}-homogeneous",
                f"{name}: {letter}_k scales with A_k as in the network of homogeneous filters",
                source,
                f"exponent {over} less that of the homogeneous network over the same ({shown}), relative to "
                f"it; as: within {NEAR:g}",
                (-NEAR, NEAR),
                (_relative(fits[measure]["trained"], None if truth is None else truth.value),),
                likely,
            ),
            Claim(
                f"fig7.task{task}-{measure}-power",
                f"{name}: {letter}_k follows the predicted power of A_k, {power[measure]:g}",
                source,
                f"exponent {over} less {power[measure]:g}, relative to it; follows: within {NEAR:g}",
                (-NEAR, NEAR),
                (_relative(fits[measure]["trained"], power[measure]),),
                f"the power is that of large depth; over these layers the exact exponent is {shown}",
            ),
        ]
    claims.append(
        Claim(
            f"fig7.task{task}-flat",
            f"{name}: at initialisation D_k and G_k do not depend on k",
            "Section 4.1",
            f"exponent at initialisation {over}; flat: within {FLAT:g} of 0",
            (-FLAT, FLAT),
            tuple(_exponent(m.upper(), fits[m]["init"]) for m in "dg"),
            "the argument is about infinitely many channels",
        )
    )
    claims.append(
        Claim(
            f"fig7.task{task}-mean-channel",
            f"{name}: the mean channel overlaps with the network itself in the first layers",
            "Section 4.3, Fig. 7",
            f"log(X_k of the mean channel / X_k), mean over seeds, where it is largest {over}; overlaps: a "
            f"factor below {math.exp(CLOSE):g}",
            (-CLOSE, CLOSE),
            tuple(_apart(found, m) for m in "dg"),
            likely,
        )
    )
    return claims + _of_relu(task, result)


def _of_relu(task: int, result: TheoryResult) -> list[Claim]:
    """The homogeneous network with and without its ReLUs, on the same images with the same white noise.

    The difference of the two exponents of each group of images; its error is from their spread.
    """
    setting = replace(result.setting, images=_IMAGES_OF_RELU)
    shape = setting.depth, setting.filter_size, setting.stride
    both = [homogeneous_network(*shape, relu=relu) for relu in (True, False)]
    differences = []
    for group in range(GROUPS):
        fits = [
            _fitted(setting, measured_curve(net, setting.batches([group]), "white").layers) for net in both
        ]
        if fits[0] is not None and fits[1] is not None:
            differences.append(fits[0] - fits[1])
    exact = theory_exponents(result)["g_linear"].exact
    source = f"Section 4.{task}"
    return [
        Claim(
            f"fig7.task{task}-relu",
            f"task {task}: it is the ReLU that makes G_k grow",
            source,
            "exponent of G_k in A_k of the homogeneous network, white noise: with its ReLUs less without",
            POSITIVE,
            (Finding.mean("difference", differences),),
        ),
        Claim(
            f"fig7.task{task}-no-relu",
            f"task {task}: without rectification G_k is constant",
            source,
            f"exact exponent of G_k in A_k of that network without ReLU; constant: within {FLAT:g} of 0",
            (-FLAT, FLAT),
            (Finding("exact", None if exact is None else exact.value, reason="no exponent"),),
        ),
    ]


def _fitted(setting: Setting, layers: Sequence[LayerSensitivity]) -> float | None:
    """The exponent of G."""
    values = [math.nan if layer.g is None else layer.g for layer in layers]
    try:
        return fit_exponent(setting.widths, values, setting.fitted).value
    except UsageError:
        return None


def _exponent(name: str, fit: SeedExponent | None) -> Finding:
    """With an interval of Student's t over seeds."""
    if fit is None:
        return Finding(name, None, reason="fewer than two layers have a value")
    if fit.stderr is None:
        return Finding(name, None, reason="one seed has no spread")
    return Finding.normal(name, fit.value, fit.stderr, fit.seeds - 1)


def _relative(fit: SeedExponent | None, truth: float | None) -> Finding:
    if truth is None:
        return Finding("trained", None, reason="the homogeneous network has no exponent there")
    part = _exponent("trained" if fit is None else f"trained {fit.value:.2f}", fit)
    if part.value is None or part.low is None or part.high is None:
        return part
    low, high = sorted(((part.low - truth) / truth, (part.high - truth) / truth))
    return Finding(part.name, (part.value - truth) / truth, low, high)


def _apart(found: TrainedCurves, measure: str) -> Finding:
    """log(mean channel / network) over seeds, of the fitted layer at which its mean is largest."""
    parts = []
    for k in found.fitted:
        pairs = [
            tuple(getattr(seed.curves[curve][k - 1], measure) for curve in ("mean channel", "trained"))
            for seed in found.seeds
        ]
        logs = [math.log(mean / own) for mean, own in pairs if mean and own]
        parts.append(Finding.mean(f"{measure.upper()}, layer {k}", logs))
    known = [part for part in parts if part.value is not None]
    if not known:
        return Finding(measure.upper(), None, reason="no layer with a value in two seeds")
    return max(known, key=lambda part: abs(part.value or 0.0))


# ---- tables 1 and 2


def _table(workspace: Workspace, task: int) -> Report:
    report = Report(f"table{task}", f"Average filter over channels by layer, task {task}")
    trained: list[list[MeanFilter]] = []
    fresh: list[list[MeanFilter]] = []
    for seed, path in enumerate(_checkpoints(workspace, task)):
        module = load_model("net/simple", checkpoint=path).module
        trained.append(mean_filters_by_layer(module))
        fresh.append(mean_filters_by_layer(reinitialise(module, seed=seed)))
    report.tables["filters"] = pd.concat(
        [_filters("trained", trained), _filters("init", fresh)], ignore_index=True
    )
    likely = workspace.settings.caveats.get("simple", "")
    layers = range(1, len(trained[0]) + 1)
    report.claims += [
        Claim(
            f"table{task}.homogeneous",
            f"task {task}: the mean filters are approximately homogeneous",
            f"Section 4.3, Table {task}",
            "share of the constant mode in the mean filter's squared norm, mean over seeds; approximately: "
            f"above {HOMOGENEOUS:g}",
            (HOMOGENEOUS, math.inf),
            tuple(_over_seeds(f"layer {k}", [_share(seed[k - 1]) for seed in trained]) for k in layers),
            likely,
        ),
        Claim(
            f"table{task}.positive",
            f"task {task}: and positive",
            "Section 4, assumptions",
            "smallest entry of the mean filter over its root mean square, mean over seeds",
            POSITIVE,
            tuple(_over_seeds(f"layer {k}", [_smallest(seed[k - 1]) for seed in trained]) for k in layers),
            likely,
        ),
    ]
    report.notes.append("The paper's own entries are not in its text, so only the statements are judged.")
    return report


def _over_seeds(name: str, values: Sequence[float | None]) -> Finding:
    return Finding.mean(name, [value for value in values if value is not None])


def _share(found: MeanFilter) -> float | None:
    return found.constant_share


def _smallest(found: MeanFilter) -> float | None:
    size = float(np.sqrt(np.mean(found.filter**2)))
    return float(found.filter.min()) / size if size else None


def _filters(curve: str, seeds: Sequence[Sequence[MeanFilter]]) -> pd.DataFrame:
    """One row a layer: the mean over seeds of filters with a root mean square of 1, and their homogeneity."""
    rows = []
    for k, layers in enumerate(zip(*seeds, strict=True), start=1):
        sizes = [float(np.sqrt(np.mean(layer.filter**2))) for layer in layers]
        scaled = [layer.filter / size for layer, size in zip(layers, sizes, strict=True) if size]
        mean = np.mean(scaled, axis=0) if scaled else np.full_like(layers[0].filter, np.nan)
        entries = {f"entry {i}": float(value) for i, value in enumerate(mean.ravel(), start=1)}
        shares = [share for layer in layers if (share := layer.constant_share) is not None]
        mean_share = float(np.mean(shares)) if shares else None
        rows.append(
            {"weights": curve, "layer": k, **entries, "constant share": mean_share, "seeds": len(layers)}
        )
    table: pd.DataFrame = pd.DataFrame(rows)
    return table
