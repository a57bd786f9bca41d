"""Data sets that timm's `create_dataset` opens: files in folders, tables of encoded files, torchvision's."""

import contextlib
import hashlib
import io
import sys
from pathlib import Path
from typing import Any, BinaryIO

from PIL import Image

from timm_diffsens.data.folders import split_folder
from timm_diffsens.data.source import ImageSource, Item, Origin, Request, as_label, convert, pixel_digest
from timm_diffsens.errors import UsageError, first_line, warn

_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")


def create(spec: str, advice: str, **arguments: Any) -> Any:
    """`timm.data.create_dataset`; every failure is a `UsageError` of one line, nothing goes to stdout."""
    from timm_diffsens.device import allocator

    allocator.prepare()
    from timm.data import create_dataset

    try:
        with contextlib.redirect_stdout(sys.stderr):  # stdout belongs to `--json`
            return create_dataset(**arguments)
    except Exception as error:  # timm, torchvision and the others raise nearly everything, assertions too
        reason = first_line(error).removesuffix("You can use download=True to download it").rstrip(" .:")
        raise UsageError(f"{spec} could not be opened: {reason}; {advice}") from error


class Encoded(ImageSource):
    """timm's `ImageDataset` over encoded files, through its public reader.

    Not through its `__getitem__`, which puts the next image in the place of one that cannot be decoded.
    """

    def __init__(self, origin: Origin, dataset: Any) -> None:
        self.reader = dataset.reader
        classes = sorted(self.reader.class_to_idx.items(), key=lambda pair: pair[1])
        names = tuple(str(name) for name, _ in classes)
        self.labelled = "" not in names  # timm's class for images in the root folder itself
        super().__init__(origin, len(self.reader), names if names and self.labelled else None)

    def _read(self, index: int) -> tuple[bytes, Any]:
        try:
            handle: BinaryIO
            handle, label = self.reader[index]
        except KeyError as error:
            raise UsageError(f"{self.origin.spec} has no {error}: expected 'image' and 'label'") from None
        with handle:
            return handle.read(), label

    def inspect(self, index: int, channels: int) -> Item:
        """Hash the encoded bytes, and decode them to know that it can be done."""
        data, label = self._read(index)
        convert(Image.open(io.BytesIO(data)), channels)
        return Item(index, as_label(label) if self.labelled else None, hashlib.sha256(data).hexdigest())

    def image(self, index: int, channels: int) -> Image.Image:
        """Read and decode."""
        return convert(Image.open(io.BytesIO(self._read(index)[0])), channels)


class ImageFolder(Encoded):
    """A folder of images, with a sub-folder for each class or without."""

    word = "folder"

    def __init__(self, request: Request, folder: Path, note: str | None = None) -> None:
        root, split = split_folder(folder, request.split)
        dataset = create(
            request.spec,
            f"expected images ({' '.join(_EXTENSIONS)}) in {str(root)!r} or its sub-folders",
            name="",
            root=str(root),
            search_split=False,
            input_key=";".join(_EXTENSIONS),
        )
        super().__init__(request.origin(split, note), dataset)
        if self.labelled:
            return
        stray = sum(label == self.reader.class_to_idx[""] for _, label in self.reader.samples)
        if 0 < stray < self.size:
            warn(
                f"{stray} images lie in {root.name!r} itself, beside the class folders, so they have no "
                "class and the set is read as unlabelled; move them away to have the labels used"
            )

    def name(self, index: int) -> str:
        """Path inside the folder, with forward slashes."""
        return Path(self.reader.filename(index)).as_posix()


class Decoded(ImageSource):
    """A torchvision set: `dataset[index]` is (PIL image, label)."""

    def __init__(self, origin: Origin, dataset: Any) -> None:
        self._dataset = dataset
        names = getattr(dataset, "wnids", None) or getattr(dataset, "classes", None)
        names = names or getattr(dataset, "all_categories", None)
        super().__init__(origin, len(dataset), tuple(str(name) for name in names) if names else None)

    def name(self, index: int) -> str:
        """`test/00000042`; the path inside the folder where there is one."""
        files = getattr(self._dataset, "samples", None)
        if files:
            return Path(files[index][0]).relative_to(self._dataset.root).as_posix()
        return super().name(index)

    def inspect(self, index: int, channels: int) -> Item:
        """Hash the decoded pixels."""
        image, label = self._dataset[index]
        return Item(index, as_label(label), pixel_digest(convert(image, channels)))

    def image(self, index: int, channels: int) -> Image.Image:
        """Read and decode."""
        return convert(self._dataset[index][0], channels)
