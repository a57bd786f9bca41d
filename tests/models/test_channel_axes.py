"""The channel axis of a tensor, against tensors whose values depend on the channel alone.

All weights are zero and all biases number their channels, so every value in the network is a function of its
channel, and the axis along which a tensor varies is its channel axis: seen in the values, not in the shapes.
"""

import copy
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torchvision.models.convnext import CNBlockConfig, ConvNeXt
from traced_models import SMALL, images_for, side_of, small, watching

from timm_diffsens.device import seeding
from timm_diffsens.models.channels import FollowChannels, channel_axis, mark_channels
from timm_diffsens.models.layers import select_layers, trace_images


def varies_along(values: torch.Tensor, axis: int) -> bool:
    return bool((values != values.select(axis, 0).unsqueeze(axis)).any())


def axes_of_variation(values: torch.Tensor) -> list[int]:
    return [axis for axis in range(values.ndim) if varies_along(values, axis)]


# --- networks


def number_channels(net: nn.Module) -> nn.Module:
    """A copy whose values depend on the channel alone, with different numbers for all channels."""
    net = copy.deepcopy(net)
    with torch.no_grad():
        for module in net.modules():
            for name, value in module.named_parameters(recurse=False):
                kind = name.rpartition("_")[2]
                if kind in ("weight", "embed", "embedding", "table", "biases", "pos"):
                    value.zero_()
                else:  # biases, and what is added or multiplied channel by channel: tokens, scales
                    numbers = torch.linspace(1, 2, max(value.shape))
                    value.copy_(numbers.reshape([-1 if n == max(value.shape) else 1 for n in value.shape]))
            if isinstance(module, nn.Conv2d | nn.Linear) and module.bias is None:
                module.bias = nn.Parameter(torch.linspace(1, 2, module.weight.shape[0]))
    return net


def torchvision_convnext() -> nn.Module:
    return ConvNeXt([CNBlockConfig(8, 12, 2), CNBlockConfig(12, None, 1)], num_classes=5)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    **{name: lambda name=name: small(name) for name in SMALL if name != "test_nfnet"},
    "torchvision convnext": torchvision_convnext,
}
# layer -> channel axis in the shape of one image, as the sources have it
KNOWN = {
    "test_convnext": {
        "stem.0": 0,  # (c, h, w)
        "stages.0.blocks.0.conv_dw": 0,
        "stages.0.blocks.0.norm": 2,  # (h, w, c) from here
        "stages.0.blocks.0.mlp.fc1": 2,
        "stages.0.blocks.0.mlp.fc2": 2,
        "stages.0": 0,  # and back
        "head.norm": 0,
        "head.flatten": 0,
        "output": 0,
    },
    "torchvision convnext": {
        "features.1.0.block.0": 0,
        "features.1.0.block.2": 2,
        "features.1.0.block.5": 2,
        "features.1.0.block.6": 0,
        "features.2.0": 0,  # LayerNorm2d permutes to and fro
        "features.1": 0,
    },
    "torchvision swin": {
        "features.0.0": 0,
        "features.0.1": 2,
        "features.1": 2,
        "features.2.norm": 2,
        "features.3.0.mlp.0": 2,
        "permute": 0,
        "avgpool": 0,
        "flatten": 0,
    },
    "swin": {
        "patch_embed.proj": 0,
        "patch_embed": 2,
        "layers.0.blocks.0.attn.qkv": 2,  # (windows, tokens, c)
        "layers.0.blocks.0.attn.proj": 2,
        "layers.1.downsample.reduction": 2,
        "layers.1": 2,
        "head.global_pool": 0,
    },
    "levit": {
        "stem": 0,
        "stages.0.blocks.0.attn.qkv.linear": 1,  # (tokens, c)
        "stages.0.blocks.0.attn.qkv.bn": 1,  # (tokens, c) folded out of dim 0
        "stages.2": 1,
    },
    "test_vit": {
        "patch_embed.proj": 0,
        "patch_embed": 2,  # (h, w, c), for any size of images
        "pos_drop": 1,
        "blocks.0.attn.qkv": 1,
        "blocks.5": 1,
        "fc_norm": 0,
    },
    "test_mambaout": {
        "stem.conv1": 0,
        "stem": 2,
        "stages.0.blocks.0.fc1": 2,
        "stages.1.downsample": 2,
        "stages.3": 2,
    },
    "test_efficientnet": {"conv_stem": 0, "blocks.3.0.se": 0, "global_pool": 0, "classifier": 0},
    "lenet": {"0": 0, "5": 0, "7": 0},
}


def everything(net: nn.Module, side: int) -> dict[str, tuple[int | None, torch.Tensor]]:
    """name -> axis that the trace gives every call, and the values of the first of two images there."""
    seen = trace_images(net, images_for(side))
    layers = {
        layer.call: layer for layer in select_layers(seen, [call.name for call in seen.calls if call.name])
    }
    with watching(net) as calls:
        net(images_for(side, n=2))
    values = {call.name: call.copies for call in calls}
    found = {}
    for call in seen.calls:
        layer = layers.get(call.name)
        if layer is None or layer.reason is not None or not call.floating:
            continue
        tensor = values[call.name.partition("[")[0]][0]
        assert not layer.batch_inner
        found[call.name] = layer.channel_axis, tensor.reshape(2, *layer.shape)[0]
    return found


@pytest.mark.parametrize("name", NETWORKS)
def test_values_vary_along_the_channel_axis_only(name):
    with seeding.seeded(0):
        net = number_channels(NETWORKS[name]()).eval()
    checked = 0
    for layer, (axis, values) in everything(net, side_of(name)).items():
        if axis is not None and values.shape[axis] > 1:
            assert axes_of_variation(values) == [axis], (layer, tuple(values.shape))
            checked += 1
    assert checked > 10


@pytest.mark.parametrize("name", KNOWN)
def test_the_axis_is_known_where_the_source_says_it(name):
    net = NETWORKS[name]().eval()
    seen = trace_images(net, images_for(side_of(name)))
    (*layers,) = select_layers(seen, list(KNOWN[name]))
    found = {}
    for layer in layers:
        found |= dict.fromkeys((layer.name, layer.call, *layer.aliases), layer.channel_axis)
    assert {layer: found[layer] for layer in KNOWN[name]} == KNOWN[name]


@pytest.mark.parametrize(
    "name", ["resnet18", "test_efficientnet", "test_convnext", "densenet", "resnet20", "torchvision swin"]
)
def test_the_axis_is_known_everywhere_in_networks_without_attention_modules(name):
    seen = trace_images(small(name), images_for(side_of(name)))
    assert [layer.name for layer in select_layers(seen, "all") if layer.channel_axis is None] == []


# --- functions

C = 4


def conv(*sizes: int, channels: int = C) -> torch.Tensor:
    """The output of a convolution, (2, channels, *sizes), where channel c holds c + 1."""
    kind = (F.conv1d, F.conv2d, F.conv3d)[len(sizes) - 1]
    weight, bias = torch.zeros(channels, 3, *[1] * len(sizes)), torch.arange(1.0, channels + 1)
    return kind(torch.zeros(2, 3, *sizes), weight, bias)


FUNCTIONS = {
    "convolution": (lambda x: x, 1),
    "permute": (lambda x: x.permute(0, 2, 3, 1), 3),
    "permute by name": (lambda x: torch.permute(input=x, dims=(0, 2, 3, 1)), 3),
    "permute and back": (lambda x: x.permute(0, 2, 3, 1).permute(0, 3, 1, 2), 1),
    "transpose": (lambda x: x.transpose(1, 2), 2),
    "transpose by name": (lambda x: torch.transpose(x, dim0=-1, dim1=1), 3),
    "swapaxes": (lambda x: x.swapaxes(1, 3), 3),
    "movedim": (lambda x: x.movedim(1, -1), 3),
    "flatten space": (lambda x: x.flatten(2), 1),
    "tokens": (lambda x: x.flatten(2).transpose(1, 2), 2),
    "tokens and back": (lambda x: x.flatten(2).transpose(1, 2).transpose(1, 2).reshape(2, C, 6, 5), 1),
    "tokens of channels last": (lambda x: x.permute(0, 2, 3, 1).reshape(2, -1, C), 2),
    "flatten all": (lambda x: x.flatten(1), None),
    "batch and channels in one": (lambda x: x.reshape(2 * C, 6, 5), None),
    "groups": (lambda x: x.reshape(2, 2, C // 2, 6, 5), None),
    "mean over space": (lambda x: x.mean((2, 3)), 1),
    "mean over space, kept": (lambda x: x.mean(dim=(-1, -2), keepdim=True), 1),
    "mean over columns": (lambda x: x.permute(0, 2, 3, 1).mean(1), 2),
    "sum over rows": (lambda x: x.sum(2), 1),
    "mean over channels": (lambda x: x.mean(1), None),
    "mean over channels, kept": (lambda x: x.mean(1, keepdim=True), None),
    "mean over all": (lambda x: x.mean(), None),
    "largest over rows": (lambda x: x.amax(dim=2), 1),
    "pooling": (lambda x: F.max_pool2d(x, 2), 1),
    "pooling to one": (lambda x: F.adaptive_avg_pool2d(x, 1), 1),
    "pooling to one, flat": (lambda x: F.adaptive_avg_pool2d(x, 1).flatten(1), 1),
    "concatenate channels": (lambda x: torch.cat([x, x], 1), 1),
    "concatenate columns": (lambda x: torch.cat([x, x], dim=3), 1),
    "concatenate channels last": (lambda x: torch.cat([x.movedim(1, -1)] * 2, -1), 3),
    "stack": (lambda x: torch.stack([x, x], 1), 2),
    "chunk channels": (lambda x: x.chunk(2, 1)[1], 1),
    "chunk rows": (lambda x: x.chunk(2, 2)[1], 1),
    "split": (lambda x: torch.split(x, [1, 3], dim=1)[1], 1),
    "slice": (lambda x: x[:, 1:, ::2], 1),
    "one pixel": (lambda x: x[:, :, 0, 0], 1),
    "one channel": (lambda x: x[:, 0], None),
    "first token": (lambda x: x.flatten(2).mT[:, 0], None),
    "new axis": (lambda x: x[:, None], 2),
    "ellipsis": (lambda x: x[..., 1:], 1),
    "select": (lambda x: x.movedim(1, -1).select(1, 0), 2),
    "unbind": (lambda x: x.unbind(2)[3], 1),
    "unbind channels": (lambda x: x.unbind(1)[0], None),
    "some rows": (lambda x: x[:, :, [0, 2]], 1),
    "stack last": (lambda x: torch.stack([x, x], dim=-1), 1),
    "turned by a reshape": (lambda x: x.reshape(2, 6, C, 5), None),
    "turned by a reshape of equal sizes": (lambda x: x.transpose(1, 2).reshape(2, C, 6, 5), None),
    "unsqueeze and squeeze": (lambda x: x.unsqueeze(1).squeeze(1), 1),
    "roll": (lambda x: x.permute(0, 2, 3, 1).roll((1, 1), (1, 2)), 3),
    "pad": (lambda x: F.pad(x, (1, 1, 1, 1), mode="replicate"), 1),
    "interpolate": (lambda x: F.interpolate(x, scale_factor=2), 1),
    "residual": (lambda x: x + x.sigmoid(), 1),
    "gate": (lambda x: x * F.adaptive_avg_pool2d(x, 1), 1),
    "in place": (lambda x: x.add_(1).relu_(), 1),
    "residual in place": (lambda x: x.permute(0, 2, 3, 1).add_(1), 3),
    "dtype": (lambda x: x.double().contiguous().clone().detach(), 1),
    "channels last memory": (lambda x: x.contiguous(memory_format=torch.channels_last), 1),
    "layer norm": (lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (C,)), 3),
    "layer norm and back": (lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (C,)).permute(0, 3, 1, 2), 1),
    "group norm": (lambda x: F.group_norm(x, 2), 1),
    "linear on channels last": (lambda x: F.linear(x.permute(0, 2, 3, 1), torch.ones(7, C)), 3),
    "linear on pooled": (lambda x: F.linear(x.mean((2, 3)), torch.ones(7, C)), 1),
    "linear over columns": (lambda x: F.linear(x, torch.ones(7, 5)), 3),
    "windows": (
        lambda x: x.movedim(1, -1).reshape(2, 3, 2, 5, 1, C).permute(0, 1, 3, 2, 4, 5).reshape(-1, 2, 1, C),
        3,
    ),
    "transposed convolution": (lambda x: F.conv_transpose2d(x, torch.ones(C, 2, 3, 3)), 1),
    "product of matrices": (lambda x: x @ torch.ones(5, 5), None),
    "einsum": (lambda x: torch.einsum("nchw->nhwc", x), None),
    "attention": (lambda x: F.scaled_dot_product_attention(x, x, x), None),
    "channels to space": (lambda x: F.pixel_shuffle(x, 2), None),
    "space to channels": (lambda x: F.pixel_unshuffle(x[..., :4], 2), None),
    "patches": (lambda x: F.unfold(x, 2), None),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_hand_the_axis_on(name):
    function, expected = FUNCTIONS[name]
    with FollowChannels():
        assert channel_axis(function(conv(6, 5))) == expected


@pytest.mark.parametrize("sizes", [(6,), (6, 5), (6, 5, 4)])
def test_convolutions_write_to_dim_1(sizes):
    with FollowChannels():
        assert channel_axis(conv(*sizes)) == 1
        assert channel_axis(F.batch_norm(torch.ones(2, 3, *sizes), torch.zeros(3), torch.ones(3))) == 1


def test_one_channel_among_axes_of_one_is_not_known():
    with FollowChannels():
        assert channel_axis(conv(6, 5, channels=1).permute(0, 2, 3, 1)) == 3
        assert channel_axis(conv(6, 5, channels=1).unsqueeze(1)) is None


def test_layers_say_what_was_not_known():
    with FollowChannels():
        assert channel_axis(torch.ones(2, 3, 4)) is None
        assert channel_axis(F.linear(torch.ones(2, 3, 4), torch.ones(5, 4))) == 2
        assert channel_axis(F.layer_norm(torch.ones(2, 3, 4), (4,))) == 2
        assert channel_axis(torch.ones(2, 3, 4).relu()) is None
        assert channel_axis(F.linear(torch.ones(4), torch.ones(5, 4))) is None  # no batch


def test_marks_are_given_and_taken():
    images = torch.ones(2, 3, 4, 5)
    mark_channels(images, 1)
    with FollowChannels():
        assert channel_axis(images.permute(0, 2, 3, 1)) == 3
    assert channel_axis(images.permute(0, 2, 3, 1)) is None  # nobody follows any more
    mark_channels(images, None)
    assert channel_axis(images) is None


def test_convolution_weights_are_shown_as_applied():
    shown: list[torch.Tensor] = []
    weight, images = torch.rand(4, 3, 1, 1), torch.rand(2, 3, 5, 5)
    with FollowChannels(shown.append):
        F.conv2d(images, 2 * weight)
        F.conv2d(images, weight=weight, bias=None)
        F.linear(torch.ones(2, 3), torch.ones(5, 3))
        nn.Conv2d(3, 2, 3, groups=1)(images)
    assert [tuple(w.shape) for w in shown] == [(4, 3, 1, 1), (4, 3, 1, 1), (2, 3, 3, 3)]
    assert torch.equal(shown[0], 2 * weight)


# --- any chain of functions: a claim is either true or not made


def axes(x: torch.Tensor, draw) -> list[int]:
    return draw(st.lists(st.integers(1, x.ndim - 1), unique=True, max_size=x.ndim - 1))


def permuted(x, draw):
    return x.permute(0, *draw(st.permutations(range(1, x.ndim))))


def transposed(x, draw):
    pair = draw(st.tuples(st.integers(1, x.ndim - 1), st.integers(1, x.ndim - 1)))
    return x.transpose(*pair)


def merged(x, draw):
    first = draw(st.integers(0, x.ndim - 1))
    return x.flatten(first, draw(st.integers(first, x.ndim - 1)))


def split(x, draw):
    axis = draw(st.integers(0, x.ndim - 1))
    parts = [n for n in range(1, x.shape[axis] + 1) if x.shape[axis] % n == 0]
    return x.unflatten(axis, (draw(st.sampled_from(parts)), -1))


def averaged(x, draw):
    return x.mean(axes(x, draw) or [x.ndim - 1], keepdim=draw(st.booleans()))


def joined(x, draw):
    return torch.cat([x, x], draw(st.integers(0, x.ndim - 1)))


def chunked(x, draw):
    return x.chunk(2, draw(st.integers(0, x.ndim - 1)))[0]


def rolled(x, draw):
    return x.roll(1, draw(st.integers(0, x.ndim - 1)))


def widened(x, draw):
    return x.unsqueeze(draw(st.integers(0, x.ndim)))


def narrowed(x, draw):
    return x.squeeze(draw(st.integers(0, x.ndim - 1)))


def picked(x, draw):
    return x.select(draw(st.integers(0, x.ndim - 1)), 0)


def reshaped(x, draw):
    sizes = list(x.shape)
    draw(st.randoms(use_true_random=False)).shuffle(sizes)
    return x.reshape(sizes)


def changed(x, draw):
    return x.sigmoid() + x


STEPS = [
    permuted,
    transposed,
    merged,
    split,
    averaged,
    joined,
    chunked,
    rolled,
    widened,
    narrowed,
    picked,
    reshaped,
    changed,
]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(data=st.data())
def test_a_claimed_axis_is_the_true_one(data):
    """Sizes are often equal, so that nothing can be told from them."""
    sizes = data.draw(st.sampled_from([(5, 3), (4, 4), (1, 1), (4, 1), (2, 8), (2, 2)]))
    with FollowChannels():
        x = conv(*sizes, channels=4)
        for step in data.draw(st.lists(st.sampled_from(STEPS), max_size=4)):
            if 1 < x.ndim < 7 and x.numel():
                x = step(x, data.draw)
            axis = channel_axis(x)
            if axis is not None and x.numel():
                assert set(axes_of_variation(x)) <= {axis}, (step, tuple(x.shape))
