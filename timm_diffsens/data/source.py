"""What a data set is to the rest: numbered images that are read one at a time.

Which of them are measured, and what happens when one cannot be read, is decided in `loading`.
"""

import hashlib
import importlib.metadata
import importlib.util
import io
import numbers
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from PIL import Image

from timm_diffsens.data.splits import existing_folder
from timm_diffsens.errors import UsageError

if TYPE_CHECKING:
    import torch

    from timm_diffsens.data.scale_detection import ScaleDetection
    from timm_diffsens.registry import Entry

MODES = {1: "L", 3: "RGB"}  # channels -> PIL mode
MAX_PIXELS = 2**26  # a process stays below 2 GB whatever the image; with Pillow's 89 million it did not
MAX_BYTES = 2**30


class LeftOut(Exception):
    """An image that is left out by a rule, and not because it is damaged."""


@dataclass(frozen=True)
class Item:
    """What is kept of an image that was read once: all but its pixels."""

    index: int
    label: int | None
    digest: str  # sha256 of its bytes


@dataclass(frozen=True)
class Origin:
    """What a source is, in the words of the record."""

    spec: str
    split: str | None = None
    note: str | None = None
    title: str | None = None


@dataclass(frozen=True)
class Request:
    """What the user asked for.

    Attributes:
        spec: in the record. name: what stands behind the `/` of `torch/NAME` and its like.
        data_dir, split, download: see `data.opening.open_images`.
    """

    spec: str
    name: str = ""
    data_dir: Path | None = None
    split: str | None = None
    download: bool = False

    def folder(self) -> Path:
        """The data folder, which must exist."""
        return existing_folder(self.spec, self.data_dir)

    def refuse_folder(self) -> None:
        """For sets that are made here.

        Raises:
            UsageError: a folder was given.
        """
        if self.data_dir is not None:
            raise UsageError(
                f"{self.spec} is made here, not read, so it takes no --data-dir; "
                f"to read {str(self.data_dir)!r} add --dataset folder"
            )

    def require(self, module: str, package: str, major: int = 0) -> None:
        """Check that an optional package is there, in this major version or a newer one.

        Raises:
            UsageError: it is missing or too old.
        """
        if importlib.util.find_spec(module) is None:
            raise UsageError(f"{self.spec} needs the package {package!r}: pip install {package}")
        if major and int(importlib.metadata.version(package).split(".")[0]) < major:
            needed = f"{self.spec} needs {package} {major} or newer"
            raise UsageError(f"{needed}: pip install '{package}>={major}'")


class ImageSource:
    """Numbered images. An image is a PIL image, or a tensor that the network is shown as it is.

    Attributes:
        origin: what it is. size: images in the split; -1 if that is not known.
        class_names: in the order of the labels; None if there are none or they are unknown.
        paired: whether the images 2 i and 2 i + 1 are of different classes, so that samples are balanced.
        concurrent: whether several threads may read it at a time.
        all_by_default: whether all images are meant where no number is asked for.
        word: what messages call it.
        task: the scale-detection task, if it is one; it has a deformation of its own.
        entry: the registry's, if it was found by name.
        remarks: what was odd when it was opened; whoever takes images of it is warned.
    """

    paired: ClassVar[bool] = False
    concurrent: ClassVar[bool] = True
    all_by_default: ClassVar[bool] = False
    word: ClassVar[str] = "data set"
    task: "ScaleDetection | None" = None
    entry: "Entry | None" = None
    remarks: tuple[str, ...] = ()

    def __init__(self, origin: Origin, size: int, class_names: tuple[str, ...] | None = None) -> None:
        self.origin, self.size, self.class_names = origin, size, class_names

    def name(self, index: int) -> str:
        """A name for image `index` that does not depend on where the set lies: `test/00000042`."""
        return f"{self.origin.split or self.origin.spec}/{index:08d}"

    def read(self, index: int, channels: int) -> tuple[Image.Image, Any]:
        """Image `index` as it lies there, and its label; `inspect` and `image` are made of it."""
        raise NotImplementedError

    def inspect(self, index: int, channels: int) -> Item:
        """Read and decode image `index` once; any exception means that it cannot be used."""
        image, label = self.read(index, channels)
        return Item(index, as_label(label), pixel_digest(convert(image, channels)))

    def image(self, index: int, channels: int) -> "Image.Image | torch.Tensor":
        """Image `index`: PIL in RGB (3 channels) or L (1), or a tensor."""
        return convert(self.read(index, channels)[0], channels)

    def shape(self, channels: int) -> tuple[int, ...] | None:
        """Shape of the images if they are tensors; None if they are PIL images."""
        return None


class Encoded(ImageSource, ABC):
    """Images that are encoded files, by whose bytes they are known."""

    @abstractmethod
    def encoded(self, index: int) -> tuple[bytes, int | None]:
        """The file and the label of image `index`."""

    def inspect(self, index: int, channels: int) -> Item:
        """Hash the encoded bytes, and decode them to know that it can be done."""
        data, label = self.encoded(index)
        convert(opened(data), channels)
        return Item(index, label, hashlib.sha256(data).hexdigest())

    def image(self, index: int, channels: int) -> Image.Image:
        """Read and decode."""
        return convert(opened(self.encoded(index)[0]), channels)


class SequentialSource(ImageSource, ABC):
    """Images that come one after the other, from the first.

    Attributes:
        dropped: damaged images that were passed over.
    """

    concurrent = False
    dropped = 0

    @abstractmethod
    def first(self, count: int | None, channels: int) -> list[Item]:
        """The first `count` images (None: all), or as many as there are."""


def opened(data: bytes) -> Image.Image:
    """An encoded image, of which no more than the header is decoded.

    Raises:
        LeftOut: it has too many pixels. OSError and others: it is no image.
    """
    try:
        image = Image.open(io.BytesIO(data))
    except Image.DecompressionBombError as error:
        raise LeftOut(f"more than {MAX_PIXELS:,} pixels") from error
    if image.width * image.height > MAX_PIXELS:
        raise LeftOut(f"{image.width} x {image.height}: more than {MAX_PIXELS:,} pixels")
    return image


def convert(image: Image.Image, channels: int) -> Image.Image:
    """Decode an image into RGB (3 channels) or L (1).

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
    return image.convert(MODES[channels])


def as_label(value: Any) -> int | None:
    """A class index, or None for a missing (-1, None) or a multiple label."""
    return int(value) if isinstance(value, numbers.Integral) and int(value) >= 0 else None


def pixel_digest(image: Image.Image) -> str:
    """sha256 of the mode, size and pixels of a decoded image."""
    return hashlib.sha256(f"{image.mode} {image.size} ".encode() + image.tobytes()).hexdigest()
