"""The network as it was before training: the same architecture with fresh random weights."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from timm_diffsens.errors import UsageError
from timm_diffsens.registry import Look, register

if TYPE_CHECKING:
    import numpy as np
    from torch import nn


@register("variants", "init", help="fresh random weights", look=Look("#555555", (2, 3), "cross"), order=4)
@dataclass(frozen=True)
class Reinitialised:
    """Copies of `reinitialise`, in evaluation mode.

    Attributes:
        init_samples: initialisations averaged over.
    """

    init_samples: int = 1
    spectra = True
    fresh = True

    def __post_init__(self) -> None:
        if self.init_samples < 1:
            raise UsageError(f"init_samples must be at least 1, got {self.init_samples}")

    @property
    def copies(self) -> int:
        """How many are averaged over."""
        return self.init_samples

    def __call__(
        self,
        model: nn.Module,
        generator: np.random.Generator,
        factory: Callable[[], nn.Module] | None = None,
    ) -> nn.Module:
        """A network with fresh random weights, see `reinitialise`; its seed is drawn from the stream."""
        fresh = reinitialise(model, int(generator.integers(2**63)), factory=factory)
        fresh.eval()
        return fresh


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
    from timm_diffsens.device import seeding
    from timm_diffsens.models.weights import deep_copy, is_lazy

    with seeding.seeded(seed):
        if factory is None:
            changed = _from_timm(model)
            return _reset(deep_copy(model)) if changed is None else changed
        fresh = factory()
        if is_lazy(fresh) and not is_lazy(model):  # a forward has given the model's own layers their sizes
            return _reset(deep_copy(model))
    like = next(iter(model.parameters()), None)
    if like is not None:
        fresh = fresh.to(device=like.device, dtype=like.dtype)
    fresh.train(model.training)
    return fresh


def _from_timm(model: nn.Module) -> nn.Module | None:
    """A copy with the weights of a fresh model of timm's, if that has the same parameters.

    A copy, because arguments that the model was made with (activation, pooling, stride) leave no trace in its
    configuration.
    """
    from timm_diffsens.device import allocator
    from timm_diffsens.models.weights import deep_copy

    config = getattr(model, "pretrained_cfg", None)
    name = config.get("architecture") if isinstance(config, dict) else None
    if not name:
        return None
    allocator.prepare()
    import timm

    if not timm.is_model(name):
        return None
    given = {option: getattr(model, option, None) for option in ("num_classes", "in_chans")}
    fresh: nn.Module = timm.create_model(name, pretrained=False, **given)
    state = fresh.state_dict()
    same = {n: p.shape for n, p in state.items()} == {n: p.shape for n, p in model.state_dict().items()}
    if not same or type(fresh) is not type(model):
        return None
    changed = deep_copy(model)
    changed.load_state_dict(state)
    return changed


def _reset(model: nn.Module) -> nn.Module:
    """Reset every module, inner ones first, as their initialisers ran; parameters left over are an error."""
    import torch

    resets = {name: _resetter(module) for name, module in model.named_modules()}
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(math.nan)
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
