"""Does a layer move with the image: the part of its change that is no displacement of its map.

    E_k = E ||f_k(tau x) - tau_k f_k(x)||^2 / E ||f_k(tau x) - f_k(x)||^2,

with tau_k the field of the image at the size of the layer's map, its displacements scaled alike. Near 0 the
map is displaced as the image is (the layer is equivariant); near 1 what changes is no displacement.
"""

import torch
import torch.nn.functional as F

from timm_diffsens.models.layers import Layer
from timm_diffsens.perturb.fields import deform

_MAP = 3  # axes of a map and its channels


def has_map(layer: Layer) -> bool:
    """Whether a layer's output is a map of at least two pixels a side, with its channels known."""
    if layer.channel_axis is None or len(layer.shape) != _MAP or layer.fold != 1:
        return False
    return min(side for axis, side in enumerate(layer.shape) if axis != layer.channel_axis) > 1


def displaced_parts(parts: torch.Tensor, channel_axis: int, fields: torch.Tensor) -> torch.Tensor:
    """f(tau x), tau_k f(x) and f(x), of which E_k is the R: (3, n, c, h, w).

    Args:
        parts: f(x), f(tau x), ...: (parts, n, three axes), the channels where `channel_axis` says.
        channel_axis: of one sample.
        fields: of the images: (n, 2, H, W), in their pixels, (dx, dy).
    """
    wide = torch.promote_types(parts.dtype, torch.float32)  # a grid in half precision is off by pixels' parts
    maps = parts[:2].movedim(channel_axis + 2, 2).to(wide)
    clean, deformed = maps.unbind()
    tau = resized(fields, (clean.shape[2], clean.shape[3])).to(wide)
    return torch.stack([deformed, deform(clean, tau), clean])


def resized(fields: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """Displacement fields (n, 2, H, W) on a map of another size: (n, 2, *size), in its pixels.

    A pixel of the map stands for a patch of the image, whose middle is where the field is read.
    """
    height, width = fields.shape[2:]
    if (height, width) == size:
        return fields
    scale = fields.new_tensor([size[1] / width, size[0] / height])[:, None, None]
    return F.interpolate(fields, size, mode="bilinear", align_corners=False, antialias=True) * scale
