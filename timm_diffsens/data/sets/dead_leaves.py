"""Dead leaves: synthetic images with the statistics of natural ones, drawn without any download.

Source: A. B. Lee, D. Mumford and J. Huang, "Occlusion models for natural images: a statistical study of a
scale-invariant dead leaves model", IJCV 41 (2001) 35-59. Opaque shapes of random size, place and colour lie
over one another. The density of sizes is proportional to r^-3, the only power law that no zoom changes, so
edges appear at every scale and the power spectrum falls nearly as 1/f^2, as that of natural images does.

Drawn from the front: an endless sequence of leaves is laid down nearest first and stops when no pixel is
left open ("coming down from the top", Kendall and Thoennes, "Perfect simulation in stochastic geometry",
Pattern Recognition 32 (1999) 1569-1586). The canvas is therefore covered completely, and the image is an
exact sample of the model, which a painter's order with a finite number of leaves only approaches: a fraction
exp(-t) of the canvas stays open after t leaves a point, so all the 65,536 pixels are expected to be covered
up to a thousandth of one at t = ln(65,536,000) = 18, some 13,000 leaves, of which a tenth can be seen.
"""

import hashlib
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from timm_diffsens import registry
from timm_diffsens.data.source import ImageSource, Item, Origin, Request, pixel_digest
from timm_diffsens.errors import UsageError

VERSION = 1  # of the set: raise it whenever an image changes
SIZE = 256  # side of an image, pixels
COUNT = 50_000  # images in the virtual set
R_MIN, R_MAX = 2.0, 128.0  # size of a leaf: radius of the disc of the same area, pixels
STRETCH = 3.0  # largest ratio of a leaf's two axes
NOTE = "synthetic: dead leaves (Lee, Mumford and Huang 2001) drawn here, not photographs; unlabelled"

_STREAM = 0xDEAD1EAF  # keeps these random streams apart from all others
_FIRST_ROUND, _GROWTH = 0.7, 1.5  # leaves a point in the first round of drawing; the next are longer
# ImageDraw fills every pixel that an outline touches, so that polygons come out wider, by this on each side.
_INSET = 0.35  # pixels
_CELL = 4  # pixels, side of the cells in which open pixels are looked up
_ELLIPSE_DETAIL = 6.0  # pixels; larger ellipses get more corners

Floats: TypeAlias = npt.NDArray[np.float64]
Integers: TypeAlias = npt.NDArray[np.int64]


def _regular(corners: int, turn: float = 0.0) -> Floats:
    """Corners (corners, 2) of the regular polygon of area pi about the origin, the area of the unit disc."""
    angle = 2 * np.pi * np.arange(corners) / corners + turn
    radius = np.sqrt(np.pi / (corners / 2 * np.sin(2 * np.pi / corners)))
    return np.asarray(radius * np.stack([np.cos(angle), np.sin(angle)], axis=1))


# Ellipses (coarse, fine), rectangles, then triangles, pentagons and hexagons, before they are stretched.
_SHAPES = (_regular(8), _regular(24), _regular(4, np.pi / 4), _regular(3), _regular(5), _regular(6))
# Distances from the centre of the middles of the sides and of the corners.
_MIDDLE = np.array([np.linalg.norm(shape + np.roll(shape, 1, axis=0), axis=1).min() / 2 for shape in _SHAPES])
_CORNER = np.array([np.linalg.norm(shape, axis=1).max() for shape in _SHAPES])
_REACH = float(np.sqrt(STRETCH) * _CORNER.max())  # of the widest leaf of size 1


@dataclass(frozen=True)
class _Leaves:
    """Some leaves, nearest first; every array has one row a leaf."""

    radius: Floats  # pixels, of the disc of the same area
    centre: Floats  # (n, 2), pixels, (x, y)
    shape: Integers  # index in _SHAPES
    stretch: Floats  # ratio of the axes, 1 to STRETCH
    angle: Floats  # radians
    colour: Floats  # (n, 3), 0 to 1

    def __len__(self) -> int:
        return len(self.radius)


def power_law(rng: np.random.Generator, n: int, exponent: float = 3.0) -> Floats:
    """`n` draws from the density proportional to r^-exponent on [R_MIN, R_MAX], by inversion.

    >>> import numpy as np
    >>> r = power_law(np.random.default_rng(0), 5)
    >>> bool((r >= 2).all() and (r <= 128).all())
    True
    """
    share = rng.random(n)
    if exponent == 1:
        return np.asarray(R_MIN * (R_MAX / R_MIN) ** share)
    power = 1 - exponent
    return np.asarray((R_MIN**power + share * (R_MAX**power - R_MIN**power)) ** (1 / power))


def _mass(exponent: float) -> float:
    """Integral of r^-exponent over [R_MIN, R_MAX]."""
    if exponent == 1:
        return float(np.log(R_MAX / R_MIN))
    return float((R_MIN ** (1 - exponent) - R_MAX ** (1 - exponent)) / (exponent - 1))


# Leaves whose bounding square of side 2 * _REACH * r meets the canvas. Among those of size r a fraction
# proportional to (SIZE + 2 * _REACH * r)^2 does, so their sizes have the density
#   r^-3 (SIZE^2 + 4 SIZE _REACH r + 4 _REACH^2 r^2),
# a mixture of three power laws. The others cannot be seen and are not drawn.
_WEIGHTS = np.array([SIZE**2 * _mass(3), 4 * SIZE * _REACH * _mass(2), 4 * _REACH**2 * _mass(1)])
_LEAVES_A_POINT = float(np.pi * _mass(1) / _WEIGHTS.sum())  # mean number over a point, for each leaf laid


def _colours(rng: np.random.Generator, n: int) -> Floats:
    """(n, 3) colours in [0, 1]: luminance and two opponent axes of much smaller spread.

    The axes are those along which natural colours are uncorrelated: light-dark, blue-yellow, red-green, in
    the order of their spread (Ruderman, Cronin and Chiao, J. Opt. Soc. Am. A 15 (1998) 2036-2045). The
    spreads are ours: channels then correlate by about 0.9, as those of photographs do.
    """
    luminance = rng.random(n)
    blue_yellow, red_green = rng.normal(0, 0.06, n), rng.normal(0, 0.04, n)
    red = luminance + blue_yellow + red_green
    green = luminance + blue_yellow - red_green
    return np.clip(np.stack([red, green, luminance - 2 * blue_yellow], axis=1), 0, 1)


def _draw_leaves(rng: np.random.Generator, n: int) -> _Leaves:
    """The next `n` leaves of the sequence: a third each ellipses, rectangles and other polygons.

    Sizes are those of leaves that may touch the canvas; they follow r^-3 for those centred in it.
    """
    counts = rng.multinomial(n, _WEIGHTS / _WEIGHTS.sum())
    sizes = [power_law(rng, count, exponent) for count, exponent in zip(counts, (3.0, 2.0, 1.0), strict=True)]
    radius = rng.permutation(np.concatenate(sizes))
    reach = _REACH * radius[:, None]
    fine = (radius > _ELLIPSE_DETAIL).astype(np.int64)
    kind = rng.integers(0, 3, n)
    return _Leaves(
        radius=radius,
        centre=rng.random((n, 2)) * (SIZE + 2 * reach) - reach,
        shape=np.choose(kind, [fine, np.full(n, 2), rng.integers(3, 6, n)]),
        stretch=STRETCH ** rng.random(n),
        angle=np.pi * rng.random(n),
        colour=_colours(rng, n),
    )


def _touching(leaves: _Leaves, holes: npt.NDArray[np.bool_]) -> Integers:
    """Indices of the leaves that may touch an open pixel: their bounding square meets a cell with one."""
    cells = SIZE // _CELL
    open_cells = holes.reshape(cells, _CELL, SIZE).any(axis=1).reshape(cells, cells, _CELL).any(axis=2)
    table = np.zeros((cells + 1, cells + 1), dtype=np.int64)  # sums over rectangles from the corner
    table[1:, 1:] = open_cells.cumsum(axis=0).cumsum(axis=1)
    reach = (leaves.radius * np.sqrt(leaves.stretch) * _CORNER[leaves.shape])[:, None] + 1
    x0, y0 = np.clip(np.floor((leaves.centre - reach) / _CELL), 0, cells).astype(np.int64).T
    x1, y1 = np.clip(np.ceil((leaves.centre + reach) / _CELL), 0, cells).astype(np.int64).T
    return np.flatnonzero(table[y1, x1] - table[y0, x1] - table[y1, x0] + table[y0, x0])


def _corners(leaves: _Leaves, which: Integers) -> list[list[float]]:
    """Corner coordinates [x0, y0, x1, y1, ...], pixels, of the leaves `which`, in that order."""
    polygons: list[list[float]] = [[] for _ in which]
    radius, stretch, angle = leaves.radius[which], np.sqrt(leaves.stretch[which]), leaves.angle[which]
    shape, centre = leaves.shape[which], leaves.centre[which, None]
    inset = _INSET / _MIDDLE[shape]
    along = np.stack([np.cos(angle), np.sin(angle)], axis=1) * (radius * stretch - inset)[:, None]
    across = np.stack([-np.sin(angle), np.cos(angle)], axis=1) * (radius / stretch - inset)[:, None]
    for kind, base in enumerate(_SHAPES):
        of_kind = np.flatnonzero(shape == kind)
        corners = base[:, :1] * along[of_kind, None] + base[:, 1:] * across[of_kind, None]
        corners += centre[of_kind]
        flat = corners.reshape(len(of_kind), 2 * len(base)).tolist()
        for position, polygon in zip(of_kind, flat, strict=True):
            polygons[position] = polygon
    return polygons


def _paint(leaves: _Leaves, which: Integers) -> npt.NDArray[np.int32]:
    """(SIZE, SIZE): 1 + the index of the nearest of the leaves `which` over each pixel, 0 where none is."""
    layer = Image.new("I", (SIZE, SIZE), 0)
    canvas = ImageDraw.Draw(layer)
    for index, polygon in zip(which[::-1].tolist(), _corners(leaves, which)[::-1], strict=True):
        canvas.polygon(polygon, fill=index + 1)
    return np.asarray(layer, dtype=np.int32)


def dead_leaves_array(index: int) -> npt.NDArray[np.uint8]:
    """Image `index` of the set: (256, 256, 3), 8 bits a channel; a function of `index` and VERSION alone."""
    rng = np.random.Generator(np.random.Philox(np.random.SeedSequence([_STREAM, VERSION, index])))
    owner = np.zeros((SIZE, SIZE), dtype=np.int32)  # number of the leaf seen at each pixel, 0: still open
    palette = [np.zeros((1, 3))]
    laid, depth = 0, _FIRST_ROUND
    while (holes := owner == 0).any():
        leaves = _draw_leaves(rng, round(depth / _LEAVES_A_POINT))
        nearest = _paint(leaves, _touching(leaves, holes))
        np.copyto(owner, nearest + laid, where=holes & (nearest > 0))
        palette.append(leaves.colour)
        laid, depth = laid + len(leaves), depth * _GROWTH
    colours = np.round(255 * np.concatenate(palette)).astype(np.uint8)
    return np.take(colours, owner, axis=0)


@registry.register(
    "datasets",
    "dead-leaves",
    help="synthetic images with natural statistics, drawn here, without labels (the default)",
)
class DeadLeaves(ImageSource):
    """The set as a source; it has neither folder nor splits."""

    def __init__(self, request: Request) -> None:
        request.refuse_folder()
        if request.split is not None:
            raise UsageError(f"dead-leaves has no splits, so it takes no --split (got {request.split!r})")
        super().__init__(Origin(request.spec, note=NOTE), COUNT)
        self._fingerprint = pixel_digest(self.read(0, 3)[0])

    def name(self, index: int) -> str:
        """`dead-leaves/00042`."""
        return f"dead-leaves/{index:05d}"

    def inspect(self, index: int, channels: int) -> Item:
        """Nothing is drawn: the image is a function of its index, the version and the drawing code.

        The pixels of image 0 stand for the drawing code (ours, NumPy's and Pillow's) in the digest.
        """
        text = f"{self._fingerprint} {VERSION} {index}"
        return Item(index, None, hashlib.sha256(text.encode()).hexdigest())

    def read(self, index: int, channels: int) -> tuple[Image.Image, None]:
        """Draw it."""
        return Image.fromarray(dead_leaves_array(index)), None
