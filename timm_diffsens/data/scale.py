"""Whether images of the caller's own are such as a network wants them."""

from typing import Any

import numpy as np
import torch

from timm_diffsens.errors import UsageError, warn

MOST_RMS = 20  # normalised images have about 1, a standard deviation of 0.05 in place of theirs makes it 10
NOT_NORMALISED = "the images are not normalised"  # how the warning begins


def check_scale(images: torch.Tensor) -> None:
    """Warn of images (n, ...) whose rms is that of pixels from 0 to 255, beyond that of normalised ones."""
    rms = float(images[:32].double().square().mean().sqrt()) if len(images) else 0.0
    if rms > MOST_RMS:
        warn(
            f"{NOT_NORMALISED}, it seems: their rms is {rms:.3g}, of normalised ones about 1; divide pixels "
            "by 255, subtract the mean and divide by the standard deviation that the network was trained with"
        )


def refuse_array(images: Any) -> None:
    """Raise a `UsageError` for arrays, which no network takes."""
    if isinstance(images, np.ndarray | np.generic):
        raise UsageError(
            f"expected a tensor, got a numpy {type(images).__name__}: torch.from_numpy(images) makes one, "
            "of the type of the weights by .float()"
        )
