"""The deformation of scale detection: every active pixel moves by at most one pixel."""

from dataclasses import dataclass

import numpy as np
import torch

from timm_diffsens.data.scale_detection import Generator as PixelGenerator
from timm_diffsens.data.scale_detection import ScaleDetection
from timm_diffsens.errors import UsageError
from timm_diffsens.perturb.deformation import Size
from timm_diffsens.perturb.streams import Generator
from timm_diffsens.registry import Look, register


@register(
    "deformations",
    "active-pixels",
    help="of scale1 and scale2: their two pixels move by at most one",
    look=Look("#D55E00"),
    order=1,
    known_as="active pixels",
)
@dataclass(frozen=True)
class ActivePixels:
    """Moves the two active pixels of scale-detection images, see `ScaleDetection.displace`.

    They are found as the two largest values of an image's first channel, so that noise on top of it
    (`--corrupt`), which stays where it is, does not matter as long as it is well below their value.
    Source: arXiv 2210.01506, Section 3 and App. B.

    Raises:
        UsageError: no task: this deformation comes with the data sets scale1 and scale2.

    Example:
        >>> import numpy as np
        >>> from timm_diffsens import ScaleDetection
        >>> from timm_diffsens.perturb.pixels import ActivePixels
        >>> task = ScaleDetection(task=1, dims=2)
        >>> images = task.test(4).images
        >>> deformed = ActivePixels(task)(images, np.random.default_rng(0))
        >>> bool((deformed.square().sum(dim=(1, 2, 3)) >= images.square().sum(dim=(1, 2, 3))).all())
        True
    """

    task: ScaleDetection = None  # type: ignore[assignment]  # to say what is missing

    def __post_init__(self) -> None:
        if self.task is None:
            raise UsageError(
                "the deformation active-pixels belongs to the data sets scale1 and scale2, and is used with "
                "them without being asked for"
            )

    def rms(self, size: Size) -> float:
        """Rms displacement of an active pixel over all its positions, in pixels; `size` does not matter."""
        return self.task.rms_displacement()

    def __call__(self, images: torch.Tensor, generator: Generator = None) -> torch.Tensor:
        """Deform images (n, c, *task.shape).

        Raises:
            UsageError: images of another shape, or without two active pixels; a torch generator.
        """
        positions = self.positions(images)
        there = self.task.displace(positions, _numpy(generator))
        change = self.task.render(there) - self.task.render(positions)
        return images + change.to(images)

    def positions(self, images: torch.Tensor) -> torch.Tensor:
        """Where the active pixels of images (n, c, *task.shape) are: (n, 2, dims), int64."""
        if tuple(images.shape[2:]) != self.task.shape:
            raise UsageError(
                f"expected images (n, c, {', '.join(map(str, self.task.shape))}), got {tuple(images.shape)}"
            )
        values, flat = images[:, 0].flatten(1).topk(2, dim=1)
        if len(images) and values.min() < self.task.amplitude / 2:
            raise UsageError("images of scale detection have two active pixels; these do not")
        coordinates = np.unravel_index(flat.cpu().numpy(), self.task.shape)
        return torch.from_numpy(np.stack(coordinates, axis=-1).astype(np.int64))


def _numpy(generator: Generator) -> PixelGenerator:
    if generator is None:
        return np.random.default_rng()
    if isinstance(generator, torch.Generator):
        raise UsageError("active pixels are moved with numpy generators (one, or one an image)")
    return generator
