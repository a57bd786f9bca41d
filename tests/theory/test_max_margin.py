"""The network of largest margin: against a grid, under changes of scale, and run as a network."""

import itertools
import math

import numpy as np
import pytest
import torch

from timm_diffsens.data.scale_detection import ScaleDetection, labels_of
from timm_diffsens.errors import UsageError
from timm_diffsens.theory.margins import margin_document, margin_rows, run_max_margin
from timm_diffsens.theory.max_margin import MarginNetwork, _images, _Pass, _Search, max_margin
from timm_diffsens.theory.report import theory_setting

SMALL = ScaleDetection(task=1, dims=1, size=8, xi=2, gap=0)


def every_image(task: ScaleDetection) -> tuple[torch.Tensor, np.ndarray]:
    """All pairs of pixels, not only those that a network can tell apart, and their classes."""
    pairs = np.array(list(itertools.combinations(range(task.side), 2)))[:, :, None]
    labels = labels_of(task, pairs)
    return task.render(torch.from_numpy(pairs[labels != 0])).double(), labels[labels != 0]


def outputs(network: MarginNetwork, images: torch.Tensor) -> np.ndarray:
    values = network.network()(images).mean(dim=(1, 2)).numpy()
    return network.sign * values + network.threshold


def margin(values: np.ndarray, labels: np.ndarray) -> float:
    return float((values * labels).min())


CASES = [
    (SMALL, 1, 2, 1),
    (SMALL, 2, 3, 1),
    (ScaleDetection(task=1, dims=1, size=16, xi=4, gap=1), 4, 3, 1),
    (ScaleDetection(task=2, dims=1, size=16, xi=4), 3, 2, 2),
]


@pytest.mark.parametrize(("task", "depth", "size", "stride"), CASES)
def test_the_stated_margin_is_that_of_all_images_of_the_network_when_it_is_run(task, depth, size, stride):
    found = max_margin(task, depth, size, stride, starts=3)
    images, labels = every_image(task)
    for network in (found.homogeneous, found.free):
        assert np.allclose(np.linalg.norm(network.filters, axis=1), 1, rtol=1e-12)
        assert margin(outputs(network, images), labels) == pytest.approx(network.margin, rel=1e-9, abs=1e-9)
    assert np.allclose(found.homogeneous.constant_shares, 1, rtol=1e-12)
    assert found.free.margin >= found.homogeneous.margin


@pytest.mark.parametrize("factors", [(3.0, 1.0), (0.2, 5.0)])
def test_the_normalised_margin_does_not_depend_on_scales(factors):
    """w_k times l_k, biases and threshold with them: the margin over the norms is the same."""
    task, depth = CASES[2][0], 2
    network = max_margin(task, depth, 3, starts=2).free
    images, labels = every_image(task)
    total = np.cumprod(factors)
    values = images[:, 0].numpy()
    for k in range(depth):
        windows = (np.arange(16)[:, None] + np.arange(-1, 2)) % 16
        values = np.maximum(
            values[:, windows] @ (factors[k] * network.filters[k]) + total[k] * network.biases[k], 0
        )
    scaled = network.sign * values.mean(axis=1) + total[-1] * network.threshold
    assert margin(scaled, labels) / math.prod(factors) == pytest.approx(network.margin, rel=1e-9)


def gridded(task: ScaleDetection, size: int, points: int) -> float:
    """The largest margin of one layer over angles of a filter of two weights, its bias and both signs."""
    images, labels = every_image(task)
    x, best = images[:, 0].numpy(), -math.inf
    windows = (np.arange(task.side)[:, None] + np.arange(size) - size // 2) % task.side
    patches = x[:, windows]
    for angle in np.linspace(0, 2 * math.pi, points, endpoint=False):
        before = patches @ np.array([math.cos(angle), math.sin(angle)])
        # piecewise linear in the bias, so the best one lies where some ReLU begins
        for bias in -np.unique(before.round(12)):
            values = np.maximum(before + bias, 0).mean(axis=1)
            for sign in (1, -1):
                near, far = (sign * values[labels == label] for label in (1, -1))
                best = max(best, float(near.min() - far.max()) / 2)
    return best


@pytest.mark.parametrize(("size", "xi"), [(6, 2), (8, 2), (9, 2)])
def test_one_layer_of_two_weights_against_a_grid(size, xi):
    """The grid's filter is off by half a step of 2 pi / 720, and outputs are below the norm of an image."""
    task = ScaleDetection(task=1, dims=1, size=size, xi=xi, gap=0)
    found, grid = max_margin(task, 1, 2).free.margin, gridded(task, 2, 720)
    assert found == pytest.approx(grid, abs=math.pi / 720 * math.sqrt(size))
    assert found >= grid - 1e-9


def test_derivatives_are_those_of_small_steps():
    images, labels = _images(CASES[2][0], 1)
    rng, step = np.random.default_rng(0), 1e-6
    for depth, size, stride in ((3, 3, 1), (3, 2, 2)):
        search = _Search(images, labels, depth, size, stride)
        filters, biases = rng.standard_normal((depth, size)), rng.standard_normal(depth)
        done = _Pass(search, images, filters, biases)
        by_filter, by_bias = done.gradients()
        for k, j in itertools.product(range(depth), range(size)):
            more = filters.copy()
            more[k, j] += step
            slope = (_Pass(search, images, more, biases).outputs - done.outputs) / step
            # second derivatives vanish between kinks but for products of filters, of order one
            assert np.allclose(slope, by_filter[:, k, j], atol=1e-3)
        for k in range(depth):
            more = biases + step * np.eye(depth)[k]
            slope = (_Pass(search, images, filters, more).outputs - done.outputs) / step
            assert np.allclose(slope, by_bias[:, k], atol=1e-3)


def test_equal_seeds_give_equal_networks():
    one, two = (max_margin(SMALL, 2, 3, starts=2, seed=4).free for _ in range(2))
    assert (one.filters == two.filters).all()
    assert one.margin == two.margin


def test_in_task_2_homogeneous_filters_are_optimal():
    """A pixel of value a has a F^(-k/2) at its place after k layers of homogeneous filters of norm 1.

    With F^k = xi and the threshold at one pixel, the four patches average a F^(-k/2) / 4 for two pixels in
    one patch and 0 for two; the margin is half of it. Later layers, of one place for F, multiply the average
    by sqrt F each.
    """
    task = ScaleDetection(task=2, dims=1, size=16, xi=4)
    found = max_margin(task, 3, 2, 2)
    closed = task.amplitude * 2 ** (-2 / 2) / 4 / 2 * math.sqrt(2)
    assert found.homogeneous.margin == pytest.approx(closed, rel=1e-6)
    assert found.free.margin == pytest.approx(closed, rel=1e-6)
    assert np.allclose(found.free.constant_shares, 1, atol=1e-3)


def test_twelve_layers_of_task_1_are_all_but_homogeneous():
    """L = 32, xi = 9, gap = 6: the paper's solution is that of largest margin."""
    result = run_max_margin(theory_setting(1, length=32, xi=9, gap=6, images=128))
    found = result.found
    assert 17.2 < found.homogeneous.margin < found.free.margin < 17.5
    assert min(found.free.constant_shares) > 0.99
    assert result.exponents["d"].value == pytest.approx(result.exact["d"].value, rel=0.1)
    document = margin_document(result)
    assert document["free"]["margin"] == found.free.margin
    assert [layer["d"] for layer in document["layers"]] == [layer.d for layer in result.layers]
    assert {row["curve"] for row in margin_rows(result)} == {"max margin"}
    assert len(margin_rows(result)) == 3 * 12


def test_wrong_shapes_are_named():
    with pytest.raises(UsageError, match="stride must be 1 or the filter size 3"):
        max_margin(SMALL, 2, 3, 2)
