"""What hooks that keep a copy of every output would have seen: the reference for the probe."""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from timm_diffsens import sensitivity


def cloned_outputs(
    model: nn.Module,
    *args: Any,
    take: Callable[[str, torch.Tensor], Any] | None = None,
    copy: Callable[[torch.Tensor], torch.Tensor] = torch.clone,
    **kwargs: Any,
) -> dict[str, Any]:
    """Every floating-point tensor that came out of every module call, copied on the spot, by call name.

    With `take`, what it makes of the copy, at once: the copies of a large network fill the memory. Another
    `copy` than a clone shows what a reference would be worth that keeps none.
    """
    kept: dict[str, Any] = {}
    counts: dict[str, int] = {}

    def flat(value, path=""):
        if isinstance(value, torch.Tensor):
            yield path, value
        elif isinstance(value, dict):
            for key, item in value.items():
                yield from flat(item, f"{path}[{key}]")
        elif isinstance(value, list | tuple):
            for key, item in enumerate(value):
                yield from flat(item, f"{path}[{key}]")

    def keep(name):
        def hook(module, args, output):
            count = counts.get(name, 0)
            counts[name] = count + 1
            call = name if count == 0 else f"{name}#{count}"
            for path, tensor in flat(output):
                if tensor.is_floating_point():
                    copied = copy(tensor.detach())
                    kept[call + path] = copied if take is None else take(call + path, copied)

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in model.named_modules()]
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(*args, **kwargs)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return kept


def truth(layer, copied: torch.Tensor, n: int):
    """D, G and R of a layer from the copy of its output."""
    return sensitivity(*in_parts(layer, copied, n).double())


def in_parts(layer, copied: torch.Tensor, n: int) -> torch.Tensor:
    """(3, n, d): a layer's output on clean, moved and noised images."""
    if layer.batch_inner:
        copied = copied.reshape(layer.fold, 3 * n, *copied.shape[1:]).transpose(0, 1)
    return copied.reshape(3, n, -1)


def compare(results, layers, kept: dict[str, Any], n: int, tolerance: float) -> int:
    """Assert that probe results equal those of the copies; gives the number of layers with values.

    `kept` holds the copies by call, or what `truth` makes of them.
    """
    compared = 0
    by_name = {layer.name: layer for layer in layers}
    for result in results:
        layer = by_name[result.layer]
        if result.reason in ("input-independent", "constant") or layer.reason is not None:
            continue
        expected = kept[layer.call]
        if isinstance(expected, torch.Tensor):
            expected = truth(layer, expected, n)
        for name in ("d", "g", "r"):
            got, true = getattr(result, name), getattr(expected, name)
            if got is not None:
                assert abs(got - true) <= tolerance * abs(true), (result.layer, name, got, true)
                compared += 1
    return compared // 3
