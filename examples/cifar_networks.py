"""timm architectures cut down to 32 x 32 images, as factories for `diffsens train cifar10 FILE.py:FACTORY`.

The full-sized ones shrink an image 32-fold, or cut it into patches of 16 pixels, which leaves little of a
CIFAR-10 image to look at.
"""

import timm
from torch import nn


def vit(in_chans: int = 3, num_classes: int = 10) -> nn.Module:
    """Vision transformer (Dosovitskiy et al. 2021): 8 x 8 patches of 4 pixels, 4 blocks of 64 channels."""
    size = {"img_size": 32, "patch_size": 4, "embed_dim": 64, "depth": 4, "num_heads": 2}
    return timm.create_model(
        "vit_tiny_patch16_224", pretrained=False, in_chans=in_chans, num_classes=num_classes, **size
    )


def convnext(in_chans: int = 3, num_classes: int = 10) -> nn.Module:
    """ConvNeXt (Liu et al. 2022): stem of 2 x 2 patches, stages of 2, 2, 4, 2 blocks, 16 to 128 channels."""
    size = {"patch_size": 2, "depths": (2, 2, 4, 2), "dims": (16, 32, 64, 128)}
    return timm.create_model(
        "convnext_atto", pretrained=False, in_chans=in_chans, num_classes=num_classes, **size
    )


def mixer(in_chans: int = 3, num_classes: int = 10) -> nn.Module:
    """MLP-Mixer (Tolstikhin et al. 2021): 8 x 8 patches of 4 pixels, 6 blocks of 64 channels."""
    return timm.models.MlpMixer(
        num_classes, img_size=32, in_chans=in_chans, patch_size=4, num_blocks=6, embed_dim=64
    )


def lenet_wide(in_chans: int = 3, num_classes: int = 10) -> nn.Module:
    """LeNet (LeCun et al. 1998, with ReLU) with three times the channels and units of `net/lenet`."""
    return nn.Sequential(
        *(nn.Conv2d(in_chans, 18, 5), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(18, 48, 5), nn.ReLU(), nn.MaxPool2d(2)),
        nn.Flatten(),
        *(nn.Linear(48 * 5**2, 360), nn.ReLU(), nn.Linear(360, 252), nn.ReLU()),
        nn.Linear(252, num_classes),
    )


def allcnn(in_chans: int = 3, num_classes: int = 10, width: int = 32) -> nn.Module:
    """All-CNN-C (Springenberg et al. 2015) with batch norms: strides in place of pooling."""
    shapes = [(1, 3, 1), (1, 3, 1), (1, 3, 2), (2, 3, 1), (2, 3, 1), (2, 3, 2), (2, 3, 1), (2, 1, 1)]
    return nn.Sequential(*_conv_stack(in_chans, [(width * wide, k, s) for wide, k, s in shapes], num_classes))


def nin(in_chans: int = 3, num_classes: int = 10) -> nn.Module:
    """Network in network (Lin et al. 2014) with batch norms: 1 x 1 convolutions after each other one."""
    return nn.Sequential(
        *_conv_stack(in_chans, [(48, 5, 1), (48, 1, 1), (32, 1, 1)]),
        nn.MaxPool2d(3, 2, 1),
        *_conv_stack(32, [(80, 5, 1), (80, 1, 1), (80, 1, 1)]),
        nn.AvgPool2d(3, 2, 1),
        *_conv_stack(80, [(96, 3, 1), (96, 1, 1)], num_classes),
    )


def densenet(in_chans: int = 3, num_classes: int = 10) -> nn.Module:
    """DenseNet (Huang et al. 2017): the usual stem, then blocks of 4, 8 and 6 layers, growth 24."""
    size = {"growth_rate": 24, "block_config": (4, 8, 6)}
    return timm.create_model(
        "densenet121", pretrained=False, in_chans=in_chans, num_classes=num_classes, **size
    )


def _conv_stack(channels: int, shapes: list[tuple[int, int, int]], classes: int = 0) -> list[nn.Module]:
    """Convolutions (channels, kernel, stride) with batch norm and ReLU, and a read-out of their means."""
    layers: list[nn.Module] = []
    for out, kernel, stride in shapes:
        convolution = nn.Conv2d(channels, out, kernel, stride, kernel // 2, bias=False)
        layers += [convolution, nn.BatchNorm2d(out), nn.ReLU()]
        channels = out
    if classes:
        layers += [nn.Conv2d(channels, classes, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return layers
