"""Changed copies of a network: channel-shuffled, mean-filter, re-initialised. The original stays as it is."""

import copy
import re
from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from timm_diffsens.device import allocator, seeding
from timm_diffsens.errors import UsageError

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)
# Norms of other libraries go by their class names.
NORM_CLASS = re.compile(r"norm|^frn|filterresponse|abn", re.IGNORECASE)


def shuffle_channels(
    model: nn.Module,
    generator: torch.Generator | np.random.Generator | None = None,
    *,
    linear: bool = False,
) -> nn.Module:
    """A copy in which the input channels of every convolution are permuted at random.

    Filters stay as they are, so spatial pooling is kept and channel pooling is broken (the dashed lines of
    Fig. 3 in arXiv 2210.01506). Grouped convolutions are permuted inside their groups; a depthwise one,
    with one channel a group, has its filters permuted among the channels. The experts of a conditional
    convolution (timm's CondConv2d) get one permutation, so that of their mixture stays what it is.

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
    changed = _copy(model)
    done: set[int] = set()
    with torch.no_grad():
        for module in _plain(changed, linear):
            if id(module.weight) in done:  # tied weights are shuffled once
                continue
            done.add(id(module.weight))
            _shuffle(module, generator)
    return changed


def _shuffle(module: nn.Module, generator: torch.Generator | np.random.Generator | None) -> None:
    weight: torch.Tensor = module.weight  # type: ignore[assignment]
    groups = int(getattr(module, "groups", 1))
    transposed = isinstance(module, _ConvTransposeNd)
    # (experts, groups, outputs, inputs, ...): a transposed convolution has its inputs before its outputs
    filters = _filters(module)
    parts = filters.reshape(len(filters), groups, filters.shape[1] // groups, *filters.shape[2:])
    inputs = 2 if transposed else 3
    if parts.shape[inputs] > 1:
        shuffled = [
            part.index_select(inputs - 1, _permutation(part.shape[inputs - 1], generator).to(part.device))
            for part in parts.unbind(1)
        ]
        weight.copy_(torch.stack(shuffled, 1).reshape(weight.shape))
    elif groups > 1:
        weight.copy_(parts[:, _permutation(groups, generator)].reshape(weight.shape))


def _filters(module: nn.Module) -> torch.Tensor:
    """The weight as (experts, dim 0, dim 1, ...), with one expert but for a conditional convolution."""
    weight: torch.Tensor = module.weight  # type: ignore[assignment]
    shape = module.weight_shape if _is_conditional(module) else weight.shape
    return weight.reshape(-1, *shape)  # type: ignore[misc]


def _is_conditional(module: nn.Module) -> bool:
    return type(module).__name__ == "CondConv2d"


def mean_filters(model: nn.Module) -> nn.Module:
    """A copy in which convolution filters, their biases and all of the norms' vectors are channel averages.

    Every channel of a layer then does the same (the assumption behind Section 4 of arXiv 2210.01506). Doing
    it twice changes nothing more.

    Example:
        >>> import torch
        >>> from timm_diffsens import mean_filters
        >>> net = mean_filters(torch.nn.Conv2d(3, 4, 3))
        >>> bool((net.weight == net.weight[0, 0]).all())
        True
    """
    changed = _copy(model)
    with torch.no_grad():
        for module in _plain(changed):
            weight: torch.Tensor = module.weight  # type: ignore[assignment]
            filters = _filters(module)
            weight.copy_(_average(filters, (1, 2)).reshape(weight.shape))
            if isinstance(module.bias, torch.Tensor):
                module.bias.copy_(_average(module.bias, (-1,)))
        for name, module in changed.named_modules():
            if _is_norm(module) and "parametrizations" not in name.split("."):
                for values in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                    if values.is_floating_point() and values.ndim:
                        values.fill_(values.double().mean())
    return changed


def _average(values: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    """The same shape, averaged over `dims`."""
    return values.double().mean(dim=dims, keepdim=True).to(values.dtype).expand_as(values)


def _is_norm(module: nn.Module) -> bool:
    return isinstance(module, _NORMS) or bool(NORM_CLASS.search(type(module).__name__))


def reinitialise(
    model: nn.Module, seed: int = 0, *, factory: Callable[[], nn.Module] | None = None
) -> nn.Module:
    """A network of the same architecture with fresh random weights and norm statistics.

    Made by `factory` if given; else a copy with weights that timm initialised, if the model is timm's; else a
    copy whose modules are reset one by one (`reset_parameters`).

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
    with seeding.seeded(seed):
        if factory is None:
            changed = _from_timm(model)
            return _reset(_copy(model)) if changed is None else changed
        fresh = factory()
    like = next(iter(model.parameters()), None)
    if like is not None:
        fresh = fresh.to(device=like.device, dtype=like.dtype)
    return fresh.train(model.training)


def _from_timm(model: nn.Module) -> nn.Module | None:
    """A copy with the weights of a fresh model of timm's, if that has the same parameters.

    A copy, because arguments that the model was made with (activation, pooling, stride) leave no trace in its
    configuration.
    """
    config = getattr(model, "pretrained_cfg", None)
    name = config.get("architecture") if isinstance(config, dict) else None
    if not name:
        return None
    allocator.prepare()
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
    state = fresh.state_dict()
    same = {n: p.shape for n, p in state.items()} == {n: p.shape for n, p in model.state_dict().items()}
    if not same or type(fresh) is not type(model):
        return None
    changed = _copy(model)
    changed.load_state_dict(state)
    return changed


def _reset(model: nn.Module) -> nn.Module:
    """Reset every module, inner ones first, as their initialisers ran; parameters left over are an error."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(torch.nan)
    resets = {name: _resetter(module) for name, module in model.named_modules()}
    for reset in reversed(resets.values()):
        if reset is not None:
            reset()
    left = [
        name
        for name, p in model.named_parameters()
        if resets[name.rpartition(".")[0]] is None or bool(p.isnan().any())
    ]
    if left:
        raise UsageError(
            f"{type(model).__name__} cannot be re-initialised: {', '.join(left[:3])} belong to modules whose "
            "reset_parameters is missing or leaves them as they are; "
            "pass factory=, a function that makes the architecture afresh"
        )
    return model


def _resetter(module: nn.Module) -> Callable[[], object] | None:
    """The module's own initialiser (torch's attention and transformers have a private one)."""
    found = getattr(module, "reset_parameters", None) or getattr(module, "_reset_parameters", None)
    return found if callable(found) else None


def _copy(model: nn.Module) -> nn.Module:
    """A deep copy; weights that a hook computes (`torch.nn.utils.weight_norm`) are copied as values."""
    computed = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, torch.Tensor) and not value.is_leaf
    }
    return copy.deepcopy(model, computed)


def _plain(model: nn.Module, linear: bool = False) -> Iterator[nn.Module]:
    """Convolutions (and linear layers), with what computes their weight made permanent."""
    for module in list(model.modules()):
        if not (isinstance(module, (_ConvNd, nn.Linear) if linear else _ConvNd) or _is_conditional(module)):
            continue
        if parametrize.is_parametrized(module):
            _fix_parametrized(module)
        for hook in list(module._forward_pre_hooks.values()):  # the older way
            if isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)
        yield module


def _fix_parametrized(module: nn.Module) -> None:
    """Keep the values that parametrisations give in evaluation.

    Not by `parametrize.remove_parametrizations`: a copy shares its class with the original, which would lose
    its weight with it.
    """
    computed: nn.ModuleDict = module.parametrizations.eval()  # type: ignore[assignment,union-attr]
    values = {name: getattr(module, name).detach().clone() for name in computed}
    module.__class__ = parametrize.type_before_parametrizations(module)
    del module.parametrizations
    for name, value in values.items():
        module.register_parameter(name, nn.Parameter(value))


def _permutation(n: int, generator: torch.Generator | np.random.Generator | None) -> torch.Tensor:
    if isinstance(generator, np.random.Generator):
        return torch.from_numpy(generator.permutation(n))
    return torch.randperm(n, generator=generator, device=generator.device if generator else None)
