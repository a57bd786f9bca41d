"""Numbers, intervals and missing values as text: the only place that knows how they are written."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from statistics import fmean
from typing import Any

from timm_diffsens.schema.layers import LayerSensitivity

MISSING = "-"
_BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Notation:
    """How numbers are written in one kind of text.

    Statistics are taken from the row of a table: `pearson`, and its interval `pearson_low` to `pearson_high`.
    None and NaN are missing values.

    Attributes:
        missing: stands for a value that does not exist.
        minus: the sign of a negative number.
        percent: stands behind each percentage. unit: stands once, behind a percentage and its error.
        p_digits: significant digits of a p-value. p_least: below it only this bound is given.
    """

    missing: str = MISSING
    minus: str = "-"
    percent: str = "%"
    unit: str = ""
    p_digits: int = 1
    p_least: float = 0.0

    def decimals(self, value: float | None, sign: str = "") -> str:
        """Two decimals; with `sign="+"` a positive number has its sign too."""
        return self.missing if is_missing(value) else f"{value:{sign}.2f}".replace("-", self.minus)

    def interval(self, low: float | None, high: float | None, sign: str = "") -> str:
        """`low to high`."""
        if is_missing(low) or is_missing(high):
            return self.missing
        return f"{self.decimals(low, sign)} to {self.decimals(high, sign)}"

    def interval_of(self, row: Mapping[str, Any], name: str) -> str:
        """The interval of a statistic."""
        return self.interval(row[f"{name}_low"], row[f"{name}_high"])

    def with_interval(
        self, value: float | None, low: float | None, high: float | None, *, sign: str = "", none: str = ""
    ) -> str:
        """`value (low to high)`; where there is no interval, the value alone or with `none` in brackets."""
        found = self.interval(low, high, sign)
        shown = none if found == self.missing else found
        return self.decimals(value, sign) + (f" ({shown})" if shown else "")

    def statistic(self, row: Mapping[str, Any], name: str, none: str = "") -> str:
        """A statistic with its interval, as `with_interval`."""
        return self.with_interval(row[name], row[f"{name}_low"], row[f"{name}_high"], none=none)

    def rho(self, row: Mapping[str, Any], none: str = "") -> str:
        """A correlation with its interval over families, as `with_interval`."""
        return self.with_interval(row["pearson"], row["family_low"], row["family_high"], none=none)

    def measured(self, row: Mapping[str, Any], name: str) -> str:
        """`with_error` of the columns `name` and `name_stderr`."""
        value = row.get(name)
        return self.missing if is_missing(value) else with_error(value, row.get(f"{name}_stderr"))

    def percentage(self, value: float | None, stderr: float | None = None) -> str:
        """A fraction as a percentage, with its standard error.

        Example:
            >>> PLAIN.percentage(0.288, 0.0203), PAGE.percentage(0.288, 0.0203), PLAIN.percentage(0.05)
            ('28.8% ± 2.0%', '28.8 ± 2.0 %', '5.0%')
        """
        if is_missing(value):
            return self.missing
        known = [number for number in (value, stderr) if number is not None and number == number]
        return " ± ".join(f"{100 * number:.1f}{self.percent}" for number in known) + self.unit

    def p_value(self, p: float | None) -> str:
        """A p-value."""
        if p is None or p != p:
            return self.missing
        return f"< {self.p_least:g}" if p < self.p_least else f"{p:.{self.p_digits}g}"


PLAIN = Notation()
PAGE = Notation(missing="–", minus="−", percent="", unit=" %", p_digits=2, p_least=1e-4)


def is_missing(value: float | None) -> bool:
    """Whether a number is None or NaN."""
    return value is None or value != value


def some_of(names: Sequence[str], most: int) -> str:
    """At most so many names, and how many more there are.

    Example:
        >>> some_of(["a", "b", "c"], 2)
        'a, b and 1 more'
    """
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def significant(value: float | None) -> str:
    """At most three significant digits; `-` for no value.

    Example:
        >>> significant(0.012345), significant(0.5), significant(None)
        ('0.0123', '0.5', '-')
    """
    return MISSING if is_missing(value) else f"{value:.3g}"


def fixed_error(value: float, stderr: float | None, decimals: int) -> str:
    """A number and its standard error with as many decimals each.

    Example:
        >>> fixed_error(0.5, 0.012, 2), fixed_error(0.5, None, 3)
        ('0.50 ± 0.01', '0.500')
    """
    return f"{value:.{decimals}f}" + ("" if stderr is None else f" ± {stderr:.{decimals}f}")


def with_error(value: float | None, stderr: float | None) -> str:
    """Three significant digits, and the standard error to the same decimal place; `-` for no value.

    Example:
        >>> with_error(0.0123456, 0.00041), with_error(1234.5, 60.2), with_error(0.5, None)
        ('0.0123 ± 0.0004', '1230 ± 60', '0.500')
    """
    if value is None or value != value:
        return MISSING
    if is_missing(stderr):
        stderr = None
    if value == 0:
        return f"0 ± {stderr:.1g}" if stderr else "0"
    decimals = 2 - math.floor(math.log10(abs(float(f"{value:.2e}"))))
    if stderr is None:
        return _fixed(value, decimals)
    if 0 < stderr < 0.5 * 10.0**-decimals:  # below the last digit shown
        return f"{_fixed(value, decimals)} ± {float(f'{stderr:.1g}'):g}"
    return f"{_fixed(value, decimals)} ± {_fixed(stderr, decimals)}"


def _fixed(value: float, decimals: int) -> str:
    if decimals > 6 or decimals < -4:
        return f"{value:.2e}"
    return f"{round(value, decimals):.{max(decimals, 0)}f}"


def sparkline(
    values: Sequence[float | None], width: int | None = None, scale: Sequence[float | None] = ()
) -> str:
    """Values as a row of blocks on a logarithmic scale; a value that is missing or zero is a blank.

    Args:
        values: in order.
        width: at most so many characters, each the geometric mean of the values it stands for.
        scale: further values that the scale must span, to compare several lines.

    Example:
        >>> sparkline([1.0, 0.1, None, 0.001])
        '█▆ ▁'
    """
    logs = [math.log(v) if v is not None and v > 0 else None for v in values]
    if width is not None and len(logs) > width:
        edges = [round(i * len(logs) / width) for i in range(width + 1)]
        known = [[log for log in logs[a:b] if log is not None] for a, b in pairwise(edges)]
        logs = [fmean(part) if part else None for part in known]
    present = [log for log in logs if log is not None]
    if not present:
        return " " * len(logs)
    present += [math.log(v) for v in scale if v]
    low, span = min(present), max(present) - min(present)
    top = len(_BLOCKS) - 1
    steps = [None if log is None else round((log - low) / span * top) if span else top // 2 for log in logs]
    return "".join(" " if step is None else _BLOCKS[step] for step in steps)


@dataclass(frozen=True)
class Factor:
    """The ratio of two measured values, with its 95 % interval.

    The widths of their intervals, in logarithms, are added in quadrature as if the two were independent
    (Zou and Donner 2008). Values from the same images mostly err in the same direction, so it is mostly too
    wide: it rather leaves a question open than answers it wrongly.
    """

    value: float
    low: float
    high: float

    @property
    def decided(self) -> bool:
        """Whether the interval leaves out 1: the two values differ."""
        return not self.low <= 1 <= self.high

    @property
    def inverse(self) -> "Factor":
        """The ratio the other way round."""
        return Factor(1 / self.value, 1 / self.high, 1 / self.low)

    def __str__(self) -> str:
        return f"{self.value:.3g} (between {self.low:.3g} and {self.high:.3g})"


def factor(top: LayerSensitivity, bottom: LayerSensitivity) -> Factor | None:
    """R of one layer over R of another; None where one has no interval.

    Example:
        >>> layers = [LayerSensitivity.of(500, r=r, r_stderr=r / 100) for r in (2.0, 1.0)]
        >>> print(factor(*layers))
        2 (between 1.94 and 2.06)
    """
    above, below = top.r_interval, bottom.r_interval
    if not top.r or not bottom.r or above is None or below is None:
        return None
    ratio = top.r / bottom.r
    down = math.hypot(math.log(top.r / above[0]), math.log(below[1] / bottom.r))
    up = math.hypot(math.log(above[1] / top.r), math.log(bottom.r / below[0]))
    return Factor(ratio, ratio * math.exp(-down), ratio * math.exp(up))
