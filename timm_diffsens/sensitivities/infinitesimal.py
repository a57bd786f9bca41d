"""The limit of small deformations: Jacobians times displacements, by forward-mode differentiation.

For v = d/d(eps) tau_(eps) x at eps = 0+ and white noise n with ||n|| = ||v||,

    D0 = E ||J v||^2 / B,   G0 = E ||J n||^2 / B,   R0 = D0 / G0,

J being the Jacobian of a layer and B the denominator of D. A forward of images with tangents gives J v and
J n at all layers at once (`torch.autograd.forward_ad`).
"""

from typing import Any

import torch
from torch import nn
from torch.autograd import forward_ad

from timm_diffsens.device.precision import FULL
from timm_diffsens.errors import DiffsensError, MeasurementError, first_line, warn
from timm_diffsens.models.layers import Layer
from timm_diffsens.sensitivities.batch_size import is_out_of_memory
from timm_diffsens.sensitivities.forward_mode import differentiable
from timm_diffsens.sensitivities.forwards import PassSettings, like_of
from timm_diffsens.sensitivities.perturbed import PerturbedImages
from timm_diffsens.sensitivities.probe import Forward, Probe

_TRACED = 2  # images of the first, ordinary forward
_STEPS = (1e-3, 1e-2, 1e-1)  # along the noise, over the norm of the images
_NESTED = "Nested forward mode AD"  # what PyTorch says where a derivative is being computed already
_NEAR = 2.0  # a factor between the derivative and the difference that one of these makes


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
        """A forward of images (n, c, h, w) along two directions each (2 n, c, h, w): deformation, noise.

        Raises:
            MeasurementError: the network has no forward-mode derivative; or another is being computed, as
                PyTorch computes one at a time in a process.
        """
        self.tangents = True
        try:
            with forward_ad.dual_level(), differentiable():
                both = forward_ad.make_dual(torch.cat([images, images]), tangents)  # type: ignore[no-untyped-call]
                return self.run(both, forward)
        except DiffsensError:
            raise
        except Exception as error:  # whatever the network's own operations say
            if is_out_of_memory(error):
                raise
            name, why = type(self.model).__name__, first_line(error)
            if _NESTED in why:
                raise MeasurementError(
                    f"one small limit is measured at a time in a process: that of {name} was begun inside of "
                    "another forward-mode derivative, of another thread, of the caller or of the network"
                ) from error
            raise MeasurementError(f"{name} has no forward-mode derivative: {why}") from error
        finally:
            self.tangents = False

    def _parts_of(self, layer: Layer, output: torch.Tensor) -> torch.Tensor | None:
        if not self.tangents:
            return super()._parts_of(layer, output)
        primal, moved = forward_ad.unpack_dual(output)  # type: ignore[no-untyped-call]
        values = self._samples(layer, primal.detach())
        if values is None:
            return None
        wide = torch.promote_types(values.dtype, torch.float32)
        clean = values[: len(values) // 2].to(wide)
        if moved is None:  # it does not depend on the images
            return torch.stack([clean, clean, clean])
        change = self._samples(layer, moved.detach())
        assert change is not None
        by_deformation, by_noise = change.to(wide).chunk(2)
        return torch.stack([clean, clean + by_deformation, clean + by_noise])


def run_limit(
    model: nn.Module, images: PerturbedImages, settings: PassSettings, layout: torch.memory_format
) -> TangentProbe:
    """A pass of tangents over the images, under the first of their deformations; inside of `forwards`.

    Each forward has the size of those of the other pass: of fewer images, as each needs four parts. What a
    network detaches on the way is a constant to it, as to any derivative.

    Raises:
        MeasurementError: the network has no forward-mode derivative. UsageError: the deformation has none.
    """
    like, averages = like_of(model), settings.mean_channel
    probe = TangentProbe(model, settings.layers, mean_channel=averages, kept=settings.kept)
    assert settings.batch_size != "auto"
    size = max(1, settings.batch_size * (1 + 2 * images.pairs) // 4)
    with probe:
        for indices, clean in images.corrupted(size, like, layout):
            tangents = images.perturbation.tangents(clean, indices)
            if probe.trace is None:
                _begin(probe, clean[:_TRACED], tangents, settings)
            probe.run_tangents(clean, tangents, settings.forward)
    return probe


def _begin(probe: TangentProbe, clean: torch.Tensor, tangents: torch.Tensor, settings: PassSettings) -> None:
    """Find the layers by an ordinary forward; warn where derivatives are not the limit of small steps.

    Args:
        clean: some images (n, c, h, w).
        tangents: of these and others, see `run_tangents`.
    """
    v, noise = (part[: len(clean)] for part in tangents.chunk(2))
    probe.run(torch.cat([clean, clean + v, clean + noise]), settings.forward)
    probe.reset()
    exact = settings.precision == FULL and torch.finfo(clean.dtype).eps <= torch.finfo(torch.float32).eps
    if not exact or not noise.any():
        return  # a small step would drown in rounding
    probe.run_tangents(clean, torch.cat([v, noise]), settings.forward)
    limit = probe.results()
    off = {layer.layer for layer in limit}
    for share in _STEPS:
        step = share * float(clean.norm() / noise.norm())
        probe.reset()
        probe.run(torch.cat([clean, clean + step * v, clean + step * noise]), settings.forward)
        off &= {
            layer.layer
            for layer, other in zip(limit, probe.results(), strict=True)
            if other.g and not 1 / _NEAR < (layer.g or 0) * step**2 / other.g < _NEAR
        }
    probe.reset()
    if off:
        named = [layer.layer for layer in limit if layer.layer in off]
        more = f" and {len(off) - 3} more" if len(off) > 3 else ""
        warn(
            f"the small limit of {type(probe.model).__name__} is not that of small steps at "
            f"{', '.join(named[:3])}{more}: it detaches, rounds or draws numbers on the way"
        )
