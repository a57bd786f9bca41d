"""Tensors inside of what a model takes and returns: dictionaries, tuples, data classes, objects."""

import copy
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn


def tensors(value: Any, path: str = "") -> list[tuple[str, torch.Tensor]]:
    """The tensors in a value, with their place: "", "[0]", "[1][0]", "[out]"."""
    if isinstance(value, torch.Tensor):
        return [(path, value)]
    return [found for key, item in _items(value) for found in tensors(item, f"{path}[{key}]")]


def with_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same containers around changed tensors; what holds none is handed on as it is."""
    if isinstance(value, torch.Tensor):
        return change(value)
    if not tensors(value):
        return value
    items = {key: with_tensors(item, change) for key, item in _items(value)}
    if isinstance(value, list | tuple):
        return type(value)(*items.values()) if hasattr(value, "_fields") else type(value)(items.values())
    changed = copy.copy(value)
    for key, item in items.items():
        if isinstance(value, Mapping):
            changed[key] = item
        else:
            object.__setattr__(changed, key, item)  # data classes may be frozen
    return changed


def _items(value: Any) -> list[tuple[Any, Any]]:
    """Keys and values of a container; of other objects, the attributes that are tensors."""
    if isinstance(value, Mapping):
        return list(value.items())
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    if hasattr(value, "__dataclass_fields__"):
        return [(key, getattr(value, key)) for key in value.__dataclass_fields__]
    if isinstance(value, type | nn.Module) or not hasattr(value, "__dict__"):
        return []
    return [(key, item) for key, item in vars(value).items() if isinstance(item, torch.Tensor)]
