"""What hooks that keep a copy of every output would have seen: the reference for the probe."""

import torch
from torch import nn

from timm_diffsens import sensitivity


def cloned_outputs(model: nn.Module, batch: torch.Tensor) -> dict[str, torch.Tensor]:
    """Every floating-point tensor that came out of every module call, copied on the spot, by call name."""
    kept: dict[str, torch.Tensor] = {}
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
                    kept[call + path] = tensor.detach().clone()

        return hook

    handles = [module.register_forward_hook(keep(name)) for name, module in model.named_modules()]
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(batch)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    return kept


def compare(results, layers, kept: dict[str, torch.Tensor], n: int, tolerance: float) -> int:
    """Assert that probe results equal those of the copies; gives the number of layers with values."""
    compared = 0
    by_name = {layer.name: layer for layer in layers}
    for result in results:
        layer = by_name[result.layer]
        if result.reason in ("input-independent", "constant") or layer.reason is not None:
            continue
        copied = kept[layer.call]
        if layer.batch_inner:
            copied = copied.reshape(layer.fold, 3 * n, *copied.shape[1:]).transpose(0, 1)
        parts = copied.double().reshape(3, n, -1)
        expected = sensitivity(*parts)
        for name in ("d", "g", "r"):
            got, truth = getattr(result, name), getattr(expected, name)
            if got is not None:
                assert abs(got - truth) <= tolerance * abs(truth), (result.layer, name, got, truth)
                compared += 1
    return compared // 3
