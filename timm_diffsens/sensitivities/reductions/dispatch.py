"""The reduction that runs where a layer's output lies: compiled on the CPU, PyTorch's own elsewhere."""

import functools
import logging
from collections.abc import Sequence
from types import ModuleType

import torch

from timm_diffsens.sensitivities.reductions import reference
from timm_diffsens.sensitivities.reductions.state import Block, RunningSums


def add_rows(
    parts: torch.Tensor,
    blocks: Sequence[Block],
    pivot: torch.Tensor,
    drift: torch.Tensor | None,
    sums: RunningSums,
) -> None:
    """Add images to the running sums of a layer, in place. At the end of a block the pivot becomes the mean.

    Args:
        parts: (1 + 2 K, n, d), the clean representations, then the deformed and the noised ones of each of
            K pairs; half precision is widened first.
        blocks: which of the images, one after the other.
        pivot: (d,), of the type in which to calculate.
        drift: (d,), sum of clean - pivot over the open block; what it holds is forgotten where one opens.
            None if the first block opens here and the last ends here.
        sums: see `RunningSums`.
    """
    compiled = _compiled() if parts.device.type == "cpu" else None
    if compiled is None:
        reference.add_rows(parts, blocks, pivot, drift, sums)
    elif parts.dtype in (torch.float32, torch.float64):
        compiled.add_rows(parts.contiguous(), blocks, pivot, drift, sums)
    else:
        for block in blocks:  # so that what is widened is small
            images = parts[:, block.first : block.last].to(
                torch.float32, memory_format=torch.contiguous_format
            )
            compiled.add_rows(images, [block._replace(first=0, last=images.shape[1])], pivot, drift, sums)


def prepare(device: torch.device) -> None:
    """Load what `add_rows` needs there: while activations come and go it would leave holes among them."""
    compiled = _compiled() if device.type == "cpu" else None
    if compiled is not None:
        for pivot in (torch.float32, torch.float64):
            compiled.function_for(torch.float32, pivot)


@functools.cache
def _compiled() -> ModuleType | None:
    """The compiled reduction, or None where numba, which is optional and slow to import, is not there."""
    try:
        from timm_diffsens.sensitivities.reductions import compiled
    except ImportError as error:
        logging.getLogger("timm_diffsens").warning(
            "numba cannot be imported (%s): the same numbers take longer on a CPU; "
            "pip install 'timm-diffsens[fast]' brings it",
            error,
        )
        return None
    return compiled
