"""Correlation of the test error with D, G and R at the output, over networks: Fig. 1 of arXiv 2210.01506."""

from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from timm_diffsens.results.records.frames import Row, columns_of, variants_of
from timm_diffsens.results.stats.families import (
    Jackknifed,
    jackknife,
    jackknife_rho,
    leave_families_out,
    random_intercept,
    within_families,
)
from timm_diffsens.results.stats.population import (
    COMPARABLE,
    FEWEST,
    FEWEST_POINTS,
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
    weighted_fits,
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
    "family_low",
    "family_high",
    "p_family",
    "p_corrected",
    "without_low",
    "without_high",
    "within",
    "within_p",
    "mixed",
    "mixed_low",
    "mixed_high",
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
COLUMNS = ["variant", "measure", "n", "families", "records", "left_out", *_STATISTICS, "note"]
_TYPES = dict.fromkeys(_STATISTICS, "float64") | dict.fromkeys(
    ["n", "families", "records", "left_out"], "int64"
)
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
        - `n` networks of `families` families from `records` records, with `left_out` records of the group;
        - `pearson` with its 95 % intervals as if networks were independent, BCa bootstrap (`_low`, `_high`)
          and Fisher z (`fisher_`), and `p` (two-sided t test); `spearman`, `kendall` (tau-b);
        - `family_low`, `family_high` and `p_family`: the same of whole families (`families.jackknife_rho`),
          and `p_corrected` after Holm 1979 for all tests of the group, however they depend on one another;
        - `without_low`, `without_high`: the least and the most that `pearson` is without one of the families;
        - `within`: the correlation inside of families, and `within_p` of its permutation test, corrected too;
        - `mixed`: the exponent b with an intercept for each family, random (`families.random_intercept`);
        - `partial`: the Pearson correlation given the logarithm of the number of parameters;
        - `exponent` b and `prefactor` a of e ~ a X^b, least squares on the logarithms; the intervals of these
          three leave out whole families;
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
    table["p_corrected"] = holm(table["p_family"].to_numpy(dtype=float))
    table["within_p"] = holm(table["within_p"].to_numpy(dtype=float))
    typed: pd.DataFrame = table.astype({name: _TYPES[name] for name in COLUMNS})
    return typed


def _rows(used: pd.DataFrame, logs: Array, resamples: int, seed: int) -> list[Row]:
    """A row for each column of `logs`, (networks, columns), all finite."""
    n, families = len(used), used["family"].to_numpy(dtype=str)
    y, size = (np.log(used[name].to_numpy(dtype=float)) for name in ("error", "parameters"))
    known = {"n": n, "families": len(set(families)), "records": int(used["seeds"].sum()), "note": ""}
    rows: list[Row] = [dict(known) for _ in logs.T]
    if n < FEWEST:
        few = {"note": "too few"}
        return [
            row | _ranks(x, y) | {"pearson": _pearson(x, y)} | few
            for row, x in zip(rows, logs.T, strict=True)
        ]
    plain = resampled_fits(logs, y, resamples, seed).pearson
    weights = leave_families_out(families)
    lines = weighted_fits(logs, y, weights)
    sizes = weighted_fits(np.column_stack([logs, y]), size, weights).pearson
    for place, (row, x) in enumerate(zip(rows, logs.T, strict=True)):
        if not varies(x) or not varies(y):
            row["note"] = f"all networks have the same {'value' if varies(y) else 'test error'}"
            continue
        row |= _ranks(x, y) | _independent(x, y, plain[:, place])
        row |= _of_families(lines.pearson[:, place], lines.slope[:, place], lines.intercept[:, place])
        row |= _partial(lines.pearson[:, place], sizes[:, place], sizes[:, -1])
        row["within"], row["within_p"] = within_families(x, y, families, resamples, seed)
        row |= _ends("mixed", random_intercept(x, y, families))
    return rows


def _pearson(x: Array, y: Array) -> float:
    """NaN below three points and where nothing varies."""
    enough = len(x) >= FEWEST_POINTS and varies(x) and varies(y)
    return float(stats.pearsonr(x, y).statistic) if enough else np.nan


def _ranks(x: Array, y: Array) -> Row:
    if len(x) < FEWEST_POINTS or not varies(x) or not varies(y):
        return {}
    return {
        "spearman": float(stats.spearmanr(x, y).statistic),
        "kendall": float(stats.kendalltau(x, y).statistic),
    }


def _independent(x: Array, y: Array, pearson: Array) -> Row:
    """As if networks were independent; `pearson` as `bca` takes it."""
    low, high = bca(pearson, len(x))
    fisher_low, fisher_high = fisher_z(pearson[0], len(x))
    return {
        "pearson": pearson[0],
        "pearson_low": low,
        "pearson_high": high,
        "fisher_low": fisher_low,
        "fisher_high": fisher_high,
        "p": float(stats.pearsonr(x, y).pvalue),
    }


def _of_families(pearson: Array, slope: Array, intercept: Array) -> Row:
    """By leaving out families; each argument has a weighting a row, as in `leave_families_out`."""
    rho, prefactor = jackknife_rho(pearson), jackknife(intercept)
    without = pearson[1:][np.isfinite(pearson[1:])]
    return {
        "family_low": rho.low,
        "family_high": rho.high,
        "p_family": rho.p,
        "without_low": without.min() if len(without) else np.nan,
        "without_high": without.max() if len(without) else np.nan,
        **_ends("exponent", jackknife(slope)),
        "prefactor": float(_exp(prefactor.value)),
        "prefactor_low": float(_exp(prefactor.low)),
        "prefactor_high": float(_exp(prefactor.high)),
    }


def _ends(name: str, found: Jackknifed) -> Row:
    return {name: found.value, f"{name}_low": found.low, f"{name}_high": found.high}


def _exp(value: Any) -> Any:
    """Kept finite: few networks with nearly equal X can give a prefactor beyond all numbers."""
    return np.exp(np.clip(value, -700, 700))


def _partial(xy: Array, xs: Array, ys: Array) -> Row:
    """rho_xy.s = (rho_xy - rho_xs rho_ys) / sqrt((1 - rho_xs^2)(1 - rho_ys^2)); NaN for equal sizes."""
    with np.errstate(divide="ignore", invalid="ignore"):
        partial = np.clip((xy - xs * ys) / np.sqrt((1 - xs**2) * (1 - ys**2)), -1, 1)
    return _ends("partial", jackknife_rho(partial))


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
