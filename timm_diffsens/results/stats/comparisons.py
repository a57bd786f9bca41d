"""Is R the better predictor, and by which power law? What is drawn from resampled sets of networks."""

import numpy as np
import pandas as pd

from timm_diffsens.results.records.frames import Row, columns_of, variants_of
from timm_diffsens.results.stats.population import FEWEST, MEASURES
from timm_diffsens.results.stats.resampling import RESAMPLES, bca, resampled_fits, varies


def compare(points: pd.DataFrame, *, resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """Is |rho| of R larger than that of D, and than that of G? Paired over the same networks.

    Both correlations are taken of the same bootstrap samples, so that what moves both cancels.

    Args:
        points: the networks of one group, from `population.networks`.
        resamples: bootstrap samples.
        seed: of these samples.

    Returns:
        A row for each variant and rival: `variant`, `rival` (d or g), `n`, `difference` |rho_R| - |rho_rival|
        with its 95 % BCa interval (`low`, `high`), `probability` (share of the samples with a positive
        difference), `answer`: yes, no, undecided (the interval holds 0) or too few.
    """
    rows = []
    for variant in variants_of(points):
        *rivals, own = columns_of(variant, MEASURES)
        for rival, column in zip(MEASURES, rivals, strict=False):
            used = points[points[own].notna() & points[column].notna()]
            if len(used):
                rows.append(
                    {"variant": variant, "rival": rival} | _paired(used, own, column, resamples, seed)
                )
    names = ["variant", "rival", "n", "difference", "low", "high", "probability", "answer"]
    table = pd.DataFrame(rows, columns=names)
    typed: pd.DataFrame = table.astype(dict.fromkeys(names[3:7], "float64"))
    return typed


def _paired(used: pd.DataFrame, own: str, rival: str, resamples: int, seed: int) -> Row:
    n = len(used)
    if n < FEWEST:
        return {"n": n, "answer": "too few"}
    x, y = np.log(used[[own, rival]].to_numpy(dtype=float)), np.log(used["error"].to_numpy(dtype=float))
    pearson = np.abs(resampled_fits(x, y, resamples, seed).pearson)
    difference = pearson[:, 0] - pearson[:, 1]
    low, high = bca(difference, n)
    samples = difference[n + 1 :][np.isfinite(difference[n + 1 :])]
    ahead = float(np.mean(samples > 0) + np.mean(samples == 0) / 2) if len(samples) else np.nan
    answer = "yes" if low > 0 else "no" if high < 0 else "undecided"
    return {"n": n, "difference": difference[0], "low": low, "high": high} | {
        "probability": ahead,
        "answer": answer,
    }


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
