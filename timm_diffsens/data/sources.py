"""Where single images come from: one small class for each way in which timm gives access to them.

A source numbers its images and reads one at a time. Which of them are measured, and what happens when one
cannot be read, is decided in `loading`.
"""

import hashlib
import io
import numbers
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from PIL import Image

from timm_diffsens.data import dead_leaves
from timm_diffsens.data.scale_detection import ScaleDetection
from timm_diffsens.errors import UsageError

UNKNOWN_CLASSES = "class names unknown: labels are taken as the model's class indices"


@dataclass(frozen=True)
class Item:
    """What is kept of an image that was read once: all but its pixels."""

    index: int
    label: int | None
    digest: str  # sha256 of its bytes


@dataclass(frozen=True)
class Origin:
    """What a source is, in the words of the sample."""

    spec: str
    split: str | None
    mode: str  # PIL mode that images are converted to: RGB or L
    note: str | None = None
    title: str | None = None


class Source(ABC):
    """Numbered images.

    Attributes:
        paired: whether the images 2 i and 2 i + 1 are of different classes, so that samples are balanced.
        task: the scale-detection task, if it is one.
    """

    paired = False
    task: ScaleDetection | None = None

    def __init__(self, origin: Origin, size: int, class_names: tuple[str, ...] | None = None):
        self.origin = origin
        self.size = size  # images in the split; -1 for a stream
        self.class_names = class_names

    @abstractmethod
    def name(self, index: int) -> str:
        """A name for image `index` that does not depend on where the set lies."""

    @abstractmethod
    def inspect(self, index: int) -> Item:
        """Read and decode image `index` once; any exception means that it cannot be used."""

    @abstractmethod
    def image(self, index: int) -> Image.Image:
        """Image `index`, decoded, in the origin's mode."""

    def transform(self, channels: int) -> Callable[[Image.Image], torch.Tensor] | None:
        """Image -> tensor (channels, ...), where the set itself says how; None: by the model's input."""
        return None


def convert(image: Image.Image, mode: str) -> Image.Image:
    """Decode an image into `mode` ("RGB" or "L").

    Differs from PIL's own conversion, which timm uses, for 16-bit grey images only: PIL clips them at 255.

    Raises:
        ValueError: floating-point pixels, whose range is not known; OSError and others: a damaged file.
    """
    if image.mode == "F":
        raise ValueError("its pixels are floating-point numbers of unknown range")
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8))
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # the same colours, without PIL's warning
    return image.convert(mode)


def as_label(value: Any) -> int | None:
    """A class index, or None for a missing (-1, None) or a multiple label."""
    return int(value) if isinstance(value, numbers.Integral) and int(value) >= 0 else None


def pixel_digest(image: Image.Image) -> str:
    """sha256 of the mode, size and pixels of a decoded image."""
    return hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()


class ScaleImages(Source):
    """One part of a scale-detection task; as pictures, active pixels are white."""

    paired = True

    def __init__(self, origin: Origin, task: ScaleDetection):
        self.task: ScaleDetection = task
        self.part = origin.split or "test"
        super().__init__(origin, task.count(self.part), ("-1", "+1"))

    def name(self, index: int) -> str:
        """`scale1/test/00000042`."""
        return f"{self.origin.spec}/{self.part}/{index:08d}"

    def inspect(self, index: int) -> Item:
        """The digest is over the task and the active pixels."""
        sample = self.task.at(self.part, [index])
        text = f"{sorted(self.task.parameters().items())} {sample.positions.tolist()}"
        label = (int(sample.labels[0]) + 1) // 2
        return Item(index, label, hashlib.sha256(text.encode()).hexdigest())

    def image(self, index: int) -> Image.Image:
        """Draw it; a line of one pixel's height in 1-D."""
        active = self.task.at(self.part, [index]).images[0] > 0
        pixels = active.numpy().reshape(-1, self.task.side).astype(np.uint8) * 255
        return Image.fromarray(pixels).convert(self.origin.mode)

    def transform(self, channels: int) -> Callable[[Image.Image], torch.Tensor]:
        """Active pixels get the task's amplitude, in every channel."""

        def to_tensor(image: Image.Image) -> torch.Tensor:
            active = torch.from_numpy(np.array(image.convert("L")) > 0).float()
            return (
                (active * self.task.amplitude)
                .view(1, *self.task.shape)
                .repeat(channels, *[1] * self.task.dims)
            )

        return to_tensor


class DeadLeaves(Source):
    """The built-in synthetic set."""

    def __init__(self, origin: Origin):
        super().__init__(origin, dead_leaves.COUNT)
        self._fingerprint = pixel_digest(dead_leaves.dead_leaves_image(0))

    def name(self, index: int) -> str:
        """`dead-leaves/00042`."""
        return f"dead-leaves/{index:05d}"

    def inspect(self, index: int) -> Item:
        """Nothing is drawn: the image is a function of its index, the version and the drawing code.

        The pixels of image 0 stand for the drawing code (ours, NumPy's and Pillow's) in the digest.
        """
        text = f"{self._fingerprint} {dead_leaves.VERSION} {index}"
        return Item(index, None, hashlib.sha256(text.encode()).hexdigest())

    def image(self, index: int) -> Image.Image:
        """Draw it."""
        return dead_leaves.dead_leaves_image(index).convert(self.origin.mode)


class Encoded(Source):
    """timm's `ImageDataset` over a folder or a Hugging Face set: encoded files through its public reader.

    Not through its `__getitem__`, which puts the next image in the place of one that cannot be decoded.
    """

    def __init__(self, origin: Origin, dataset: Any, *, files: bool):
        self._reader, self.files = dataset.reader, files
        classes = sorted(self._reader.class_to_idx.items(), key=lambda pair: pair[1])
        names = tuple(str(name) for name, _ in classes)
        # timm's class for images in the root folder itself is ""
        self._labelled = not files or "" not in names
        super().__init__(origin, len(self._reader), names if names and self._labelled else None)

    @property
    def stray(self) -> int:
        """Images of a folder that lie in no class folder."""
        if self._labelled:
            return 0
        root = self._reader.class_to_idx[""]
        return sum(label == root for _, label in self._reader.samples)

    def name(self, index: int) -> str:
        """Path inside the folder, with forward slashes; the row number in a Hugging Face set."""
        if self.files:
            return Path(self._reader.filename(index)).as_posix()
        return f"{self.origin.split}/{index:08d}"

    def _read(self, index: int) -> tuple[bytes, Any]:
        try:
            handle: BinaryIO
            handle, label = self._reader[index]
        except KeyError as error:
            raise UsageError(f"{self.origin.spec} has no {error}: expected 'image' and 'label'") from None
        with handle:
            return handle.read(), label

    def inspect(self, index: int) -> Item:
        """Hash the encoded bytes, and decode them to know that it can be done."""
        data, label = self._read(index)
        convert(Image.open(io.BytesIO(data)), self.origin.mode)
        return Item(index, as_label(label) if self._labelled else None, hashlib.sha256(data).hexdigest())

    def image(self, index: int) -> Image.Image:
        """Read and decode."""
        return convert(Image.open(io.BytesIO(self._read(index)[0])), self.origin.mode)


class Torchvision(Source):
    """A torchvision set: `dataset[index]` is (PIL image, label)."""

    def __init__(self, origin: Origin, dataset: Any):
        self._dataset = dataset
        names = getattr(dataset, "wnids", None) or getattr(dataset, "classes", None)
        names = names or getattr(dataset, "all_categories", None)
        super().__init__(origin, len(dataset), tuple(str(name) for name in names) if names else None)

    def name(self, index: int) -> str:
        """`test/00000042`; the path inside the folder where there is one."""
        files = getattr(self._dataset, "samples", None)
        if files:
            return Path(files[index][0]).relative_to(self._dataset.root).as_posix()
        return f"{self.origin.split}/{index:08d}"

    def inspect(self, index: int) -> Item:
        """Hash the decoded pixels."""
        image, label = self._dataset[index]
        return Item(index, as_label(label), pixel_digest(convert(image, self.origin.mode)))

    def image(self, index: int) -> Image.Image:
        """Read and decode."""
        return convert(self._dataset[index][0], self.origin.mode)
