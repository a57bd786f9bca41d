"""One paragraph on a group of networks: does R predict the test error, and better than D and G?"""

from collections.abc import Iterator
from math import isnan
from typing import Any

import pandas as pd

from timm_diffsens.results.numbers import PLAIN
from timm_diffsens.results.records.frames import Row
from timm_diffsens.results.stats.families import FEWEST_FAMILIES
from timm_diffsens.results.stats.population import FEWEST, FEWEST_POINTS, MEASURES, MOST_TRAIN_ERROR
from timm_diffsens.results.stats.resampling import LEVEL

_LEAST = 1 - LEVEL  # p-value above which nothing is said
EXPECTED = {"d": 1, "g": -1}  # sign of the correlation with the test error (arXiv 2210.01506, Fig. 1)


def verdict(
    correlations: pd.DataFrame,
    comparisons: pd.DataFrame,
    from_depth: dict[str, float | None],
    unfitted: int = 0,
) -> str:
    """What the correlations say, in one paragraph in which every statement has passed its corrected test.

    Tests and intervals take whole families of networks, not networks, as independent.

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
    if found["n"] < FEWEST_POINTS:
        few = f"{_count(found['n'])} {'is' if found['n'] == 1 else 'are'} too few for correlations"
        yield f"Undecided: {few}: at least {FEWEST_POINTS} are needed, and {FEWEST} for their intervals."
        return
    if found["n"] < FEWEST:
        yield f"Undecided: {_count(found['n'])}, and an interval needs at least {FEWEST}."
        return
    if isnan(found["pearson"]):
        yield f"Undecided: {found['note']}."
        return
    if isnan(found["p_corrected"]):
        yield (
            f"Undecided: {_over(found)} rho(test error, R) = {PLAIN.decimals(found['pearson'])}, and an "
            f"interval needs at least {FEWEST_FAMILIES} families."
        )
        return
    yield _of_r(found)
    rivals: Any = comparisons[comparisons["variant"] == "original"].to_dict("records")
    yield from (_against(row, rows.get(("original", row["rival"]))) for row in rivals)
    for measure, expected in EXPECTED.items():
        row = rows.get(("original", measure))
        if row is not None and _sign(row) == -expected and not _turned(row):
            more = "larger" if expected > 0 else "smaller"
            yield f"Networks with a {more} {measure.upper()} err less, against the paper's finding."
    yield from (_within(row) for m in MEASURES if (row := rows.get(("original", m))) and _turned(row))
    if not isnan(found["partial"]):
        yield _given_size(found)
    depth = from_depth.get("r")
    if depth is not None and _sign(found):
        span = "at the output only" if depth == 1 else f"from relative depth {depth:g} on"
        yield f"The interval of R_k excludes zero {span}."
    yield from _at_initialisation(rows.get(("init", "r")))


def _over(row: Row) -> str:
    return f"over {_count(row['n'])} of {row['families']} famil{'y' if row['families'] == 1 else 'ies'}"


def _of_r(row: Row) -> str:
    over = f"{_over(row).capitalize()} rho(test error, R) = {_value(row)} on logarithms"
    if not _sign(row):
        p = f"p = {PLAIN.p_value(row['p_corrected'])} corrected for all tests of the table"
        alone = ", though its interval alone excludes zero" if _excludes_zero(row) else ""
        return f"{over}: whether the test error goes with R is undecided ({p}{alone})."
    if _sign(row) < 0:
        return f"{over}: networks with a larger R at the output err less, against the paper's finding."
    exponent = PLAIN.statistic(row, "exponent", "no interval")
    return f"{over}: networks with a smaller R at the output err less (e ~ R^{exponent})."


def _excludes_zero(row: Row) -> bool:
    return bool(row["family_low"] * row["family_high"] > 0)


def _turned(row: Row) -> bool:
    """Whether, inside of families, the correlation decidedly has the other sign."""
    return bool(row["within"] * row["pearson"] < 0 and row["within_p"] <= _LEAST)


def _within(row: Row) -> str:
    name = row["measure"].upper()
    return (
        f"Within families it is the other way for {name}: rho = {PLAIN.decimals(row['within'])} "
        f"(p = {PLAIN.p_value(row['within_p'])}), against {PLAIN.decimals(row['pearson'])} over all."
    )


def _against(row: Row, rival: Row | None) -> str:
    name = row["rival"].upper()
    if rival is None or row["answer"] == "too few" or isnan(row["difference"]):
        return f"Whether R does better than {name} is undecided: too few networks have both."
    theirs = f"rho({name}) = {_value(rival)}"
    by = f"in size it differs by {PLAIN.decimals(row['difference'], '+')} (p = {PLAIN.p_value(row['p'])})"
    if row["answer"] == "yes":
        return f"R correlates better than {name}: {theirs}, {by}."
    if row["answer"] == "no":
        return f"R correlates worse than {name}: {theirs}, {by}."
    return f"Whether R correlates better than {name} is undecided: {theirs}, {by}."


def _given_size(row: Row) -> str:
    value = f"Given the number of parameters it is {PLAIN.statistic(row, 'partial', 'no interval')}"
    decided = row["partial_low"] > 0 or row["partial_high"] < 0
    return f"{value}{'.' if decided else ', which decides nothing.'}"


def _at_initialisation(row: Row | None) -> Iterator[str]:
    if row is not None and row["n"] >= FEWEST and not isnan(row["pearson"]):
        held = "is seen too" if _sign(row) else "cannot be told from none"
        p = "" if isnan(row["p_corrected"]) else f", p = {PLAIN.p_value(row['p_corrected'])} corrected"
        yield f"At initialisation a correlation with R {held}: {_value(row)}{p}."


def _sign(row: Row) -> int:
    """On which side of 0 a correlation is; 0 where its corrected test does not say."""
    return 0 if not row["p_corrected"] <= _LEAST else 1 if row["pearson"] > 0 else -1


def _value(row: Row) -> str:
    return PLAIN.rho(row, "no interval")


def _count(n: int) -> str:
    return f"{n} network{'' if n == 1 else 's'}"
