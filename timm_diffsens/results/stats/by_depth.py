"""The same correlation layer by layer: of the test error with D_k, G_k and R_k over relative depth."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from timm_diffsens.results.stats.families import jackknife_rho, leave_families_out
from timm_diffsens.results.stats.population import FEWEST, FEWEST_POINTS, MEASURES
from timm_diffsens.results.stats.resampling import Array, patterns, weighted_fits
from timm_diffsens.schema.layers import LayerSensitivity
from timm_diffsens.schema.records import Record, in_order

DEPTHS = tuple(round(0.1 * step, 1) for step in range(1, 11))
_COLUMNS = ["variant", "measure", "depth", "n", "pearson", "pearson_low", "pearson_high"]


def log_curve(layers: Sequence[LayerSensitivity], measure: str) -> Array:
    """log X_k at the depths of `DEPTHS`, linear between layers; (10,).

    NaN above the first layer with a value and below the last one: nothing is extrapolated. Layers without a
    value, or with 0, are stepped over.
    """
    known = [(layer.depth, value) for layer in layers if (value := getattr(layer, measure))]
    if not known:
        return np.full(len(DEPTHS), np.nan)
    depths, values = np.array(known).T
    curve: Array = np.interp(DEPTHS, depths, np.log(values), left=np.nan, right=np.nan)
    return curve


def log_curves(record: Record) -> dict[str, Array]:
    """Variant -> log D, G and R at the depths of `DEPTHS`; (3, 10)."""
    return {
        variant: np.array([log_curve(layers, measure) for measure in MEASURES])
        for variant, layers in record.variants.items()
        if layers
    }


def correlate_by_depth(
    curves: Sequence[Mapping[str, Array]],
    networks: Sequence[str],
    errors: Array,
    families: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Pearson correlation of the log test error with log D_k, G_k, R_k at each tenth of relative depth.

    The same test error at every depth; the trainings of a network are averaged as at the output.

    Args:
        curves: those of each record in the fits, see `log_curves`.
        networks: which network each is a training of (`frames.network_of`).
        errors: (records,), above 0.
        families: of each record; without them every network is one of its own.

    Returns:
        A row for each variant, measure and depth where there are values: `n` networks, `pearson`, and its
        95 % interval by leaving out whole families (missing below five networks or three families), which
        holds for one depth, not for all at once.
    """
    rows: list[dict[str, Any]] = []
    error = _by_network(np.log(errors)[:, None], networks)[:, 0]
    family = pd.Series(list(networks if families is None else families)).groupby(np.asarray(networks)).first()
    none = np.full((len(MEASURES), len(DEPTHS)), np.nan)
    for variant in in_order(name for own in curves for name in own):
        values = np.array([own.get(variant, none) for own in curves])
        columns = _by_network(values.reshape(len(curves), -1), networks)
        keys = [(measure, depth) for measure in MEASURES for depth in DEPTHS]
        for key, row in zip(keys, _correlated(columns, error, family.to_numpy(str)), strict=True):
            if row["n"]:
                rows.append({"variant": variant, "measure": key[0], "depth": key[1], **row})
    table: pd.DataFrame = pd.DataFrame(rows, columns=_COLUMNS)
    return table


def _by_network(values: Array, networks: Sequence[str]) -> Array:
    """Means over the rows of each network that have a value, in the order of their names."""
    means = pd.DataFrame(values).groupby(np.asarray(networks), sort=True).mean()
    averaged: Array = means.to_numpy(dtype=float)
    return averaged


def _correlated(table: Array, error: Array, families: Array) -> list[dict[str, Any]]:
    """A row for each column of `table`; columns with values for the same networks are done at once."""
    rows: list[dict[str, Any]] = [{"n": int(n)} for n in np.isfinite(table).sum(axis=0)]
    for present, columns in patterns(table):
        n = int(present.sum())
        if n < FEWEST_POINTS:
            continue
        weights = leave_families_out(families[present])
        pearson = weighted_fits(table[np.ix_(present, columns)], error[present], weights).pearson
        for place, column in enumerate(columns):
            rows[column]["pearson"] = pearson[0, place]
            if n >= FEWEST:
                found = jackknife_rho(pearson[:, place])
                rows[column] |= {"pearson_low": found.low, "pearson_high": found.high}
    return rows


def from_which_depth(by_depth: pd.DataFrame, measure: str) -> float | None:
    """The smallest depth from which on the interval excludes zero, on the side that it has at the output.

    The depths are tested in order from the output, up to the first that does not: such a sequence needs no
    correction for their number (Maurer, Hothorn and Lehmacher 1995).

    Args:
        by_depth: from `correlate_by_depth`; the original networks count.
        measure: d, g or r.

    Returns:
        A depth of `DEPTHS`; None where the interval at the output holds zero, or there is none.
    """
    rows = by_depth[(by_depth["variant"] == "original") & (by_depth["measure"] == measure)]
    sides = {
        row.depth: 1 if row.pearson_low > 0 else -1 if row.pearson_high < 0 else 0
        for row in rows.itertuples(index=False)
    }
    output = sides.get(1.0, 0)
    earliest = None
    for depth in reversed(DEPTHS):
        if not output or sides.get(depth) != output:
            break
        earliest = depth
    return earliest
