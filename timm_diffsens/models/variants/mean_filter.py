"""Every channel of a layer does the same: filters, biases and norms are channel averages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from timm_diffsens.registry import Look, register

if TYPE_CHECKING:
    import torch
    from torch import nn


@register(
    "variants",
    "mean-filter",
    help="filters averaged over their channels",
    look=Look("#AA4499", (12, 5), "diamond"),
    order=3,
)
def mean_filters(model: nn.Module, generator: object = None) -> nn.Module:
    """A copy in which convolution filters, their biases and all of the norms' vectors are channel averages.

    Every channel of a layer then does the same (the assumption behind Section 4 of arXiv 2210.01506). Doing
    it twice changes nothing more.

    Args:
        model: any module; not changed.
        generator: not used; nothing here is random.

    Raises:
        UsageError: a weight is computed in each forward in a way that cannot be made permanent.

    Example:
        >>> import torch
        >>> from timm_diffsens import mean_filters
        >>> net = mean_filters(torch.nn.Conv2d(3, 4, 3))
        >>> bool((net.weight == net.weight[0, 0]).all())
        True
    """
    import torch

    from timm_diffsens.models import weights

    changed = weights.deep_copy(model)
    with torch.no_grad():
        for module, filters in weights.filters(changed):
            filters.copy_(_average(filters, (1, 2)))
            if isinstance(module.bias, torch.Tensor):
                module.bias.copy_(_average(module.bias, (-1,)))
        for module in list(changed.modules()):
            if weights.is_norm(module):
                weights.fix(module)
        for name, module in changed.named_modules():
            if weights.is_norm(module) and "parametrizations" not in name.split("."):
                for values in (*module.parameters(recurse=False), *module.buffers(recurse=False)):
                    if values.is_floating_point() and values.ndim:
                        values.fill_(values.double().mean())
    return changed


mean_filters.convolution_modules = True  # type: ignore[attr-defined]


def _average(values: torch.Tensor, dims: tuple[int, ...]) -> torch.Tensor:
    """The same shape, averaged over `dims`."""
    return values.double().mean(dim=dims, keepdim=True).to(values.dtype).expand_as(values)
