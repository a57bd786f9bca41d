"""A_k and mean filters of networks: closed forms, bias, channels, initialisation."""

import math

import numpy as np
import pytest
import scipy.integrate
import torch
from reference import layer_matrix
from torch import nn

from timm_diffsens.errors import UsageError
from timm_diffsens.spectra.filter_means import mean_filter, mean_filters_by_layer
from timm_diffsens.theory.homogeneous import homogeneous_network
from timm_diffsens.theory.predictions import effective_receptive_field
from timm_diffsens.theory.receptive_field import diffusion, receptive_fields


@pytest.mark.parametrize("filter_size", [2, 3, 4])
def test_the_homogeneous_network_is_the_matrix(filter_size):
    x = torch.from_numpy(np.random.default_rng(0).random((5, 1, filter_size**3)))
    for stride in (1, filter_size):
        y = homogeneous_network(2, filter_size, stride)(x)[:, 0].numpy()
        two = layer_matrix(filter_size**3 // stride, filter_size, stride) @ layer_matrix(
            filter_size**3, filter_size, stride
        )
        assert np.allclose(y, x[:, 0].numpy() @ two.T, rtol=1e-13)


@pytest.mark.parametrize(("depth", "filter_size", "stride"), [(8, 3, 1), (6, 4, 1), (5, 2, 2), (3, 3, 3)])
def test_measured_equals_exact(depth, filter_size, stride):
    length = 64 if stride == 1 else filter_size**depth
    fields = receptive_fields(homogeneous_network(depth, filter_size, stride), length)
    assert len(fields) == depth
    for k, field in enumerate(fields, start=1):
        # the root of a difference of sums of order A^2 <= 64
        expected = effective_receptive_field(k, filter_size, stride)
        assert math.isclose(field.width, expected, rel_tol=1e-10)


def test_few_positions_do_where_the_network_treats_all_alike():
    network = homogeneous_network(4, 3)
    every, few = (receptive_fields(network, 32, positions) for positions in (None, 2))
    assert np.allclose([f.width for f in every], [f.width for f in few], rtol=1e-12)


def test_the_width_of_an_uneven_filter():
    network = homogeneous_network(1, 3)
    network[1].weight.copy_(torch.tensor([[[0.0, 1.0, 3.0]]]))  # the pixel spreads to itself and to its left
    (field,) = receptive_fields(network, 16)
    assert math.isclose(field.shift, -0.75)
    assert math.isclose(field.width, math.sqrt(0.25 * 0.75))


# ---- Proposition A.1


@pytest.mark.parametrize("filter_size", [2, 3, 4, 5, 6, 9])
def test_printed_constants_are_integrals_and_exact_ones_sums(filter_size):
    row, f = diffusion(filter_size, 5), filter_size
    low, high = (-(f - 1) / 2, (f - 1) / 2) if f % 2 else (-f / 2, f / 2 - 1)
    places = np.arange(low, high + 1)
    assert len(places) == f
    drift, constant = (scipy.integrate.quad(lambda x, p=p: x**p / f, low, high)[0] for p in (1, 2))
    assert math.isclose(row.constant_printed, constant)
    assert math.isclose(row.drift_printed, drift, abs_tol=1e-12)
    assert math.isclose(row.constant_exact, places.var() / 2)
    assert row.drift_exact == places.mean()
    assert math.isclose(row.width_measured, row.width_exact, rel_tol=1e-10)
    assert math.isclose(row.drift_measured, row.drift_exact, abs_tol=1e-10)
    assert math.isclose(row.width_printed, math.sqrt(2 * row.constant_printed * 5))


def test_the_printed_constant_is_off_by_two_thirds_at_three_and_two_in_the_limit():
    small, large = diffusion(3, 2), diffusion(301, 2)
    assert math.isclose(small.constant_printed / small.constant_exact, 2 / 3)
    assert abs(large.constant_printed / large.constant_exact - 2) < 8 / 301  # 2 (F - 1)^2 / (F (F + 1))


# ---- mean filters


def test_mean_filters_of_a_homogeneous_network():
    for found in mean_filters_by_layer(homogeneous_network(3, 4)):
        assert np.allclose(found.shares, 0.25)
        assert found.variation == pytest.approx(0, abs=1e-12)
        assert found.constant_share == pytest.approx(1)


def test_channels_are_averaged_and_small_filters_left_out():
    network = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 2, (1, 5)))
    found = mean_filters_by_layer(network)
    assert [f.layer for f in found] == ["0", "3"]
    assert [f.filter.shape for f in found] == [(3, 3), (1, 5)]
    weight = network[0].weight.detach().double().numpy()
    assert np.allclose(found[0].filter, sum(weight[i, j] for i in range(4) for j in range(2)) / 8)
    for f in found:
        assert f.constant_share == pytest.approx(1 / (1 + f.variation**2))
        assert f.shares.sum() == pytest.approx(1)


def test_filters_that_cancel():
    found = mean_filter("a", np.array([[[1.0, 0.0, -1.0]]]))
    assert (found.shares, found.variation, found.constant_share) == (None, None, 0)
    assert mean_filter("a", np.zeros((2, 2, 3))).constant_share is None


def test_at_initialisation_the_constant_mode_has_one_share_in_size():
    """A Gaussian filter has no preferred direction, so each of its `size` modes has the same mean share."""
    weights = np.random.default_rng(0).standard_normal((4000, 8, 8, 3))
    shares = [mean_filter("a", weight).constant_share for weight in weights]
    assert abs(np.mean(shares) - 1 / 3) < 4 * np.std(shares) / math.sqrt(len(shares))


def test_a_network_without_filters_is_refused():
    with pytest.raises(UsageError, match="no convolution larger"):
        mean_filters_by_layer(nn.Linear(3, 3))
