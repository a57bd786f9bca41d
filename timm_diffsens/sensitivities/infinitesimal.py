"""The limit of small deformations: Jacobians times displacements, by forward-mode differentiation.

For v = d/d(eps) tau_(eps) x at eps = 0+ and white noise n with ||n|| = ||v||,

    D0 = E ||J v||^2 / B,   G0 = E ||J n||^2 / B,   R0 = D0 / G0,

J being the Jacobian of a layer and B the denominator of D. Bilinear reading has one-sided derivatives at the
pixels, so v is taken towards the side that is read. A forward of images and tangents gives J v at all layers
at once (`torch.autograd.forward_ad`).
"""

from typing import Any

import torch
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from timm_diffsens.errors import UsageError
from timm_diffsens.models.layers import Layer
from timm_diffsens.perturb.deformation import Deformation
from timm_diffsens.sensitivities.probe import Forward, Probe


def displacement_of(deformation: Deformation, images: torch.Tensor, generator: Any) -> torch.Tensor:
    """The displacement fields of a deformation, one an image: (n, 2, h, w), pixels.

    Raises:
        UsageError: it moves no pixels by a field (`displacement` is missing).
    """
    made = getattr(deformation, "displacement", None)
    if made is None:
        name = getattr(deformation, "__name__", type(deformation).__name__)
        raise UsageError(f"the deformation {name} has no displacement fields, and so no small limit")
    height, width = images.shape[-2:]
    fields: torch.Tensor = made(len(images), (height, width), generator)
    return fields.to(images)


def tangent(images: torch.Tensor, displacement: torch.Tensor) -> torch.Tensor:
    """d/d(eps) of the images read at x - eps tau(x), clamped to the border, at eps = 0+: (n, c, h, w).

    A pixel moves towards the neighbour that is read first: along each axis |tau| times the difference to the
    neighbour on the side of -tau.

    Args:
        images: (n, c, h, w). displacement: (n, 2, h, w), pixels, (dx, dy).
    """
    total = torch.zeros_like(images)
    for axis, tau in ((3, displacement[:, :1]), (2, displacement[:, 1:])):
        before = torch.cat([images.narrow(axis, 0, 1), images.narrow(axis, 0, images.shape[axis] - 1)], axis)
        after = torch.cat([images.narrow(axis, 1, images.shape[axis] - 1), images.narrow(axis, -1, 1)], axis)
        total += torch.where(tau > 0, before - images, after - images) * tau.abs()
    return total


class TangentProbe(Probe):
    """A probe of forwards with tangents: `run_tangents`, in place of clean, deformed and noised images.

    The first forward must be an ordinary one, of three parts, from which the layers are known; `reset` it.
    """

    tangents = False

    @property
    def parts(self) -> int:
        """Of a forward: the images with the tangents of the deformation, and with those of the noise."""
        return 2 if self.tangents else super().parts

    def run_tangents(
        self, images: torch.Tensor, tangents: torch.Tensor, forward: Forward | None = None
    ) -> Any:
        """A forward of images (n, c, h, w) along two directions each (2 n, c, h, w): deformation, noise."""
        self.tangents = True
        try:
            with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):  # the fused ones have no derivative
                both = forward_ad.make_dual(torch.cat([images, images]), tangents)  # type: ignore[no-untyped-call]
                return self.run(both, forward)
        finally:
            self.tangents = False

    def _parts_of(self, layer: Layer, output: torch.Tensor) -> torch.Tensor | None:
        if not self.tangents:
            return super()._parts_of(layer, output)
        primal, moved = forward_ad.unpack_dual(output)  # type: ignore[no-untyped-call]
        values = self._samples(layer, primal.detach())
        if values is None:
            return None
        clean = values[: len(values) // 2]
        if moved is None:  # it does not depend on the images
            return torch.stack([clean, clean, clean])
        change = self._samples(layer, moved.detach())
        assert change is not None
        by_deformation, by_noise = change.chunk(2)
        return torch.stack([clean, clean + by_deformation, clean + by_noise])
