"""Standard normals that belong to an image: the same numbers in any batch, on any device."""

import functools
import importlib
import math
from collections.abc import Sequence
from types import ModuleType

import torch

from timm_diffsens.perturb.philox import reference
from timm_diffsens.perturb.philox.reference import Place


def normals(
    seed: int,
    purpose: str,
    images: Sequence[int],
    shape: Sequence[int],
    device: torch.device | str = "cpu",
    first: int = 0,
) -> torch.Tensor:
    """Standard normal draws, one set an image: (n, *shape), float32, made on the device.

    Args:
        seed: modulo 2^64. purpose: "noise", "corruption", ...
        images: their indices.
        shape: of the draws of one image.
        device: where; the numbers are the same on all of them.
        first: where in an image's stream they begin, in fours.
    """
    elements = math.prod(shape)
    out = torch.empty((len(images), elements), dtype=torch.float32, device=device)
    if out.numel() and not out.is_meta:
        _implementation(out.device.type).fill(out, Place.of(seed, purpose, images, first))
    return out.view(len(images), *shape)


@functools.cache
def _implementation(device: str) -> ModuleType:
    """The fastest that there is: numba and Triton are optional, and slow to import."""
    name = {"cpu": "compiled", "cuda": "on_gpu"}.get(device)
    try:
        return importlib.import_module(f"timm_diffsens.perturb.philox.{name}") if name else reference
    except ImportError:
        return reference
