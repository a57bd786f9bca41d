"""ImageNet classifiers that a timm spec cannot say, as factories for `diffsens bench FILE.py:FACTORY`.

    diffsens bench examples/imagenet_networks.py:mobilenetv1:width=0.25 --checkpoint WEIGHTS.safetensors
        --input-size 128 --dataset imagenet --data-dir DIR

They take published weights whose tensors are named as here; a checkpoint is loaded strictly, so that each
tensor has its place and each place its tensor. Each says how its images are prepared, as timm's models do.
Factories are called as their families are, which boards count by.
"""

from functools import partial
from itertools import pairwise

import timm
import torchvision
from timm.data import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.models.efficientnet import EfficientNet, decode_arch_def, round_channels
from torch import nn

EPS = 1e-3  # of batch-norms of networks that were trained with TensorFlow or Darknet
MOBILENETV1 = ("r1_k3_s1_c64", "r2_k3_s2_c128", "r2_k3_s2_c256", "r6_k3_s2_c512", "r2_k3_s2_c1024")
INPUT = {"input_size": (3, 224, 224), "crop_pct": 0.875, "interpolation": "bilinear"}
HALVES = {**INPUT, "mean": (0.5,) * 3, "std": (0.5,) * 3}  # pixels from -1 to 1
DARKNET_TINY = ((16,), (32,), (16, 128, 16, 128), (32, 256, 32, 256), (64, 512, 64, 512, 128))


def mobilenetv1(width: float = 1.0) -> nn.Module:
    """MobileNetV1 (Howard et al. 2017) with TensorFlow's padding; timm has no width below 1."""
    network = EfficientNet(
        decode_arch_def([[f"dsa_{stage}"] for stage in MOBILENETV1]),
        num_features=0,
        round_chs_fn=partial(round_channels, multiplier=width),
        pad_type="same",
        act_layer=nn.ReLU6,
        norm_layer=partial(nn.BatchNorm2d, eps=EPS),
    )
    network.pretrained_cfg = HALVES
    return network


def mobilenetv2() -> nn.Module:
    """MobileNetV2 (Sandler et al. 2018) with TensorFlow's padding."""
    network = timm.create_model("mobilenetv2_100", pad_type="same", bn_eps=EPS)
    network.pretrained_cfg = HALVES
    return network


def mobilenetv2_torchvision() -> nn.Module:
    """MobileNetV2 of torchvision, whose first weights saw images of 256 pixels; its later ones see 232."""
    network = torchvision.models.mobilenet_v2()
    network.pretrained_cfg = {**INPUT, "mean": IMAGENET_DEFAULT_MEAN, "std": IMAGENET_DEFAULT_STD}
    return network


def edgetpu() -> nn.Module:
    """MobileNet-EdgeTPU (Howard and Gupta 2019) with TensorFlow's padding.

    Its first block begins with a linear projection; timm's has a ReLU there.
    """
    network = timm.create_model("mobilenet_edgetpu_100", pad_type="same", bn_eps=EPS)
    network.blocks[0][0].bn1.act = nn.Identity()
    network.pretrained_cfg = {**HALVES, "crop_pct": 0.9, "interpolation": "bicubic"}  # timm's
    return network


def darknet_tiny() -> nn.Module:
    """Tiny Darknet (Redmon): 1 x 1 convolutions where channels become fewer, 3 x 3 elsewhere."""
    layers: list[nn.Module] = []
    inputs = 3
    for stage in DARKNET_TINY:
        for channels, outputs in pairwise((inputs, *stage)):
            side = 1 if outputs < channels else 3
            layers.append(nn.Conv2d(channels, outputs, side, padding=side // 2, bias=False))
            layers += [nn.BatchNorm2d(outputs, eps=EPS), nn.LeakyReLU(0.1)]
        layers.append(nn.MaxPool2d(2))
        inputs = stage[-1]
    scores = (nn.Conv2d(inputs, 1000, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    network = nn.Sequential(*layers[:-1], *scores)  # the last stage is not pooled
    network.pretrained_cfg = {**INPUT, "mean": (0.0,) * 3, "std": (1.0,) * 3}
    network.num_classes = 1000
    return network
