"""Fig. 7, Tables 1 and 2: trained simple CNNs against the theory of homogeneous filters."""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from timm_diffsens.measures.filter_means import MeanFilter, mean_filters_by_layer
from timm_diffsens.measures.theory_report import TheoryResult, run_theory, theory_exponents, theory_rows
from timm_diffsens.measures.trained_theory import (
    SeedExponent,
    TrainedCurves,
    homogeneous_exponents,
    trained_curves,
    trained_exponents,
    trained_rows,
)
from timm_diffsens.models.loading import load_model
from timm_diffsens.models.variants import reinitialise
from timm_diffsens.reproduce.claims import POSITIVE, Claim, Part
from timm_diffsens.reproduce.reports import Report
from timm_diffsens.reproduce.settings import seeds_of
from timm_diffsens.reproduce.workshop import Workshop
from timm_diffsens.results.theory_charts import theory_chart

_ZERO = 1e-12  # below one image in any test set
NEAR = 0.15  # of an exponent: how far from the exact one it may be and still follow it
FLAT = 0.1  # an exponent below which, on either side of 0, a curve is called flat
CLOSE = math.log(1.25)  # factor by which the mean channel may differ and still overlap
HOMOGENEOUS = 0.75  # share of the constant mode in a mean filter from which on it is called so


def figure_7(shop: Workshop) -> Report:
    """D, G and R against A_k for both tasks: trained, mean channel, initial, predicted."""
    report = Report("fig7", "Sensitivities against the effective receptive field, both tasks")
    for task in (1, 2):
        (found,) = trained_curves(_checkpoints(shop, task))
        result = run_theory(found.setting)
        report.claims.append(_tested(found, shop.settings.caveats.get("simple", "")))
        rows = theory_rows(result) + trained_rows(found)
        report.charts[f"task-{task}"] = theory_chart(rows)
        report.tables[f"task-{task}"] = pd.DataFrame(rows)
        report.tables[f"task-{task}-exponents"] = _exponent_table(found, result)
        report.claims += _claims(found, result, shop.settings.caveats.get("simple", ""))
    return report


def table_1(shop: Workshop) -> Report:
    """Average filters by layer, task 1."""
    return _table(shop, 1)


def table_2(shop: Workshop) -> Report:
    """Average filters by layer, task 2."""
    return _table(shop, 2)


def _checkpoints(shop: Workshop, task: int) -> list[Path]:
    recipe, seeds = shop.settings.simple[task - 1], shop.settings.simple_seeds[task - 1]
    return [shop.trained(one) for one in seeds_of(recipe, seeds)]


def _tested(found: TrainedCurves, likely: str) -> Claim:
    task = found.setting.task
    return Claim(
        f"fig7.task{task}-learned",
        f"task {task}: the generalization error is exactly zero",
        "App. B.2",
        "test error over all test images",
        (-math.inf, _ZERO),
        tuple(Part(f"seed {seed.seed}", seed.test_error) for seed in found.seeds),
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
    first, last = found.fitted[0], found.fitted[-1]
    over = f"over layers {first} to {last}"
    claims = []
    for measure in "dgr":
        truth = exact[measure]
        if truth is None:
            continue
        claims.append(
            Claim(
                f"fig7.task{task}-{measure}-power",
                f"{name}: {measure.upper()}_k follows the predicted power of A_k",
                source,
                f"exponent {over} less that of the homogeneous network ({truth.value:.2f}), "
                f"relative to it; follows: within {NEAR:g}",
                (-NEAR, NEAR),
                (_relative(fits[measure]["trained"], truth.value),),
                likely,
            )
        )
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
            f"largest |log(X_k of the mean channel / X_k)| {over}, of the mean over seeds; "
            f"overlaps: a factor below {math.exp(CLOSE):g}",
            (-math.inf, CLOSE),
            tuple(Part(m.upper(), _apart(found, m)) for m in "dg"),
            likely,
        )
    )
    return claims + _of_relu(task, result)


def _of_relu(task: int, result: TheoryResult) -> list[Claim]:
    """The homogeneous network run with and without its ReLUs."""
    exponents = theory_exponents(result)
    groups = exponents["g"].measured
    spread = groups.sampling if groups is not None else None
    exact = exponents["g_linear"].exact
    grows = Part("with ReLU", None, reason="no exponent")
    if groups is not None and spread is not None:
        grows = Part.normal("with ReLU", groups.value, spread)
    flat = Part("without", None if exact is None else exact.value)
    source = f"Section 4.{task}"
    claims = [
        Claim(
            f"fig7.task{task}-relu",
            f"task {task}: rectified noise piles up, so that G_k grows",
            source,
            "exponent of G_k in A_k of the homogeneous network, measured",
            POSITIVE,
            (grows,),
        )
    ]
    if task == 2:  # the text says it of the strided network
        claims.append(
            Claim(
                f"fig7.task{task}-no-relu",
                "task 2: without rectification G_k is constant",
                source,
                f"exponent of G_k in A_k without ReLU, exact; constant: within {FLAT:g} of 0",
                (-FLAT, FLAT),
                (flat,),
            )
        )
    return claims


def _exponent(name: str, fit: SeedExponent | None) -> Part:
    """With an interval of Student's t over seeds."""
    if fit is None:
        return Part(name, None, reason="fewer than two layers have a value")
    if fit.stderr is None:
        return Part(name, None, reason="one seed has no spread")
    half = float(stats.t.ppf(0.975, fit.seeds - 1)) * fit.stderr
    return Part(name, fit.value, fit.value - half, fit.value + half)


def _relative(fit: SeedExponent | None, truth: float) -> Part:
    part = _exponent("trained", fit)
    if part.value is None or part.low is None or part.high is None:
        return part
    low, high = sorted(((part.low - truth) / truth, (part.high - truth) / truth))
    return Part("trained", (part.value - truth) / truth, low, high)


def _apart(found: TrainedCurves, measure: str) -> float | None:
    """The largest |log ratio| of the mean channel to the network, over the fitted layers."""
    ratios = []
    for k in found.fitted:
        pairs = [
            tuple(getattr(seed.curves[curve][k - 1], measure) for curve in ("mean channel", "trained"))
            for seed in found.seeds
        ]
        logs = [math.log(mean / own) for mean, own in pairs if mean and own]
        if logs:
            ratios.append(abs(float(np.mean(logs))))
    return max(ratios) if ratios else None


# ---- tables 1 and 2


def _table(shop: Workshop, task: int) -> Report:
    report = Report(f"table{task}", f"Average filter over channels by layer, task {task}")
    trained: list[list[MeanFilter]] = []
    fresh: list[list[MeanFilter]] = []
    for seed, path in enumerate(_checkpoints(shop, task)):
        module = load_model("net/simple", checkpoint=path).module
        trained.append(mean_filters_by_layer(module))
        fresh.append(mean_filters_by_layer(reinitialise(module, seed=seed)))
    report.tables["filters"] = pd.concat(
        [_filters("trained", trained), _filters("init", fresh)], ignore_index=True
    )
    report.claims.append(
        Claim(
            f"table{task}.homogeneous",
            f"task {task}: the mean filters are approximately homogeneous",
            f"Section 4.3, Table {task}",
            "share of the constant mode in the mean filter's squared norm, averaged over seeds; "
            f"approximately: above {HOMOGENEOUS:g}",
            (HOMOGENEOUS, math.inf),
            tuple(
                Part(f"layer {k}", _mean_share([seed[k - 1] for seed in trained]))
                for k in range(1, len(trained[0]) + 1)
            ),
            shop.settings.caveats.get("simple", ""),
        )
    )
    report.notes.append("The paper's own entries are not in its text, so only the statement is judged.")
    return report


def _filters(curve: str, seeds: Sequence[Sequence[MeanFilter]]) -> pd.DataFrame:
    """One row a layer: entries as shares of the filter's sum, mean over seeds, and how homogeneous it is."""
    rows = []
    for k, layers in enumerate(zip(*seeds, strict=True), start=1):
        shares = [layer.shares for layer in layers if layer.shares is not None]
        mean = np.mean(shares, axis=0) if shares else np.full_like(layers[0].filter, np.nan)
        entries = {f"entry {i}": float(value) for i, value in enumerate(mean.ravel(), start=1)}
        rows.append(
            {"weights": curve, "layer": k, **entries, "constant share": _mean_share(layers)}
            | {"seeds": len(layers)}
        )
    table: pd.DataFrame = pd.DataFrame(rows)
    return table


def _mean_share(layers: Sequence[MeanFilter]) -> float | None:
    shares = [layer.constant_share for layer in layers if layer.constant_share is not None]
    return float(np.mean(shares)) if shares else None
