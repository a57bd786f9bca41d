"""The reduction that runs where a layer's output lies: compiled on the CPU, PyTorch's own elsewhere."""

from collections.abc import Sequence

import torch

from timm_diffsens.sensitivities.reductions.plain import COLUMNS, Portion, add_rows_in_blocks


def add_rows(
    parts: torch.Tensor,
    portions: Sequence[Portion],
    pivot: torch.Tensor,
    drift: torch.Tensor | None,
    numbers: torch.Tensor,
) -> None:
    """Add images to the running sums of a layer, in place.

    a = ||moved - clean||^2, g = ||noised - clean||^2 and b = 2 N / (N + 1) ||clean - pivot||^2, N being the
    number of images before the stretch. At its end the pivot becomes the mean of all.

    Args:
        parts: (3, n, d), clean, moved and noised representations; half precision is widened first.
        portions: which of the images, one after the other.
        pivot: (d,), of the type in which to calculate.
        drift: (d,), sum of clean - pivot over the open stretch; what it holds is forgotten where one opens.
            None if the first portion opens its stretch and the last closes its own.
        numbers: see `plain.new_numbers`.
    """
    if parts.device.type != "cpu":
        add_rows_in_blocks(parts, portions, pivot, drift, numbers, COLUMNS)
        return
    from timm_diffsens.sensitivities.reductions import numba_cpu  # needs numba, slow to import

    if parts.dtype in (torch.float32, torch.float64):
        numba_cpu.add(parts.contiguous(), portions, pivot, drift, numbers)
        return
    for portion in portions:  # so that what is widened is small
        images = parts[:, portion.first : portion.last].to(
            torch.float32, memory_format=torch.contiguous_format
        )
        numba_cpu.add(images, [portion._replace(first=0, last=images.shape[1])], pivot, drift, numbers)


def prepare(device: torch.device) -> None:
    """Load what `add_rows` needs there: while activations come and go it would leave holes among them."""
    if device.type == "cpu":
        from timm_diffsens.sensitivities.reductions import numba_cpu

        for pivot in (torch.float32, torch.float64):
            numba_cpu.function_for(torch.float32, pivot)
