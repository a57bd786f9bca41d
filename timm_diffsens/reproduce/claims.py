"""What the paper claims, as regions for numbers, and whether a measured number lies in them.

The claims stand in `claims.csv`: a unique key, the statement, where in the paper it is, what is measured, and
the open interval in which that number lies if the statement is true (an open end is blank). Of statements
that exclude one another the intervals do not overlap: `becomes low` and `does not` share one border.
"""

import csv
import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import stats

Verdict = Literal["held", "not held", "not decided", "not testable"]
Region = tuple[float, float]
Numbers = dict[str, list["Finding"]]  # by claim

_TABLE = Path(__file__).with_name("claims.csv")
_NORMAL = 1.959963984540054  # 97.5 % quantile of the standard normal distribution
_PLAIN = ("key", "says", "source", "number", "why", "untestable")
_LEAST = 0.05  # p-value above which a test decides nothing


@dataclass(frozen=True)
class Finding:
    """One number that a claim is about: of one network, one size of noise, one layer.

    Attributes:
        name: what it is of.
        value: None where it does not exist; `reason` says why.
        low, high: of its 95 % interval; both None for a number without an error of its own, such as the
            spectrum of given filters, which is judged by its value.
        reason: why there is no value.
        p: of a test of the region's border, which then decides in place of the interval.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None
    p: float | None = None

    @classmethod
    def of(cls, name: str, value: Any, low: Any, high: Any, reason: str = "it has no value") -> "Finding":
        """With NaN, as tables have it, for what is not there. A value whose interval is missing has none."""
        numbers = [None if v is None or not math.isfinite(v) else float(v) for v in (value, low, high)]
        if None in numbers:
            return cls(name, None, reason=reason)
        return cls(name, numbers[0], numbers[1], numbers[2])

    @classmethod
    def normal(cls, name: str, value: float, stderr: float, freedom: int | None = None) -> "Finding":
        """A value with a standard error: 1.96 of them to either side.

        With `freedom`, the degrees of freedom of a standard error from a few copies or seeds, as many as
        Student's t has.
        """
        if freedom is not None and freedom < 1:
            return cls(name, None, reason="one copy or seed has no spread")
        width = _NORMAL if freedom is None else float(stats.t.ppf(0.975, freedom))
        return cls(name, value, value - width * stderr, value + width * stderr)

    @classmethod
    def mean(cls, name: str, values: Iterable[float | None]) -> "Finding":
        """The mean of independent values, of seeds or networks, with the interval of Student's t."""
        known = [value for value in values if value is not None]
        if len(known) < 2:
            return cls(name, None, reason="one has no spread" if known else "none has a value")
        return cls.normal(name, float(np.mean(known)), float(stats.sem(known)), len(known) - 1)

    def verdict(self, region: Region) -> Verdict:
        """Held if the whole interval lies inside the open region, not held if all of it lies outside.

        With a `p`, the side that the value is on counts, once p is at most 0.05.

        Example:
            >>> [Finding("a", 2, 1, 3).verdict(region) for region in ((0, 4), (2, 4), (4, 5))]
            ['held', 'not decided', 'not held']
            >>> Finding("b", 2).verdict((0, 4)), Finding("c", None).verdict((0, 4))
            ('held', 'not decided')
            >>> [Finding("d", 2, 1, 3, p=p).verdict((0, math.inf)) for p in (0.04, 0.06)]
            ['held', 'not decided']
        """
        if self.value is None or (self.p is not None and not self.p <= _LEAST):
            return "not decided"
        low, high = self.low, self.high
        if self.p is not None or low is None or high is None:
            low = high = self.value
        if region[0] < low and high < region[1]:
            return "held"
        return "not held" if high <= region[0] or low >= region[1] else "not decided"


@dataclass(frozen=True)
class Claim:
    """One statement of the paper, and what came out.

    Attributes:
        key, says, source, number, region: its row of `claims.csv`.
        parts: the numbers.
        why: the verdict may differ from the paper's: what was tested here, and what was not.
        untestable: why the statement, about a limit, cannot hold at the paper's own depth; else empty.
    """

    key: str
    says: str
    source: str
    number: str
    region: Region
    parts: tuple[Finding, ...]
    why: str = ""
    untestable: str = ""

    @classmethod
    def of(cls, key: str, parts: Iterable[Finding], why: str = "", **values: Any) -> "Claim":
        """The claim of this key, with these numbers; `values` fill the braces in what is measured."""
        row = known_claims()[key]
        number = row["number"].format(**values)
        return cls(key, row["says"], row["source"], number, region_of(key), tuple(parts), why)

    @property
    def verdicts(self) -> list[Verdict]:
        """One a part."""
        return [part.verdict(self.region) for part in self.parts]

    @property
    def verdict(self) -> Verdict:
        """Not held if it fails for any part, held if it holds for all, else not decided."""
        if self.untestable:
            return "not testable"
        found = self.verdicts
        if "not held" in found:
            return "not held"
        return "held" if found and set(found) == {"held"} else "not decided"

    @property
    def count(self) -> str:
        """How many parts it held for, where there are several: `3 of 4`."""
        several = len(self.parts) > 1 and not self.untestable
        return f"{self.verdicts.count('held')} of {len(self.parts)}" if several else ""

    def to_json(self) -> dict[str, Any]:
        """As plain values; an open end of the region is null."""
        low, high = (end if math.isfinite(end) else None for end in self.region)
        parts = [{**vars(p), "verdict": v} for p, v in zip(self.parts, self.verdicts, strict=True)]
        plain = {name: getattr(self, name) for name in _PLAIN}
        return {**plain, "region": [low, high], "verdict": self.verdict, "count": self.count, "parts": parts}


def region_of(key: str) -> Region:
    """Where the number of a claim lies if it is true: an open interval."""
    row = known_claims()[key]
    return float(row["low"] or -math.inf), float(row["high"] or math.inf)


@cache
def known_claims() -> dict[str, dict[str, str]]:
    """The rows of `claims.csv` by key."""
    with _TABLE.open(encoding="utf-8", newline="") as file:
        return {row["key"]: row for row in csv.DictReader(file)}
