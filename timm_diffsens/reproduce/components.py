"""The second premise of Section 2: R_k by component of the displacement, as trained and channel-shuffled.

A curve that falls with the channels as trained, and still with them shuffled, falls by spatial pooling; what
falls with the channels as trained alone falls by channel pooling:

    log(R_1 / R_K) = log(R_1 / R_K), shuffled + what shuffling takes away.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from timm_diffsens.perturb.components import COMPONENTS, Shear
from timm_diffsens.perturb.diffeo import Diffeo
from timm_diffsens.perturb.fields import DisplacementFields
from timm_diffsens.perturb.streams import Streams
from timm_diffsens.reproduce.claims import Finding, Numbers
from timm_diffsens.reproduce.depth import ends_of, of_recipes
from timm_diffsens.reproduce.panels import Panels
from timm_diffsens.reproduce.reports import Report
from timm_diffsens.reproduce.workspace import Workspace, reporting_missing
from timm_diffsens.results.records.frames import layers_frame
from timm_diffsens.results.records.per_image import PerImage, read_per_image
from timm_diffsens.results.records.store import record_path
from timm_diffsens.results.stats.contrasts import Contrast, Term, contrast
from timm_diffsens.schema.records import Record

VARIANTS = ("original", "channel-shuffled")
FIELD = "max-entropy"  # the paper's
OTHERS = COMPONENTS[1:]  # than the translation
QUANTITIES = ("fall", "kept when shuffled", "taken by shuffling")
_GROUP = "cifar10-components"
_PATCH, _DRAWS = 3, 1000
# Why a verdict may differ, at any scale.
_ALIKE = "for a patch of 3 x 3 pixels all components are translations but for {linear:.1%} of their square"
_WHY = {
    "others-more": _ALIKE,
    "between": f"{_ALIKE}, the field but for {{field:.1%}}, and the field alone leaves the border as it is",
}
_RATIO = "log(R_1 / R_K), K the last convolution"

Signed = list[tuple[float, str, str]]  # weight, variant, deformation


@dataclass(frozen=True)
class Measured:
    """A network under all components.

    Attributes:
        name: the data and the network. record: with the components as further deformations.
        distances: of its single images.
    """

    name: str
    record: Record
    distances: PerImage

    @cached_property
    def pairs(self) -> dict[str, int]:
        """Deformation -> its place among those of the record."""
        return {view.protocol.deformation: k for k, view in enumerate(self.record.views())}

    def falls(self, signed: Signed) -> Contrast | None:
        """The sum of log(R_1 / R_K) with these weights; None where there are no two convolutions with R."""
        ends = ends_of(self.record, "r")
        if ends is None:
            return None
        terms = [
            Term(sign * weight, variant, self.pairs[deformation], layer.index)
            for weight, variant, deformation in signed
            for sign, layer in zip((1, -1), ends, strict=True)
        ]
        return contrast(self.record, self.distances, terms)

    def finding(self, of: str, signed: Signed) -> Finding:
        """The same as a part of a claim."""
        name, found = f"{self.name}, {of}", self.falls(signed)
        if found is None:
            return Finding(name, None, reason="first or last convolution without R")
        return Finding.of(name, found.value, found.low, found.high, "a layer without R, or one copy")


def components(workspace: Workspace) -> Report:
    """R_k of translation, rotation, dilation and shear beside the field, and what shuffling changes."""
    title = "R_k by component of a displacement, of equal rms: as trained and channel-shuffled"
    report = Report("components", title)
    networks: list[Measured] = []
    with reporting_missing(report.missing):
        networks += _measured(workspace)
    if networks:
        _draw(report, networks)
        likely = workspace.settings.likely("components")
        numbers = component_numbers(networks)
        shares = {"linear": local_share(Shear()), "field": local_share(Diffeo())}
        for key, parts in numbers.items():
            report.judge({key: parts}, _WHY[key].format(**shares) if key in _WHY else likely)
    return report


def component_numbers(networks: Iterable[Measured]) -> Numbers:
    """How R falls over depth under each component, and what of that shuffling takes away."""
    numbers: Numbers = {
        key: [] for key in ("falls", "between", "translation-spatial", "others-channel", "others-more")
    }
    for one in networks:
        numbers["falls"] += [one.finding(name, fall(name)) for name in COMPONENTS]
        numbers["between"] += _between(one)
        numbers["translation-spatial"].append(one.finding("translation", kept("translation")))
        numbers["others-channel"] += [one.finding(name, taken(name)) for name in OTHERS]
        less = taken("translation", -1)
        numbers["others-more"] += [one.finding(name, taken(name) + less) for name in OTHERS]
    return numbers


def fall(deformation: str) -> Signed:
    """Of the network as trained."""
    return [(1, "original", deformation)]


def kept(deformation: str) -> Signed:
    """By spatial pooling alone."""
    return [(1, "channel-shuffled", deformation)]


def taken(deformation: str, weight: float = 1) -> Signed:
    """By channel pooling."""
    return [(weight, "original", deformation), (-weight, "channel-shuffled", deformation)]


def _between(one: Measured) -> list[Finding]:
    """The field against the components that fall least and most."""
    falls = {name: found.value for name in COMPONENTS if (found := one.falls(fall(name))) is not None}
    if not falls:
        return [one.finding("field", fall(FIELD))]
    least, most = min(falls, key=falls.__getitem__), max(falls, key=falls.__getitem__)
    return [
        one.finding(f"field less {least}", [(1, "original", FIELD), (-1, "original", least)]),
        one.finding(f"{most} less field", [(1, "original", most), (-1, "original", FIELD)]),
    ]


def _measured(workspace: Workspace) -> list[Measured]:
    how = {"layers": "convs", "variants": VARIANTS, "shuffles": workspace.settings.copies, "components": True}
    found = of_recipes(workspace, _GROUP, "CIFAR-10", workspace.settings.components, how)
    folder = workspace.records_of(_GROUP) / "records"
    return [
        Measured(name, record, read_per_image(record_path(folder, record), record)) for name, record in found
    ]


def local_share(deformation: DisplacementFields, side: int = 32, patch: int = _PATCH) -> float:
    """The share of a displacement's mean square that is no translation of the patch that it is in.

    Of fields that are linear on the whole image it is (patch^2 - 1) / (side^2 - 1), if patches tile it.
    """
    fields = deformation.displacement(_DRAWS, (side, side), Streams(0, "local share", range(_DRAWS)))
    patches = fields.unfold(2, patch, patch).unfold(3, patch, patch)
    within = patches.var(dim=(-2, -1), unbiased=False).mean() / patches.square().mean()
    return float(within)


# ---- what is shown


def _draw(report: Report, networks: list[Measured]) -> None:
    alike = f"{FIELD}: the field of the paper; bars: one standard error"
    depth = _by_layer(networks)
    lines = depth.assign(panel=depth["network"] + ", " + depth["variant"], variant=depth["deformation"])
    axes = ("depth", "relative depth"), ("r", "R_k")
    curves = Panels(*axes, "panel", "R_k against relative depth, by component", alike, log=True, columns=2)
    report.show("depth", depth, curves.curves(lines))
    last = depth[depth["layer"] == "output"]
    axes = ("deformation", ""), ("r", "R at the output")
    at_output = Panels(*axes, "network", "R at the output, by component", alike, log=True, columns=2)
    report.show("output", last, at_output.points(last))
    pooling = _by_pooling(networks)
    axes = ("deformation", ""), ("value", _RATIO)
    split = Panels(*axes, "network", "The fall of R_k, and what of it shuffling takes away", alike, columns=2)
    report.show("pooling", pooling, split.points(pooling.assign(variant=pooling["quantity"])))


def _by_layer(networks: list[Measured]) -> pd.DataFrame:
    """R of every layer, variant and deformation."""
    whole = pd.concat([layers_frame([one.record]).assign(network=one.name) for one in networks])
    columns = ["network", "variant", "deformation", "layer", "index", "depth", "r", "r_stderr"]
    table: pd.DataFrame = whole[columns].reset_index(drop=True)
    return table


def _by_pooling(networks: list[Measured]) -> pd.DataFrame:
    """What there is of `QUANTITIES` under each deformation, with errors and 95 % intervals."""
    rows: list[dict[str, Any]] = []
    for one in networks:
        for name in (FIELD, *COMPONENTS):
            for quantity, signed in zip(QUANTITIES, (fall(name), kept(name), taken(name)), strict=True):
                found = one.falls(signed)
                if found is not None:
                    place = {"network": one.name, "deformation": name, "quantity": quantity}
                    value, stderr, low, high = found
                    rows.append(place | {"value": value, "value_stderr": stderr, "low": low, "high": high})
    table: pd.DataFrame = pd.DataFrame(rows)
    return table
