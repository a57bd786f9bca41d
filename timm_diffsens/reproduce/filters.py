"""Figs 4, 12, 13 and 14: how the filters of each layer are spread over spatial frequencies."""

import math
from collections.abc import Callable, Iterator, Sequence
from statistics import fmean

import pandas as pd

from timm_diffsens.reproduce.claims import Finding, Numbers
from timm_diffsens.reproduce.curves import Named
from timm_diffsens.reproduce.depth import (
    caveat_of,
    cifar10_records,
    imagenet_records,
    pooling_records,
    without_decay,
)
from timm_diffsens.reproduce.panels import Panels
from timm_diffsens.reproduce.reports import Report
from timm_diffsens.reproduce.workspace import Workspace
from timm_diffsens.results.report.theme import spread_out
from timm_diffsens.schema.layers import Spectrum
from timm_diffsens.schema.records import Record

MIDDLE = range(2, 7)  # the layers of VGG11 that become low-frequency on CIFAR-10, numbered from 1
FIRST = range(1, 8)  # those in which the constant mode dominates on scale detection
_MOST_PANELS = 12  # a network; layers spread evenly over depth
_DOTTED = "dotted: at initialisation"


def figure_4(workspace: Workspace) -> Report:
    """Power of each mode, layer by layer, of VGG11 with and without batch-norm."""
    report = Report("fig4", "Filter power by spatial frequency: VGG11 on CIFAR-10, ImageNet, scale detection")
    cifar10, imagenet, scale1 = _vggs(workspace, report)
    for word, records, numbers_of in (
        ("cifar10", cifar10, cifar10_numbers),
        ("imagenet", imagenet, imagenet_numbers),
        ("scale1", scale1, scale1_numbers),
    ):
        if records:
            _modes(report, records, f"{word}-")
            caveat, tested = caveat_of(workspace, records), _tested(workspace, word, records)
            why = {key: "; ".join(filter(None, (tested.get(key, ""), caveat))) for key in numbers_of(records)}
            report.judge(numbers_of(records), why)
    return report


def _tested(workspace: Workspace, word: str, records: Named) -> dict[str, str]:
    """What is known of why the numbers of a row of Fig. 4 are as they are."""
    if word == "cifar10":
        return {
            "cifar10-middle": by_kind(records, lambda k: k in MIDDLE),
            "cifar10-ends": by_kind(records, lambda k: k not in MIDDLE),
        }
    if word == "scale1":
        tested = without_decay(workspace, _mean_share)
        return {
            f"scale1-{key}": tested.replace(" it is", " its mean share over these layers is")
            for key in ("largest", "most")
        }
    return {}


def by_kind(records: Named, chosen: Callable[[int], bool]) -> str:
    """`tested: its mean over these layers is -0.11 without batch-norm and augmentation, ...`, by kind."""
    kinds: dict[str, list[float]] = {}
    for name, record in records:
        training = (record.model.recipe or {}).get("training") or {}
        norm, augmented = "_bn" in name, training.get("augment")
        kind = f"{'with' if norm else 'without'} batch-norm, {'' if augmented else 'not '}augmented"
        kinds.setdefault(kind, []).extend(
            value for k, value in _by_layer(record) if chosen(k) and value is not None
        )
    means = [f"{fmean(values):.2f} {kind}" for kind, values in kinds.items() if values]
    return f"tested: its mean over these layers is {'; '.join(means)}" if len(means) > 1 else ""


def _mean_share(name: str, record: Record) -> Finding:
    """Of the constant mode in the power of all, over the first layers."""
    shares = [
        spectrum.power[0] / sum(spectrum.power)
        for _, k, spectrum in _spectra(record, ["original"])
        if k in FIRST
    ]
    return Finding(name, fmean(shares) if shares else None, reason="no spectra")


def figure_12(workspace: Workspace) -> Report:
    """The mean frequency of each layer of the same networks."""
    report = Report("fig12", "Mean frequency of the filters by layer: VGG11")
    records = [named for found in _vggs(workspace, report) for named in found]
    _frequencies(report, records)
    parts = [_mean_change(name, record) for name, record in records]
    tested = by_kind([named for named in records if named[0].startswith("CIFAR-10")], lambda k: k > 1)
    report.judge({"lower": parts}, "; ".join(filter(None, (tested, caveat_of(workspace, records)))))
    return report


def figure_13(workspace: Workspace) -> Report:
    """Other architectures on CIFAR-10."""
    report = Report("fig13", "Filter power by spatial frequency: other architectures on CIFAR-10")
    records = cifar10_records(workspace, report, workspace.settings.more)
    return _others(report, records) if records else report


def figure_14(workspace: Workspace) -> Report:
    """Other architectures on ImageNet."""
    report = Report("fig14", "Filter power by spatial frequency: other architectures on ImageNet")
    return _others(report, imagenet_records(workspace, report, workspace.settings.more_imagenet))


def _others(report: Report, records: Named) -> Report:
    _modes(report, records)
    _frequencies(report, records)
    report.notes.append(
        "Figs 13 and 14 are named in the paper's text, without a caption; shown is what Fig. 4 shows."
    )
    return report


def _vggs(workspace: Workspace, report: Report) -> tuple[Named, Named, Named]:
    """The records on CIFAR-10, ImageNet and scale detection, as far as there are any."""
    settings = workspace.settings
    cifar10 = cifar10_records(workspace, report, settings.depth)
    return cifar10, imagenet_records(workspace, report, settings.imagenet), pooling_records(workspace)


# ---- pictures


def _spectra(
    record: Record, variants: Sequence[str] = ("original", "init")
) -> Iterator[tuple[str, int, Spectrum]]:
    """Variant, number from 1, and spectrum of the convolutions that have one."""
    for variant in variants:
        found = [spectrum for spectrum in record.spectra.get(variant, []) if spectrum.power]
        yield from ((variant, place, spectrum) for place, spectrum in enumerate(found, start=1))


def _modes(report: Report, records: Named, prefix: str = "") -> None:
    """A figure a network, with a panel a layer."""
    subtitle = f"power gamma of each mode, from low to high frequency; {_DOTTED}"
    for name, record in records:
        rows = [
            {"network": name, "variant": variant, "layer": f"{place}. {spectrum.layer}"}
            | {"mode": mode, "eigenvalue": eigenvalue, "power": power}
            for variant, place, spectrum in _spectra(record)
            for mode, (eigenvalue, power) in enumerate(
                zip(spectrum.eigenvalues, spectrum.power, strict=True), start=1
            )
        ]
        if rows:
            table = pd.DataFrame(rows)
            panels = Panels(
                ("mode", "mode"), ("power", "gamma"), "layer", name, subtitle, log=True, columns=4, side=180
            )
            layers = table["layer"].unique()
            drawn = table["layer"].isin(layers[spread_out(len(layers), _MOST_PANELS)])
            report.show(prefix + _short(name), table, panels.curves(table[drawn]))


def _frequencies(report: Report, records: Named) -> None:
    rows = [
        {"network": name, "variant": variant, "layer": place, "name": spectrum.layer}
        | {"mean_frequency": spectrum.mean_frequency, "constant_share": spectrum.low_frequency_share}
        for name, record in records
        for variant, place, spectrum in _spectra(record)
    ]
    if rows:
        table = pd.DataFrame(rows)
        axes = ("layer", "convolution"), ("mean_frequency", "mean frequency")
        subtitle = f"power-weighted mean eigenvalue of the grid Laplacian; {_DOTTED}"
        chart = Panels(*axes, "network", "Mean frequency of the filters by layer", subtitle).curves(table)
        report.show("frequency", table, chart)


def _short(name: str) -> str:
    """`CIFAR-10, vgg11_bn 12` -> `vgg11_bn-12`: for file names."""
    return "-".join(name.partition(", ")[2].replace(",", "").split())


# ---- numbers


def cifar10_numbers(records: Named) -> Numbers:
    """The middle layers become low-frequency, the others do not: each layer over the networks."""
    return {
        "cifar10-middle": _over_networks(records, lambda k: k in MIDDLE),
        "cifar10-ends": _over_networks(records, lambda k: k not in MIDDLE),
    }


def imagenet_numbers(records: Named) -> Numbers:
    """All layers but the first become low-frequency."""
    return {
        "imagenet": _changes(records, lambda k: k > 1),
        "imagenet-first": _changes(records, lambda k: k == 1),
    }


def scale1_numbers(records: Named) -> Numbers:
    """The constant mode dominates in the first layers, and does not at initialisation."""
    return {
        "scale1-largest": _of_modes(records, "original", lambda power: power[0] / max(power[1:])),
        "scale1-most": _of_modes(records, "original", lambda power: power[0] / sum(power)),
        "scale1-not-before": _of_modes(records, "init", lambda power: power[0] / sum(power)),
    }


def _changes(records: Named, chosen: Callable[[int], bool]) -> list[Finding]:
    """log(mean frequency trained / at initialisation) of the layers that are chosen, of each network."""
    reason = "no mean frequency before or after training"
    return [
        Finding(f"{name}, layer {k}", value, reason=reason if value is None else None)
        for name, record in records
        for k, value in _by_layer(record)
        if chosen(k)
    ]


def _over_networks(records: Named, chosen: Callable[[int], bool]) -> list[Finding]:
    """The same of each layer, its mean over networks."""
    layers: dict[int, list[float | None]] = {}
    for _, record in records:
        for k, value in _by_layer(record):
            layers.setdefault(k, []).append(value)
    return [
        Finding.mean(f"layer {k}, {len(values)} networks", values)
        for k, values in layers.items()
        if chosen(k)
    ]


def _by_layer(record: Record) -> Iterator[tuple[int, float | None]]:
    """Number from 1, and log(mean frequency trained / at initialisation)."""
    fresh = {spectrum.layer: spectrum.mean_frequency for _, _, spectrum in _spectra(record, ["init"])}
    for _, k, spectrum in _spectra(record, ["original"]):
        trained, before = spectrum.mean_frequency, fresh.get(spectrum.layer)
        yield k, math.log(trained / before) if trained and before else None


def _mean_change(name: str, record: Record) -> Finding:
    """Over the layers after the first."""
    changes = [part.value for part in _changes([(name, record)], lambda k: k > 1)]
    known = [value for value in changes if value is not None]
    if not known:
        return Finding(name, None, reason="no layer after the first has a spectrum")
    return Finding(name, sum(known) / len(known))


def _of_modes(records: Named, variant: str, number: Callable[[list[float]], float]) -> list[Finding]:
    """A number of the modes' powers, ordered by frequency, of each of the first layers."""
    return [
        Finding(f"{name}, layer {k}", number(list(spectrum.power)))
        for name, record in records
        for _, k, spectrum in _spectra(record, [variant])
        if k in FIRST
    ]
