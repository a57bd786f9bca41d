"""The weights of a network's layers, and copies of a network in which they may be changed."""

import copy
import re
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import is_lazy as is_uninitialized
from torch.nn.utils import parametrize, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm

from timm_diffsens.errors import UsageError

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)
# Norms of other libraries go by their class names.
NORM_CLASS = re.compile(r"norm|^frn|filterresponse|abn", re.IGNORECASE)


def deep_copy(model: nn.Module) -> nn.Module:
    """A deep copy; weights that a hook computes (`torch.nn.utils.weight_norm`) are copied as values."""
    computed = {
        id(value): value.detach().clone()
        for module in model.modules()
        for value in vars(module).values()
        if isinstance(value, torch.Tensor) and not value.is_leaf
    }
    return copy.deepcopy(model, computed)


def filters(model: nn.Module, linear: bool = False) -> Iterator[tuple[nn.Module, torch.Tensor]]:
    """Convolutions (and linear layers) with their weights as views (experts, dim 0, dim 1, ...).

    There is one expert but in a conditional convolution (timm's CondConv2d). What computes a weight
    (parametrisations, weight and spectral norm) is replaced by the value it has in evaluation.
    """
    for module in list(model.modules()):
        conditional = type(module).__name__ == "CondConv2d"
        if not (isinstance(module, (_ConvNd, nn.Linear) if linear else _ConvNd) or conditional):
            continue
        if parametrize.is_parametrized(module):
            _fix_parametrized(module)
        for hook in list(module._forward_pre_hooks.values()):  # the older way
            if isinstance(hook, WeightNorm):
                remove_weight_norm(module, hook.name)
            elif isinstance(hook, SpectralNorm):
                remove_spectral_norm(module, hook.name)
        weight: torch.Tensor = module.weight  # type: ignore[assignment]
        yield module, weight.view(-1, *(module.weight_shape if conditional else weight.shape))  # type: ignore[misc]


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


def is_lazy(model: nn.Module) -> bool:
    """Whether some parameters have no shape before a first forward (`torch.nn.LazyConv2d`, ...)."""
    return any(is_uninitialized(p) for p in (*model.parameters(), *model.buffers()))


def refuse_meta(model: nn.Module) -> None:
    """Check that a network has numbers.

    Raises:
        UsageError: a parameter or buffer is on the meta device.
    """
    for name, values in (*model.named_parameters(), *model.named_buffers()):
        if values.is_meta:
            raise UsageError(
                f"{name} is on the meta device, it has a shape but no numbers; load weights, or use "
                "to_empty(device=...) and initialise them"
            )


def is_transposed(module: nn.Module) -> bool:
    """Whether it is a transposed convolution, whose weight has its inputs before its outputs."""
    return isinstance(module, _ConvTransposeNd)


def is_norm(module: nn.Module) -> bool:
    """Whether it is a normalisation, of torch or of another library."""
    return isinstance(module, _NORMS) or bool(NORM_CLASS.search(type(module).__name__))


def permutation(n: int, generator: torch.Generator | np.random.Generator | None) -> torch.Tensor:
    """A random permutation of 0 ... n - 1; from torch's global stream where there is no generator."""
    if isinstance(generator, np.random.Generator):
        return torch.from_numpy(generator.permutation(n))
    return torch.randperm(n, generator=generator, device=generator.device if generator else None)
