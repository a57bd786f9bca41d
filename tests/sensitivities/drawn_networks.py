"""Networks drawn at random: convolutions, norms, views, shared parts, odd containers, keyword inputs."""

import dataclasses
from collections import OrderedDict, UserDict, namedtuple
from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

Pair = namedtuple("Pair", "image scale")


@dataclasses.dataclass(frozen=True)
class Frozen:
    """Inputs in a data class that cannot be written to."""

    image: torch.Tensor
    label: str = "none"


CONTAINERS = {
    "plain": lambda x: ((x,), {}),
    "keyword": lambda x: ((), {"images": x}),
    "dict": lambda x: (({"image": x, "name": "a"},), {}),
    "user dict": lambda x: ((UserDict(image=x),), {}),
    "named tuple": lambda x: ((Pair(x, 2.0),), {}),
    "data class": lambda x: ((Frozen(x),), {}),
    "object": lambda x: ((SimpleNamespace(image=x),), {}),
    "list": lambda x: (([x, [x[:, :1]]],), {}),
    "two keywords": lambda x: ((), {"flag": True, "images": x, "mask": x[:, :1] > 0.5}),
}


def unpacked(batch):
    """The images, from whichever container."""
    if isinstance(batch, torch.Tensor):
        return batch
    if isinstance(batch, dict | UserDict):
        return batch["image"]
    return batch[0] if isinstance(batch, list) else batch.image


class Residual(nn.Module):
    """Adds in place what it computes."""

    def __init__(self, channels, draw):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.ReLU(inplace=True))
        self.twice = bool(draw.integers(2))

    def forward(self, x):
        x = x + self.inner(x)
        if self.twice:
            x += self.inner(x)
        return x


class Tokens(nn.Module):
    """Maps as tokens, normed, mixed, and maps again; attention over them, or not."""

    def __init__(self, channels, draw):
        super().__init__()
        self.norm = nn.LayerNorm(channels)
        self.mix = nn.Linear(channels, channels)
        self.heads = nn.MultiheadAttention(channels, 2, batch_first=True) if draw.integers(2) else None

    def forward(self, x):
        n, c, h, w = x.shape
        tokens = self.norm(x.flatten(2).transpose(1, 2))
        if self.heads is not None:
            tokens = tokens + self.heads(tokens, tokens, tokens)[0]
        return self.mix(tokens).transpose(1, 2).reshape(n, c, h, w)


class Functional(nn.Module):
    """A convolution without a convolution module."""

    def __init__(self, channels, draw):
        super().__init__()
        self.kernel = nn.Parameter(torch.randn(channels, channels, 3, 3) / 3 / channels**0.5)

    def forward(self, x):
        return F.conv2d(x, self.kernel, padding=1)


class Windows(nn.Module):
    """Each image as four windows along dim 0, the batch outer."""

    def __init__(self, channels, draw):
        super().__init__()
        self.inner = nn.Sequential(nn.Conv2d(channels, channels, 3, padding=1), nn.Tanh())

    def forward(self, x):
        n, c, h, w = x.shape
        parts = x.view(n, c, 2, h // 2, 2, w // 2).permute(0, 2, 4, 1, 3, 5).reshape(-1, c, h // 2, w // 2)
        parts = self.inner(parts).view(n, 2, 2, c, h // 2, w // 2)
        return parts.permute(0, 3, 1, 4, 2, 5).reshape(n, c, h, w)


class Constant(nn.Module):
    """Adds a table that a small network makes of coordinates: it does not depend on the input."""

    def __init__(self, channels, draw):
        super().__init__()
        self.table = nn.Linear(2, channels)

    def forward(self, x):
        return x + self.table(torch.ones(x.shape[2], 2)).T[None, :, :, None]


class Odd(nn.Module):
    """A part whose output is a tuple, a dictionary or no batch at all, and is used all the same."""

    def __init__(self, channels, draw):
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 1)
        self.kind = draw.choice(["tuple", "dict", "nested", "sparse", "scalar", "whole"])

    def forward(self, x):
        return self._wrapped(self.conv(x))

    def _wrapped(self, y):
        if self.kind == "tuple":
            return y, None
        if self.kind == "dict":
            return OrderedDict(map=y, size=y.shape[2])
        if self.kind == "nested":
            return [(y.flatten(1), y)], 3
        if self.kind == "sparse":
            return y.flatten(1).to_sparse()
        return y.mean() if self.kind == "scalar" else y.argmax(1)


class UsesOdd(nn.Module):
    """Calls an odd part and goes on with its input."""

    def __init__(self, channels, draw):
        super().__init__()
        self.odd = Odd(channels, draw)

    def forward(self, x):
        self.odd(x)
        return x.sin()


class Stubborn(nn.Sequential):
    """Forgets to return itself from `train`."""

    def train(self, mode=True):
        super().train(mode)


def stubborn(channels, draw):
    return Stubborn(
        nn.Conv2d(channels, channels, 3, padding=1), nn.BatchNorm2d(channels), nn.SiLU(inplace=True)
    )


def pruned(channels, draw):
    conv = nn.Conv2d(channels, channels, 3, padding=1)
    nn.utils.prune.random_unstructured(conv, "weight", 0.4)
    return conv


def normed(channels, draw):
    conv = nn.Conv2d(channels, channels, 3, padding=1)
    wrap = (nn.utils.parametrizations.weight_norm, nn.utils.parametrizations.spectral_norm)
    return wrap[draw.integers(2)](conv)


def plain(channels, draw):
    norm = (nn.BatchNorm2d(channels), nn.GroupNorm(2, channels), nn.Identity(), nn.InstanceNorm2d(channels))
    act = (nn.ReLU(inplace=True), nn.GELU(), nn.Dropout(0.3), nn.Hardswish(inplace=True))
    groups = int(draw.choice([1, 2, channels]))
    conv = nn.Conv2d(channels, channels, int(draw.choice([1, 3])), padding="same", groups=groups)
    return nn.Sequential(conv, norm[draw.integers(4)], act[draw.integers(4)])


PARTS = (plain, plain, stubborn, pruned, normed, Residual, Tokens, Functional, Windows, Constant, UsesOdd)


class Drawn(nn.Module):
    """A stem, drawn parts of which some are used again, and a head; the container of its input is drawn."""

    def __init__(self, seed):
        super().__init__()
        draw = np.random.default_rng(seed)
        channels = int(draw.choice([4, 8]))
        self.container = str(draw.choice(list(CONTAINERS)))
        self.stem = (
            nn.LazyConv2d(channels, 3, padding=1)
            if draw.integers(4) == 0
            else nn.Conv2d(3, channels, 3, padding=1)
        )
        chosen = [PARTS[draw.integers(len(PARTS))] for _ in range(draw.integers(1, 5))]
        parts = [part(channels, draw) for part in chosen]
        again = [parts[draw.integers(len(parts))] for _ in range(draw.integers(0, 2))]
        self.parts = nn.ModuleList([*parts, *again])
        self.head = nn.LazyLinear(5)
        self.form = str(draw.choice(["view", "pool", "tuple", "dict", "maps"]))

    def forward(self, batch=None, images=None, flag=False, mask=None):
        x = self.stem(unpacked(batch) if images is None else images)
        maps = [x]
        for part in self.parts:
            x = part(x)
            maps.append(x.clone())
        if self.form == "maps":
            return [maps[0], F.avg_pool2d(x, 2)]
        x = self.head(x.contiguous().view(len(x), -1) if self.form == "view" else x.flatten(1))
        return {"tuple": (x, None), "dict": {"aux": x * 0, "logits": x}}.get(self.form, x)
