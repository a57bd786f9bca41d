"""The small networks: sizes counted by hand, and the functions they must be."""

import pytest
import torch
from torch import nn

from timm_diffsens.models.nets import NETS, CifarResNet, FullyConnected, LeNet, ResidualBlock

PARAMETERS = {
    # 3072 w + w, (depth - 2) (w w + w), 10 w + 10 with w = 512
    "fc2": 1_578_506,
    "fc4": 2_103_818,
    "fc6": 2_629_130,
    # 5 x 5 x 3 x 6 + 6, 5 x 5 x 6 x 16 + 16, 400 x 120 + 120, 120 x 84 + 84, 84 x 10 + 10
    "lenet": 62_006,
    # He et al. 2016: 0.27 and 0.46 million, here with projections as shortcuts where the width changes
    "resnet20": 272_474,
    "resnet32": 466_906,
}


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
    ],
)
def test_depths(name, convolutions, linear):
    assert numbers_of_layers(NETS[name]()) == (convolutions, linear)


@pytest.mark.parametrize("name", NETS)
def test_ten_classes_image_by_image(name):
    net = NETS[name]().eval()
    images = torch.rand(4, 3, 32, 32)
    with torch.no_grad():
        together = net(images)
        assert together.shape == (4, 10)
        torch.testing.assert_close(net(images[2:3]), together[2:3], rtol=1e-4, atol=1e-5)
        assert not torch.allclose(together[0], together[1])


@pytest.mark.parametrize("name", NETS)
def test_every_call_makes_another_network(name):
    one, two = NETS[name](), NETS[name]()
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
