"""The paper's simple CNN against loops over pixels, and its scaling with the width."""

import copy
import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn

from timm_diffsens import Probe, filter_spectrum, sensitivity
from timm_diffsens.benchmark.averages import filter_spectra
from timm_diffsens.errors import UsageError
from timm_diffsens.models.layers import select_layers, trace_images
from timm_diffsens.models.nets.simple import MeanFieldConv1d, MeanFieldConv2d, MeanFieldLinear, SimpleCNN
from timm_diffsens.models.variants.channel_shuffled import shuffle_channels
from timm_diffsens.models.variants.init import reinitialise
from timm_diffsens.models.variants.mean_filter import mean_filters

SHAPES = [(3, 1), (5, 1), (1, 1), (2, 1), (4, 1), (6, 1), (2, 2), (3, 3)]  # filter, stride
CONVS = {1: MeanFieldConv1d, 2: MeanFieldConv2d}
IMAGES_1D = torch.randn(6, 2, 12, generator=torch.Generator().manual_seed(3))


def reference(x: np.ndarray, weight: np.ndarray, stride: int) -> np.ndarray:
    """One output place after another; at stride 1 the places F // 2 to the left of it and on, on a ring."""
    size, dims = weight.shape[-1], weight.ndim - 2
    left = size // 2 if stride == 1 else 0
    out = np.zeros((len(x), len(weight), *(side // stride for side in x.shape[2:])))
    for place in np.ndindex(*out.shape[2:]):
        for tap in np.ndindex(*(size,) * dims):
            at = tuple(
                (p * stride - left + t) % side for p, t, side in zip(place, tap, x.shape[2:], strict=True)
            )
            out[(..., *place)] += x[(..., *at)] @ weight[(..., *tap)].T
    return out / math.sqrt(weight[0].size)


def net_1d(**arguments: object) -> SimpleCNN:
    small = {"channels": 2, "classes": 3, "dims": 1, "side": 12, "width": 8, "depth": 3}
    return SimpleCNN(**{**small, **arguments})


def first(net: SimpleCNN, count: int) -> nn.Sequential:
    """Its first `count` modules: two a layer."""
    return nn.Sequential(*list(net)[:count])


# --- what a layer computes


@pytest.mark.parametrize(("filter", "stride"), SHAPES)
@pytest.mark.parametrize(("dims", "sides"), [(1, (12,)), (2, (6, 12))])
def test_a_layer_is_the_loop_over_places(dims, sides, filter, stride):
    conv = CONVS[dims](2, 3, filter, stride).double()
    x = torch.randn(2, 2, *sides, dtype=torch.float64)
    expected = reference(x.numpy(), conv.weight.detach().numpy(), stride)
    np.testing.assert_allclose(conv(x).detach().numpy(), expected, rtol=1e-12, atol=1e-12)
    assert conv(x).shape[2:] == tuple(side // stride for side in sides)


@pytest.mark.parametrize("filter", [2, 3, 4, 5])
def test_equal_filters_are_powers_of_the_papers_circulant_matrix(filter):
    """App. A: ones in the first row, for even F with F / 2 left of the first entry and F / 2 - 1 right."""
    length, depth = 16, 3
    row = np.zeros(length)
    right = (filter - 1) // 2 if filter % 2 else filter // 2 - 1
    left = (filter - 1) // 2 if filter % 2 else filter // 2
    row[[k % length for k in range(-left, right + 1)]] = 1 / math.sqrt(filter)
    matrix = np.array([np.roll(row, shift) for shift in range(length)])
    net = net_1d(channels=1, width=1, depth=depth, filter=filter, side=length).double()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.fill_(1)
        maps = first(net, 2 * depth)(torch.eye(length, dtype=torch.float64)[:, None])[:, 0]
    np.testing.assert_allclose(maps.T.numpy(), np.linalg.matrix_power(matrix, depth), atol=1e-12)


@pytest.mark.parametrize("dims", [1, 2])
def test_the_network_is_layers_relu_average_and_read_out(dims):
    net = SimpleCNN(channels=2, classes=3, dims=dims, side=8, width=4, depth=3, filter=2, stride=2).double()
    x = torch.randn(5, 2, *(8,) * dims, dtype=torch.float64)
    maps = x.numpy()
    for k in (1, 2, 3):
        maps = np.maximum(reference(maps, net.get_submodule(f"conv{k}").weight.detach().numpy(), 2), 0)
    assert maps.shape[2:] == (1,) * dims
    expected = maps.reshape(5, 4, -1).mean(2) @ net.readout.weight.detach().numpy().T / 4
    np.testing.assert_allclose(net(x).detach().numpy(), expected, rtol=1e-12, atol=1e-14)


def test_biases_are_added_unscaled():
    conv = MeanFieldConv1d(2, 3, 3, bias=True)
    assert not conv.bias.any()
    with torch.no_grad():
        conv.bias.copy_(torch.tensor([1.0, 2.0, 3.0]))
    with_bias, without = conv(IMAGES_1D), copy.deepcopy(conv)
    without.bias = None
    torch.testing.assert_close(with_bias - without(IMAGES_1D), conv.bias[:, None].expand(6, 3, 12))
    assert [p.ndim for p in net_1d().parameters()] == [3, 3, 3, 2]


@pytest.mark.parametrize(("bias", "convs"), [("last", [3]), ("all", [1, 2, 3])])
@pytest.mark.parametrize("dims", [1, 2])
def test_biases_and_gain_stand_where_the_formula_has_them(dims, bias, convs):
    """f_k = ReLU(gain w_k * f_(k-1) / sqrt(fan_in) + b_k), and gain beta . <f_K> / H + c."""
    net = SimpleCNN(
        channels=2, classes=3, dims=dims, side=6, width=4, depth=3, bias=bias, bias_std=1.0, gain=1.7
    ).double()
    with torch.no_grad():
        net.readout.bias.copy_(torch.tensor([1.0, -2.0, 3.0]))
    x = torch.randn(5, 2, *(6,) * dims, dtype=torch.float64)
    maps = x.numpy()
    for k in (1, 2, 3):
        conv = net.get_submodule(f"conv{k}")
        assert (conv.bias is not None) == (k in convs)
        made = reference(maps, conv.weight.detach().numpy(), 1) * (1 if k == 1 else 1.7)
        if k in convs:
            assert conv.bias.std() > 0
            made += conv.bias.detach().numpy().reshape(1, -1, *(1,) * dims)
        maps = np.maximum(made, 0)
    features = maps.reshape(5, 4, -1).mean(2)
    expected = 1.7 * features @ net.readout.weight.detach().numpy().T / 4 + np.array([1, -2, 3])
    np.testing.assert_allclose(net(x).detach().numpy(), expected, rtol=1e-12, atol=1e-14)


def test_a_gain_is_a_rescaling_of_the_weights():
    """Every layer's output is gain times that of the network without, whose biases are none."""
    plain, scaled = net_1d().double(), net_1d(gain=3.0).double()
    scaled.load_state_dict(plain.state_dict())
    x = IMAGES_1D.double()
    torch.testing.assert_close(scaled(x), 3.0**3 * plain(x))


def test_filters_of_mean_one_and_no_spread_keep_a_constant_image_at_any_width():
    for width, dims in itertools.product((3, 50), (1, 2)):
        net = SimpleCNN(channels=2, dims=dims, side=6, width=width, depth=3, weight_mean=1.0, weight_std=0.0)
        maps = first(net, 6)(torch.full((1, 2, *(6,) * dims), 5.0))
        # the two channels of the image, 5 each, have the mean 5
        torch.testing.assert_close(maps, torch.full_like(maps, 5.0))


def test_initial_weights_have_the_mean_and_deviations_asked_for_and_so_have_fresh_ones():
    """Of n normal numbers the mean errs by std / sqrt(n), the deviation by std / sqrt(2 n)."""
    net = net_1d(
        width=64, bias="all", bias_mean=-7.0, bias_std=0.5, weight_mean=2.0, weight_std=0.25, readout_mean=3.0
    )
    for one in (net, reinitialise(net, 3)):
        weight, biases = (
            one.conv2.weight.detach(),
            torch.cat([one.get_parameter(f"conv{k}.bias") for k in (1, 2, 3)]),
        )
        n = weight.numel()
        assert float(weight.mean()) == pytest.approx(2 / math.sqrt(64 * 3), abs=4 * 0.25 / math.sqrt(n))
        assert float(weight.std()) == pytest.approx(0.25, rel=4 / math.sqrt(2 * n))
        assert float(biases.detach().std()) == pytest.approx(0.5, rel=4 / math.sqrt(2 * len(biases)))
        assert float(biases.detach().mean()) == pytest.approx(-7, abs=4 * 0.5 / math.sqrt(len(biases)))
        assert not one.readout.bias.any()
        readout = one.readout.weight.detach()  # 3 x 64
        assert float(readout.mean()) == pytest.approx(3, abs=4 / math.sqrt(readout.numel()))
        assert float(readout.std()) == pytest.approx(1, rel=4 / math.sqrt(2 * readout.numel()))


# --- invariance


@pytest.mark.parametrize(("dims", "filter"), itertools.product((1, 2), (3, 4)))
def test_a_shifted_image_gives_the_same_output_to_the_bit(dims, filter):
    """Sums of integers are exact in any order, and so is their average over 8 or 64 places.

    Every fan-in is a square here, so that scaled weights can be integers.
    """
    channels = 4 if filter == 4 else 3 ** (dims % 2)
    net = SimpleCNN(
        channels=channels, classes=2, dims=dims, side=8, width=channels, depth=2, filter=filter
    ).double()
    with torch.no_grad():
        for conv in (net.conv1, net.conv2):
            conv.weight.copy_(torch.randint(-2, 3, conv.weight.shape) * math.isqrt(conv.weight[0].numel()))
        net.readout.weight.copy_(torch.randint(-2, 3, net.readout.weight.shape) * channels)
    x = torch.randint(-2, 3, (3, channels, *(8,) * dims)).double()
    for shift in ((1,) * dims, (3, 5)[:dims]):
        moved = x.roll(shift, dims=tuple(range(2, 2 + dims)))
        assert torch.equal(net(moved), net(x))
        maps = first(net, 4)(x).roll(shift, dims=tuple(range(2, 2 + dims)))
        assert torch.equal(first(net, 4)(moved), maps)
    assert net(x).abs().sum() > 0


def test_at_stride_f_only_whole_patches_move_freely():
    net = net_1d(side=8, filter=2, stride=2, depth=2).double()
    x = torch.randn(4, 2, 8, dtype=torch.float64)
    torch.testing.assert_close(net(x.roll(4, -1)), net(x), rtol=1e-12, atol=1e-15)
    assert not torch.allclose(net(x.roll(1, -1)), net(x), rtol=1e-3)


# --- mean-field scaling

DRAWS = 16


@pytest.mark.parametrize("width", [64, 256, 1024])
def test_pre_activations_are_of_order_one_at_every_width(width):
    """E h_1^2 = 1 for pixels +-1, and every ReLU halves it: E h_k^2 = 2^(1 - k).

    Given the layer before, h^2 averages over H Gaussian channels (relative variance 2 / H at one place, less
    over several), and that layer's mean square has relative variance (E h^4 / 2 - 1 / 4) / (1 / 4) / H =
    5 / H more. Layer k: (5 (k - 1) + 2) / H, over the draws; four standard deviations.
    """
    squares = np.zeros(3)
    for _ in range(DRAWS):
        net = SimpleCNN(channels=1, classes=1, dims=1, side=8, width=width, depth=3)
        x = torch.randint(0, 2, (1, 1, 8)).float() * 2 - 1
        for k in range(3):
            with torch.no_grad():
                squares[k] += float(first(net, 2 * k + 1)(x).square().mean()) / DRAWS
    for k in range(3):
        spread = math.sqrt((5 * k + 2) / width / DRAWS)
        assert squares[k] == pytest.approx(2.0**-k, rel=4 * spread)


@pytest.mark.parametrize("width", [64, 1024])
def test_outputs_at_initialisation_are_of_order_one_over_root_width(width):
    """On a constant image of one layer, E out^2 = E ReLU(h)^2 / H = 1 / (2 H).

    Given the features, outputs are independent Gaussians: relative variance 2 / classes; that of the
    features' mean square is 5 / H.
    """
    classes, square = 1000, 0.0
    for _ in range(DRAWS):
        net = SimpleCNN(channels=1, classes=classes, dims=1, side=4, width=width, depth=1)
        with torch.no_grad():
            square += float(net(torch.ones(1, 1, 4)).square().mean()) / DRAWS
    spread = math.sqrt((5 / width + 2 / classes) / DRAWS)
    assert square * width == pytest.approx(0.5, rel=4 * spread)


@pytest.mark.parametrize("width", [64, 1024])
def test_a_step_at_the_scaled_rate_moves_the_output_alike_at_every_width(width):
    """H sum (d out / d theta)^2 = mean over channels of ReLU(h)^2 + beta^2 [h > 0], whose mean is 1.

    Its variance is 5/4 + 5/4 + 2 (1/2 - 1/4) = 3 a channel. With the scale in the initial weights instead,
    the second term would be F H times larger.
    """
    total = 0.0
    for _ in range(DRAWS):
        net = SimpleCNN(channels=1, classes=1, dims=1, side=4, width=width, depth=1)
        net(torch.ones(1, 1, 4)).sum().backward()
        assert net.lr_scale == width
        total += net.lr_scale * sum(float(p.grad.square().sum()) for p in net.parameters()) / DRAWS
    assert total == pytest.approx(1, rel=4 * math.sqrt(3 / width / DRAWS))


def test_weights_are_standard_normal_and_follow_from_the_seed():
    """Mean and mean square of n normal numbers: standard errors 1 / sqrt(n) and sqrt(2 / n)."""
    net = SimpleCNN(width=64, depth=3)
    one, same, other = (reinitialise(net, seed) for seed in (1, 1, 2))
    for name, value in one.named_parameters():
        assert torch.equal(value, same.get_parameter(name))
        assert not torch.equal(value, other.get_parameter(name))
        assert abs(float(value.detach().mean())) < 4 / math.sqrt(value.numel())
        assert float(value.detach().square().mean()) == pytest.approx(1, abs=4 * math.sqrt(2 / value.numel()))


# --- how the rest of the package sees it


def test_convolutions_are_convolutions_and_their_applied_weights_are_seen():
    for dims, kind in ((1, nn.Conv1d), (2, nn.Conv2d)):
        net = SimpleCNN(channels=2, dims=dims, side=12, width=8, depth=3)
        seen = trace_images(net, torch.randn(3, 2, *(12,) * dims))
        assert list(seen.weights) == ["conv1", "conv2", "conv3"]
        for name, weight in seen.weights.items():
            conv = net.get_submodule(name)
            assert isinstance(conv, kind)
            fan_in = conv.in_channels * 3**dims
            torch.testing.assert_close(weight, conv.weight.detach() / math.sqrt(fan_in))
        assert isinstance(net.readout, MeanFieldLinear)
        spectra = filter_spectra(seen.weights)
        assert [s.kernel for s in spectra] == [[3] * dims] * 3
        assert filter_spectrum(seen.weights["conv1"]).eigenvalues[0] == 0


@pytest.mark.parametrize("dims", [1, 2])
@pytest.mark.parametrize(
    ("selection", "names"),
    [
        ("convs", ["conv1", "conv2", "conv3", "output"]),
        ("blocks", ["conv1", "conv2", "conv3", "output"]),
        ("all", ["conv1", "relu1", "conv2", "relu2", "conv3", "relu3", "average", "readout"]),
        ("stages", ["relu1", "relu2", "relu3", "output"]),
        ("relu*", ["relu1", "relu2", "relu3"]),
    ],
)
def test_layers(dims, selection, names):
    net = SimpleCNN(channels=1, classes=1, dims=dims, side=8, width=4, depth=3, filter=2, stride=2)
    layers = select_layers(trace_images(net, torch.randn(3, 1, *(8,) * dims)), selection)
    assert [layer.name for layer in layers] == names
    assert all(layer.channel_axis == 0 and layer.reason is None for layer in layers)
    assert layers[0].shape == (4, *(4,) * dims)
    assert (layers[-1].shape == (1,)) == (selection != "relu*")


def test_a_layer_is_read_after_its_relu():
    net = net_1d()
    layers = select_layers(trace_images(net, IMAGES_1D[:3]), "convs")
    assert [layer.module for layer in layers] == ["relu1", "relu2", "relu3", ""]


@pytest.mark.parametrize("arguments", [{}, {"filter": 2, "stride": 2, "side": 8}, {"classes": 1}])
def test_sequences_are_measured_as_the_definition_says(arguments):
    net = net_1d(**arguments).double()
    clean = IMAGES_1D[..., : arguments.get("side", 12)].double()
    moved = clean.roll(1, -1)
    noised = clean + torch.randn_like(clean)
    with Probe(net, "all", mean_channel=True) as probe, torch.no_grad():
        for part in (slice(0, 2), slice(2, 6)):
            net(torch.cat([clean[part], moved[part], noised[part]]))
    results = probe.results()
    assert [layer.layer for layer in results] == [name for name, _ in net.named_children()]
    for k, layer in enumerate(results):
        with torch.no_grad():
            a, b, c = (first(net, k + 1)(x) for x in (clean, moved, noised))
        expected = sensitivity(a, b, c)
        assert layer.reason is None
        assert layer.n == 6
        assert (layer.d, layer.g) == (
            pytest.approx(expected.d, rel=1e-9, abs=1e-20),
            pytest.approx(expected.g, rel=1e-9),
        )
        averaged = sensitivity(a.mean(1), b.mean(1), c.mean(1))
        assert probe.mean_channel_results()[k].g == pytest.approx(averaged.g, rel=1e-9)
    if "stride" not in arguments:  # the average does not see the shift
        assert results[-1].d < 1e-25
        assert results[0].d > 0.1


@pytest.mark.parametrize("dims", [1, 2])
def test_variants(dims):
    net = SimpleCNN(channels=2, dims=dims, side=6, width=8, depth=3)
    x = torch.randn(2, 2, *(6,) * dims)
    shuffled = shuffle_channels(net, torch.Generator().manual_seed(0))
    for k in (1, 2, 3):
        before, after = (n.get_submodule(f"conv{k}").weight for n in (net, shuffled))
        torch.testing.assert_close(before.sum(1), after.sum(1))
    assert not torch.equal(shuffled(x), net(x))
    averaged = mean_filters(net)
    for k in (1, 2, 3):
        maps = first(averaged, 2 * k)(x)
        torch.testing.assert_close(maps, maps.mean(1, keepdim=True).expand_as(maps))
    assert torch.equal(averaged.readout.weight, net.readout.weight)


# --- wrong use


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"bias": "first"}, "unknown place of biases 'first'; expected none, last, all"),
        ({"bias_mean": -10}, "bias_mean and bias_std need bias=last or bias=all"),
        ({"bias": "none", "bias_std": 1.0}, "bias_mean and bias_std need bias=last or bias=all"),
        ({"dims": 3}, "has 1 or 2 dimensions, not 3"),
        ({"stride": 2}, r"stride 1 or that of its filter \(3\), not 2"),
        ({"filter": 33}, "a filter of 33 does not fit on a side of 32"),
        ({"filter": 2, "stride": 2, "depth": 6}, "32 can be divided 5 times, not depth=6 times"),
        ({"filter": 3, "stride": 3, "depth": 1}, "32 can be divided 0 times, not depth=1 times"),
    ],
)
def test_networks_that_cannot_be(arguments, message):
    with pytest.raises(UsageError, match=message):
        SimpleCNN(**arguments)
