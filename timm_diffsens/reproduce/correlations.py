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
from timm_diffsens.reproduce.over_networks import SIGNS, better, one_family_less, rho, same_order, signs
from timm_diffsens.reproduce.panels import pixel_panels
from timm_diffsens.reproduce.reports import Report
from timm_diffsens.reproduce.workspace import MissingError, Workspace, name_of, reporting_missing
from timm_diffsens.results.records.store import find_record, record_files
from timm_diffsens.results.report.board_charts import scatter_chart, series_chart
from timm_diffsens.results.stats.leaderboard import Choices, Group, Leaderboard, Series, build_leaderboard
from timm_diffsens.train.recipe import CIFAR10_MEAN, CIFAR10_STD, Recipe

_VARIANTS = ("original", "channel-shuffled", "init")
_SHOWN = 2  # which of the sample's images is the example


def figure_1(workspace: Workspace) -> Report:
    """An example; the scatter over CIFAR-10 networks; the correlation against the noise."""
    report = Report("fig1", "A deformation; test error against D, G and R on CIFAR-10; the same under noise")
    with reporting_missing(report.missing):
        _example(workspace, report)
    with reporting_missing(report.missing):
        group = _scatter(workspace, report, "cifar10", workspace.settings.cifar10)
        scale1 = _population(workspace, report, "scale1", workspace.settings.scale1)
        order, count = same_order(group, scale1)
        report.judge({"same-order": [order]}, networks=count)
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


# ---- sets of networks


def _population(workspace: Workspace, report: Report, name: str, recipes: Sequence[Recipe]) -> Group:
    """The networks of the board that fit, or else of these trainings."""
    kept = workspace.populations
    group = kept.population(recipes[0]) if kept is not None else None
    if group is not None:
        report.notes.append(f"Networks of {group.title} are those of the leaderboard.")
        return group
    found = _board(workspace, report, name, recipes).main
    assert found is not None  # records were just made
    for row in found.left_out.to_dict("records"):
        report.notes.append(f"{row['model']} is not in the fits: {row['reason']}.")
    return found


def _noisy(workspace: Workspace, report: Report) -> tuple[dict[float, Group | None], Series | None]:
    """Networks trained and tested on noisy images, by the noise in units of eta*; and all of them by noise.

    None where fewer than five networks have this noise.
    """
    settings, kept = workspace.settings, workspace.populations
    sigmas = {multiple: round(multiple * workspace.noise_unit, 6) for multiple in settings.noises}
    if kept is not None:
        found = {multiple: kept.population(settings.noisy[0], sigma) for multiple, sigma in sigmas.items()}
        clean, *noisy = found.values()
        if clean is not None and any(group is not None for group in noisy):
            return found, kept.series(clean)
    recipes = [replace(recipe, corrupt=sigma) for sigma in sigmas.values() for recipe in settings.noisy]
    board = _board(workspace, report, "noise", recipes)
    sigma_of = {record.key: record.protocol.corruption_sigma for _, record in board.records}
    groups = {sigma_of[group.models["key"].iloc[0]]: group for group in board.groups}
    series = board.series[0] if board.series else None
    return {multiple: groups.get(sigma) for multiple, sigma in sigmas.items()}, series


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


def _scatter(workspace: Workspace, report: Report, name: str, recipes: Sequence[Recipe]) -> Group:
    """The scatter, and the claims: the signs, whether R does better, and whether that comes with training."""
    group = _population(workspace, report, name, recipes)
    _show(report, "scatter", group)
    numbers = signs(group, "trained")
    numbers |= {f"r-better-than-{rival}": [better(group, "r", rival, "trained")] for rival in "dg"}
    numbers["not-at-initialisation"] = [rho(group, "r", "at initialisation", "init")]
    numbers["learned"] = [better(group, "r", "init_r", "trained - init")]
    columns: dict[str, tuple[str, ...]] = {f"{m}-{sign}": (m,) for m, sign in SIGNS.items()}
    columns |= {f"r-better-than-{rival}": ("r", rival) for rival in "dg"}
    columns |= {"not-at-initialisation": ("init_r",), "learned": ("r", "init_r")}
    why = {key: _why(workspace, name, group, *used) for key, used in columns.items()}
    report.judge(numbers, why, networks=len(group.points))
    return group


def _why(workspace: Workspace, subject: str, group: Group | None, *columns: str) -> str:
    """What one family does to a correlation; how many networks did not fit; what is not tested."""
    parts = [one_family_less(group, *columns)]
    if group is not None and group.unfitted:
        parts.append(f"{group.unfitted} of {len(group.points)} networks did not fit their training set")
    parts.append(workspace.settings.caveat(subject))
    return "; ".join(filter(None, parts))


def _noise(workspace: Workspace, report: Report) -> None:
    noises, series = _noisy(workspace, report)
    if series is not None:
        rows = series.rows.copy()
        rows.insert(1, "in units of eta*", rows["sigma"] / workspace.noise_unit)
        report.show("noise", rows, series_chart(series))
    noisy = {f"noise {multiple:g} eta*": group for multiple, group in noises.items() if multiple > 0}
    numbers = {
        f"noise-{measure}-{sign}": [rho(group, measure, name) for name, group in noisy.items()]
        for measure, sign in SIGNS.items()
    }
    numbers["noise-r-better-than-d"] = [better(group, "r", "d", name) for name, group in noisy.items()]
    columns: dict[str, tuple[str, ...]] = {f"noise-{m}-{sign}": (m,) for m, sign in SIGNS.items()}
    columns["noise-r-better-than-d"] = ("r", "d")
    why = {
        key: "; ".join(
            f"{name}: {text}"
            for name, group in noisy.items()
            if (text := _why(workspace, "cifar10", group, *used))
        )
        for key, used in columns.items()
    }
    report.judge(numbers, why)
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
