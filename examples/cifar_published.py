"""CIFAR-10 classifiers with published weights, as factories for `diffsens bench FILE.py:FACTORY`.

    diffsens bench examples/cifar_published.py:resnet8 --checkpoint WEIGHTS.safetensors --dataset cifar10

They were trained on the original images, with augmentation, pixels from 0 to 1, so they do not fit the JPEG
images. A checkpoint is loaded strictly.
"""

from timm.layers import create_conv2d
from torch import nn

INPUT = {"input_size": (3, 32, 32), "crop_pct": 1.0, "mean": (0.0,) * 3, "std": (1.0,) * 3}
EPS = 1e-3  # of batch-norms of networks that were trained with Keras


class _Residual(nn.Module):
    """Two convolutions beside a shortcut, which has one of its own where the resolution halves."""

    def __init__(self, wide: int, wider: int) -> None:
        super().__init__()
        stride = wider // wide
        self.conv1 = create_conv2d(wide, wider, 3, stride=stride, padding="same", bias=True)
        self.bn1 = nn.BatchNorm2d(wider, EPS)
        self.act1 = nn.ReLU()
        self.conv2 = create_conv2d(wider, wider, 3, padding="same", bias=True)
        self.bn2 = nn.BatchNorm2d(wider, EPS)
        short = create_conv2d(wide, wider, 1, stride=stride, padding="same", bias=True)
        self.short = short if stride > 1 else nn.Identity()
        self.act2 = nn.ReLU()

    def forward(self, x):
        inner = self.act1(self.bn1(self.conv1(x)))
        return self.act2(self.bn2(self.conv2(inner)) + self.short(x))


def resnet8() -> nn.Module:
    """The ResNet of MLPerf Tiny (Banbury et al. 2021), padded as TensorFlow does."""
    first = create_conv2d(3, 16, 3, padding="same", bias=True)
    blocks = [_Residual(16, 16), _Residual(16, 32), _Residual(32, 64)]
    end = [nn.AvgPool2d(8), nn.Flatten(), nn.Linear(64, 10)]
    return _prepared(nn.Sequential(first, nn.BatchNorm2d(16, EPS), nn.ReLU(), *blocks, *end))


def cnn6() -> nn.Module:
    """Six convolutions without padding, batch-norm after each ReLU, and three linear layers."""
    channels = (3, 64, 64, 128, 128, 64, 64)
    layers: list[nn.Module] = []
    for number in range(6):
        convolution = nn.Conv2d(channels[number], channels[number + 1], 3)
        layers += [convolution, nn.ReLU(), nn.BatchNorm2d(channels[number + 1], EPS)]
        if number in (1, 3):
            layers.append(nn.MaxPool2d(2))
    layers.append(nn.Flatten())
    for wide, next_wide in ((64, 1024), (1024, 512)):
        layers += [nn.Linear(wide, next_wide), nn.ReLU(), nn.Dropout(0.2)]
    return _prepared(nn.Sequential(*layers, nn.Linear(512, 10)))


def _prepared(network: nn.Module) -> nn.Module:
    """The network, which says how its images are prepared."""
    network.pretrained_cfg = {**INPUT, "num_classes": 10}
    return network
