"""Changed copies of a network: channel-shuffled, mean-filter, re-initialised. The original stays as it is."""

import copy
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize

from timm_diffsens import runtime
from timm_diffsens.errors import UsageError

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)


def shuffle_channels(
    model: nn.Module,
    generator: torch.Generator | np.random.Generator | None = None,
    *,
    linear: bool = False,
) -> nn.Module:
    """A copy in which the input channels of every convolution are permuted at random.

    Filters stay as they are, so spatial pooling is kept and channel pooling is broken (the dashed lines of
    Fig. 3 in arXiv 2210.01506). Grouped convolutions are permuted inside their groups; a depthwise one,
    with one channel a group, has its filters permuted among the channels.

    Args:
        model: any module; not changed.
        generator: of the permutations; torch's or numpy's, or None for torch's global stream.
        linear: permute the inputs of linear layers too (for networks without convolutions).

    Example:
        >>> import torch
        >>> from timm_diffsens import shuffle_channels
        >>> net = torch.nn.Conv2d(8, 4, 3)
        >>> other = shuffle_channels(net, torch.Generator().manual_seed(0))
        >>> torch.equal(net.weight.sum(1), other.weight.sum(1)), torch.equal(net.weight, other.weight)
        (False, False)
        >>> torch.allclose(net.weight.sum(1), other.weight.sum(1), atol=1e-6)
        True
    """
    changed = copy.deepcopy(model)
    done: set[int] = set()
    with torch.no_grad():
        for module in _plain(changed, (_ConvNd, nn.Linear) if linear else (_ConvNd,)):
            if id(module.weight) in done:  # tied weights are shuffled once
                continue
            done.add(id(module.weight))
            _shuffle(module, generator)
    return changed


def _shuffle(module: nn.Module, generator: torch.Generator | np.random.Generator | None) -> None:
    weight: torch.Tensor = module.weight  # type: ignore[assignment]
    groups = int(getattr(module, "groups", 1))
    transposed = isinstance(module, _ConvTransposeNd)
    # (groups, outputs, inputs, ...): of a transposed convolution the inputs are dim 0
    parts = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    inputs = 1 if transposed else 2
    if parts.shape[inputs] == 1:
        if groups > 1:
            weight.copy_(parts[_permutation(groups, generator)].reshape(weight.shape))
        return
    shuffled = [
        part.index_select(inputs - 1, _permutation(part.shape[inputs - 1], generator).to(part.device))
        for part in parts
    ]
    weight.copy_(torch.stack(shuffled).reshape(weight.shape))


def mean_filters(model: nn.Module) -> nn.Module:
    """A copy in which convolution filters, their biases and the norms' vectors are channel averages.

    Every channel of a layer then does the same (the assumption behind Section 4 of arXiv 2210.01506). Doing
    it twice changes nothing more.

    Example:
        >>> import torch
        >>> from timm_diffsens import mean_filters
        >>> net = mean_filters(torch.nn.Conv2d(3, 4, 3))
        >>> bool((net.weight == net.weight[0, 0]).all())
        True
    """
    changed = copy.deepcopy(model)
    with torch.no_grad():
        for module in _plain(changed, (_ConvNd,)):
            weight: torch.Tensor = module.weight  # type: ignore[assignment]
            weight.copy_(_average(weight, (0, 1)).expand_as(weight))
            if isinstance(module.bias, torch.Tensor):
                module.bias.fill_(module.bias.double().mean())
        for module in changed.modules():
            if isinstance(module, _NORMS):
                for values in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                    if values.is_floating_point() and values.ndim:
                        values.fill_(values.double().mean())
    return changed


def _average(weight: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    return weight.double().mean(dim=dims, keepdim=True).to(weight.dtype)


def reinitialise(
    model: nn.Module, seed: int = 0, *, factory: Callable[[], nn.Module] | None = None
) -> nn.Module:
    """A network of the same architecture with fresh random weights and norm statistics.

    Made by `factory` if given; else by timm, if the model is timm's; else a copy whose modules are reset
    one by one (`reset_parameters`).

    Args:
        model: not changed.
        seed: of the fresh weights; torch's global stream is left as it was.
        factory: makes the same architecture with random weights.

    Raises:
        UsageError: a parameter belongs to a module that cannot reset itself, and there is no factory.

    Example:
        >>> import torch
        >>> from timm_diffsens import reinitialise
        >>> net = torch.nn.Linear(4, 2)
        >>> a, b = reinitialise(net, seed=1), reinitialise(net, seed=1)
        >>> torch.equal(a.weight, b.weight), torch.equal(a.weight, net.weight)
        (True, False)
    """
    with runtime.seeded(seed):
        fresh = factory() if factory is not None else _from_timm(model)
        if fresh is None:
            fresh = _reset(copy.deepcopy(model))
    like = next(iter(model.parameters()), None)
    if like is not None:
        fresh = fresh.to(device=like.device, dtype=like.dtype)
    return fresh.train(model.training)


def _from_timm(model: nn.Module) -> nn.Module | None:
    """timm's own fresh copy, if what it makes has the same parameters."""
    config = getattr(model, "pretrained_cfg", None)
    name = config.get("architecture") if isinstance(config, dict) else None
    if not name:
        return None
    runtime.prepare()
    import timm

    options = {
        "num_classes": getattr(model, "num_classes", None),
        "in_chans": getattr(model, "in_chans", None),
    }
    if not timm.is_model(name):
        return None
    fresh: nn.Module = timm.create_model(
        name, pretrained=False, **{k: v for k, v in options.items() if v is not None}
    )
    same = {n: p.shape for n, p in fresh.state_dict().items()} == {
        n: p.shape for n, p in model.state_dict().items()
    }
    return fresh if same and type(fresh) is type(model) else None


def _reset(model: nn.Module) -> nn.Module:
    left = [
        f"{name}.{parameter}" if name else parameter
        for name, module in model.named_modules()
        if not callable(getattr(module, "reset_parameters", None))
        for parameter, _ in module.named_parameters(recurse=False)
    ]
    if left:
        raise UsageError(
            f"{type(model).__name__} cannot be re-initialised: {', '.join(left[:3])} belong to modules "
            "without reset_parameters; pass factory=, a function that makes the architecture afresh"
        )
    for module in model.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    return model


def _plain(model: nn.Module, kinds: tuple[type[nn.Module], ...]) -> Iterator[nn.Module]:
    """Modules of these kinds with their weight as a plain parameter: parametrisations are made permanent."""
    for module in list(model.modules()):
        if not isinstance(module, kinds):
            continue
        if parametrize.is_parametrized(module):
            for name in list(module.parametrizations):  # type: ignore[arg-type]
                parametrize.remove_parametrizations(module, name, leave_parametrized=True)
        yield module


def _permutation(n: int, generator: torch.Generator | np.random.Generator | None) -> torch.Tensor:
    if isinstance(generator, np.random.Generator):
        return torch.from_numpy(generator.permutation(n))
    return torch.randperm(n, generator=generator)
