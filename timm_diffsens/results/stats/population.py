"""Which records may be compared, which of them enter a fit, and the networks they stand for."""

from typing import Any

import numpy as np
import pandas as pd

from timm_diffsens.results.records.frames import columns_of, variants_of

MEASURES = ("d", "g", "r")
# Fields that must agree, and what to call them. Input sizes may differ, as in the paper; the unit of delta
# (pixels of the input, or at a reference side) is in the protocol.
COMPARABLE = {
    "dataset": "data set",
    "split": "split",
    "data_parameters": "parameters of the data set",
    "protocol": "protocol",
    "sample": "sample of images",
}
MOST_TRAIN_ERROR = 0.01  # of a network that fits its training set
FEWEST = 5  # networks that an interval needs
FEWEST_POINTS = 3  # that a correlation needs: any two lie on a line


def groups(frame: pd.DataFrame) -> list[pd.DataFrame]:
    """Rows that may be compared with one another, the largest group first; equal ones in order of fields."""
    fields = list(COMPARABLE)
    key = frame[fields].astype("string").fillna("")
    found = [rows for _, rows in frame.groupby([key[name] for name in fields], sort=True)]
    return sorted(found, key=len, reverse=True)


def left_out(frame: pd.DataFrame, include_unfitted: bool = False) -> "pd.Series[Any]":
    """Why each record of one group stays out of the fits; missing for those that are in.

    Zeros stay out too: they have no logarithm, and any number put in their place would decide the fit. With
    a training whose test error is zero the network's others stay out: their mean would be too large.

    Args:
        frame: rows of one group.
        include_unfitted: keep networks whose train error is above 1 %.
    """
    asked = frame[["error", "trained", "train_error", *MEASURES]]
    found = [_reason(row, include_unfitted) for row in asked.to_dict("records")]
    reasons: pd.Series[Any] = pd.Series(found, index=frame.index, dtype="string")
    perfect = frame["network"].isin(frame.loc[frame["error"] <= 0, "network"])
    reasons[perfect & reasons.isna()] = "another training of it has test error 0, which has no logarithm"
    repeated = _repeated(frame[reasons.isna()])
    reasons.loc[repeated.index] = repeated
    return reasons


def _reason(row: dict[Any, Any], include_unfitted: bool) -> str | None:
    if pd.isna(row["error"]):
        return "no test error"
    if row["error"] <= 0:
        return "the test error is 0, which has no logarithm"
    if row["trained"] is False:
        return "random weights"
    for name in MEASURES:
        if pd.isna(row[name]):
            return f"no {name.upper()} at the output"
        if row[name] <= 0:
            return f"{name.upper()} at the output is 0, which has no logarithm"
    if row["train_error"] > MOST_TRAIN_ERROR and not include_unfitted:
        return f"train error {row['train_error']:.1%}, above {MOST_TRAIN_ERROR:.0%}"
    return None


def _repeated(frame: pd.DataFrame) -> "pd.Series[Any]":
    """Records of weights that another record has too: the one with the most values stays."""
    order = frame.assign(values=-frame.notna().sum(axis=1)).sort_values(["values", "key", "path"])
    same = ["network", "weights_sha256"]
    first = order.groupby(same)["key"].transform("first").astype("string")
    repeats = first[order.duplicated(same)]
    named: pd.Series[Any] = "the same network as record " + repeats.str[:12]
    return named


def networks(frame: pd.DataFrame) -> pd.DataFrame:
    """One row a network: geometric means over its training seeds, sorted by `network`.

    Trainings of one network are no independent networks: counted apart they would make the intervals
    too narrow.

    Args:
        frame: the rows of one group that are in the fits.

    Returns:
        Columns `network`, `model`, `arch`, `family`, `seeds` (records), `parameters`, `error`,
        `error_stderr`, and D, G and R of every variant, those of the original with `_stderr`. Seeds without a
        value, or with 0, do not count; where no seed has one, it is NaN.
    """
    values = [
        "error",
        *(column for variant in variants_of(frame) for column in columns_of(variant, MEASURES)),
    ]
    by_network = frame.groupby("network", sort=True)
    first = by_network.agg(
        model=("model", "first"),
        arch=("arch", "first"),
        family=("family", "first"),
        seeds=("key", "size"),
        parameters=("parameters", "first"),
    )
    means = _logs(frame[values]).groupby(frame["network"], sort=True).mean().apply(np.exp)
    for name in ("error", *MEASURES):
        relative = (frame[f"{name}_stderr"] / frame[name]) ** 2
        of_network = relative.groupby(frame["network"], sort=True)
        spread = np.sqrt(of_network.sum().where(of_network.count() == first["seeds"]))
        means[f"{name}_stderr"] = means[name] * spread / first["seeds"]
    ordered = ["error", "error_stderr", *values[1:], *(f"{name}_stderr" for name in MEASURES)]
    joined: pd.DataFrame = first.join(means[ordered]).reset_index()
    return joined


def _logs(values: pd.DataFrame) -> pd.DataFrame:
    """Natural logarithms; NaN for what has none."""
    logs: pd.DataFrame = np.log(values.where(values > 0))
    return logs
