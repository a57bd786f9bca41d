"""Evaluation mode is everywhere inside, and every training flag is as it was afterwards."""

import pytest
import torch
from torch import nn

from timm_diffsens.device.evaluation import evaluating
from timm_diffsens.models.first_conv import first_convolution
from timm_diffsens.models.layers import trace_images
from timm_diffsens.models.variants.init import reinitialise
from timm_diffsens.sensitivities.probe import Probe


class Contrary(nn.Sequential):
    """Its own `train` trains everything, whatever the mode asked for, and returns nothing."""

    def train(self, mode: bool = True) -> None:
        for part in self.modules():
            part.training = True


class Seen(nn.Module):
    """Keeps whether each forward was in evaluation mode."""

    def __init__(self) -> None:
        super().__init__()
        self.modes: list[bool] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.modes.append(self.training)
        return x


def mixed() -> tuple[nn.Module, Seen]:
    """A network with some parts in training mode and some frozen, and a `train` that cannot be trusted."""
    seen = Seen()
    net = Contrary(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), seen, nn.Flatten(), nn.LazyLinear(2))
    net(torch.zeros(2, 3, 8, 8))
    net[1].training = net[3].training = False
    seen.training = True
    seen.modes.clear()
    return net, seen


def flags(net: nn.Module) -> list[bool]:
    return [part.training for part in net.modules()]


def test_the_flags_come_back_also_after_an_error():
    net, _ = mixed()
    before = flags(net)
    assert {*before} == {True, False}
    with evaluating(net):
        assert not any(flags(net))
    assert flags(net) == before
    with pytest.raises(ZeroDivisionError), evaluating(net):
        1 / 0  # noqa: B018
    assert flags(net) == before


def probed(net: nn.Module, images: torch.Tensor) -> None:
    with Probe(net, layers="all"), torch.no_grad():
        net(images)


@pytest.mark.parametrize(
    "use", [probed, trace_images, lambda net, images: first_convolution(net, tuple(images.shape[1:]))]
)
def test_what_looks_at_a_network_leaves_its_flags_and_its_statistics(use):
    net, seen = mixed()
    net[1].training = True  # would move its running statistics
    before, state = flags(net), {name: value.clone() for name, value in net.state_dict().items()}
    use(net, torch.randn(3, 3, 8, 8))
    assert flags(net) == before
    assert not any(seen.modes)
    assert all(torch.equal(value, state[name]) for name, value in net.state_dict().items())


def test_a_network_whose_train_returns_nothing_can_be_initialised_again():
    fresh = reinitialise(Contrary(nn.Linear(3, 2)), seed=1)
    assert torch.equal(fresh[0].weight, reinitialise(Contrary(nn.Linear(3, 2)), seed=1)[0].weight)
