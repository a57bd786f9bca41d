"""How well the power law of some families tells the test error of another: families left out in turn.

On logarithms the law is a line with a random intercept for each family (`mixed.RandomIntercept`), as networks
of one family lie on one side of it together. The interval of a network of a new family holds the spread
between families; that of a family in the law takes its other networks into account.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from timm_diffsens.results.records.frames import Row, rows_of
from timm_diffsens.results.stats.families import FOR_VARIANCE
from timm_diffsens.results.stats.mixed import RandomIntercept
from timm_diffsens.results.stats.population import MEASURES
from timm_diffsens.results.stats.resampling import Array, varies

LEVEL = 0.9
Names = npt.NDArray[Any]


def held_out_table(points: pd.DataFrame) -> pd.DataFrame:
    """For each measure how many networks lie within the interval that the other families give them.

    Args:
        points: `Group.points`.

    Returns:
        Columns `measure`, `n` and `families` of the networks, `inside` of the `of` for which there is an
        interval, and `note`: why there is none at all.
    """
    rows: list[Row] = []
    for measure in MEASURES:
        x, y, families = logarithms(points, measure)
        found, count = held_out(x, y, families), len(np.unique(families))
        tried, note = int(np.isfinite(found).sum()), unfit(x, families)
        if not note and not tried:
            note = f"{count} families, and those without one are too few for an interval"
        row = {"measure": measure, "n": len(x), "families": count, "inside": int(np.nansum(found))}
        rows.append(row | {"of": tried, "note": note})
    table: pd.DataFrame = pd.DataFrame(rows)
    return table


def held_out_sentence(table: pd.DataFrame) -> str:
    """What `held_out_table` found, for the reader of a board."""
    rows = rows_of(table)
    notes = list(dict.fromkeys(row["note"] for row in rows))
    if len(notes) == 1 and notes[0]:
        return f"No network is predicted from the other families: {notes[0]}."
    said: list[str] = []
    lie = f" networks lie within their {100 * LEVEL:g} % interval"
    for row in sorted(rows, key=lambda row: bool(row["note"])):
        measure = row["measure"].upper()
        counted = f"{row['inside']} of {row['of']}{'' if said else lie} by {measure}"
        said.append(f"none by {measure} ({row['note']})" if row["note"] else counted)
    return f"Left out in turn, each with its family, {', '.join(said)}."


def logarithms(points: pd.DataFrame, measure: str) -> tuple[Array, Array, Names]:
    """log X and log e of the networks that have both, and their families; (n,) each."""
    points = points[points[measure].notna() & points["error"].notna()]
    x, y = (np.log(points[name].to_numpy(float)) for name in (measure, "error"))
    return x, y, points["family"].to_numpy(str)


def interval(law: RandomIntercept, x: float, family: str | None = None) -> tuple[float, float, float]:
    """Low end, middle and high end of log e at log X = x: 90 %, of Student's t."""
    value, error, freedom = law.predict(x, family)
    half = float(special.stdtrit(freedom, (1 + LEVEL) / 2)) * error
    return value - half, value, value + half


def held_out(x: Array, y: Array, families: Names) -> Array:
    """Whether each network is inside of the interval that the other families give it: 1, 0, or NaN.

    NaN where the others are too few for an interval, or all have one X.
    """
    inside = np.full(len(x), np.nan)
    for family in np.unique(families):
        others = families != family
        if unfit(x[others], families[others]):
            continue
        law = RandomIntercept.of(x[others], y[others], families[others])
        for place in np.flatnonzero(~others):
            low, _, high = interval(law, float(x[place]))
            inside[place] = low <= y[place] <= high
    return inside


def unfit(x: Array, families: Names) -> str:
    """Why there is no law of these networks; "" where there is one."""
    count = len(np.unique(families))
    if count < FOR_VARIANCE:
        return f"{count} families, an interval needs {FOR_VARIANCE}"
    return "" if varies(x) else "all networks have the same value"
