"""Networks with lazy layers (`torch.nn.LazyConv2d`, ...), sized by their first forward."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy as is_uninitialized

from timm_diffsens.device.evaluation import evaluating
from timm_diffsens.errors import UsageError, first_line
from timm_diffsens.models.weights import is_lazy, refuse_meta


def sized(model: nn.Module, run: Callable[[], Any], what: str = "") -> None:
    """Let lazy layers get their sizes, and their random weights, from a forward; others need none.

    Args:
        model: changed in place.
        run: a forward of it. what: it is, and of what, in words.

    Raises:
        UsageError: a parameter is on the meta device; the forward fails.
    """
    refuse_meta(model)
    if not is_lazy(model):
        return
    try:
        with torch.no_grad(), evaluating(model):
            run()
    except Exception as error:
        what = what or f"{type(model).__name__} get their sizes from a forward"
        raise UsageError(f"lazy layers of {what}, which failed: {first_line(error)}") from error


def complete(spec: str, make: Callable[[], nn.Module], shape: tuple[int, ...]) -> nn.Module:
    """A network whose lazy layers all have sizes, from a forward of images (2, *shape).

    Raises:
        UsageError: the forward fails, or does not call all of them.
    """
    module = make()
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    images = torch.zeros(2, *shape, dtype=like.dtype, device=like.device)
    sized(module, lambda: module(images), f"{spec} get their sizes from a forward of {shape}")
    for name, values in (*module.named_parameters(), *module.named_buffers()):
        if is_uninitialized(values):
            raise UsageError(
                f"{name} of {spec} is lazy and was not called, so that it has no size: remove it"
            )
    return module
