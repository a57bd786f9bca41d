"""What must be right about the process before torch runs: torchvision's operators, the allocator.

Import torchvision and timm only after `prepare()`.
"""

import ctypes
import functools
import importlib.util
import platform
import sys
from pathlib import Path

import torch

# Schemas of torchvision's own operators, as its Python files register fake kernels for them at import.
_TORCHVISION_OPERATORS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_libraries: list[torch.library.Library] = []  # torch forgets the schemas when the library object dies

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
# Activations of a batch reach hundreds of megabytes. Some glibc refuse more than 32 MiB (HEAP_MAX_SIZE / 2).
_MMAP_THRESHOLDS = (2**30, 32 * 2**20)


def guard_torchvision() -> bool:
    """Let a CUDA build of torchvision be imported beside a CPU build of torch.

    Its compiled part cannot load there, so its operators are missing and the import ends with
    "operator torchvision::nms does not exist". The missing schemas are defined here, and only in that
    case; box operators still cannot be run, and no classifier needs them.

    Returns whether anything was defined.
    """
    if "torchvision" in sys.modules or torch.version.cuda is not None:
        return False
    if "+cu" not in _torchvision_build():
        return False
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name, schema in _TORCHVISION_OPERATORS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)  # type: ignore[no-untyped-call]
    _libraries.append(library)
    return True


def _torchvision_build() -> str:
    """The text of the installed torchvision's version file ("0.28.0+cu130", say), read without import."""
    spec = importlib.util.find_spec("torchvision")
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        return ""
    file = Path(folders[0]) / "version.py"
    return file.read_text() if file.exists() else ""


@functools.cache
def tune_allocator() -> bool:
    """Keep freed activations in the process instead of handing each back to the kernel (glibc only).

    By default glibc maps every large block afresh, and the page faults cost a ResNet-50 forward on the
    CPU about as much as its arithmetic. Returns whether the thresholds were raised.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    raised = any(mallopt(_M_MMAP_THRESHOLD, size) for size in _MMAP_THRESHOLDS)
    return bool(raised and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def give_back() -> bool:
    """Hand freed memory, which `tune_allocator` keeps, to the system (glibc only); whether there was any."""
    return platform.libc_ver()[0] == "glibc" and bool(ctypes.CDLL(None).malloc_trim(0))


def prepare() -> None:
    """Everything that has to be done once, before timm and torchvision are imported."""
    guard_torchvision()
    tune_allocator()
