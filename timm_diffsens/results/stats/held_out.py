"""What the power law of some families says of the test error of another: families left out in turn.

On logarithms the law is a line with a random intercept for each family (`mixed.RandomIntercept`), as networks
of one family lie on one side of it together. The interval of a network of a new family holds the spread
between families; that of a family in the law takes its other networks into account.
"""

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import special

from timm_diffsens.results.numbers import significant
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
        interval, `span`: the median of its high over its low end, `off` and `off_mean`: the factors by which
        the law, and the geometric mean of the others alone, miss (root mean square of logarithms), and
        `note`: why there is no interval at all. How many are inside says whether the intervals hold, not
        whether X helps: that is `off` beside `off_mean`.
    """
    rows: list[Row] = []
    for measure in MEASURES:
        x, y, families = logarithms(points, measure)
        found, count = held_out(x, y, families), len(np.unique(families))
        known, note = found[np.isfinite(found[:, 0])], unfit(x, families)
        if not note and not len(known):
            note = f"{count} families, and those without one are too few for an interval"
        row = {"measure": measure, "n": len(x), "families": count, "inside": int(known[:, 0].sum())}
        row |= {"of": len(known), "note": note}
        rows.append(row | dict(zip(("span", "off", "off_mean"), _factors(known), strict=True)))
    table: pd.DataFrame = pd.DataFrame(rows)
    return table


def _factors(known: Array) -> tuple[float, float, float]:
    """The typical interval, and the misses of law and mean, as factors; NaN of none."""
    if not len(known):
        return np.nan, np.nan, np.nan
    law, mean = np.exp(np.sqrt(np.mean(known[:, 2:] ** 2, axis=0)))
    return float(np.exp(np.median(known[:, 1]))), float(law), float(mean)


def held_out_sentence(table: pd.DataFrame) -> str:
    """What `held_out_table` found, for the reader of a board."""
    rows = rows_of(table)
    notes = list(dict.fromkeys(row["note"] for row in rows))
    if all(notes):
        return f"No network is predicted from the other families: {'; '.join(notes)}."
    there = [row for row in rows if not row["note"]]
    inside = [f"{row['inside']} of {row['of']}" for row in there]
    inside[0] += f" networks lie within their {100 * LEVEL:g} % interval"
    listed = ", ".join(f"{each} by {row['measure'].upper()}" for each, row in zip(inside, there, strict=True))
    spanned = ", ".join(f"{_factor(row['span'])} by {row['measure'].upper()}" for row in there)
    missed = ", ".join(f"{_factor(row['off'])} by {row['measure'].upper()}" for row in there)
    said = [
        f"Left out in turn, each with its family, {listed}.",
        f"From end to end the typical interval is a factor of {spanned}.",
        f"The law misses by a factor of {missed}; the mean of the other families alone by "
        f"{_factor(there[0]['off_mean'])}.",
    ]
    said += [f"None by {row['measure'].upper()}: {row['note']}." for row in rows if row["note"]]
    return " ".join(said)


def _factor(value: float) -> str:
    """Three digits; of thousands and more two, written out.

    >>> _factor(1.2345), _factor(8254.0)
    ('1.23', '8,300')
    """
    return significant(value) if value < 1000 else f"{float(f'{value:.2g}'):,.0f}"


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
    """What the other families say of each network, (n, 4).

    Whether it is inside of their interval, 1 or 0; the width of that; and y less what their law says of it,
    and less their mean. NaN where the others are too few for an interval, or all have one X.
    """
    found = np.full((len(x), 4), np.nan)
    for family in np.unique(families):
        others = families != family
        if unfit(x[others], families[others]):
            continue
        law = RandomIntercept.of(x[others], y[others], families[others])
        for place in np.flatnonzero(~others):
            low, middle, high = interval(law, float(x[place]))
            off = y[place] - middle, y[place] - y[others].mean()
            found[place] = low <= y[place] <= high, high - low, *off
    return found


def unfit(x: Array, families: Names) -> str:
    """Why there is no law of these networks; "" where there is one."""
    count = len(np.unique(families))
    if count < FOR_VARIANCE:
        return f"{count} families, an interval needs {FOR_VARIANCE}"
    return "" if varies(x) else "all networks have the same value"
