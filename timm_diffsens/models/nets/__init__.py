"""Small networks for small images, as plain modules; `net/NAME` in a model spec."""

import functools
import inspect
from collections.abc import Callable
from typing import Any

from torch import nn

from timm_diffsens.errors import UsageError
from timm_diffsens.models.arguments import SCALES, check_argument
from timm_diffsens.models.nets.plain import VGG, AlexNet, FullyConnected, LeNet
from timm_diffsens.models.nets.residual import CifarResNet
from timm_diffsens.models.nets.simple import SimpleCNN

NETS: dict[str, Callable[..., nn.Module]] = {
    "simple": SimpleCNN,
    "fc2": functools.partial(FullyConnected, 2),
    "fc4": functools.partial(FullyConnected, 4),
    "fc6": functools.partial(FullyConnected, 6),
    "lenet": LeNet,
    "alexnet": AlexNet,
    "vgg11": functools.partial(VGG, 11),
    "vgg11_bn": functools.partial(VGG, 11, True),
    "vgg13": functools.partial(VGG, 13),
    "vgg13_bn": functools.partial(VGG, 13, True),
    "vgg16": functools.partial(VGG, 16),
    "vgg16_bn": functools.partial(VGG, 16, True),
    "resnet18": functools.partial(CifarResNet, 2, width=64, stages=4),
    "resnet20": functools.partial(CifarResNet, 3),
    "resnet32": functools.partial(CifarResNet, 5),
}

_COMMON = ("channels", "classes", "side")
_VOCABULARY = (*_COMMON, "dims", "width", "depth", "filter", "stride", "bias", *SCALES)


def net_arguments(name: str) -> tuple[str, ...]:
    """The arguments that a network of `NETS` knows, in words that all of them share.

    All know `channels`, `classes` (1: a single score) and `side` (of the image; in 1-D its length); some know
    `dims`, `width`, `depth`, `filter` and `stride`, and how biases and weights start.
    """
    own = inspect.signature(NETS[name]).parameters
    return tuple(word for word in _VOCABULARY if word in own or word in _COMMON)


def make_net(name: str, **arguments: Any) -> nn.Module:
    """A network of `NETS` with fresh weights.

    Args:
        name: in `NETS`.
        arguments: those of `net_arguments(name)`; every network takes `dims=2`.

    Raises:
        UsageError: an argument that the network does not know, or a value it cannot have.
    """
    known = net_arguments(name)
    for word, value in arguments.items():
        if word not in known and (word, value) != ("dims", 2):
            what = "1-D inputs (dims=1)" if word == "dims" else f"argument {word!r}"
            raise UsageError(f"net/{name} takes no {what}; it takes {', '.join(known)}")
        check_argument(f"net/{name}:", word, value, value)
    own = inspect.signature(NETS[name]).parameters  # those for any side do not ask for it
    return NETS[name](**{word: value for word, value in arguments.items() if word in own})
