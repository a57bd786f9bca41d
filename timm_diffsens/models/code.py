"""What a network of the user's own computes, as a hash: weights alone do not say it."""

import hashlib
import inspect

from torch import nn

_LIBRARIES = {"torch", "timm", "torchvision", "timm_diffsens", "builtins"}


def code_sha256(module: nn.Module, file_sha256: str | None = None) -> str:
    """Hash of a module's structure, of the source of its classes, and of the file it came from.

    Classes of torch, timm and torchvision count by name; the record's environment has their versions.
    Functions that a `forward` calls are seen only where they stand in that file or class.
    """
    total = hashlib.sha256(f"{file_sha256}\n{module}\n".encode())
    kinds = {type(part) for part in module.modules()}
    for kind in sorted(kinds, key=lambda k: (k.__module__, k.__qualname__)):
        name = f"{kind.__module__}.{kind.__qualname__}"
        total.update(name.encode() + b"\n")
        if kind.__module__.partition(".")[0] not in _LIBRARIES:
            total.update(_source(kind).encode())
    return total.hexdigest()


def _source(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):  # typed at a prompt: only the name is known
        return ""
