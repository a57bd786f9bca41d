"""A data set spec -> a fixed sample of images, checked, hashed and ready in batches.

The sample is drawn once, by a permutation that depends on the seed and on the number of images in the split
alone, so that the first 100 images of a sample of 500 are the sample of 100. Every image of it is read and
decoded before anything is measured: what cannot be read is named, left out and counted, never replaced.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import torch
from PIL import Image

from timm_diffsens.data.batches import READERS, Batch, prefetch
from timm_diffsens.data.inspection import inspect_first, inspect_images
from timm_diffsens.data.opening import open_images
from timm_diffsens.data.scale_detection import ScaleDetection, choose_pairwise
from timm_diffsens.data.source import MODES, ImageSource, Origin, SequentialSource
from timm_diffsens.device import allocator
from timm_diffsens.errors import DiffsensError, MeasurementError, UsageError, warn
from timm_diffsens.schema.records import InputSpec

_STREAM = 0x5A3B1E  # keeps the sampling apart from every other use of the same seed
_LONGEST = 16  # length of an image over its width that is resized as a whole, for a square crop
_WORDNET_ID = re.compile(r"n\d{8}")

UNKNOWN_CLASSES = "class names unknown: labels are taken as the model's class indices"

Selection = Literal["random", "first", "all"]


@dataclass(frozen=True, kw_only=True)
class ImageSample(Origin):
    """Images chosen from a split, in a fixed order; `len()` of them were readable.

    Attributes, besides those of `Origin`:
        source: what the images are read from. channels: 3 or 1.
        names: one an image, independent of where the set lies.
        indices: index of each image in the split. Random streams belong to it.
        labels: class index of each image in the set's own sorted class order; None if unlabelled.
        class_names: the classes in that order; None if unlabelled or unknown.
        sha256: over names, labels and bytes of the images, in order.
        seed: what chose the sample.
        selection: "random"; "first" for a stream; "all" if every image of the split was taken.
        skipped: names of the images that could not be read.
    """

    source: ImageSource = field(repr=False, compare=False)
    channels: int
    names: tuple[str, ...]
    indices: tuple[int, ...]
    labels: tuple[int, ...] | None
    class_names: tuple[str, ...] | None
    sha256: str
    seed: int
    selection: Selection
    skipped: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def size(self) -> int:
        """Images in the whole split, -1 for a stream."""
        return self.source.size

    @property
    def task(self) -> ScaleDetection | None:
        """The scale-detection task, if the images are of one."""
        return self.source.task

    def transform(self, spec: InputSpec) -> Callable[[Any], torch.Tensor]:
        """From an image to what a network of this input is shown; tensors are shown as they are.

        Raises:
            UsageError: they are tensors of another shape than the network takes.
        """
        shape, wanted = self.source.shape(self.channels), (spec.channels, spec.height, spec.width)
        if shape is None:
            return image_transform(spec)
        if shape != wanted and not (spec.height == 1 and shape == (spec.channels, spec.width)):
            raise UsageError(
                f"{self.spec} has images of shape {shape}, the model takes {wanted}: give --input-size"
            )
        return lambda image: image

    def load(self, i: int) -> Image.Image | torch.Tensor:
        """Image at position `i` of the sample: a PIL image in RGB or L, or a tensor.

        Raises:
            IndexError: there is no such position.
            MeasurementError: the image can no longer be read.
        """
        index = self.indices[i]
        try:
            return self.source.image(index, self.channels)
        except DiffsensError:
            raise
        except Exception as error:
            raise MeasurementError(f"{self.names[i]} can no longer be read: {error}") from error

    def batches(
        self, transform: Callable[[Any], torch.Tensor], batch_size: int
    ) -> Generator[Batch, None, None]:
        """Yield (positions, tensor (b, c, h, w)) over the sample in order; see `data.batches.prefetch`.

        Raises:
            UsageError: `batch_size` is below 1.
        """
        if batch_size < 1:
            raise UsageError(f"--batch-size must be at least 1, not {batch_size}")
        readers = READERS if self.source.concurrent else 1
        return prefetch(
            lambda position: transform(self.load(position)), range(len(self)), batch_size, readers
        )


def load_images(
    data: Any = "dead-leaves",
    *,
    data_dir: str | Path | None = None,
    split: str | None = None,
    images: int | Literal["default"] | None = "default",
    seed: int = 0,
    download: bool = False,
    channels: int = 3,
    **parameters: Any,
) -> ImageSample:
    """Choose `images` images of a data set at random (None: the whole split, in its own order).

    Args:
        data, data_dir, split, download, parameters: see `data.opening.open_images`.
        images: how many, by default 500, of a tensor all; with a warning all of them if there are fewer. A
            stream or a loader gives its first ones.
        seed: chooses them; a smaller sample is a prefix of a larger one. Those of `scale1` and `scale2` are
            balanced.
        channels: 3 for RGB, 1 for grey images.

    Raises:
        UsageError: an unknown name, a missing folder or package, a set without readable images.
        MeasurementError: more than 1 % of the sample cannot be read.

    >>> sample = load_images(images=3)
    >>> len(sample), sample.load(0).size, sample.labels
    (3, (256, 256), None)
    """
    if isinstance(images, int) and images < 2:
        raise UsageError(f"--images must be at least 2 (distances between images are needed), not {images}")
    if seed < 0:
        raise UsageError(f"--seed must not be negative, got {seed}")
    source = open_images(data, data_dir=data_dir, split=split, download=download, parameters=parameters)
    for remark in source.remarks:
        warn(remark)
    if images == "default":
        images = None if source.all_by_default else 500
    if channels not in MODES and source.shape(channels) is None:
        raise UsageError(f"images have 1 or 3 channels, the model wants {channels}")
    spec = source.origin.spec
    selection: Selection = "all"
    if isinstance(source, SequentialSource):
        items, skipped = inspect_first(source, images, channels)
        if len(items) != source.size:
            selection = "first"
    else:
        chosen = _choose(source, images, seed)
        if source.size < 2:
            raise UsageError(f"{spec} has {source.size} image; sensitivities need at least 2")
        if images is not None and source.size < images:
            warn(f"{spec} has {source.size} images, not {images}: all of them are used (--images)")
        items, skipped = inspect_images(source, chosen, channels)
        if len(chosen) != source.size:
            selection = "random"
    labels = tuple(item.label for item in items if item.label is not None)
    known = labels if len(labels) == len(items) else None
    origin, names = source.origin, tuple(source.name(item.index) for item in items)
    if known is not None and source.class_names is None:
        notes = [UNKNOWN_CLASSES] if origin.note is None else [origin.note, UNKNOWN_CLASSES]
        origin = replace(origin, note="; ".join(notes))
    total = hashlib.sha256()
    for name, item in zip(names, items, strict=True):
        label = None if known is None else item.label
        total.update(json.dumps([name, label, item.index, item.digest]).encode() + b"\n")
    return ImageSample(
        **vars(origin),
        source=source,
        channels=channels,
        names=names,
        indices=tuple(item.index for item in items),
        labels=known,
        class_names=None if known is None else source.class_names,
        sha256=total.hexdigest(),
        seed=seed,
        selection=selection,
        skipped=skipped,
    )


def _choose(source: ImageSource, images: int | None, seed: int) -> list[int]:
    """Indices of the sample: the first `images` of a permutation of the split.

    The permutation sorts the images by raw Philox output, which NumPy keeps the same from version to
    version, as it does not for `Generator.permutation`.
    """
    size = source.size
    if images is None:
        return list(range(size))
    if source.paired:
        return choose_pairwise(size, min(images, size), seed, source.origin.spec)
    keys = np.random.Philox(np.random.SeedSequence([_STREAM, seed])).random_raw(size)
    return [int(index) for index in np.argsort(keys, kind="stable")[:images]]


def image_transform(spec: InputSpec) -> Callable[[Image.Image], torch.Tensor]:
    """timm's evaluation preprocessing for a model's input: PIL image -> (c, h, w), normalised.

    Resize by `crop_pct` and `interpolation`, crop by `crop_mode`, scale to [0, 1], subtract the mean, divide
    by the standard deviation.
    """
    allocator.prepare()
    from timm.data import create_transform

    transform = create_transform(
        input_size=(spec.channels, spec.height, spec.width),
        is_training=False,
        interpolation=spec.interpolation,
        mean=spec.mean,
        std=spec.std,
        crop_pct=spec.crop_pct,
        crop_mode=spec.crop_mode,
    )
    if spec.crop_mode == "squash":
        return cast(Callable[[Image.Image], torch.Tensor], transform)
    border = spec.crop_mode == "border"  # shows all of an image, with at least one pixel across
    sides = sorted((spec.height, spec.width))
    longest = sides[0] if border else _LONGEST * math.ceil(sides[1] / sides[0])
    return lambda image: cast(torch.Tensor, transform(_without_ends(image, longest)))


def _without_ends(image: Image.Image, longest: int) -> Image.Image:
    """The middle of an image that is more than `longest` times as long as wide, else the image itself.

    The ends of so long an image are cropped away after it is resized, which would take gigabytes.
    """
    most = longest * min(image.size)
    cut = [max(0, side - most) // 2 for side in image.size]  # the same at both ends: the centre stays
    if not any(cut):
        return image
    return image.crop((cut[0], cut[1], image.width - cut[0], image.height - cut[1]))


def match_labels(
    sample: ImageSample, classes: int | None, imagenet_names: Sequence[str] | None = None
) -> tuple[tuple[int, ...] | None, str | None]:
    """The sample's labels as the model's class indices, or None and the reason why there are none.

    Args:
        sample: labels are indices in its own classes.
        classes: how many the model has; None without a classifier.
        imagenet_names: the model's classes in order as WordNet ids, if that is what they are. A set whose
            classes are WordNet ids is then matched by name, so that a part of ImageNet is labelled right.
    """
    where = sample.source.word
    if sample.labels is None:
        return None, "the images have no labels"
    if classes is None:
        return None, "the model has no classifier"
    names = sample.class_names
    if classes == 1 and names is not None and len(names) == 2:
        return sample.labels, None  # the sign of the single score
    if names is None:
        if max(sample.labels) >= classes:
            return None, f"the {where} has a label {max(sample.labels)}, the model {classes} classes"
        return sample.labels, None
    if imagenet_names is not None and all(_WORDNET_ID.fullmatch(name) for name in names):
        position = {name: index for index, name in enumerate(imagenet_names)}
        missing = [name for name in names if name not in position]
        if not missing:
            return tuple(position[names[label]] for label in sample.labels), None
        if len(names) == classes:
            return None, f"the {where} has the class {missing[0]}, which the model does not have"
    if len(names) != classes:
        return None, f"the {where} has {len(names)} classes, the model {classes}"
    if imagenet_names is not None and not all(name.isdigit() for name in names):
        others = f"not the model's, which are WordNet ids ({names[0]!r}, say)"
        return None, f"the {where}'s class names are {others}"
    return sample.labels, None
