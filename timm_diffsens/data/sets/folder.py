"""Folders of images, ImageNet's among them."""

from pathlib import Path

from timm_diffsens import registry
from timm_diffsens.data.source import Origin, Request
from timm_diffsens.data.splits import split_folder
from timm_diffsens.data.through_timm import Encoded, create
from timm_diffsens.errors import warn

_EXTENSIONS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm", ".pgm")


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
        super().__init__(Origin(request.spec, split, note), dataset)
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
