"""Figs 3, 9 and 11: R_k, D_k and G_k layer by layer, as trained, channel-shuffled, and at initialisation."""

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from timm_diffsens.reproduce.claims import Finding, Numbers
from timm_diffsens.reproduce.panels import Panels
from timm_diffsens.reproduce.reports import Report
from timm_diffsens.reproduce.settings import seeds_of
from timm_diffsens.reproduce.workspace import Workspace, name_of, reporting_missing
from timm_diffsens.results.records.frames import layers_frame
from timm_diffsens.schema.layers import LayerSensitivity
from timm_diffsens.schema.records import Record
from timm_diffsens.train.recipe import Recipe

VARIANTS = ("original", "channel-shuffled", "init")
HALF = 0.5  # of the fall after training: what may be there before it
_CIFAR10, _IMAGENET, _SCALE1 = "CIFAR-10", "ImageNet", "scale detection"
_SUBJECTS = {_CIFAR10: "cifar10 depth", _IMAGENET: "imagenet", _SCALE1: "pooling"}  # of their caveats
_WAYS = {"r": "falls", "d": "falls", "g": "grows"}  # on scale detection

Named = list[tuple[str, Record]]  # the data and the network, `CIFAR-10, vgg11_bn 12`


def figure_3(workspace: Workspace) -> Report:
    """R_k of VGG11 with and without batch-norm."""
    report = Report("fig3", "R_k against depth: as trained, channel-shuffled, at initialisation")
    settings = workspace.settings
    return _pooling(workspace, report, settings.depth, settings.imagenet, "r")


def figure_11(workspace: Workspace) -> Report:
    """R_k, D_k and G_k of other architectures."""
    report = Report("fig11", "R_k, D_k and G_k against depth: other architectures")
    settings = workspace.settings
    return _pooling(workspace, report, settings.more, settings.more_imagenet, "rdg")


def _pooling(
    workspace: Workspace, report: Report, names: Sequence[str], models: Sequence[str], measures: str
) -> Report:
    """The curves of networks on CIFAR-10 and of models on ImageNet, as far as these can be had."""
    records = cifar10_records(workspace, report, names) + imagenet_records(workspace, report, models)
    if records:
        _draw(report, records, measures)
        report.judge(pooling_numbers(records), likely_of(workspace, records))
    return report


def pooling_numbers(records: Named) -> Numbers:
    """How R_k falls over depth, and what shuffling and training change."""
    return {
        "r-falls": [change(name, record, "r") for name, record in records],
        "learned": [_before(name, record) for name, record in records],
        "channel-pooling": [_raised(name, record) for name, record in records],
        "spatial-pooling": [change(name, record, "r", "channel-shuffled") for name, record in records],
    }


def figure_9(workspace: Workspace) -> Report:
    """The same on scale detection, where shuffling channels changes little."""
    report = Report("fig9", "Scale detection: R_k, D_k and G_k against depth, channel-shuffled too")
    records = pooling_records(workspace)
    _draw(report, records, "rdg")
    numbers = {
        f"{m}-{way}": [change(name, record, m) for name, record in records] for m, way in _WAYS.items()
    }
    numbers["shuffling"] = [_shuffling(name, record) for name, record in records]
    report.judge(numbers, likely_of(workspace, records))
    return report


def cifar10_records(workspace: Workspace, report: Report, names: Sequence[str]) -> Named:
    """The records, layer by layer, of those of the CIFAR-10 networks; none where images are missing."""
    found: Named = []
    with reporting_missing(report.missing):
        chosen = [recipe for recipe in workspace.settings.cifar10 if name_of(recipe) in names]
        found += of_recipes(workspace, "cifar10-depth", _CIFAR10, chosen, _how(workspace))
    return found


def imagenet_records(workspace: Workspace, report: Report, models: Sequence[str]) -> Named:
    """Those of models with published weights, as far as these and images are there."""
    found = []
    for model in models:
        with reporting_missing(report.missing):
            record = workspace.published("imagenet-depth", model, **_how(workspace))
            found.append((f"{_IMAGENET}, {model.removeprefix('torchvision/')}", record))
    return found


def pooling_records(workspace: Workspace) -> Named:
    """Those of the VGGs trained on scale detection."""
    return of_recipes(workspace, "scale1-depth", _SCALE1, workspace.settings.pooling, _how(workspace))


def likely_of(workspace: Workspace, records: Named) -> str:
    """The caveats of the data that these records are of."""
    return workspace.settings.likely(*(_SUBJECTS[name.partition(",")[0]] for name, _ in records))


def _how(workspace: Workspace) -> dict[str, Any]:
    """Options of measurements by layer: of copies there are more, as their spread is what decides."""
    copies = workspace.settings.copies
    return {"layers": "convs", "variants": VARIANTS, "shuffles": copies, "init_samples": copies}


def of_recipes(
    workspace: Workspace, group: str, data: str, recipes: Sequence[Recipe], how: dict[str, Any]
) -> Named:
    """The records of these trainings, from each seed, measured with these options."""
    found = []
    for recipe in recipes:
        for one in seeds_of(recipe, workspace.settings.seeds):
            seed = f", seed {one.seed}" if workspace.settings.seeds > 1 else ""
            record = workspace.record(group, one, **how)
            found.append((f"{data}, {name_of(recipe).removeprefix('net/')}{seed}", record))
    return found


def _draw(report: Report, records: Named, measures: str) -> None:
    whole = pd.concat([layers_frame([record]).assign(network=name) for name, record in records])
    subtitle = "every convolution after its norm and activation, and the output; bars: one standard error"
    for measure in measures:
        table = whole[["network", "variant", "layer", "index", "depth", measure, f"{measure}_stderr"]]
        letter = f"{measure.upper()}_k"
        axes, title = (("depth", "relative depth"), (measure, letter)), f"{letter} against relative depth"
        chart = Panels(*axes, "network", title, subtitle, log=True).curves(table.reset_index(drop=True))
        report.show(f"{measure}-depth", table, chart)


# ---- numbers


def ends_of(
    record: Record, measure: str, variant: str = "original"
) -> tuple[LayerSensitivity, LayerSensitivity] | None:
    """The first and the last convolution of the original with a value there, as they are in a variant."""
    names = [
        layer.layer
        for layer in record.variants["original"]
        if layer.layer != "output" and getattr(layer, measure)
    ]
    if len(names) < 2:
        return None
    found = {layer.layer: layer for layer in record.variants.get(variant, [])}
    ends = tuple(found.get(name) for name in (names[0], names[-1]))
    if any(e is None or not getattr(e, measure) or getattr(e, f"{measure}_stderr") is None for e in ends):
        return None
    return ends  # type: ignore[return-value]


def _log_ratio(above: LayerSensitivity, below: LayerSensitivity, measure: str) -> tuple[float, float]:
    """log of a ratio and its standard error, errors taken as independent.

    They are of the same images, which mostly err in the same direction: the error is rather too large.
    """
    values = [getattr(layer, measure) for layer in (above, below)]
    errors = [getattr(layer, f"{measure}_stderr") for layer in (above, below)]
    spread = math.hypot(*(error / value for error, value in zip(errors, values, strict=True)))
    return math.log(values[0] / values[1]), spread


def _freedom(record: Record, variant: str) -> int | None:
    """Degrees of freedom of a variant's errors, where its copies are the fewest draws; None for images."""
    copies = {"channel-shuffled": record.protocol.shuffles, "init": record.protocol.init_samples}
    return None if variant not in copies else copies[variant] - 1


def change(name: str, record: Record, measure: str, variant: str = "original") -> Finding:
    """log(X_K / X_1) from the first to the last convolution."""
    ends = ends_of(record, measure, variant)
    if ends is None:
        return Finding(name, None, reason=f"first or last convolution without {measure.upper()}")
    return Finding.normal(name, *_log_ratio(ends[1], ends[0], measure), _freedom(record, variant))


def _before(name: str, record: Record) -> Finding:
    """fall at initialisation - HALF * fall after training, falls being negative."""
    trained, fresh = (ends_of(record, "r", v) for v in ("original", "init"))
    if trained is None or fresh is None:
        return Finding(name, None, reason="no value before or after training")
    (own, own_error), (other, error) = (_log_ratio(ends[1], ends[0], "r") for ends in (trained, fresh))
    spread = math.hypot(error, HALF * own_error)
    return Finding.normal(name, other - HALF * own, spread, _freedom(record, "init"))


def _raised(name: str, record: Record) -> Finding:
    own, shuffled = ends_of(record, "r"), ends_of(record, "r", "channel-shuffled")
    if own is None or shuffled is None:
        return Finding(name, None, reason="last convolution without R")
    return Finding.normal(name, *_log_ratio(shuffled[1], own[1], "r"), _freedom(record, "channel-shuffled"))


def _shuffling(name: str, record: Record) -> Finding:
    """The mean over layers; its error is the mean of theirs, as if all erred together."""
    shuffled = {layer.layer: layer for layer in record.variants["channel-shuffled"]}
    pairs = [(shuffled[own.layer], own) for own in record.variants["original"] if own.layer != "output"]
    known = [(a, b) for a, b in pairs if a.r and b.r and a.r_stderr is not None and b.r_stderr is not None]
    if not known:
        return Finding(name, None, reason="no layer with R")
    logs, errors = zip(*(_log_ratio(a, b, "r") for a, b in known), strict=True)
    mean, spread = sum(logs) / len(logs), sum(errors) / len(errors)
    return Finding.normal(name, mean, spread, _freedom(record, "channel-shuffled"))
