"""The trace of a forward: which modules are called, in what order, and what their outputs are.

Two forwards of two images each are enough to tell where the batch is in every output, which outputs do not
depend on the input, and which outputs are one and the same tensor.
"""

import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.utils import parametrize

from timm_diffsens.models.channels import FollowChannels, channel_axis, mark_channels

_SAME = 1e-2  # relative: what rounding of one image at another place in the batch can never reach
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass
class Call:
    """One tensor that came out of one call of one module."""

    name: str
    module: str
    kind: str
    order: int
    shape: tuple[int, ...]
    item: bool  # one of several in the module's output
    source: str | None  # name of the tensor the module was given first
    same_as: str  # name under which this very tensor was first seen
    axis: int | None
    floating: bool
    leaf: bool = False  # no module was called inside, or a norm and its activation in one
    weight: bool = False  # the module owns a parameter of two or more dimensions
    enclosing: tuple[str, ...] = ()  # calls this one was made in, outermost first
    rows: tuple[tuple[float, ...], ...] = ()
    uniform: bool = False  # all numbers equal
    fold: int = 1  # dim 0 is `fold` times the batch
    batch_inner: bool = False  # dim 0 runs over the fold first
    reason: str | None = None


@dataclass
class Trace:
    """Everything the two forwards showed."""

    calls: list[Call]
    begun: dict[str, int]  # module call -> how many outputs there were when it began
    output: str | None
    not_called: list[str]
    kinds: dict[str, str]  # every module -> its class
    containers: frozenset[str]  # modules that only hold others: Sequential, ModuleList, what was not called
    aliases: dict[str, list[str]]  # module -> its other names
    weights: dict[str, torch.Tensor]  # convolution -> its weight as applied
    prefix_tokens: int = 0


@dataclass
class _Frame:
    call: str
    module: str
    source: str | None
    begun: int
    fused: bool
    parent: bool = False  # called another module


def trace(model: nn.Module, first: Sequence[Any], second: Sequence[Any], kwargs: dict[str, Any]) -> Trace:
    """Trace a model in evaluation mode on two batches of two images.

    Args:
        model: the network.
        first: positional arguments of the first forward; its images are (x0, x1).
        second: the same for (x1, x2).
        kwargs: keyword arguments of both.
    """
    one, two = _Recorder(model), _Recorder(model)
    one.run(first, kwargs)
    two.run(second, kwargs)
    after = {call.name: call for call in two.calls}
    for call in one.calls:
        _find_batch(call, after.get(call.name))
    called = {frame.module for frame in one.frames}
    return Trace(
        one.calls,
        {frame.call: frame.begun for frame in one.frames},
        one.output,
        [name for name, m in one.modules.items() if name not in called and _owns_parameters(m)],
        {name: type(m).__name__ for name, m in one.modules.items()},
        frozenset(n for n, m in one.modules.items() if isinstance(m, _CONTAINERS) or n not in called),
        one.aliases,
        one.weights,
        int(getattr(model, "num_prefix_tokens", 0) or 0),
    )


class _Recorder:
    """The hooks of one traced forward."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.calls: list[Call] = []
        self.frames: list[_Frame] = []
        self.output: str | None = None
        self.weights: dict[str, torch.Tensor] = {}
        self._stack: list[_Frame] = []
        self._counts: dict[str, int] = {}
        self._seen: dict[int, tuple[weakref.ref[torch.Tensor], int, str]] = {}
        self.modules = dict(_measured_modules(model))
        self._names = {module: name for name, module in self.modules.items()}
        self._fused = {m for m in self.modules.values() if m is not model and _fuses(m)}
        self.aliases: dict[str, list[str]] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            if name != self._names.get(module, name):
                self.aliases.setdefault(self._names[module], []).append(name)

    def run(self, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        with self._hooked(), torch.no_grad(), FollowChannels(self._on_convolution):
            for value in tensors(args):
                if value[1].ndim == 4:
                    mark_channels(value[1], 1)
            self.model(*args, **kwargs)

    @contextmanager
    def _hooked(self) -> Iterator[None]:
        with ExitStack() as stack:
            for module in self.modules.values():
                before = module.register_forward_pre_hook(self._before, with_kwargs=True)
                after = module.register_forward_hook(self._after)
                stack.callback(before.remove)
                stack.callback(after.remove)
            yield

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        name = self._names[module]
        count = self._counts.get(name, 0)
        self._counts[name] = count + 1
        given = tensors([*args, *kwargs.values()])
        source = self._name_of(given[0][1]) if given else None
        frame = _Frame(call_name(name, count), name, source, len(self.calls), module in self._fused)
        if self._stack:
            self._stack[-1].parent = True
        self._stack.append(frame)
        self.frames.append(frame)

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        frame = self._stack.pop()
        found = tensors(output)
        leaf = not frame.parent or module in self._fused
        inside = any(f.fused for f in self._stack)
        for path, tensor in found:
            name = frame.call + path
            seen = self._name_of(tensor)
            if seen is None:
                self._seen[id(tensor)] = (weakref.ref(tensor), tensor._version, name)
            rows = _signature(tensor)
            self.calls.append(
                Call(
                    name=name,
                    module=frame.module,
                    kind=type(module).__name__,
                    order=len(self.calls),
                    shape=tuple(tensor.shape),
                    item=bool(path),
                    source=frame.source,
                    same_as=seen or name,
                    axis=channel_axis(tensor),
                    floating=tensor.is_floating_point(),
                    leaf=leaf and not inside,
                    weight=_has_weight(module),
                    enclosing=tuple(f.call for f in self._stack),
                    rows=rows,
                    uniform=_is_uniform(tuple(tensor.shape), rows),
                )
            )
        if not self._stack:
            chosen = pick_output(output)
            self.output = frame.call + chosen[0] if chosen else None

    def _name_of(self, tensor: torch.Tensor) -> str | None:
        """Name of this tensor if it was seen before and nothing has overwritten it since."""
        ref, version, name = self._seen.get(id(tensor), (None, -1, ""))
        return name if ref is not None and ref() is tensor and tensor._version == version else None

    def _on_convolution(self, weight: torch.Tensor) -> None:
        """Keep the weight as applied; fixed filters (blur pooling) are no layer of the network."""
        if self._stack and _has_weight(self.modules[self._stack[-1].module]):
            self.weights.setdefault(self._stack[-1].call, weight.detach())


def call_name(module: str, count: int) -> str:
    """`layer1.0.relu` for the first call of a module, `layer1.0.relu#1` for the second."""
    return module if count == 0 else f"{module}#{count}"


def tensors(value: Any, path: str = "") -> list[tuple[str, torch.Tensor]]:
    """The tensors in a module's output, with their place: "", "[0]", "[1][0]", "[out]"."""
    if isinstance(value, torch.Tensor):
        return [(path, value)]
    items: list[tuple[Any, Any]] = []
    if isinstance(value, dict):
        items = list(value.items())
    elif isinstance(value, list | tuple):
        items = list(enumerate(value))
    elif hasattr(value, "__dataclass_fields__"):
        items = [(key, getattr(value, key)) for key in value.__dataclass_fields__]
    return [found for key, item in items for found in tensors(item, f"{path}[{key}]")]


def pick_output(value: Any) -> tuple[str, torch.Tensor] | None:
    """The tensor that counts as the network's output: itself, the one called out or logits, or the first."""
    found = [(path, t) for path, t in tensors(value) if t.is_floating_point()]
    for wanted in ("[out]", "[logits]"):
        for path, tensor in found:
            if path == wanted:
                return path, tensor
    return found[0] if found else None


def _fuses(module: nn.Module) -> bool:
    """A norm and its activation in one module: it owns vectors, and its parts own nothing."""
    own, children = list(module.parameters(recurse=False)), list(module.children())
    vectors = bool(own) and all(p.numel() == max(p.shape, default=1) for p in own)
    return vectors and bool(children) and not any(True for child in children for _ in child.parameters())


def _owns_parameters(module: nn.Module) -> bool:
    return any(True for _ in _own_parameters(module))


def _has_weight(module: nn.Module) -> bool:
    return any(parameter.ndim > 1 for parameter in _own_parameters(module))


def _own_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    yield from module.parameters(recurse=False)
    if parametrize.is_parametrized(module):
        yield from module.parametrizations.parameters()  # type: ignore[union-attr]


def _measured_modules(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """All modules but those that compute another module's weight (`torch.nn.utils.parametrize`)."""
    inner = {
        part
        for m in model.modules()
        if parametrize.is_parametrized(m)
        for part in m.parametrizations.modules()  # type: ignore[union-attr]
    }
    return ((name, module) for name, module in model.named_modules() if module not in inner)


def _signature(tensor: torch.Tensor) -> tuple[tuple[float, ...], ...]:
    """Sums and norms of the two images for each way a batch of two can lie along dim 0 (outer, inner).

    Of the whole tensor where dim 0 is odd; nothing where there are no values to look at.
    """
    if not tensor.is_floating_point() or tensor.is_meta or tensor.ndim == 0 or tensor.numel() == 0:
        return ()
    if len(tensor) % 2:
        return (_row_numbers(tensor[None]),)
    outer = _row_numbers(torch.unflatten(tensor, 0, (2, -1)))
    if len(tensor) == 2:
        return (outer,)
    return outer, _row_numbers(torch.unflatten(tensor, 0, (-1, 2)).transpose(0, 1))


def _row_numbers(rows: torch.Tensor) -> tuple[float, ...]:
    """Norm, sum, and sum of the first half, which tells orders apart, of each row.

    Rows are (rows, ...) in whatever layout they have: to flatten them would copy what is channels_last.
    """
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    along = next((dim for dim in range(1, rows.ndim) if rows.shape[dim] > 1), rows.ndim - 1)
    half = rows.narrow(along, 0, rows.shape[along] // 2 + 1 if rows.shape[along] > 1 else 1)
    dims = tuple(range(1, rows.ndim))
    numbers = torch.stack([torch.linalg.vector_norm(rows, dim=dims), rows.sum(dims), half.sum(dims)])
    return tuple(numbers.flatten().tolist())


def _is_uniform(shape: tuple[int, ...], signature: tuple[tuple[float, ...], ...]) -> bool:
    """Whether all numbers of each row are equal: (sum)^2 = count * norm^2, by Cauchy and Schwarz."""
    if not signature:
        return False
    rows = len(signature[0]) // 3
    count = torch.Size(shape).numel() / rows
    norms, sums = signature[0][:rows], signature[0][rows : 2 * rows]
    return all(abs(s) >= (1 - 1e-5) * n * count**0.5 for n, s in zip(norms, sums, strict=True))


def _find_batch(call: Call, again: Call | None) -> None:
    """Set `fold`, `batch_inner` and `reason` from a call on (x0, x1) and the same call on (x1, x2)."""
    if not call.floating:
        call.reason = "not floating-point"
    elif not call.shape or call.shape[0] == 0 or 0 in call.shape:
        call.reason = "not a batch: no dimension or no element"
    elif again is None or again.shape != call.shape:
        call.reason = "not called, or of another shape, in a second forward"
    elif call.shape[0] % 2:
        same = bool(call.rows) and call.rows == again.rows
        call.reason = "input-independent" if same else "dim 0 is not a multiple of the batch"
    else:
        call.fold = call.shape[0] // 2
        _find_order(call, again)


def _find_order(call: Call, again: Call) -> None:
    if not call.rows:
        return
    mismatches = [_mismatch(one, two) for one, two in zip(call.rows, again.rows, strict=True)]
    if call.rows == again.rows:  # to the last bit: the same whatever the images are, or zero for these
        if _mismatch(call.rows[0], call.rows[0]) > _SAME:
            call.reason = "input-independent"
        return
    call.batch_inner = len(mismatches) > 1 and mismatches[1] < mismatches[0] / 10
    if mismatches[call.batch_inner] > _SAME:
        call.reason = "the images of a batch cannot be told apart along dim 0"


def _mismatch(one: tuple[float, ...], two: tuple[float, ...]) -> float:
    """Relative distance between image 1 of the first batch and image 0 of the second."""
    scale = max(abs(one[1]), abs(two[0]), 1e-30)  # their norms
    return max(abs(one[i + 1] - two[i]) for i in (0, 2, 4)) / scale
