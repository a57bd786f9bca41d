"""Which tensors are layers, under which names, in which order, and which cannot be measured and why.

Expected names are written down from the sources of the models, never from what the package finds.
"""

import math

import pytest
import torch
import torch.nn.functional as F
from timm.layers import BatchNormAct2d, GroupNormAct, LayerNormAct, LayerNormAct2d
from torch import nn
from torch.nn.utils import parametrizations
from traced_models import SMALL, images_for, layers, on_meta, side_of, small, traced, watching

from timm_diffsens.errors import UsageError
from timm_diffsens.models.checkpoints import state_sha256
from timm_diffsens.models.layers import (
    SELECTIONS,
    Layer,
    check_names,
    list_layers,
    select_layers,
    trace_images,
)
from timm_diffsens.models.loading import load_model
from timm_diffsens.models.trace import Trace

SHARED = "depends on the other images of its batch (batch statistics)"
MIXED = "the images of a batch cannot be told apart along dim 0"
FUSED = (BatchNormAct2d, GroupNormAct, LayerNormAct, LayerNormAct2d)


def select(net: nn.Module, selection="all", images: torch.Tensor | None = None) -> dict[str, Layer]:
    images = images_for(16) if images is None else images
    return {layer.name: layer for layer in select_layers(trace_images(net, images), selection)}


def numbered(pattern: str, *counts: int, start: int = 0) -> list[str]:
    """numbered("s{}.b{}", 1, 2) -> s0.b0, s1.b0, s1.b1."""
    return [pattern.format(i, j) for i, n in enumerate(counts, start) for j in range(n)]


@pytest.mark.parametrize("name", SMALL)
def test_names_that_are_refused_unseen_are_no_layers(name):
    """Whatever a selection finds is a name that may be asked for; a slip of the pen is not."""
    net = small(name)
    seen = trace_images(net, images_for(side_of(name)))
    for selection in SELECTIONS:
        check_names(net, [selection, *(layer.name for layer in select_layers(seen, selection))])
    check_names(net, ["output", "*", "lay*.0"])
    with pytest.raises(UsageError, match=r"unknown layer or pattern 'stags'.* did you mean .*stages"):
        check_names(net, ["output", "stags"])


# --- stages and blocks of one network of each family

FAMILIES = {
    # layer1 ... layer4, two BasicBlocks each, after a stem that ends in a max pooling
    "resnet18": (
        ["maxpool", *numbered("layer{}.{}", 2, 2, 2, 2, start=1)],
        numbered("layer{}", 1, 1, 1, 1, start=1),
    ),
    "torchvision/resnet18": (
        ["maxpool", *numbered("layer{}.{}", 2, 2, 2, 2, start=1)],
        numbered("layer{}", 1, 1, 1, 1, start=1),
    ),
    # cfg A: 64 M 128 M 256 256 M 512 512 M 512 512 M, each number a convolution, a batch-norm and a ReLU
    "torchvision/vgg11_bn": (
        [
            *(f"features.{i}" for i in (0, 4, 8, 11, 15, 18, 22, 25)),
            *("classifier.0", "classifier.3"),
        ],
        [f"features.{i}" for i in (2, 6, 13, 20, 27)],
    ),
    # six blocks of one resolution; quarters end after 1.5, 3, 4.5 and 6 of them, rounded to even
    "test_vit": (
        ["pos_drop", *numbered("blocks.{1}", 6)],
        ["pos_drop", "blocks.1", "blocks.2", "blocks.3", "blocks.5"],
    ),
    "test_convnext": (
        ["stem", *numbered("stages.{}.blocks.{}", 1, 2, 4, 2)],
        numbered("stages.{}", 1, 1, 1, 1),
    ),
    # blocks.0.0 holds one convolution and is no block: its output is what the first block is given
    "test_efficientnet": (
        ["blocks.0", *numbered("blocks.{}.{}", 1, 1, 1, 1, start=1)],
        numbered("blocks.{}", *[1] * 5),
    ),
    "torchvision/swin_t": (
        ["features.0", *(f"features.{2 * i + 1}.{j}" for i, n in enumerate((2, 2, 6, 2)) for j in range(n))],
        [f"features.{i}" for i in (1, 3, 5, 7)],
    ),
    "swin_tiny_patch4_window7_224": (
        ["patch_embed", *numbered("layers.{}.blocks.{}", 2, 2, 6, 2)],
        numbered("layers.{}", 1, 1, 1, 1),
    ),
    "mixer_s32_224": (
        ["stem", *numbered("blocks.{1}", 8)],
        ["stem", "blocks.1", "blocks.3", "blocks.5", "blocks.7"],
    ),
    "regnetx_002": (
        ["stem", *(f"s{i}.b{j}" for i, n in enumerate((1, 1, 4, 7), 1) for j in range(1, n + 1))],
        ["stem", "s1", "s2", "s3", "s4"],
    ),
    # a dense layer gives its 32 new channels; what it is given is a concatenation
    "densenet121": (
        [
            "features.pool0",
            *(
                f"features.denseblock{i}.denselayer{j}"
                for i, n in enumerate((6, 12, 24, 16), 1)
                for j in range(1, n + 1)
            ),
        ],
        [f"features.denseblock{i}.denselayer{n}" for i, n in enumerate((6, 12, 24, 16), 1)],
    ),
    "torchvision/googlenet": (
        [
            "maxpool2",
            *(f"inception{name}" for name in ("3a", "3b", "4a", "4b", "4c", "4d", "4e", "5a", "5b")),
        ],
        ["inception3b", "inception4e", "inception5b"],
    ),
    # lists that are never called; the embedding returns (tokens, size)
    "twins_svt_small": (
        ["patch_embeds.0[0]", *numbered("blocks.{}.{}", 2, 2, 10, 4)],
        ["blocks.0.1", "blocks.1.1", "blocks.2.9", "blocks.3.3"],
    ),
    "torchvision/convnext_tiny": (
        ["features.0", *(f"features.{2 * i + 1}.{j}" for i, n in enumerate((3, 3, 9, 3)) for j in range(n))],
        [f"features.{i}" for i in (1, 3, 5, 7)],
    ),
    # plain: every layer with weights counts
    "net/lenet": (["0", "3", "7", "9"], ["1", "4"]),
    "net/resnet20": (["0", *numbered("{}.{}", 3, 3, 3, start=1)], ["1", "2", "3"]),
}


@pytest.mark.parametrize("spec", FAMILIES)
def test_blocks_and_stages_of_a_family(spec):
    blocks, stages = FAMILIES[spec]
    seen = on_meta(spec)
    for selection, expected in (("blocks", blocks), ("stages", stages)):
        found = select_layers(seen, selection)
        assert [layer.name for layer in found] == [*expected, "output"]
        assert [layer.index for layer in found] == list(range(len(found)))
        assert [layer.depth for layer in found] == [(i + 1) / len(found) for i in range(len(found))]


@pytest.mark.parametrize(
    ("spec", "places"),
    [
        ("torchvision/vgg11_bn", [224, 112, 56, 28, 14]),
        ("regnetx_002", [112, 56, 28, 14, 7]),
        ("torchvision/googlenet", [28, 14, 7]),
        ("swin_tiny_patch4_window7_224", [56, 28, 14, 7]),
        ("twins_svt_small", [56, 28, 14, 7]),
        ("densenet121", [56, 28, 14, 7]),
    ],
)
def test_a_stage_ends_where_the_resolution_changes(spec, places):
    *stages, output = select_layers(on_meta(spec), "stages")
    for layer, side in zip(stages, places, strict=True):
        assert layer.channel_axis is not None
        assert math.prod(layer.shape) == side**2 * layer.shape[layer.channel_axis]
    assert output.shape == (1000,)


def test_the_layers_of_a_loaded_model():
    found = list_layers(load_model("net/resnet20", pretrained=False), "stages")
    assert [(layer.name, layer.shape) for layer in found] == [
        ("1", (16, 32, 32)),
        ("2", (32, 16, 16)),
        ("3", (64, 8, 8)),
        ("output", (10,)),
    ]


class Pair(nn.Module):
    """Two convolutions and a sum: a block."""

    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.a, self.b = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))

    def forward(self, x):
        return x + self.b(self.a(x))


class Blocks(nn.Module):
    """Three blocks and a head; `step` says how a block is used."""

    def __init__(self, block=Pair) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([block() for _ in range(3)])
        self.head = nn.Linear(3, 2)

    def step(self, block, x):
        return block(x)

    def forward(self, x):
        for block in self.blocks:
            x = self.step(block, x)
        return self.head(x.mean((2, 3)))


def test_a_network_without_a_stem():
    assert list(select(Blocks(), "blocks")) == ["blocks.0", "blocks.1", "blocks.2", "output"]


class InDictionary(Pair):
    def forward(self, x):
        return {"map": super().forward(x), "count": 3}


class DictionaryBlocks(Blocks):
    def step(self, block, x):
        return block(x)["map"]


def test_blocks_that_return_dictionaries():
    found = select(DictionaryBlocks(InDictionary), "blocks")
    assert list(found) == ["blocks.0[map]", "blocks.1[map]", "blocks.2[map]", "output"]


class InTuple(Pair):
    def forward(self, x):
        return 1, (super().forward(x), x), None


class TupleBlocks(Blocks):
    def step(self, block, x):
        return block(x)[1][0]


def test_blocks_that_return_nested_tuples():
    found = select(TupleBlocks(InTuple), "blocks")
    assert list(found) == ["blocks.0[1][0]", "blocks.1[1][0]", "blocks.2[1][0]", "output"]


class OpenedBlocks(Blocks):
    def step(self, block, x):
        return x + block.b(block.a(x))


def test_blocks_that_are_only_called_through_their_parts():
    expected = [f"blocks.{i}.{part}" for i in range(3) for part in "ab"]
    assert list(select(OpenedBlocks(), "blocks")) == [*expected, "output"]


class Holder(nn.Module):
    """Two blocks; it has no forward of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = Pair(), Pair()


class HeldBlocks(Blocks):
    def step(self, block, x):
        return block.second(block.first(x))


def test_blocks_in_holders_that_are_never_called():
    expected = [f"blocks.{i}.{part}" for i in range(3) for part in ("first", "second")]
    assert list(select(HeldBlocks(Holder), "blocks")) == [*expected, "output"]


class RecurrentBlocks(Blocks):
    def step(self, block, x):
        return block(block(x))


def test_blocks_that_are_called_twice():
    expected = [f"blocks.{i}{again}" for i in range(3) for again in ("", "#1")]
    assert list(select(RecurrentBlocks(), "blocks")) == [*expected, "output"]


class TwoLinear(nn.Module):
    def __init__(self, width: int = 3) -> None:
        super().__init__()
        self.one, self.two = nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x):
        return x + self.two(self.one(x))


class WithEnds(Blocks):
    """A stem and a head of two layers each, which stand alone: they are no blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.blocks = Pair(), nn.ModuleList([Pair() for _ in range(3)])
        self.end = TwoLinear()

    def forward(self, x):
        x = self.stem(x).relu()
        for block in self.blocks:
            x = block(x)
        return self.end(x.mean((2, 3))).softmax(1)


def test_a_stem_and_a_head_are_no_blocks():
    assert list(select(WithEnds(), "blocks")) == ["stem", "blocks.0", "blocks.1", "blocks.2", "output"]


class Rich(Pair):
    """A block with two numbered parts of two layers each, which are less than half of it."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = nn.ModuleList([Pair(), Pair()])
        self.others = nn.Sequential(*(nn.Conv2d(3, 3, 1) for _ in range(4)))

    def forward(self, x):
        for part in self.parts:
            x = part(x)
        return super().forward(self.others(x))


def test_a_block_may_have_numbered_parts():
    assert list(select(Blocks(Rich), "blocks")) == ["blocks.0", "blocks.1", "blocks.2", "output"]


class TwoHeads(nn.Module):
    """A plain network whose only repeated parts are its two heads."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(*(nn.Conv2d(3, 3, 3) for _ in range(5)))
        self.heads = nn.ModuleList([TwoLinear(), TwoLinear()])

    def forward(self, x):
        x = self.features(x).mean((2, 3))
        return sum(head(x) for head in self.heads)


def test_a_plain_network_with_repeated_heads():
    weights = [f"features.{i}" for i in range(5)] + [
        f"heads.{i}.{part}" for i in (0, 1) for part in ("one", "two")
    ]
    assert list(select(TwoHeads(), "blocks")) == [*weights, "output"]


class Halving(Pair):
    def forward(self, x):
        return super().forward(F.avg_pool2d(x, 2) if x.shape[-1] > 8 else x)


class OneStep(nn.Module):
    """Six blocks at 8 x 8 after a stem at 16 x 16: of one resolution, for all that matters."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.head = nn.Conv2d(3, 3, 1), nn.Linear(3, 2)
        self.blocks = nn.Sequential(*(Halving() for _ in range(6)))

    def forward(self, x):
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


def test_stages_of_a_network_with_one_step_of_resolution():
    assert list(select(OneStep(), "stages")) == [
        "stem",
        "blocks.1",
        "blocks.2",
        "blocks.3",
        "blocks.5",
        "output",
    ]


class MapsThenTokens(nn.Module):
    """Maps of 16 x 16, 8 x 8 and 4 x 4, then 4 x 4 tokens and one more."""

    num_prefix_tokens = 1

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Pair() for _ in range(3)])
        self.later = nn.ModuleList([TwoLinear(), TwoLinear()])

    def forward(self, x):
        for i, block in enumerate(self.blocks):
            x = block(x if i == 0 else F.avg_pool2d(x, 2))
        tokens = x.flatten(2).transpose(1, 2)
        tokens = torch.cat([tokens.mean(1, keepdim=True), tokens], 1)
        for block in self.later:
            tokens = block(tokens)
        return tokens[:, 0] * 2


def test_prefix_tokens_are_no_places():
    assert list(select(MapsThenTokens(), "stages")) == ["blocks.0", "blocks.1", "later.1", "output"]


class WithTable(Blocks):
    """A table that does not depend on the images is made just before the blocks."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.table = nn.Conv2d(3, 3, 1), nn.Linear(1, 3)

    def forward(self, x):
        x = self.stem(x)
        return super().forward(x + self.table(torch.ones(1, 1))[:, :, None, None])


def test_the_stem_depends_on_the_images():
    assert list(select(WithTable(), "blocks")) == ["stem", "blocks.0", "blocks.1", "blocks.2", "output"]


# --- convolutions


def taps(seen: Trace) -> dict[str, str]:
    """Convolution -> the call it is read from."""
    return {layer.name: layer.call for layer in select_layers(seen, "convs") if layer.name != "output"}


def test_convolutions_are_read_after_norm_and_activation():
    found = taps(on_meta("resnet18"))
    assert found["conv1"] == "act1"
    assert found["layer1.0.conv1"] == "layer1.0.act1"
    assert found["layer1.0.conv2"] == "layer1.0.bn2"  # what follows is the sum with the shortcut
    assert found["layer2.0.downsample.0"] == "layer2.0.downsample.1"
    assert len(found) == 1 + 8 * 2 + 3


def test_convolutions_before_activations_in_place():
    found = taps(traced("torchvision resnet"))
    assert found["conv1"] == "relu"
    assert found["layer1.0.conv1"] == "layer1.0.relu"
    assert found["layer1.0.conv2"] == "layer1.0.bn2"
    assert found["layer4.0.downsample.0"] == "layer4.0.downsample.1"


def test_convolutions_before_fused_norms_and_before_none():
    found = taps(traced("densenet"))
    assert found["features.conv0"] == "features.norm0"
    assert found["features.denseblock1.denselayer1.conv1"] == "features.denseblock1.denselayer1.norm2"
    assert found["features.denseblock1.denselayer1.conv2"] == "features.denseblock1.denselayer1.conv2"
    assert found["features.transition1.conv"] == "features.transition1.conv"
    found = taps(traced("test_efficientnet"))
    assert found["conv_stem"] == "bn1"
    assert found["blocks.3.0.conv_dw"] == "blocks.3.0.bn2"
    assert found["blocks.3.0.conv_pwl"] == "blocks.3.0.bn3"
    assert found["blocks.3.0.se.conv_reduce"] == "blocks.3.0.se.act1"


def test_a_convolution_before_a_norm_that_could_hold_its_activation_but_does_not():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), BatchNormAct2d(4, apply_act=False), nn.ReLU(inplace=True), nn.Flatten()
    )
    assert taps(trace_images(net, images_for(16))) == {"0": "2"}


def test_a_convolution_and_a_norm_with_a_permutation_between():
    found = taps(traced("test_convnext"))
    assert found["stages.0.blocks.0.conv_dw"] == "stages.0.blocks.0.conv_dw"
    assert found["stem.0"] == "stem.1"


@pytest.mark.parametrize(
    "name", ["resnet18", "test_efficientnet", "test_nfnet", "test_byobnet", "densenet", "resnet20"]
)
def test_every_convolution_is_there_once(name):
    called = {call.module for call in traced(name).calls}
    convs = [n for n, m in small(name).named_modules() if isinstance(m, nn.Conv2d) and n in called]
    assert sorted(taps(traced(name))) == sorted(convs)
    assert sorted(traced(name).weights) == sorted(convs)


def test_fixed_filters_are_no_convolutions():
    """Blur pooling calls conv2d with a buffer."""
    assert any(type(module).__name__ == "BlurPool2d" for module in small("resnetblur18").modules())
    assert not [name for name in traced("resnetblur18").weights if name.endswith((".aa", "maxpool.1"))]
    assert sorted(taps(traced("resnetblur18"))) == sorted(taps(traced("resnet18")))


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize(
    "wrap", [parametrizations.weight_norm, parametrizations.spectral_norm, nn.utils.weight_norm]
)
def test_convolutions_with_computed_weights(wrap):
    net = nn.Sequential(
        wrap(nn.Conv2d(3, 4, 3)), nn.BatchNorm2d(4), nn.ReLU(), wrap(nn.Conv2d(4, 2, 3)), nn.Flatten()
    )
    found = select(net, "convs")
    assert {layer.name: layer.call for layer in found.values()} == {"0": "2", "3": "3", "output": ""}
    assert list(select(net, "all")) == ["0", "1", "2", "3", "4"]
    seen = trace_images(net, images_for(16))
    assert seen.not_called == []
    assert torch.equal(seen.weights["0"], net.eval()[0].weight)


# --- every leaf call


@pytest.mark.parametrize("name", SMALL)
def test_all_covers_every_leaf_call(name):
    """Counted anew: calls with no call inside (or a norm and its activation), one layer a new tensor."""
    net = small(name)
    with watching(net) as seen:
        output = net(images_for(side_of(name), n=2))
    tensors, names = {}, {}
    for call in seen:
        if (call.inside and not isinstance(call.module, FUSED)) or any(
            isinstance(m, FUSED) for m in call.within
        ):
            continue
        for tensor, version in zip(call.tensors, call.versions, strict=True):
            tensors.setdefault((id(tensor), version), tensor)
            names.setdefault((id(tensor), version), []).append(call.name)
    found = layers(name)
    last = (id(output), output._version)
    assert len(found) == len(tensors) + (last not in tensors)
    assert len(tensors) > 10
    known = {alias for layer in found.values() for alias in (layer.call.partition("[")[0], *layer.aliases)}
    assert {call for calls in names.values() for call in calls} <= {
        alias.partition("[")[0] for alias in known
    }
    by_name = {call.name: call for call in seen}
    for layer in found.values():
        if layer.reason is not None:
            continue
        shapes = [(layer.fold * 2, *layer.shape[layer.fold > 1 :])]
        assert shapes == [tuple(t.shape) for t in by_name[layer.call.partition("[")[0]].tensors[:1]]


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("selection", ["stages", "blocks", "convs", "all"])
def test_the_output_is_the_last_layer(name, selection):
    found = list(layers(name, selection).values())
    assert found[-1].depth == 1
    assert [layer.depth for layer in found] == sorted({layer.depth for layer in found})
    assert "output" in (found[-1].name, *found[-1].aliases)
    if selection != "all":
        assert found[-1].name == "output"
    assert len(found[-1].shape) == 1


class HeadThenMore(nn.Module):
    """The output is computed before something else."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head, self.extra = nn.Conv2d(3, 4, 3), nn.Linear(4, 2), nn.Linear(4, 7)

    def forward(self, x):
        x = self.conv(x).mean((2, 3))
        out = self.head(x)
        return {"extra": self.extra(x), "out": out}


@pytest.mark.parametrize("selection", ["stages", "blocks", "convs", "all"])
def test_the_output_is_the_last_layer_though_it_was_not_computed_last(selection):
    *_, last = select(HeadThenMore(), selection).values()
    assert (last.name, last.shape, last.depth) == ("output", (2,), 1)
    assert "head" in last.aliases


class NamedOutput(nn.Module):
    """A module called `output` whose output is not the network's."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.output = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

    def forward(self, x):
        return F.softmax(self.output(self.conv(x).mean((2, 3))), dim=1)


def test_names_are_never_given_twice():
    found = select_layers(trace_images(NamedOutput(), images_for(16)), "all")
    assert [(layer.name, layer.call) for layer in found] == [
        ("conv", "conv"),
        ("output#0", "output"),
        ("output", ""),
    ]


@pytest.mark.parametrize("net", [nn.Conv2d(3, 4, 3), nn.Identity(), nn.Flatten()])
def test_a_network_that_is_a_single_layer(net):
    for selection in ("stages", "blocks", "convs", "all"):
        ((name, layer),) = select(net, selection).items()
        assert (name, layer.depth, layer.call) == ("output", 1, "")


# --- names, aliases, order


def test_one_module_called_twice():
    found = layers("torchvision resnet")
    assert {"layer1.0.relu", "layer1.0.relu#1"} <= set(found)
    order = [
        "layer1.0.conv1",
        "layer1.0.bn1",
        "layer1.0.relu",
        "layer1.0.conv2",
        "layer1.0.bn2",
        "layer1.0.relu#1",
    ]
    assert sorted(order, key=lambda name: found[name].index) == order
    assert "layer1" in found["layer1.0.relu#1"].aliases


def test_modules_that_hand_on_their_input_are_no_layers():
    found = {layer.name: layer for layer in select_layers(on_meta("resnet18"), "all")}
    inside = [name for name in found if name.startswith("layer1.0.")]
    assert inside == [f"layer1.0.{part}" for part in ("conv1", "bn1", "act1", "conv2", "bn2", "act2")]
    assert "layer1.0.drop_block" in found["layer1.0.bn1"].aliases
    assert "layer1.0.aa" in found["layer1.0.act1"].aliases
    assert "head_drop" not in layers("test_vit")
    assert not any("drop" in name for name in layers("test_efficientnet"))


def test_a_norm_and_its_activation_in_one_module():
    found = layers("densenet")
    norms = [n for n, m in small("densenet").named_modules() if isinstance(m, BatchNormAct2d)]
    assert len(norms) > 5
    assert set(norms) <= set(found)
    assert not [name for name in found if name.rpartition(".")[0] in norms]


class Several(nn.Module):
    def forward(self, x):
        return x + 1, None, 3, [x + 2, (x > 0)], {"k": x + 3}


class UsesSeveral(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.several, self.last = Several(), nn.Conv2d(3, 2, 1)

    def forward(self, x):
        return self.last(self.several(x)[0])


def test_tuples_lists_and_dictionaries():
    found = select(UsesSeveral())
    assert list(found) == ["several[0]", "several[3][0]", "several[3][1]", "several[4][k]", "last"]
    assert found["several[3][1]"].reason == "not floating-point"
    assert [layer.reason for name, layer in found.items() if name != "several[3][1]"] == [None] * 4


class Shared(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 3, 1)
        self.again = self.first
        self.parts = nn.ModuleList([self.first])

    def forward(self, x):
        return self.again(self.first(x))


def test_one_module_under_several_names():
    found = select(Shared())
    assert list(found) == ["first", "first#1"]
    assert {"again", "parts.0"} <= set(found["first"].aliases)


# --- patterns


def test_patterns():
    seen = traced("resnet18")
    for pattern, expected in (
        ("layer?", ["layer1", "layer2", "layer3", "layer4"]),
        ("layer[34].0.conv1", ["layer3.0.conv1", "layer4.0.conv1"]),
        ("fc", ["fc"]),
        ("output", ["output"]),
        ("layer1,layer2", ["layer1", "layer2"]),
        (["layer2", "conv1"], ["conv1", "layer2"]),
        (["layer4.1", "layer4"], ["layer4.1"]),  # the same tensor
        ("fc,output", ["output"]),
    ):
        found = select_layers(seen, pattern)
        assert [layer.name for layer in found] == expected
        assert found[-1].depth == 1
    mixed = [layer.name for layer in select_layers(seen, ["stages", "layer1.0.bn1"])]
    assert mixed == ["layer1.0.bn1", "layer1", "layer2", "layer3", "layer4", "output"]


def test_names_with_brackets_are_patterns_too():
    seen = trace_images(UsesSeveral(), images_for(16))
    assert [layer.name for layer in select_layers(seen, "several[3][0]")] == ["several[3][0]"]
    assert len(select_layers(seen, "several*")) == 4


def test_calls_after_the_first_match_by_their_names():
    found = select_layers(traced("torchvision resnet"), "layer1.0.relu*")
    assert [layer.call for layer in found] == ["layer1.0.relu", "layer1.0.relu#1"]


@pytest.mark.parametrize(
    ("pattern", "near"),
    [("layer1.0.con1", "layer1.0.conv1"), ("stage", "stages"), ("Layer1", "layer1"), ("outptu", None)],
)
def test_an_unknown_pattern_gets_the_nearest_names(pattern, near):
    with pytest.raises(UsageError, match=f"unknown layer or pattern '{pattern}'") as error:
        select_layers(traced("resnet18"), pattern)
    assert "--layers all" in str(error.value)
    if near:
        assert f"did you mean {near}" in str(error.value)


@pytest.mark.parametrize("selection", ["", ",", []])
def test_an_empty_selection(selection):
    with pytest.raises(
        UsageError, match="no layers asked for; expected stages, blocks, convs, all or shell patterns"
    ):
        select_layers(traced("resnet18"), selection)


# --- what was not called


def test_modules_used_functionally_are_listed():
    assert traced("torchvision vit").not_called == [
        f"encoder.layers.encoder_layer_{i}.self_attention.out_proj" for i in range(2)
    ]
    attention = ("features.1.0.attn", "features.1.1.attn", "features.3.0.attn")
    assert traced("torchvision swin").not_called == [
        f"{name}.{part}" for name in attention for part in ("qkv", "proj")
    ]
    assert on_meta("torchvision/googlenet").not_called == [
        f"aux{i}.{part}" for i in (1, 2) for part in ("conv.conv", "conv.bn", "fc1", "fc2")
    ]
    assert traced("resnet18").not_called == []


# --- the batch in a layer


class Windows(nn.Module):
    """Four windows an image, which meet the linear layer as images x windows or as windows x images."""

    def __init__(self, inner: bool) -> None:
        super().__init__()
        self.inner, self.linear = inner, nn.Linear(48, 5)

    def forward(self, x):
        x = x.reshape(len(x), 4, -1)[:, :, :48]
        if self.inner:
            return self.linear(x.transpose(0, 1).reshape(-1, 48)).reshape(4, -1, 5).mean(0)
        return self.linear(x.reshape(-1, 48)).reshape(-1, 4, 5).mean(1)


@pytest.mark.parametrize("inner", [False, True])
def test_windows_are_folded_into_their_image(inner):
    layer = select(Windows(inner))["linear"]
    assert (layer.shape, layer.fold, layer.batch_inner, layer.reason) == ((4, 5), 4, inner, None)
    assert layer.channel_axis == 1


@pytest.mark.parametrize(("name", "windows"), [("swin", 4), ("swinv2", 4), ("levit", 196), ("test_vit", 1)])
def test_the_order_of_windows_and_images_is_the_real_one(name, windows):
    """One image of two is exchanged: only its part of a layer may change."""
    net, images = small(name), images_for(side_of(name), n=3, seed=4)
    outputs = []
    for pair in (images[:2], images[[0, 2]]):
        with watching(net) as seen:
            net(pair)
        outputs.append({call.name: call.copies[0] for call in seen if call.copies})
    for layer in layers(name).values():
        if layer.reason is not None:
            continue
        one, two = (
            tensor.reshape(layer.fold, 2, -1).transpose(0, 1)
            if layer.batch_inner
            else tensor.reshape(2, layer.fold, -1)
            for tensor in (found[layer.call.partition("[")[0]] for found in outputs)
        )
        torch.testing.assert_close(one[0], two[0], rtol=1e-3, atol=1e-4)
    assert max(layer.fold for layer in layers(name).values()) == windows


class WindowsThenLinear(nn.Module):
    """(windows, images, features) as recurrent networks have it: dim 0 holds no images."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)

    def forward(self, x):
        return self.linear(x.flatten(2).permute(2, 0, 1)).mean(0)


@pytest.mark.parametrize(("side", "reason"), [(16, MIXED), (15, "dim 0 is not a multiple of the batch")])
def test_a_batch_in_another_dimension_has_a_reason(side, reason):
    found = select(WindowsThenLinear(), "all", images_for(side))
    assert found["linear"].reason == reason
    assert found["output"].reason is None


def test_layers_that_do_not_depend_on_the_images():
    bias = {name: layer for name, layer in layers("swinv2").items() if ".cpb_mlp." in name}
    assert len(bias) == 3 * 3
    assert {layer.reason for layer in bias.values()} == {"input-independent"}
    assert not [name for name, layer in layers("swinv2").items() if layer.reason and name not in bias]


class Constants(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.even, self.odd, self.zero = nn.Identity(), nn.Identity(), nn.Linear(3, 3)
        nn.init.zeros_(self.zero.weight)
        nn.init.zeros_(self.zero.bias)
        self.empty, self.scalar, self.head = nn.Identity(), nn.Identity(), nn.Linear(3, 2)

    def forward(self, x):
        table = self.even(torch.arange(8.0).reshape(4, 2)).sum() + self.odd(torch.ones(5, 3)).sum()
        self.empty(x[:0])
        scale = self.scalar(x.sum())
        x = x.mean((2, 3))
        return self.head(x + self.zero(x) + 0 * table + 0 * scale)


def test_every_layer_that_cannot_be_measured_has_its_reason():
    found = select(Constants())
    assert found["even"].reason == found["odd"].reason == "input-independent"
    assert found["empty"].reason == found["scalar"].reason == "not a batch: no dimension or no element"
    assert (found["zero"].reason, found["zero"].uniform) == (None, True)
    assert (found["head"].reason, found["head"].uniform) == (None, False)


class Fickle(nn.Module):
    """Calls a module only for some images."""

    def __init__(self) -> None:
        super().__init__()
        self.sometimes, self.head = nn.Conv2d(3, 3, 1), nn.Linear(3, 2)

    def forward(self, x):
        if x[0, 0, 0, 0] > 0:
            x = self.sometimes(x)
        return self.head(x.mean((2, 3)))


def test_a_layer_that_is_not_always_called_has_a_reason():
    images = images_for(16)
    images[0, 0, 0, 0], images[1, 0, 0, 0] = 1, -1
    assert (
        select(Fickle(), "all", images)["sometimes"].reason
        == "not called, or of another shape, in a second forward"
    )


@pytest.mark.parametrize("side", [16, 64])
def test_images_that_see_each_other_have_a_reason(side):
    """Batch-norm without running statistics is the same in evaluation as in training."""
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, track_running_stats=False), nn.ReLU())
    found = select(net, "all", images_for(side))
    assert [layer.reason for layer in found.values()] == [None, SHARED, SHARED]


@pytest.mark.parametrize("name", SMALL)
def test_images_of_real_networks_do_not_see_each_other(name):
    assert not {SHARED, MIXED} & {layer.reason for layer in layers(name).values()}


# --- what a look leaves behind


def hooks(net: nn.Module) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in net.modules())


def test_looking_changes_nothing():
    net = load_model("test_resnet", pretrained=False).module.train()
    net.layer1.eval()
    flags, before = [m.training for m in net.modules()], state_sha256(net.state_dict())
    images = images_for(64)
    kept = images.clone()
    trace_images(net, images)
    assert [m.training for m in net.modules()] == flags
    assert state_sha256(net.state_dict()) == before
    assert torch.equal(images, kept)
    assert hooks(net) == 0


class Failing(Blocks):
    def forward(self, x):
        super().forward(x)
        raise ZeroDivisionError


def test_nothing_is_left_behind_by_a_forward_that_fails():
    net = Failing().train()
    with pytest.raises(ZeroDivisionError):
        trace_images(net, images_for(16))
    assert hooks(net) == 0
    assert all(module.training for module in net.modules())


def test_looking_twice_shows_the_same():
    one, two = (select_layers(trace_images(small("resnet18"), images_for(64)), "all") for _ in range(2))
    assert one == two


def test_a_model_itself_is_traced_on_images():
    net, images = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten()), torch.randn(5, 1, 6, 6)
    assert select_layers(net, "all", images) == select_layers(trace_images(net, images[:3]), "all")
    with pytest.raises(UsageError, match=r"select_layers\(model, layers, images\) needs 3 images .* None"):
        select_layers(net, "all")
    with pytest.raises(UsageError, match=r"needs 3 images .* got \(2, 1, 6, 6\)"):
        select_layers(net, "all", images[:2])
    with pytest.raises(UsageError, match="expected a model with images, or its trace, got str"):
        select_layers("lenet", "all")
