"""The simple CNN of arXiv 2210.01506, Section 4, in the mean-field parametrisation."""

import math
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd

from timm_diffsens.errors import UsageError, unknown
from timm_diffsens.models.arguments import BIASES, check_biases


@dataclass(frozen=True)
class Initial:
    """How the weights of a layer start.

    Attributes:
        mean: of what a channel makes of inputs that are 1 everywhere: weights have the mean
            mean / sqrt(fan_in), so that at any width 1 keeps the size of a constant image.
        std: standard deviation of the weights. bias_mean, bias_std: mean and deviation of the biases.
    """

    mean: float = 0.0
    std: float = 1.0
    bias_mean: float = 0.0
    bias_std: float = 0.0


class _MeanFieldConv(_ConvNd):
    """What the convolutions of one and two dimensions share.

    The scale stands in the forward, not in the initial weights. Both give the same function at the start, but
    the gradient of a weight carries the scale only if the forward does, and so the first step of SGD, or of
    weight decay, would lead to another function. Mean-field scaling is about that step.
    """

    scales_weight = True  # what is applied is the weight times a number that does not depend on it

    def __init__(
        self,
        inputs: int,
        outputs: int,
        filter: int,
        stride: int = 1,
        bias: bool = False,
        initial: Initial = Initial(),
        gain: float = 1.0,
    ) -> None:
        self.initial, self.gain = initial, gain  # before torch asks for weights
        super().__init__(inputs, outputs, filter, stride, bias=bias)  # type: ignore[call-arg, arg-type]

    def reset_parameters(self) -> None:
        """Fresh weights and biases, as `initial` says."""
        start = self.initial
        nn.init.normal_(self.weight, start.mean / math.sqrt(self.weight[0].numel()), start.std)
        if self.bias is not None:
            nn.init.normal_(self.bias, start.bias_mean, start.bias_std)

    @property
    def applied(self) -> torch.Tensor:
        """The weight that the convolution applies."""
        return self.weight / (math.sqrt(self.weight[0].numel()) / self.gain)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, inputs, ...) -> (n, outputs, ...): as large at stride 1, else `filter` times smaller."""
        if self.stride[0] == 1:
            sides = [side for size in self.kernel_size for side in (size // 2, (size - 1) // 2)]
            x = functional.pad(x, sides, mode="circular")
        # hooks on the convolution see the weight that is applied
        return self._conv_forward(x, self.applied, self.bias)


class MeanFieldConv1d(_MeanFieldConv, nn.Conv1d):
    """A convolution of sequences whose weight is applied divided by sqrt(fan_in), with fan_in = F inputs.

    At stride 1 the sequence is a ring. The filter sits on its output's place; one of even length F has F / 2
    weights to the left of it and F / 2 - 1 to the right (App. A). At stride F the patches do not overlap.

    Args:
        inputs, outputs: channels. filter: F. stride: 1 or F.
        initial: how its weights start. gain: that the input is multiplied by.
    """


class MeanFieldConv2d(_MeanFieldConv, nn.Conv2d):
    """The same for images: fan_in = F^2 inputs, and a torus."""


class MeanFieldLinear(nn.Linear):
    """A read-out whose weight is applied divided by the number of inputs, with weights N(mean, 1)."""

    scales_weight = True

    def __init__(
        self, inputs: int, outputs: int, bias: bool = False, gain: float = 1.0, mean: float = 0.0
    ) -> None:
        self.gain, self.mean = gain, mean  # before torch asks for weights
        super().__init__(inputs, outputs, bias)

    def reset_parameters(self) -> None:
        """Weights N(mean, 1), biases 0."""
        nn.init.normal_(self.weight, self.mean)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    @property
    def applied(self) -> torch.Tensor:
        """The weight that the read-out applies."""
        return self.weight / (self.in_features / self.gain)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, inputs) -> (n, outputs)."""
        return functional.linear(x, self.applied, self.bias)


class GlobalAverage(nn.Module):
    """(n, c, ...) -> (n, c): the average over all places."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Average over all axes after the second."""
        return x.mean(dim=tuple(range(2, x.ndim)))


class SimpleCNN(nn.Sequential):
    """K equal convolutions with ReLU, the average over all places, a linear read-out.

    f_k = ReLU(gain w_k * f_(k-1) / sqrt(F^dims H_(k-1)) + b_k), without the gain for the image f_0, and
    out = gain beta . <f_K> / H + c, with w and beta drawn from N(0, 1): the mean-field scaling, in which
    features are learned at any width H (Section 4 and App. B.2 of arXiv 2210.01506). Gradients are 1 / H of
    those of a standard network, so its learning rate is multiplied by H (`lr_scale`).

    Layers are `conv1`, `relu1`, ..., `average`, `readout`.

    Args:
        channels, classes: of the input and the output.
        side: of the image, or its length if `dims` is 1; only stride F asks for it.
        dims: 1 or 2 spatial dimensions.
        width: H, 1,000 in the paper. depth: K, in the paper 12 at stride 1 and 7 at stride F.
        filter: F. stride: 1, with circular padding, or F, without.
        bias: "none", as in the paper's solution; "last": in the last convolution and the read-out; or "all",
            as the paper's networks are trained. That of the read-out starts at 0.
        bias_mean, bias_std: mean and standard deviation of the initial biases; a negative mean in the last
            layer is a threshold for what the layers before it have pooled.
        weight_mean, weight_std: of the initial filters, see `Initial`; with the mean 1 and a small deviation
            every channel begins as an average over F places.
        readout_mean: of the initial weights of the read-out, whose deviation is 1.
        gain: what the outputs of all layers are multiplied by, sqrt(F) as the paper's networks are trained.

    Raises:
        UsageError: a stride that is neither 1 nor F; at stride F, a side that F^depth does not divide;
            biases elsewhere; `bias_mean` or `bias_std` other than 0 without biases.

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
        bias: str = "none",
        bias_mean: float = 0.0,
        bias_std: float = 0.0,
        weight_mean: float = 0.0,
        weight_std: float = 1.0,
        readout_mean: float = 0.0,
        gain: float = 1.0,
    ) -> None:
        if dims not in (1, 2):
            raise UsageError(f"the simple CNN has 1 or 2 dimensions, not {dims}")
        if bias not in BIASES:
            raise unknown("place of biases", bias, BIASES)
        check_biases(bias, bias_mean, bias_std)
        _check_stride(side, depth, filter, stride)
        conv = MeanFieldConv1d if dims == 1 else MeanFieldConv2d
        initial = Initial(weight_mean, weight_std, bias_mean, bias_std)
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for k in range(1, depth + 1):
            inputs, scale = (channels, 1.0) if k == 1 else (width, gain)
            biased = bias == "all" or (bias == "last" and k == depth)
            layers[f"conv{k}"] = conv(inputs, width, filter, stride, biased, initial, scale)
            layers[f"relu{k}"] = nn.ReLU()
        layers["average"] = GlobalAverage()
        layers["readout"] = MeanFieldLinear(width, classes, bias != "none", gain, readout_mean)
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
