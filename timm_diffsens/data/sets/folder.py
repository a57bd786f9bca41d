"""Folders of images, ImageNet's among them."""

import os
from pathlib import Path

from PIL import Image

from timm_diffsens import registry
from timm_diffsens.data.classes import classes_of, in_plain_order
from timm_diffsens.data.source import (
    MAX_BYTES,
    Encoded,
    ImageSource,
    LeftOut,
    Origin,
    Request,
    opened,
)
from timm_diffsens.data.splits import split_folder
from timm_diffsens.data.walking import IMAGES, NOWHERE, walk
from timm_diffsens.errors import UsageError


class ImageFolder(Encoded):
    """A folder of images, with a sub-folder for each class or without.

    Raises:
        UsageError: no image is there, or a folder may not be read.
    """

    word = "folder"
    plain_order = False  # of the classes; else natural

    def __init__(self, request: Request, folder: Path, note: str | None = None) -> None:
        root, split = split_folder(folder, request.split)
        tree = self._tree = walk(root)
        if self.plain_order:
            tree.files = in_plain_order(tree.files)
        if not tree.files:
            expected = f"expected images ({' '.join(IMAGES)}) in {str(root)!r} or its sub-folders"
            raise UsageError(f"{request.spec} could not be opened: Found 0 images; {expected}")
        classes = classes_of(tree, self.plain_order)
        self._labels = None if classes is None else classes.labels(tree.files)
        names = None if classes is None else classes.names
        super().__init__(Origin(request.spec, split, note), len(tree.files), names)

    def name(self, index: int) -> str:
        """Path inside the folder, with forward slashes."""
        return self._tree.files[index]

    def encoded(self, index: int) -> tuple[bytes, int | None]:
        """Read the file.

        Raises:
            LeftOut: it is a link that leads nowhere, or too long. OSError: it may not be read.
        """
        path = self._tree.root / self.name(index)
        label = None if self._labels is None else self._labels[index]
        if path.is_symlink() and not path.exists():
            raise LeftOut(NOWHERE)
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > MAX_BYTES:
                raise LeftOut(f"{size:,} bytes: more than {MAX_BYTES:,}")
            return file.read(), label


class PlainFolder(ImageFolder):
    """The same as torchvision's `ImageFolder` has it: classes sorted as strings, known by their pixels."""

    plain_order = True

    def read(self, index: int, channels: int) -> tuple[Image.Image, int | None]:
        """Decode, into RGB whatever the network takes."""
        data, label = self.encoded(index)
        return opened(data).convert("RGB"), label

    inspect, image = ImageSource.inspect, ImageSource.image  # type: ignore[assignment]


@registry.register(
    "datasets", "folder", help="any folder of images; labels from its sub-folders, if there are any", order=5
)
@registry.register(
    "datasets",
    "imagenet",
    help="a folder in ImageNet's layout, one sub-folder per WordNet id, with or without val/ above",
    order=2,
)
def folder(request: Request) -> ImageFolder:
    """The images in --data-dir."""
    return ImageFolder(request, request.folder())
