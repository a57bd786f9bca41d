"""The reduction for where a layer's output lies: by numba on a CPU, by Triton on a GPU, else by PyTorch."""

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
    on_gpu = _on_gpu(parts.device) if parts.is_cuda else None
    if on_gpu is not None and (on_gpu.fits(parts) or on_gpu.fits(parts := parts.contiguous())):
        on_gpu.add_rows(parts, blocks, pivot, drift, sums)
        return
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
    if device.type == "cuda":
        _on_gpu(device)
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
            "numba, which is optional, cannot be imported (%s): the same numbers take longer on a CPU; "
            "pip install 'timm-diffsens[fast]', in a clone '.[fast]', brings it",
            error,
        )
        return None
    return compiled


@functools.cache
def _on_gpu(device: torch.device) -> ModuleType | None:
    """The reduction in Triton, or None where Triton, or what it compiles with, is not there."""
    try:
        from timm_diffsens.sensitivities.reductions import on_gpu

        on_gpu.try_out(device)
    except Exception as error:  # of Triton, of the compiler that it calls, of the driver
        logging.getLogger("timm_diffsens").warning(
            "Triton cannot be used on %s (%s): the same numbers take longer there", device, error
        )
        return None
    return on_gpu
