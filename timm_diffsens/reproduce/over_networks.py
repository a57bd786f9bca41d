"""Numbers that claims about sets of networks are about: correlations, their differences, and the order.

Networks of one family are not independent, so intervals and tests take whole families, as on the boards
(docs/statistics.md). Beside each stands what one family does to it: left out in turn.
"""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy import stats

from timm_diffsens.reproduce.claims import Finding, Numbers
from timm_diffsens.results.stats.comparisons import paired
from timm_diffsens.results.stats.families import FEWEST_FAMILIES, jackknife, leave_families_out
from timm_diffsens.results.stats.leaderboard import Group
from timm_diffsens.results.stats.population import FEWEST
from timm_diffsens.results.stats.resampling import weighted_fits

Array = npt.NDArray[np.float64]

SIGNS = {"r": "positive", "d": "positive", "g": "negative"}  # of the correlation with the test error


def rho(group: Group | None, measure: str, name: str, variant: str = "original") -> Finding:
    """The correlation of a measure with the test error, with its interval over families."""
    if group is None:
        return Finding(name, None, reason=f"fewer than {FEWEST} networks")
    rows = group.correlations.query("variant == @variant and measure == @measure")
    if rows.empty:
        return Finding(name, None, reason="no network has it")
    row = rows.iloc[0].to_dict()
    few = (
        f"{row['n']} networks of {row['families']} families; an interval needs {FEWEST} of {FEWEST_FAMILIES}"
    )
    return Finding.of(name, row["pearson"], row["family_low"], row["family_high"], row["note"] or few)


def better(group: Group | None, own: str, rival: str, name: str) -> Finding:
    """|rho| of one column less that of another; decided by exchanging the two in whole families.

    Args:
        group: the networks. own, rival: columns of its points. name: of the part.
    """
    if group is None:
        return Finding(name, None, reason=f"fewer than {FEWEST} networks")
    used = group.points.dropna(subset=["error", own, rival]) if rival in group.points else group.points[:0]
    if len(used) < FEWEST:
        return Finding(name, None, reason=f"{len(used)} networks, a test needs {FEWEST}")
    row = paired(used, own, rival)
    if not np.isfinite(row["p"]):
        return Finding(name, None, reason="all networks have the same value")
    low, high = (end if np.isfinite(end) else None for end in (row["low"], row["high"]))
    return Finding(name, float(row["difference"]), low, high, p=float(row["p"]))


def signs(group: Group | None, name: str) -> Numbers:
    """The three correlations."""
    return {f"{measure}-{sign}": [rho(group, measure, name)] for measure, sign in SIGNS.items()}


def one_family_less(group: Group | None, *columns: str) -> str:
    """`tested: without the family fc it is 0.74, without another -0.44 to -0.25`; empty where it cannot be.

    Of the correlation of one column with the test error, or of |rho| of the first less that of the second.
    """
    if group is None or not set(columns) <= set(group.points):
        return ""
    used = group.points.dropna(subset=["error", *columns])
    if len(used) < FEWEST or used["family"].nunique() < FEWEST_FAMILIES:
        return ""
    logs = np.log(used[["error", *columns]].to_numpy(float))
    families = used["family"].to_numpy(dtype=str)
    pearson = weighted_fits(logs[:, 1:], logs[:, 0], leave_families_out(families)).pearson
    values = pearson[:, 0] if len(columns) == 1 else np.abs(pearson[:, 0]) - np.abs(pearson[:, 1])
    names, without = np.unique(families), values[1:]
    far = int(np.argmax(np.abs(without - values[0])))
    others = np.delete(without, far)
    return (
        f"tested: without the family {names[far]} it is {without[far]:.2f}, without another one "
        f"{others.min():.2f} to {others.max():.2f}"
    )


def same_order(one: Group, other: Group) -> tuple[Finding, int]:
    """Spearman's correlation of the test errors of architectures that are in both; and of how many.

    Networks of one architecture, of several widths, are one at their geometric mean. The interval leaves out
    whole families.
    """
    errors: list[pd.Series[float]] = []
    families: dict[str, str] = {}
    for group in (one, other):
        points = group.points.assign(log=np.log(group.points["error"].astype(float)))
        errors.append(points.groupby("arch")["log"].mean())
        families |= dict(zip(points["arch"], points["family"], strict=True))
    both = pd.concat(errors, axis=1, keys=["one", "other"]).dropna()
    places = np.array([families[arch] for arch in both.index])
    if len(both) < FEWEST or len(set(places)) < FEWEST_FAMILIES:
        return Finding("Spearman", None, reason=f"{len(both)} architectures on both"), len(both)

    def spearman(kept: npt.NDArray[np.bool_]) -> float:
        return float(stats.spearmanr(both["one"][kept], both["other"][kept]).statistic)

    found = jackknife(left_out(spearman, places))
    return Finding.of("Spearman", found.value, max(found.low, -1.0), min(found.high, 1.0)), len(both)


def left_out(statistic: Callable[[npt.NDArray[np.bool_]], float], families: npt.NDArray[np.str_]) -> Array:
    """A statistic of all, then without each family, as `jackknife` takes it; (1 + families,)."""
    kept = [np.ones(len(families), bool), *(families != one for one in np.unique(families))]
    return np.array([statistic(each) for each in kept])
