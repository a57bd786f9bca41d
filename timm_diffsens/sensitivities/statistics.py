"""Running statistics of norms in networks that have never seen an image."""

from typing import Any

import torch
from torch import nn

from timm_diffsens.errors import listed, warn
from timm_diffsens.sensitivities.batch_size import is_out_of_memory
from timm_diffsens.sensitivities.forwards import PassSettings, forwards, like_of, make_ready
from timm_diffsens.sensitivities.perturbed import PerturbedImages

STATISTICS_BATCH = 32  # images; in training, batches of 32 to 256 are usual


def set_running_statistics(model: nn.Module, images: PerturbedImages, settings: PassSettings) -> list[str]:
    """Set the running statistics of norms to averages over the clean images: cumulative, one pass.

    A network with fresh weights has statistics (0, 1), which would mean no normalisation at all; in training
    its norms use those of the batch. Batches hold at most `STATISTICS_BATCH` images, whatever the batch size
    of the measurement is, because the numbers depend on it; after an out-of-memory half as many.

    Args:
        model: in evaluation mode, in place on its device; nothing but running statistics changes.
        images: and their perturbation; they are corrupted, if it says so.
        settings: how forwards are run.

    Returns:
        What was tried before, in words.
    """
    make_ready(model, images, settings)
    norms = [module for module in model.modules() if _keeps_statistics(module)]
    size, retries = STATISTICS_BATCH, list[str]()
    while norms:
        try:
            _average(model, norms, images, settings, size)
            break
        except (RuntimeError, MemoryError) as error:
            if size == 1 or not is_out_of_memory(error):
                raise
        retries.append(f"out of memory at {size} images a batch for running statistics")
        size //= 2
    return retries


def _keeps_statistics(module: nn.Module) -> bool:
    """Batch-norms, and what other libraries make like them; frozen ones have no momentum."""
    kept = isinstance(getattr(module, "running_var", None), torch.Tensor)
    return kept and hasattr(module, "momentum")


def _average(
    model: nn.Module, norms: list[Any], images: PerturbedImages, settings: PassSettings, size: int
) -> None:
    momenta, calls = [norm.momentum for norm in norms], dict.fromkeys(norms, 0)

    def count(norm: Any, args: Any) -> None:  # one may be called several times a forward
        calls[norm] += 1
        norm.momentum = 1 / calls[norm]

    handles = []
    try:
        with forwards(model, images, settings) as layout:
            handles = [norm.register_forward_pre_hook(count) for norm in norms]
            for norm in norms:
                norm.training = True
            for k, (_, batch) in enumerate(images.corrupted(size, like_of(model), layout)):
                if k and len(batch) < size // 2:  # its variances are no estimate; one value has none
                    break
                settings.called(model, batch)
    finally:
        for norm, momentum in zip(norms, momenta, strict=True):
            norm.training, norm.momentum = False, momentum
        for handle in handles:
            handle.remove()
    names = [name for name, module in model.named_modules() if calls.get(module) == 0]
    if names:
        warn(f"running statistics of {listed(names)} stay as made: no forward calls these norms")
