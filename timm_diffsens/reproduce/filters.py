"""Figs 4, 12, 13 and 14: how the filters of each layer are spread over spatial frequencies."""

import math
from collections.abc import Callable

import pandas as pd

from timm_diffsens.reproduce.claims import NEGATIVE, Claim, Finding
from timm_diffsens.reproduce.depth import cifar10_records, imagenet_record, likely_of, pooling_records
from timm_diffsens.reproduce.panels import curve_panels
from timm_diffsens.reproduce.reports import Report
from timm_diffsens.reproduce.workspace import Workspace, reporting_missing
from timm_diffsens.results.report.theme import spread_out
from timm_diffsens.schema.layers import Spectrum
from timm_diffsens.schema.records import Record

Named = tuple[str, Record]

MIDDLE = range(2, 7)  # the layers of VGG11 that become low-frequency on CIFAR-10, numbered from 1
FIRST = range(1, 8)  # those in which the constant mode dominates on scale detection
MOST = 0.5  # share of the power from which on a mode has most of it
SAME = 0.05  # change of the log of a mean frequency below which filters are called as they were


def figure_4(workspace: Workspace) -> Report:
    """Power of each mode, layer by layer, of VGG11 with and without batch-norm."""
    report = Report("fig4", "Filter power by spatial frequency: VGG11 on CIFAR-10, ImageNet, scale detection")
    cifar10, imagenet, scale1 = _vggs(workspace, report)
    for word, records in (("cifar10", cifar10), ("imagenet", imagenet), ("scale1", scale1)):
        for name, record in records:
            _modes(report, f"{word}-{_short(name)}", name, record)
    caveats = workspace.settings.caveats
    if cifar10:
        report.claims += _of_cifar10(cifar10, caveats.get("cifar10 depth", ""))
    if imagenet:
        report.claims += _of_imagenet(imagenet, caveats.get("imagenet", ""))
    report.claims += _of_scale1(scale1, caveats.get("pooling", ""))
    return report


def figure_12(workspace: Workspace) -> Report:
    """The mean frequency of each layer of the same networks."""
    report = Report("fig12", "Mean frequency of the filters by layer: VGG11")
    records = [named for found in _vggs(workspace, report) for named in found]
    _frequencies(report, records)
    report.claims.append(
        Claim(
            "fig12.lower",
            "filters become low-frequency with training: averaged over layers after the first",
            "Fig. 12",
            "mean over layers of log(mean frequency trained / at initialisation)",
            NEGATIVE,
            tuple(_mean_change(name, record) for name, record in records),
            likely_of(workspace, records),
        )
    )
    return report


def figure_13(workspace: Workspace) -> Report:
    """Other architectures on CIFAR-10."""
    report = Report("fig13", "Filter power by spatial frequency: other architectures on CIFAR-10")
    with reporting_missing(report.missing):
        _others(report, cifar10_records(workspace, workspace.settings.more))
    return report


def figure_14(workspace: Workspace) -> Report:
    """Other architectures on ImageNet."""
    report = Report("fig14", "Filter power by spatial frequency: other architectures on ImageNet")
    found = []
    for model in workspace.settings.more_imagenet:
        with reporting_missing(report.missing):
            found.append(imagenet_record(workspace, model))
    _others(report, found)
    return report


def _others(report: Report, records: list[Named]) -> None:
    for name, record in records:
        _modes(report, _short(name), name, record)
    _frequencies(report, records)
    report.notes.append(
        "Figs 13 and 14 are named in the paper's text, without a caption; shown is what Fig. 4 shows."
    )


def _vggs(workspace: Workspace, report: Report) -> tuple[list[Named], list[Named], list[Named]]:
    """The records on CIFAR-10, ImageNet and scale detection, as far as there are any."""
    cifar10: list[Named] = []
    imagenet: list[Named] = []
    with reporting_missing(report.missing):
        cifar10 = cifar10_records(workspace, workspace.settings.depth)
    for model in workspace.settings.imagenet:
        with reporting_missing(report.missing):
            imagenet.append(imagenet_record(workspace, model))
    return cifar10, imagenet, pooling_records(workspace)


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
    kept = [layers[place] for place in spread_out(len(layers), _MOST_PANELS)]
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
    return _which_fall(
        ("fig4.cifar10-middle", "on CIFAR-10 the filters of layers 2 to 6 become low-frequency"),
        ("fig4.cifar10-ends", "those of layers 1, 7 and 8 do not"),
        "Section 2, Fig. 4 first row",
        records,
        lambda k: k in MIDDLE,
        likely,
    )


def _of_imagenet(records: list[Named], likely: str) -> list[Claim]:
    return _which_fall(
        ("fig4.imagenet", "on ImageNet the filters of all layers but the first become low-frequency"),
        ("fig4.imagenet-first", "those of the first do not"),
        "Section 2, Fig. 4 second row",
        records,
        lambda k: k > 1,
        likely,
    )


def _which_fall(
    low: tuple[str, str],
    others: tuple[str, str],
    source: str,
    records: list[Named],
    chosen: Callable[[int], bool],
    likely: str,
) -> list[Claim]:
    """Two claims (key and statement): the chosen layers become low-frequency, the others do not."""
    number = "log(mean frequency trained / at initialisation) of each of these layers"
    return [
        Claim(*low, source, number, NEGATIVE, _changes(records, chosen), likely),
        Claim(
            *others,
            source,
            f"{number}; do not: above -{SAME:g}",
            (-SAME, math.inf),
            _changes(records, lambda k: not chosen(k)),
            likely,
        ),
    ]


def _of_scale1(records: list[Named], likely: str) -> list[Claim]:
    source = "Section 3, Fig. 4 third row"
    return [
        Claim(
            "fig4.scale1-largest",
            "on scale detection the constant mode grows larger than the others, in layers 1 to 7",
            source,
            "its power over that of the next largest mode, trained, of each layer",
            (1.0, math.inf),
            _of_modes(records, "original", lambda power: power[0] / max(power[1:])),
            likely,
        ),
        Claim(
            "fig4.scale1-most",
            "it has most of the power",
            source,
            f"its share in the power of all modes, trained, of each layer; most: above {MOST:g}",
            (MOST, math.inf),
            _of_modes(records, "original", lambda power: power[0] / sum(power)),
            likely,
        ),
        Claim(
            "fig4.scale1-not-before",
            "which it has not at initialisation",
            source,
            "the same at initialisation",
            (-math.inf, MOST),
            _of_modes(records, "init", lambda power: power[0] / sum(power)),
            likely,
        ),
    ]


def _spectra(record: Record, variant: str) -> list[Spectrum]:
    """The convolutions that have a spectrum."""
    found: list[Spectrum] = next((s for name, s in record.spectra.items() if name == variant), [])
    return [spectrum for spectrum in found if spectrum.power]


def _change(name: str, record: Record, k: int) -> Finding:
    """log(mean frequency trained / at initialisation) of the k-th convolution with a spectrum."""
    trained = _spectra(record, "original")[k - 1]
    fresh = next((s for s in _spectra(record, "init") if s.layer == trained.layer), None)
    if fresh is None or not fresh.mean_frequency or not trained.mean_frequency:
        return Finding(f"{name}, layer {k}", None, reason="no mean frequency before or after training")
    return Finding(f"{name}, layer {k}", math.log(trained.mean_frequency / fresh.mean_frequency))


def _changes(records: list[Named], chosen: Callable[[int], bool]) -> tuple[Finding, ...]:
    """Of the layers k, numbered from 1, that are chosen."""
    parts = []
    for name, record in records:
        count = len(_spectra(record, "original"))
        parts += [_change(name, record, k) for k in range(1, count + 1) if chosen(k)]
    return tuple(parts)


def _mean_change(name: str, record: Record) -> Finding:
    """Over the layers after the first."""
    changes = [part.value for part in _changes([(name, record)], lambda k: k > 1)]
    known = [value for value in changes if value is not None]
    if not known:
        return Finding(name, None, reason="no layer after the first has a spectrum")
    return Finding(name, sum(known) / len(known))


def _of_modes(
    records: list[Named], variant: str, number: Callable[[list[float]], float]
) -> tuple[Finding, ...]:
    """A number of the modes' powers, ordered by frequency, of each of the first layers."""
    return tuple(
        Finding(f"{name}, layer {k}", number(list(spectrum.power)))
        for name, record in records
        for k, spectrum in enumerate(_spectra(record, variant), start=1)
        if k in FIRST
    )


def _short(name: str) -> str:
    """`CIFAR-10, vgg11_bn 12` -> `vgg11_bn-12`: for file names."""
    return "-".join(name.partition(", ")[2].replace(",", "").split())
