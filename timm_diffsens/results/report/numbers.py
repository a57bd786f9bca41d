"""Numbers with their errors: as text, and compared."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

SIGMAS = 2.0  # standard errors to either side that a statement needs
_BLOCKS = "▁▂▃▄▅▆▇█"


def with_error(value: float | None, stderr: float | None) -> str:
    """Three significant digits, and the standard error to the same decimal place; `-` for no value.

    Example:
        >>> with_error(0.0123456, 0.00041), with_error(1234.5, 60.2), with_error(0.5, None)
        ('0.0123 ± 0.0004', '1230 ± 60', '0.500')
    """
    if value is None:
        return "-"
    if value == 0:
        return "0" if not stderr else f"0 ± {stderr:.1g}"
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
        logs = [_mean(logs[a:b]) for a, b in pairwise(edges)]
    present = [log for log in logs if log is not None]
    if not present:
        return " " * len(logs)
    present += [math.log(v) for v in scale if v]
    low, span = min(present), max(present) - min(present)
    top = len(_BLOCKS) - 1
    steps = [None if log is None else round((log - low) / span * top) if span else top // 2 for log in logs]
    return "".join(" " if step is None else _BLOCKS[step] for step in steps)


def _mean(logs: list[float | None]) -> float | None:
    present = [log for log in logs if log is not None]
    return sum(present) / len(present) if present else None


@dataclass(frozen=True)
class Factor:
    """The ratio of two measured values, with the range at two standard errors.

    The errors are those of the logarithms, added in quadrature as if the two were independent. Values from
    the same images mostly err in the same direction, so the range is mostly too wide: it rather leaves a
    question open than answers it wrongly.
    """

    value: float
    low: float
    high: float

    @property
    def decided(self) -> bool:
        """Whether the range leaves out 1: the two values differ."""
        return not self.low <= 1 <= self.high

    @property
    def inverse(self) -> "Factor":
        """The ratio the other way round."""
        return Factor(1 / self.value, 1 / self.high, 1 / self.low)

    def __str__(self) -> str:
        return f"{self.value:.3g} (between {self.low:.3g} and {self.high:.3g})"


def factor(
    top: float | None, top_stderr: float | None, bottom: float | None, bottom_stderr: float | None
) -> Factor | None:
    """`top / bottom`; None where a value or an error is missing, or a value is zero.

    Example:
        >>> print(factor(2.0, 0.02, 1.0, 0.01))
        2 (between 1.94 and 2.06)
    """
    if not top or not bottom or top_stderr is None or bottom_stderr is None:
        return None
    ratio = top / bottom
    spread = math.exp(SIGMAS * math.hypot(top_stderr / top, bottom_stderr / bottom))
    return Factor(ratio, ratio / spread, ratio * spread)
