"""Deformations and noises from outside: their errors name them, and they draw from their generator only."""

from collections.abc import Callable
from typing import Any

import torch

from timm_diffsens.errors import DiffsensError, UsageError, first_line
from timm_diffsens.registry import is_built_in, name_of
from timm_diffsens.sensitivities.batch_size import is_out_of_memory

_EXPECTED = {
    "deformation": "f(images, generator) -> images of the same shape",
    "noise": "f(clean, deformed, generator) -> noise of the same shape",
}
_DRAWING = (
    "`generator` holds a NumPy generator for each image; timm_diffsens.perturb.streams.standard_normal("
    "len(images), images.shape[1:], generator, images.dtype, images.device) draws from it"
)


def called(kind: str, thing: Callable[..., torch.Tensor], *given: Any) -> torch.Tensor:
    """What a deformation or a noise gives: a tensor.

    Raises:
        UsageError: it gives something else, or is no code of this package and fails: it is named, and not
            the network.
    """
    name = f"the {kind} {name_of(thing)}"
    try:
        found = thing(*given)
    except (DiffsensError, KeyboardInterrupt):
        raise
    except BaseException as error:  # `sys.exit` too
        if is_built_in(thing) or is_out_of_memory(error):  # of the latter a smaller batch is tried
            raise
        failure = f"{name} failed: {type(error).__name__}: {first_line(error)}"
        raise UsageError(f"{failure}; expected {_EXPECTED[kind]}; {_DRAWING}") from error
    if not isinstance(found, torch.Tensor):
        raise UsageError(f"{name} gave {type(found).__name__}; expected {_EXPECTED[kind]}")
    return found


def check_alike(kind: str, thing: Any, one: torch.Tensor, other: torch.Tensor) -> None:
    """Raises: UsageError: two calls with equal generators gave values that differ by more than rounding.

    One record's key would stand for several results. Sums may be in another order each time.
    """
    if one.is_meta:  # nothing can be seen there
        return
    if not torch.allclose(one, other, rtol=1e-4, atol=1e-6, equal_nan=True):
        raise UsageError(
            f"the {kind} {name_of(thing)} gives other values each time, with equal generators: draw from "
            f"`generator` only; {_DRAWING}"
        )


def check_unwritten(kind: str, thing: Any, *given: tuple[torch.Tensor, int]) -> None:
    """Raises: UsageError: it has written into tensors that it was given, each with its version before."""
    if any(tensor._version != version for tensor, version in given):
        raise UsageError(f"the {kind} {name_of(thing)} writes into the images that it is given")
