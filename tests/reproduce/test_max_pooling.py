"""Max-pooling taken out of fresh networks."""

import copy
from pathlib import Path

import pytest
import torch
from tiny import TINY, cifar
from torch import nn

from timm_diffsens.reproduce.max_pooling import Subsampling, max_pooling_tested, without_max_pooling
from timm_diffsens.reproduce.workspace import Workspace


@pytest.mark.parametrize("side", [7, 8])
@pytest.mark.parametrize("pooling", [nn.MaxPool2d(2), nn.MaxPool2d(3, 2, 1), nn.MaxPool2d(3, 2)])
def test_every_second_pixel_stands_where_a_maximum_did(pooling, side):
    x = torch.rand(2, 3, side, side)
    found = Subsampling(pooling)(x)
    assert found.shape == pooling(x).shape
    assert torch.equal(found, x[..., ::2, ::2][..., : found.shape[-2], : found.shape[-1]])


def test_all_of_a_network_are_replaced_and_nothing_else():
    plain = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Sequential(nn.MaxPool2d(2), nn.ReLU()), nn.MaxPool2d(2))
    changed = copy.deepcopy(plain)
    assert without_max_pooling(changed) == 2
    assert without_max_pooling(changed) == 0
    constant = torch.ones(1, 1, 14, 14)  # of which every pixel is the maximum
    assert torch.equal(changed(constant), plain(constant))


def test_a_network_that_pools_no_maxima_has_nothing_tested():
    workspace = Workspace(Path("unused"), TINY)
    workspace.__dict__["cifar10_images"] = lambda count: torch.rand(count, 3, 32, 32)
    assert max_pooling_tested(workspace, cifar("net/resnet20", 4)) == ""
    text = max_pooling_tested(workspace, cifar("net/vgg11", 4))
    assert text.startswith(
        "tested: before training log(R_K / R_1) of vgg11 is -"
    )  # pooling alone lets R fall
