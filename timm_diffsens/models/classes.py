"""The classes of a network: how many, and which."""

import torch
from torch import nn

from timm_diffsens.device.evaluation import evaluating
from timm_diffsens.models.inputs import timm_input
from timm_diffsens.models.trace import pick_output


def classes_of(module: nn.Module) -> int | None:
    """What the model says about itself, or else the width of its last linear layer."""
    said = getattr(module, "num_classes", None)
    if isinstance(said, int):
        return said or None
    linear = [m for m in module.modules() if isinstance(m, nn.Linear)]
    return linear[-1].out_features if linear else None


def classes_seen(module: nn.Module, shape: tuple[int, ...]) -> int | None:
    """The width of the network's output (n, classes), seen on a blank image; None for another output.

    A timm model says itself whether what it gives are classes or features.
    """
    if timm_input(module) is not None:
        return classes_of(module)
    like = next(iter(module.parameters()), torch.empty(0))
    try:
        with torch.no_grad(), evaluating(module):
            blank = torch.zeros(2, *shape, dtype=like.dtype, device=like.device)
            found = pick_output(module(blank))
    except Exception:  # it will fail again when it is measured, where that is reported
        return classes_of(module)
    return found[1].shape[1] if found is not None and found[1].ndim == 2 else None


def imagenet_names(classes: int | None) -> tuple[str, ...] | None:
    """WordNet ids in the order of the classes of any network that has as many classes as an ImageNet."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset({"num_classes": classes})
    return tuple(ImageNetInfo(subset).label_names()) if subset else None
