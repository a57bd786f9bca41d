"""The homogeneous network's exact curves: against explicit matrices, enumeration and Monte Carlo."""

import itertools
import math

import numpy as np
import pytest
import torch
from reference import layer_matrix

from timm_diffsens.data.scale_detection import ScaleDetection, labels_of
from timm_diffsens.errors import UsageError
from timm_diffsens.theory.exponents import asymptotic_exponents, fit_exponent, fitted_layers
from timm_diffsens.theory.pixel_pairs import PixelPairs
from timm_diffsens.theory.predictions import effective_receptive_field, energies, exact_curve

# Everything is a sum of at most a few thousand products of numbers of order one.
ROUNDING = 1e-12


def uniform(length: int) -> PixelPairs:
    """Every pair of distinct pixels alike; a pixel moves either way."""
    weights = (1 - np.eye(length)) / (length * (length - 1))
    return PixelPairs(weights, np.full(length, 0.5))


def layers_of(length: int, depth: int, filter_size: int, stride: int) -> list[np.ndarray]:
    """M_1 to M_K as products of explicit matrices."""
    found, total = [], np.eye(length)
    for _ in range(depth):
        total = layer_matrix(len(total), filter_size, stride) @ total
        found.append(total)
    return found


# ---- powers of the layer matrix


def test_the_layer_matrix_is_the_paper_s():
    odd, even = layer_matrix(8, 3), layer_matrix(8, 4)
    assert (odd[0] * 3 == [1, 1, 0, 0, 0, 0, 0, 1]).all(), "centred on the first entry"
    assert (even[0] * 4 == [1, 1, 0, 0, 0, 0, 1, 1]).all(), "F/2 to the left, F/2 - 1 to the right"
    for matrix in (odd, even):
        assert all((np.roll(matrix[0], shift) == row).all() for shift, row in enumerate(matrix))
    assert (layer_matrix(6, 3, 3) * 3 == [[1, 1, 1, 0, 0, 0], [0, 0, 0, 1, 1, 1]]).all()


@pytest.mark.parametrize("filter_size", [2, 3, 4, 5])
def test_energies_are_traces_of_matrix_powers(filter_size):
    draws = np.random.default_rng(0).standard_normal((12, 9))
    moment, matrix = draws @ draws.T, layer_matrix(12, filter_size)
    powers = [np.linalg.matrix_power(matrix, k) for k in range(1, 8)]
    expected = [np.trace(power @ moment @ power.T) for power in powers]
    assert np.allclose(energies(moment, 7, filter_size), expected, rtol=ROUNDING)


@pytest.mark.parametrize(("filter_size", "depth"), [(2, 4), (3, 2), (4, 2)])
def test_energies_with_a_stride(filter_size, depth):
    length = 3 * filter_size**depth
    draws = np.random.default_rng(1).standard_normal((length, 5))
    moment = draws @ draws.T
    expected = [np.trace(m @ moment @ m.T) for m in layers_of(length, depth, filter_size, filter_size)]
    assert np.allclose(energies(moment, depth, filter_size, filter_size), expected, rtol=ROUNDING)


@pytest.mark.parametrize("filter_size", [2, 3, 4, 5, 8])
def test_the_variance_of_a_pixel_s_response_is_exact(filter_size):
    depth = 6
    length = 2 * filter_size * depth  # never wraps
    for k, matrix in enumerate(layers_of(length, depth, filter_size, 1), start=1):
        offset, share = np.arange(length) - length // 2, matrix[:, length // 2]
        mean = offset @ share
        variance = (offset - mean) ** 2 @ share
        assert math.isclose(variance, k * (filter_size**2 - 1) / 12, rel_tol=ROUNDING)
        assert math.isclose(math.sqrt(variance), effective_receptive_field(k, filter_size))
        assert math.isclose(mean, 0 if filter_size % 2 else k / 2, abs_tol=ROUNDING)


def test_with_a_stride_a_place_pools_f_to_the_k_pixels():
    for k, matrix in enumerate(layers_of(27, 3, 3, 3), start=1):
        assert ((matrix > 0).sum(axis=1) == effective_receptive_field(k, 3, 3)).all()


# ---- D by enumeration


def enumerated(pairs: PixelPairs, matrix: np.ndarray) -> tuple[float, float]:
    """E ||M (tau x - x)||^2 and E ||M x1 - M x2||^2 over every image, every move and every two images."""
    length, a, places = pairs.length, pairs.amplitude, np.eye(pairs.length)
    images = [(i, j) for i, j in itertools.permutations(range(length), 2) if pairs.weights[i, j]]
    top = 0.0
    for i, j in images:
        x = a * (places[i] + places[j])
        for steps in itertools.product((-1, 1), repeat=2):
            chances = [
                pairs.left[p] if s < 0 else 1 - pairs.left[p] for p, s in zip((i, j), steps, strict=True)
            ]
            moved = a * (places[(i + steps[0]) % length] + places[(j + steps[1]) % length])
            top += pairs.weights[i, j] * math.prod(chances) * ((matrix @ (moved - x)) ** 2).sum()
    weights = np.array([pairs.weights[i, j] for i, j in images])
    outputs = np.array([matrix @ (a * (places[i] + places[j])) for i, j in images])
    distances = ((outputs[:, None] - outputs) ** 2).sum(axis=2)
    return top, float(weights @ distances @ weights)


def weighted(length, weights):
    table = np.zeros((length, length))
    for (i, j), weight in weights.items():
        table[i, j] = table[j, i] = weight
    return PixelPairs(table / table.sum(), np.full(length, 0.5))


WEIGHTED = weighted(8, {(0, 1): 1, (1, 2): 2, (3, 7): 0.5, (0, 4): 3})
CASES = [
    pytest.param(pairs, depth, f, s, id=name)
    for name, pairs, depth, f, s in [
        ("uniform-3", uniform(9), 4, 3, 1),
        ("uniform-even", uniform(8), 4, 4, 1),
        ("task1", PixelPairs.task1(12, 3, 1), 5, 3, 1),
        ("list", WEIGHTED, 4, 3, 1),
        ("list-strided", WEIGHTED, 2, 2, 2),
        ("uniform-strided", uniform(18), 2, 3, 3),
        ("task2", PixelPairs.task2(16, 8), 3, 2, 2),
        ("task2-stride1", PixelPairs.task2(12, 4), 3, 3, 1),
    ]
]


@pytest.mark.parametrize(("pairs", "depth", "filter_size", "stride"), CASES)
def test_d_equals_that_of_every_image_and_move(pairs, depth, filter_size, stride):
    curve = exact_curve(pairs, depth, filter_size, stride)
    for k, matrix in enumerate(layers_of(pairs.length, depth, filter_size, stride)):
        top, bottom = enumerated(pairs, matrix)
        assert math.isclose(curve.d[k], top / bottom, rel_tol=ROUNDING, abs_tol=ROUNDING)


def test_the_noise_has_the_norm_of_the_deformation():
    """G of the input, before any layer, is D there: filters of a stride-1 network applied zero times."""
    pairs = PixelPairs.task1(16, 4, 1)
    identity, total = enumerated(pairs, np.eye(16)), np.trace(pairs.shift_moment())
    assert math.isclose(identity[0], pairs.amplitude**2 * total, rel_tol=ROUNDING)


# ---- the tasks, as the data has them


@pytest.mark.parametrize(("task", "xi", "gap"), [(1, 5, 2), (1, 4.5, 0), (2, 8, None)])
def test_pairs_and_moves_are_those_of_the_data(task, xi, gap):
    data = ScaleDetection(task=task, dims=1, size=32, xi=xi, gap=gap)
    pairs = PixelPairs.task1(32, xi, gap) if task == 1 else PixelPairs.task2(32, xi)
    every = np.stack(np.meshgrid(np.arange(32), np.arange(32), indexing="ij"), axis=-1).reshape(-1, 2)
    labels = labels_of(data, every[..., None]).reshape(32, 32)
    np.fill_diagonal(labels, 0)  # one pixel twice is no pair
    for label in (1, -1):
        chances = pairs.weights[labels == label]
        assert np.allclose(chances, 0.5 / len(chances), rtol=ROUNDING)
    assert (pairs.weights[labels == 0] == 0).all()

    start = torch.from_numpy(np.repeat(np.arange(32), 2 * 400).reshape(-1, 2, 1))
    step = (data.displace(start, np.random.default_rng(0)) - start).numpy().reshape(32, -1)
    left = ((step % 32) == 31).mean(axis=1)
    # 800 moves a pixel: a share of 1/2 has a standard error of 0.018; 0 and 1 have none
    assert np.allclose(left, pairs.left, atol=4 * 0.5 / math.sqrt(800))
    assert (left[pairs.left != 0.5] == pairs.left[pairs.left != 0.5]).all()


def test_samples_follow_the_distribution():
    pairs = PixelPairs.task2(16, 4)
    sample = pairs.sample(20_000, np.random.default_rng(0))
    clean, moved = sample.clean[:, 0].numpy(), sample.deformed[:, 0].numpy()
    assert np.allclose((clean**2).sum(axis=1), 16, rtol=ROUNDING)
    gaps, noise = ((v.flatten(1) ** 2).sum(1) for v in (sample.deformed - sample.clean, sample.eta))
    assert torch.allclose(gaps, noise)
    for found, expected in (
        (clean, pairs.image_moment()),
        (moved - clean, pairs.shift_moment()),
    ):
        products = found[:, :, None] * found[:, None] / pairs.amplitude**2
        error = products.std(axis=0) / math.sqrt(len(found))
        # 256 entries at 4.5 standard errors: one in 600 such tests would fail by chance
        assert (np.abs(products.mean(axis=0) - expected) <= 4.5 * error + ROUNDING).all()


# ---- noise


@pytest.mark.parametrize(("filter_size", "stride"), [(3, 1), (2, 2)])
@pytest.mark.parametrize("sphere", [True, False])
def test_g_against_noise_that_was_drawn(filter_size, stride, sphere):
    """On the sphere as for independent Gaussian numbers, on 8 pixels, where 1/L would show."""
    pairs, n = uniform(8), 40_000
    curve = exact_curve(pairs, 2, filter_size, stride)
    norms = np.trace(pairs.shift_moment()) * pairs.amplitude**2
    eta = np.random.default_rng(2).standard_normal((n, 8))
    eta *= math.sqrt(norms) / (np.linalg.norm(eta, axis=1, keepdims=True) if sphere else math.sqrt(8))
    for k, matrix in enumerate(layers_of(8, 2, filter_size, stride)):
        bottom = enumerated(pairs, matrix)[1]
        for noise, expected in ((np.maximum(eta, 0), curve.g), (eta, curve.g_linear)):
            squares = ((noise @ matrix.T) ** 2).sum(axis=1) / bottom
            assert abs(squares.mean() - expected[k]) < 4 * squares.std() / math.sqrt(n)


@pytest.mark.parametrize("filter_size", [2, 4])
def test_with_a_stride_unrectified_noise_is_exactly_as_large_as_a_pixel(filter_size):
    """E ||M_k eta||^2 / ||M_k delta_i||^2 does not depend on k, to the bit as all are powers of two."""
    length, depth = 4**4, 8 // filter_size
    single = np.zeros((length, length))
    single[5, 5] = 1
    noise = energies(np.eye(length), depth, filter_size, filter_size)
    pixel = energies(single, depth, filter_size, filter_size)
    assert (noise / pixel == length).all()


def test_rectified_noise_piles_up_with_a_stride():
    """Numerator: s^2 L F^-k (1/(2 pi) + (1/2 - 1/(2 pi)) F^-k), so that G grows as F^k in the end."""
    pairs = uniform(3**5)
    curve = exact_curve(pairs, 4, 3, 3)
    area, mean = 3.0 ** np.arange(1, 5), 1 / (2 * math.pi)
    ratio = curve.g / curve.g_linear
    assert np.allclose(ratio, area * (mean + (0.5 - mean) / area), rtol=ROUNDING)


def test_r_is_the_ratio_of_d_and_g():
    curve = exact_curve(PixelPairs.task1(64, 10), 6, 3)
    assert np.allclose(curve.r, curve.d / curve.g, rtol=ROUNDING)
    assert np.allclose(curve.r_linear, curve.d / curve.g_linear, rtol=ROUNDING)


def test_layers_that_cannot_tell_images_apart_have_no_value():
    """Task 2 with xi = 32: layers of 32 pixels and more see no move; one place sees no difference at all."""
    curve = exact_curve(PixelPairs.task2(128, 32), 7, 2, 2)
    assert (curve.d[:4] > 0).all()
    assert (curve.d[4:6] == 0).all()
    for values in (curve.d, curve.g, curve.r, curve.g_linear, curve.r_linear):
        assert np.isfinite(values[:6]).all()
        assert np.isnan(values[6])


# ---- the powers are approached


def slopes(pairs: PixelPairs, depth: int, filter_size: int, stride: int) -> dict[str, float]:
    curve, layers = exact_curve(pairs, depth, filter_size, stride), fitted_layers(depth, stride)
    return {m: fit_exponent(curve.width, getattr(curve, m), layers).value for m in ("d", "g", "r")}


@pytest.mark.parametrize("task", [1, 2])
def test_exponents_approach_the_paper_s_as_depth_grows(task):
    """Corrections: of order 1/A, A/L and A/xi with stride 1, F^-k and F^k/xi with stride F."""
    if task == 1:
        stride = 1
        runs = [slopes(PixelPairs.task1(32 * k // 3, 7 * k / 6), k, 3, 1) for k in (12, 48, 192)]
    else:
        stride = 2
        runs = [slopes(PixelPairs.task2(2**k, 2 ** (k - 2)), k, 2, 2) for k in (7, 9, 11)]
    for measure, power in asymptotic_exponents(stride).items():
        if measure in ("d", "g"):
            gaps = [abs(run[measure] - power) for run in runs]
            assert gaps[0] > gaps[1] > gaps[2], measure
    if task == 1:
        r = [abs(run["r"] + 3) for run in runs]
        assert r[0] > r[1] > r[2]


def test_the_slope_of_g_falls_short_of_one_by_the_share_of_noise_that_averages_out():
    """Stride 1: (pi - 1) ||M_k delta||^2, and that norm is 1 / (2 sqrt(pi) A) for a Gaussian of width A."""
    depth, length = 192, 512
    curve = exact_curve(uniform(length), depth, 3)
    ratio = curve.g / curve.g_linear * energies(np.eye(length), depth, 3) / length
    mean = 1 / (2 * math.pi)
    expected = mean + (0.5 - mean) / (2 * math.sqrt(math.pi) * curve.width)
    # the centre of a k-fold sum is that of a Gaussian up to order 1/k; 1/192 here
    assert abs(ratio[-1] / expected[-1] - 1) < 1 / depth


# ---- wrong use


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: exact_curve(uniform(16), 3, 4, 2), "stride must be 1 or the filter size 4"),
        (lambda: exact_curve(uniform(20), 3, 2, 2), "divisible by 8, got 20"),
        (lambda: exact_curve(uniform(8), 2, 9), "does not fit on a circle of 8"),
        (lambda: effective_receptive_field(0, 3), "at least 1 layer and 2 pixels a filter, got 0 and 3"),
        (lambda: effective_receptive_field(1, 1), "at least 1 layer and 2 pixels a filter, got 1 and 1"),
        (lambda: PixelPairs.task2(16, 5), "patches of at least 2 pixels, got 5"),
        (lambda: PixelPairs.task1(16, 20), "no pairs of one class"),
        (lambda: PixelPairs.task1(2, 1), "from 4 to 4096"),
    ],
)
def test_wrong_use_is_named(call, message):
    with pytest.raises(UsageError, match=message):
        call()
