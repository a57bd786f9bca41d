"""Figs 3, 9 and 11: R_k, D_k and G_k layer by layer, as trained, channel-shuffled, and at initialisation."""

import math
from collections.abc import Iterator

import pandas as pd

from timm_diffsens.reproduce.claims import NEGATIVE, POSITIVE, Claim, Part
from timm_diffsens.reproduce.panels import curve_panels
from timm_diffsens.reproduce.reports import Report
from timm_diffsens.reproduce.settings import seeds_of
from timm_diffsens.reproduce.workshop import Workshop, name_of, unless_missing
from timm_diffsens.results.frames import layers_frame
from timm_diffsens.results.record import Layer, Record, VariantName
from timm_diffsens.train.recipe import Recipe

VARIANTS = ("original", "channel-shuffled", "init")
LITTLE = 0.25  # of the fall of log R_k: what shuffling may change and still be called little
HALF = 0.5  # of the fall after training: what may be there before it
_CIFAR10, _IMAGENET, _SCALE1 = "CIFAR-10", "ImageNet", "scale detection"


def figure_3(shop: Workshop) -> Report:
    """R_k of VGG11 with and without batch-norm."""
    report = Report("fig3", "R_k against depth: as trained, channel-shuffled, at initialisation")
    settings = shop.settings
    records = list(_collected(shop, report, settings.depth, settings.imagenet))
    _draw(report, records, "r")
    report.claims += _claims(shop, "fig3", "Fig. 3, Section 2", records)
    return report


def figure_11(shop: Workshop) -> Report:
    """R_k, D_k and G_k of other architectures."""
    report = Report("fig11", "R_k, D_k and G_k against depth: other architectures")
    settings = shop.settings
    records = list(_collected(shop, report, settings.more, settings.more_imagenet))
    for measure in "rdg":
        _draw(report, records, measure)
    report.claims += _claims(shop, "fig11", "Fig. 3, Section 2", records)
    return report


def figure_9(shop: Workshop) -> Report:
    """The same on scale detection, where shuffling channels changes little."""
    report = Report("fig9", "Scale detection: R_k, D_k and G_k against depth, channel-shuffled too")
    records = pooling_records(shop)
    for measure in "rdg":
        _draw(report, records, measure)
    likely = shop.settings.caveats.get("pooling", "")
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
            f"mean |log(R_k shuffled / R_k)| over the fall |log(R_K / R_1)|; little: below {LITTLE:g}",
            (-math.inf, LITTLE),
            tuple(_shuffling(name, record) for name, record in records),
            likely,
        ),
    ]
    return report


def cifar10_records(shop: Workshop, names: tuple[str, ...]) -> list[tuple[str, Record]]:
    """The records, layer by layer, of those of the CIFAR-10 networks."""
    chosen = [recipe for recipe in shop.settings.cifar10 if name_of(recipe) in names]
    return _of_recipes(shop, "cifar10 depth", _CIFAR10, chosen)


def pooling_records(shop: Workshop) -> list[tuple[str, Record]]:
    """Those of the VGGs trained on scale detection."""
    return _of_recipes(shop, "scale1 depth", _SCALE1, shop.settings.pooling)


def imagenet_record(shop: Workshop, model: str) -> tuple[str, Record]:
    """That of a model with published weights."""
    record = shop.published("imagenet depth", model, layers="convs", variants=VARIANTS)
    return f"{_IMAGENET}, {model.removeprefix('torchvision/')}", record


def _of_recipes(
    shop: Workshop, group: str, data: str, recipes: "list[Recipe] | tuple[Recipe, ...]"
) -> list[tuple[str, Record]]:
    found = []
    for recipe in recipes:
        for one in seeds_of(recipe, shop.settings.seeds):
            seed = f", seed {one.seed}" if shop.settings.seeds > 1 else ""
            record = shop.record(group.replace(" ", "-"), one, layers="convs", variants=VARIANTS)
            found.append((f"{data}, {name_of(recipe).removeprefix('net/')}{seed}", record))
    return found


def _collected(
    shop: Workshop, report: Report, names: tuple[str, ...], models: tuple[str, ...]
) -> Iterator[tuple[str, Record]]:
    with unless_missing(report.missing):
        yield from cifar10_records(shop, names)
    for model in models:
        with unless_missing(report.missing):
            yield imagenet_record(shop, model)


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


def _claims(shop: Workshop, key: str, source: str, records: list[tuple[str, Record]]) -> list[Claim]:
    if not records:
        return []
    likely = shop.settings.caveats.get("cifar10 depth", "")
    return [
        _falls(key, source, records, likely),
        Claim(
            f"{key}.learned",
            "that fall comes with training",
            source,
            f"log(R_K / R_1) at initialisation over the same after training; below {HALF:g}",
            (-math.inf, HALF),
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


def _ends(record: Record, measure: str, variant: VariantName = "original") -> tuple[Layer, Layer] | None:
    """The first and the last convolution with a value."""
    layers = [
        layer
        for layer in record.variants.get(variant, [])
        if getattr(layer, measure) and getattr(layer, f"{measure}_stderr") is not None
    ]
    convolutions = [layer for layer in layers if layer.layer != "output"]
    return (convolutions[0], convolutions[-1]) if len(convolutions) > 1 else None


def _log_ratio(above: Layer, below: Layer, measure: str) -> tuple[float, float]:
    """log of a ratio and its standard error, errors taken as independent.

    They are of the same images, which makes them vary together, and the error of the ratio smaller.
    """
    values = [getattr(layer, measure) for layer in (above, below)]
    errors = [getattr(layer, f"{measure}_stderr") for layer in (above, below)]
    spread = math.hypot(*(error / value for error, value in zip(errors, values, strict=True)))
    return math.log(values[0] / values[1]), spread


def change(name: str, record: Record, measure: str, variant: VariantName = "original") -> Part:
    """log(X_K / X_1) from the first to the last convolution."""
    ends = _ends(record, measure, variant)
    if ends is None:
        return Part(name, None, reason=f"fewer than two convolutions have {measure.upper()}")
    return Part.normal(name, *_log_ratio(ends[1], ends[0], measure))


def _before(name: str, record: Record) -> Part:
    trained, fresh = (change(name, record, "r", v) for v in ("original", "init"))
    if trained.value is None or fresh.value is None or fresh.low is None or fresh.high is None:
        return Part(name, None, reason="no value before or after training")
    if trained.value >= 0:
        return Part(name, None, reason="R_k does not fall after training")
    low, high = sorted((fresh.low / trained.value, fresh.high / trained.value))
    return Part(name, fresh.value / trained.value, low, high)


def _raised(name: str, record: Record) -> Part:
    own, shuffled = _ends(record, "r"), _ends(record, "r", "channel-shuffled")
    if own is None or shuffled is None:
        return Part(name, None, reason="fewer than two convolutions have R")
    return Part.normal(name, *_log_ratio(shuffled[1], own[1], "r"))


def _shuffling(name: str, record: Record) -> Part:
    fall = change(name, record, "r").value
    pairs = zip(record.variants["original"], record.variants["channel-shuffled"], strict=True)
    changes = [abs(math.log(b.r / a.r)) for a, b in pairs if a.r and b.r and a.layer != "output"]
    if not fall or not changes:
        return Part(name, None, reason="no fall to compare with")
    return Part(name, sum(changes) / len(changes) / abs(fall))
