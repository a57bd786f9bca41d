"""Figs 1, 8 and 10: does the test error go with D, G and R at the output, over networks?"""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from timm_diffsens.errors import DiffsensError
from timm_diffsens.perturb.diffeo import Diffeo
from timm_diffsens.perturb.noise import corrupt
from timm_diffsens.perturb.streams import Streams
from timm_diffsens.reproduce.claims import Finding
from timm_diffsens.reproduce.panels import pixel_panels
from timm_diffsens.reproduce.reports import Report
from timm_diffsens.reproduce.workspace import MissingError, Workspace, name_of, reporting_missing
from timm_diffsens.results.records.store import find_record, record_files
from timm_diffsens.results.report.board_charts import scatter_chart, series_chart
from timm_diffsens.results.stats.leaderboard import Choices, Group, Leaderboard, build_leaderboard
from timm_diffsens.results.stats.population import FEWEST
from timm_diffsens.results.stats.resampling import bca, resampled_fits
from timm_diffsens.train.recipe import CIFAR10_MEAN, CIFAR10_STD, Recipe

_VARIANTS = ("original", "channel-shuffled", "init")
_SIGNS = {"r": "positive", "d": "positive", "g": "negative"}
_SHOWN = 2  # which of the sample's images is the example


def figure_1(workspace: Workspace) -> Report:
    """An example; the scatter over CIFAR-10 networks; the correlation against the noise."""
    report = Report("fig1", "A deformation; test error against D, G and R on CIFAR-10; the same under noise")
    with reporting_missing(report.missing):
        _example(workspace, report)
        _scatter(workspace, report, "cifar10", workspace.settings.cifar10)
    with reporting_missing(report.missing):
        _noise(workspace, report)
    return report


def figure_8(workspace: Workspace) -> Report:
    """The scatter over networks trained on scale detection."""
    report = Report("fig8", "Scale detection, task 1: test error against D, G and R over architectures")
    _scatter(workspace, report, "scale1", workspace.settings.scale1)
    return report


def figure_10(workspace: Workspace) -> Report:
    """The scatter plots behind Fig. 1, right."""
    report = Report("fig10", "CIFAR-10 with noise: test error against D, G and R at each size of the noise")
    with reporting_missing(report.missing):
        for multiple, group in _noisy(workspace, report)[0].items():
            if group is not None:
                _show(report, f"noise-{multiple:g}", group)
        report.notes.append(_unit_note(workspace))
    return report


def _show(report: Report, name: str, group: Group) -> None:
    report.show(name, group.points, scatter_chart(group))
    report.tables[f"{name}-correlations"] = group.correlations


def _noisy(workspace: Workspace, report: Report) -> tuple[dict[float, Group | None], Leaderboard]:
    """Networks trained and tested on noisy images, by the noise in units of eta*, and all of them.

    None where fewer than five networks have this noise.
    """
    settings = workspace.settings
    sigmas = {multiple: round(multiple * workspace.noise_unit, 6) for multiple in settings.noises}
    recipes = [replace(recipe, corrupt=sigma) for sigma in sigmas.values() for recipe in settings.noisy]
    board = _board(workspace, report, "noise", recipes)
    sigma_of = {record.key: record.protocol.corruption_sigma for _, record in board.records}
    groups = {sigma_of[group.models["key"].iloc[0]]: group for group in board.groups}
    return {multiple: groups.get(sigma) for multiple, sigma in sigmas.items()}, board


def _scatter(workspace: Workspace, report: Report, name: str, recipes: Sequence[Recipe]) -> None:
    """The scatter, and the claims: the signs, whether R does better, and whether that comes with training."""
    group = _board(workspace, report, name, recipes).main
    assert group is not None  # records were just made
    for row in group.left_out.to_dict("records"):
        report.notes.append(f"{row['model']} is not in the fits: {row['reason']}.")
    _show(report, "scatter", group)
    numbers = {
        **{f"{measure}-{sign}": [_rho(group, measure, "trained")] for measure, sign in _SIGNS.items()},
        **{f"r-better-than-{rival}": [_better(group, rival, "trained")] for rival in "dg"},
        "not-at-initialisation": [_rho(group, "r", "at initialisation", "init")],
        "learned": [_learned(workspace, group)],
    }
    report.judge(numbers, _likely(workspace, name, group), networks=len(group.points))


def _board(workspace: Workspace, report: Report, group: str, recipes: Sequence[Recipe]) -> Leaderboard:
    """Of just these trainings, whatever else was measured into the same folder before.

    Test errors are over all test images. A network that fails is noted, and left out.
    """
    keys, whole = set(), any(recipe.task == "cifar10" for recipe in recipes)
    for seed in range(workspace.settings.seeds):  # outside: trainings of one seed take the same images
        for recipe in recipes:
            one = replace(recipe, seed=seed)
            try:
                made = workspace.record(group, one, layers="blocks", variants=_VARIANTS, full_error=whole)
            except MissingError:
                raise
            except DiffsensError as error:
                report.missing.append(f"{name_of(recipe)}, seed {seed}: {error}")
                continue
            keys.add(made.key)
    if not keys:
        raise MissingError("none of the networks could be made")
    folder = workspace.records_of(group)
    mine = {find_record(folder / "records", key) for key in keys}
    others = [path for path in record_files(folder / "records") if path not in mine]
    choices = Choices(include_unfitted=True, resamples=workspace.settings.resamples)
    return build_leaderboard(folder, choices, without=others)


# ---- claims


def _likely(workspace: Workspace, subject: str, group: Group | None) -> str:
    """The caveat of the scale, and how many networks did not fit their training set."""
    parts = [workspace.settings.likely(subject)]
    if group is not None and group.unfitted:
        parts.append(f"{group.unfitted} of {len(group.points)} networks did not fit their training set")
    return "; ".join(part for part in parts if part)


def _rho(group: Group | None, measure: str, name: str, variant: str = "original") -> Finding:
    """The correlation of a measure with the test error."""
    rows = None if group is None else group.correlations.query("variant == @variant and measure == @measure")
    return _first(name, rows, "pearson", "pearson_low", "pearson_high")


def _better(group: Group | None, rival: str, name: str) -> Finding:
    """By how much the correlation of R is larger than that of D or G."""
    rows = None if group is None else group.comparisons.query("variant == 'original' and rival == @rival")
    return _first(name, rows, "difference", "low", "high")


def _first(name: str, rows: pd.DataFrame | None, *columns: str) -> Finding:
    """Value and interval of the first row, or why there is none."""
    if rows is None:
        return Finding(name, None, reason=f"fewer than {FEWEST} networks")
    if rows.empty:
        return Finding(name, None, reason="no network has it")
    row = rows.iloc[0].to_dict()
    reason = row.get("answer") or row.get("note") or f"{row['n']} networks, an interval needs {FEWEST}"
    value, low, high = (row[column] for column in columns)
    return Finding.of(name, value, low, high, reason)


def _learned(workspace: Workspace, group: Group) -> Finding:
    """Both correlations from the same resampled networks, so that what moves both cancels."""
    used = group.points[["error", "r", "init_r"]].dropna()
    n = len(used)
    if n < FEWEST:
        return Finding("trained - init", None, reason=f"{n} networks, an interval needs {FEWEST}")
    logs = np.log(used.to_numpy(float))
    pearson = np.abs(resampled_fits(logs[:, 1:], logs[:, 0], workspace.settings.resamples, 0).pearson)
    difference = pearson[:, 0] - pearson[:, 1]
    low, high = bca(difference, n)
    return Finding.of("trained - init", difference[0], low, high)


# ---- the noise


def _noise(workspace: Workspace, report: Report) -> None:
    noises, board = _noisy(workspace, report)
    if board.series:
        rows = board.series[0].rows.copy()
        rows.insert(1, "in units of eta*", rows["sigma"] / workspace.noise_unit)
        report.show("noise", rows, series_chart(board.series[0]))
    noisy = {f"noise {multiple:g} eta*": group for multiple, group in noises.items() if multiple > 0}
    numbers = {
        f"noise-{measure}-{sign}": [_rho(group, measure, name) for name, group in noisy.items()]
        for measure, sign in _SIGNS.items()
    }
    numbers["noise-r-better-than-d"] = [_better(group, "d", name) for name, group in noisy.items()]
    report.judge(numbers, _likely(workspace, "cifar10", next(filter(None, noisy.values()), None)))
    report.notes.append(_unit_note(workspace))


def _unit_note(workspace: Workspace) -> str:
    return (
        f"eta* is the rms of tau x - x over test images, {workspace.noise_unit:g} a pixel and channel in the "
        "network's input units; the noise on the images has that standard deviation times the factor."
    )


# ---- the example


def _example(workspace: Workspace, report: Report) -> None:
    images = workspace.cifar10_images(_SHOWN + 1)
    image, diffeo = images[_SHOWN:], Diffeo()
    field = diffeo.displacement(1, (32, 32), Streams(0, "example", [_SHOWN]))
    shown = {"x": image, "tau x": diffeo(image, Streams(0, "example", [_SHOWN]))}
    for multiple in (m for m in workspace.settings.noises if m > 0):
        noised = corrupt(image, multiple * workspace.noise_unit, Streams(0, "corruption", [_SHOWN]))
        shown[f"x + {multiple:g} eta*"] = noised
    dx, dy = field[0].numpy()
    y, x = np.indices(dx.shape)
    columns = {"x": x.ravel(), "y": y.ravel(), "dx": dx.ravel(), "dy": dy.ravel()}
    subtitle = "delta = 1 px, cut = 3; noise fixed for each image"
    chart = pixel_panels(
        [(name, _bytes(one)) for name, one in shown.items()], "A deformation and noise", subtitle
    )
    report.show("example", pd.DataFrame(columns), chart)


def _bytes(image: Any) -> Any:
    mean, std = (np.array(v)[:, None, None] for v in (CIFAR10_MEAN, CIFAR10_STD))
    pixels = image[0].numpy() * std + mean
    return np.clip(np.round(pixels * 255), 0, 255).astype(int).transpose(1, 2, 0)
