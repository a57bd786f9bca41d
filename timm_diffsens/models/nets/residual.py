"""Residual networks for small images."""

import torch
from torch import nn


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
    """ResNet of depth 2 `stages` `blocks` + 2 for images of any side, 32 x 32 as a rule.

    A 3 x 3 stem without pooling; every stage after the first halves the side and doubles the width. Three
    stages from 16 channels are the networks of He et al. 2016, Section 4.2 (here with projections where the
    width changes); four from 64 channels with two blocks each are ResNet-18 with a stem for small images.
    """

    def __init__(
        self, blocks: int, width: int = 16, channels: int = 3, classes: int = 10, stages: int = 3
    ) -> None:
        stem = nn.Sequential(
            nn.Conv2d(channels, width, 3, padding=1, bias=False), nn.BatchNorm2d(width), nn.ReLU()
        )
        parts, inputs = [], width
        for k in range(stages):
            outputs = width * 2**k
            first = ResidualBlock(inputs, outputs, stride=2 if k else 1)
            more = (ResidualBlock(outputs, outputs, stride=1) for _ in range(blocks - 1))
            parts.append(nn.Sequential(first, *more))
            inputs = outputs
        head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, classes))
        super().__init__(stem, *parts, head)
