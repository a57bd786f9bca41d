"""CIFAR-10, from torchvision's files or from a folder for each class."""

from dataclasses import replace

from timm_diffsens import registry
from timm_diffsens.data.sets.folder import ImageFolder
from timm_diffsens.data.sets.torchvision import torchvision
from timm_diffsens.data.source import ImageSource, Request
from timm_diffsens.data.splits import exists
from timm_diffsens.data.walking import subfolders
from timm_diffsens.errors import UsageError

_CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_CIFAR10_FILES = "cifar-10-batches-py"  # where torchvision keeps them
_CIFAR10_NOTE = "CIFAR-10 read from an image folder, possibly re-encoded: not the original files"


@registry.register(
    "datasets",
    "cifar10",
    help="CIFAR-10: torchvision's files (--download fetches them) or one image folder per class",
    order=1,
)
def cifar10(request: Request) -> ImageSource:
    """torchvision's files where they are there or can be fetched, else an image folder of the ten classes."""
    home = request.data_dir
    if request.download or home is None or not exists(home) or exists(home / _CIFAR10_FILES):
        return torchvision(replace(request, name="cifar10"))
    home = request.folder()
    if not subfolders(home):
        raise UsageError(
            f"no CIFAR-10 in {str(home)!r}: expected {_CIFAR10_FILES}/ or one folder of images per class; "
            "pass --download to fetch it, or another --data-dir"
        )
    source = ImageFolder(request, home, _CIFAR10_NOTE)
    if source.size > 0 and source.name(0).lower().endswith((".jpg", ".jpeg")):
        source.origin = replace(source.origin, title="CIFAR-10 (JPEG)")  # lossy: not the originals' errors
    if source.class_names not in (_CIFAR10, tuple("0123456789")):
        found = "no classes" if source.class_names is None else f"{len(source.class_names)} classes"
        raise UsageError(
            f"{str(home)!r} is not CIFAR-10: it has {found}, expected the folders {', '.join(_CIFAR10)}; "
            "use --dataset folder for other images"
        )
    return source
