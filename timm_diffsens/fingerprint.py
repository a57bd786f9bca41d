"""Hashes of code and of objects: equal hashes mean that a measurement with them would be the same."""

import functools
import hashlib
import inspect
import types
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from timm_diffsens.errors import UsageError

LIBRARIES = {"builtins", "numpy", "torch", "torchvision", "timm", "timm_diffsens", "_io", "_thread", "random"}
_PLAIN = bool | int | float | complex | str | bytes | None | Path | range


def source_sha256(files: Iterable[Path]) -> str:
    """Over the contents of files, whatever their folders; of a single one its own."""
    each = sorted(map(_file_sha256, files))
    return each[0] if len(each) == 1 else hashlib.sha256("".join(each).encode()).hexdigest()


def _file_sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def object_sha256(thing: Any) -> str:
    """Over all of an object's state, and of a function its code and what it holds.

    Raises:
        UsageError: it holds something that is not known by its state, such as a generator or an open file.

    Example:
        >>> object_sha256([1, {"a": 2.0}]) == object_sha256([1, {"a": 2.0}])
        True
    """
    return hashlib.sha256(_text(thing, thing, {}).encode()).hexdigest()


def _text(value: Any, whole: Any, seen: dict[int, Any]) -> str:
    """An exact description of a value; `seen` has what contains it, so that circles end."""
    if isinstance(value, _PLAIN):
        return f"{type(value).__name__} {value!r}"
    if id(value) in seen:
        return "again"
    seen = {**seen, id(value): value}

    def inside(parts: Iterable[Any]) -> str:
        return ", ".join(_text(part, whole, seen) for part in parts)

    if isinstance(value, set | frozenset):
        return f"set {sorted(_text(part, whole, seen) for part in value)}"
    if isinstance(value, Mapping):
        return f"mapping {sorted(inside(pair) for pair in value.items())}"
    if isinstance(value, list | tuple):
        return f"{type(value).__name__} [{inside(value)}]"
    if isinstance(value, types.CodeType):
        return f"code {value.co_code!r} {value.co_names} {value.co_freevars} [{inside(value.co_consts)}]"
    if isinstance(value, types.ModuleType):
        return f"module {value.__name__}"
    if isinstance(value, types.MethodType):
        return f"method [{inside([value.__func__, value.__self__])}]"
    if isinstance(value, functools.partial):
        return f"partial [{inside([value.func, value.args, value.keywords])}]"
    if isinstance(value, types.FunctionType):
        held = [cell.cell_contents for cell in value.__closure__ or ()]
        return f"function [{inside([value.__code__, held, value.__defaults__, value.__kwdefaults__])}]"
    if inspect.isroutine(value):
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, type):
        methods = [] if _is_library(value) else [v for v in vars(value).values() if inspect.isroutine(v)]
        return f"{value.__module__}.{value.__qualname__} [{inside(methods)}]"
    if hasattr(value, "dtype") and hasattr(value, "tolist"):  # an array or a tensor, exactly
        return f"array {value.dtype} {value.tolist()!r}"
    slots = [name for kind in type(value).__mro__ for name in getattr(kind, "__slots__", ())]
    state = {name: getattr(value, name) for name in slots if hasattr(value, name)}
    state |= getattr(value, "__dict__", {})
    if not state and (_is_library(type(value)) or type(value).__module__ == "builtins"):
        raise UsageError(
            f"{type(whole).__name__} cannot be recorded: it holds a {type(value).__name__}, whose state is "
            "not known; give it as file.py:attr, or without that"
        )
    return f"{inside([type(value)])} {inside([state])}"


def _is_library(kind: type) -> bool:
    return kind.__module__.partition(".")[0] in LIBRARIES
