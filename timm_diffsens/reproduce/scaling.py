"""Fig. 7, Tables 1 and 2: trained simple CNNs against the theory of homogeneous filters."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from operator import attrgetter
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from torch import nn
from torch.nn.modules.conv import _ConvNd

from timm_diffsens.models.loading import load_model
from timm_diffsens.models.variants.init import reinitialise
from timm_diffsens.reproduce.claims import Claim, Finding
from timm_diffsens.reproduce.reports import Report
from timm_diffsens.reproduce.settings import seeds_of
from timm_diffsens.reproduce.workspace import Workspace
from timm_diffsens.results.report.theory_chart import theory_chart
from timm_diffsens.spectra.filter_means import MeanFilter, mean_filters_by_layer
from timm_diffsens.spectra.filters import filter_spectrum
from timm_diffsens.theory.exponents import Exponent, asymptotic_exponents, fit_exponent
from timm_diffsens.theory.homogeneous import homogeneous_network, measured_curve
from timm_diffsens.theory.pixel_pairs import PixelPairs
from timm_diffsens.theory.predictions import effective_receptive_field, energies
from timm_diffsens.theory.report import (
    GROUPS,
    Setting,
    TheoryResult,
    at_initialisation,
    finite,
    fit_of,
    theory_exponents,
    theory_rows,
    theory_setting,
)
from timm_diffsens.theory.trained import (
    SeedExponent,
    TrainedCurves,
    homogeneous_exponents,
    trained_curves,
    trained_exponents,
    trained_rows,
)

_FIT = ("value", "stderr", "seeds")  # of an exponent
_FLAT = (
    "tested: these are exponents of infinitely many channels, so that width is no reason "
    "(docs/scale_detection.md, At initialisation)"
)
_PAIRS = 1024  # of images, for the denominator at infinite width, in each group
_CONSTANT = 1e-9  # a variance below this share of the mean square is rounding
_IMAGES_OF_RELU = 1024  # in all groups; G varies little from image to image


def figure_7(workspace: Workspace) -> Report:
    """D, G and R against A_k for both tasks: trained, mean channel, initial, predicted."""
    report = Report("fig7", "Sensitivities against the effective receptive field, both tasks")
    for task in (1, 2):
        (found,) = trained_curves(_checkpoints(workspace, task))
        rows = theory_rows(found.theory) + trained_rows(found)
        report.show(f"task-{task}", pd.DataFrame(rows), theory_chart(rows))
        report.tables[f"task-{task}-exponents"] = _exponent_table(found)
        report.claims += _claims(found, workspace.settings.caveat("simple"))
        exact = theory_exponents(found.theory)["g_linear"].exact
        low, high = _bounds_of(found.theory)
        shown = {"exact": shown_exponent(exact), "low": f"{low:.2f}", "high": f"{high:.2f}"}
        numbers = {f"task{task}-{key}": [part] for key, part in relu_numbers(found.theory).items()}
        report.judge(numbers, **shown)
        start, first = theory_setting(task), initial_exponents(task)
        where = f"{start.length} pixels, xi = {start.xi:g}, layers {start.pooling[0]} to {start.pooling[-1]}"
        report.judge({f"task{task}-flat": first}, _FLAT, where=where)
        report.notes.append(_networks(found.recipe, found.setting, len(found.seeds)))
    return report


def _networks(recipe: Mapping[str, Any], setting: Setting, seeds: int) -> str:
    """What was trained, and from where: both decide how near a network can come to the theory."""
    net = recipe["arguments"]
    gap = f", without distances within {setting.gap / 2:g} of it" if setting.task == 1 else ""
    start = "filters N(0, 1), no biases"
    if "weight_mean" in net:
        start = (
            f"filters with a mean of {net['weight_mean']:g} / sqrt(fan in) added to N(0, 1), and biases "
            f"N({net['bias_mean']:g}, {net['bias_std']:g}) in the last layer, near the solution of the theory"
        )
    return (
        f"Task {setting.task}: {seeds} seeds of {setting.depth} layers of {net['width']} channels, on "
        f"{setting.length} pixels with xi = {setting.xi:g}{gap}. They begin with {start}. Intervals are over "
        f"seeds, which share their {setting.images:,} images."
    )


def _checkpoints(workspace: Workspace, task: int) -> list[Path]:
    recipe, seeds = workspace.settings.simple[task - 1], workspace.settings.simple_seeds[task - 1]
    return [workspace.trained(one) for one in seeds_of(recipe, seeds)]


def _exponent_table(found: TrainedCurves) -> pd.DataFrame:
    rows: list[dict[str, Any]] = []
    homogeneous = homogeneous_exponents(found)
    for measure, fits in trained_exponents(found).items():
        exact = homogeneous[measure]
        plain = {"homogeneous": {"value": exact and exact.value, "stderr": None, "seeds": 0}}
        plain |= {curve: dict.fromkeys(_FIT) if fit is None else vars(fit) for curve, fit in fits.items()}
        rows += [{"measure": measure.upper(), "curve": curve} | values for curve, values in plain.items()]
    table: pd.DataFrame = pd.DataFrame(rows).rename(columns={"value": "exponent"})
    return table


# ---- claims


def _claims(found: TrainedCurves, caveat: str) -> list[Claim]:
    fits, exact = trained_exponents(found), homogeneous_exponents(found)
    powers, layers = asymptotic_exponents(found.setting.stride), f"{found.fitted[0]} to {found.fitted[-1]}"

    def claim(name: str, parts: list[Finding], why: str = caveat, **values: str) -> Claim:
        return Claim.of(f"fig7.task{found.setting.task}-{name}", parts, why, layers=layers, **values)

    claims = [claim("learned", [Finding(f"seed {seed.seed}", seed.test_error) for seed in found.seeds])]
    for measure in "dgr":
        fit, truth = fits[measure]["trained"], exact[measure]
        part = _relative(fit, None if truth is None else truth.value)
        claims.append(claim(f"{measure}-homogeneous", [part], exact=shown_exponent(truth)))
        power = claim(f"{measure}-power", [_relative(fit, powers[measure])])
        claims.append(asymptotic(power, truth, powers[measure], found.setting.depth))
    claims.append(claim("mean-channel", [_apart(found, m) for m in "dg"]))
    return claims


def initial_exponents(task: int) -> list[Finding]:
    """Those of D and G before training, of infinitely many channels that begin as the authors' networks do.

    On the task of `theory_setting`, with weights and biases N(0, 1) and the gain sqrt(F); the error is from
    the spread of groups of images.
    """
    setting = theory_setting(task)
    network = at_initialisation(setting)
    pairs = math.ceil(_PAIRS * GROUPS / setting.images)
    found = [network.layers(setting.batches([group]), pairs) for group in range(GROUPS)]
    fits = {m: [fit_of(setting, layers, m, setting.pooling) for layers in found] for m in "dg"}
    return [Finding.mean(m.upper(), [None if f is None else f.value for f in fits[m]]) for m in fits]


def asymptotic(claim: Claim, exact: Exponent | None, power: float, depth: int) -> Claim:
    """A claim about a power of large depth: not testable where the exact network itself fails it.

    Args:
        claim: that a measured exponent, relative to `power`, lies in its region.
        exact: the exponent of the homogeneous network over the same layers, at this depth. power: the limit.
        depth: K.
    """
    own = Finding("exact", None if exact is None else (exact.value - power) / power)
    if own.value is None or own.verdict(claim.region) == "held":
        return claim
    untestable = (
        f"asymptotic: not testable at K = {depth}, where the exact homogeneous network itself has "
        f"{shown_exponent(exact)} over the same layers"
    )
    return replace(claim, untestable=untestable)


def shown_exponent(fit: Exponent | None) -> str:
    """`-1.86`, or `none`."""
    return "none" if fit is None else f"{fit.value:.2f}"


def relu_numbers(result: TheoryResult) -> dict[str, Finding]:
    """The homogeneous network with and without its ReLUs, on the same images with the same white noise.

    The difference of the two exponents of each group of images; its error is from their spread.
    """
    setting = replace(result.setting, images=_IMAGES_OF_RELU)
    shape = setting.depth, setting.filter_size, setting.stride
    both = [homogeneous_network(*shape, relu=relu) for relu in (True, False)]
    differences = []
    for group in range(GROUPS):
        own, linear = (
            fit_of(setting, measured_curve(net, setting.batches([group]), rectified=False).layers, "g")
            for net in both
        )
        if own is not None and linear is not None:
            differences.append(own.value - linear.value)
    exact = theory_exponents(result)["g_linear"].exact
    low, high = _bounds_of(result)
    share = np.nan if exact is None else exact.value / (high if exact.value > 0 else -low)
    constant = Finding("exact, over the bound", finite(share), reason="no exponent")
    return {"relu": Finding.mean("difference", differences), "no-relu": constant}


def _bounds_of(result: TheoryResult) -> tuple[float, float]:
    setting = result.setting
    return constant_bounds(setting.pairs(), setting.filter_size, setting.stride, setting.fitted)


def constant_bounds(pairs: PixelPairs, filter_size: int, stride: int, layers: range) -> tuple[float, float]:
    """The exponents in A that G_k without ReLU gets at most from what is finite: (of pairs, of the image).

    Its numerator is s^2 tr(M_k M_k^T), its denominator 2 tr(M_k (diag(n) + P - n n^T) M_k^T), with the
    occupation n of places and the chance P of two places at once. With n constant diag(n) alone makes G_k
    constant exactly, at any depth. Relative to it P, two pixels in one receptive field, makes G_k fall as
    1 / (1 + p_k), and n n^T, the square of the mean image, makes it grow as 1 / (1 - q_k), of order
    A_k / length. The bounds are the exponents of either without the other.
    """
    occupation = pairs.occupation()
    moments = np.diag(occupation), 2 * pairs.weights, np.outer(occupation, occupation)
    alone, both, mean = (energies(moment, layers[-1], filter_size, stride) for moment in moments)
    below = np.array([1 + both / alone, 1 - mean / alone])
    below[below < _CONSTANT] = np.nan  # a layer that sees the whole image
    width = [effective_receptive_field(k, filter_size, stride) for k in range(1, layers[-1] + 1)]
    ends = [fit_exponent(width, 1 / each, layers) for each in below]
    low, high = (np.nan if fit is None else fit.value for fit in ends)
    return low, high


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


def filter_table(workspace: Workspace, task: int) -> Report:
    """Average filters by layer: Table 1 or 2, for task 1 or 2."""
    report = Report(f"table{task}", f"Average filter over channels by layer, task {task}")
    modules = [load_model("net/simple", checkpoint=path).module for path in _checkpoints(workspace, task)]
    starts = [reinitialise(module, seed=seed) for seed, module in enumerate(modules)]
    trained, fresh = ([mean_filters_by_layer(one) for one in group] for group in (modules, starts))
    tables = [_filters("trained", trained), _filters("init", fresh)]
    report.tables["filters"] = pd.concat(tables, ignore_index=True)
    layers = list(enumerate(zip(*trained, strict=True), start=1))
    numbers = {
        key: [Finding.mean(f"layer {k}", map(number, seeds)) for k, seeds in layers]
        for key, number in NUMBERS.items()
    }
    report.judge(numbers, workspace.settings.caveat("simple"))
    report.notes.append("The paper's own entries are not in its text, so only the statements are judged.")
    mean = [layer.constant_share or 0.0 for one in fresh for layer in one]
    shares = (mean, _single_shares(starts), _single_shares(modules))
    before, first, last = (f"{min(found):.2f} to {max(found):.2f}" for found in shares)
    report.notes.append(
        f"Before training the share of the constant mode in the mean filters is {before} by layer and seed. "
        f"In the filters themselves it is {first} before and {last} after training."
    )
    return report


def _single_shares(modules: Sequence[nn.Module]) -> list[float]:
    """Share of the constant mode in the power of all filters of a layer, of each layer and network."""
    layers = [layer for module in modules for layer in module.modules() if isinstance(layer, _ConvNd)]
    return [filter_spectrum(layer.weight).low_frequency_share for layer in layers]


def smallest_entry(found: MeanFilter) -> float | None:
    """Over the root mean square of all; None if these are 0."""
    size = float(np.sqrt(np.mean(found.filter**2)))
    return float(found.filter.min()) / size if size else None


# claim -> its number of a layer
NUMBERS: dict[str, Callable[[MeanFilter], float | None]] = {
    "homogeneous": attrgetter("constant_share"),
    "positive": smallest_entry,
}


def _filters(curve: str, seeds: Sequence[Sequence[MeanFilter]]) -> pd.DataFrame:
    """One row a layer: the mean over seeds of filters with a root mean square of 1, and their homogeneity."""
    rows = []
    for k, layers in enumerate(zip(*seeds, strict=True), start=1):
        sizes = [float(np.sqrt(np.mean(layer.filter**2))) for layer in layers]
        scaled = [layer.filter / size for layer, size in zip(layers, sizes, strict=True) if size]
        mean = np.mean(scaled, axis=0) if scaled else np.full_like(layers[0].filter, np.nan)
        entries = {f"entry {i}": float(value) for i, value in enumerate(mean.ravel(), start=1)}
        share = pd.Series([layer.constant_share for layer in layers], dtype=float).mean()
        rows.append({"weights": curve, "layer": k, **entries, "constant share": share, "seeds": len(layers)})
    table: pd.DataFrame = pd.DataFrame(rows)
    return table
