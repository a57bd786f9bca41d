"""Random networks of infinite width: against integrals, networks that were drawn, and symmetries."""

import itertools
import math

import numpy as np
import pytest
import scipy.integrate
import torch
from torch import nn

from timm_diffsens.errors import UsageError
from timm_diffsens.models.nets.simple import SimpleCNN
from timm_diffsens.models.variants.init import reinitialise
from timm_diffsens.sensitivities.functional import sensitivity
from timm_diffsens.theory.exponents import fit_exponent
from timm_diffsens.theory.homogeneous import measured_curve
from timm_diffsens.theory.infinite_width import InfiniteWidth, arc_cosine
from timm_diffsens.theory.pixel_pairs import PairImages, PixelPairs
from timm_diffsens.theory.predictions import effective_receptive_field

SHAPES = [(4, 3, 1), (4, 2, 1), (3, 2, 2)]


def images(n: int, length: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((n, length))


# ---- the kernel


@pytest.mark.parametrize("correlation", [-1.0, -0.7, 0.0, 0.3, 0.999, 1.0])
def test_the_arc_cosine_kernel_is_the_integral(correlation):
    """u = r cos a, v = r cos(a - t): the integral over r is 2, that over angles is done by quadrature."""
    first, second, turn = 2.0, 0.5, math.acos(correlation)
    low, high = turn - math.pi / 2, math.pi / 2  # where both are positive
    by_angle, error = scipy.integrate.quad(lambda a: math.cos(a) * math.cos(a - turn), low, high)
    # E r^2 = 2 for a Gaussian pair of variance 1, and angles have the density 1 / (2 pi)
    expected = 2 * by_angle / (2 * math.pi)
    found = arc_cosine(*(np.array([x]) for x in (first, second, correlation)))[0]
    # near the ends the angle has an error of the root of that of its cosine, and enters with its cube
    assert found == pytest.approx(math.sqrt(first * second) * expected, abs=error + 1e-12)


def test_variances_of_zero_give_zero():
    assert arc_cosine(np.zeros(2), np.ones(2), np.zeros(2)).tolist() == [0, 0]


@pytest.mark.parametrize("bias", [0.0, 0.8])
def test_one_layer_is_that_of_gaussian_filters(bias):
    """Monte Carlo over filters, place by place; both sides in units of gain^2."""
    x, y = images(2, 6)
    rng, draws = np.random.default_rng(1), 200_000
    w, b = rng.standard_normal((draws, 3)), bias * rng.standard_normal((draws, 1))
    windows = (np.arange(6)[:, None] + np.arange(-1, 2)) % 6
    outputs = [np.maximum(w @ image[windows].T / math.sqrt(3) + b, 0) for image in (x, y)]
    squares = ((outputs[0] - outputs[1]) ** 2).sum(axis=1)
    gain = 1.5 if bias else math.sqrt(2)  # without biases it is no matter, and kept at that
    (found,) = InfiniteWidth(1, 3, gain=1.5, bias=bias).square_distances(x[None], y[None])[0]
    assert abs(found / gain**2 - squares.mean()) < 4 * squares.std() / math.sqrt(draws)


@pytest.mark.parametrize(("depth", "size", "stride"), SHAPES)
@pytest.mark.parametrize("bias", [0.0, 0.5])
def test_two_places_suffice(depth, size, stride, bias):
    """The recursion over all pairs of places, by loops, gives the distances of equal places."""
    x, y = images(2, 8)
    gain = 1.3 if bias else math.sqrt(2)

    def kernel(a: np.ndarray, b: np.ndarray) -> list[np.ndarray]:
        own, cross = [np.outer(a, a), np.outer(b, b)], np.outer(a, b)
        found = []
        for _ in range(depth):
            places = len(cross) // stride
            windows = [
                [(p * stride + j - (size // 2 if stride == 1 else 0)) % len(cross) for j in range(size)]
                for p in range(places)
            ]
            own_sums, cross_sums = [np.zeros((places, places)) for _ in own], np.zeros((places, places))
            for p, q in itertools.product(range(places), repeat=2):
                for i, j in zip(windows[p], windows[q], strict=True):
                    cross_sums[p, q] += cross[i, j] / size
                    for total, one in zip(own_sums, own, strict=True):
                        total[p, q] += one[i, j] / size
            one, two, cross = (total + bias**2 for total in (*own_sums, cross_sums))
            v, w = np.diag(one), np.diag(two)
            cross = gain**2 * arc_cosine(*np.broadcast_arrays(v[:, None], w[None], cross))
            own = [
                gain**2 * arc_cosine(*np.broadcast_arrays(d[:, None], d[None], full))
                for d, full in ((v, one), (w, two))
            ]
            found.append(np.trace(own[0]) + np.trace(own[1]) - 2 * np.trace(cross))
        return found

    found = InfiniteWidth(depth, size, stride, gain, bias).square_distances(x[None], y[None])[0]
    assert np.allclose(found, kernel(x, y), rtol=1e-12)


# ---- what must not change it, and what must


@pytest.mark.parametrize(("depth", "size", "stride"), SHAPES)
def test_equal_images_are_at_no_distance_and_order_is_no_matter(depth, size, stride):
    network = InfiniteWidth(depth, size, stride, bias=0.3)
    x, y = images(5, 8), images(5, 8, 1)
    assert (network.square_distances(x, x) == 0).all()
    assert np.allclose(network.square_distances(x, y), network.square_distances(y, x), rtol=1e-12)


def test_constant_images_have_the_kernel_of_one_place():
    """Without biases a network is homogeneous: constants c and d are c - d times that of 1 apart."""
    network = InfiniteWidth(5, 3)
    x = np.full((1, 7), 3.0)
    found = network.square_distances(x, x / 3)[0]
    # in units where every layer keeps the mean square: 7 (3 - 1)^2, at every depth
    assert np.allclose(found, 7 * 4, rtol=1e-12)
    # a sign: the angle is pi, the kernel 0, the distance the sum of both squares over two, times gain^2 = 2
    assert network.square_distances(x, -x)[0, 0] == pytest.approx(7 * (9 + 9))


def test_a_circle_has_no_first_place():
    network = InfiniteWidth(4, 3, bias=0.4)
    x, y = images(3, 12), images(3, 12, 1)
    turned = network.square_distances(*(np.roll(v, 5, axis=1) for v in (x, y)))
    assert np.allclose(turned, network.square_distances(x, y), rtol=1e-12)


def test_at_stride_f_whole_patches_can_be_exchanged():
    network = InfiniteWidth(2, 2, 2)
    x, y = images(3, 8), images(3, 8, 1)
    order = [4, 5, 6, 7, 2, 3, 0, 1]  # halves of eight, and quarters of the second half
    assert np.allclose(
        network.square_distances(x[:, order], y[:, order]), network.square_distances(x, y), rtol=1e-12
    )


def test_the_gain_matters_with_biases_alone():
    (sample,) = [PixelPairs.task1(16, 4).sample(16, np.random.default_rng(0))]

    def d(**more: float) -> list[float]:
        return [layer.d for layer in InfiniteWidth(4, 3, **more).layers([sample])]

    assert d() == d(gain=3.0)
    assert d(bias=1)[-1] > d(bias=1, gain=3.0)[-1] > d()[-1]


def test_a_thousand_layers_stay_numbers():
    x, y = np.abs(images(1, 8)), np.abs(images(1, 8, 1))
    for network in (InfiniteWidth(1000, 3), InfiniteWidth(1000, 3, gain=math.sqrt(3), bias=1)):
        found = network.square_distances(x, y)[0]
        assert np.isfinite(found).all()
        assert (found > 0).all()


# ---- D, G and R


def test_ratios_are_those_of_the_definition():
    """Means over images and over all ordered pairs of distinct images, one by one."""
    sample = PixelPairs.task1(16, 4).sample(24, np.random.default_rng(3))
    network = InfiniteWidth(3, 3)
    three = [v[:, 0].numpy() for v in (sample.clean, sample.deformed, sample.clean + sample.eta.relu())]
    moved, noised = (network.square_distances(three[0], other) for other in three[1:])
    apart = [
        network.square_distances(three[0][i : i + 1], three[0][j : j + 1])[0]
        for i, j in itertools.permutations(range(24), 2)
    ]
    found = network.layers([sample], pairs=23)
    for k, layer in enumerate(found):
        bottom = np.mean(apart, axis=0)[k]
        assert layer.d == pytest.approx(moved[:, k].mean() / bottom, rel=1e-12)
        assert layer.g == pytest.approx(noised[:, k].mean() / bottom, rel=1e-12)
        assert layer.r == pytest.approx(layer.d / layer.g, rel=1e-12)
        assert (layer.index, layer.n) == (k, 24)


def test_standard_errors_are_the_spread_over_samples():
    pairs, network = PixelPairs.task1(16, 4), InfiniteWidth(3, 3)
    rng = np.random.default_rng(0)
    runs = [network.layers([pairs.sample(64, rng)], pairs=16)[-1] for _ in range(100)]
    for name in ("d", "g", "r"):
        spread = np.std([getattr(run, name) for run in runs], ddof=1)
        stated = np.mean([getattr(run, f"{name}_stderr") for run in runs])
        # a standard deviation of 100 has a relative error of 0.07; pairs that are shared add less than 0.1
        assert 1 - 4 * 0.07 < stated / spread < 1 + 4 * 0.07 + 0.1


def test_what_cannot_be_told_apart_is_constant():
    sample = PixelPairs.task1(16, 4).sample(4, np.random.default_rng(0))
    same = type(sample)(*(v[:1].expand(4, -1, -1) for v in (sample.clean, sample.deformed, sample.eta)))
    for layer in InfiniteWidth(2, 3).layers([same]):
        assert (layer.d, layer.g, layer.reason) == (None, None, "constant")
        assert layer.r > 0
    with pytest.raises(UsageError, match="at least 2 images a batch"):
        InfiniteWidth(2, 3).layers([type(sample)(*(v[:1] for v in vars(sample).values()))])


def test_exact_numbers_of_task_1():
    """L = 64, xi = 14, gap = 2, all distances and shifts: D falls, although the width is infinite."""
    length, depth = 64, 8
    pairs, places = PixelPairs.task1(length, 14, 2), np.eye(length)
    distances = np.flatnonzero(pairs.weights[0])
    weight = pairs.weights[0, distances] * length
    x = pairs.amplitude * (places[0] + places[distances])
    network = InfiniteWidth(depth, 3)
    top = np.mean(
        [
            weight
            @ network.square_distances(
                x, pairs.amplitude * (places[a % length] + places[(distances + b) % length])
            )
            for a, b in itertools.product((-1, 1), repeat=2)
        ],
        axis=0,
    )
    half = distances <= length // 2  # d and length - d are one image, shifted
    folded = np.where(distances[half] < length // 2, 2, 1) * weight[half]
    first, second = (v.ravel() for v in np.indices((half.sum(), half.sum())))
    bottom = sum(
        (folded[first] * folded[second])
        @ network.square_distances(x[half][first], np.roll(x[half][second], shift, axis=1))
        for shift in range(length)
    )
    d = top / (bottom / length)
    assert np.round(d[:5], 3).tolist() == [0.814, 0.649, 0.531, 0.445, 0.381]
    width = [effective_receptive_field(k, 3) for k in range(1, depth + 1)]
    assert fit_exponent(width, d, range(1, 9)).value == pytest.approx(-1.107, abs=0.001)
    # and a sample has the same, to its own standard error
    (sample,) = [pairs.sample(1024, np.random.default_rng(5))]
    for layer, exact in zip(network.layers([sample], pairs=8), d, strict=True):
        assert abs(layer.d - exact) < 4 * layer.d_stderr


# ---- networks of finite width


def drawn(sample: PairImages, width: int, networks: int) -> np.ndarray:
    """D, G and R of the last layer of fresh networks of the package on these images: (networks, 3)."""
    net = SimpleCNN(channels=1, classes=1, side=16, dims=1, width=width, depth=4, filter=2, stride=2)
    three = torch.cat([sample.clean, sample.deformed, sample.clean + sample.eta.relu()]).float()
    found = []
    with torch.no_grad():
        for seed in range(networks):
            outputs = nn.Sequential(*list(reinitialise(net, seed=seed))[:8])(three)
            found.append(sensitivity(*outputs.split(len(sample.clean))))
    (measured,) = measured_curve(reinitialise(net, seed=0), [sample]).layers[-1:]
    # what is averaged here is what `theory` measures of a network, in float32
    assert found[0] == pytest.approx((measured.d, measured.g, measured.r), rel=1e-4)
    return np.array(found)


def differences(networks: dict[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """width (mean over networks / infinite width - 1) of D and R, and standard errors: (widths, 2) each."""
    sample = PixelPairs.task2(16, 4).sample(8, np.random.default_rng(0))
    last = InfiniteWidth(4, 2, 2).layers([sample], pairs=7)[-1]
    truth, means, errors = np.array([last.d, last.r]), [], []
    for width, count in networks.items():
        values = width * (drawn(sample, width, count)[:, [0, 2]] / truth - 1)
        means.append(values.mean(axis=0))
        errors.append(values.std(axis=0, ddof=1) / math.sqrt(count))
    return np.array(means), np.array(errors)


def check_one_over_width(networks: dict[int, int]) -> None:
    """Differences times the width are one number, to four standard errors, and not zero.

    Kernels of a layer are means over its channels, off by 1 / sqrt(width) at random; that averages out to
    first order, and the second leaves a difference of order 1 / width. The next order is 1 / width of it.
    """
    means, errors = differences(networks)
    assert (means[0] > 4 * errors[0]).all()
    next_order = 4 * means[0] / min(networks)
    for mean, error in zip(means[1:], errors[1:], strict=True):
        assert (abs(mean - means[0]) < 4 * np.hypot(error, errors[0]) + next_order).all()


def test_fresh_networks_approach_infinite_width():
    check_one_over_width({16: 600, 64: 600})


@pytest.mark.slow
def test_wide_networks_are_off_by_one_over_their_width():
    """A difference that fell as 1 / sqrt(width) would be four times too large at width 2,048: then the mean,
    10 +- 0.8 at width 128, would be 40 there, beyond four standard errors of 7.
    """
    check_one_over_width({128: 2000, 512: 1000, 2048: 400})
