"""Forward-mode derivatives of operators, where PyTorch has none or takes longer.

The derivative of x -> A x + b along t is A t. PyTorch adds the derivatives in A and b even where those are
constant, and convolves x with zeros for that: three convolutions in place of two.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

_Map = Callable[[torch.Tensor], torch.Tensor]


@contextmanager
def differentiable() -> Iterator[None]:
    """Forwards inside have forward-mode derivatives, where their operators have any; the numbers stay.

    Attention is by plain operations, as its fused kernels have none; so is an LSTM on the CPU.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), _Derivatives():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class _Derivatives(TorchFunctionMode):
    """Calls of the operators in `_RULES` take those rules."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        rule = _RULES.get(func)
        return (rule or func)(*args, **(kwargs or {}))


class _Affine(torch.autograd.Function):
    """x -> A x + b, with its derivative A."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, value: _Map, derivative: _Map) -> torch.Tensor:
        ctx.derivative = derivative
        return value(x)

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, *others: None) -> torch.Tensor:
        made: torch.Tensor = ctx.derivative(tangent)
        return made


def _affine(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The rule of a convolution or a linear layer."""

    def rule(input: Any, weight: Any, bias: Any = None, *args: Any, **kwargs: Any) -> Any:
        if _vary(weight, bias):
            return function(input, weight, bias, *args, **kwargs)
        return _Affine.apply(  # type: ignore[no-untyped-call]
            input,
            lambda x: function(x, weight, bias, *args, **kwargs),
            lambda t: function(t, weight, None, *args, **kwargs),
        )

    return rule


def _batch_norm(
    input: Any,
    running_mean: Any,
    running_var: Any,
    weight: Any = None,
    bias: Any = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    """The rule of a batch norm that applies running statistics."""

    def normed(x: torch.Tensor, mean: Any, shift: Any) -> torch.Tensor:
        return functional.batch_norm(x, mean, running_var, weight, shift, training, momentum, eps)

    if training or running_mean is None or _vary(running_mean, running_var, weight, bias):
        return normed(input, running_mean, bias)
    return _Affine.apply(  # type: ignore[no-untyped-call]
        input,
        lambda x: normed(x, running_mean, bias),
        lambda t: normed(t, torch.zeros_like(running_mean), None),
    )


def _lstm(*args: Any) -> Any:
    """An LSTM without the kernel of oneDNN, which has no derivative."""
    before = torch._C._get_mkldnn_enabled()
    torch._C._set_mkldnn_enabled(False)  # `torch.backends.mkldnn.flags` warns, of TF32
    try:
        return torch._VF.lstm(*args)
    finally:
        torch._C._set_mkldnn_enabled(before)


def _vary(*values: Any) -> bool:
    """Whether any of these has a tangent."""
    given = (value for value in values if isinstance(value, torch.Tensor))
    return any(forward_ad.unpack_dual(value).tangent is not None for value in given)  # type: ignore[no-untyped-call]


_RULES: dict[Any, Callable[..., Any]] = {
    function: _affine(function)
    for function in (
        functional.conv1d,
        functional.conv2d,
        functional.conv3d,
        functional.conv_transpose1d,
        functional.conv_transpose2d,
        functional.conv_transpose3d,
        functional.linear,
    )
} | {functional.batch_norm: _batch_norm, torch._VF.lstm: _lstm}
