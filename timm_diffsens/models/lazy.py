"""Networks with lazy layers (`torch.nn.LazyConv2d`, ...), sized by their first forward."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn.parameter import is_lazy as is_uninitialized

from timm_diffsens.device.evaluation import evaluating
from timm_diffsens.errors import UsageError, first_line


def complete(spec: str, make: Callable[[], nn.Module], shape: tuple[int, ...]) -> nn.Module:
    """A network whose lazy layers have got their sizes, and their random weights, from a forward.

    Raises:
        UsageError: the forward fails, or does not call all of them.
    """
    module = make()
    try:
        with torch.no_grad(), evaluating(module):
            module(torch.zeros(2, *shape))
    except Exception as error:
        raise UsageError(
            f"lazy layers of {spec} get their sizes from a forward of {shape}, "
            f"which failed: {first_line(error)}"
        ) from error
    for name, values in (*module.named_parameters(), *module.named_buffers()):
        if is_uninitialized(values):
            raise UsageError(
                f"{name} of {spec} is lazy and was not called, so that it has no size: remove it"
            )
    return module
