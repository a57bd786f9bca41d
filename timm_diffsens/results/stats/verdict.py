"""One paragraph on a group of networks: does R predict the test error, and better than D and G?"""

from collections.abc import Iterator
from math import isnan
from typing import Any

import pandas as pd

from timm_diffsens.results.numbers import PLAIN
from timm_diffsens.results.records.frames import Row
from timm_diffsens.results.stats.population import FEWEST, MOST_TRAIN_ERROR

EXPECTED = {"d": 1, "g": -1}  # sign of the correlation with the test error (arXiv 2210.01506, Fig. 1)


def verdict(
    correlations: pd.DataFrame,
    comparisons: pd.DataFrame,
    from_depth: dict[str, float | None],
    unfitted: int = 0,
) -> str:
    """What the correlations say, in one paragraph that claims no more than their 95 % intervals allow.

    Args:
        correlations: from `correlate_networks`.
        comparisons: from `compare`.
        from_depth: measure -> relative depth from which on its interval excludes zero.
        unfitted: networks in the fits that did not fit their training set, which the paper's did.
    """
    said = [*_sentences(correlations, comparisons, from_depth)]
    rows = correlations[(correlations["variant"] == "original") & (correlations["measure"] == "r")]
    if unfitted and len(rows):
        said.append(_unfitted(unfitted, int(rows["n"].iloc[0])))
    return " ".join(said)


def _unfitted(unfitted: int, n: int) -> str:
    some = f"{unfitted} of the {_count(n)} do not fit their"
    which = f"None of the {_count(n)} fits its" if unfitted == n else some
    above = f"train error above {100 * MOST_TRAIN_ERROR:g} %"
    return f"{which} training set ({above}), unlike those of the paper; they are in the fits all the same."


def _sentences(
    correlations: pd.DataFrame, comparisons: pd.DataFrame, from_depth: dict[str, float | None]
) -> Iterator[str]:
    listed: Any = correlations.to_dict("records")
    rows: dict[tuple[str, str], Row] = {(row["variant"], row["measure"]): row for row in listed}
    found = rows.get(("original", "r"))
    if found is None:
        yield "Undecided: no network is in the fits."
        return
    if found["n"] < FEWEST:
        yield f"Undecided: {_count(found['n'])}, and an interval needs at least {FEWEST}."
        return
    if isnan(found["pearson"]):
        yield f"Undecided: {found['note']}."
        return
    yield _of_r(found)
    rivals: Any = comparisons[comparisons["variant"] == "original"].to_dict("records")
    yield from (_against(row, rows.get(("original", row["rival"]))) for row in rivals)
    for measure, expected in EXPECTED.items():
        row = rows.get(("original", measure))
        if row is not None and not isnan(row["pearson"]) and _sign(row) == -expected:
            more = "larger" if expected > 0 else "smaller"
            yield f"Networks with a {more} {measure.upper()} err less, against the paper's finding."
    if not isnan(found["partial"]):
        yield _given_size(found)
    depth = from_depth.get("r")
    if depth is not None:
        span = "at the output only" if depth == 1 else f"from relative depth {depth:g} on"
        yield f"The interval of R_k excludes zero {span}."
    yield from _at_initialisation(rows.get(("init", "r")))


def _of_r(row: Row) -> str:
    over = f"Over {_count(row['n'])} rho(test error, R) = {_value(row, 'pearson')} on logarithms"
    if _sign(row) > 0:
        return f"{over}: networks with a smaller R at the output err less (e ~ R^{_value(row, 'exponent')})."
    if _sign(row) < 0:
        return f"{over}: networks with a larger R at the output err less, against the paper's finding."
    return f"{over}: whether the test error goes with R is undecided, the interval holds 0."


def _against(row: Row, rival: Row | None) -> str:
    name = row["rival"].upper()
    if rival is None or row["answer"] == "too few" or isnan(row["difference"]):
        return f"Whether R does better than {name} is undecided: too few networks have both."
    theirs = f"rho({name}) = {_value(rival, 'pearson')}"
    by = f"|rho| differs by {PLAIN.with_interval(row['difference'], row['low'], row['high'], sign='+')}"
    if row["answer"] == "yes":
        return f"R correlates better than {name}: {theirs}, {by}."
    if row["answer"] == "no":
        return f"R correlates worse than {name}: {theirs}, {by}."
    return f"Whether R correlates better than {name} is undecided: {theirs}, {by}."


def _given_size(row: Row) -> str:
    value = f"Given the number of parameters it is {_value(row, 'partial')}"
    side = 1 if row["partial_low"] > 0 else -1 if row["partial_high"] < 0 else 0
    return f"{value}{'.' if side and side == _sign(row) else ', which decides nothing.'}"


def _at_initialisation(row: Row | None) -> Iterator[str]:
    if row is not None and row["n"] >= FEWEST and not isnan(row["pearson"]):
        held = "is seen too" if _sign(row) else "cannot be told from none"
        yield f"At initialisation a correlation with R {held}: {_value(row, 'pearson')}."


def _sign(row: Row) -> int:
    """On which side of 0 the whole interval lies; 0 if on neither."""
    return 1 if row["pearson_low"] > 0 else -1 if row["pearson_high"] < 0 else 0


def _value(row: Row, name: str) -> str:
    return PLAIN.statistic(row, name, "no interval")


def _count(n: int) -> str:
    return f"{n} network{'' if n == 1 else 's'}"
