"""The homogeneous network, run: it lies on the exact curves, and so do its exponents."""

import json
import math

import numpy as np
import pytest
import torch
from torch import nn

from timm_diffsens.errors import DiffsensWarning, UsageError
from timm_diffsens.results.report.theory_chart import theory_chart
from timm_diffsens.theory.homogeneous import homogeneous_network, measured_curve
from timm_diffsens.theory.pixel_pairs import PixelPairs
from timm_diffsens.theory.predictions import exact_curve
from timm_diffsens.theory.report import (
    TheoryResult,
    fit_of,
    layer_rows,
    run_theory,
    theory_document,
    theory_exponents,
    theory_rows,
    theory_setting,
)


@pytest.fixture(scope="module", params=[1, 2])
def result(request) -> TheoryResult:
    """The paper's two settings."""
    return run_theory(theory_setting(request.param, images={1: 512, 2: 8192}[request.param]))


def test_the_paper_s_settings():
    one, two = theory_setting(1), theory_setting(2)
    assert (one.depth, one.filter_size, one.stride, one.length, one.xi) == (12, 3, 1, 128, 14)
    assert (two.depth, two.filter_size, two.stride, two.length, two.xi) == (7, 2, 2, 128, 32)


def test_every_layer_lies_on_the_exact_curve(result):
    exact = result.exact
    for layers, suffix, measures in ((result.homogeneous, "", "dgr"), (result.linear, "_linear", "gr")):
        for k, layer in enumerate(layers):
            for measure in measures:
                name = measure if measure == "d" else measure + suffix
                expected, found = getattr(exact, name)[k], getattr(layer, measure)
                if math.isnan(expected):
                    assert layer.reason == "constant"
                else:
                    error = getattr(layer, f"{measure}_stderr")
                    assert abs(found - expected) <= 4 * error, (k + 1, name)


def test_fitted_exponents_are_those_of_the_exact_curve(result):
    """Within 5 %, and within 4 standard errors (of 8 groups, so it is itself known to a quarter)."""
    for name in ("d", "g", "r"):
        found = theory_exponents(result)[name]
        gap = abs(found.measured.value - found.exact.value)
        assert gap < 0.05 * abs(found.exact.value), name
        assert gap < 4 * found.measured.sampling, name
        groups = [fit_of(result.setting, layers, name).value for layers in result.groups]
        assert found.measured.sampling == pytest.approx(np.std(groups, ddof=1) / math.sqrt(8))
        assert (found.measured.first, found.measured.last) == (found.exact.first, found.exact.last)


def test_receptive_fields_are_the_predicted_ones(result):
    assert np.allclose([field.width for field in result.fields], result.exact.width, rtol=1e-10)


def test_noise_on_the_image_is_smaller_than_rectified_noise_and_approaches_its_power(result):
    """The first filter averages F numbers before the first ReLU, which halves their variance."""
    values = [layer.g for layer in result.white if layer.g is not None]
    for white, rectified in zip(values, result.homogeneous, strict=False):
        assert white < rectified.g
    growth = np.diff(np.log(values)) / np.diff(np.log(result.exact.width[: len(values)]))
    assert growth[-1] > growth[0] > 0


def test_exponents_without_relu_stay_near_zero(result):
    found = theory_exponents(result)["g_linear"]
    assert abs(found.exact.value) < 0.05
    assert abs(found.measured.value - found.exact.value) < 0.05


def test_rows_are_what_the_figure_takes(result):
    rows = theory_rows(result)
    assert len(rows) == (3 + 3 + 2 + 3 + 2 + 2 + 3 + 3) * result.setting.depth
    theory_chart(rows).to_dict()
    exact = {(row["measure"], row["layer"]): row["value"] for row in rows if row["curve"] == "exact"}
    assert exact["D", 2] == result.exact.d[1]
    assert exact["R", 3] == result.exact.r[2]


def test_the_document_is_json(result):
    document = json.loads(json.dumps(theory_document(result), allow_nan=False))
    assert [layer["layer"] for layer in document["layers"]] == list(result.setting.layers)
    assert document["exponents"]["d"]["asymptotic"] == (-2 if result.setting.stride == 1 else -1)
    assert document["layers"][0]["exact"]["g"] == result.exact.g[0]
    assert document["layers"][1]["homogeneous"]["d"] == result.homogeneous[1].d


def test_equal_seeds_give_equal_results():
    one, two, other = (run_theory(theory_setting(2, 3, images=32, seed=seed)) for seed in (1, 1, 2))
    assert theory_document(one) == theory_document(two)
    assert one.homogeneous[0].g != other.homogeneous[0].g


# ---- any network


def test_channels_that_are_all_alike_are_their_mean():
    """Equal homogeneous filters in every channel give the single channel's D, G and R; so does their mean."""
    setting = theory_setting(1, 3, images=64)
    modules: list[nn.Module] = []
    for inputs in (1, 4, 4):
        modules += [nn.CircularPad1d(1), nn.Conv1d(inputs, 4, 3, bias=False), nn.ReLU()]
    network = nn.Sequential(*modules, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(4, 1)).double()
    for module in network.modules():
        if isinstance(module, nn.Conv1d):
            nn.init.constant_(module.weight, 1 / 3 / module.in_channels)
    measured = measured_curve(network, setting.batches())
    rows = layer_rows(setting, "trained", measured.layers)
    rows += layer_rows(setting, "mean channel", measured.mean_channel)
    single = layer_rows(
        setting,
        "homogeneous",
        measured_curve(homogeneous_network(3, 3), setting.batches()).layers,
    )
    expected = {(row["measure"], row["layer"]): row["value"] for row in single}
    for row in rows:
        assert row["value"] == pytest.approx(expected[row["measure"], row["layer"]], rel=1e-10)


def test_images_take_the_type_of_the_network():
    sample = PixelPairs.task1(16, 5).sample(64, np.random.default_rng(0))
    single, double = (
        measured_curve(homogeneous_network(2, 3).to(t), [sample]) for t in (torch.float32, torch.float64)
    )
    for one, two in zip(single.layers, double.layers, strict=True):
        # float32 numbers of relative error 6e-8, gaps smaller than the numbers by a factor of about ten
        assert one.d == pytest.approx(two.d, rel=1e-5)


# ---- settings


def test_a_receptive_field_that_fills_the_image_is_said():
    with pytest.warns(DiffsensWarning, match="raise --length"):
        run_theory(theory_setting(1, 12, length=16, xi=4, images=16))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": 3}, "task must be 1 or 2, got 3"),
        ({"task": 1, "depth": 0}, "at least 1 layer"),
        ({"task": 1, "filter_size": 1}, "2 pixels a filter"),
        ({"task": 1, "images": 3}, "16 or more, got 3"),
        ({"task": 2, "xi": 2.5}, "whole number of pixels"),
    ],
)
def test_wrong_settings_are_named(arguments, message):
    with pytest.raises(UsageError, match=message):
        theory_setting(**arguments)


def test_other_filters_and_lengths_have_valid_defaults():
    for task, size, depth in ((1, 2, 4), (1, 5, 6), (2, 3, 4), (2, 4, 3), (2, 2, 1), (2, 2, 2)):
        setting = theory_setting(task, depth, filter_size=size)
        curve = exact_curve(setting.pairs(), depth, size, setting.stride)
        assert np.isfinite(curve.d[0])
