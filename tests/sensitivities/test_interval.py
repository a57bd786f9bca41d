"""The interval of R: of few images by the jackknife, of many by the delta method."""

import math

import numpy as np
import pytest
import torch
from scipy import stats

from timm_diffsens.sensitivities.estimator import SensitivityEstimator
from timm_diffsens.sensitivities.reductions.state import FEW


def three_parts(n):
    """(3, n, 7): clean, deformed and noised, of uneven distances."""
    draws = torch.randn(3, n, 7, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    uneven = torch.linspace(0.2, 2, n, dtype=torch.float64)[:, None]
    return torch.stack([draws[0], draws[0] + 0.3 * uneven * draws[1], draws[0] + 0.7 * draws[2]])


def streamed(parts, size=1000):
    estimator = SensitivityEstimator()
    for batch in parts.split(size, dim=1):
        estimator.update(*batch)
    return estimator


def jackknife(parts):
    """Half the width of the interval of log R, image by image as it is defined."""
    clean, deformed, noised = parts.double()
    a, g = ((other - clean).square().sum(1).numpy() for other in (deformed, noised))
    n = len(a)
    logs = [math.log(np.delete(a, i).sum() / np.delete(g, i).sum()) for i in range(n)]
    variance = (n - 1) / n * sum((log - np.mean(logs)) ** 2 for log in logs)
    return stats.t.ppf(0.975, n - 1) * math.sqrt(variance)


@pytest.mark.parametrize("n", [2, 3, 20, FEW])
@pytest.mark.parametrize("size", [1, 7, 200])
def test_the_interval_of_few_images_is_the_jackknifes(n, size):
    parts = three_parts(n)
    found = streamed(parts, size).compute()[0]
    width = min(jackknife(parts), 100)
    assert found.r_interval == pytest.approx(
        (found.r * math.exp(-width), found.r * math.exp(width)), rel=1e-9
    )


def test_of_more_images_it_is_two_standard_errors_of_the_logarithm():
    found = streamed(three_parts(FEW + 1), 40).compute()[0]
    assert (found.r_low, found.r_high) == (None, None)
    width = math.exp(2 * found.r_stderr / found.r)
    assert found.r_interval == pytest.approx((found.r / width, found.r * width), rel=1e-12)


@pytest.mark.parametrize(("n", "cut"), [(60, 13), (FEW, 99), (FEW, 1)])
def test_the_interval_after_a_merge_is_that_of_one_pass(n, cut):
    parts = three_parts(n)
    first, second = streamed(parts[:, :cut]), streamed(parts[:, cut:])
    merged, whole = first.merge(second).compute()[0], streamed(parts, 9).compute()[0]
    assert merged.r_interval == pytest.approx(whole.r_interval, rel=1e-10)


def test_merging_keeps_the_first_images_alone():
    parts = three_parts(150)
    first, second = streamed(parts[:, :70]), streamed(parts[:, 70:])
    merged = first.merge(second)
    assert torch.equal(merged.sums.images[:70], first.sums.images[:70])
    assert torch.equal(merged.sums.images[70:], second.sums.images[: FEW - 70])
    assert merged.compute()[0].r_low is None


def test_an_image_that_alone_moves_the_layer_leaves_the_delta_method():
    clean = torch.randn(3, 8, 4, dtype=torch.float64)[0]
    deformed = clean.clone()
    deformed[3] += 1
    found = streamed(torch.stack([clean, deformed, clean + 1]), 8).compute()[0]
    assert found.r_low is None
    assert found.r_interval == pytest.approx((found.r * math.exp(-2), found.r * math.exp(2)), rel=0.2)
