"""Small networks for 32 x 32 images, as plain modules; `net/NAME` in a model spec."""

import functools
import itertools
from collections.abc import Callable

import torch
from torch import nn


class FullyConnected(nn.Sequential):
    """`depth` linear layers with ReLU between them on the flattened image (Petrini et al. 2021)."""

    def __init__(
        self, depth: int, width: int = 512, channels: int = 3, side: int = 32, classes: int = 10
    ) -> None:
        sizes = [channels * side * side, *[width] * (depth - 1), classes]
        layers: list[nn.Module] = [nn.Flatten()]
        for index, (inputs, outputs) in enumerate(itertools.pairwise(sizes)):
            layers += [nn.Linear(inputs, outputs), *([nn.ReLU()] if index < depth - 1 else [])]
        super().__init__(*layers)


class LeNet(nn.Sequential):
    """Two 5 x 5 convolutions with max pooling, three linear layers (LeCun et al. 1998, with ReLU)."""

    def __init__(self, channels: int = 3, classes: int = 10) -> None:
        super().__init__(
            *(nn.Conv2d(channels, 6, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 16, 5), nn.ReLU(), nn.MaxPool2d(2)),
            nn.Flatten(),
            *(nn.Linear(400, 120), nn.ReLU(), nn.Linear(120, 84), nn.ReLU(), nn.Linear(84, classes)),
        )


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with batch-norm, and a shortcut (He et al. 2016, Section 4.2)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, padding=1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.act1 = nn.ReLU()
        self.conv2 = nn.Conv2d(outputs, outputs, 3, padding=1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.act2 = nn.ReLU()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(n, inputs, h, w) -> (n, outputs, h / stride, w / stride)."""
        out = self.bn2(self.conv2(self.act1(self.bn1(self.conv1(x)))))
        return self.act2(out + self.shortcut(x))  # type: ignore[no-any-return]


class CifarResNet(nn.Sequential):
    """ResNet of depth 6 `blocks` + 2 for 32 x 32 images: three stages (He et al. 2016, Section 4.2)."""

    def __init__(self, blocks: int, width: int = 16, channels: int = 3, classes: int = 10) -> None:
        stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        widths = [width, width, 2 * width, 4 * width]
        stages = [
            nn.Sequential(
                *(
                    ResidualBlock(
                        widths[k] if i == 0 else widths[k + 1], widths[k + 1], 2 if k and i == 0 else 1
                    )
                    for i in range(blocks)
                )
            )
            for k in range(3)
        ]
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], classes))
        super().__init__(stem, *stages, head)


NETS: dict[str, Callable[[], nn.Module]] = {
    "fc2": functools.partial(FullyConnected, 2),
    "fc4": functools.partial(FullyConnected, 4),
    "fc6": functools.partial(FullyConnected, 6),
    "lenet": LeNet,
    "resnet20": functools.partial(CifarResNet, 3),
    "resnet32": functools.partial(CifarResNet, 5),
}
