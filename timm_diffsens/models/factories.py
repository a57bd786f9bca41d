"""Networks of the user's own: `file.py:factory` or `package.module:factory`."""

import copy
import importlib
import importlib.util
import inspect
import sys
from pathlib import Path
from typing import Any

from torch import nn

from timm_diffsens.errors import UsageError, unknown
from timm_diffsens.models.arguments import ModelArguments
from timm_diffsens.models.first_conv import check_input_channels

_PASSED = ("in_chans", "num_classes")


def split_spec(spec: str) -> tuple[str, str, Path | None]:
    """Where the factory is, its name, and its file if it is in one.

    Raises:
        UsageError: the spec has no such parts.
    """
    where, _, name = spec.rpartition(":")
    if not where or not name:
        raise UsageError(f"model spec {spec!r}: expected file.py:factory or package.module:factory")
    return where, name, Path(where) if where.endswith(".py") else None


def find_factory(spec: str) -> Any:
    """The function, class or module of that name; runs the code it is in, as importing it would.

    Raises:
        UsageError: nothing of that name, or the code cannot be imported.
    """
    where, name, path = split_spec(spec)
    module = _import_file(path) if path else _import_module(where)
    if not hasattr(module, name):
        raise unknown(f"factory in {where}", name, [n for n in vars(module) if not n.startswith("_")])
    return getattr(module, name)


def call_factory(spec: str, factory: Any, arguments: ModelArguments) -> nn.Module:
    """A new module from a function, a class or a module.

    Args:
        spec: for the messages.
        factory: as found.
        arguments: `in_chans` and `num_classes` are passed on to a function that takes them.

    Raises:
        UsageError: it cannot be called, fails, gives no module, or one for another number of channels.
    """
    made = copy.deepcopy(factory) if isinstance(factory, nn.Module) else _call(spec, factory, arguments)
    if arguments.in_chans is not None:
        sides = arguments.sides or (32, 32)
        check_input_channels(made, (arguments.in_chans, *sides[2 - arguments.dims :]), spec)
    return made


def _call(spec: str, factory: Any, arguments: ModelArguments) -> nn.Module:
    if not callable(factory):
        raise UsageError(f"{spec} is a {type(factory).__name__}, expected a function that makes a module")
    passed: dict[str, Any] = {}
    try:
        signature = inspect.signature(factory)
        passed = {name: getattr(arguments, name) for name in _PASSED if _takes(signature, name)}
        passed = {name: value for name, value in passed.items() if value is not None}
        signature.bind(**passed)
    except TypeError as error:
        raise UsageError(f"{spec} must be callable without arguments: {error}") from error
    except ValueError:  # no signature to be had of some built-in functions
        pass
    try:
        made = factory(**passed)
    except Exception as error:
        raise UsageError(f"{spec} raised {type(error).__name__}: {error}") from error
    if not isinstance(made, nn.Module):
        raise UsageError(f"{spec} gives a {type(made).__name__}, expected a torch.nn.Module")
    return made


def _takes(signature: inspect.Signature, name: str) -> bool:
    kinds = {p.name: p.kind for p in signature.parameters.values()}
    by_name = kinds.get(name) in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)
    return by_name or inspect.Parameter.VAR_KEYWORD in kinds.values()


def _import_file(path: Path) -> Any:
    if not path.is_file():
        near = [str(p) for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise unknown("model file", str(path), near)
    name = f"_diffsens_{path.stem}"  # never that of an installed module
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UsageError(f"cannot import {str(path)!r}: {type(error).__name__}: {error}") from error
    return module


def _import_module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise UsageError(
            f"cannot import {name!r}: {type(error).__name__}: {error}; "
            "expected file.py:factory or package.module:factory"
        ) from error
