"""The images of a monitor: a fixed sample of what a training has."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset

from timm_diffsens.data.scale import refuse_array
from timm_diffsens.errors import UsageError, listed
from timm_diffsens.perturb.streams import stream


def fixed_sample(images: Any, count: int, seed: int) -> torch.Tensor:
    """Images (n, c, h, w) on the CPU, see `Monitor`.

    Raises:
        UsageError: fewer than two images, no tensors, or several side by side.
    """
    refuse_array(images)
    if isinstance(images, tuple | list) and len(images) > 1:
        _refuse_batch(images)
    dataset: Any = images.dataset if isinstance(images, DataLoader) else images
    sized = isinstance(dataset, Dataset) and hasattr(dataset, "__len__")
    sized = sized and not isinstance(dataset, IterableDataset)
    if isinstance(images, DataLoader) and images.batch_size is not None and sized:
        chosen = _chosen(len(dataset), count, seed)
        taken = _pixels(images.collate_fn([dataset[index] for index in chosen]))
    elif isinstance(images, DataLoader) and images.batch_size is None and sized:
        taken = torch.stack([_pixels(dataset[index]) for index in _chosen(len(dataset), count, seed)])
    elif sized:
        chosen = _chosen(len(images), count, seed)
        taken = torch.stack([_pixels(images[index]) for index in chosen])
    elif isinstance(images, torch.Tensor):
        taken = images
    else:
        taken = _first(images, count)
    if taken.ndim < 3 or len(taken) < 2:
        raise UsageError(f"expected at least 2 images (n, c, h, w), got {tuple(taken.shape)}")
    return taken.detach().cpu().clone()


def _refuse_batch(items: Sequence[Any]) -> None:
    """Tensors side by side are refused: images and labels, images and masks, or batches, none can tell."""
    shapes = [str(tuple(item.shape)) for item in items if isinstance(item, torch.Tensor)]
    if shapes:
        raise UsageError(
            f"expected images alone, got a {type(items).__name__} with tensors {listed(shapes)}: of a batch "
            "of images and labels or masks give batch[0], of several batches of images torch.cat(batches)"
        )


def _chosen(size: int, count: int, seed: int) -> list[int]:
    """Positions in a set that may be sorted by class, in order."""
    return sorted(stream(seed, "sample").permutation(size)[:count].tolist())


def _first(batches: Iterable[Any], count: int) -> torch.Tensor:
    found: list[torch.Tensor] = []
    for batch in batches:
        found.append(_pixels(batch))
        if sum(map(len, found)) >= count:
            break
    return torch.cat(found)[:count] if found else torch.empty(0)


def _pixels(item: Any) -> torch.Tensor:
    """The images of `x` or `(x, label, ...)`."""
    image = item[0] if isinstance(item, tuple | list) and item else item
    if not isinstance(image, torch.Tensor):
        raise UsageError(f"expected images as tensors, alone or before a label, got {type(image).__name__}")
    return image
