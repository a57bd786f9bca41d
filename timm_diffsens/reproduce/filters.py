"""Figs 4, 12, 13 and 14: how the filters of each layer are spread over spatial frequencies."""

import math
from collections.abc import Sequence

import pandas as pd

from timm_diffsens.reproduce.claims import NEGATIVE, POSITIVE, Claim, Part
from timm_diffsens.reproduce.depth import cifar10_records, imagenet_record, pooling_records
from timm_diffsens.reproduce.panels import curve_panels
from timm_diffsens.reproduce.reports import Report
from timm_diffsens.reproduce.workshop import Workshop, unless_missing
from timm_diffsens.results.record import Record, Spectrum

Named = tuple[str, Record]

MIDDLE = range(2, 7)  # the layers of VGG11 that become low-frequency on CIFAR-10, numbered from 1
FIRST = range(1, 8)  # those in which the constant mode dominates on scale detection
MOST = 0.5  # share of the power from which on a mode dominates the others together


def figure_4(shop: Workshop) -> Report:
    """Power of each mode, layer by layer, of VGG11 with and without batch-norm."""
    report = Report("fig4", "Filter power by spatial frequency: VGG11 on CIFAR-10, ImageNet, scale detection")
    cifar10, imagenet, scale1 = _vggs(shop, report)
    for word, records in (("cifar10", cifar10), ("imagenet", imagenet), ("scale1", scale1)):
        for name, record in records:
            _modes(report, f"{word}-{_short(name)}", name, record)
    caveats = shop.settings.caveats
    if cifar10:
        report.claims += _of_cifar10(cifar10, caveats.get("cifar10 depth", ""))
    if imagenet:
        report.claims.append(_of_imagenet(imagenet))
    report.claims += _of_scale1(scale1, caveats.get("pooling", ""))
    return report


def figure_12(shop: Workshop) -> Report:
    """The mean frequency of each layer of the same networks."""
    report = Report("fig12", "Mean frequency of the filters by layer: VGG11")
    records = [named for found in _vggs(shop, report) for named in found]
    _frequencies(report, records)
    likely = shop.settings.caveats.get("cifar10 depth", "")
    report.claims.append(
        Claim(
            "fig12.lower",
            "filters become low-frequency with training: averaged over layers after the first",
            "Fig. 12",
            "mean over layers of log(mean frequency trained / at initialisation)",
            NEGATIVE,
            tuple(Part(name, _mean_change(record, range(2, 99))) for name, record in records),
            likely,
        )
    )
    return report


def figure_13(shop: Workshop) -> Report:
    """Other architectures on CIFAR-10."""
    report = Report("fig13", "Filter power by spatial frequency: other architectures on CIFAR-10")
    with unless_missing(report.missing):
        _others(report, cifar10_records(shop, shop.settings.more))
    return report


def figure_14(shop: Workshop) -> Report:
    """Other architectures on ImageNet."""
    report = Report("fig14", "Filter power by spatial frequency: other architectures on ImageNet")
    found = []
    for model in shop.settings.more_imagenet:
        with unless_missing(report.missing):
            found.append(imagenet_record(shop, model))
    _others(report, found)
    return report


def _others(report: Report, records: list[Named]) -> None:
    for name, record in records:
        _modes(report, _short(name), name, record)
    _frequencies(report, records)
    report.notes.append(
        "Figs 13 and 14 are named in the paper's text, without a caption; shown is what Fig. 4 shows."
    )


def _vggs(shop: Workshop, report: Report) -> tuple[list[Named], list[Named], list[Named]]:
    """The records on CIFAR-10, ImageNet and scale detection, as far as there are any."""
    cifar10: list[Named] = []
    imagenet: list[Named] = []
    with unless_missing(report.missing):
        cifar10 = cifar10_records(shop, shop.settings.depth)
    for model in shop.settings.imagenet:
        with unless_missing(report.missing):
            imagenet.append(imagenet_record(shop, model))
    return cifar10, imagenet, pooling_records(shop)


# ---- pictures


def _modes(report: Report, file: str, name: str, record: Record) -> None:
    rows = [
        {
            "network": name,
            "variant": variant,
            "layer": f"{place}. {spectrum.layer}",
            "mode": mode,
            "eigenvalue": eigenvalue,
            "power": power,
        }
        for variant in ("original", "init")
        for place, spectrum in enumerate(_spectra(record, variant), start=1)
        for mode, (eigenvalue, power) in enumerate(
            zip(spectrum.eigenvalues, spectrum.power, strict=True), start=1
        )
    ]
    if not rows:
        return
    table = pd.DataFrame(rows)
    report.tables[file] = table
    report.charts[file] = curve_panels(
        _first_panels(table),
        "mode",
        "power",
        "layer",
        title=name,
        subtitle="power gamma of each mode, from low to high frequency; dotted: at initialisation",
        x_title="mode",
        y_title="gamma",
        columns=4,
        side=180,
    )


_MOST_PANELS = 12


def _first_panels(table: pd.DataFrame) -> pd.DataFrame:
    """Layers spread evenly over depth, where there are too many to draw."""
    layers = list(dict.fromkeys(table["layer"]))
    if len(layers) <= _MOST_PANELS:
        return table
    last = len(layers) - 1
    kept = {layers[round(i * last / (_MOST_PANELS - 1))] for i in range(_MOST_PANELS)}
    chosen: pd.DataFrame = table[table["layer"].isin(kept)]
    return chosen


def _frequencies(report: Report, records: list[Named]) -> None:
    rows = [
        {
            "network": name,
            "variant": variant,
            "layer": place,
            "name": spectrum.layer,
            "mean_frequency": spectrum.mean_frequency,
            "constant_share": spectrum.low_frequency_share,
        }
        for name, record in records
        for variant in ("original", "init")
        for place, spectrum in enumerate(_spectra(record, variant), start=1)
    ]
    if not rows:
        return
    table = pd.DataFrame(rows)
    report.tables["frequency"] = table
    report.charts["frequency"] = curve_panels(
        table,
        "layer",
        "mean_frequency",
        "network",
        title="Mean frequency of the filters by layer",
        subtitle="power-weighted mean eigenvalue of the grid Laplacian; dotted: at initialisation",
        x_title="convolution",
        y_title="mean frequency",
        log=False,
    )


# ---- claims


def _of_cifar10(records: list[Named], likely: str) -> list[Claim]:
    source = "Section 2, Fig. 4 first row"
    return [
        Claim(
            "fig4.cifar10-middle",
            "on CIFAR-10 the filters of layers 2 to 6 become low-frequency",
            source,
            "mean over layers 2 to 6 of log(mean frequency trained / at initialisation)",
            NEGATIVE,
            tuple(Part(name, _mean_change(record, MIDDLE)) for name, record in records),
            likely,
        ),
        Claim(
            "fig4.cifar10-ends",
            "those of layers 1, 7 and 8 do not",
            source,
            "the same over layers 1, 7 and 8, less that over layers 2 to 6",
            POSITIVE,
            tuple(Part(name, _ends_less_middle(record)) for name, record in records),
            likely,
        ),
    ]


def _of_imagenet(records: list[Named]) -> Claim:
    return Claim(
        "fig4.imagenet",
        "on ImageNet the filters of all layers but the first become low-frequency",
        "Section 2, Fig. 4 second row",
        "log(mean frequency trained / at initialisation), the largest of layers 2 and on",
        NEGATIVE,
        tuple(Part(name, max(_changes(record)[1:])) for name, record in records),
    )


def _of_scale1(records: list[Named], likely: str) -> list[Claim]:
    source = "Section 3, Fig. 4 third row"
    return [
        Claim(
            "fig4.scale1-constant",
            "on scale detection the constant mode has most of the power of layers 1 to 7",
            source,
            f"its share, averaged over layers 1 to 7; most: above {MOST:g}",
            (MOST, math.inf),
            tuple(Part(name, _share(record, "original")) for name, record in records),
            likely,
        ),
        Claim(
            "fig4.scale1-grows",
            "and it grows over training",
            source,
            "its share trained over that at initialisation",
            (1.0, math.inf),
            tuple(
                Part(name, _share(record, "original") / _share(record, "init")) for name, record in records
            ),
            likely,
        ),
    ]


def _spectra(record: Record, variant: str) -> list[Spectrum]:
    """The convolutions that have a spectrum before and after training."""
    found: list[Spectrum] = next((s for name, s in record.spectra.items() if name == variant), [])
    return [spectrum for spectrum in found if spectrum.power]


def _changes(record: Record) -> list[float]:
    """log(mean frequency trained / at initialisation) of each convolution."""
    pairs = zip(_spectra(record, "original"), _spectra(record, "init"), strict=True)
    return [math.log(a.mean_frequency / b.mean_frequency) for a, b in pairs]  # type: ignore[operator]


def _mean_change(record: Record, layers: Sequence[int]) -> float:
    return _mean([change for k, change in enumerate(_changes(record), start=1) if k in layers])


def _ends_less_middle(record: Record) -> float:
    changes = _changes(record)
    ends = [change for k, change in enumerate(changes, start=1) if k not in MIDDLE]
    return _mean(ends) - _mean_change(record, MIDDLE)


def _share(record: Record, variant: str) -> float:
    shares = [s.low_frequency_share or 0.0 for s in _spectra(record, variant)]
    return _mean([share for k, share in enumerate(shares, start=1) if k in FIRST])


def _mean(values: list[float]) -> float:
    return sum(values) / len(values)


def _short(name: str) -> str:
    """`CIFAR-10, vgg11_bn 12` -> `vgg11_bn-12`: for file names."""
    return "-".join(name.partition(", ")[2].replace(",", "").split())
