"""What the probe sees of an architecture, without its numbers: on the meta device, at any size.

Every output of every call that calls no other module is accounted for: a layer (measured, or null with a
reason), another name of a layer, part of a norm fused with its activation, or no tensor at all. What is left
over is `dropped`, and has to be zero.
"""

from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import nn

from timm_diffsens import registry
from timm_diffsens.device import allocator
from timm_diffsens.errors import MeasurementError
from timm_diffsens.models.architectures import Architecture, find_architecture
from timm_diffsens.models.containers import tensors
from timm_diffsens.models.inputs import timm_input
from timm_diffsens.models.layers import Layer, select_layers, trace_images
from timm_diffsens.models.trace import Call, Trace, call_name
from timm_diffsens.sweep.outcomes import tally

# What becomes of an output of a call that calls no other module; `dropped`: it is not accounted for.
FATES = ("layer", "same tensor", "part of a fused norm", "computes a weight", "no tensor", "dropped")
_IMAGES = 3
_SELECTIONS = ("blocks", "stages", "convs")


def structure(spec: str) -> dict[str, Any]:
    """One row: how many calls a forward makes, what became of each, channel axes, and the selections' sizes.

    Raises:
        UsageError: unknown spec. MeasurementError: the size of its input is not known.
    """
    allocator.prepare()
    source = find_architecture(spec)
    module = on_meta(source)
    shown = timm_input(module) or source.input
    if shown is None:
        raise MeasurementError(f"the input size of {spec} is not known")
    images = torch.empty(_IMAGES, shown.channels, shown.height, shown.width, device="meta")
    with registry.beside(source.home), _leaf_calls(module) as leaves:
        seen = trace_images(module, images)
    layers = select_layers(seen, "all")
    fates = Counter(_fates(seen, layers, leaves))
    unmeasured = {layer.name: layer.reason for layer in layers if layer.reason is not None}
    return {
        "model": spec,
        "library": source.library,
        "file": type(module).__module__.rpartition(".")[2],
        "parameters": sum(p.numel() for p in module.parameters()),
        "input": "x".join(map(str, (shown.channels, shown.height, shown.width))),
        "output": "x".join(map(str, layers[-1].shape)),
        "leaf outputs": fates.total(),
        **{fate: fates[fate] for fate in FATES},
        "layers": len(layers),
        "without values": tally(reason for reason in unmeasured.values() if reason),
        "channel axis known": sum(layer.channel_axis is not None for layer in layers),
        "not called": len(seen.not_called),
        **{name: len(select_layers(seen, name)) for name in _SELECTIONS},
        "names": {"without values": unmeasured, "not called": seen.not_called},
    }


def count_parameters(spec: str) -> int:
    """Number of parameters of an architecture."""
    return sum(p.numel() for p in on_meta(find_architecture(spec)).parameters())


def on_meta(source: Architecture) -> nn.Module:
    """An architecture without memory for its weights.

    A few compute their widths from tensors, which have no values there: those are built as usual, and
    their weights are freed.
    """
    try:
        with torch.device("meta"):
            return source.build()
    except (NotImplementedError, RuntimeError):
        return source.build().to("meta")


def _fates(seen: Trace, layers: list[Layer], leaves: dict[str, int]) -> Iterator[str]:
    """What became of every output of every leaf call, one of `FATES` each."""
    outputs: dict[str, list[Call]] = {}
    for call in seen.calls:
        outputs.setdefault(call.name.partition("[")[0], []).append(call)
    shown = {name for layer in layers for name in (layer.call, layer.name, *layer.aliases)}
    read = {layer.call for layer in layers}
    fused = {call.name for call in seen.calls if call.leaf}
    for leaf, count in leaves.items():
        found = outputs.get(leaf, [])
        computes_weight = "parametrizations" in leaf.split(".")  # torch.nn.utils.parametrize: not a layer
        if not count:
            yield "no tensor" if leaf in seen.begun or computes_weight else "dropped"
        for call in found[:count]:
            if call.name in read:
                yield "layer"
            elif call.name in shown:
                yield "same tensor"
            else:
                yield "part of a fused norm" if fused.intersection(call.enclosing) else "dropped"
        yield from ["computes a weight" if computes_weight else "dropped"] * (count - len(found))


@contextmanager
def _leaf_calls(model: nn.Module) -> Iterator[dict[str, int]]:
    """Counted anew, beside the trace: calls that call no module -> how many tensors they return."""
    leaves: dict[str, int] = {}
    counts: Counter[str] = Counter()
    within: list[bool] = []  # of the open calls: whether they have called a module

    def before(module: nn.Module, args: Any) -> None:
        if not within:
            counts.clear()  # another forward
        within[-1:] = [True] * len(within[-1:])
        within.append(False)

    def after(name: str, module: nn.Module, args: Any, output: Any) -> None:
        call = call_name(name, counts[name])
        counts[name] += 1
        if not within.pop():
            leaves[call] = len(tensors(output))

    with ExitStack() as stack:
        for name, module in model.named_modules():
            stack.callback(module.register_forward_pre_hook(before).remove)
            stack.callback(module.register_forward_hook(partial(after, name)).remove)
        yield leaves
