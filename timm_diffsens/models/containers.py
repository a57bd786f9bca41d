"""Tensors inside of what a model takes and returns: dictionaries, tuples, data classes, objects."""

import copy
from collections import UserDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn


def tensors(value: Any, path: str = "") -> list[tuple[str, torch.Tensor]]:
    """The tensors in a value, with their place: "", "[0]", "[1][0]", "[out]"; each container once."""
    return _tensors(value, path, set())


def _tensors(value: Any, path: str, inside: set[int]) -> list[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        return [(path, value)]
    if id(value) in inside:  # it holds itself
        return []
    inside = inside | {id(value)}
    return [found for key, item in _items(value) for found in _tensors(item, f"{path}[{key}]", inside)]


def with_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    """The same containers around changed tensors; none is written into, the rest is handed on as it is."""
    return _with_tensors(value, change, set())


def _with_tensors(value: Any, change: Callable[[torch.Tensor], torch.Tensor], inside: set[int]) -> Any:
    if isinstance(value, torch.Tensor):
        return change(value)
    if id(value) in inside or not tensors(value):
        return value
    inside = inside | {id(value)}
    items = {key: _with_tensors(item, change, inside) for key, item in _items(value)}
    if isinstance(value, list | tuple):
        return type(value)(*items.values()) if hasattr(value, "_fields") else type(value)(items.values())
    if isinstance(value, Mapping) and not isinstance(value, dict | UserDict):
        return _mapping(type(value), items)
    changed = copy.copy(value)
    for key, item in items.items():
        if isinstance(value, Mapping):
            changed[key] = item
        else:
            object.__setattr__(changed, key, item)  # data classes may be frozen
    return changed


def _mapping(kind: Any, items: dict[Any, Any]) -> Any:
    """A mapping of that type; its copy could share what it holds with the caller's."""
    try:
        return kind(items)
    except Exception:
        return items


def _items(value: Any) -> list[tuple[Any, Any]]:
    """Keys and values of a container; of other objects, the attributes that are tensors."""
    if isinstance(value, type | nn.Module):
        return []
    if isinstance(value, Mapping):
        return [(key, value[key]) for key in value]
    if isinstance(value, list | tuple):
        return list(enumerate(value))
    if hasattr(value, "__dataclass_fields__"):
        return [(key, getattr(value, key)) for key in value.__dataclass_fields__ if hasattr(value, key)]
    names = [*getattr(value, "__dict__", ()), *getattr(type(value), "__slots__", ())]
    found = [(name, getattr(value, name, None)) for name in names if isinstance(name, str)]
    return [(name, item) for name, item in found if isinstance(item, torch.Tensor)]
