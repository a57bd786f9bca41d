"""Does the correlation depend on the deformation: the same networks under each that their records share."""

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from timm_diffsens.results.stats.correlate import correlate_networks
from timm_diffsens.results.stats.population import FEWEST, left_out, networks
from timm_diffsens.schema.layers import MEASURES
from timm_diffsens.schema.records import Record

_COLUMNS = ["deformation", "measure", "n", "pearson", "family_low", "family_high"]


def by_deformation(
    rows: pd.DataFrame, records: Sequence[Record], include_unfitted: bool, drawn: Mapping[str, Any]
) -> pd.DataFrame:
    """The correlations at the output of original networks, under each deformation.

    Args:
        rows: of one group, indexed by the place of their record.
        records: all of the board.
        include_unfitted: see `population.left_out`.
        drawn: bootstrap samples and their seed, see `correlate_networks`.

    Returns:
        See `Group.deformations`, over the records that have all deformations that half of the group has;
        empty where these are fewer than five.
    """
    views: dict[str, list[tuple[int, Record]]] = {}
    for place in rows.index:
        for view in records[place].views():
            views.setdefault(view.protocol.sha256, []).append((place, view))
    wide = [found for found in views.values() if len(found) >= max(FEWEST, len(rows) / 2)]
    same = set.intersection(*({place for place, _ in found} for found in wide)) if wide else set()
    shared = [[one for one in found if one[0] in same] for found in wide]  # the same networks in each row
    if len(shared) < 2 or len(same) < FEWEST:
        nothing: pd.DataFrame = pd.DataFrame(columns=_COLUMNS)
        return nothing
    parts = [_under_one(rows, found, include_unfitted, drawn) for found in shared]
    whole: pd.DataFrame = pd.concat(parts, ignore_index=True)
    return whole


def _under_one(
    rows: pd.DataFrame, views: list[tuple[int, Record]], include_unfitted: bool, drawn: Mapping[str, Any]
) -> pd.DataFrame:
    own = [name for name in rows.columns if not name.endswith(tuple(f"_{measure}" for measure in MEASURES))]
    under = rows.loc[[place for place, _ in views], own].copy()
    for measure in MEASURES:
        under[measure] = pd.array([getattr(view.output, measure) for _, view in views], dtype="Float64")
        under[measure] = under[measure].astype("float64")
    table = correlate_networks(networks(under[left_out(under, include_unfitted).isna()]), **drawn)
    named: pd.DataFrame = table.assign(deformation=views[0][1].protocol.deformation_text)[_COLUMNS]
    return named
