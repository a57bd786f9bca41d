"""White noise: matched to a deformation in norm, or fixed for each image."""

import torch

from timm_diffsens.errors import UsageError
from timm_diffsens.perturb.streams import Generator, standard_normal


def matched_noise(clean: torch.Tensor, moved: torch.Tensor, generator: Generator = None) -> torch.Tensor:
    """White noise with `||eta|| = ||moved - clean||`, image by image: (n, ...), to be added to `clean`.

    eta = ||moved - clean|| g / ||g|| with g standard normal: uniform on the sphere of that radius.
    Source: arXiv 2210.01506, Section 1 (the definition of G_f).

    Raises:
        UsageError: the two shapes differ, or the images are not floating-point.

    Example:
        >>> import torch
        >>> from timm_diffsens import matched_noise
        >>> clean, moved = torch.rand(2, 4, 3, 8, 8)
        >>> eta = matched_noise(clean, moved, generator=torch.Generator().manual_seed(0))
        >>> torch.allclose(eta.flatten(1).norm(dim=1), (moved - clean).flatten(1).norm(dim=1))
        True
    """
    if clean.shape != moved.shape:
        raise UsageError(f"clean {tuple(clean.shape)} and moved {tuple(moved.shape)} differ in shape")
    g = _draws(clean, generator)
    # half precision is widened first: a rounded scale would miss the norm by up to 0.4 %
    radius, length = (_norms(each) for each in (moved.to(g) - clean.to(g), g))
    scale = (radius / length).to(g.dtype)
    return g.mul_(scale.view(-1, *[1] * (clean.ndim - 1))).to(clean.dtype)


def corrupt(images: torch.Tensor, sigma: float, generator: Generator = None) -> torch.Tensor:
    """`x + sigma g'`, with g' standard normal (Fig. 1 right): give each image its own generator to fix it."""
    return images if sigma == 0 else images + sigma * gaussian_like(images, generator)


def gaussian_like(images: torch.Tensor, generator: Generator = None) -> torch.Tensor:
    """Standard normal draws of the shape, type and device of `images` (n, ...)."""
    return _draws(images, generator).to(images.dtype)


def _draws(images: torch.Tensor, generator: Generator) -> torch.Tensor:
    """The same, in float32 or wider."""
    if images.ndim < 2 or not images.is_floating_point():
        raise UsageError(f"expected floating-point images (n, ...), got {images.dtype} {tuple(images.shape)}")
    dtype = torch.float64 if images.dtype == torch.float64 else torch.float32
    return standard_normal(len(images), images.shape[1:], generator, dtype).to(images.device)


def _norms(images: torch.Tensor) -> torch.Tensor:
    wide = torch.float64 if images.device.type == "cpu" else images.dtype
    norms: torch.Tensor = torch.linalg.vector_norm(images.flatten(1), dim=1, dtype=wide)
    return norms
