"""Deformations by displacement fields, and bilinear resampling."""

from abc import ABC, abstractmethod

import torch
import torch.nn.functional as F

from timm_diffsens.errors import UsageError
from timm_diffsens.perturb.deformation import Size
from timm_diffsens.perturb.streams import Generator, wide_type


class DisplacementFields(ABC):
    """What reads each image at x - tau(x), with a displacement field tau of its own."""

    @abstractmethod
    def displacement(
        self,
        n: int,
        size: Size,
        generator: Generator = None,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> torch.Tensor:
        """Displacement fields: (n, 2, h, w), pixels, order (dx, dy).

        Args:
            n: number of fields.
            size: side of a square, or (height, width).
            generator: see `streams.standard_normal`; one an image keeps draws independent of the batch.
            dtype: of the result.
            device: where it is made.
        """

    def __call__(self, images: torch.Tensor, generator: Generator = None) -> torch.Tensor:
        """Deform each image by a field of its own: (n, c, h, w) -> (n, c, h, w)."""
        if images.ndim != 4 or not images.is_floating_point():
            raise UsageError(
                f"expected floating-point images (n, c, h, w), got {images.dtype} {tuple(images.shape)}"
            )
        n, _, height, width = images.shape
        return deform(
            images, self.displacement(n, (height, width), generator, wide_type(images), images.device)
        )


def deform(images: torch.Tensor, displacement: torch.Tensor) -> torch.Tensor:
    """Read each pixel x bilinearly at x - tau(x), clamped to the border.

    Args:
        images: (n, c, h, w).
        displacement: (n, 2, h, w), pixels, (dx, dy).

    Raises:
        UsageError: the two do not fit.
    """
    height, width = images.shape[-2:]
    if images.ndim != 4 or displacement.shape != (len(images), 2, height, width):
        raise UsageError(
            "expected images (n, c, h, w) and displacements (n, 2, h, w), "
            f"got {tuple(images.shape)} and {tuple(displacement.shape)}"
        )
    dtype = torch.promote_types(images.dtype, displacement.dtype)
    grid = torch.empty((len(images), height, width, 2), dtype=dtype, device=images.device)
    for axis, side in enumerate((width, height)):
        identity = torch.linspace(-1, 1, side, dtype=dtype, device=images.device)
        identity = identity if axis == 0 else identity[:, None]
        torch.sub(identity, displacement[:, axis], alpha=2 / (side - 1), out=grid[..., axis])
    deformed = F.grid_sample(
        images.to(dtype), grid, mode="bilinear", padding_mode="border", align_corners=True
    )
    return deformed.to(images.dtype)


def sides(size: Size) -> tuple[int, int]:
    """Height and width.

    Raises:
        UsageError: less than two pixels.
    """
    height, width = (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))
    if min(height, width) < 2:
        raise UsageError(f"a deformation needs at least 2 pixels a side, got {height} x {width}")
    return height, width
