"""Forward-mode derivatives of operators, where PyTorch has none or takes longer.

The derivative of x -> A x + b along t is A t. PyTorch adds the derivatives in A and b even where those are
constant, and convolves x with zeros for that: three convolutions in place of two. Those of a softmax and of a
normalisation of features are symmetric, so the kernels of their backward passes apply them too.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from typing import Any

import torch
from torch.autograd import forward_ad
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

_Map = Callable[[torch.Tensor], torch.Tensor]


@contextmanager
def differentiable() -> Iterator[None]:
    """Forwards inside have forward-mode derivatives, where their operators have any.

    Their numbers stay, to rounding. Attention is by plain operations, as its fused kernels have none; so is
    an LSTM on the CPU.
    """
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH), _Derivatives():
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


class _Derivatives(TorchFunctionMode):
    """Calls of the operators in `_RULES` take those rules; not inside `torch.func.vmap` and its like."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        inside = torch._C._are_functorch_transforms_active()  # which know nothing of `_Differentiated`
        rule = None if inside else _RULES.get(func)
        return (rule or func)(*args, **(kwargs or {}))


class _Differentiated(torch.autograd.Function):
    """A value of x, and right after it a linear map of its tangent."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, value: _Map, derivative: _Map) -> torch.Tensor:
        made = value(x)
        ctx.derivative, ctx.dtype, ctx.stride = derivative, made.dtype, made.stride()
        return made

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, *others: None) -> torch.Tensor:
        made: torch.Tensor = ctx.derivative(tangent).to(ctx.dtype)
        if made.stride() == ctx.stride:
            return made
        return made.new_empty_strided(made.shape, ctx.stride).copy_(made)  # for a `view` of both


def _differentiated(x: torch.Tensor, value: _Map, derivative: _Map) -> torch.Tensor:
    made: torch.Tensor = _Differentiated.apply(x, value, derivative)  # type: ignore[no-untyped-call]
    return made


def _affine(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """The rule of a convolution or a linear layer."""

    def rule(input: Any, weight: Any, bias: Any = None, *args: Any, **kwargs: Any) -> torch.Tensor:
        if _vary(weight, bias):
            return function(input, weight, bias, *args, **kwargs)
        return _differentiated(
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
) -> torch.Tensor:
    """Affine where it applies running statistics."""

    def normed(x: torch.Tensor, mean: Any, shift: Any) -> torch.Tensor:
        return functional.batch_norm(x, mean, running_var, weight, shift, training, momentum, eps)

    if training or running_mean is None or _vary(running_mean, running_var, weight, bias):
        return normed(input, running_mean, bias)
    return _differentiated(
        input,
        lambda x: normed(x, running_mean, bias),
        lambda t: normed(t, torch.zeros_like(running_mean), None),
    )


def _layer_norm(
    input: Any, normalized_shape: Any, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> torch.Tensor:
    """Its derivative is `_normalised`, times the weight."""
    if _vary(weight, bias):
        return functional.layer_norm(input, normalized_shape, weight, bias, eps)
    kept: list[torch.Tensor] = []

    def value(x: torch.Tensor) -> torch.Tensor:
        normed, *kept[:] = torch.native_layer_norm(x, normalized_shape, weight, bias, eps)
        return normed

    def derivative(t: torch.Tensor) -> torch.Tensor:
        moved = _normalised(t, primal, normalized_shape, *kept)
        return moved if weight is None else moved * weight

    primal = forward_ad.unpack_dual(input).primal  # type: ignore[no-untyped-call]
    return _differentiated(input, value, derivative)


def _group_norm(
    input: Any, num_groups: int, weight: Any = None, bias: Any = None, eps: float = 1e-5
) -> torch.Tensor:
    """A layer norm of each group, for the derivative; PyTorch has none for channels-last images."""
    if _vary(weight, bias):
        return functional.group_norm(input, num_groups, weight, bias, eps)

    def value(x: torch.Tensor) -> torch.Tensor:
        return functional.group_norm(x, num_groups, weight, bias, eps)

    def derivative(t: torch.Tensor) -> torch.Tensor:
        wide = primal.to(torch.promote_types(primal.dtype, torch.float32))  # as in autocast on a GPU
        groups, moved = (part.reshape(len(part) * num_groups, -1) for part in (wide, t))
        shape = groups.shape[1:]
        _, *kept = torch.native_layer_norm(groups, shape, None, None, eps)
        found = _normalised(moved, groups, shape, *kept).reshape(t.shape)
        return found if weight is None else found * weight.view(-1, *[1] * (t.ndim - 2))

    primal = forward_ad.unpack_dual(input).primal  # type: ignore[no-untyped-call]
    return _differentiated(input, value, derivative)


def _normalised(
    tangent: torch.Tensor, x: torch.Tensor, shape: Sequence[int], mean: torch.Tensor, rstd: torch.Tensor
) -> torch.Tensor:
    """Of x^ = (x - mean) rstd over the features of that shape: (t - mean(t) - x^ mean(x^ t)) rstd.

    Where the types differ, as in autocast, in the widest of them.
    """
    given = (tangent, x, mean, rstd)
    wide = reduce(torch.promote_types, (part.dtype for part in given))
    t, x, mean, rstd = (part.to(wide) for part in given)
    moved: torch.Tensor = torch.ops.aten.native_layer_norm_backward(
        t, x, shape, mean, rstd, None, None, [True, False, False]
    )[0]
    return moved


def _softmax(function: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    """Of y = softmax(x): y (t - sum(y t))."""

    def rule(input: Any, dim: Any = None, *args: Any, **kwargs: Any) -> torch.Tensor:
        if dim is None or args or kwargs.keys() - {"_stacklevel"}:
            return function(input, dim, *args, **kwargs)
        kept: list[torch.Tensor] = []

        def value(x: torch.Tensor) -> torch.Tensor:
            kept[:] = [function(x, dim)]
            return kept[0]

        def derivative(t: torch.Tensor) -> torch.Tensor:
            (y,) = kept
            return torch._softmax_backward_data(t.to(y), y, dim, y.dtype)

        return _differentiated(input, value, derivative)

    return rule


def _attention(
    query: Any,
    key: Any,
    value: Any,
    attn_mask: Any = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    **kwargs: Any,
) -> torch.Tensor:
    """Plain operations where nothing is masked or dropped."""
    narrow = query.dtype.itemsize < torch.float32.itemsize or torch.is_autocast_enabled(query.device.type)
    if narrow or attn_mask is not None or dropout_p or is_causal or any(kwargs.values()):
        return functional.scaled_dot_product_attention(
            query, key, value, attn_mask, dropout_p, is_causal, scale=scale, **kwargs
        )
    scores = (query * (query.shape[-1] ** -0.5 if scale is None else scale)) @ key.transpose(-2, -1)
    attended: torch.Tensor = _RULES[functional.softmax](scores, -1) @ value
    return attended


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


_AFFINE = (
    functional.conv1d,
    functional.conv2d,
    functional.conv3d,
    functional.conv_transpose1d,
    functional.conv_transpose2d,
    functional.conv_transpose3d,
    functional.linear,
)
_RULES: dict[Any, Callable[..., Any]] = {
    **{function: _affine(function) for function in _AFFINE},
    **{
        function: _softmax(function) for function in (functional.softmax, torch.softmax, torch.Tensor.softmax)
    },
    functional.batch_norm: _batch_norm,
    functional.layer_norm: _layer_norm,
    functional.group_norm: _group_norm,
    functional.scaled_dot_product_attention: _attention,
    torch._VF.lstm: _lstm,
}
