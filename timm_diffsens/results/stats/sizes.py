"""R against the size of the deformation, and the sizes at which it is small: the linear regime.

For small displacements D and G go with the square of the size, and R with none of it. A size is in the linear
regime of a layer where R is within a margin of that at the smallest size measured: where the whole 95 %
interval of their ratio, paired image by image, is inside of the margin (a test of equivalence: Schuirmann
1987). It is outside of the regime where the whole interval is outside of the margin, and undecided between.
"""

from collections.abc import Sequence

import pandas as pd

from timm_diffsens.results.records.per_image import PerImage
from timm_diffsens.results.stats.paired import Compared, pair_of
from timm_diffsens.schema.protocol import delta_text
from timm_diffsens.schema.records import Record

MARGIN = 1.1  # factor by which R may differ in the linear regime
_SAME = ("deformation", "cut", "reference_side")
_COLUMNS = ["layer", "index", "delta", "rms", "r", "r_stderr", "ratio", "low", "high", "linear", "outside"]


def sizes_of(record: Record) -> list[tuple[int, Record]]:
    """The views of a record that differ from it in the size alone, smallest first, with their numbers."""
    first = record.protocol
    same = [
        (k, view)
        for k, view in enumerate(record.views())
        if all(getattr(view.protocol, name) == getattr(first, name) for name in _SAME)
        and view.protocol.delta is not None
    ]
    return sorted(same, key=lambda one: one[1].protocol.delta or 0.0)


def by_size(record: Record, distances: PerImage | None = None, variant: str = "original") -> pd.DataFrame:
    """R of each layer at each size of a deformation.

    Args:
        record: with several sizes.
        distances: of single images; without them the intervals are not paired, and wider.
        variant: of the network.

    Returns:
        `layer`, `index`, `delta` and `rms` (pixels), `r`, `r_stderr`, `ratio` to R at the smallest size with
        its 95 % interval, `low` to `high`; `linear`: that it is inside of the margin, at all smaller sizes
        too; `outside`: that it is outside of it, here or at a smaller size. Empty with one size.
    """
    sizes = sizes_of(record)
    if len(sizes) < 2:
        nothing: pd.DataFrame = pd.DataFrame(columns=_COLUMNS)
        return nothing
    sides = [Compared(f"{k}", view, view.variants[variant], variant, distances, k) for k, view in sizes]
    rows = []
    for place, side in enumerate(sides):
        found = pair_of(sides[0], side, ["r"])
        for layer, row in zip(side.layers, found.to_dict("records"), strict=True):
            protocol = side.record.protocol
            known = {"layer": layer.layer, "index": layer.index, "delta": protocol.delta}
            values = {"rms": protocol.rms_displacement, "r": layer.r, "r_stderr": layer.r_stderr}
            names = ("ratio", "low", "high")
            factor = {name: 1.0 if place == 0 and layer.r is not None else row[name] for name in names}
            rows.append({**known, **values, **factor})
    return classified(pd.DataFrame(rows, columns=_COLUMNS))


def classified(table: pd.DataFrame) -> pd.DataFrame:
    """The rows of `by_size`, smallest size first, with `linear` and `outside` by their `low` and `high`."""
    table, layers = table.copy(), table["index"]
    inside = (table["low"] >= 1 / MARGIN) & (table["high"] <= MARGIN)
    table["linear"] = inside.groupby(layers).cummin().astype(bool)
    beyond = (table["high"] < 1 / MARGIN) | (table["low"] > MARGIN)
    table["outside"] = beyond.groupby(layers).cummax().astype(bool)
    return table


def regime(table: pd.DataFrame, delta: float | None, reference_side: int | None = None) -> str:
    """Whether the size used is in the linear regime of the output, in a sentence; "" where nobody can know.

    Args:
        table: from `by_size`. delta, reference_side: the size of the record's own deformation.
    """
    if not len(table) or delta is None:
        return ""
    output = table[table["index"] == table["index"].max()]
    deltas: Sequence[float] = list(output["delta"])
    found = output[output["delta"] <= delta].sort_values("delta").to_dict("records")
    if delta == min(deltas) or pd.isna(found[-1]["low"]):
        return ""
    telling = [row for row in found if row["outside"]] or [row for row in found if not row["linear"]]
    own = (telling or found[-1:])[0]
    least, size, there = (delta_text(each, reference_side) for each in (min(deltas), delta, own["delta"]))
    at = "" if there == size else f" for {there} px"
    ratio, low, high = (f"{own[name]:.3g}" for name in ("ratio", "low", "high"))
    said = f"R at the output{at} is {ratio} times that at {least} px ({low} to {high})"
    used, margin = f"the size, delta = {size} px, is", f"within {MARGIN - 1:.0%}"
    if own["linear"]:
        return f"T{used[1:]} in the linear regime: {said}, which is {margin}."
    if own["outside"]:
        return f"T{used[1:]} outside of the linear regime: {said}."
    return f"Whether {used} in the linear regime (R {margin}) is undecided: {said}; more images decide."
