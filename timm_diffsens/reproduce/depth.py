"""Figs 3, 9 and 11: R_k, D_k and G_k layer by layer, as trained, channel-shuffled, and at initialisation."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import pandas as pd

from timm_diffsens.reproduce.claims import NEGATIVE, POSITIVE, Claim, Finding
from timm_diffsens.reproduce.panels import curve_panels
from timm_diffsens.reproduce.reports import Report
from timm_diffsens.reproduce.settings import seeds_of
from timm_diffsens.reproduce.workspace import Workspace, name_of, reporting_missing
from timm_diffsens.results.records.frames import layers_frame
from timm_diffsens.schema.layers import LayerSensitivity
from timm_diffsens.schema.records import Record
from timm_diffsens.train.recipe import Recipe

VARIANTS = ("original", "channel-shuffled", "init")
LITTLE = math.log(1.5)  # a factor by which shuffling may change R_k, and still leave it essentially as it is
HALF = 0.5  # of the fall after training: what may be there before it
_CIFAR10, _IMAGENET, _SCALE1 = "CIFAR-10", "ImageNet", "scale detection"


def figure_3(workspace: Workspace) -> Report:
    """R_k of VGG11 with and without batch-norm."""
    report = Report("fig3", "R_k against depth: as trained, channel-shuffled, at initialisation")
    settings = workspace.settings
    records = list(_collected(workspace, report, settings.depth, settings.imagenet))
    _draw(report, records, "r")
    report.claims += _claims(workspace, "fig3", "Fig. 3, Section 2", records)
    return report


def figure_11(workspace: Workspace) -> Report:
    """R_k, D_k and G_k of other architectures."""
    report = Report("fig11", "R_k, D_k and G_k against depth: other architectures")
    settings = workspace.settings
    records = list(_collected(workspace, report, settings.more, settings.more_imagenet))
    for measure in "rdg":
        _draw(report, records, measure)
    report.claims += _claims(workspace, "fig11", "Fig. 3, Section 2", records)
    return report


def figure_9(workspace: Workspace) -> Report:
    """The same on scale detection, where shuffling channels changes little."""
    report = Report("fig9", "Scale detection: R_k, D_k and G_k against depth, channel-shuffled too")
    records = pooling_records(workspace)
    for measure in "rdg":
        _draw(report, records, measure)
    likely = workspace.settings.caveats.get("pooling", "")
    source = "Section 3, Fig. 9"
    report.claims += [
        _falls("fig9", source, records, likely),
        Claim(
            "fig9.d-falls",
            "representations become less sensitive to deformations through the layers",
            source,
            "log(D_K / D_1)",
            NEGATIVE,
            tuple(change(name, record, "d") for name, record in records),
            likely,
        ),
        Claim(
            "fig9.g-grows",
            "and more sensitive to noise",
            source,
            "log(G_K / G_1)",
            POSITIVE,
            tuple(change(name, record, "g") for name, record in records),
            likely,
        ),
        Claim(
            "fig9.shuffling",
            "shuffling channels leaves the curves essentially as they are",
            source,
            f"mean over layers of log(R_k shuffled / R_k); as they are: a factor below {math.exp(LITTLE):g}",
            (-LITTLE, LITTLE),
            tuple(_shuffling(name, record) for name, record in records),
            likely,
        ),
    ]
    return report


def how(workspace: Workspace) -> dict[str, Any]:
    """Options of measurements by layer: of copies there are more, as their spread is what decides."""
    copies = workspace.settings.copies
    return {"layers": "convs", "variants": VARIANTS, "shuffles": copies, "init_samples": copies}


def cifar10_records(workspace: Workspace, names: tuple[str, ...]) -> list[tuple[str, Record]]:
    """The records, layer by layer, of those of the CIFAR-10 networks."""
    chosen = [recipe for recipe in workspace.settings.cifar10 if name_of(recipe) in names]
    return _of_recipes(workspace, "cifar10 depth", _CIFAR10, chosen)


def pooling_records(workspace: Workspace) -> list[tuple[str, Record]]:
    """Those of the VGGs trained on scale detection."""
    return _of_recipes(workspace, "scale1 depth", _SCALE1, workspace.settings.pooling)


def imagenet_record(workspace: Workspace, model: str) -> tuple[str, Record]:
    """That of a model with published weights."""
    record = workspace.published("imagenet-depth", model, **how(workspace))
    return f"{_IMAGENET}, {model.removeprefix('torchvision/')}", record


def _of_recipes(
    workspace: Workspace, group: str, data: str, recipes: Sequence[Recipe]
) -> list[tuple[str, Record]]:
    found = []
    for recipe in recipes:
        for one in seeds_of(recipe, workspace.settings.seeds):
            seed = f", seed {one.seed}" if workspace.settings.seeds > 1 else ""
            record = workspace.record(group.replace(" ", "-"), one, **how(workspace))
            found.append((f"{data}, {name_of(recipe).removeprefix('net/')}{seed}", record))
    return found


def _collected(
    workspace: Workspace, report: Report, names: tuple[str, ...], models: tuple[str, ...]
) -> Iterator[tuple[str, Record]]:
    with reporting_missing(report.missing):
        yield from cifar10_records(workspace, names)
    for model in models:
        with reporting_missing(report.missing):
            yield imagenet_record(workspace, model)


def _draw(report: Report, records: list[tuple[str, Record]], measure: str) -> None:
    if not records:
        return
    tables = [layers_frame(record).assign(network=name) for name, record in records]
    table = pd.concat(tables, ignore_index=True)
    columns = ["network", "variant", "layer", "index", "depth", measure, f"{measure}_stderr"]
    letter = f"{measure.upper()}_k"
    report.charts[f"{measure}-depth"] = curve_panels(
        table[columns],
        "depth",
        measure,
        "network",
        title=f"{letter} against relative depth",
        subtitle="every convolution after its norm and activation, and the output; bars: one standard error",
        x_title="relative depth",
        y_title=letter,
    )
    report.tables[f"{measure}-depth"] = table[columns]


# ---- claims


def likely_of(workspace: Workspace, records: list[tuple[str, Record]]) -> str:
    """The caveats of the data that these records are of."""
    caveats = workspace.settings.caveats
    subjects = {_CIFAR10: "cifar10 depth", _IMAGENET: "imagenet", _SCALE1: "pooling"}
    found = [caveats.get(subjects[name.partition(",")[0]], "") for name, _ in records]
    return "; ".join(caveat for caveat in dict.fromkeys(found) if caveat)


def _claims(workspace: Workspace, key: str, source: str, records: list[tuple[str, Record]]) -> list[Claim]:
    if not records:
        return []
    likely = likely_of(workspace, records)
    return [
        _falls(key, source, records, likely),
        Claim(
            f"{key}.learned",
            "that fall comes with training: less than half of it is there before",
            source,
            f"log(R_K / R_1) at initialisation less {HALF:g} times the same after training",
            POSITIVE,
            tuple(_before(name, record) for name, record in records),
            likely,
        ),
        Claim(
            f"{key}.channel-pooling",
            "shuffling channels raises R_K: channels are pooled",
            source,
            "log(R_K shuffled / R_K)",
            POSITIVE,
            tuple(_raised(name, record) for name, record in records),
            likely,
        ),
        Claim(
            f"{key}.spatial-pooling",
            "shuffled curves still fall: places are pooled too",
            source,
            "log(R_K / R_1), channel-shuffled",
            NEGATIVE,
            tuple(change(name, record, "r", "channel-shuffled") for name, record in records),
            likely,
        ),
    ]


def _falls(key: str, source: str, records: list[tuple[str, Record]], likely: str) -> Claim:
    return Claim(
        f"{key}.r-falls",
        "R_k falls with depth after training",
        source,
        "log(R_K / R_1), K the last convolution",
        NEGATIVE,
        tuple(change(name, record, "r") for name, record in records),
        likely,
    )


def _ends(
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
    ends = _ends(record, measure, variant)
    if ends is None:
        return Finding(name, None, reason=f"first or last convolution without {measure.upper()}")
    return Finding.normal(name, *_log_ratio(ends[1], ends[0], measure), _freedom(record, variant))


def _before(name: str, record: Record) -> Finding:
    """fall at initialisation - HALF * fall after training, falls being negative."""
    trained, fresh = (_ends(record, "r", v) for v in ("original", "init"))
    if trained is None or fresh is None:
        return Finding(name, None, reason="no value before or after training")
    (own, own_error), (other, error) = (_log_ratio(ends[1], ends[0], "r") for ends in (trained, fresh))
    spread = math.hypot(error, HALF * own_error)
    return Finding.normal(name, other - HALF * own, spread, _freedom(record, "init"))


def _raised(name: str, record: Record) -> Finding:
    own, shuffled = _ends(record, "r"), _ends(record, "r", "channel-shuffled")
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
