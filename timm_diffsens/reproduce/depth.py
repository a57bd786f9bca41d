"""Figs 3, 9 and 11: R_k, D_k and G_k layer by layer, as trained, channel-shuffled, and at initialisation."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from timm_diffsens.reproduce.claims import Finding, Numbers, region_of
from timm_diffsens.reproduce.curves import (
    Named,
    by_augmentation,
    change,
    pooling_numbers,
    shuffling,
    vgg_numbers,
)
from timm_diffsens.reproduce.max_pooling import max_pooling_tested
from timm_diffsens.reproduce.panels import Panels
from timm_diffsens.reproduce.reports import Report
from timm_diffsens.reproduce.settings import seeds_of
from timm_diffsens.reproduce.workspace import Workspace, name_of, reporting_missing
from timm_diffsens.results.records.frames import layers_frame
from timm_diffsens.schema.records import Record
from timm_diffsens.train.recipe import Recipe

VARIANTS = ("original", "channel-shuffled", "init")
_CIFAR10, _IMAGENET, _SCALE1 = "CIFAR-10", "ImageNet", "scale detection"
_SUBJECTS = {_CIFAR10: "cifar10 depth", _IMAGENET: "imagenet", _SCALE1: "pooling"}  # of their caveats
_INIT = (
    "At initialisation norms have the running statistics of the measured images, as when a training starts, "
    "not a mean of 0 and a variance of 1, which would be no norm at all."
)
_WAYS = {"r": "falls", "d": "falls", "g": "grows"}  # on scale detection


def figure_3(workspace: Workspace) -> Report:
    """R_k of VGG11 with and without batch-norm."""
    report = Report("fig3", "R_k against depth: as trained, channel-shuffled, at initialisation")
    settings = workspace.settings
    records = _pooling(workspace, report, settings.depth, settings.imagenet, "r")
    on_cifar10 = [named for named in records if named[0].startswith(_CIFAR10)]
    if on_cifar10:
        _judge(workspace, report, on_cifar10, vgg_numbers(on_cifar10))
    return report


def figure_11(workspace: Workspace) -> Report:
    """R_k, D_k and G_k of other architectures."""
    report = Report("fig11", "R_k, D_k and G_k against depth: other architectures")
    settings = workspace.settings
    _pooling(workspace, report, settings.more, settings.more_imagenet, "rdg")
    return report


def _pooling(
    workspace: Workspace, report: Report, recipes: Sequence[Recipe], models: Sequence[str], measures: str
) -> Named:
    """The curves of networks on CIFAR-10 and of models on ImageNet, as far as these can be had."""
    records = cifar10_records(workspace, report, recipes) + imagenet_records(workspace, report, models)
    if records:
        _draw(report, records, measures)
        on_cifar10 = any(name.startswith(_CIFAR10) for name, _ in records)
        known = {"learned": max_pooling_tested(workspace, recipes[0])} if on_cifar10 else {}
        _judge(workspace, report, records, pooling_numbers(records), known)
        report.notes.append(_INIT)
    return records


def _judge(
    workspace: Workspace, report: Report, records: Named, numbers: Numbers, known: Mapping[str, str] = {}
) -> None:
    """With what is known of a claim, and what augmentation changes of each where networks differ in it."""
    caveat = caveat_of(workspace, records)
    for key, parts in numbers.items():
        tested = by_augmentation(records, parts, region_of(f"{report.target}.{key}"))
        report.judge({key: parts}, "; ".join(filter(None, (known.get(key, ""), tested, caveat))))


def figure_9(workspace: Workspace) -> Report:
    """The same on scale detection, where shuffling channels changes little."""
    report = Report("fig9", "Scale detection: R_k, D_k and G_k against depth, channel-shuffled too")
    records = pooling_records(workspace)
    _draw(report, records, "rdg")
    numbers = {
        f"{m}-{way}": [change(name, record, m) for name, record in records] for m, way in _WAYS.items()
    }
    numbers["shuffling"] = [shuffling(name, record) for name, record in records]
    tested = "; ".join(filter(None, (without_decay(workspace, shuffling), caveat_of(workspace, records))))
    report.judge(numbers, dict.fromkeys(numbers, caveat_of(workspace, records)) | {"shuffling": tested})
    return report


def cifar10_records(workspace: Workspace, report: Report, recipes: Sequence[Recipe]) -> Named:
    """The records, layer by layer, of CIFAR-10 networks; none where images are missing."""
    found: Named = []
    with reporting_missing(report.missing):
        found += of_recipes(workspace, "cifar10-depth", _CIFAR10, recipes, _how(workspace.settings.copies))
    return found


def imagenet_records(workspace: Workspace, report: Report, models: Sequence[str]) -> Named:
    """Those of models with published weights, as far as these and images are there."""
    found = []
    for model in models:
        with reporting_missing(report.missing):
            record = workspace.published("imagenet-depth", model, **_how(workspace.settings.few_copies))
            found.append((f"{_IMAGENET}, {model.removeprefix('torchvision/')}", record))
    return found


def pooling_records(workspace: Workspace) -> Named:
    """Those of the VGGs trained on scale detection."""
    return of_recipes(
        workspace, "scale1-depth", _SCALE1, workspace.settings.pooling, _how(workspace.settings.copies)
    )


def caveat_of(workspace: Workspace, records: Named) -> str:
    """The caveats of the data that these records are of."""
    return workspace.settings.caveat(*(_SUBJECTS[name.partition(",")[0]] for name, _ in records))


def without_decay(workspace: Workspace, number: Callable[[str, Record], Finding]) -> str:
    """`tested: ...`, a number of the VGGs of the board, which were trained without weight decay."""
    pooling, kept = workspace.settings.pooling, workspace.populations
    ranges = []
    for recipe in pooling if kept is not None else ():
        records = kept.networks(recipe, [recipe.model]) if kept is not None else []
        values = [part.value for one in records if (part := number("", one)).value is not None]
        if values:
            name = recipe.model.removeprefix("net/")
            ends = dict.fromkeys(f"{end:.2f}" for end in (min(values), max(values)))
            ranges.append(f"{' to '.join(ends)} in {len(values)} of {name}")
    return f"tested: trained without weight decay it is {', '.join(ranges)}" if ranges else ""


def _how(copies: int) -> dict[str, Any]:
    """Options of measurements by layer: of copies there are more, as their spread is what decides."""
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
