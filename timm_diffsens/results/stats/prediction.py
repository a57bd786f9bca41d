"""Where the power law of a board, e ~ a X^b, puts the test error of a network that is not on it.

The law and its interval: `held_out`.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pandas as pd

from timm_diffsens.errors import UsageError
from timm_diffsens.results.numbers import PLAIN, significant
from timm_diffsens.results.records.frames import network_of, rows_of
from timm_diffsens.results.stats.groups import differences, group_slug
from timm_diffsens.results.stats.held_out import held_out, interval, logarithms, unfit
from timm_diffsens.results.stats.leaderboard import Group, Leaderboard
from timm_diffsens.results.stats.mixed import RandomIntercept, tells_of_families
from timm_diffsens.results.stats.population import MEASURES, MOST_TRAIN_ERROR
from timm_diffsens.schema.families import family_of
from timm_diffsens.schema.records import Record

_COLUMNS = ["measure", "value", "n", "families", "error", "low", "high", "inside", "of", "note"]


@dataclass(frozen=True)
class Prediction:
    """The errors that the laws of one group give a network.

    Attributes:
        group: of the board, whose records are comparable with that of the network.
        network: the record, under the deformation of that group.
        family: of the network; `known`: whether the group has other networks of it.
        rows: one a measure, in the order of `MEASURES`: `measure`, `value` (X of the network), `n` and
            `families` that the law is of, `error` (median), `low` and `high` (90 %), and of leaving out each
            family in turn: `inside` of `of` networks are inside of their interval; `note`, why not.
    """

    group: Group
    network: Record
    family: str
    known: bool
    rows: pd.DataFrame

    def cautions(self) -> Iterator[str]:
        """Where the laws are stretched, the network's own error, and whether it fitted as theirs did."""
        record, outside = self.network, []
        for row in rows_of(self.rows):
            values, name = self.group.points[row["measure"]].dropna(), row["measure"].upper()
            if row["value"] is not None and len(values) and not values.min() <= row["value"] <= values.max():
                span = f"{significant(values.min())} to {significant(values.max())}"
                yield f"{name} lies outside of the board's {span}: its row is extrapolated."
            error = record.test_error.value
            if error is not None and row["error"] is not None and not row["low"] <= error <= row["high"]:
                outside.append(name)
        if record.test_error.value is not None:
            known = PLAIN.percentage(record.test_error.value, record.test_error.stderr)
            missed = f", outside of the interval by {', '.join(outside)}" if outside else ""
            yield f"Its test error is {known} ({record.test_error.source}){missed}."
        theirs = self.group.models.loc[self.group.models["in_fit"], "train_error"]
        fitted = record.train_error is not None and record.train_error <= MOST_TRAIN_ERROR
        if len(theirs) and theirs.le(MOST_TRAIN_ERROR).all() and not fitted:
            own = "is not known" if record.train_error is None else f"is {record.train_error:.1%}"
            most = f"{MOST_TRAIN_ERROR:.0%} of their training images"
            yield f"The laws are of networks that err on at most {most}; its training error {own}."


def predict(board: Leaderboard, record: Record) -> Prediction:
    """The errors that a board's laws give the network of a record, which is left out of them if it is there.

    Raises:
        UsageError: its weights are random; no group of the board has comparable records.
    """
    if record.trained is False:
        raise UsageError(f"{record.model.spec} has random weights; the law is one of trained networks")
    slugs = {group.slug: group for group in board.groups}
    view = next((one for one in record.views() if group_slug(one) in slugs), None)
    if view is None:
        why = "it has no records" if not board.records else differences(record, board.records[0][1])
        raise UsageError(f"nothing on the board can be compared with {record.model.spec}: {why}")
    group, family = slugs[group_slug(view)], family_of(record.model)
    points = group.points[group.points["network"] != network_of(record)]
    rows = [_row(points, measure, getattr(view.output, measure), family) for measure in MEASURES]
    known = bool((points["family"] == family).any()) and tells_of_families(
        len(points), points["family"].nunique()
    )
    return Prediction(group, view, family, known, pd.DataFrame(rows, columns=_COLUMNS))


def _row(points: pd.DataFrame, measure: str, value: float | None, family: str) -> dict[str, object]:
    x, y, families = logarithms(points, measure)
    row = {"measure": measure, "value": value, "n": len(x), "families": len(np.unique(families))}
    note = unfit(x, families)
    if note or not value:
        return {**row, "note": note or f"no {measure.upper()} at the output"}
    low, middle, high = np.exp(interval(RandomIntercept.of(x, y, families), float(np.log(value)), family))
    inside = held_out(x, y, families)[:, 0]
    tried, count = int(np.isfinite(inside).sum()), int(np.nansum(inside))
    return {**row, "error": middle, "low": low, "high": high, "inside": count, "of": tried, "note": ""}
