"""Averages over copies of a network, and the record's own types."""

import math

import numpy as np
import pytest
import torch

from timm_diffsens import filter_spectrum
from timm_diffsens.benchmark.averages import average_layers, filter_spectra
from timm_diffsens.schema.layers import LayerSensitivity

VALUES = ("d", "g", "r")


def layer(name="conv", index=0, **changes):
    base = LayerSensitivity(
        layer=name,
        index=index,
        depth=(index + 1) / 2,
        d=0.2,
        g=0.4,
        r=0.5,
        d_stderr=0.01,
        g_stderr=0.02,
        r_stderr=0.03,
        n=100,
        kind="Conv2d",
        aliases=("other",),
        shape=(8, 4, 4),
        channel_axis=0,
    )
    return base.model_copy(update=changes)


def copies(m, seed=0):
    """m copies of a network of two layers."""
    rng = np.random.default_rng(seed)
    numbers = [*VALUES, *(f"{name}_stderr" for name in VALUES)]
    return [
        [
            layer(name, i, **{key: float(rng.uniform(0.1, 1)) for key in numbers})
            for i, name in enumerate("ab")
        ]
        for _ in range(m)
    ]


# ---- averages


def test_the_interval_of_an_average_holds_the_draws_and_the_images():
    """Four initialisations of one trained ResNet: between them R varies far more than over the images."""
    drawn = [0.30, 0.45, 0.53, 0.81]
    (found,) = average_layers([[layer(r=r, r_stderr=0.05)] for r in drawn])
    images = math.sqrt(np.mean([(2 * 0.05 / r) ** 2 for r in drawn]))
    draws = 3.182446 * np.std(drawn, ddof=1) / 2 / np.mean(drawn)  # t of 3 degrees of freedom
    low, high = found.r_interval
    assert math.log(high / low) / 2 == pytest.approx(math.hypot(images, draws), rel=1e-6)
    assert math.sqrt(low * high) == pytest.approx(found.r, rel=1e-12)
    assert low < min(drawn)
    assert high > max(drawn)


def test_equal_copies_have_the_interval_of_one():
    one = layer(r=0.5, r_stderr=0.03)
    (found,) = average_layers([[one], [one], [one]])
    assert found.r_interval == pytest.approx(one.r_interval, rel=1e-12)


def test_an_average_without_r_has_no_interval():
    (found,) = average_layers(
        [[layer(r_low=0.4, r_high=0.6)], [layer(r=None, r_stderr=None, reason="constant")]]
    )
    assert found.r_interval is None


@pytest.mark.parametrize("m", [2, 3, 7])
@pytest.mark.parametrize("name", VALUES)
def test_mean_and_standard_error(m, name):
    # Mean square of the copies' own errors (they saw the same images), and variance of the mean over copies.
    passes = copies(m)
    for place, found in enumerate(average_layers(passes)):
        values = [getattr(copy[place], name) for copy in passes]
        errors = [getattr(copy[place], f"{name}_stderr") for copy in passes]
        assert getattr(found, name) == pytest.approx(np.mean(values), rel=1e-14)
        expected = math.sqrt(np.mean(np.square(errors)) + np.var(values, ddof=1) / m)
        assert getattr(found, f"{name}_stderr") == pytest.approx(expected, rel=1e-13)


def test_by_hand():
    found = average_layers([[layer(d=0.1, d_stderr=0.3)], [layer(d=0.3, d_stderr=0.4)]])[0]
    assert found.d == pytest.approx(0.2)
    # (0.09 + 0.16)/2 + 0.02/2: the variance of 0.1 and 0.3 is 0.02.
    assert found.d_stderr == pytest.approx(math.sqrt(0.135))


def test_equal_copies_keep_their_errors():
    found = average_layers([[layer(d=0.25, d_stderr=0.5)]] * 4)[0]
    assert (found.d, found.d_stderr) == (0.25, 0.5)


def test_r_is_averaged_by_itself():
    found = average_layers([[layer(d=1.0, g=1.0, r=1.0)], [layer(d=1.0, g=3.0, r=1 / 3)]])[0]
    assert found.r == pytest.approx(2 / 3)
    assert found.d / found.g == pytest.approx(1 / 2)


def test_one_copy_passes_through():
    single = [layer(d=None, d_stderr=None, reason="constant"), layer()]
    assert average_layers([single]) is single


def test_no_copies():
    assert average_layers([]) == []


def test_everything_else_is_that_of_the_copies():
    passes = copies(3)
    for found, copy in zip(average_layers(passes), passes[0], strict=True):
        changed = {*VALUES, *(f"{name}_stderr" for name in VALUES), "r_low", "r_high"}
        for name in set(LayerSensitivity.model_fields) - changed:
            assert getattr(found, name) == getattr(copy, name)
        assert found.reason is None


@pytest.mark.parametrize("place", [0, 1, 2])
def test_a_value_missing_in_one_copy_is_missing_in_the_average(place):
    nothing = dict.fromkeys([*VALUES, *(f"{name}_stderr" for name in VALUES)])
    passes = copies(3)
    passes[place][1] = passes[place][1].model_copy(update={**nothing, "reason": "constant"})
    first, second = average_layers(passes)
    assert first.reason is None
    assert first.d is not None
    assert second.reason == "constant"
    assert all(getattr(second, name) is None for name in nothing)


def test_only_r_missing():
    passes = copies(2)
    unmoved = {"g": 0.0, "r": None, "r_stderr": None, "reason": "noise does not move it"}
    passes[1][0] = passes[1][0].model_copy(update=unmoved)
    found = average_layers(passes)[0]
    assert (found.r, found.r_stderr, found.reason) == (None, None, "noise does not move it")
    assert found.d == pytest.approx((passes[0][0].d + passes[1][0].d) / 2)
    assert found.g == pytest.approx(passes[0][0].g / 2)


def test_copies_of_different_length():
    one, two = copies(2)
    with pytest.raises(ValueError, match="zip"):
        average_layers([one, two[:1]])


# ---- the record's types


def test_spectra_for_the_record():
    weights = {
        "a": torch.randn(8, 4, 3, 3, generator=torch.Generator().manual_seed(0)),
        "pointwise": torch.ones(8, 4, 1, 1),
        "b": torch.randn(8, 4, 1, 7, generator=torch.Generator().manual_seed(1)),
    }
    found = filter_spectra(weights)
    assert [(s.layer, s.kernel) for s in found] == [("a", [3, 3]), ("b", [1, 7])]
    for spectrum in found:
        expected = filter_spectrum(weights[spectrum.layer])
        assert spectrum.reason is None
        for name, value in expected._asdict().items():
            # the record keeps seven digits
            assert np.allclose(getattr(spectrum, name), value, rtol=5e-7, atol=0)


@pytest.mark.parametrize(("value", "word"), [(0.0, "zero"), (math.nan, "finite")])
def test_filters_without_a_spectrum(value, word):
    (found,) = filter_spectra({"a": torch.full((2, 2, 3, 3), value)})
    assert word in found.reason
    assert (found.layer, found.kernel, found.power, found.eigenvalues) == ("a", [3, 3], [], [])
    assert (found.low_frequency_share, found.mean_frequency) == (None, None)


def test_no_convolutions():
    assert filter_spectra({}) == []
