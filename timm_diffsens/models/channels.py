"""Which axis of a tensor holds the channels: followed through the forward, never guessed from sizes.

Layers fix the axis (a convolution writes its channels to dim 1, a linear layer to the last dim); what stands
between layers (permute, reshape, residual sums, pooling) hands it on. So an NHWC map inside a ConvNeXt
block and the NCHW map at its end are distinguished although neither is declared.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

_MARK = "_diffsens_channel_axis"

_WRITES_DIM_1 = {
    *(f"conv{d}d" for d in (1, 2, 3)),
    *(f"conv_transpose{d}d" for d in (1, 2, 3)),
    *("batch_norm", "group_norm", "instance_norm"),
}
_KEEPS_OR_LAST = {"layer_norm", "rms_norm"}
_UNKNOWN = {
    *("matmul", "__matmul__", "__rmatmul__", "bmm", "baddbmm", "einsum", "scaled_dot_product_attention"),
    *("tensordot", "gather", "embedding", "__get__", "multi_head_attention_forward"),
}
_SAME_AXIS = {
    *("cat", "concat", "concatenate"),
    *("chunk", "split", "tensor_split", "narrow", "pad", "roll", "flip"),
}
_REORDERS = {"permute", "transpose", "transpose_", "swapaxes", "swapdims", "movedim", "moveaxis", "t"}
_RESHAPES = {
    *("reshape", "reshape_as", "view", "view_as", "flatten", "unflatten", "ravel"),
    *("squeeze", "squeeze_", "unsqueeze", "unsqueeze_"),
}
_INDEXES = {"__getitem__", "select", "unbind"}
_REDUCES = {"mean", "sum", "amax", "amin", "max", "min", "var", "std", "norm", "logsumexp", "prod"}


def channel_axis(tensor: torch.Tensor) -> int | None:
    """The channel axis of a tensor made under `FollowChannels`, or None where it is not known."""
    axis: int | None = getattr(tensor, _MARK, None)
    return axis if axis is not None and 0 < axis < tensor.ndim else None


def mark_channels(tensor: torch.Tensor, axis: int | None) -> None:
    """Say where a tensor's channels are (for the network's input)."""
    setattr(tensor, _MARK, axis)


class FollowChannels(TorchFunctionMode):
    """While open, every tensor made by a torch function carries its channel axis.

    Args:
        on_convolution: called with each convolution's weight as applied, after any standardisation.
    """

    def __init__(self, on_convolution: Callable[[torch.Tensor], None] | None = None) -> None:
        super().__init__()
        self.on_convolution = on_convolution

    def __torch_function__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name.startswith("conv") and name in _WRITES_DIM_1 and self.on_convolution:
            weight = kwargs.get("weight", args[1] if len(args) > 1 else None)
            if isinstance(weight, torch.Tensor):
                self.on_convolution(weight)
        # read before the call: an in-place function returns its own input
        source = next((t for t in _tensors([*args, *kwargs.values()]) if channel_axis(t) is not None), None)
        before = (tuple(source.shape), channel_axis(source)) if source is not None else None
        out = func(*args, **kwargs)
        for tensor in _tensors([out]):
            if tensor.is_nested:  # it has no shape
                continue
            axis = _axis(func, tensor, before, args, kwargs)
            if axis is not None or hasattr(tensor, _MARK):
                setattr(tensor, _MARK, axis)
        return out


def _axis(
    func: Any,
    out: torch.Tensor,
    before: tuple[tuple[int, ...], int | None] | None,
    args: Sequence[Any],
    kwargs: dict[str, Any],
) -> int | None:
    name = getattr(func, "__name__", "")
    if name in _UNKNOWN:
        return None
    if name in _WRITES_DIM_1:
        return 1 if out.ndim > 1 else None
    if name == "linear":
        return out.ndim - 1
    if before is None:
        return out.ndim - 1 if name in _KEEPS_OR_LAST and out.ndim > 1 else None
    shape, axis = before
    assert axis is not None
    if name in _REORDERS:  # whatever the sizes
        return _after_view(func, (2,) * len(shape), axis, args, kwargs)
    if name in _SAME_AXIS:
        return axis if out.ndim == len(shape) else None
    if name in _REDUCES and out.ndim < len(shape):
        return _after_reduction(shape, axis, args[1:], kwargs)
    if name in _RESHAPES:
        return _after_reshape(shape, axis, tuple(out.shape))
    if name in _INDEXES and not _picks(args):
        return _after_view(func, shape, axis, args, kwargs)
    if name == "stack":
        new = int(kwargs.get("dim", args[1] if len(args) > 1 else 0)) % out.ndim
        return axis + 1 if new <= axis else axis
    return axis if out.ndim == len(shape) and out.shape[axis] == shape[axis] else None


def _after_view(
    func: Any, shape: tuple[int, ...], axis: int, args: Sequence[Any], kwargs: dict[str, Any]
) -> int | None:
    """The axis with steps in memory, of a view of a tensor that has steps along its channels alone."""
    steps = torch.empty_strided(shape, [int(i == axis) for i in range(len(shape))], device="meta")
    kwargs = {name: value for name, value in kwargs.items() if name != "input"}
    view = _tensors([func(steps, *args[1:], **kwargs)])[0]
    found = [i for i in range(view.ndim) if view.shape[i] > 1 and view.stride(i)]
    return found[0] if found else None


def _picks(args: Sequence[Any]) -> bool:
    """Whether an index holds lists or tensors, which copy elements in any order."""
    parts = args[1] if len(args) > 1 and isinstance(args[1], tuple) else args[1:]
    return any(isinstance(part, list | torch.Tensor) for part in parts)


def _after_reduction(
    shape: tuple[int, ...], axis: int, args: Sequence[Any], kwargs: dict[str, Any]
) -> int | None:
    dims = kwargs.get("dim", args[0] if args else None)
    if dims is None or isinstance(dims, bool | torch.Tensor):
        return None
    reduced = {d % len(shape) for d in ([dims] if isinstance(dims, int) else dims)}
    return None if axis in reduced else axis - sum(d < axis for d in reduced)


def _after_reshape(shape: tuple[int, ...], axis: int, new: tuple[int, ...]) -> int | None:
    """The axis of the same size with the same number of elements behind it, if there is exactly one."""

    def behind(sizes: tuple[int, ...], i: int) -> int:
        return int(torch.Size(sizes[i + 1 :]).numel())

    found = [i for i in range(len(new)) if new[i] == shape[axis] and behind(new, i) == behind(shape, axis)]
    return found[0] if len(found) == 1 else None


def _tensors(values: Iterable[Any]) -> list[torch.Tensor]:
    found: list[torch.Tensor] = []
    for value in values:
        if isinstance(value, torch.Tensor):
            found.append(value)
        elif isinstance(value, list | tuple):
            found.extend(_tensors(value))
    return found
