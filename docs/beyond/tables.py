"""The tables of docs/beyond.md from the records beside this file: a block `<!-- beyond: NAME -->` each."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
from scipy.stats import pearsonr

from timm_diffsens.results.numbers import significant, with_error
from timm_diffsens.results.records.frames import readable_name
from timm_diffsens.results.records.store import iter_records
from timm_diffsens.results.report.markdown import table, text
from timm_diffsens.results.stats.families import FEWEST_FAMILIES, jackknife_rho, leave_families_out
from timm_diffsens.results.stats.resampling import weighted_fits
from timm_diffsens.results.stats.sizes import sizes_of
from timm_diffsens.schema.families import family_of
from timm_diffsens.schema.layers import LayerSensitivity
from timm_diffsens.schema.protocol import delta_text
from timm_diffsens.schema.records import Record

HERE = Path(__file__).resolve().parent
PLACES = {"output": -1, "before the classifier": -2}  # among the measured blocks
COMPONENTS = ("max-entropy", "translation", "rotation", "dilation", "shear")


def records() -> list[Record]:
    """Those that were measured, by data set and name."""
    found = [record for _, record in iter_records(HERE / "records") if isinstance(record, Record)]
    return sorted(found, key=lambda record: (record.data.spec, readable_name(record)))


def components() -> str:
    """R of each component at equal rms, at every stage, and at the output with the channels shuffled."""
    rows = []
    for record in records():
        own = record.protocol.delta
        views = {view.protocol.deformation: view for view in record.views() if view.protocol.delta == own}
        for place, layer in enumerate(record.variants["original"]):
            cells = [_r(views[name].variants["original"][place]) for name in COMPONENTS]
            rows.append([text(readable_name(record)), text(layer.layer), *cells])
        cells = [_r(views[name].variants["channel-shuffled"][-1]) for name in COMPONENTS]
        rows.append([text(readable_name(record)), "output, channels shuffled", *cells])
    return table(["network", "layer", "field", *COMPONENTS[1:]], rows, first=2)


def sizes() -> str:
    """R against delta at the first stage and at the output, and in the limit."""
    rows, deltas = [], []
    for record in records():
        by_delta = {view.protocol.delta: view for _, view in sizes_of(record)}
        deltas = sorted(by_delta)
        for place in (0, -1):
            layer = record.variants["original"][place]
            cells = [significant(by_delta[delta].variants["original"][place].r) for delta in deltas]
            limit = limit_of(record).variants["original"][place]
            rows.append([text(readable_name(record)), text(layer.layer), significant(limit.r), *cells])
    return table(["network", "layer", "limit", *(f"{delta:g} px" for delta in deltas)], rows, first=2)


def limits() -> str:
    """R0 beside R at the smallest size, with the difference of their logarithms in standard errors."""
    rows = []
    for record in records():
        _, smallest = sizes_of(record)[0]
        for place, layer in enumerate(record.variants["original"]):
            limit = limit_of(record).variants["original"][place]
            small = smallest.variants["original"][place]
            gap = "-"
            if limit.r and small.r:
                error = ((limit.r_stderr / limit.r) ** 2 + (small.r_stderr / small.r) ** 2) ** 0.5
                gap = f"{100 * (limit.r / small.r - 1):+.1f} % ({100 * error:.1f} %)"
            rows.append([text(readable_name(record)), text(layer.layer), _r(limit), _r(small), gap])
    head = ["network", "layer", "R0", "R at the smallest size", "R0 above it (error, unpaired)"]
    return table(head, rows, first=2)


def equivariance() -> str:
    """E_k of the stages that have a map."""
    rows = []
    for record in records():
        for name, values in record.equivariance.items():
            for place, layer in enumerate(record.variants[name]):
                if values.r[place] is not None:
                    e = with_error(values.r[place], values.r_stderr[place])
                    shape = " x ".join(map(str, layer.shape))
                    rows.append([text(readable_name(record)), name, text(layer.layer), shape, e])
    return table(["network", "variant", "layer", "shape", "E"], rows, first=4)


def boards() -> str:
    """rho of the test error with D, G, R of the ImageNet board at each size, at and before the output."""
    rows = []
    for size, views in _by_size(imagenet()):
        for where, place in PLACES.items():
            cells = [_rho(views, name, place) for name in ("d", "g", "r")]
            rows.append([size, where, str(len(views)), *cells])
    return table(["delta", "layer", "networks", "D", "G", "R"], rows, first=2)


def parts_of_board() -> str:
    """rho of the test error with R for parts of the ImageNet board, at the output and before it."""
    kept: dict[str, Callable[[Record], bool]] = {
        "all": lambda record: True,
        "without SqueezeNet": lambda record: family_of(record.model) != "squeezenet",
        "without MobileNetV1": lambda record: family_of(record.model) != "mobilenetv1",
        "224 pixels": lambda record: record.model.input.height == 224,
        "dequantised": lambda record: _dequantised(record),
        "not dequantised": lambda record: not _dequantised(record),
    }
    rows = []
    for name, keep in kept.items():
        some = [record for record in imagenet() if keep(record)]
        families = len({family_of(record.model) for record in some})
        cells = [_rho(views, "r", place) for _, views in _by_size(some)[:2] for place in PLACES.values()]
        rows.append([name, f"{len(some)} of {families}", *cells])
    head = [f"{size}, {where}" for size, _ in _by_size(imagenet())[:2] for where in PLACES]
    return table(["networks", "of families", *head], rows)


def imagenet() -> list[Record]:
    """The records of the ImageNet board."""
    found = iter_records(HERE.parents[1] / "leaderboard" / "records" / "imagenet")
    records = [record for _, record in found if isinstance(record, Record)]
    return [record for record in records if record.protocol.reference_side is not None]


def _by_size(records: list[Record]) -> list[tuple[str, list[Record]]]:
    """Each size of the records, with them under it."""
    views = zip(*(record.views() for record in records), strict=True)
    return [(delta_text(one[0].protocol.delta, one[0].protocol.reference_side), list(one)) for one in views]


def _dequantised(record: Record) -> bool:
    return ".q" in (record.model.weights.detail or "")


def _rho(records: list[Record], measure: str, place: int) -> str:
    """Correlation of the logarithms of test error and measure, and its interval over families."""
    layers = [record.variants["original"][place] for record in records]
    x = np.log([[getattr(layer, measure)] for layer in layers])
    y = np.log([record.test_error.value for record in records])
    families = np.array([family_of(record.model) for record in records])
    if len(set(families)) < FEWEST_FAMILIES:
        return f"{pearsonr(x[:, 0], y).statistic:.2f}"
    found = jackknife_rho(weighted_fits(x, y, leave_families_out(families)).pearson[:, 0])
    return f"{found.value:.2f} ({found.low:.2f} to {found.high:.2f})"


def limit_of(record: Record) -> Record:
    """The record in the limit of small deformations."""
    return next(view for view in record.views() if view.protocol.deformation.endswith("small limit"))


def _r(layer: LayerSensitivity) -> str:
    return with_error(layer.r, layer.r_stderr)


BLOCKS = {
    "components": components,
    "sizes": sizes,
    "limits": limits,
    "equivariance": equivariance,
    "boards": boards,
    "parts": parts_of_board,
}
