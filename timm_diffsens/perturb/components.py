"""Parts of a smooth displacement: a constant, and the three kinds of a linear one.

Near a point a displacement is tau(x) = t + A x + ..., and A splits into a rotation, a dilation and a shear
(arXiv 2210.01506, Section 2, second premise). Each is measured alone, at the rms displacement that the
max-entropy field of the same `delta` and `cut` has on images of that size, so that what differs is the kind
of the displacement and not its size. Direction, orientation and sign are random; the size is not.
"""

import math
from abc import abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import torch

from timm_diffsens.errors import UsageError
from timm_diffsens.perturb.deformation import Size
from timm_diffsens.perturb.diffeo import Diffeo
from timm_diffsens.perturb.fields import DisplacementFields, sides
from timm_diffsens.perturb.streams import Generator, standard_normal
from timm_diffsens.registry import Look, register
from timm_diffsens.schema.protocol import delta_text

COMPONENTS = ("translation", "rotation", "dilation", "shear")


@dataclass(frozen=True)
class Component(DisplacementFields):
    """Displacements of one kind, of fixed rms.

    Args:
        delta: the rms displacement is that of `Diffeo(delta, cut, reference_side)` on images of that size.
        cut, reference_side: likewise.

    Raises:
        UsageError: a number out of range.
    """

    delta: float = 1.0
    cut: int = 3
    reference_side: int | None = None
    draws: ClassVar[int] = 2  # random numbers an image

    def __post_init__(self) -> None:
        self._diffeo()  # or it raises

    def _diffeo(self) -> Diffeo:
        return Diffeo(self.delta, self.cut, self.reference_side)

    def rms(self, size: Size) -> float:
        """Rms displacement over the pixels of `size`, the same for each draw."""
        return self._diffeo().rms(size)

    def problem(self, size: Size) -> str | None:
        """What is wrong with this deformation on images of `size`, or None."""
        if self.rms(size) < radius(size):
            return None
        asked = delta_text(self.delta, self.reference_side)
        return f"with delta = {asked} pixels move by more than they are apart from the centre"

    def displacement(
        self,
        n: int,
        size: Size,
        generator: Generator = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> torch.Tensor:
        """Draw displacement fields: (n, 2, h, w), pixels, order (dx, dy); arguments as `Diffeo`'s."""
        height, width = sides(size)
        drawn = standard_normal(n, (self.draws,), generator, dtype, device)
        x, y = (torch.arange(side).to(drawn) - (side - 1) / 2 for side in (width, height))
        return self._field(drawn, x.expand(height, width), y[:, None].expand(height, width), self.rms(size))

    @abstractmethod
    def _field(self, drawn: torch.Tensor, x: torch.Tensor, y: torch.Tensor, rms: float) -> torch.Tensor:
        """The fields (n, 2, h, w) of draws (n, draws), given pixels (h, w) counted from the centre."""


@register("deformations", "translation", help="one vector for all pixels", look=Look("#E69F00"), order=2)
class Translation(Component):
    """A constant displacement of random direction."""

    def _field(self, drawn: torch.Tensor, x: torch.Tensor, y: torch.Tensor, rms: float) -> torch.Tensor:
        vector = rms * _direction(drawn)
        return vector[:, :, None, None].expand(-1, 2, *x.shape).contiguous()


@register("deformations", "rotation", help="about the centre", look=Look("#CC79A7"), order=3)
class Rotation(Component):
    """A rotation about the centre of the image, left or right.

    By phi a pixel at distance r moves by 2 r sin(phi / 2): an exact rotation, not its linear part, so that a
    radially symmetric image does not change but for interpolation.
    """

    draws: ClassVar[int] = 1

    def _field(self, drawn: torch.Tensor, x: torch.Tensor, y: torch.Tensor, rms: float) -> torch.Tensor:
        far = rms / (2 * _radius(x))
        if far > 1:
            raise UsageError(f"no rotation of {tuple(x.shape)} pixels moves them by {rms:.3g} pixels rms")
        phi = 2 * math.asin(far) * _sign(drawn)[:, None, None]
        # what is read at x - tau is the image turned: x - tau = R(phi) x
        return torch.stack([x - (phi.cos() * x - phi.sin() * y), y - (phi.sin() * x + phi.cos() * y)], dim=1)


@register("deformations", "dilation", help="out of the centre or into it", look=Look("#56B4E9"), order=4)
class Dilation(Component):
    """All pixels away from the centre, or towards it, in proportion to their distance."""

    draws: ClassVar[int] = 1

    def _field(self, drawn: torch.Tensor, x: torch.Tensor, y: torch.Tensor, rms: float) -> torch.Tensor:
        scale = rms / _radius(x) * _sign(drawn)[:, None, None]
        return torch.stack([scale * x, scale * y], dim=1)


@register("deformations", "shear", help="stretched one way, pressed the other", look=Look("#F0E442"), order=5)
class Shear(Component):
    """A symmetric traceless matrix of random orientation: stretched along one axis, pressed along another."""

    def _field(self, drawn: torch.Tensor, x: torch.Tensor, y: torch.Tensor, rms: float) -> torch.Tensor:
        # the orientation runs over half a turn, so its double is a uniform direction
        p, q = (rms / _radius(x) * _direction(drawn))[:, :, None, None].unbind(dim=1)
        return torch.stack([p * x + q * y, q * x - p * y], dim=1)


@register(
    "deformations", "mode", help="one mode (i, j) of the max-entropy field", look=Look("#999999"), order=6
)
@dataclass(frozen=True)
class Mode(Component):
    """One mode, sin(i pi x) sin(j pi y), times a vector of random direction.

    Args:
        delta, cut, reference_side: see `Component`.
        i, j: number of half waves across and down, at least 1.

    Raises:
        UsageError: a number out of range.
    """

    i: int = 1
    j: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, value in (("i", self.i), ("j", self.j)):
            if isinstance(value, bool) or int(value) != value or not 1 <= value <= 1000:
                raise UsageError(f"{name} must be a whole number between 1 and 1000, got {value}")

    def problem(self, size: Size) -> str | None:
        """What is wrong with this deformation on images of `size`, or None."""
        height, width = sides(size)
        if self.i < width - 1 and self.j < height - 1:  # at width - 1 all pixels are nodes
            return super().problem(size)
        return f"the mode i = {self.i}, j = {self.j} has more half waves than {height} x {width} pixels show"

    def _field(self, drawn: torch.Tensor, x: torch.Tensor, y: torch.Tensor, rms: float) -> torch.Tensor:
        height, width = x.shape
        if not (self.i < width - 1 and self.j < height - 1):
            raise UsageError(self.problem((height, width)))
        across, down = (
            torch.sin(math.pi * k * torch.linspace(0, 1, side, dtype=torch.float64))
            for k, side in ((self.i, width), (self.j, height))
        )
        wave = down[:, None] * across
        wave = (wave * (rms / wave.square().mean().sqrt())).to(drawn)
        fields: torch.Tensor = _direction(drawn)[:, :, None, None] * wave
        return fields


def radius(size: Size) -> float:
    """Rms distance of the pixels from the centre, in pixels: of a side of n, (n^2 - 1) / 12 an axis."""
    return math.sqrt(sum((side**2 - 1) / 12 for side in sides(size)))


def _radius(x: torch.Tensor) -> float:
    return radius((x.shape[0], x.shape[1]))


def _direction(drawn: torch.Tensor) -> torch.Tensor:
    """Unit vectors (n, 2), of uniform direction."""
    lengths: torch.Tensor = torch.linalg.vector_norm(drawn, dim=1, keepdim=True)
    return drawn / lengths.clamp_min(1e-30)


def _sign(drawn: torch.Tensor) -> torch.Tensor:
    """1 or -1 for each image: (n,)."""
    signs: torch.Tensor = torch.where(drawn[:, 0] < 0, -1.0, 1.0).to(drawn.dtype)
    return signs
