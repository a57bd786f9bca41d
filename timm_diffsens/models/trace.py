"""The trace of a forward: which modules are called, in what order, and what their outputs are.

Two forwards of two images each are enough to tell where the batch is in every output, which outputs do not
depend on the input, and which outputs are one and the same tensor. Where the two disagree, further forwards
tell why.
"""

import re
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize

from timm_diffsens.device.seeding import random_state
from timm_diffsens.errors import UsageError, warn
from timm_diffsens.models.channels import FollowChannels, channel_axis, mark_channels
from timm_diffsens.models.containers import tensors
from timm_diffsens.models.weights import is_convolution

Arguments = tuple[Sequence[Any], dict[str, Any]]  # of a forward, positional and by keyword
Rows = tuple[tuple[float, ...], ...]  # numbers that stand for a tensor, see `_signature`
Summary = Callable[[torch.Tensor], list[torch.Tensor]]  # what gives them, still where the tensor is

_SAME = 1e-2  # relative: what rounding of one image at another place in the batch can never reach
_SUSPICIOUS = 1000  # units in the last place: further forwards tell where this much comes from
_BATCH = 1e-3  # relative: power sums of a batch, in which rounding averages out
_REPEATS = 8  # of a forward that is random, it seems: rare events (drop path) may miss one
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)
_TWO_ROWS = 6  # numbers of a signature that tells the two images apart
_SAID = ("[out]", "[logits]")  # names of an output
_FEW = 4  # tensors named in a warning
_SCORES, _MAP = 2, 4  # axes of a batch of scores, and of maps
_MIXED = "the images of a batch cannot be told apart along dim 0"
_NO_ARRAY = "no plain array"
_RANDOM = "random in evaluation mode, or keeps state: two forwards of the same images differ"
_BATCH_STATISTICS = "depends on the other images of its batch (batch statistics)"


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
    rows: Rows = ()
    uniform: bool = False  # all numbers equal
    fold: int = 1  # dim 0 is `fold` times the batch
    batch_inner: bool = False  # dim 0 runs over the fold first
    kept_as: str = ""  # how the numbers are kept, where they are no plain array: sparse_coo, nested
    eps: float = 0.0  # relative rounding of one number
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
    functional: list[str]  # modules that convolve with weights of no convolution module
    recursive: set[str]  # modules that are called inside of themselves
    prefix_tokens: int = 0


@dataclass
class _Frame:
    call: str
    module: str
    source: str | None
    begun: int
    fused: bool
    parent: bool = False  # called another module


def trace(model: nn.Module, batch: Callable[[Sequence[int]], Arguments]) -> Trace:
    """Trace a model in evaluation mode on batches of two images.

    Args:
        model: the network.
        batch: numbers of images, of three (0, 1, 2) -> the arguments of a forward of these images.
    """
    before = random_state()
    one, two = (_recorded(model, batch([i, i + 1])) for i in (0, 1))
    after = {call.name: call for call in two.calls}
    for call in one.calls:
        _find_batch(call, after.get(call.name))
    suspicious = [call for call in one.calls if _is_suspicious(call, after.get(call.name))]
    if suspicious or random_state() != before:
        for _ in range(_REPEATS):
            for call in differing(one.calls, _recorded(model, batch([0, 1])).calls):
                call.reason = _RANDOM
            if one.calls and one.calls[-1].reason == _RANDOM:
                break
        mixed = [call for call in suspicious if call.reason in (None, _MIXED)]
        sums = (_recorded(model, batch(pair), _power_sums).calls for pair in ([0, 1], [0, 0], [1, 1]))
        if mixed:
            _find_batch_statistics(mixed, *sums)
    one.say_what_is_the_output()
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
        [
            name or type(module).__name__
            for name, module in one.modules.items()
            if name in called and _convolves(module, one)
        ],
        one.recursive,
        int(getattr(model, "num_prefix_tokens", 0) or 0),
    )


def calls_of(model: nn.Module, run: Callable[[], Any]) -> list[Call]:
    """What modules give while `run` calls a model, with their signatures."""
    recorder = _Recorder(model, _signature)
    with recorder.hooked():
        run()
    return recorder.calls


def differing(calls: list[Call], others: list[Call]) -> list[Call]:
    """The calls that give other numbers in another forward of the same images, by more than rounding."""
    found = {call.name: call for call in others}
    return [call for call in calls if _differs(call, found.get(call.name))]


def _differs(call: Call, other: Call | None) -> bool:
    if other is None or other.shape != call.shape or len(other.rows) != len(call.rows):
        return True
    if not call.rows or call.rows == other.rows:
        return False
    scale = max(*map(abs, call.rows[0] + other.rows[0]), 1e-30)
    gap = max(abs(a - b) for a, b in zip(call.rows[0], other.rows[0], strict=True))
    return gap > min(_SUSPICIOUS * call.eps, _SAME) * scale


def _recorded(model: nn.Module, arguments: Arguments, summary: Summary | None = None) -> "_Recorder":
    recorder = _Recorder(model, summary or _signature)
    recorder.run(*arguments)
    return recorder


class _Recorder:
    """The hooks of one traced forward."""

    def __init__(self, model: nn.Module, summary: Summary) -> None:
        self.model, self.summary = model, summary
        self.calls: list[Call] = []
        self._numbers: list[list[torch.Tensor]] = []  # of each call
        self.frames: list[_Frame] = []
        self.output: str | None = None
        self._choice: list[str] = []
        self.weights: dict[str, torch.Tensor] = {}
        self.functional: set[nn.Module] = set()
        self.recursive: set[str] = set()
        self._stack: list[_Frame] = []
        self._counts: dict[str, int] = {}
        self._seen: dict[int, tuple[weakref.ref[torch.Tensor], int, str]] = {}
        self.modules = measured_modules(model)
        self._names = {module: name for name, module in self.modules.items()}
        self._fused = {m for m in self.modules.values() if m is not model and _fuses(m)}
        self.aliases: dict[str, list[str]] = {}
        for name, module in model.named_modules(remove_duplicate=False):
            known = self._names.get(module, plain_name(name))
            if known != plain_name(name):
                self.aliases.setdefault(known, []).append(plain_name(name))

    def run(self, args: Sequence[Any], kwargs: dict[str, Any]) -> None:
        with self.hooked(), torch.no_grad(), FollowChannels(self._on_convolution):
            for _, tensor in tensors([*args, *kwargs.values()]):
                if tensor.ndim == 4:
                    mark_channels(tensor, 1)
            self.model(*args, **kwargs)

    @contextmanager
    def hooked(self) -> Iterator[None]:
        """While open, each call of a module is recorded; afterwards their numbers are there."""
        with ExitStack() as stack:
            for module in self.modules.values():
                before = module.register_forward_pre_hook(self._before, with_kwargs=True)
                after = module.register_forward_hook(self._after)
                stack.callback(before.remove)
                stack.callback(after.remove)
            yield
        self._fetch()

    def _fetch(self) -> None:
        """The numbers of all calls, in one piece: a device is waited for once, not once a layer."""
        numbers = [row.double() for rows in self._numbers for row in rows]
        at: dict[torch.device, list[torch.Tensor]] = {}
        for row in numbers:
            at.setdefault(row.device, []).append(row)
        fetched = {device: iter(torch.cat(rows).tolist()) for device, rows in at.items()}
        for call, rows in zip(self.calls, self._numbers, strict=True):
            call.rows = tuple(tuple(islice(fetched[row.device], len(row))) for row in rows)
            call.uniform = _is_uniform(call.shape, call.rows)
        self._numbers = [[] for _ in self.calls]

    def _before(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        name = self._names[module]
        count = self._counts.get(name, 0)
        self._counts[name] = count + 1
        given = tensors([*args, *kwargs.values()])
        source = self._name_of(given[0][1]) if given else None
        frame = _Frame(call_name(name, count), name, source, len(self.calls), module in self._fused)
        if any(name == outer.module for outer in self._stack):
            self.recursive.add(name)
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
            if tensor.is_inference():
                raise UsageError(
                    f"{frame.module or type(module).__name__} works under torch.inference_mode, which hides "
                    "what overwrites its outputs; use torch.no_grad there"
                )
            seen = self._name_of(tensor)
            if seen is None:
                self._seen[id(tensor)] = (weakref.ref(tensor), tensor._version, name)
            kept_as = _kept_as(tensor)
            self._numbers.append(self.summary(tensor) if kept_as == "strided" else [])
            shape = () if tensor.is_nested else tuple(tensor.shape)
            self.calls.append(
                Call(
                    name=name,
                    module=frame.module,
                    kind=type(module).__name__,
                    order=len(self.calls),
                    shape=shape,
                    item=bool(path),
                    source=frame.source,
                    same_as=seen or name,
                    axis=channel_axis(tensor),
                    floating=tensor.is_floating_point(),
                    leaf=leaf and not inside,
                    weight=_has_weight(module),
                    enclosing=tuple(f.call for f in self._stack),
                    kept_as="" if kept_as == "strided" else kept_as,
                    eps=torch.finfo(tensor.dtype).eps if tensor.is_floating_point() else 0.0,
                )
            )
        if not self._stack:
            chosen = pick_output(output)
            self.output = frame.call + chosen[0] if chosen else None
            self._choice = [path for path, tensor in found if tensor.is_floating_point()]

    def say_what_is_the_output(self) -> None:
        """Warn where a network returns several tensors and nothing says which is its output."""
        if len(self._choice) > 1 and self.output is not None and not self.output.endswith(_SAID):
            warn(
                f"{type(self.model).__name__} returns {len(self._choice)} tensors "
                f"({', '.join(self._choice[:_FEW])}{', ...' if len(self._choice) > _FEW else ''}): "
                f"its output is taken to be {self.output}"
            )

    def _name_of(self, tensor: torch.Tensor) -> str | None:
        """Name of this tensor if it was seen before and nothing has overwritten it since."""
        ref, version, name = self._seen.get(id(tensor), (None, -1, ""))
        return name if ref is not None and ref() is tensor and tensor._version == version else None

    def _on_convolution(self, weight: torch.Tensor) -> None:
        """Keep the weight as applied; fixed filters (blur pooling) are no layer of the network."""
        if not self._stack:
            return
        module = self.modules[self._stack[-1].module]
        if _has_weight(module):
            self.weights.setdefault(self._stack[-1].call, weight.detach())
        if not is_convolution(module) and module not in self.functional and self._is_loose(weight):
            self.functional.add(module)

    def _is_loose(self, weight: torch.Tensor) -> bool:
        """Whether it is neither of a convolution module, nor a fixed filter, nor the same in all channels."""
        if weight.is_meta:
            return False
        modules = self.model.modules()
        held = [m.weight for m in modules if is_convolution(m) and isinstance(m.weight, torch.Tensor)]
        if any(_is_of(weight, tensor) for tensor in (*held, *self.model.buffers()) if not is_lazy(tensor)):
            return False
        return bool((weight != weight[:1, :1]).any())


def call_name(module: str, count: int) -> str:
    """`layer1.0.relu` for the first call of a module, `layer1.0.relu#1` for the second."""
    return module if count == 0 else f"{module}#{count}"


def pick_output(value: Any) -> tuple[str, torch.Tensor] | None:
    """The tensor that counts as the network's output.

    Itself; the one called out or logits; scores (n, classes) that are returned beside a map; of a list of
    maps (or of tokens), or of maps by level, the deepest, which is the coarsest; else the first.
    """
    found = [(path, t) for path, t in tensors(value) if t.is_floating_point()]
    said = [item for wanted in _SAID for item in found if item[0] == wanted]
    if said or not found:
        return said[0] if said else None
    scores = [item for item in found if item[1].ndim == _SCORES]
    if (
        isinstance(value, list | tuple)
        and found[0][1].ndim == _MAP
        and len(found) - len(scores) == 1
        and scores
    ):
        return scores[0]
    alike = [item for item in found if item[1].ndim == found[0][1].ndim > _SCORES and not item[1].is_nested]
    levels = not isinstance(value, Mapping) or all(re.search(r"\d", str(key)) for key in value)
    return min(reversed(alike), key=lambda item: _extent(item[1])) if alike and levels else found[0]


def _extent(tensor: torch.Tensor) -> int:
    """A map's side, the middle one of its sizes wherever its channels are; of other tensors their numbers."""
    return sorted(tensor.shape[1:])[1] if tensor.ndim == _MAP else tensor.numel()


def _kept_as(tensor: torch.Tensor) -> str:
    """How the numbers are kept: "strided" in a plain array."""
    if tensor.is_nested:
        return "nested"
    if torch._C._functorch.is_batchedtensor(tensor):
        return "inside of torch.vmap"
    return str(tensor.layout).removeprefix("torch.")


def _fuses(module: nn.Module) -> bool:
    """A norm and its activation in one module: it owns vectors, and its parts own nothing."""
    own, children = [p for p in module.parameters(recurse=False) if not is_lazy(p)], list(module.children())
    vectors = bool(own) and all(p.numel() == max(p.shape, default=1) for p in own)
    return vectors and bool(children) and not any(True for child in children for _ in child.parameters())


def _convolves(module: nn.Module, seen: _Recorder) -> bool:
    """Whether it convolves, as was seen or as its class name says, but is no convolution module."""
    named = "conv" in type(module).__name__.lower()
    filters = named and any(p.ndim > _MAP - 2 for p in _own_parameters(module))
    return module in seen.functional or (filters and not is_convolution(module))


def _is_of(weight: torch.Tensor, held: torch.Tensor) -> bool:
    """Whether a weight is a tensor, or a view of it."""
    if held.layout != torch.strided or held.device != weight.device:
        return False
    if 0 <= weight.data_ptr() - held.data_ptr() < held.nbytes:
        return True
    return held.shape == weight.shape and torch.equal(held, weight)


def _owns_parameters(module: nn.Module) -> bool:
    return any(True for _ in _own_parameters(module))


def _has_weight(module: nn.Module) -> bool:
    return any(parameter.ndim > 1 for parameter in _own_parameters(module))


def _own_parameters(module: nn.Module) -> Iterator[nn.Parameter]:
    yield from (p for p in module.parameters(recurse=False) if not is_lazy(p))  # lazy: was never called
    if parametrize.is_parametrized(module):
        yield from module.parametrizations.parameters()  # type: ignore[union-attr]


def measured_modules(model: nn.Module) -> dict[str, nn.Module]:
    """All modules by name, but those that compute another's weight (`torch.nn.utils.parametrize`).

    The wrapper that `torch.compile` puts around a part is left out, and so is its word in names.
    """
    inner = {
        part
        for m in model.modules()
        if parametrize.is_parametrized(m)
        for part in m.parametrizations.modules()  # type: ignore[union-attr]
    }
    return {
        plain_name(name): module
        for name, module in model.named_modules()
        if module not in inner and not isinstance(getattr(module, "_orig_mod", None), nn.Module)
    }


def plain_name(name: str) -> str:
    """A module's name without what `torch.compile` adds to it."""
    return ".".join(part for part in name.split(".") if part != "_orig_mod")


def _signature(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Sums and norms of the two images for each way a batch of two can lie along dim 0 (outer, inner).

    Of the whole tensor where dim 0 is odd; nothing where there are no values to look at.
    """
    empty = tensor.is_meta or tensor.ndim == 0 or tensor.numel() == 0
    if empty or not tensor.is_floating_point():
        return []
    if len(tensor) % 2:
        return [_row_numbers(tensor[None])]
    outer = _row_numbers(torch.unflatten(tensor, 0, (2, -1)))
    if len(tensor) == 2:
        return [outer]
    return [outer, _row_numbers(torch.unflatten(tensor, 0, (-1, 2)).transpose(0, 1))]


def _row_numbers(rows: torch.Tensor) -> torch.Tensor:
    """Norm, sum, and sum of the first half, which tells orders apart, of each row.

    Rows are (rows, ...) in whatever layout they have: to flatten them would copy what is channels_last.
    """
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    along = next((dim for dim in range(1, rows.ndim) if rows.shape[dim] > 1), rows.ndim - 1)
    half = rows.narrow(along, 0, rows.shape[along] // 2 + 1 if rows.shape[along] > 1 else 1)
    dims = tuple(range(1, rows.ndim))
    numbers = torch.stack([torch.linalg.vector_norm(rows, dim=dims), rows.sum(dims), half.sum(dims)])
    return numbers.flatten()


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
    elif call.kept_as:
        call.reason = f"{_NO_ARRAY} ({call.kept_as})"
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
        call.reason = _MIXED


def _mismatch(one: tuple[float, ...], two: tuple[float, ...]) -> float:
    """Relative distance between image 1 of the first batch and image 0 of the second."""
    scale = max(abs(one[1]), abs(two[0]), 1e-30)  # their norms
    return max(abs(one[i + 1] - two[i]) for i in (0, 2, 4)) / scale


def _is_suspicious(call: Call, again: Call | None) -> bool:
    """Whether image 1 differs between the two batches by more than its place in them should make."""
    if again is None or not call.rows or len(call.rows) != len(again.rows) or len(call.rows[0]) < _TWO_ROWS:
        return again is None
    least = min(_mismatch(one, two) for one, two in zip(call.rows, again.rows, strict=True))
    return least > min(_SUSPICIOUS * call.eps, _SAME)


def _find_batch_statistics(
    calls: list[Call], both: list[Call], first: list[Call], second: list[Call]
) -> None:
    """Set the reason of calls whose sums for (x0, x1) are not the mean of those for (x0, x0) and (x1, x1).

    Sums are the same in whatever order the numbers are, so a batch that lies in an order which is not known
    is told from images that change one another.
    """
    sums = [{call.name: call.rows for call in found} for found in (both, first, second)]
    for call in calls:
        known = call.reason == _MIXED  # it is one or the other; else rounding is the third
        least = min(_SUSPICIOUS * call.eps, _SAME) if known else max(_BATCH, call.eps)
        rows = [found.get(call.name, ()) for found in sums]
        together, *alone = (row[0] if row else () for row in rows)
        for value, one, two in zip(together, *alone, strict=False):
            expected = (one + two) / 2
            if abs(value - expected) > least * expected:
                call.reason = _BATCH_STATISTICS


def _power_sums(tensor: torch.Tensor) -> list[torch.Tensor]:
    """Sums of |x|, |x|^2 and |x|^4: a norm over the batch keeps the second, and not all three."""
    if not tensor.is_floating_point() or tensor.is_meta or tensor.numel() == 0:
        return []
    size = tensor.double().abs()
    return [torch.stack([size.pow(power).sum() for power in (1, 2, 4)])]
