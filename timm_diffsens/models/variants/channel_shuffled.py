"""Spatial pooling without channel pooling: the input channels of every convolution are permuted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from timm_diffsens.errors import UsageError
from timm_diffsens.registry import Look, register

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import nn


@register(
    "variants",
    "channel-shuffled",
    help="input channels of every convolution permuted",
    look=Look("#D55E00", (7, 4), "square"),
    order=1,
)
@dataclass(frozen=True)
class ChannelShuffled:
    """Copies of `shuffle_channels`.

    Attributes:
        shuffles: copies averaged over. shuffle_linear: permute the inputs of linear layers too.
    """

    shuffles: int = 1
    shuffle_linear: bool = False
    stream = "channel shuffle"
    convolution_modules = True

    def __post_init__(self) -> None:
        if self.shuffles < 1:
            raise UsageError(f"shuffles must be at least 1, got {self.shuffles}")

    @property
    def copies(self) -> int:
        """How many are averaged over."""
        return self.shuffles

    def __call__(
        self, model: nn.Module, generator: torch.Generator | np.random.Generator | None = None
    ) -> nn.Module:
        """A changed copy, see `shuffle_channels`."""
        return shuffle_channels(model, generator, linear=self.shuffle_linear)


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

    Raises:
        UsageError: a weight is computed in each forward in a way that cannot be made permanent.

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
    import torch

    from timm_diffsens.models import weights

    changed = weights.deep_copy(model)
    done: set[int] = set()
    with torch.no_grad():
        for module, filters in weights.filters(changed, linear):
            if id(module.weight) not in done:  # tied weights are shuffled once
                done.add(id(module.weight))
                _shuffle(module, filters, generator)
    return changed


def _shuffle(
    module: nn.Module, filters: torch.Tensor, generator: torch.Generator | np.random.Generator | None
) -> None:
    import torch

    from timm_diffsens.models.weights import is_transposed, permutation

    groups = int(getattr(module, "groups", 1))
    parts = filters.view(len(filters), groups, filters.shape[1] // groups, *filters.shape[2:])
    inputs = 2 if is_transposed(module) else 3
    n = parts.shape[inputs]
    if n > 1:
        shuffled = [
            part.index_select(inputs - 1, permutation(n, generator).to(part.device))
            for part in parts.unbind(1)
        ]
        parts.copy_(torch.stack(shuffled, 1))
    elif groups > 1:
        parts.copy_(parts[:, permutation(groups, generator)])
