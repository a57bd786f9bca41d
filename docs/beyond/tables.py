"""The tables of docs/beyond.md, a block `<!-- beyond: NAME -->` each.

They are from the records beside this file, those of the ImageNet board from the leaderboard's, and what more
was measured of its networks from the folder `imagenet`.
"""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from timm_diffsens.results.numbers import significant, with_error
from timm_diffsens.results.records.frames import readable_name, rows_of
from timm_diffsens.results.records.store import iter_records, read_records
from timm_diffsens.results.report.markdown import table, text
from timm_diffsens.results.stats.correlate import correlate_networks, holm
from timm_diffsens.results.stats.families import jackknife, leave_families_out
from timm_diffsens.results.stats.population import groups, left_out
from timm_diffsens.results.stats.resampling import weighted_fits
from timm_diffsens.results.stats.sizes import sizes_of
from timm_diffsens.schema.families import family_of
from timm_diffsens.schema.layers import LayerSensitivity
from timm_diffsens.schema.protocol import delta_text
from timm_diffsens.schema.records import Record

HERE = Path(__file__).resolve().parent
PLACES = {"last block": True, "output": False}
SHOWN = ("1@224", "0.25@224")
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
    """rho of the test error with D, G, R of the ImageNet board: each size, the last block and the output."""
    rows, tests = [], []
    for size, views in by_size(imagenet()).items():
        for where, place in PLACES.items():
            table_of = correlate_networks(points(views, place))
            rows.append([size, where, *(_interval(row, "pearson", "family") for row in rows_of(table_of))])
            r = rows_of(table_of)[-1]
            rows[-1].append(_interval(r, "partial", "partial"))
            tests += table_of["p_family"].to_list()
    corrected = holm(np.array(tests)).reshape(len(rows), -1)
    for row, values in zip(rows, corrected, strict=True):
        row += [_p(value) for value in values]
    head = ["delta", "layer", "D", "G", "R", "R given size", "p of D", "p of G", "p of R"]
    return table(head, rows, first=2)


def differences() -> str:
    """Whether the correlation of R differs between sizes and layers, over the same networks."""
    views = by_size(imagenet())
    asked = [
        (("0.25@224", "output"), ("1@224", "output")),
        (("0.25@224", "last block"), ("1@224", "last block")),
        (("1@224", "last block"), ("1@224", "output")),
        (("0.25@224", "last block"), ("0.25@224", "output")),
    ]
    rows = []
    for one, other in asked:
        z = [np.arctanh(_rho_without(points(views[size], PLACES[where]))) for size, where in (one, other)]
        found = jackknife(z[0] - z[1])
        told = f"{found.value:+.2f} ({found.low:+.2f} to {found.high:+.2f})"
        rows.append([", ".join(one), ", ".join(other), told, _p(found.p)])
    return table(["R at", "less R at", "difference of Fisher's z", "p, not corrected"], rows, first=2)


def parts_of_board() -> str:
    """rho of the test error with R for parts of the ImageNet board, in the last block and at the output."""
    kept: dict[str, Callable[[Record], bool]] = {
        "all": lambda record: True,
        "without SqueezeNet": lambda record: family_of(record.model) != "squeezenet",
        "without MobileNetV1": lambda record: family_of(record.model) != "mobilenetv1",
        "224 pixels": lambda record: record.model.input.height == 224,
        "dequantised": _dequantised,
        "not dequantised": lambda record: not _dequantised(record),
    }
    rows = []
    for name, keep in kept.items():
        some = [record for record in imagenet() if keep(record)]
        families = len({family_of(record.model) for record in some})
        cells = [
            _interval(
                rows_of(correlate_networks(points(by_size(some)[size], place)))[-1], "pearson", "family"
            )
            for size in SHOWN
            for place in PLACES.values()
        ]
        rows.append([name, f"{len(some)} of {families}", *cells])
    head = [f"{size}, {where}" for size in SHOWN for where in PLACES]
    return table(["networks", "of families", *head], rows)


def imagenet_variants() -> str:
    """rho of the test error with R at the output of each variant, at each size."""
    found = [record for record in more_of_imagenet() if len(record.variants) > 1]
    rows = []
    for name in found[0].variants:
        n = sum(record.variants[name][-1].r is not None for record in found)
        if not n:
            continue
        cells = []
        for size in SHOWN:
            table_of = correlate_networks(points(by_size(found)[size], False, name))
            cells += [_interval(row, "pearson", "family") for row in rows_of(table_of)]
        rows.append([name, str(n), *cells])
    head = [f"{measure}, {size}" for size in SHOWN for measure in ("D", "G", "R")]
    return table(["network", "n", *head], rows)


def imagenet_ratios() -> str:
    """R at the output of each variant over that of the network itself, by network."""
    found = [record for record in more_of_imagenet() if len(record.variants) > 1]
    names = [name for name in found[0].variants if name not in ("original", "mean-filter")]
    rows = []
    for record in sorted(found, key=lambda record: errors()[record.model.weights.sha256]):
        first, *_, last = record.variants["original"]
        cells = [f"{100 * errors()[record.model.weights.sha256]:.1f} %", _r(first), _r(last)]
        rows.append([text(_named(record)), *cells, *(_r(record.variants[name][-1]) for name in names)])
    return table(["network", "test error", "first stage", "output", *(f"output, {n}" for n in names)], rows)


def imagenet_components() -> str:
    """R at the output of the ImageNet networks: each component at equal rms, and other sizes."""
    found = [record for record in more_of_imagenet() if len(record.variants) == 1]
    rows = []
    for record in sorted(found, key=lambda record: errors()[record.model.weights.sha256]):
        own = record.protocol.delta
        views = {
            view.protocol.deformation if view.protocol.delta == own else view.protocol.delta: view
            for view in record.views()
        }
        cells = [_r(views[key].variants["original"][-1]) for key in (*COMPONENTS, 0.5, 2.0)]
        rows.append([text(_named(record)), *cells])
    return table(["network", "field", *COMPONENTS[1:], "field, 0.5@224", "field, 2@224"], rows)


@cache
def more_of_imagenet() -> list[Record]:
    """Variants and components of the board's networks, on fewer images."""
    found = iter_records(HERE / "imagenet" / "records")
    return [record for _, record in found if isinstance(record, Record)]


@cache
def errors() -> dict[str, float]:
    """Weights -> test error, over all photographs."""
    return {record.model.weights.sha256: record.test_error.value or 0.0 for record in imagenet()}


def _named(record: Record) -> str:
    return f"{readable_name(record)}, {record.model.input.height}"


@cache
def imagenet() -> list[Record]:
    """The records of the ImageNet board that are in its fits."""
    frame = read_records(HERE.parents[1] / "leaderboard" / "records" / "imagenet")
    board = max(groups(frame), key=len)
    keys = set(board.loc[left_out(board).isna(), "key"])
    found = iter_records(HERE.parents[1] / "leaderboard" / "records" / "imagenet")
    return [record for _, record in found if isinstance(record, Record) and record.key in keys]


def by_size(records: list[Record]) -> dict[str, list[Record]]:
    """Size -> the records under it."""
    found: dict[str, list[Record]] = {}
    for record in records:
        for view in record.views():
            found.setdefault(delta_text(view.protocol.delta, view.protocol.reference_side), []).append(view)
    assert {len(views) for views in found.values()} == {len(records)}, "networks with other sizes"
    return found


def points(records: list[Record], last: bool, variant: str = "original") -> pd.DataFrame:
    """What `correlate_networks` takes, with the values of the last block in the place of the output's."""
    rows = []
    for record in records:
        layers = record.variants[variant]
        if last:  # Darknet's classifier is a convolution, and so a block
            layers = [one for one in layers[:-1] if one.shape[0] != record.model.classes]
        values = {name: getattr(layers[-1], name) for name in ("d", "g", "r")}
        error = errors()[record.model.weights.sha256]
        known = {"error": error, "parameters": record.model.parameters, "seeds": 1}
        rows.append(values | known | {"family": family_of(record.model)})
    return pd.DataFrame(rows)


def _rho_without(frame: pd.DataFrame) -> np.ndarray:
    """rho of R with all families, and without each."""
    x, y = np.log(frame[["r"]].to_numpy()), np.log(frame["error"].to_numpy())
    return weighted_fits(x, y, leave_families_out(frame["family"].to_numpy(str))).pearson[:, 0]


def _interval(row: dict[str, Any], name: str, ends: str) -> str:
    low, high = row[f"{ends}_low"], row[f"{ends}_high"]
    return f"{row[name]:.2f}" + ("" if np.isnan(low) else f" ({low:.2f} to {high:.2f})")


def _p(value: float) -> str:
    return f"{value:.2g}"


def _dequantised(record: Record) -> bool:
    return ".q" in (record.model.weights.detail or "")


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
    "differences": differences,
    "parts": parts_of_board,
    "imagenet_variants": imagenet_variants,
    "imagenet_ratios": imagenet_ratios,
    "imagenet_components": imagenet_components,
}
