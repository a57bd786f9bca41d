"""The weights of a network's layers, and copies of a network in which they may be changed."""

import copy
import re
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd
from torch.nn.parameter import is_lazy as is_uninitialized
from torch.nn.utils import parametrize, prune, remove_spectral_norm, remove_weight_norm
from torch.nn.utils.spectral_norm import SpectralNorm
from torch.nn.utils.weight_norm import WeightNorm
from torch.overrides import TorchFunctionMode

from timm_diffsens.device.evaluation import evaluating
from timm_diffsens.errors import MeasurementError, UsageError, listed, warn

_NORMS = (_NormBase, nn.GroupNorm, nn.LayerNorm)
_LAYER_FUNCTION = re.compile(r"conv(_transpose)?[123]d|linear")
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

    There is one expert but in a conditional convolution (timm's CondConv2d). What computes a weight (masks
    of pruning, parametrisations, weight and spectral norm, timm's weight standardisation) is replaced by the
    value it has in evaluation. Modules that may compute their weight in yet another way (classes of others,
    hooks) are run by themselves once what is done to the weight is done, to see that it is applied.

    Raises:
        UsageError: a weight is computed in another way, which would undo what is done to it.
    """
    for name, module in list(model.named_modules()):
        if not (is_convolution(module) or (linear and isinstance(module, nn.Linear))):
            continue
        fix(module)
        weight = module.weight
        if not isinstance(weight, nn.Parameter) or "weight" not in module._parameters:
            raise _computed(name or type(module).__name__, "is no parameter but computed in a forward")
        shape: Any = module.weight_shape if _is_conditional(module) else weight.shape
        yield module, weight.view(-1, *shape)
        if not _is_known(module):
            _check_applied(name or type(module).__name__, module)


def _computed(name: str, how: str) -> UsageError:
    return UsageError(
        f"the weight of {name} {how}, so that a change of it would be undone; make it permanent first"
    )


def _is_known(module: nn.Module) -> bool:
    """Whether it applies its weight as it is, by its class; code of others may do anything."""
    known = type(module).__module__.startswith(("torch.nn.modules.", "timm.layers.")) or _scales(module)
    return known and not module._forward_pre_hooks and "forward" not in vars(module)


def _check_applied(name: str, module: nn.Module) -> None:
    """Check that a module run by itself applies its weight, no other that is made of it or in its place."""
    weight: torch.Tensor = module.weight  # type: ignore[assignment]
    given, applied = weight.detach().clone(), _applied_alone(module)
    if not applied:
        warn(
            f"{name} ({type(module).__name__}) cannot be run by itself, or applies its weight by a function "
            "of its own: whether its weight is applied as it was changed is not known"
        )
    if not all(_is_same(weight, given) for weight in applied):
        raise _computed(name, "is not applied as it is: a hook or the forward computes another")


def _applied_alone(module: nn.Module) -> list[torch.Tensor]:
    """The weights that a module applies to zeros, but those of its parts; none if it cannot be run so."""
    weight: torch.Tensor = module.weight  # type: ignore[assignment]
    shape = [weight.shape[-1]]
    if isinstance(module, _ConvNd):
        extents = [(k - 1) * d + 1 for k, d in zip(module.kernel_size, module.dilation, strict=True)]
        shape = [module.in_channels, *extents]
    seen, fork = _Applied(), torch.random.fork_rng([weight.device] if weight.is_cuda else [])
    after = module._forward_hooks.copy()
    module._forward_hooks.clear()  # those that look at outputs have nothing to see here
    try:
        with fork, torch.no_grad(), evaluating(module), seen:
            module(weight.new_zeros(1, *shape))
    except Exception:  # code of others, given what it may not expect
        return []
    finally:
        module._forward_hooks.update(after)
    of_parts = {id(p) for part in module.children() for p in part.parameters()}
    return [weight for weight in seen.weights if id(weight) not in of_parts]


class _Applied(TorchFunctionMode):
    """While open, keeps the weights of all convolutions and linear functions."""

    def __init__(self) -> None:
        super().__init__()
        self.weights: list[torch.Tensor] = []

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if _LAYER_FUNCTION.fullmatch(getattr(func, "__name__", "")):
            weight = kwargs.get("weight", args[1] if len(args) > 1 else None)
            if isinstance(weight, torch.Tensor):
                self.weights.append(weight)
        return func(*args, **kwargs)


def _is_same(applied: torch.Tensor, given: torch.Tensor) -> bool:
    """Whether the numbers are those given, in whatever shape and precision they are applied."""
    if applied.numel() != given.numel():
        return False
    applied, given = applied.reshape(given.shape), given.to(applied.device, applied.dtype)
    return torch.equal(applied, given) or torch.allclose(applied, given, rtol=0, atol=0, equal_nan=True)


def copied_weights(modules: Mapping[str, nn.Module]) -> dict[str, torch.Tensor]:
    """The weights of convolutions by name, as they are now, in main memory."""
    return {
        name: module.weight.detach().to("cpu", copy=True)
        for name, module in modules.items()
        if isinstance(module, _ConvNd) and not _scales(module)
    }


def _scales(module: nn.Module) -> bool:
    """Whether it applies its weight times a constant, which shuffles and averages go through."""
    return bool(getattr(type(module), "scales_weight", False))


def check_applied(given: Mapping[str, torch.Tensor], applied: Mapping[str, torch.Tensor]) -> None:
    """Check that a forward of a whole network applied the weights that it was given.

    Args:
        given: module -> its weight, see `copied_weights`, from before the forward.
        applied: call of a module (`conv`, `conv#1`) -> the weight that it applied.

    Raises:
        MeasurementError: some are others; they are named.
    """
    called = [(call.partition("#")[0], weight.cpu()) for call, weight in applied.items()]
    wrong = [name for name, weight in called if name in given and not _is_same(weight, given[name])]
    if wrong:
        raise MeasurementError(
            f"the weight of {listed(dict.fromkeys(wrong))} is computed in a forward of the network, which "
            "undid what was done to it; make it permanent first"
        )


def fix(module: nn.Module) -> None:
    """Make permanent the values of a module's weights that are computed in each forward."""
    if parametrize.is_parametrized(module):
        _fix_parametrized(module)
    for hook in list(module._forward_pre_hooks.values()):  # the older way
        if isinstance(hook, WeightNorm):
            remove_weight_norm(module, hook.name)
        elif isinstance(hook, SpectralNorm):
            remove_spectral_norm(module, hook.name)
        elif isinstance(hook, prune.BasePruningMethod):
            prune.remove(module, hook._tensor_name)  # type: ignore[no-untyped-call]
    kind = type(module)
    if "StdConv" in kind.__name__ and kind.__module__.startswith("timm."):
        _fix_standardised(module)


def _fix_standardised(module: nn.Module) -> None:
    """A weight-standardised convolution of timm's as a plain one with the weight that it applies."""
    from timm.layers import Conv2dSame

    assert isinstance(module, nn.Conv2d)
    applied = _applied_alone(module)
    if not applied:
        raise _computed(type(module).__name__, "is computed in a forward, and it cannot be run by itself")
    module.weight = nn.Parameter(applied[0].clone())
    same = type(module).__name__.endswith("Same") and bool(getattr(module, "same_pad", True))
    module.__class__ = Conv2dSame if same else nn.Conv2d


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


def is_convolution(module: nn.Module) -> bool:
    """Whether it is a convolution module, of torch or conditional (timm's CondConv2d)."""
    return isinstance(module, _ConvNd) or _is_conditional(module)


def _is_conditional(module: nn.Module) -> bool:
    return type(module).__name__ == "CondConv2d"


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
