"""Fits of powers: on pure ones, against the textbook's standard error, and over chosen layers."""

import math

import numpy as np
import pytest

from timm_diffsens.theory.exponents import (
    asymptotic_exponents,
    fit_exponent,
    fitted_layers,
    local_slopes,
    power_law,
)

WIDTH = np.sqrt(np.arange(1, 13) * 2 / 3)


@pytest.mark.parametrize("power", [-3.0, -1.0, 0.5, 2.0])
def test_a_pure_power_is_found_exactly(power):
    found = fit_exponent(WIDTH, 7 * WIDTH**power)
    assert math.isclose(found.value, power, rel_tol=1e-12)
    # |slope| sqrt(1 - r^2), with 1 - r^2 a rounded sum of twelve terms
    assert found.stderr <= abs(power) * math.sqrt(12 * np.finfo(float).eps)
    assert (found.n, found.first, found.last) == (12, 1, 12)
    assert np.allclose(local_slopes(WIDTH, 7 * WIDTH**power), power, rtol=1e-12)


def test_the_standard_error_is_the_textbook_s():
    values = WIDTH**-2 * np.exp(0.1 * np.random.default_rng(0).standard_normal(12))
    found = fit_exponent(WIDTH, values, range(3, 11))
    x, y = np.log(WIDTH[2:10]), np.log(values[2:10])
    square = ((x - x.mean()) ** 2).sum()
    slope = ((x - x.mean()) * (y - y.mean())).sum() / square
    residuals = y - y.mean() - slope * (x - x.mean())
    assert math.isclose(found.value, slope, rel_tol=1e-12)
    assert math.isclose(found.stderr, math.sqrt((residuals**2).sum() / (8 - 2) / square), rel_tol=1e-9)


def test_layers_without_a_value_are_left_out():
    values = WIDTH**-2
    values[[0, 4, 11]] = [np.nan, 0, np.nan]
    found = fit_exponent(WIDTH, [*values[:11], None], range(1, 13))
    assert math.isclose(found.value, -2, rel_tol=1e-12)
    assert (found.n, found.first, found.last) == (9, 2, 11)
    assert np.isnan(local_slopes(WIDTH, values)[[0, 1, 3, 4, 5, 10, 11]]).all()


def test_two_layers_have_a_slope_but_no_error():
    found = fit_exponent([1, 2, 4], [8, 2, 1], [1, 2])
    assert math.isclose(found.value, -2)
    assert found.stderr is None
    # y = (0, 0, 1) log 2 on x = (0, 1, 2) log 2, off by (1, -2, 1) / 6
    three = fit_exponent([1, 2, 4], [1, 1, 2])
    assert three.stderr == pytest.approx(math.sqrt(6 / 36 / (3 - 2) / 2))


def test_the_law_goes_through_the_middle_of_the_fitted_layers():
    values = np.array([1.0, 2.0, 8.0, 0.0])
    law = power_law([1, 2, 4, 8], values, 1.0, [2, 3, 4])
    assert np.allclose(law, np.array([1, 2, 4, 8]) * math.sqrt(2))
    assert np.isnan(power_law([1, 2], [0, 0], 1.0, [1, 2])).all()


def test_powers_of_r_are_those_of_d_less_those_of_g():
    for stride, expected in ((1, (-2, 1, -3)), (2, (-1, 1, -2))):
        found = asymptotic_exponents(stride)
        assert (found["d"], found["g"], found["r"]) == expected
        assert found["r_linear"] == found["d"] - found["g_linear"]


@pytest.mark.parametrize("stride", [1, 2])
def test_fitted_layers_exist(stride):
    for depth in range(1, 30):
        layers = fitted_layers(depth, stride)
        assert 1 <= layers[0] <= layers[-1] <= depth
        assert len(layers) >= min(depth, 3)


@pytest.mark.parametrize("layers", [[], [3], range(4, 9)])
def test_a_fit_needs_two_layers(layers):
    assert fit_exponent([1, 2, 4, 8], [1, 2, 4, 8], layers) is None
    assert fit_exponent([2, 2], [1, 2]) is None
