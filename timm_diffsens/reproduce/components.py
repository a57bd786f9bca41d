"""The second premise of Section 2: R_k by component of the displacement, as trained and channel-shuffled.

How far R_K with the channels shuffled is below R_1 is lost by spatial pooling, how far R_K as trained is
below that again by channel pooling:

    log(R_1 / R_K) = log(R_1 / R_K shuffled) + log(R_K shuffled / R_K),

with R_1 as trained throughout.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from timm_diffsens.perturb.components import COMPONENTS, Shear
from timm_diffsens.perturb.diffeo import Diffeo
from timm_diffsens.perturb.fields import DisplacementFields
from timm_diffsens.perturb.streams import Streams
from timm_diffsens.reproduce.claims import Finding, Numbers, region_of
from timm_diffsens.reproduce.curves import by_augmentation, ends_of
from timm_diffsens.reproduce.depth import of_recipes
from timm_diffsens.reproduce.panels import Panels
from timm_diffsens.reproduce.reports import Report
from timm_diffsens.reproduce.workspace import Workspace, reporting_missing
from timm_diffsens.results.records.frames import layers_frame
from timm_diffsens.results.records.per_image import PerImage, read_per_image
from timm_diffsens.results.records.store import record_path
from timm_diffsens.results.report.theme import numbered_looks
from timm_diffsens.results.stats.contrasts import Contrast, Term, contrast
from timm_diffsens.results.stats.paired import LEVEL
from timm_diffsens.schema.records import Record

VARIANTS = ("original", "channel-shuffled")
FIELD = "max-entropy"  # the paper's
OTHERS = COMPONENTS[1:]  # than the translation
PARTS = ("in all", "by spatial pooling", "by channel pooling")
_GROUP = "cifar10-components"
_PATCH, _DRAWS = 3, 1000
_COLUMNS = ["network", "deformation", "part", "value", "value_stderr", "low", "high"]
_NOTE = (
    "R_k falls to the last convolution by log(R_1 / R_K) in all: by log(R_1 / R_K shuffled) for spatial "
    "pooling, which shuffling keeps, and by log(R_K shuffled / R_K) for channel pooling; R_1 is that of the "
    "network as trained in all three. "
    "Errors are paired over images and shuffles."
)
# Why a verdict may differ, at any scale.
_ALIKE = (
    "tested: for a patch of 3 x 3 pixels all components are translations but for {linear:.1%} of their square"
)
_WHY = {
    "others-more": _ALIKE,
    "between": f"{_ALIKE}, the field but for {{field:.1%}}, and the field alone leaves the border as it is",
}

FIRST, LAST = 0, 1  # convolution
Signed = list[tuple[float, int, str, str]]  # weight, FIRST or LAST, variant, deformation


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

    def sum_of(self, signed: Signed, level: float = LEVEL) -> Contrast | None:
        """The sum of log R with these weights; None where there are no two convolutions with R.

        `level` as for `contrast`.
        """
        ends = ends_of(self.record, "r")
        if ends is None:
            return None
        terms = [
            Term(weight, variant, self.pairs[name], ends[end].index) for weight, end, variant, name in signed
        ]
        return contrast(self.record, self.distances, terms, level)

    def finding(self, of: str, signed: Signed) -> Finding:
        """The same as a part of a claim."""
        name, found = f"{self.name}, {of}", self.sum_of(signed)
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
        numbers = component_numbers(networks)
        report.judge(numbers, _why(workspace, networks, numbers))
        report.notes.append(_NOTE)
    return report


def _why(workspace: Workspace, networks: Sequence[Measured], numbers: Numbers) -> dict[str, str]:
    """What was tested of each claim: what the components are in a patch, and what augmentation changes."""
    shares = {"linear": local_share(Shear()), "field": local_share(Diffeo())}
    named, why = [(one.name, one.record) for one in networks], {}
    for key, parts in numbers.items():
        tested = [_WHY[key].format(**shares)] if key in _WHY else []
        tested.append(by_augmentation(named, parts, region_of(f"components.{key}")))
        why[key] = "; ".join(filter(None, [*tested, workspace.settings.caveat("components")]))
    return why


def component_numbers(networks: Iterable[Measured]) -> Numbers:
    """How R falls over depth under each component, and what of that shuffling takes away."""
    keys = ("falls", "between", "translation-spatial", "others-channel", "others-more")
    numbers: Numbers = {key: [] for key in keys}
    for one in networks:
        numbers["falls"] += [one.finding(name, fall("original", name)) for name in COMPONENTS]
        numbers["between"] += _between(one)
        spatial = one.finding("translation", fall("channel-shuffled", "translation"))
        numbers["translation-spatial"].append(spatial)
        numbers["others-channel"] += [one.finding(name, taken(name)) for name in OTHERS]
        less = taken("translation", -1)
        numbers["others-more"] += [one.finding(name, taken(name) + less) for name in OTHERS]
    return numbers


def fall(variant: str, deformation: str) -> Signed:
    """log(R_1 / R_K) with R_K of the variant, R_1 as trained."""
    return [(1, FIRST, "original", deformation), (-1, LAST, variant, deformation)]


def taken(deformation: str, weight: float = 1) -> Signed:
    """log(R_K shuffled / R_K): by channel pooling."""
    return [(weight, LAST, "channel-shuffled", deformation), (-weight, LAST, "original", deformation)]


def _parts(deformation: str) -> list[Signed]:
    """Those of `PARTS`."""
    return [fall("original", deformation), fall("channel-shuffled", deformation), taken(deformation)]


def _between(one: Measured) -> list[Finding]:
    """The field against the components with the largest and the smallest R_K."""
    return [_furthest(one, "{} over field", 1), _furthest(one, "field over {}", -1)]


def _furthest(one: Measured, of: str, sign: int) -> Finding:
    """The largest over components of `sign` times log(R_K / R_K of the field).

    Which component it is, the same data say, so its own interval would lie too high. The lower end is the
    largest of all four, each with a fourth of the error (Bonferroni). The upper end is the largest of all
    four with the whole error, as it is too low only where that of the truly largest component is.
    """
    found: dict[str, Contrast] = {}
    for name in COMPONENTS:
        signed: Signed = [(sign, LAST, "original", name), (-sign, LAST, "original", FIELD)]
        plain, strict = one.sum_of(signed), one.sum_of(signed, 1 - (1 - LEVEL) / len(COMPONENTS))
        if plain is None or strict is None or math.isnan(strict.low):
            return one.finding(of.format(name), signed)  # which says why there is none
        found[name] = plain._replace(low=strict.low)
    most = max(found, key=lambda name: found[name].value)
    low, high = (max(getattr(each, end) for each in found.values()) for end in ("low", "high"))
    return Finding.of(f"{one.name}, {of.format(most)}", found[most].value, low, high)


def _measured(workspace: Workspace) -> list[Measured]:
    how = {
        "layers": "convs",
        "variants": VARIANTS,
        "shuffles": workspace.settings.few_copies,
        "components": True,
    }
    found = of_recipes(workspace, _GROUP, "CIFAR-10", workspace.settings.components, how)
    folder = workspace.records_of(_GROUP) / "records"
    return [
        Measured(name, record, read_per_image(record_path(folder, record), record)) for name, record in found
    ]


def local_share(deformation: DisplacementFields, side: int = 32, patch: int = _PATCH) -> float:
    """The mean square of displacements less that of each patch's own mean, over their mean square.

    Of fields that are linear on the whole image it is (patch^2 - 1) / (side^2 - 1).
    """
    fields = deformation.displacement(_DRAWS, (side, side), Streams(0, "local share", range(_DRAWS)))
    patches = fields.unfold(2, patch, 1).unfold(3, patch, 1)
    within = patches.var(dim=(-2, -1), unbiased=False).mean()
    return float(within / fields.square().mean())


# ---- what is shown


def _draw(report: Report, networks: list[Measured]) -> None:
    alike = f"{FIELD}: the field of the paper; bars: one standard error"
    depth = _by_layer(networks)
    lines = depth.assign(panel=depth["network"] + ", " + depth["variant"], variant=depth["deformation"])
    axes = ("depth", "relative depth"), ("r", "R_k")
    curves = Panels(*axes, "panel", "R_k against relative depth, by component", alike, log=True, columns=2)
    report.show("depth", depth, curves.curves(lines, numbered_looks([FIELD, *COMPONENTS])))
    last = depth[depth["layer"] == "output"]
    axes = ("deformation", ""), ("r", "R at the output")
    at_output = Panels(*axes, "network", "R at the output, by component", alike, log=True, columns=2)
    report.show("output", last, at_output.points(last))
    pooling = _by_pooling(networks)
    axes = ("deformation", ""), ("value", "log(R_1 / R_K)")
    split = Panels(*axes, "network", "How far R_k falls to the last convolution", alike, columns=2)
    report.show(
        "pooling", pooling, split.points(pooling.assign(variant=pooling["part"]), numbered_looks(PARTS))
    )


def _by_layer(networks: list[Measured]) -> pd.DataFrame:
    """R of every layer, variant and deformation."""
    whole = pd.concat([layers_frame([one.record]).assign(network=one.name) for one in networks])
    columns = ["network", "variant", "deformation", "layer", "index", "depth", "r", "r_stderr"]
    table: pd.DataFrame = whole[columns].reset_index(drop=True)
    return table


def _by_pooling(networks: list[Measured]) -> pd.DataFrame:
    """What there is of `PARTS` under each deformation, with errors and 95 % intervals."""
    rows: list[dict[str, Any]] = []
    for one in networks:
        for name in (FIELD, *COMPONENTS):
            for part, signed in zip(PARTS, _parts(name), strict=True):
                found = one.sum_of(signed)
                if found is not None:
                    place = {"network": one.name, "deformation": name, "part": part}
                    value, stderr, low, high = found
                    rows.append(place | {"value": value, "value_stderr": stderr, "low": low, "high": high})
    table: pd.DataFrame = pd.DataFrame(rows, columns=_COLUMNS)
    return table
