"""What the paper claims, as regions for numbers, and whether a measured number lies in them.

The claims stand in `claims.csv`: a unique key, the statement, where in the paper it is, what is measured, and
the open interval in which that number lies if the statement is true (an open end is blank).
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

Verdict = Literal["held", "not held", "not decided"]
Region = tuple[float, float]
Numbers = dict[str, list["Finding"]]  # by claim

_TABLE = Path(__file__).with_name("claims.csv")
_NORMAL = 1.959963984540054  # 97.5 % quantile of the standard normal distribution


@dataclass(frozen=True)
class Finding:
    """One number that a claim is about: of one network, one size of noise, one layer.

    Attributes:
        name: what it is of.
        value: None where it does not exist; `reason` says why.
        low, high: of its 95 % interval; both None for a number without an error of its own, such as the
            spectrum of given filters, which is judged by its value.
        reason: why there is no value.
    """

    name: str
    value: float | None
    low: float | None = None
    high: float | None = None
    reason: str | None = None

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
        """The mean of independent values, seeds say, with the interval of Student's t."""
        known = [value for value in values if value is not None]
        if len(known) < 2:
            return cls(name, None, reason="one seed has no spread" if known else "no seed has a value")
        return cls.normal(name, float(np.mean(known)), float(stats.sem(known)), len(known) - 1)

    def verdict(self, region: Region) -> Verdict:
        """Held if the whole interval lies inside the open region, not held if all of it lies outside.

        Example:
            >>> [Finding("a", 2, 1, 3).verdict(region) for region in ((0, 4), (2, 4), (4, 5))]
            ['held', 'not decided', 'not held']
            >>> Finding("b", 2).verdict((0, 4)), Finding("c", None).verdict((0, 4))
            ('held', 'not decided')
        """
        if self.value is None:
            return "not decided"
        low = self.value if self.low is None else self.low
        high = self.value if self.high is None else self.high
        if region[0] < low and high < region[1]:
            return "held"
        return "not held" if high <= region[0] or low >= region[1] else "not decided"


@dataclass(frozen=True)
class Claim:
    """One statement of the paper, and what came out.

    Attributes:
        key, says, source, number, region: its row of `claims.csv`.
        parts: the numbers.
        likely: why the outcome may differ from the paper's at this scale, for the reader of the verdict.
    """

    key: str
    says: str
    source: str
    number: str
    region: Region
    parts: tuple[Finding, ...]
    likely: str = ""

    @classmethod
    def of(cls, key: str, parts: Iterable[Finding], likely: str = "", **values: Any) -> "Claim":
        """The claim of this key, with these numbers; `values` fill the braces in what is measured."""
        row = known_claims()[key]
        region = float(row["low"] or -math.inf), float(row["high"] or math.inf)
        number = row["number"].format(**values)
        return cls(key, row["says"], row["source"], number, region, tuple(parts), likely)

    @property
    def verdicts(self) -> list[Verdict]:
        """One a part."""
        return [part.verdict(self.region) for part in self.parts]

    @property
    def verdict(self) -> Verdict:
        """Not held if it fails for any part, held if it holds for all, else not decided."""
        found = self.verdicts
        if "not held" in found:
            return "not held"
        return "held" if found and set(found) == {"held"} else "not decided"

    @property
    def count(self) -> str:
        """How many parts it held for, where there are several: `3 of 4`."""
        return f"{self.verdicts.count('held')} of {len(self.parts)}" if len(self.parts) > 1 else ""

    def to_json(self) -> dict[str, Any]:
        """As plain values; an open end of the region is null."""
        low, high = (end if math.isfinite(end) else None for end in self.region)
        parts = [{**vars(p), "verdict": v} for p, v in zip(self.parts, self.verdicts, strict=True)]
        plain = {name: getattr(self, name) for name in ("key", "says", "source", "number", "likely")}
        return {**plain, "region": [low, high], "verdict": self.verdict, "count": self.count, "parts": parts}


@cache
def known_claims() -> dict[str, dict[str, str]]:
    """The rows of `claims.csv` by key."""
    with _TABLE.open(encoding="utf-8", newline="") as file:
        return {row["key"]: row for row in csv.DictReader(file)}
