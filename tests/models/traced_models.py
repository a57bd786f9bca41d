"""Models as traced, kept for the whole session, and a second way to watch a forward, not the package's."""

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import timm
import torch
from torch import nn
from torchvision.models.resnet import BasicBlock, ResNet
from torchvision.models.swin_transformer import SwinTransformer
from torchvision.models.vision_transformer import VisionTransformer

from timm_diffsens.device import seeding
from timm_diffsens.models.architectures import find_architecture
from timm_diffsens.models.layers import Layer, select_layers, trace_images
from timm_diffsens.models.trace import Trace


def images_for(side: int | tuple[int, int], n: int = 3, seed: int = 0) -> torch.Tensor:
    size = (side, side) if isinstance(side, int) else side
    return torch.randn((n, 3, *size), generator=torch.Generator().manual_seed(seed))


@functools.cache
def on_meta(spec: str) -> Trace:
    """A model of full size without memory: names and shapes, no values."""
    side = {"test_vit": 160, "net/lenet": 32, "net/resnet20": 32}.get(spec, 224)
    with torch.device("meta"):
        module = find_architecture(spec).build()
    return trace_images(module, torch.empty(3, 3, side, side, device="meta"))


SMALL = {
    "resnet18": lambda: timm.create_model("resnet18", channels=[8, 8, 16, 16], num_classes=5),
    "torchvision resnet": lambda: ResNet(BasicBlock, [1, 1, 1, 1], num_classes=5),
    "test_resnet": lambda: timm.create_model("test_resnet"),
    "test_efficientnet": lambda: timm.create_model("test_efficientnet"),
    "test_vit": lambda: timm.create_model("test_vit", img_size=64),
    "test_convnext": lambda: timm.create_model("test_convnext"),
    "test_mambaout": lambda: timm.create_model("test_mambaout"),
    "test_nfnet": lambda: timm.create_model("test_nfnet"),
    "test_byobnet": lambda: timm.create_model("test_byobnet"),
    "test_coatnet": lambda: timm.create_model("test_coatnet", img_size=64),
    "resnetblur18": lambda: timm.create_model("resnetblur18", channels=[8, 8, 16, 16], num_classes=5),
    "densenet": lambda: timm.create_model("densenet121", block_config=(2, 2), growth_rate=8),
    "swin": lambda: timm.create_model(
        "swin_tiny_patch4_window7_224",
        img_size=56,
        embed_dim=12,
        depths=(2, 1),
        num_heads=(2, 3),
        num_classes=5,
    ),
    "swinv2": lambda: timm.create_model(
        "swinv2_tiny_window8_256",
        img_size=64,
        window_size=8,
        embed_dim=12,
        depths=(2, 1),
        num_heads=(2, 3),
    ),
    "levit": lambda: timm.create_model("levit_128s", num_classes=5),
    "torchvision swin": lambda: SwinTransformer([4, 4], 12, [2, 1], [2, 3], [7, 7], num_classes=5),
    "torchvision vit": lambda: VisionTransformer(32, 8, 2, 2, 16, 32, num_classes=5),
    "lenet": lambda: find_architecture("net/lenet").build(),
    "resnet20": lambda: find_architecture("net/resnet20").build(),
}
SIDES = {"swin": 56, "torchvision swin": 56, "torchvision vit": 32, "lenet": 32, "resnet20": 32, "levit": 224}


@functools.cache
def small(name: str) -> nn.Module:
    with seeding.seeded(0):
        return SMALL[name]().eval()


def side_of(name: str) -> int:
    return SIDES.get(name, 64)


@functools.cache
def traced(name: str) -> Trace:
    """A small model on real images, of the side given above or 64."""
    return trace_images(small(name), images_for(side_of(name)))


@functools.cache
def layers(name: str, selection: str = "all") -> dict[str, Layer]:
    return {layer.name: layer for layer in select_layers(traced(name), selection)}


@dataclass
class Seen:
    """One module call: its tensors are kept, and copied before anything can overwrite them."""

    name: str
    module: nn.Module
    tensors: list[torch.Tensor]
    versions: list[int]
    copies: list[torch.Tensor]
    inside: int  # module calls made inside
    within: tuple[nn.Module, ...]  # modules whose forwards it was made in


def _tensors(value: Any) -> list[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [t for item in value for t in _tensors(item)] if isinstance(value, list | tuple) else []


@contextmanager
def watching(model: nn.Module) -> Iterator[list[Seen]]:
    """Every module call of the forwards inside, in the order in which they end."""
    seen: list[Seen] = []
    open_calls: list[list[Any]] = []  # module, calls inside so far
    counts: dict[str, int] = {}
    handles = []

    def hooks(name: str, module: nn.Module) -> None:
        def before(module: nn.Module, args: Any) -> None:
            for call in open_calls:
                call[1] += 1
            open_calls.append([module, 0])

        def after(module: nn.Module, args: Any, output: Any) -> None:
            _, inside = open_calls.pop()
            counts[name] = counts.get(name, 0) + 1
            number = counts[name] - 1
            found = _tensors(output)
            seen.append(
                Seen(
                    f"{name}#{number}" if number else name,
                    module,
                    found,
                    [t._version for t in found],
                    [t.detach().clone() for t in found],
                    inside,
                    tuple(call[0] for call in open_calls),
                )
            )

        handles.append(module.register_forward_pre_hook(before))
        handles.append(module.register_forward_hook(after))

    for name, module in model.named_modules():
        hooks(name, module)
    try:
        with torch.no_grad():
            yield seen
    finally:
        for handle in handles:
            handle.remove()
