"""Names beside the points of a scatter plot that lie furthest from its line."""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from timm_diffsens.results.records.frames import Row
from timm_diffsens.results.stats.resampling import Array, varies

MOST_NAMED = 3  # of a plot
_LONGEST = 24  # letters
_LETTER, _HIGH = 0.62, 1.1  # width and height of a letter, in sizes of the font; most are narrower
_POINT = 4.0  # from the middle of a point to its edge, in pixels
# Where a network is from, which a short name can do without.
_ORIGIN = re.compile(r"^(?:net/|torchvision/|hf-hub:[^/]*/|[^:]*\.py:)| \([^()]*\.py\)")
# Where a name may stand: steps to the right and down from the point, and which end of it is there.
_PLACES = (
    *((1, 0, "left"), (-1, 0, "right"), (0, -1, "center"), (0, 1, "center")),
    *((0.7, -0.8, "left"), (-0.7, -0.8, "right"), (0.7, 0.8, "left"), (-0.7, 0.8, "right")),
)


@dataclass(frozen=True)
class LogFrame:
    """The plotted area of a chart with two logarithmic axes: the ends of both, and its size in pixels."""

    x: tuple[float, float]
    y: tuple[float, float]
    width: float
    height: float

    def pixels(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies, y downwards."""
        across, up = (_share(value, ends) for value, ends in ((x, self.x), (y, self.y)))
        return across * self.width, (1 - up) * self.height

    def values(self, x: float, y: float) -> tuple[float, float]:
        """What lies at a place in pixels."""
        (left, right), (bottom, top) = self.x, self.y
        return left * (right / left) ** (x / self.width), top * (bottom / top) ** (y / self.height)


def _share(value: float, ends: tuple[float, float]) -> float:
    return math.log(value / ends[0]) / math.log(ends[1] / ends[0])


@dataclass(frozen=True)
class Name:
    """A name beside a point: where the end or the middle (`align`) of its text is, in pixels, y downwards."""

    point: int  # number of the point
    text: str
    x: float
    y: float
    align: str


@dataclass(frozen=True)
class _Box:
    left: float
    top: float
    right: float
    bottom: float

    def meets(self, other: "_Box") -> bool:
        return (
            self.left < other.right
            and other.left < self.right
            and self.top < other.bottom
            and other.top < self.bottom
        )

    def within(self, width: float, height: float) -> bool:
        return self.left >= 0 and self.top >= 0 and self.right <= width and self.bottom <= height


def furthest(x: Array, y: Array, most: int = MOST_NAMED) -> list[int]:
    """The points (n,) furthest from their line of least squares, by studentised residual, furthest first.

    A point far out pulls the line to itself; the residual over its standard error, which grows less there,
    does not hide that. None where x does not vary, or where every line through two points would do.
    """
    n = len(x)
    if n <= most or not varies(x):
        return []
    apart = x - x.mean()
    leverage = 1 / n + apart**2 / (apart @ apart)
    rest = y - y.mean() - apart * (apart @ y) / (apart @ apart)
    studentised = np.abs(rest) / np.sqrt(np.maximum(1 - leverage, 1e-9))
    return [int(place) for place in np.argsort(-studentised, kind="stable")[:most]]


def short_name(name: str) -> str:
    """A network's name without the library or file that it is from, cut where it is long.

    Example:
        >>> short_name("net/resnet20, width 8"), short_name("vit (cifar_networks.py)")
        ('resnet20, width 8', 'vit')
    """
    short = _ORIGIN.sub("", name)
    return short if len(short) <= _LONGEST else f"{short[: _LONGEST - 1]}…"


def name_rows(
    points: Sequence[tuple[float, float]], names: Iterable[tuple[int, str]], frame: LogFrame, size: float
) -> list[Row]:
    """Names beside their points as rows of a chart: `point`, `text`, `align`, and `x` and `y` on its axes.

    Args:
        points: (x, y) of all points of the plot.
        names, size: see `placed`.
    """
    found = placed([frame.pixels(*point) for point in points], names, frame.width, frame.height, size)
    rows = []
    for name in found:
        x, y = frame.values(name.x, name.y)
        rows.append({"point": name.point, "text": name.text, "align": name.align, "x": x, "y": y})
    return rows


def name_marks(base: Any, size: float, *, text: str = "text:N", **looks: Any) -> list[Any]:
    """Layers that write the names of a chart whose data are `name_rows`.

    Args:
        base: with x and y. size: of the font. text: the field of what is written. looks: of the text marks.
    """
    return [
        base.transform_filter(f"datum.align === '{align}'")
        .mark_text(align=align, baseline="middle", fontSize=size, **looks)
        .encode(text=text)
        for align in ("left", "center", "right")
    ]


def placed(
    points: Sequence[tuple[float, float]],
    names: Iterable[tuple[int, str]],
    width: float,
    height: float,
    size: float,
) -> list[Name]:
    """Names beside their points: inside of the plot, apart, over as few points as can be.

    A name that finds no place is left out.

    Args:
        points: (x, y) of all points of the plot, in pixels, y downwards.
        names: number of a point, and its name; the first ones choose first.
        width, height: of the plot, in pixels.
        size: of the font, in pixels.
    """
    dots = [_Box(x - _POINT, y - _POINT, x + _POINT, y + _POINT) for x, y in points]
    taken: list[_Box] = []
    found: list[Name] = []
    for point, text in names:
        options = []
        for step_x, step_y, align in _PLACES:
            x = points[point][0] + step_x * (_POINT + 3)
            y = points[point][1] + step_y * (_POINT + size * _HIGH / 2 + 1)
            box = _box(x, y, align, len(text) * size * _LETTER, size * _HIGH)
            if box.within(width, height) and not any(box.meets(other) for other in taken):
                options.append((sum(box.meets(dot) for dot in dots), box, Name(point, text, x, y, align)))
        if options:
            _, box, name = min(options, key=lambda option: option[0])
            taken.append(box)
            found.append(name)
    return found


def _box(x: float, y: float, align: str, width: float, height: float) -> _Box:
    left = x - {"left": 0, "center": width / 2, "right": width}[align]
    return _Box(left, y - height / 2, left + width, y + height / 2)
