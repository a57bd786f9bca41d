"""Figs 1, 8 and 10: does the test error go with D, G and R at the output, over networks?"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from timm_diffsens.errors import DiffsensError
from timm_diffsens.perturb.diffeo import Diffeo
from timm_diffsens.perturb.noise import corrupt
from timm_diffsens.perturb.streams import streams
from timm_diffsens.reproduce.claims import NEGATIVE, POSITIVE, Claim, Finding
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
SEEN = 0.5  # correlation at which one is called seen
_SHOWN = 2  # which of the sample's images is the example


def figure_1(workspace: Workspace) -> Report:
    """An example; the scatter over CIFAR-10 networks; the correlation against the noise."""
    report = Report("fig1", "A deformation; test error against D, G and R on CIFAR-10; the same under noise")
    with reporting_missing(report.missing):
        _example(workspace, report)
        group = _measured(workspace, report, "cifar10", workspace.settings.cifar10)
        report.charts["scatter"] = scatter_chart(group)
        report.tables |= _tables("scatter", group)
        report.claims += _claims(workspace, "fig1", "Fig. 1, centre", group, "cifar10")
    with reporting_missing(report.missing):
        _noise(workspace, report)
    return report


def figure_8(workspace: Workspace) -> Report:
    """The scatter over networks trained on scale detection."""
    report = Report("fig8", "Scale detection, task 1: test error against D, G and R over architectures")
    group = _measured(workspace, report, "scale1", workspace.settings.scale1)
    report.charts["scatter"] = scatter_chart(group)
    report.tables |= _tables("scatter", group)
    report.claims += _claims(workspace, "fig8", "Fig. 8", group, "scale1")
    return report


def figure_10(workspace: Workspace) -> Report:
    """The scatter plots behind Fig. 1, right."""
    report = Report("fig10", "CIFAR-10 with noise: test error against D, G and R at each size of the noise")
    with reporting_missing(report.missing):
        for noise in _noisy(workspace, report)[0]:
            if noise.group is not None:
                report.charts[f"noise-{noise.multiple:g}"] = scatter_chart(noise.group)
                report.tables |= _tables(f"noise-{noise.multiple:g}", noise.group)
        report.notes.append(_unit_note(workspace))
    return report


@dataclass(frozen=True)
class NoiseSizes:
    """Networks trained and tested on noisy images: the noise in units of eta*, and what they gave.

    `group` is None where fewer than five networks have this noise.
    """

    multiple: float
    sigma: float
    group: Group | None


def _noisy(workspace: Workspace, report: Report) -> tuple[list[NoiseSizes], Leaderboard]:
    settings, unit = workspace.settings, workspace.noise_unit
    sizes = {round(multiple * unit, 6): multiple for multiple in settings.noises}
    recipes = [replace(recipe, corrupt=sigma) for sigma in sizes for recipe in settings.noisy]
    board = _board(workspace, report, "noise", recipes)
    by_sigma = {_sigma(board, group): group for group in board.groups}
    return [
        NoiseSizes(multiple, sigma, by_sigma.get(sigma)) for sigma, multiple in sorted(sizes.items())
    ], board


def _sigma(board: Leaderboard, group: Group) -> float:
    """The noise on the images of a group's records."""
    key = group.models["key"].iloc[0]
    return next(r.protocol.corruption_sigma for _, r in board.records if r.key == key)


def _measured(workspace: Workspace, report: Report, name: str, recipes: Sequence[Recipe]) -> Group:
    group = _board(workspace, report, name, recipes).main
    assert group is not None  # records were just made
    for row in group.left_out.to_dict("records"):
        report.notes.append(f"{row['model']} is not in the fits: {row['reason']}.")
    return group


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


_SIGNS = (
    ("r", POSITIVE, "positive", "with"),
    ("d", POSITIVE, "positive", "with"),
    ("g", NEGATIVE, "negative", "against"),
)


def _claims(workspace: Workspace, key: str, source: str, group: Group, subject: str) -> list[Claim]:
    """The signs, whether R does better, and whether all that comes with training."""
    likely = _likely(workspace, subject, group)
    over = f"over {len(group.points)} networks"
    claims = [
        Claim(
            f"{key}.{measure}-{word}",
            f"the test error goes {way} {measure.upper()}_f",
            source,
            f"rho(log error, log {measure.upper()}_f) {over}",
            region,
            (_rho(group, measure, "trained"),),
            likely,
        )
        for measure, region, word, way in _SIGNS
    ]
    claims += [
        Claim(
            f"{key}.r-better-than-{rival}",
            f"R_f correlates with the test error better than {rival.upper()}_f",
            source,
            f"|rho(R_f)| - |rho({rival.upper()}_f)|, paired over networks",
            POSITIVE,
            (_better(group, rival, "trained"),),
            likely,
        )
        for rival in ("d", "g")
    ]
    return [
        *claims,
        Claim(
            f"{key}.not-at-initialisation",
            "the correlation with R_f is not seen at initialisation",
            "Section 1",
            f"rho(log error, log R_f at initialisation) {over}; not seen: below {SEEN:g} either way",
            (-SEEN, SEEN),
            (_rho(group, "r", "at initialisation", "init"),),
            likely,
        ),
        Claim(
            f"{key}.learned",
            "it is learned: stronger after training than before",
            "Section 1",
            "|rho(R_f)| trained - |rho(R_f)| at initialisation, paired over networks",
            POSITIVE,
            (_learned(workspace, group),),
            likely,
        ),
    ]


def _likely(workspace: Workspace, subject: str, group: Group | None) -> str:
    """The caveat of the scale, and how many networks did not fit their training set."""
    parts = [workspace.settings.caveats.get(subject, "")]
    if group is not None and group.unfitted:
        parts.append(f"{group.unfitted} of {len(group.points)} networks did not fit their training set")
    return "; ".join(part for part in parts if part)


def _rho(group: Group | None, measure: str, name: str, variant: str = "original") -> Finding:
    if group is None:
        return Finding(name, None, reason=f"fewer than {FEWEST} networks")
    table = group.correlations
    rows = table[(table["variant"] == variant) & (table["measure"] == measure)].to_dict("records")
    if not rows:
        return Finding(name, None, reason="no network has it")
    row = rows[0]
    few = f"{row['n']} networks, an interval needs {FEWEST}"
    return Finding.of(name, row["pearson"], row["pearson_low"], row["pearson_high"], row["note"] or few)


def _better(group: Group | None, rival: str, name: str) -> Finding:
    if group is None:
        return Finding(name, None, reason=f"fewer than {FEWEST} networks")
    table = group.comparisons
    rows = table[(table["variant"] == "original") & (table["rival"] == rival)].to_dict("records")
    if not rows:
        return Finding(name, None, reason="no network has both")
    row = rows[0]
    return Finding.of(name, row["difference"], row["low"], row["high"], str(row["answer"]))


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
        report.charts["noise"] = series_chart(board.series[0])
        rows = board.series[0].rows.copy()
        rows.insert(1, "in units of eta*", rows["sigma"] / workspace.noise_unit)
        report.tables["noise"] = rows
    noisy = [(noise.group, f"noise {noise.multiple:g} eta*") for noise in noises if noise.sigma > 0]
    likely = _likely(workspace, "cifar10", next((group for group, _ in noisy if group is not None), None))
    for measure, region, word, way in _SIGNS:
        report.claims.append(
            Claim(
                f"fig1.noise-{measure}-{word}",
                f"trained and tested on noisy images, the test error still goes {way} {measure.upper()}_f",
                "Fig. 1, right",
                f"rho(log error, log {measure.upper()}_f)",
                region,
                tuple(_rho(group, measure, name) for group, name in noisy),
                likely,
            )
        )
    report.claims.append(
        Claim(
            "fig1.noise-r-better-than-d",
            "there too R_f correlates with the test error better than D_f",
            "Fig. 1, right",
            "|rho(R_f)| - |rho(D_f)|, paired over networks",
            POSITIVE,
            tuple(_better(group, "d", name) for group, name in noisy),
            likely,
        )
    )
    report.notes.append(_unit_note(workspace))


def _unit_note(workspace: Workspace) -> str:
    return (
        f"eta* is the rms of tau x - x over test images, {workspace.noise_unit:g} a pixel and channel in the "
        "network's input units; the noise on the images has that standard deviation times the factor."
    )


def _tables(name: str, group: Group) -> dict[str, pd.DataFrame]:
    return {name: group.points, f"{name}-correlations": group.correlations}


# ---- the example


def _example(workspace: Workspace, report: Report) -> None:
    images = workspace.cifar10_images(_SHOWN + 1)
    image, moves = images[_SHOWN:], Diffeo()
    field = moves.displacement(1, (32, 32), streams(0, "example", [_SHOWN]))
    shown: list[tuple[str, Any]] = [
        ("x", _bytes(image)),
        ("tau x", _bytes(moves(image, streams(0, "example", [_SHOWN])))),
    ]
    for multiple in (m for m in workspace.settings.noises if m > 0):
        noised = corrupt(image, multiple * workspace.noise_unit, streams(0, "corruption", [_SHOWN]))
        shown.append((f"x + {multiple:g} eta*", _bytes(noised)))
    report.charts["example"] = pixel_panels(
        shown, title="A deformation and noise", subtitle="delta = 1 px, cut = 3; noise fixed for each image"
    )
    dx, dy = field[0].numpy()
    y, x = np.mgrid[: dx.shape[0], : dx.shape[1]]
    columns = {"x": x.ravel(), "y": y.ravel(), "dx": dx.ravel(), "dy": dy.ravel()}
    report.tables["example"] = pd.DataFrame(columns)


def _bytes(image: Any) -> Any:
    mean, std = (np.array(v)[:, None, None] for v in (CIFAR10_MEAN, CIFAR10_STD))
    pixels = image[0].numpy() * std + mean
    return np.clip(np.round(pixels * 255), 0, 255).astype(int).transpose(1, 2, 0)
