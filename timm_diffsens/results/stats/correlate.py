"""Correlation of the test error with D, G and R at the output, over networks: Fig. 1 of arXiv 2210.01506."""

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from timm_diffsens.results.records.frames import Row, columns_of, variants_of
from timm_diffsens.results.stats.population import (
    COMPARABLE,
    FEWEST,
    MEASURES,
    groups,
    left_out,
    networks,
)
from timm_diffsens.results.stats.resampling import (
    RESAMPLES,
    Array,
    bca,
    fisher_z,
    patterns,
    resampled_fits,
    varies,
)

_STATISTICS = [
    "pearson",
    "pearson_low",
    "pearson_high",
    "fisher_low",
    "fisher_high",
    "spearman",
    "kendall",
    "p",
    "p_corrected",
    "partial",
    "partial_low",
    "partial_high",
    "exponent",
    "exponent_low",
    "exponent_high",
    "prefactor",
    "prefactor_low",
    "prefactor_high",
]
COLUMNS = ["variant", "measure", "n", "records", "left_out", *_STATISTICS, "note"]
_TYPES = dict.fromkeys(_STATISTICS, "float64") | dict.fromkeys(["n", "records", "left_out"], "int64")
_TYPES |= dict.fromkeys(["variant", "measure", "note", *COMPARABLE], "string") | {"group": "int64"}


def correlate(
    frame: pd.DataFrame,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
    include_unfitted: bool = False,
) -> pd.DataFrame:
    """Correlation of log test error with log D, log G and log R at the output.

    `rho = Cov(log e, log X) / sqrt(Var log e Var log X)`: caption of Fig. 1 of arXiv 2210.01506.

    Records are put into groups that agree in data set, split, sample of images and protocol; groups are never
    mixed. Trainings of one network that differ by their seed are one point, at their geometric mean.
    Left out: random weights, networks with a train error above 1 %, and what has no logarithm.

    Args:
        frame: from `read_records`.
        resamples: bootstrap samples of the networks.
        seed: of these samples; the same one gives the same numbers.
        include_unfitted: keep networks with a train error above 1 %.

    Returns:
        A row for each group (largest first), variant and measure, with columns

        - `group` (number), `dataset`, `split`, `data_parameters`, `protocol`, `sample`, `variant`, `measure`;
        - `n` networks from `records` records, with `left_out` records of the group;
        - `pearson` with its 95 % intervals, BCa bootstrap (`_low`, `_high`) and Fisher z (`fisher_`);
        - `spearman`, `kendall` (tau-b); `p` of the Pearson correlation (two-sided t test), and `p_corrected`
          after Holm 1979 for all tests of the group, which holds however the tests depend on one another;
        - `partial`: the Pearson correlation given the logarithm of the number of parameters;
        - `exponent` b and `prefactor` a of e ~ a X^b, least squares on the logarithms, BCa intervals;
        - `note`: "too few" below five networks, where there are no intervals and no p.

    Example:
        >>> import tempfile
        >>> from timm_diffsens import correlate, read_records
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     len(correlate(read_records(folder)))
        0
    """
    tables = []
    for number, rows in enumerate(groups(frame)):
        reasons = left_out(rows, include_unfitted)
        table = correlate_networks(networks(rows[reasons.isna()]), resamples=resamples, seed=seed)
        table["left_out"] += int(reasons.notna().sum())
        table.insert(0, "group", number)
        for place, name in enumerate(COMPARABLE, start=1):
            table.insert(place, name, rows[name].iloc[0])
        tables.append(table)
    empty = pd.DataFrame(columns=["group", *COMPARABLE, *COLUMNS])
    whole = pd.concat(tables, ignore_index=True) if tables else empty
    typed: pd.DataFrame = whole.astype({name: kind for name, kind in _TYPES.items() if name in whole})
    return typed


def correlate_networks(points: pd.DataFrame, *, resamples: int = RESAMPLES, seed: int = 0) -> pd.DataFrame:
    """The same for the networks of one group, as `population.networks` gives them.

    `left_out` counts the records of `points` without a value of that variant.
    """
    variants = variants_of(points)
    names = [{"variant": variant, "measure": measure} for variant in variants for measure in MEASURES]
    columns = [column for variant in variants for column in columns_of(variant, MEASURES)]
    logs = np.log(points[columns].to_numpy(dtype=float))
    rows: dict[int, Row] = {}
    for present, places in patterns(logs):
        if present.any():
            found = _rows(points[present], logs[np.ix_(present, places)], resamples, seed)
            left = int(points["seeds"][~present].sum())
            rows |= {place: row | {"left_out": left} for place, row in zip(places, found, strict=True)}
    table = pd.DataFrame([names[place] | rows[place] for place in sorted(rows)], columns=COLUMNS)
    table["p_corrected"] = holm(table["p"].to_numpy(dtype=float))
    typed: pd.DataFrame = table.astype({name: _TYPES[name] for name in COLUMNS})
    return typed


def _rows(used: pd.DataFrame, logs: Array, resamples: int, seed: int) -> list[Row]:
    """A row for each column of `logs`, (networks, columns), all finite."""
    n = len(used)
    y, size = (np.log(used[name].to_numpy(dtype=float)) for name in ("error", "parameters"))
    rows: list[Row] = [{"n": n, "records": int(used["seeds"].sum()), "note": ""} for _ in logs.T]
    few = n < FEWEST
    line = None if few else resampled_fits(logs, y, resamples, seed)
    sizes = None if few else resampled_fits(np.column_stack([logs, y]), size, resamples, seed).pearson
    for place, (row, x) in enumerate(zip(rows, logs.T, strict=True)):
        if line is None or sizes is None:
            row |= _ranks(x, y) | {"pearson": _pearson(x, y), "note": "too few"}
        elif not varies(x) or not varies(y):
            row["note"] = f"all networks have the same {'value' if varies(y) else 'test error'}"
        else:
            row |= _ranks(x, y) | {"p": float(stats.pearsonr(x, y).pvalue)}
            row |= _resampled(line.pearson[:, place], line.slope[:, place], line.intercept[:, place], n)
            row |= _partial(line.pearson[:, place], sizes[:, place], sizes[:, -1], n)
    return rows


def _pearson(x: Array, y: Array) -> float:
    """NaN below three points (any two lie on a line) and where nothing varies."""
    enough = len(x) > 2 and varies(x) and varies(y)
    return float(stats.pearsonr(x, y).statistic) if enough else np.nan


def _ranks(x: Array, y: Array) -> Row:
    if len(x) < 3 or not varies(x) or not varies(y):
        return {}
    return {
        "spearman": float(stats.spearmanr(x, y).statistic),
        "kendall": float(stats.kendalltau(x, y).statistic),
    }


def _resampled(pearson: Array, slope: Array, intercept: Array, n: int) -> Row:
    """Values and intervals; each argument has a weighting a row, as in `resampling.ResampledFits`."""
    low, high = bca(pearson, n)
    fisher_low, fisher_high = fisher_z(pearson[0], n)
    exponent_low, exponent_high = bca(slope, n)
    prefactor_low, prefactor_high = _exp(np.array(bca(intercept, n)))
    return {
        "pearson": pearson[0],
        "pearson_low": low,
        "pearson_high": high,
        "fisher_low": fisher_low,
        "fisher_high": fisher_high,
        "exponent": slope[0],
        "exponent_low": exponent_low,
        "exponent_high": exponent_high,
        "prefactor": float(_exp(intercept[0])),
        "prefactor_low": prefactor_low,
        "prefactor_high": prefactor_high,
    }


def _exp(value: Any) -> Any:
    """Kept finite: few networks with nearly equal X can give a prefactor beyond all numbers."""
    return np.exp(np.clip(value, -700, 700))


def _partial(xy: Array, xs: Array, ys: Array, n: int) -> Row:
    """rho_xy.s = (rho_xy - rho_xs rho_ys) / sqrt((1 - rho_xs^2)(1 - rho_ys^2)); NaN for equal sizes."""
    with np.errstate(divide="ignore", invalid="ignore"):
        partial = np.clip((xy - xs * ys) / np.sqrt((1 - xs**2) * (1 - ys**2)), -1, 1)
    low, high = bca(partial, n)
    return {"partial": partial[0], "partial_low": low, "partial_high": high}


def holm(p: Array) -> Array:
    """p-values corrected for their number: Holm 1979, valid under any dependence; NaN stays and counts not.

    Example:
        >>> holm(np.array([0.01, 0.04, 0.03]))
        array([0.03, 0.06, 0.06])
    """
    corrected = np.full(len(p), np.nan)
    order = [i for i in np.argsort(p) if np.isfinite(p[i])]
    steps = p[order] * np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(np.maximum.accumulate(steps), 1)
    return corrected
