"""White noise: matched to a deformation in norm, or fixed for each image."""

from collections.abc import Callable
from functools import wraps

import torch

from timm_diffsens.device import threads
from timm_diffsens.errors import UsageError
from timm_diffsens.perturb.streams import Generator, Streams, standard_normal, wide_type
from timm_diffsens.registry import Look, name_of, register

_CACHED = 2**18  # numbers whose copies in float64 stay in a processor's cache

Noise = Callable[[torch.Tensor, torch.Tensor, Generator], torch.Tensor]
"""Clean images, deformed images, generators (one an image) -> what is added to the clean ones: (n, ...)."""


@register(
    "noises",
    "gaussian",
    help="white noise",
    look=Look("#0072B2"),
    known_as="gaussian, norm matched image by image",
)
def matched_noise(clean: torch.Tensor, deformed: torch.Tensor, generator: Generator = None) -> torch.Tensor:
    """White noise with `||eta|| = ||deformed - clean||`, image by image: (n, ...), to be added to `clean`.

    eta = ||deformed - clean|| g / ||g|| with g standard normal: uniform on the sphere of that radius.
    Source: arXiv 2210.01506, Section 1 (the definition of G_f).

    Raises:
        UsageError: the two shapes differ, or the images are not floating-point.

    Example:
        >>> import torch
        >>> from timm_diffsens import matched_noise
        >>> clean, deformed = torch.rand(2, 4, 3, 8, 8)
        >>> eta = matched_noise(clean, deformed, generator=torch.Generator().manual_seed(0))
        >>> torch.allclose(eta.flatten(1).norm(dim=1), (deformed - clean).flatten(1).norm(dim=1))
        True
    """
    if clean.shape != deformed.shape:
        raise UsageError(f"clean {tuple(clean.shape)} and deformed {tuple(deformed.shape)} differ in shape")
    g, length = _directions(clean, generator)
    radius = _norms(_difference(deformed, clean, g))
    return _scaled(g, radius / length).to(clean.dtype)


def of_matched_norm(noise: Noise) -> Noise:
    """The noise, scaled to `||deformed - clean||` image by image.

    Where it is used, a `UsageError` is raised for noise that has another shape than the images, that is not
    finite, or that is zero where the deformation is not.
    """

    @wraps(noise)  # under its name in errors
    def scaled(clean: torch.Tensor, deformed: torch.Tensor, generator: Generator = None) -> torch.Tensor:
        drawn = noise(clean, deformed, generator)
        if not isinstance(drawn, torch.Tensor) or drawn.shape != clean.shape:
            got = tuple(drawn.shape) if isinstance(drawn, torch.Tensor) else type(drawn).__name__
            raise UsageError(
                f"the noise {name_of(noise)}: expected noise of the shape of the images, "
                f"{tuple(clean.shape)}, got {got}"
            )
        wide = drawn.to(clean.device, wide_type(clean))
        if not wide.isfinite().all():
            raise UsageError("the noise holds numbers that are not finite")
        radius, length = _norms(_difference(deformed, clean, wide)), _norms(wide)
        if ((length == 0) & (radius > 0)).any():
            raise UsageError("the noise of an image is zero: it cannot be scaled to the deformation's norm")
        return _scaled(wide, radius / length.where(length > 0, 1)).to(clean.dtype)

    return scaled


def corrupt(images: torch.Tensor, sigma: float, generator: Generator = None) -> torch.Tensor:
    """`x + sigma g'`, with g' standard normal (Fig. 1 right): give each image its own generator to fix it."""
    return images if sigma == 0 else images + sigma * _draws(images, generator).to(images.dtype)


def _directions(images: torch.Tensor, generator: Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Standard normal draws for images (n, ...), not to be written into, and their norms (n,)."""

    def draw() -> tuple[torch.Tensor, torch.Tensor]:
        draws = _draws(images, generator)
        return draws, _norms(draws)

    if isinstance(generator, Streams):  # which may have several deformations to be matched
        return generator.kept((images.shape, images.dtype, images.device), draw)
    return draw()


def _draws(images: torch.Tensor, generator: Generator) -> torch.Tensor:
    """Standard normal draws of the shape and device of `images` (n, ...), in float32 or wider."""
    if images.ndim < 2 or not images.is_floating_point():
        raise UsageError(f"expected floating-point images (n, ...), got {images.dtype} {tuple(images.shape)}")
    return standard_normal(len(images), images.shape[1:], generator, wide_type(images), images.device)


def _difference(deformed: torch.Tensor, clean: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    return deformed.to(like) - clean.to(like)


def _scaled(noise: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The noise (n, ...) times a number an image (n,)."""
    return noise * scale.to(noise.dtype).view(-1, *[1] * (noise.ndim - 1))


def _norms(images: torch.Tensor) -> torch.Tensor:
    """Of each image, summed in float64 on a CPU: (n,)."""
    flat = images.flatten(1)
    if images.device.type != "cpu" or flat.numel() <= _CACHED:
        dtype = torch.float64 if images.device.type == "cpu" else None
        norms: torch.Tensor = torch.linalg.vector_norm(flat, dim=1, dtype=dtype)
        return norms
    parts = torch.split(flat, max(1, _CACHED // flat.shape[1]))
    each: list[torch.Tensor] = [flat] * len(parts)

    def some(number: int) -> None:
        each[number] = torch.linalg.vector_norm(parts[number], dim=1, dtype=torch.float64)

    threads.share(some, len(parts))
    return torch.cat(each)
