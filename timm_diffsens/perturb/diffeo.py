"""Max-entropy deformations: random smooth displacement fields."""

import functools
import math
import warnings
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch

from timm_diffsens.device.precision import exact
from timm_diffsens.errors import DiffsensWarning, UsageError
from timm_diffsens.perturb.deformation import Size
from timm_diffsens.perturb.fields import DisplacementFields, sides
from timm_diffsens.perturb.streams import Generator, standard_normal
from timm_diffsens.registry import Look, register
from timm_diffsens.schema import limits
from timm_diffsens.schema.protocol import delta_problem


@register(
    "deformations",
    "diffeo",
    help="random smooth displacement fields",
    look=Look("#0072B2"),
    known_as="max-entropy",
)
@dataclass(frozen=True)
class Diffeo(DisplacementFields):
    """Random deformations of maximum entropy under a bound on their gradient norm.

    On the unit square each component of the displacement is

        tau(x, y) = sum over i, j >= 1 with sqrt(i^2 + j^2) < cut + 1/2 of C_ij sin(i pi x) sin(j pi y),
        C_ij ~ N(0, T / (i^2 + j^2)),

    sampled on `linspace(0, 1, n)` and multiplied by the side n to give pixels. The temperature follows
    from `delta` by T = 4 delta^2 / (pi n^2 ln cut). Source: Petrini et al. 2021, arXiv 2105.02468,
    Section 3 and Appendix C. That relation replaces a sum over modes by an integral, so the exact rms
    displacement, `rms(size)`, is smaller than `delta` (0.84 delta for cut = 3).

    Args:
        delta: size of the deformation in pixels.
        cut: cutoff of the modes, an integer of at least 2 (at 1, ln cut = 0 and T has no meaning).
        reference_side: `delta` is in pixels of images whose shorter side has this many, and on images of
            (h, w) pixels the deformation has the size delta * min(h, w) / reference_side: networks that see
            a picture at different resolutions see the same deformation of it. None: in pixels of whatever
            is deformed. Of the two sides the shorter one counts, as in the bounds of delta: the modes are
            shortest along it, the map is steepest there, and delta / min(h, w) says how far it is from
            folding (it stops being one-to-one at 1 / (pi cut)), whatever the aspect ratio. By the area,
            sqrt(h w), a long image could fold at a delta at which a square one does not.

    Raises:
        UsageError: a number out of range.

    Example:
        >>> import torch
        >>> from timm_diffsens import Diffeo
        >>> diffeo = Diffeo(delta=1.0, cut=3)
        >>> images = torch.rand(2, 3, 32, 32)
        >>> diffeo(images, generator=torch.Generator().manual_seed(0)).shape
        torch.Size([2, 3, 32, 32])
        >>> diffeo.displacement(5, (24, 32)).shape  # pixels, (dx, dy)
        torch.Size([5, 2, 24, 32])
        >>> round(diffeo.rms(224), 3)
        0.839
        >>> Diffeo(delta=1.0, reference_side=224).at(112)
        Diffeo(delta=0.5, cut=3, reference_side=None)
    """

    delta: float = 1.0
    cut: int = 3
    reference_side: int | None = None

    def __post_init__(self) -> None:
        if not (math.isfinite(self.delta) and self.delta > 0):
            raise UsageError(f"delta must be a positive number of pixels, got {self.delta}")
        if not (math.isfinite(self.cut) and int(self.cut) == self.cut and self.cut >= 2):
            raise UsageError(
                f"cut must be an integer of at least 2, got {self.cut}: "
                "the temperature T = 4 delta^2/(pi n^2 ln cut) has no meaning at cut = 1"
            )
        if self.cut > limits.CUT:
            raise UsageError(f"cut must be at most {limits.CUT:,}, got {self.cut}")
        object.__setattr__(self, "cut", int(self.cut))
        side = self.reference_side
        if side is None:
            return
        if not (isinstance(side, int | float) and 2 <= side <= limits.SIDE and int(side) == side):
            raise UsageError(f"reference_side must be between 2 and {limits.shown(limits.SIDE)}, got {side}")
        object.__setattr__(self, "reference_side", int(side))

    def at(self, size: Size) -> "Diffeo":
        """The same on images of `size`, with `delta` in their own pixels."""
        if self.reference_side is None:
            return self
        scale = min(sides(size)) / self.reference_side
        return replace(self, delta=self.delta * scale, reference_side=None)

    def temperature(self, side: int) -> float:
        """T = 4 delta^2 / (pi n^2 ln cut) for a square of n pixels a side, delta in its own pixels.

        Raises:
            UsageError: not one side.
        """
        if not isinstance(side, int | float | np.number):
            raise UsageError(
                f"the temperature is that of a square: expected one side in pixels, got {side!r}"
            )
        return 4 * self.at(side).delta ** 2 / (math.pi * side**2 * math.log(self.cut))

    def rms(self, size: Size) -> float:
        """Exact expected rms displacement in pixels, over both components and all pixels of `size`."""
        height, width = sides(size)
        here = self.at(size)
        horizontal, vertical = (_basis(self.cut, side) ** 2 for side in (width, height))
        # E C_ij^2 = T / (i^2 + j^2), and a component's mean square factorises over the two axes.
        mean_square = np.einsum("ji,j,i->", _weights(self.cut) ** 2, vertical.mean(1), horizontal.mean(1))
        per_component = [side**2 * here.temperature(side) * mean_square for side in (width, height)]
        return math.sqrt(sum(per_component))

    def problem(self, size: Size) -> str | None:
        """What is wrong with this deformation on images of `size`, or None."""
        return delta_problem(self.delta, self.cut, min(sides(size)), self.reference_side)

    def displacement(
        self,
        n: int,
        size: Size,
        generator: Generator = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> torch.Tensor:
        """Draw displacement fields: (n, 2, h, w), pixels, order (dx, dy).

        Args:
            n: number of fields.
            size: side of a square, or (height, width).
            generator: see `streams.standard_normal`; one an image keeps draws independent of the batch.
            dtype: of the result.
            device: where it is made.
        """
        height, width = sides(size)
        problem = self.problem(size)
        if problem:
            warnings.warn(problem, DiffsensWarning, stacklevel=2)
        draws = standard_normal(n, (2, self.cut, self.cut), generator, dtype, device)
        weights, across, down = _constants(self.cut, height, width, dtype, draws.device)
        # whatever the side: T has its square below
        scale = height * math.sqrt(self.at(size).temperature(height))
        with exact(draws.device):
            return torch.einsum("ncji,jy,ix->ncyx", draws * weights * scale, down, across)


def _weights(cut: int) -> npt.NDArray[np.float64]:
    """(j, i) -> 1 / sqrt(i^2 + j^2) inside the cutoff, 0 outside."""
    modes = np.arange(1, cut + 1)
    radius = np.hypot(modes[:, None], modes[None, :])
    return np.where(radius < cut + 0.5, 1 / radius, 0.0)


def _basis(cut: int, side: int) -> npt.NDArray[np.float64]:
    """sin(i pi x) on linspace(0, 1, side): (cut, side)."""
    modes = np.arange(1, cut + 1)
    return np.sin(np.pi * modes[:, None] * np.linspace(0, 1, side)[None, :])


@functools.lru_cache(maxsize=8)
@torch.inference_mode(False)
def _constants(
    cut: int, height: int, width: int, dtype: torch.dtype, device: torch.device
) -> tuple[torch.Tensor, ...]:
    """Weights and bases on the device: copied there once, as a copy waits for what it is doing."""
    arrays = _weights(cut), _basis(cut, width), _basis(cut, height)
    return tuple(torch.from_numpy(array).to(device, dtype) for array in arrays)
