"""Displacements without a size: the direction in which an image starts to move."""

from typing import Any

import torch

from timm_diffsens.errors import UsageError
from timm_diffsens.perturb.deformation import Deformation
from timm_diffsens.perturb.streams import wide_type


def has_fields(deformation: Deformation) -> bool:
    """Whether it moves pixels by displacement fields, which have a small limit, and act on maps."""
    return hasattr(deformation, "displacement")


def direction(deformation: Deformation, images: torch.Tensor, generator: Any) -> torch.Tensor:
    """v = d/d(eps) tau_(eps) x at eps = 0+ for images (n, c, h, w), with the fields of a deformation.

    Over the size of the deformation, where it says its `delta`, so that v does not depend on that; in
    float32 or wider.
    """
    fields = displacement_of(deformation, images, generator)
    return derivative(images.to(fields), fields / float(getattr(deformation, "delta", 1.0)))


def displacement_of(deformation: Deformation, images: torch.Tensor, generator: Any) -> torch.Tensor:
    """The displacement fields of a deformation for images (n, c, h, w): (n, 2, h, w), pixels, (dx, dy).

    Raises:
        UsageError: the deformation has no displacement fields.
    """
    made = getattr(deformation, "displacement", None)
    if made is None:
        name = getattr(deformation, "__name__", type(deformation).__name__)
        raise UsageError(f"the deformation {name} has no displacement fields")
    if images.ndim != 4:
        raise UsageError(f"displacement fields are for images (n, c, h, w), got {tuple(images.shape)}")
    n, _, height, width = images.shape
    fields: torch.Tensor = made(n, (height, width), generator, wide_type(images), images.device)
    return fields


def derivative(images: torch.Tensor, displacement: torch.Tensor) -> torch.Tensor:
    """d/d(eps) of images read bilinearly at x - eps tau(x), clamped to the border, at eps = 0+: (n, c, h, w).

    Bilinear reading has one-sided derivatives at the pixels: along each axis |tau| times the difference to
    the neighbour on the side of -tau.

    Args:
        images: (n, c, h, w).
        displacement: (n, 2, h, w), pixels, (dx, dy).
    """
    total = torch.zeros_like(images)
    for axis, tau in ((3, displacement[:, :1]), (2, displacement[:, 1:])):
        first, last = images.narrow(axis, 0, 1), images.narrow(axis, -1, 1)
        inner = images.shape[axis] - 1
        before = torch.cat([first, images.narrow(axis, 0, inner)], axis)
        after = torch.cat([images.narrow(axis, 1, inner), last], axis)
        total += torch.where(tau > 0, before - images, after - images) * tau.abs()
    return total
