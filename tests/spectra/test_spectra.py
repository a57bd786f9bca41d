"""Filter spectra against the eigenvectors of the explicit grid Laplacian, and closed forms."""

import math
import re

import numpy as np
import pytest
import reference
import torch

from timm_diffsens import filter_spectrum
from timm_diffsens.errors import UsageError
from timm_diffsens.spectra.filters import laplacian_eigenvalues

KERNELS = [(3, 3), (5, 5), (1, 7), (7, 1), (7, 7), (2, 4), (3,), (8,), (2, 3, 2)]
# Projections are sums of at most 49 products of order one.
ROUNDING = 1e-12


def filters(kernel, channels=(6, 4), seed=0):
    return np.random.default_rng(seed).standard_normal((*channels, *kernel))


def levels_of(eigenvalues):
    """Groups of places with equal eigenvalues."""
    starts = [0, *(k for k in range(1, len(eigenvalues)) if eigenvalues[k] - eigenvalues[k - 1] > 1e-9)]
    return [list(range(a, b)) for a, b in zip(starts, [*starts[1:], len(eigenvalues)], strict=True)]


# ---- against the explicit matrix


@pytest.mark.parametrize("kernel", KERNELS)
def test_eigenvalues(kernel):
    expected, _ = reference.laplacian_eigenbasis(kernel)
    found = filter_spectrum(filters(kernel)).eigenvalues
    assert np.allclose(found, expected, rtol=0, atol=1e-13 * max(1, len(expected)))
    assert (np.diff(found) >= 0).all()
    assert found[0] == 0


@pytest.mark.parametrize("kernel", KERNELS)
def test_power_of_each_level(kernel):
    # The power summed over equal eigenvalues is that of the subspace, whatever its basis.
    weight = filters(kernel)
    powers, groups = reference.mode_powers(weight), levels_of(reference.laplacian_eigenbasis(kernel)[0])
    found = filter_spectrum(weight)
    assert np.allclose(found.level_power, [powers[group].sum() for group in groups], rtol=ROUNDING)
    assert np.allclose(found.levels, [found.eigenvalues[group[0]] for group in groups], rtol=0, atol=1e-12)
    sums = [found.power[group].sum() for group in levels_of(found.eigenvalues)]
    assert np.allclose(found.level_power, sums, rtol=ROUNDING)


@pytest.mark.parametrize("kernel", KERNELS)
def test_power_of_each_mode(kernel):
    weight = filters(kernel)
    powers, found = reference.mode_powers(weight), filter_spectrum(weight)
    alone = [group[0] for group in levels_of(found.eigenvalues) if len(group) == 1]
    assert len(alone) >= 2
    assert np.allclose(found.power[alone], powers[alone], rtol=ROUNDING)


@pytest.mark.parametrize("kernel", KERNELS)
def test_shares(kernel):
    weight = filters(kernel)
    values, _ = reference.laplacian_eigenbasis(kernel)
    powers, found = reference.mode_powers(weight), filter_spectrum(weight)
    assert found.low_frequency_share == pytest.approx(powers[0] / powers.sum(), rel=ROUNDING)
    assert found.mean_frequency == pytest.approx((values * powers).sum() / powers.sum(), rel=ROUNDING)


def test_mean_frequency_is_the_roughness_of_the_filters():
    # The power-weighted mean eigenvalue is w'Lw / w'w: squared differences of neighbours over squares.
    weight = filters((4, 5))
    differences = (np.diff(weight, axis=2) ** 2).sum() + (np.diff(weight, axis=3) ** 2).sum()
    assert filter_spectrum(weight).mean_frequency == pytest.approx(
        differences / (weight**2).sum(), rel=ROUNDING
    )


def test_known_eigenvalues():
    # On three points in a row: 0, 1, 3. Their sums on the square: five levels and a sixth.
    assert np.allclose(laplacian_eigenvalues((3,)), [0, 1, 3], rtol=0, atol=1e-15)
    found = filter_spectrum(filters((3, 3)))
    assert np.allclose(found.levels, [0, 1, 2, 3, 4, 6], rtol=0, atol=1e-14)
    assert [len(group) for group in levels_of(found.eigenvalues)] == [1, 2, 1, 2, 2, 1]


# ---- truths


@pytest.mark.parametrize("kernel", KERNELS)
def test_parseval(kernel):
    weight = filters(kernel)
    found = filter_spectrum(weight)
    assert found.power.sum() == pytest.approx((weight**2).sum() / 24, rel=ROUNDING)  # 6 x 4 filters
    assert found.level_power.sum() == pytest.approx(found.power.sum(), rel=ROUNDING)


@pytest.mark.parametrize("kernel", KERNELS)
def test_constant_filters(kernel):
    found = filter_spectrum(np.full((3, 2, *kernel), -0.3))
    assert found.low_frequency_share == pytest.approx(1, rel=ROUNDING)
    assert found.mean_frequency == pytest.approx(0, abs=1e-14)
    assert found.power[0] == pytest.approx(0.09 * math.prod(kernel), rel=ROUNDING)
    assert (found.power[1:] < 1e-28).all()


@pytest.mark.parametrize("kernel", [(3, 3), (1, 7), (2, 4), (5,)])
def test_white_filters_have_equal_power_in_all_modes(kernel):
    # Each projection of N(0, 1) numbers is N(0, 1): a mean of n squares has a spread of sqrt(2/n). The share
    # is one of m such means over their sum: 1/m with a relative spread of sqrt(2 (m - 1)/(m n)).
    m, n = math.prod(kernel), 10_000
    found = filter_spectrum(filters(kernel, (100, 100)))
    assert (abs(found.power - 1) < 4 * math.sqrt(2 / n)).all()
    assert abs(found.low_frequency_share * m - 1) < 4 * math.sqrt(2 * (m - 1) / m / n)


@pytest.mark.parametrize("mode", range(10))
def test_an_eigenvector_has_one_mode(mode):
    kernel = (2, 5)  # no two eigenvalues are equal
    values, vectors = reference.laplacian_eigenbasis(kernel)
    found = filter_spectrum(2 * vectors[:, mode].reshape(1, 1, *kernel))
    assert np.allclose(found.power, 4 * (np.arange(10) == mode), rtol=0, atol=1e-14)
    assert found.mean_frequency == pytest.approx(values[mode], abs=1e-13)
    assert found.low_frequency_share == pytest.approx(float(mode == 0), abs=1e-14)


def test_a_chessboard_has_high_frequency():
    # Most of its power lies in the highest mode, and no other pattern of signs is rougher: all 2 x 3 x 4
    # neighbours differ by 2, over 16 squares of 1.
    board = (-1.0) ** np.add.outer(np.arange(4), np.arange(4))
    found = filter_spectrum(board[None, None])
    assert found.power.argmax() == 15
    assert found.low_frequency_share == pytest.approx(0, abs=1e-28)
    assert found.mean_frequency == pytest.approx(24 * 4 / 16, rel=ROUNDING)
    assert filter_spectrum(board[None, None, :2, :2]).power[:3] == pytest.approx([0, 0, 0], abs=1e-28)


def test_one_point():
    found = filter_spectrum(np.array([[[[3.0]], [[4.0]]]]))
    assert found.eigenvalues.tolist() == found.levels.tolist() == [0]
    assert (found.low_frequency_share, found.mean_frequency) == (1, 0)
    assert found.power.tolist() == found.level_power.tolist() == [pytest.approx(12.5, rel=ROUNDING)]


# ---- invariances


@pytest.mark.parametrize("kernel", [(3, 3), (2, 4), (1, 7)])
def test_transposed_filters_have_the_same_level_power(kernel):
    weight = filters(kernel)
    one, two = filter_spectrum(weight), filter_spectrum(weight.swapaxes(2, 3))
    assert np.allclose(one.levels, two.levels, rtol=0, atol=1e-14)
    assert np.allclose(one.level_power, two.level_power, rtol=ROUNDING)
    assert one.mean_frequency == pytest.approx(two.mean_frequency, rel=ROUNDING)


@pytest.mark.parametrize("axes", [2, 3, (2, 3)])
def test_flipped_filters_have_the_same_power(axes):
    # Cosines are even or odd about the middle.
    weight = filters((3, 4))
    assert np.allclose(
        filter_spectrum(weight).power, filter_spectrum(np.flip(weight, axes)).power, rtol=ROUNDING
    )


def test_order_and_sign_of_filters_do_not_matter():
    weight = filters((3, 3))
    changed = -weight[::-1][:, [2, 0, 3, 1]]
    assert np.allclose(filter_spectrum(weight).power, filter_spectrum(changed).power, rtol=ROUNDING)


def test_scale_changes_power_only():
    one, two = filter_spectrum(filters((3, 3))), filter_spectrum(4 * filters((3, 3)))
    assert np.array_equal(two.power, 16 * one.power)
    assert (one.low_frequency_share, one.mean_frequency) == (two.low_frequency_share, two.mean_frequency)


@pytest.mark.parametrize("groups", [1, 2, 8])
def test_grouped_convolutions(groups):
    # The mean is over the filters that exist.
    convolution = torch.nn.Conv2d(8, 16, 3, groups=groups)
    found = filter_spectrum(convolution.weight)
    assert found.power.sum() == pytest.approx(
        convolution.weight.double().square().sum().item() / (16 * 8 / groups), rel=ROUNDING
    )


# ---- inputs


@pytest.mark.parametrize(
    "convert",
    [
        np.ndarray.tolist,
        torch.from_numpy,
        lambda w: torch.nn.Parameter(torch.from_numpy(w)),
        lambda w: torch.from_numpy(w).bfloat16(),
        lambda w: torch.from_numpy(w).to(memory_format=torch.channels_last),
        lambda w: w.astype(np.float16),
        lambda w: w.astype(np.int8),
    ],
)
def test_kinds_of_input(convert):
    weight = np.round(filters((3, 3)))  # whole numbers: exact in every type
    found, expected = filter_spectrum(convert(weight)), filter_spectrum(weight)
    assert np.array_equal(found.power, expected.power)
    assert found.power.dtype == np.float64


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_numbers_that_are_not_finite(bad):
    weight = filters((3, 3))
    weight[2, 1, 0, 0] = bad
    with pytest.raises(UsageError, match="not finite"):
        filter_spectrum(weight)


@pytest.mark.parametrize("kernel", [(3, 3), (1, 1)])
def test_only_zeros(kernel):
    with pytest.raises(UsageError, match="all zero"):
        filter_spectrum(np.zeros((4, 2, *kernel)))


@pytest.mark.parametrize("shape", [(), (3,), (4, 2), (0, 2, 3, 3), (4, 0, 3, 3), (4, 2, 0, 3)])
def test_what_is_no_convolution(shape):
    told = f"(out, in / groups, fh, fw), got shape {shape}"
    with pytest.raises(UsageError, match=re.escape(told)):
        filter_spectrum(np.ones(shape))
