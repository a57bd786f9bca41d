"""Networks of the user's own: `file.py:factory`, `package.module:factory`, or by name from other packages."""

import copy
import functools
import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

from timm_diffsens import registry
from timm_diffsens.errors import UsageError, unknown
from timm_diffsens.models.architectures import Architecture, installed_names
from timm_diffsens.models.arguments import ModelArguments
from timm_diffsens.models.first_conv import check_input_channels


@registry.register("models", "python", help="file.py:factory or package.module:factory", order=3)
class PythonModels:
    """Arguments are those of the factory: a function, a class, or a module, which takes none."""

    def names(self, pretrained: bool) -> list[str]:
        """Those of installed packages; whether they bring weights is not known."""
        return [] if pretrained else installed_names()

    def find(self, name: str, arguments: ModelArguments, given: Mapping[str, Any]) -> Architecture:
        """A factory; runs the code that it is in, as importing it would."""
        arguments.require(f"the factory {name}", "in_chans", "num_classes", "size", "dims")
        entry = registry.find("models", name)
        where, _, factory = name.rpartition(":")
        return Architecture(
            arch=factory,
            library="python",
            build=functools.partial(_make, name, entry, arguments, given),
            source=None if where and not where.endswith(".py") else entry.source,
            arguments=arguments,
        )


def _make(spec: str, entry: registry.Entry, arguments: ModelArguments, given: Mapping[str, Any]) -> nn.Module:
    """A new module.

    Raises:
        UsageError: it cannot be called, fails, gives no module, or one for another number of channels.
    """
    if isinstance(entry.thing, nn.Module) and not given:
        made = copy.deepcopy(entry.thing)
    else:
        task = {"in_chans": arguments.in_chans, "num_classes": arguments.num_classes}
        asked = {word: value for word, value in task.items() if value is not None}
        with registry.beside(entry.module):
            made = _call(spec, entry.thing, asked, given)
    if arguments.in_chans is not None:
        sides = arguments.sides or (32, 32)
        check_input_channels(made, (arguments.in_chans, *sides[2 - arguments.dims :]), spec)
    return made


def _call(spec: str, factory: Any, task: Mapping[str, Any], given: Mapping[str, Any]) -> nn.Module:
    if isinstance(factory, nn.Module) or not callable(factory):
        expected = "a function that makes a module" + (", which takes arguments" if given else "")
        raise UsageError(f"{spec} is a {type(factory).__name__}, expected {expected}")
    passed = {**registry.accepted(factory, **task), **given}
    for word in given:
        if not registry.accepted(factory, **{word: None}):
            raise unknown(f"argument of {spec}", word, registry.parameters(factory))
    try:
        inspect.signature(factory).bind(**passed)
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
