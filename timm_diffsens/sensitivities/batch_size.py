"""How many images a forward takes, and when there were too many."""

import math
from typing import Literal

import torch

from timm_diffsens.errors import UsageError, said

BatchSize = int | Literal["auto"]

# Of an automatic batch: it stays in the caches of a CPU, and needs few launches on a GPU.
_PIXELS = 16 * 224 * 224
_MOST = {"cpu": 64, "cuda": 256}


def chosen_batch_size(
    asked: BatchSize, first: torch.Tensor | None, device: torch.device, pairs: int = 1
) -> int:
    """The batch size asked for, or one that suits the images and the device.

    Args:
        asked: a number, or "auto".
        first: the first image, (1, c, h, w) or (1, c, length); None where there is none.
        device: of the network.
        pairs: of deformed and noised images for each clean one: with more of them, fewer images.

    Raises:
        UsageError: neither a positive number nor "auto".
    """
    if isinstance(asked, int) and asked > 0:
        return asked
    if asked != "auto":
        raise UsageError(f"batch size must be a positive number or 'auto', got {asked!r}")
    pixels = 1 if first is None else max(1, math.prod(first.shape[2:]))
    usual = min(_MOST.get(device.type, 64), _PIXELS // pixels)
    return max(1, 3 * usual // (1 + 2 * pairs))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an error is true memory exhaustion, on the GPU or the CPU; nothing else is retried."""
    if isinstance(error, torch.cuda.OutOfMemoryError | MemoryError):
        return True
    text = said(error)
    return isinstance(error, RuntimeError) and (
        "DefaultCPUAllocator: can't allocate memory" in text
        or "DefaultCPUAllocator: not enough memory" in text
    )
