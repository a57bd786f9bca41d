"""Folders of images."""

from timm_diffsens import registry
from timm_diffsens.data.source import Request
from timm_diffsens.data.through_timm import ImageFolder


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
