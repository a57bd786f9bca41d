"""The simple CNN of arXiv 2210.01506, Section 4, in the mean-field parametrisation."""

import math
from collections import OrderedDict

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd

from timm_diffsens.errors import UsageError


class _MeanFieldConv(_ConvNd):
    """What the convolutions of one and two dimensions share.

    The scale stands in the forward, not in the initial weights. Both give the same function at the start, but
    the gradient of a weight carries the scale only if the forward does, and so the first step of SGD, or of
    weight decay, would lead to another function. Mean-field scaling is about that step.
    """

    scales_weight = True  # what is applied is the weight times a number that does not depend on it

    def reset_parameters(self) -> None:
        """Weights N(0, 1), biases 0."""
        nn.init.normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, inputs, ...) -> (n, outputs, ...): as large at stride 1, else `filter` times smaller."""
        if self.stride[0] == 1:
            sides = [side for size in self.kernel_size for side in (size // 2, (size - 1) // 2)]
            x = functional.pad(x, sides, mode="circular")
        # the scaled weight is what is applied, and so what hooks on the convolution see
        scaled = self.weight / math.sqrt(self.weight[0].numel())
        return self._conv_forward(x, scaled, self.bias)


class MeanFieldConv1d(_MeanFieldConv, nn.Conv1d):
    """A convolution of sequences whose weight is applied divided by sqrt(fan_in), with fan_in = F inputs.

    At stride 1 the sequence is a ring. The filter sits on its output's place; one of even length F has F / 2
    weights to the left of it and F / 2 - 1 to the right (App. A). At stride F the patches do not overlap.

    Args:
        inputs, outputs: channels. filter: F. stride: 1 or F.
    """

    def __init__(self, inputs: int, outputs: int, filter: int, stride: int = 1, bias: bool = False) -> None:
        nn.Conv1d.__init__(self, inputs, outputs, filter, stride, bias=bias)


class MeanFieldConv2d(_MeanFieldConv, nn.Conv2d):
    """The same for images: fan_in = F^2 inputs, and a torus."""

    def __init__(self, inputs: int, outputs: int, filter: int, stride: int = 1, bias: bool = False) -> None:
        nn.Conv2d.__init__(self, inputs, outputs, filter, stride, bias=bias)


class MeanFieldLinear(nn.Linear):
    """A read-out whose weight is applied divided by the number of inputs, with weights N(0, 1)."""

    scales_weight = True

    def reset_parameters(self) -> None:
        """Weights N(0, 1), biases 0."""
        nn.init.normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, inputs) -> (n, outputs)."""
        return functional.linear(x, self.weight / self.in_features, self.bias)


class GlobalAverage(nn.Module):
    """(n, c, ...) -> (n, c): the average over all places."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Average over all axes after the second."""
        return x.mean(dim=tuple(range(2, x.ndim)))


class SimpleCNN(nn.Sequential):
    """K equal convolutions with ReLU, the average over all places, a linear read-out.

    f_k = ReLU(w_k * f_(k-1) / sqrt(F^dims H_(k-1))), out = beta . <f_K> / H, with w and beta drawn from
    N(0, 1): the mean-field scaling, in which features are learned at any width H (Section 4 and App. B.2 of
    arXiv 2210.01506). Gradients are 1 / H of those of a standard network, so its learning rate is multiplied
    by H (`lr_scale`).

    Layers are `conv1`, `relu1`, ..., `average`, `readout`.

    Args:
        channels, classes: of the input and the output.
        side: of the image, or its length if `dims` is 1; only stride F asks for it.
        dims: 1 or 2 spatial dimensions.
        width: H, 1,000 in the paper. depth: K, in the paper 12 at stride 1 and 7 at stride F.
        filter: F. stride: 1, with circular padding, or F, without.
        bias: in the convolutions; the paper's solution has none.

    Raises:
        UsageError: a stride that is neither 1 nor F; at stride F, a side that F^depth does not divide.

    Example:
        >>> import torch
        >>> from timm_diffsens.models.nets.simple import SimpleCNN
        >>> net = SimpleCNN(channels=1, classes=1, side=128, dims=1, depth=7, filter=2, stride=2)
        >>> net(torch.ones(4, 1, 128)).shape
        torch.Size([4, 1])
    """

    def __init__(
        self,
        *,
        channels: int = 3,
        classes: int = 10,
        side: int = 32,
        dims: int = 2,
        width: int = 128,
        depth: int = 12,
        filter: int = 3,
        stride: int = 1,
        bias: bool = False,
    ) -> None:
        if dims not in (1, 2):
            raise UsageError(f"the simple CNN has 1 or 2 dimensions, not {dims}")
        _check_stride(side, depth, filter, stride)
        conv = MeanFieldConv1d if dims == 1 else MeanFieldConv2d
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for k in range(1, depth + 1):
            layers[f"conv{k}"] = conv(channels if k == 1 else width, width, filter, stride, bias)
            layers[f"relu{k}"] = nn.ReLU()
        layers["average"] = GlobalAverage()
        layers["readout"] = MeanFieldLinear(width, classes, bias=False)
        super().__init__(layers)
        self.lr_scale = float(width)


def _check_stride(side: int, depth: int, filter: int, stride: int) -> None:
    if stride not in (1, filter):
        raise UsageError(f"the simple CNN has stride 1 or that of its filter ({filter}), not {stride}")
    if stride == 1 and filter > side:
        raise UsageError(f"a filter of {filter} does not fit on a side of {side}")
    if stride > 1 and side % filter**depth:
        fitting = next(k for k in range(depth, -1, -1) if side % filter**k == 0)
        raise UsageError(
            f"at stride {stride} every layer divides the side by {filter}: {side} can be divided {fitting} "
            f"times, not depth={depth} times"
        )
