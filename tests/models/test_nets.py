"""The small networks: sizes counted by hand, and the functions they must be."""

import pytest
import torch
from torch import nn

from timm_diffsens.errors import UsageError
from timm_diffsens.models.arguments import SCALES
from timm_diffsens.models.nets import NETS, make_net, net_arguments
from timm_diffsens.models.nets.plain import VGG, AlexNet, FullyConnected, LeNet
from timm_diffsens.models.nets.residual import CifarResNet, ResidualBlock
from timm_diffsens.models.variants.init import reinitialise


def vgg_size(*widths: int, batch_norm: bool) -> int:
    """3 x 3 filters and a bias, or two vectors of batch-norm, a layer; then 512 x 10 + 10."""
    convolutions = sum(9 * a * b for a, b in zip((3, *widths), widths, strict=False))
    return convolutions + sum(widths) * (2 if batch_norm else 1) + 5130


VGG11 = (64, 128, 256, 256, 512, 512, 512, 512)
VGG13 = (64, 64, 128, 128, 256, 256, 512, 512, 512, 512)
VGG16 = (64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512)

PARAMETERS = {
    # twelve 3 x 3 convolutions of 128 channels without bias, and the read-out
    "simple": 9 * 3 * 128 + 11 * 9 * 128 * 128 + 128 * 10,
    # 3072 w + w, (depth - 2) (w w + w), 10 w + 10 with w = 512
    "fc2": 1_578_506,
    "fc4": 2_103_818,
    "fc6": 2_629_130,
    # 5 x 5 x 3 x 6 + 6, 5 x 5 x 6 x 16 + 16, 400 x 120 + 120, 120 x 84 + 84, 84 x 10 + 10
    "lenet": 62_006,
    # He et al. 2016: 0.27 and 0.46 million, here with projections as shortcuts where the width changes
    "resnet20": 272_474,
    "resnet32": 466_906,
    # 3 x 3 filters and biases; 256 maps of 2 x 2 -> 512 -> 512 -> 10
    "alexnet": 9 * (3 * 64 + 64 * 192 + 192 * 384 + 384 * 256 + 256 * 256)
    + (64 + 192 + 384 + 256 + 256)
    + (1024 * 512 + 512 + 512 * 512 + 512 + 512 * 10 + 10),
    "vgg11": vgg_size(*VGG11, batch_norm=False),
    "vgg11_bn": vgg_size(*VGG11, batch_norm=True),
    "vgg13": vgg_size(*VGG13, batch_norm=False),
    "vgg13_bn": vgg_size(*VGG13, batch_norm=True),
    "vgg16": vgg_size(*VGG16, batch_norm=False),
    "vgg16_bn": vgg_size(*VGG16, batch_norm=True),
    # torchvision's 11,689,512 with a 3 x 3 in place of a 7 x 7 stem, and 10 classes in place of 1,000
    "resnet18": 11_689_512 - (49 - 9) * 3 * 64 - 990 * 513,
}
# All networks, none wider than needed to see what they compute.
NARROW = {"simple": {"width": 8, "depth": 3}, "resnet18": {"width": 4}, "alexnet": {"width": 8}}
NARROW |= {name: {"width": 8} for name in NETS if name.startswith("vgg")}


def narrow(name: str, **arguments: int) -> nn.Module:
    return make_net(name, **{**NARROW.get(name, {}), **arguments})


def numbers_of_layers(net: nn.Module) -> tuple[int, int]:
    return tuple(sum(isinstance(m, kind) for m in net.modules()) for kind in (nn.Conv2d, nn.Linear))


def test_all_networks_are_counted_here():
    assert set(NETS) == set(PARAMETERS)


@pytest.mark.parametrize("name", NETS)
def test_parameters(name):
    assert sum(p.numel() for p in NETS[name]().parameters()) == PARAMETERS[name]


@pytest.mark.parametrize(
    ("name", "convolutions", "linear"),
    [
        ("fc2", 0, 2),
        ("fc4", 0, 4),
        ("fc6", 0, 6),
        ("lenet", 2, 3),
        ("resnet20", 19 + 2, 1),  # 20 weight layers on the way, two projections beside it
        ("resnet32", 31 + 2, 1),
        ("resnet18", 17 + 3, 1),
        ("simple", 12, 1),
        ("alexnet", 5, 3),
        ("vgg11", 8, 1),
        ("vgg13_bn", 10, 1),
        ("vgg16", 13, 1),
    ],
)
def test_depths(name, convolutions, linear):
    assert numbers_of_layers(NETS[name]()) == (convolutions, linear)


@pytest.mark.parametrize("name", NETS)
def test_ten_classes_image_by_image(name):
    net = narrow(name).eval()
    images = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        together = net(images)
        assert together.shape == (4, 10)
        torch.testing.assert_close(net(images[2:3]), together[2:3], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(together[0], together[1])


@pytest.mark.parametrize("name", NETS)
def test_every_call_makes_another_network(name):
    one, two = narrow(name), narrow(name)
    assert not {id(p) for p in one.parameters()} & {id(p) for p in two.parameters()}
    assert not torch.equal(one(torch.ones(2, 3, 32, 32)), two(torch.ones(2, 3, 32, 32)))


def test_a_fully_connected_network_of_depth_one_is_linear():
    net = FullyConnected(1, channels=1, side=4, classes=3)
    a, b = torch.rand(2, 5, 1, 4, 4)
    torch.testing.assert_close(net(a + b) + net(torch.zeros_like(a)), net(a) + net(b))


def test_a_fully_connected_network_does_not_know_where_pixels_are():
    net = FullyConnected(3, width=7, channels=2, side=4, classes=3)
    order = torch.randperm(32)
    images = torch.rand(5, 2, 4, 4)
    before = net(images)
    with torch.no_grad():
        net[1].weight.copy_(net[1].weight[:, order])
    torch.testing.assert_close(net(images.flatten(1)[:, order].reshape(5, 2, 4, 4)), before)


def test_maps_of_lenet():
    shapes = []
    x = torch.rand(1, 3, 32, 32)
    for layer in LeNet():
        x = layer(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes[:7] == [
        (6, 28, 28),
        (6, 28, 28),
        (6, 14, 14),
        (16, 10, 10),
        (16, 10, 10),
        (16, 5, 5),
        (400,),
    ]


def test_maps_of_a_residual_network():
    net = CifarResNet(1, width=4, channels=1, classes=3).eval()
    x, shapes = torch.rand(2, 1, 32, 32), []
    for part in net:
        x = part(x)
        shapes.append(tuple(x.shape[1:]))
    assert shapes == [(4, 32, 32), (4, 32, 32), (8, 16, 16), (16, 8, 8), (3,)]


@pytest.mark.parametrize(("outputs", "stride"), [(4, 1), (8, 2), (8, 1), (4, 2)])
def test_a_block_adds_to_its_shortcut(outputs, stride):
    block = ResidualBlock(4, outputs, stride).eval()
    x = torch.randn(2, 4, 8, 8)
    nn.init.zeros_(block.bn2.weight)
    expected = block.shortcut(x)
    assert expected.shape == (2, outputs, 8 // stride, 8 // stride)
    assert torch.equal(block(x), expected.clamp(min=0))
    if (outputs, stride) == (4, 1):
        assert torch.equal(expected, x)
    nn.init.ones_(block.bn2.weight)
    inner = block.bn2(block.conv2(block.bn1(block.conv1(x)).clamp(min=0)))
    torch.testing.assert_close(block(x), (inner + expected).clamp(min=0))


@pytest.mark.parametrize("name", NETS)
def test_one_channel_and_a_single_score(name):
    net = narrow(name, channels=1, classes=1).eval()
    with torch.no_grad():
        assert net(torch.rand(3, 1, 32, 32)).shape == (3, 1)


@pytest.mark.parametrize(
    ("name", "sides"),
    [
        ("lenet", (16, 17, 28, 31, 33, 48, 64)),
        ("alexnet", (16, 17, 28, 31, 33, 48, 64)),
        ("vgg11", (32, 33, 48, 64)),
        ("resnet18", (8, 31, 64)),
        ("fc4", (5, 33)),
        ("simple", (5, 33)),
    ],
)
def test_sides(name, sides):
    for side in sides:
        net = narrow(name, side=side, channels=2, classes=3).eval()
        with torch.no_grad():
            assert net(torch.rand(2, 2, side, side)).shape == (2, 3)


@pytest.mark.parametrize(("name", "side"), [("lenet", 15), ("alexnet", 15), ("vgg16_bn", 31)])
def test_images_that_are_too_small(name, side):
    with pytest.raises(UsageError, match=rf"needs images of at least .* got side {side}"):
        make_net(name, side=side)


def test_width_is_that_of_the_first_layer():
    assert [m.out_channels for m in VGG(11, width=8).modules() if isinstance(m, nn.Conv2d)] == [
        *(8, 16, 32, 32, 64, 64, 64, 64)
    ]
    assert [m.out_channels for m in AlexNet(width=2).modules() if isinstance(m, nn.Conv2d)] == [
        2,
        6,
        12,
        8,
        8,
    ]
    assert make_net("resnet18", width=4)[0][0].out_channels == 4
    assert make_net("fc2", width=7)[1].out_features == 7


def test_layers_have_the_names_of_the_literature():
    names = [name for name, m in VGG(16, True, width=2).named_children() if isinstance(m, nn.Conv2d)]
    assert names[0] == "conv1_1"
    assert names[-3:] == ["conv5_1", "conv5_2", "conv5_3"]
    assert [n for n, _ in VGG(11, True, width=2).named_children()][:4] == [
        "conv1_1",
        "bn1_1",
        "relu1_1",
        "pool1",
    ]
    assert [n for n, _ in AlexNet(width=2).named_children() if n[-1] == "8" or "5" in n] == [
        *("conv5", "relu5", "pool5", "fc8")
    ]


@pytest.mark.parametrize("name", ["vgg16", "alexnet"])
def test_the_signal_keeps_its_scale_through_the_depth(name):
    """He's variance 2 / fan_in keeps the mean square; borders of zeros and poolings change it by factors.

    torch's own 1 / (3 fan_in) would divide it by 6 a layer: by 6^12 = 2e9 over VGG-16's convolutions.
    """
    for net in (make_net(name), reinitialise(make_net(name), seed=1)):
        x, seen = torch.randn(4, 3, 32, 32), []
        for module in net:
            x = module(x).detach()
            seen += [float(x.square().mean())] if isinstance(module, nn.Conv2d) else []
        assert all(1 / 50 < value / seen[0] < 50 for value in seen)


def test_reinitialise_follows_from_the_seed():
    for name in NETS:
        net = narrow(name)
        images = torch.rand(2, 3, 32, 32)
        one, same, other = (reinitialise(net, seed=seed).eval()(images) for seed in (1, 1, 2))
        assert torch.equal(one, same)
        assert not torch.equal(one, other)


# --- the common vocabulary


def test_what_each_network_knows():
    common = ("channels", "classes", "side")
    assert all(net_arguments(name)[:3] == common for name in NETS)
    assert {name: net_arguments(name)[3:] for name in NETS} == {
        "simple": (*("dims", "width", "depth", "filter", "stride", "bias"), *SCALES),
        **dict.fromkeys(("fc2", "fc4", "fc6"), ("dims", "width")),
        "lenet": (),
        **{name: ("width",) for name in NETS if name.startswith(("vgg", "resnet", "alexnet"))},
    }


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("lenet", {"width": 3}, "net/lenet takes no argument 'width'; it takes channels, classes, side$"),
        ("vgg11", {"depth": 3}, "net/vgg11 takes no argument 'depth'; it takes channels, .*, width$"),
        ("resnet20", {"stages": 2}, "net/resnet20 takes no argument 'stages'"),
        ("resnet20", {"dims": 1}, r"net/resnet20 takes no 1-D inputs \(dims=1\)"),
        ("fc2", {"width": 0}, "net/fc2: width must be a positive integer, got 0"),
        ("fc2", {"width": 2.5}, "net/fc2: width must be a positive integer, got 2.5"),
    ],
)
def test_arguments_that_a_network_cannot_have(name, arguments, message):
    with pytest.raises(UsageError, match=message):
        make_net(name, **arguments)


def test_two_dimensions_may_be_said_to_all():
    for name in NETS:
        narrow(name, dims=2)


def test_a_fully_connected_network_of_sequences():
    net = make_net("fc4", dims=1, side=20, channels=2, classes=1, width=5)
    assert net(torch.rand(3, 2, 20)).shape == (3, 1)
    assert net[1].in_features == 40
