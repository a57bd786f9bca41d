"""Which module outputs count as layers, their names, order and relative depth.

A layer is a tensor: `layer1.0.relu` is what the first call of that module returned, `layer1.0.relu#1` the
second, `attn[0]` an item of a tuple. A tensor that several modules hand on is one layer; the other names
are its aliases.
"""

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from timm_diffsens.device.evaluation import evaluating
from timm_diffsens.errors import UsageError, unknown
from timm_diffsens.models.blocks import find_blocks
from timm_diffsens.models.loading import LoadedModel
from timm_diffsens.models.trace import Call, Trace, trace
from timm_diffsens.models.weights import NORM_CLASS

SELECTIONS = ("stages", "blocks", "convs", "all")
OUTPUT = "output"
_TRACED = 3  # images of a trace

_ACTIVATION = re.compile(r"(elu|relu|silu|gelu|mish|swish|sigmoid|tanh|act)", re.IGNORECASE)
_ISOTROPIC_STAGES = 4  # a network of one resolution is cut into as many stages as most others have


@dataclass(frozen=True)
class Layer:
    """One measured tensor.

    Attributes:
        name: as users see it.
        call: the call it is read from; `module` the module whose hook sees it.
        shape: of one sample. channel_axis: in that shape, or None.
        fold: rows of dim 0 that belong to one image; batch_inner: whether the batch is the faster axis there.
        depth: (index + 1) / number of layers.
        reason: None, or why it cannot be measured.
    """

    name: str
    call: str
    module: str
    kind: str
    index: int
    depth: float
    shape: tuple[int, ...]
    channel_axis: int | None
    aliases: tuple[str, ...]
    fold: int = 1
    batch_inner: bool = False
    uniform: bool = False
    reason: str | None = None


def select_layers(
    seen: Trace | nn.Module, selection: str | Sequence[str] = "blocks", images: torch.Tensor | None = None
) -> list[Layer]:
    """The layers of a model, in order of execution; the network's output is the last.

    Args:
        seen: the model, or the `trace` of one.
        selection: `stages` (the last block at each resolution), `blocks` (stem, every repeated block,
            output), `convs` (each convolution after the norm and activation that directly follow it: the
            paper's "layer k"), `all` (every leaf call), or shell patterns over the names of all calls.
        images: for a model: at least three (n, c, h, w) as it wants them, on which it is traced.

    Raises:
        UsageError: a pattern matches nothing, the selection is empty, or there is nothing to trace.

    Example:
        >>> from timm_diffsens import select_layers
        >>> from timm_diffsens.models.nets import make_net
        >>> found = select_layers(make_net("lenet"), "convs", torch.rand(3, 3, 32, 32))
        >>> [layer.name for layer in found]
        ['0', '3', 'output']
    """
    seen = seen if isinstance(seen, Trace) else _traced(seen, images)
    asked = [selection] if isinstance(selection, str) else list(selection)
    asked = [part for text in asked for part in text.split(",") if part]
    if not asked:
        raise UsageError(f"no layers asked for; expected {', '.join(SELECTIONS)} or shell patterns")
    chosen: dict[str, str] = {}  # call -> shown name
    for part in asked:
        rule = {"stages": _stages, "blocks": _blocks, "convs": _convs, "all": _leaves}.get(part)
        chosen.update(rule(seen) if rule else _matches(seen, part))
    patterns_only = not any(part in SELECTIONS for part in asked)
    if seen.output is not None and not patterns_only:
        chosen = _with_output(seen, chosen, keep_leaf="all" in asked)
    return _as_layers(seen, chosen)


def check_names(model: nn.Module, selection: Sequence[str]) -> None:
    """Find names that no layer can have, without running the model; patterns are left to `select_layers`.

    Raises:
        UsageError: a part of the selection is none of `SELECTIONS`, no pattern and no module's name.
    """
    names = [name for name, _ in model.named_modules(remove_duplicate=False) if name]
    for part in selection:
        if not ({part} & {*SELECTIONS, OUTPUT, *names} or set("*?[#") & set(part)):
            raise _unknown(part, names)


def _unknown(part: str, names: Sequence[str]) -> UsageError:
    hint = "`diffsens ls layers MODEL --layers all` lists them, or select_layers(model, 'all', images)"
    return unknown("layer or pattern", part, [*names, *SELECTIONS], hint)


def list_layers(model: LoadedModel, selection: str | Sequence[str] = "blocks", seed: int = 0) -> list[Layer]:
    """The layers of a loaded model, found on random images of its own input size."""
    images = torch.randn((3, *model.input_shape), generator=torch.Generator().manual_seed(seed))
    return select_layers(trace_images(model.module, images), selection)


def _traced(model: Any, images: Any) -> Trace:
    if not isinstance(model, nn.Module):
        raise UsageError(f"expected a model with images, or its trace, got {type(model).__name__}")
    if not isinstance(images, torch.Tensor) or len(images) < _TRACED:
        raise UsageError(
            f"select_layers(model, layers, images) needs {_TRACED} images (n, c, h, w), on which it traces "
            f"the model; got {tuple(images.shape) if isinstance(images, torch.Tensor) else images!r}"
        )
    like = next(model.parameters(), images)
    return trace_images(model, images[:_TRACED].to(like.device, like.dtype))


def trace_images(model: nn.Module, images: torch.Tensor, **kwargs: Any) -> Trace:
    """Trace a model in evaluation mode on three images (3, ...); its training flags are put back."""
    with evaluating(model):
        return trace(model, lambda numbers: ((images[numbers],), kwargs))


def _leaves(seen: Trace) -> dict[str, str]:
    return {call.name: call.name or OUTPUT for call in seen.calls if call.leaf}


def _matches(seen: Trace, pattern: str) -> dict[str, str]:
    names = [call.name for call in seen.calls if call.name]
    found = [name for name in names if name == pattern or fnmatch.fnmatchcase(name, pattern)]
    if pattern == OUTPUT and seen.output is not None:
        return {seen.output: OUTPUT}
    if not found:
        raise _unknown(pattern, names)
    return {name: name for name in found}


def _convs(seen: Trace) -> dict[str, str]:
    """Each convolution, read after the norm and then the activation that directly follow."""
    leaves = [call for call in seen.calls if call.leaf]
    return {_tap(leaves, call): call.name for call in leaves if call.name in seen.weights}


def _weights(seen: Trace) -> dict[str, str]:
    """The same for every layer with weights: what counts as blocks in a plain network (VGG, AlexNet)."""
    leaves = [call for call in seen.calls if call.leaf]
    return {_tap(leaves, call): call.name for call in leaves if call.weight}


def _tap(leaves: list[Call], start: Call) -> str:
    at = start
    for matters in (_is_norm, _is_activation):
        at = next((c for c in leaves if c.source == at.same_as and c.order > at.order and matters(c, at)), at)
    return at.name


def _is_norm(call: Call, before: Call) -> bool:
    return bool(NORM_CLASS.search(call.kind)) and _is_new(call)


def _is_activation(call: Call, before: Call) -> bool:
    return (
        bool(_ACTIVATION.search(call.kind))
        and not call.weight
        and call.shape == before.shape
        and _is_new(call)
    )


def _is_new(call: Call) -> bool:
    """Whether the tensor was made in this call, by the module or by a part of it, rather than handed on."""
    return call.same_as == call.name or call.same_as.startswith(f"{call.module}.")


def _blocks(seen: Trace) -> dict[str, str]:
    """Stem, then every repeated block; layers with weights where a network has no blocks."""
    modules = set(find_blocks(seen))
    calls = _first_tensors([call for call in seen.calls if call.module in modules])
    if not calls:
        return _weights(seen)
    first = min(seen.begun[_call(call)] for call in calls)
    before = [c for c in seen.calls[:first] if c.floating and c.reason != "input-independent"]
    stem = [call for call in before if call.same_as == before[-1].same_as]
    chosen = {call.name: call.name for call in sorted(stem, key=_width)[:1]}
    return chosen | {call.name: call.name for call in calls}


def _width(call: Call) -> tuple[int, int]:
    """Sorts wide modules (`stem`) before narrow ones (`stem.0.bn`)."""
    return call.name.count("."), call.order


def _first_tensors(calls: list[Call]) -> list[Call]:
    """The first floating-point tensor of each module call."""
    first: dict[str, Call] = {}
    for call in calls:
        if call.floating:
            first.setdefault(_call(call), call)
    return list(first.values())


def _call(call: Call) -> str:
    """The module call that a tensor came from: `stage2` of `stage2[0]`."""
    return call.name.partition("[")[0]


def _stages(seen: Trace) -> dict[str, str]:
    """The stem, then the last block at each resolution; quarters of a network that has only one."""
    by_name = {call.name: call for call in seen.calls}
    blocks = [by_name[name] for name in _blocks(seen)]
    resolutions = [_positions(call, seen.prefix_tokens) for call in blocks]
    known = [(call, size) for call, size in zip(blocks, resolutions, strict=True) if size]
    last = {size: call for call, size in known}
    if len(last) < 3 and len(known) > _ISOTROPIC_STAGES:
        stem, rest = known[0][0], [call for call, _ in known[1:]]
        cuts = [round(len(rest) * (i + 1) / _ISOTROPIC_STAGES) - 1 for i in range(_ISOTROPIC_STAGES)]
        ends = [stem, *(rest[i] for i in cuts)]
    else:
        ends = list(last.values()) or blocks
    return {call.name: _outermost(seen, call, ends) for call in ends}


def _positions(call: Call, prefix_tokens: int) -> int:
    """Number of places (pixels, tokens) in one image's map, 0 where there are none or it is not known."""
    if call.axis is None or len(call.shape) < 3:
        return 0
    elements = int(torch.Size(call.shape[1:]).numel())
    places = call.fold * elements // call.shape[call.axis]
    return places - prefix_tokens if len(call.shape) == 3 else places


def _outermost(seen: Trace, call: Call, ends: list[Call]) -> str:
    """The widest module around a block that hands on its tensor, and no other stage's: `layer1`."""
    others = [end.name for end in ends if end is not call]
    same = [
        c
        for c in seen.calls
        if c.same_as == call.same_as
        and c.name != seen.output
        and f"{call.module}.".startswith(f"{c.module}.")
        and not any(other.startswith(f"{c.name}.") for other in others)
    ]
    return min(same, key=_width, default=call).name


def _with_output(seen: Trace, chosen: dict[str, str], keep_leaf: bool) -> dict[str, str]:
    """Make the network's output the last layer; under `all` a leaf that makes it keeps its own name.

    Unless something was computed after it: the output is the last layer all the same.
    """
    tensor = _same_as(seen, seen.output or "")
    twin = next((name for name in chosen if _same_as(seen, name) == tensor), None)
    if twin is not None and keep_leaf and twin == [c.name for c in seen.calls if c.name in chosen][-1]:
        return chosen
    return {name: shown for name, shown in chosen.items() if name != twin} | {seen.output or "": OUTPUT}


def _same_as(seen: Trace, name: str) -> str:
    return next(call.same_as for call in seen.calls if call.name == name)


def _as_layers(seen: Trace, chosen: dict[str, str]) -> list[Layer]:
    """Order by execution, drop what is the same tensor, number, and note the other names."""
    kept: dict[str, Call] = {}  # tensor -> the chosen call it is read from
    for call in seen.calls:
        if call.name in chosen and (call.same_as not in kept or chosen[call.name] == OUTPUT):
            kept.pop(call.same_as, None)
            kept[call.same_as] = call
    layers = []
    for index, (tensor, call) in enumerate(sorted(kept.items(), key=lambda item: item[1].order)):
        name = chosen[call.name]
        if name == OUTPUT and call.name != seen.output and seen.output in chosen:
            name = f"{OUTPUT}#0"  # a module of that name whose output is not the network's
        others = [c.name or OUTPUT for c in seen.calls if c.same_as == tensor]
        others += [
            alias for c in seen.calls if c.same_as == tensor for alias in seen.aliases.get(c.module, [])
        ]
        if call.name == seen.output:
            others.append(OUTPUT)
        layers.append(_as_layer(call, name, others, index, len(kept)))
    return layers


def _as_layer(call: Call, name: str, others: list[str], index: int, count: int) -> Layer:
    folded = call.fold > 1
    shape = (call.fold, *call.shape[1:]) if folded else call.shape[1:]
    axis = call.axis if folded or call.axis is None else call.axis - 1
    return Layer(
        name=name,
        call=call.name,
        module=call.module,
        kind=call.kind,
        index=index,
        depth=(index + 1) / count,
        shape=shape,
        channel_axis=axis,
        aliases=tuple(dict.fromkeys(other for other in [call.name, *others] if other and other != name)),
        fold=call.fold,
        batch_inner=call.batch_inner,
        uniform=call.uniform,
        reason=call.reason,
    )
