"""R against the size of the deformation, and the sizes at which it is small: the linear regime.

For small displacements D and G go with the square of the size, and R with none of it. A size is in the linear
regime of a layer where R does not differ from that at the smallest size measured, by the paired test.
"""

from collections.abc import Sequence

import pandas as pd

from timm_diffsens.results.records.per_image import PerImage
from timm_diffsens.results.stats.paired import Compared, pair_of
from timm_diffsens.schema.protocol import delta_text
from timm_diffsens.schema.records import Record

LEVEL = 0.05
_SAME = ("deformation", "cut", "reference_side")
_COLUMNS = ["layer", "index", "delta", "rms", "r", "r_stderr", "ratio", "p", "linear"]


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
        distances: of single images; without them the test is not paired, and finds less.
        variant: of the network.

    Returns:
        `layer`, `index`, `delta` and `rms` (pixels), `r`, `r_stderr`, `ratio` (to R at the smallest size),
        `p` of no difference, and `linear`: p above 0.05, that at all smaller sizes too. Empty with one size.
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
            p = 1.0 if place == 0 and layer.r is not None else row["p"]
            rows.append({**known, **values, "ratio": row["ratio"], "p": p, "linear": p > LEVEL})
    table: pd.DataFrame = pd.DataFrame(rows, columns=_COLUMNS)
    table["linear"] = table.groupby("index")["linear"].cummin().astype(bool)
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
    own = output[output["delta"] == delta]
    if delta == min(deltas) or own["p"].isna().all():
        return ""
    least, size = (f"{delta_text(each, reference_side)} px" for each in (min(deltas), delta))
    ratio = float(own["ratio"].iloc[0])
    if bool(own["linear"].iloc[0]):
        return (
            f"The size, delta = {size}, is in the linear regime: R at the output does not differ from "
            f"that at {least}."
        )
    return (
        f"The size, delta = {size}, is outside of the linear regime: R at the output is {ratio:.3g} "
        f"times that at {least}."
    )
