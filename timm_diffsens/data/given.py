"""Data of the caller's own: tensors, map-style data sets, loaders."""

import hashlib
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from timm_diffsens.data.scale import check_scale, refuse_array
from timm_diffsens.data.source import (
    ImageSource,
    Item,
    Origin,
    SequentialSource,
    as_label,
    convert,
    pixel_digest,
)
from timm_diffsens.errors import MeasurementError, UsageError, first_line

NOTE = "given by the caller"
_EXPECTED = (
    "a tensor (n, c, h, w), a tuple (tensor, labels), a Dataset of PIL images or tensors with labels or "
    "without, or a DataLoader or other batches of tensors"
)


def given_source(data: Any, spec: str | None = None) -> ImageSource:
    """A source of data that are given as objects.

    Args:
        data: see `data.opening.open_images`.
        spec: in the record; by default `tensor`, or the name of the data set's class.

    Raises:
        UsageError: it is nothing that is expected.
    """
    refuse_array(data)
    if isinstance(data, torch.Tensor | tuple):
        return Tensors(Origin(spec or "tensor", note=NOTE), data)
    held = data.dataset if isinstance(data, DataLoader) else data
    origin = Origin(spec or type(held).__name__, note=NOTE)
    if isinstance(data, Dataset) and hasattr(data, "__len__"):
        return Items(origin, data)
    if not isinstance(data, Iterable) or isinstance(data, str | bytes):
        raise UsageError(f"data of type {type(data).__name__}; expected a name, {_EXPECTED}")
    return Batches(origin, data)


def _batch(data: Any, where: str) -> tuple[torch.Tensor, list[int | None]]:
    """Images (n, c, h, w), with n labels or without -> the images on the CPU, and n labels or Nones."""
    images, labels = _pair(data)
    if not (isinstance(images, torch.Tensor) and images.is_floating_point() and images.ndim in (3, 4)):
        raise UsageError(f"{where}: expected a floating-point tensor (n, c, h, w), got {_kind(images)}")
    if labels is None:
        return images.detach().cpu(), [None] * len(images)
    values = labels.tolist() if hasattr(labels, "tolist") else labels
    known = isinstance(values, Sequence) and [v in (None, -1) or as_label(v) is not None for v in values]
    if not known or len(known) != len(images) or not all(known):
        raise UsageError(f"{where}: expected {len(images)} class indices as labels, got {_kind(labels)}")
    return images.detach().cpu(), [as_label(value) for value in values]


def _pair(data: Any) -> tuple[Any, Any]:
    """What is given as `x`, `(x,)` or `(x, labels)` -> x, and the labels or None."""
    whole = isinstance(data, tuple | list) and len(data) in (1, 2)
    return (*data, None)[:2] if whole else (data, None)


def _kind(value: Any) -> str:
    if isinstance(value, torch.Tensor):
        return f"{value.dtype} {tuple(value.shape)}"
    size = f" of {len(value)}" if isinstance(value, tuple | list) else ""
    return type(value).__name__ + size


def _item(index: int, image: torch.Tensor, label: int | None) -> Item:
    """With the sha256 of the type, shape and bytes of the image."""
    raw = image.contiguous().view(torch.uint8).numpy().tobytes()
    text = f"{image.dtype} {tuple(image.shape)} ".encode()
    return Item(index, label, hashlib.sha256(text + raw).hexdigest())


class Given(ImageSource):
    """Images of the caller's own, whose labels are the model's class indices."""

    concurrent = False

    def name(self, index: int) -> str:
        """`tensor/00000042`."""
        return f"tensor/{index:08d}"


class Tensors(Given):
    """Images (n, c, h, w) in memory, with labels or without."""

    all_by_default = True

    def __init__(self, origin: Origin, data: Any) -> None:
        images, self._labels = _batch(data, origin.spec)
        check_scale(images)
        self._images: list[torch.Tensor] = list(images)
        super().__init__(origin, len(images))

    def inspect(self, index: int, channels: int) -> Item:
        """Hash its bytes."""
        return _item(index, self._images[index], self._labels[index])

    def image(self, index: int, channels: int) -> torch.Tensor:
        """(c, h, w)."""
        return self._images[index]

    def shape(self, channels: int) -> tuple[int, ...]:
        """(c, h, w); nothing has a shape before it is read."""
        return tuple(self._images[0].shape) if self._images else ()


class Items(Given):
    """A map-style data set: each item is an image, or (image, label); always the same when read again."""

    def __init__(self, origin: Origin, dataset: Any) -> None:
        self._dataset, self._digests = dataset, dict[int, str]()
        super().__init__(origin, len(dataset))
        first = self._read(0)[0] if self.size else None
        self._shape = tuple(first.shape) if isinstance(first, torch.Tensor) else None
        if isinstance(first, torch.Tensor):
            check_scale(first[None])

    def _read(self, index: int) -> tuple[Image.Image | torch.Tensor, int | None]:
        item, where = self._dataset[index], f"{self.origin.spec}[{index}]"
        image, label = _pair(item)
        if isinstance(image, Image.Image):
            return image, _batch((torch.zeros(1, 1, 1), [label]), where)[1][0]
        if not isinstance(image, torch.Tensor):
            raise UsageError(f"{where}: expected a PIL image or a tensor (c, h, w), got {_kind(image)}")
        label = label.item() if isinstance(label, torch.Tensor) and label.numel() == 1 else label
        images, labels = _batch((image[None], [label]), where)
        return images[0], labels[0]

    def _digested(self, index: int, channels: int) -> tuple[Image.Image | torch.Tensor, Item]:
        image, label = self._read(index)
        shape = tuple(image.shape) if isinstance(image, torch.Tensor) else None
        if shape != self._shape:
            kinds = [f"a tensor {s}" if s else "a PIL image" for s in (self._shape, shape)]
            raise UsageError(f"{self.origin.spec}[{index}]: expected {kinds[0]}, as at 0, got {kinds[1]}")
        if isinstance(image, torch.Tensor):
            return image, _item(index, image, label)
        image = convert(image, channels)
        return image, Item(index, label, pixel_digest(image))

    def inspect(self, index: int, channels: int) -> Item:
        """Hash the pixels."""
        item = self._digested(index, channels)[1]
        self._digests[index] = item.digest
        return item

    def image(self, index: int, channels: int) -> Image.Image | torch.Tensor:
        """Read it again.

        Raises:
            MeasurementError: it is not the same as before.
        """
        image, item = self._digested(index, channels)
        if item.digest != self._digests[index]:
            raise MeasurementError(
                f"{self.origin.spec}[{index}] is not the same when read again: no random augmentation here"
            )
        return image

    def shape(self, channels: int) -> tuple[int, ...] | None:
        """(c, h, w) of tensors."""
        return self._shape


class Batches(Tensors, SequentialSource):
    """A loader: its first images, read once, in its order, and kept in memory."""

    all_by_default = False

    def __init__(self, origin: Origin, batches: Iterable[Any]) -> None:
        SequentialSource.__init__(self, origin, -1)
        self._batches = iter(batches)
        self._images, self._labels = [], []

    def first(self, count: int | None, channels: int) -> list[Item]:
        """The first `count` images (None: all); only batches that were not read before are read.

        Raises:
            UsageError: a batch is no tensor, or has images of another shape.
            MeasurementError: the loader fails.
        """
        spec = self.origin.spec
        while self.size < 0 and (count is None or len(self._images) < count):
            try:
                batch = next(self._batches)
            except StopIteration:
                self.size = len(self._images)
                break
            except Exception as error:
                read = f"the loader failed after {len(self._images)} images"
                raise MeasurementError(f"{spec}: {read}: {first_line(error)}") from error
            images, labels = _batch(batch, f"a batch of {spec}")
            if not self._images:
                check_scale(images)
            if self._images and images.shape[1:] != self._images[0].shape:
                shapes = f"{tuple(self._images[0].shape)} and {tuple(images.shape[1:])}"
                raise UsageError(f"{spec} has images of shapes {shapes}")
            self._images += images.clone()  # a loader may fill one buffer again and again
            self._labels += labels
        return [self.inspect(index, channels) for index in range(len(self._images))[:count]]

    def shape(self, channels: int) -> tuple[int, ...]:
        """(c, h, w) of the first batch, which is read if none was; () of an empty loader."""
        self.first(1, channels)
        return tuple(self._images[0].shape) if self._images else ()
