"""What the page has of records: curves, spectra and facts; JSON, some records deflated together, in base64.

A hundred networks have some hundred thousand numbers. Rounded to four significant digits (two for standard
errors), written as one text a column and deflated, they take a few kilobytes a network; the browser unpacks
a few networks at a time, when one is selected. Base64 has no character that HTML could mistake for its own.

Of boards with thousands of records the page has curves alone, to one per cent: as differences of logarithms,
which deflate to a byte or two a number.
"""

import base64
import json
import math
import zlib
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

from timm_diffsens.printable import all_spelt_out
from timm_diffsens.results.records.frames import curves_of
from timm_diffsens.results.report.summary import summary
from timm_diffsens.schema.layers import LayerSensitivity, Spectrum
from timm_diffsens.schema.records import Record

DIGITS = 4  # of a value
_STEPS = 200  # of a curve, to a decade: 0.6 % to either side
_BRIEF = ("numbers", "to one per cent; with standard errors and spectra they are in the record's file")
_LONGEST = 2000  # characters of a fact
STDERR_DIGITS = 2  # of a standard error
MEASURES = ("d", "g", "r")
_LEVEL = 6  # of deflate; given, so that equal records give equal bytes; 9 saves 0.2 % more in twice the time


def pack(record: Record, brief: bool = False) -> str:
    """`contents(record)` as JSON; every text in it spelt out."""
    plain = all_spelt_out(contents(record, brief))
    return json.dumps(plain, ensure_ascii=False, separators=(",", ":"), allow_nan=False)


def deflated(records: Sequence[str]) -> str:
    """Records as `pack` writes them, as base64 of a zlib-deflated JSON list."""
    text = f"[{','.join(records)}]"
    return base64.b64encode(zlib.compress(text.encode(), _LEVEL)).decode("ascii")


def contents(record: Record, brief: bool = False) -> dict[str, Any]:
    """What the page shows of a selected record; numbers as `column` writes them, or `curve` where `brief`.

    `summary`: a paragraph; `facts`: pairs of a name and a text; `layers` and `depth` of the first variant;
    `variants`: for each its columns `d`, `g`, `r`, `d_stderr`, ..., and `layers`, `depth` where they are not
    the first one's; `spectra`: for each variant the columns `layers`, `kernels`, `mean` (mean frequency),
    `power` (one text a convolution) and `grid`, the place of its eigenvalues in `grids`. Where `brief`, there
    are no standard errors and no powers.
    """
    write = _brief_columns if brief else _columns
    curves = record.variants if brief else curves_of(record)
    variants = {str(name): write(layers) for name, layers in curves.items() if layers}
    first: dict[str, Any] = next(iter(variants.values()), {"layers": [], "depth": ""})
    shared = {"layers": first["layers"], "depth": first["depth"]}
    for columns in variants.values():
        for name, values in shared.items():
            if columns[name] == values:
                del columns[name]
    grids: dict[str, int] = {}
    found = {name: [s for s in listed if s.power] for name, listed in record.spectra.items()}
    spectra = {name: _spectra(listed, grids, brief) for name, listed in found.items() if listed}
    return {
        "summary": summary(record),
        "facts": [*facts(record), *([_BRIEF] if brief else [])],
        **shared,
        "variants": variants,
        "spectra": spectra,
        "grids": list(grids),
    }


def column(values: Sequence[float | None], digits: int = DIGITS) -> str:
    """Numbers as one text, rounded to significant digits: quick to write, to deflate and to read.

    Example:
        >>> column([0.123456, None, 2.0, 1.5e-7])
        '0.1235 - 2 1.5e-07'
    """
    form = f"%.{digits}g"
    return " ".join(["-" if value is None else form % value for value in values])


def curve(values: Sequence[float | None]) -> str:
    """Positive numbers to one per cent, as the differences of their logarithms; `-` for none, `z` for zero.

    `~` marks it: each number is 10 to the sum of the differences up to it, over 200.

    Example:
        >>> curve([1.0, 10.0, None, 0.0, 9.0])
        '~0 200 - z -9'
    """
    written, last = [], 0
    for value in values:
        if value:
            place = round(_STEPS * math.log10(value))
            written.append(str(place - last))
            last = place
        else:
            written.append("-" if value is None else "z")
    return "~" + " ".join(written)


def facts(record: Record) -> list[tuple[str, str]]:
    """What one should know about a measurement beside its numbers: pairs of a name and a text."""
    model, data, protocol = record.model, record.data, record.protocol
    known = protocol.rms_displacement
    rms = "rms not known" if known is None else f"rms {known:g} px"
    listed = [
        ("measured as", model.spec),
        ("architecture", f"{model.arch} ({model.library}), {model.parameters:,} parameters"),
        ("weights", _weights(record)),
        ("trained", {True: "yes", False: "no", None: "not known"}[record.trained]),
        ("input", f"{model.input.channels} x {model.input.height} x {model.input.width}"),
        ("images", f"{data.n} of {data.spec}{f', {data.split}' if data.split else ''}; {data.selection}"),
        ("deformation", f"{protocol.deformation_text}, {rms}"),
        ("further deformations", "; ".join(v.protocol.deformation_text for v in record.views()[1:])),
        ("layers", ", ".join(protocol.layers)),
        ("test error", _error(record)),
        ("training recipe", _recipe(model.recipe or {})),
        ("note on the images", data.note or ""),
        ("warnings", "; ".join(record.warnings)),
        ("measured with", f"timm-diffsens {record.environment.package}, torch {record.environment.torch}"),
        ("key", record.key),
    ]
    return [(name, text[:_LONGEST]) for name, text in listed if text]


def _weights(record: Record) -> str:
    weights = record.model.weights
    seed = f", seed {weights.seed}" if weights.seed is not None else ""
    return ", ".join(filter(None, [weights.source, weights.detail, weights.published])) + seed


def _recipe(recipe: dict[str, Any]) -> str:
    """Settings, of `diffsens train` its options; curves and other long entries stay in the record."""
    training = recipe.get("training")
    settings = training if isinstance(training, dict) else recipe
    said = {k: v for k, v in settings.items() if v is not None and not isinstance(v, list | dict | bool)}
    on = [name for name, value in settings.items() if value is True]
    return ", ".join([*(f"{name} {value}" for name, value in said.items()), *on]).replace("_", " ")


def _error(record: Record) -> str:
    error = record.test_error
    if error.value is None:
        return f"none: {error.reason}" if error.reason else "none"
    return f"{error.value:.2%}, {error.source or 'source not known'}{f', n = {error.n}' if error.n else ''}"


def _columns(layers: Sequence[LayerSensitivity]) -> dict[str, Any]:
    columns: dict[str, Any] = {"layers": [layer.layer for layer in layers]}
    columns["depth"] = column([layer.depth for layer in layers])
    for measure in MEASURES:
        stderr = f"{measure}_stderr"
        columns[measure] = column([getattr(layer, measure) for layer in layers])
        columns[stderr] = column([getattr(layer, stderr) for layer in layers], STDERR_DIGITS)
    return columns


def _brief_columns(layers: Sequence[LayerSensitivity]) -> dict[str, Any]:
    columns: dict[str, Any] = {"layers": [layer.layer for layer in layers]}
    columns["depth"] = column([layer.depth for layer in layers], 3)
    return columns | {measure: curve([getattr(layer, measure) for layer in layers]) for measure in MEASURES}


def _spectra(spectra: Sequence[Spectrum], grids: dict[str, int], brief: bool) -> dict[str, Any]:
    """Columns of one variant; eigenvalues that are not yet in `grids` are added to it."""
    if brief:
        return {"layers": [s.layer for s in spectra], "mean": curve([s.mean_frequency for s in spectra])}
    levels = [_levels(s) for s in spectra]
    return {
        "layers": [s.layer for s in spectra],
        "kernels": [" × ".join(map(str, s.kernel)) for s in spectra],
        "mean": column([s.mean_frequency for s in spectra]),
        "power": [column(powers) for _, powers in levels],
        "grid": [grids.setdefault(_grid(tuple(values)), len(grids)) for values, _ in levels],
    }


@lru_cache(maxsize=256)
def _grid(values: tuple[float, ...]) -> str:
    """Filters of one size have the same eigenvalues."""
    return column(values)


def _levels(spectrum: Spectrum) -> tuple[list[float], list[float]]:
    """Powers by distinct eigenvalue where the record has them: inside one, single modes are arbitrary."""
    if spectrum.levels and len(spectrum.levels) == len(spectrum.level_power):
        return spectrum.levels, spectrum.level_power
    return spectrum.eigenvalues, spectrum.power
