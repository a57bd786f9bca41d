"""Networks without shortcuts: fully connected, LeNet, AlexNet and VGG for small images."""

import itertools
from collections import OrderedDict

from torch import nn

from timm_diffsens.errors import UsageError

# Simonyan and Zisserman 2015, Table 1: configurations A, B and D, in multiples of the first width.
_VGG: dict[int, tuple[tuple[int, int], ...]] = {
    11: ((1, 1), (2, 1), (4, 2), (8, 2), (8, 2)),
    13: ((1, 2), (2, 2), (4, 2), (8, 2), (8, 2)),
    16: ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3)),
}


class _HeNormal(nn.Sequential):
    """Layers initialised as in He et al. 2015, which keeps the signal's scale through the depth.

    With torch's own initial weights, thirteen layers without batch-norm lose the signal.
    """

    def __init__(self, layers: OrderedDict[str, nn.Module]) -> None:
        super().__init__(layers)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights N(0, 2 / fan_in) and biases 0, but in the last layer, which keeps torch's own."""
        for layer in list(self)[:-1]:
            if isinstance(layer, nn.Conv2d | nn.Linear):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
                if layer.bias is not None:
                    nn.init.zeros_(layer.bias)


class FullyConnected(nn.Sequential):
    """`depth` linear layers with ReLU between them on the flattened image (Petrini et al. 2021).

    Args:
        side: of the image; its length if `dims` is 1.
        dims: number of spatial dimensions.
    """

    def __init__(
        self,
        depth: int,
        width: int = 512,
        channels: int = 3,
        side: int = 32,
        classes: int = 10,
        dims: int = 2,
    ) -> None:
        sizes = [channels * side**dims, *[width] * (depth - 1), classes]
        layers: list[nn.Module] = [nn.Flatten()]
        for index, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
            layers += [nn.Linear(inputs, outputs), *([nn.ReLU()] if index < depth - 1 else [])]
        super().__init__(*layers)


class LeNet(nn.Sequential):
    """Two 5 x 5 convolutions with max pooling, three linear layers (LeCun et al. 1998, with ReLU).

    Raises:
        UsageError: the image is smaller than 16 x 16.
    """

    def __init__(self, channels: int = 3, classes: int = 10, side: int = 32) -> None:
        _at_least(16, side, "LeNet")
        left = ((side - 4) // 2 - 4) // 2  # side of the last maps
        super().__init__(
            *(nn.Conv2d(channels, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Flatten(),
            *(nn.Linear(16 * left**2, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU()),
            nn.Linear(84, classes),
        )


class AlexNet(_HeNormal):
    """Five convolutions and three linear layers, after Krizhevsky et al. 2012, for small images.

    The widths keep AlexNet's proportions (64, 192, 384, 256, 256). The filters are 3 x 3 and the first stride
    is 2, so that 32 pixels last for three poolings. The two hidden linear layers have 8 `width` units. There
    is no dropout: it belongs to a recipe rather than to the function that is measured.

    Args:
        width: channels of the first convolution.

    Raises:
        UsageError: the image is smaller than 16 x 16.
    """

    def __init__(self, channels: int = 3, classes: int = 10, side: int = 32, width: int = 64) -> None:
        _at_least(16, side, "AlexNet")
        left = (side + 1) // 2 // 8
        widths = [channels, *(width * k for k in (1, 3, 6, 4, 4))]
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        for k, (inputs, outputs) in enumerate(itertools.pairwise(widths), start=1):
            layers[f"conv{k}"] = nn.Conv2d(inputs, outputs, 3, stride=2 if k == 1 else 1, padding=1)
            layers[f"relu{k}"] = nn.ReLU()
            if k in (1, 2, 5):
                layers[f"pool{k}"] = nn.MaxPool2d(2)
        layers["flatten"] = nn.Flatten()
        for k, inputs in ((6, widths[-1] * left**2), (7, 8 * width)):
            layers[f"fc{k}"] = nn.Linear(inputs, 8 * width)
            layers[f"relu{k}"] = nn.ReLU()
        layers["fc8"] = nn.Linear(8 * width, classes)
        super().__init__(layers)


class VGG(_HeNormal):
    """VGG for small images: 3 x 3 convolutions and five poolings (Simonyan and Zisserman 2015).

    The three linear layers of the original are one, after a global average, as is usual at 32 x 32.

    Args:
        depth: 11, 13 or 16, the number of weight layers of the original.
        batch_norm: after every convolution, which then has no bias.
        width: channels of the first convolution, 64 in the original; the others keep their proportion.

    Raises:
        UsageError: the image is smaller than 32 x 32.
    """

    def __init__(
        self,
        depth: int,
        batch_norm: bool = False,
        *,
        channels: int = 3,
        classes: int = 10,
        side: int = 32,
        width: int = 64,
    ) -> None:
        _at_least(32, side, "VGG")
        layers: OrderedDict[str, nn.Module] = OrderedDict()
        inputs = channels
        for block, (factor, count) in enumerate(_VGG[depth], start=1):
            for k in range(1, count + 1):
                outputs, name = factor * width, f"{block}_{k}"
                layers[f"conv{name}"] = nn.Conv2d(inputs, outputs, 3, padding=1, bias=not batch_norm)
                if batch_norm:
                    layers[f"bn{name}"] = nn.BatchNorm2d(outputs)
                layers[f"relu{name}"] = nn.ReLU()
                inputs = outputs
            layers[f"pool{block}"] = nn.MaxPool2d(2)
        layers["average"] = nn.AdaptiveAvgPool2d(1)
        layers["flatten"] = nn.Flatten()
        layers["fc"] = nn.Linear(inputs, classes)
        super().__init__(layers)


def _at_least(smallest: int, side: int, name: str) -> None:
    if side < smallest:
        raise UsageError(f"{name} needs images of at least {smallest} x {smallest} pixels, got side {side}")
