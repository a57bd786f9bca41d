"""Published test errors: timm's results files, joined to records by model name."""

from pathlib import Path
from typing import Any

import pandas as pd

from timm_diffsens.errors import UsageError

_MODEL, _ERROR, _SIZE = "model", "top1_err", "img_size"


def read_errors(path: str | Path) -> pd.DataFrame:
    """A results file such as timm's `results-imagenet.csv`.

    Args:
        path: of a CSV file with the columns `model` (with its weights tag) and `top1_err` (per cent);
            `img_size`, where there is one, tells several rows of one model apart.

    Returns:
        Columns `model`, `error` (a fraction), `size` (pixels, or missing).

    Raises:
        UsageError: no such file, no CSV, a column is missing, or an error is no percentage.
    """
    try:
        table = pd.read_csv(path)
    except (OSError, ValueError) as error:  # pandas' parser errors, and text that is no text, are ValueErrors
        raise UsageError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from None
    missing = [name for name in (_MODEL, _ERROR) if name not in table]
    if missing:
        raise UsageError(
            f"{path} has no column {' and '.join(missing)}, but {', '.join(map(str, table.columns[:8]))}; "
            "expected those of timm's results-imagenet.csv"
        )
    percent = pd.to_numeric(table[_ERROR], errors="coerce")
    bad = table[_MODEL][~percent.between(0, 100)]
    if len(bad):
        raise UsageError(f"{path}: {_ERROR} of {bad.iloc[0]} is no percentage ({len(bad)} such rows)")
    size = pd.to_numeric(table[_SIZE], errors="coerce") if _SIZE in table else float("nan")
    found = {"model": table[_MODEL].astype("string"), "error": (percent / 100).round(7), "size": size}
    errors: pd.DataFrame = pd.DataFrame(found)
    return errors


def with_published(frame: pd.DataFrame, errors: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Records with the published error in place of their own, where there is one.

    Only for published weights on clean ImageNet-like images: weights from a file may be others than those
    that the name stands for.

    Args:
        frame: from `read_records`.
        errors: from `read_errors`.

    Returns:
        A copy with `error`, no `error_stderr`, and `error_source` "published" in the matched rows; and a line
        on each record that was not matched.
    """
    joined, notes = frame.copy(), []
    for row in frame.to_dict("records"):
        rows = frame["key"] == row["key"]
        reason = _unfit(row)
        found = None if reason else _lookup(row, errors)
        if found is None:
            notes.append(f"no published error for {row['model']}: {reason or 'no row of that name'}")
            continue
        joined.loc[rows, "error"] = found
        joined.loc[rows, "error_stderr"] = float("nan")
        joined.loc[rows, "error_source"] = "published"
    return joined, list(dict.fromkeys(notes))


def _unfit(row: dict[Any, Any]) -> str | None:
    if "imagenet" not in row["dataset"].lower():
        return f"the images are those of {row['dataset']}, not ImageNet's"
    if row["corruption_sigma"]:
        return "the images were corrupted"
    if row["weights"] != "pretrained":
        return f"the weights are not the published ones ({row['weights']})"
    return None


def _lookup(row: dict[Any, Any], errors: pd.DataFrame) -> float | None:
    """By the spec, or by the name of the weights on the Hub; of several rows, that of the input size."""
    details = [row["weights_detail"]] if isinstance(row["weights_detail"], str) else []
    for name in (row["model"], *details):
        same = errors[errors["model"] == name.split(":")[-1].split("/")[-1]]
        of_size = same[same["size"] == row["height"]]
        if len(of_size) or len(same) == 1:
            return float((of_size if len(of_size) else same)["error"].iloc[0])
    return None
