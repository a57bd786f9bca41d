"""Is R the better predictor, and by which power law? Tests and fits over sets of networks."""

import numpy as np
import pandas as pd

from timm_diffsens.results.records.frames import Row, columns_of, variants_of
from timm_diffsens.results.stats.correlate import holm
from timm_diffsens.results.stats.families import jackknife, leave_families_out
from timm_diffsens.results.stats.population import FEWEST, MEASURES
from timm_diffsens.results.stats.resampling import (
    LEVEL,
    RESAMPLES,
    Array,
    resampled_fits,
    varies,
    weighted_fits,
)

_TIE = 1e-9  # differences below it are rounding
_MOST_DRAWN, _FEWEST_DRAWS = 2**22, 400  # numbers exchanged, and exchanges, where networks are many


def compare_measures(points: pd.DataFrame, *, resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """Is |rho| of R larger than that of D, and than that of G? Paired over the same networks.

    Of two predictors that are equally good, either could be called the one or the other. So `p` is how often
    a difference as large comes about when the two, standardised, are exchanged in families drawn at random,
    all networks of a family together: `swapped`. How often the answer is wrong is simulated in
    docs/statistics.md.

    Args:
        points: the networks of one group, from `population.networks`.
        resamples: exchanges tried, where there are more than so many.
        seed: of these.

    Returns:
        A row for each variant and rival: `variant`, `rival` (d or g), `n`, `difference` |rho_R| - |rho_rival|
        with its 95 % interval over families (`low`, `high`), `p` (corrected after Holm for both rivals),
        `answer`: yes, no, undecided (p above 0.05) or too few.
    """
    rows = []
    for variant in variants_of(points):
        *rivals, own = columns_of(variant, MEASURES)
        found = []
        for rival, column in zip(MEASURES, rivals, strict=False):
            used = points[points[own].notna() & points[column].notna()]
            if len(used):
                found.append(
                    {"variant": variant, "rival": rival} | paired(used, own, column, resamples, seed)
                )
        corrected = holm(np.array([row.get("p", np.nan) for row in found], dtype=float))
        rows += [_answered(row, float(p)) for row, p in zip(found, corrected, strict=True)]
    names = ["variant", "rival", "n", "difference", "low", "high", "p", "answer"]
    table = pd.DataFrame(rows, columns=names)
    typed: pd.DataFrame = table.astype(dict.fromkeys(names[3:7], "float64"))
    return typed


def paired(used: pd.DataFrame, own: str, rival: str, resamples: int = RESAMPLES, seed: int = 0) -> Row:
    """`n`, `difference` |rho_own| - |rho_rival| with its interval over families, and `p`, not corrected.

    Args:
        used: networks with both columns. own, rival: columns of it.
        resamples, seed: as for `compare_measures`.
    """
    n, families = len(used), used["family"].to_numpy(dtype=str)
    if n < FEWEST:
        return {"n": n, "answer": "too few"}
    x, y = np.log(used[[own, rival]].to_numpy(dtype=float)), np.log(used["error"].to_numpy(dtype=float))
    pearson = np.abs(weighted_fits(x, y, leave_families_out(families)).pearson)
    difference = jackknife(pearson[:, 0] - pearson[:, 1])
    p = swapped(x, y, families, resamples, seed) if varies(x).all() and varies(y) else np.nan
    return {"n": n, "difference": difference.value, "low": difference.low, "high": difference.high, "p": p}


def _answered(row: Row, p: float) -> Row:
    if "answer" in row:
        return row
    decided = "yes" if row["difference"] > 0 else "no"
    return row | {"p": p, "answer": decided if p <= 1 - LEVEL else "undecided"}


def swapped(x: Array, y: Array, families: Array, most: int = RESAMPLES, seed: int = 0) -> float:
    """p-value of equal |rho| of two predictors, by exchanging them in whole families.

    The statistic is Williams' t of two correlations that share a variable (Steiger 1980, Eq. 7), of the
    predictors turned so that both go with y.

    Args:
        x: (n, 2), logarithms of the predictors. y: (n,), logarithms. families: (n,).
        most: exchanges; all of them where there are no more.
        seed: of those drawn.
    """
    _, place = np.unique(families, return_inverse=True)
    most = min(most, max(_FEWEST_DRAWS, _MOST_DRAWN // len(place)))
    count = int(place.max()) + 1
    if 2**count <= most:
        chosen = (np.arange(2**count)[:, None] >> np.arange(count)) & 1 == 1
    else:
        chosen = np.random.default_rng(seed).random((most, count)) < 0.5
        chosen[0] = False  # the data
    x, y = _standardised(x), _standardised(y)
    x = x * np.where(y @ x < 0, -1.0, 1.0)
    n, parts = len(y), []
    for start in range(0, len(chosen), _MOST_DRAWN // n):
        exchange = chosen[start : start + _MOST_DRAWN // n, place]
        first, second = (_standardised(np.where(exchange, x[:, i], x[:, 1 - i]).T) for i in (1, 0))
        parts.append(_williams(y @ first / n, y @ second / n, np.sum(first * second, axis=0) / n, n))
    found = np.concatenate(parts)
    return float(np.mean(np.abs(found) >= abs(found[0]) - _TIE))


def _williams(one: Array, other: Array, between: Array, n: int) -> Array:
    """t of |one| - |other|, correlations with the same variable, `between` being that of the predictors."""
    between = between * np.sign(one) * np.sign(other)
    one, other = np.abs(one), np.abs(other)
    rest = np.maximum(1 - one**2 - other**2 - between**2 + 2 * one * other * between, 0)
    below = 2 * rest * (n - 1) / (n - 3) + ((one + other) / 2) ** 2 * (1 - between) ** 3
    t: Array = (one - other) * np.sqrt((n - 1) * (1 + between) / np.maximum(below, _TIE**2))
    return t


def _standardised(values: Array) -> Array:
    """Mean 0 and variance 1 along the first axis; zero where nothing varies."""
    centred = values - values.mean(axis=0)
    scaled: Array = centred / np.maximum(centred.std(axis=0), _TIE)
    return scaled


def power_law(
    points: pd.DataFrame, measure: str, *, resamples: int = RESAMPLES, seed: int = 0, steps: int = 40
) -> pd.DataFrame:
    """The fit e ~ a X^b of the original networks over the range of X, with 95 % of the resampled fits.

    Columns `measure`, `x`, `error`, `low`, `high`; empty below five networks or where nothing varies.
    """
    used = points[points[measure].notna()]
    x, y = (np.log(used[name].to_numpy(dtype=float)) for name in (measure, "error"))
    names = ["measure", "x", "error", "low", "high"]
    if len(used) < FEWEST or not varies(x) or not varies(y):
        empty: pd.DataFrame = pd.DataFrame(columns=names).astype(dict.fromkeys(names[1:], "float64"))
        return empty
    fit = resampled_fits(x[:, None], y, resamples, seed)
    at = np.linspace(x.min(), x.max(), steps)
    lines = fit.intercept + fit.slope * at
    low, high = np.nanquantile(lines[len(y) + 1 :], [0.025, 0.975], axis=0)
    curve = {"x": at, "error": lines[0], "low": low, "high": high}
    table: pd.DataFrame = pd.DataFrame({name: np.exp(value) for name, value in curve.items()})
    table.insert(0, "measure", measure)
    return table
