"""A model spec -> its architecture, and where the published weights come from; the model is not made yet."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol, get_args

import torch
from torch import nn

from timm_diffsens import registry
from timm_diffsens.device import allocator
from timm_diffsens.errors import DiffsensError, UsageError, first_line, unknown
from timm_diffsens.models.arguments import NO_ARGUMENTS, ModelArguments
from timm_diffsens.models.inputs import task_input
from timm_diffsens.schema.records import InputSpec

Library = Literal["timm", "torchvision", "net", "python"]

_REMOTE = ("hf-hub:", "hf_hub:", "local-dir:")
_WEIGHTS = {"pretrained", "weights", "weights_backbone", "checkpoint_path"}
_FOREIGN = re.compile(r"unexpected keyword argument '(\w+)'")


@dataclass(frozen=True)
class Architecture:
    """How to make an architecture, and what is known about its input.

    Attributes:
        arch: name, without arguments. library: where it is from.
        build: makes it with fresh random weights. pretrained: makes it with its published weights.
        input: its preprocessing, None where only the module can tell. detail: which weights are published.
        published_error: see `models.loading.LoadedModel`.
        source: gives the hash of the source of an architecture that is no library's, once it was built.
        arguments: of `find_architecture`, and those of the same names in the spec.
        fixed_size: whether it takes images of one size only (timm's `img_size`).
    """

    arch: str
    library: Library
    build: Callable[..., nn.Module]
    pretrained: Callable[..., nn.Module] | None = None
    input: InputSpec | None = None
    detail: str | None = None
    published_error: float | None = None
    source: Callable[[], str] | None = None
    arguments: ModelArguments = NO_ARGUMENTS
    fixed_size: bool = False


class ModelLibrary(Protocol):
    """What is registered for a library of models."""

    def names(self, pretrained: bool) -> list[str]:
        """Specs of its architectures; if `pretrained`, of its published weights."""
        ...

    def find(self, name: str, arguments: ModelArguments, given: Mapping[str, Any]) -> Architecture:
        """An architecture by its spec without arguments, built with the task's and those given in the spec.

        Raises:
            UsageError: nothing of that name; an argument that it does not take.
        """
        ...


def find_architecture(spec: str, arguments: ModelArguments = NO_ARGUMENTS) -> Architecture:
    """Find out what a model spec means, without making the model.

    Args:
        spec: as `models.loading.load_model` takes it.
        arguments: that `build` makes the architecture with, by the names of its library. With `in_chans` or
            `size` the input is a task's: of that size, mean 0, std 1, nothing cut off.

    Raises:
        UsageError: nothing of that name, the message has the nearest names; an argument that the
            architecture does not take, or that is asked for with two values.
    """
    name, given = _split(spec)
    if not name.strip():
        raise UsageError(
            "empty model spec; expected a name such as resnet50 (`diffsens ls models` lists them)"
        )
    for word, value in given.items():
        if word in arguments.given and value != getattr(arguments, word):
            raise UsageError(f"{spec} has {word}={value} where {getattr(arguments, word)} was asked for")
    found = _library(_library_of(name)).find(name, arguments, given)
    return replace(found, input=task_input(found.arguments, found.input))


def known_names(pretrained: bool = False) -> list[str]:
    """Specs of every architecture of timm, torchvision, ours and installed packages.

    Args:
        pretrained: only those with published weights, timm's with the tags of their weights.
    """
    allocator.prepare()
    return [name for library in get_args(Library) for name in _library(library).names(pretrained)]


def shown_spec(spec: str) -> str:
    """A spec without what does not distinguish architectures: the folders of a file, and `timm/`."""
    name, _ = _split(spec)
    where = name.rpartition(":")[0]
    if where.endswith(".py") and _library_of(name) == "python":
        return Path(where).name + spec[len(where) :]
    return spec.removeprefix("timm/")


def installed_names() -> list[str]:
    """Names of the models of installed packages (entry points `timm_diffsens.models`)."""
    return [name for name in registry.names("models") if name not in get_args(Library)]


def no_weights(spec: str) -> Callable[..., nn.Module]:
    """A maker of the architecture with published weights, where there are none."""

    def refuse(**_: Any) -> nn.Module:
        raise UsageError(
            f"there are no published weights for {spec}; "
            "pass --checkpoint FILE, or --no-pretrained for random weights"
        )

    return refuse


def explained(
    make: Callable[..., nn.Module], name: str, given: Mapping[str, Any]
) -> Callable[..., nn.Module]:
    """`make` with arguments, whose complaints about them name them.

    Args:
        make: of an architecture; called without arguments it makes the plain one, with random weights.
        name: of the architecture.
        given: arguments; what the function returned is called with comes on top.

    Raises:
        UsageError: an argument that chooses weights.
    """
    for word in _WEIGHTS & {*given}:
        raise UsageError(f"{name} takes no {word}: weights are chosen by --checkpoint and --no-pretrained")

    def build(**more: Any) -> nn.Module:
        values = {**given, **more}
        try:
            return make(**values)
        except (DiffsensError, OSError):  # the latter of weights that cannot be fetched
            raise
        except Exception as error:
            foreign = _FOREIGN.search(str(error))
            if foreign and foreign[1] in given:
                raise unknown(f"argument of {name}", foreign[1], _taken(make)) from error
            asked = ", ".join(f"{word}={value}" for word, value in values.items() if word not in _WEIGHTS)
            raise UsageError(f"{name} cannot be built with {asked}: {first_line(error)}") from error

    return build if given else make


def _taken(make: Callable[[], nn.Module]) -> list[str]:
    """Names of the arguments that the class of a network takes."""
    with torch.device("meta"):
        return registry.parameters(type(make()))


def _library(name: Library) -> ModelLibrary:
    found: ModelLibrary = registry.find("models", name).build()
    return found


def _library_of(name: str) -> Library:
    """Which library a spec without arguments belongs to."""
    if name.startswith("torchvision/"):
        return "torchvision"
    if name.startswith("net/"):
        return "net"
    if name.startswith(_REMOTE):
        return "timm"
    if ":" in name or name.endswith(".py"):
        return "python"
    allocator.prepare()
    import timm

    return "python" if name in installed_names() and not timm.is_model(name) else "timm"


def _split(spec: str) -> tuple[str, dict[str, Any]]:
    """A spec's name and its arguments; the path behind `local-dir:` may have a `=` in it."""
    start = next((prefix for prefix in _REMOTE if spec.startswith(prefix)), "")
    name, given = registry.split_arguments(spec.removeprefix(start))
    return start + name, given
