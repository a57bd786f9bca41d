"""The recipe of task 1 leads to networks that pool as the theory says (Section 4.1 of arXiv 2210.01506)."""

from dataclasses import replace

import pytest

from timm_diffsens.models.loading import load_model
from timm_diffsens.reproduce.settings import SMALL
from timm_diffsens.schema.training import TrainOptions
from timm_diffsens.spectra.filters import filter_spectrum
from timm_diffsens.theory.trained import homogeneous_exponents, trained_curves, trained_exponents
from timm_diffsens.train.run import train


def trained(folder, **changed):
    recipe = SMALL.simple[0]
    arguments = replace(recipe.arguments, width=16, **changed)
    return train(replace(recipe, arguments=arguments), TrainOptions(out=folder))


@pytest.mark.slow
def test_it_fits_pools_evenly_and_has_the_exact_exponents(tmp_path):
    result = trained(tmp_path)
    assert result.test_error == result.train_error == 0
    (found,) = trained_curves([result.checkpoint])
    exact = homogeneous_exponents(found)
    for measure in "dg":
        for curve in ("trained", "mean channel"):
            exponent = trained_exponents(found)[measure][curve].value
            assert exponent == pytest.approx(exact[measure].value, rel=0.15)
    (seed,) = found.seeds
    assert min(seed.constant_shares) > 0.99
    module = load_model("net/simple", checkpoint=result.checkpoint).module
    shares = [
        filter_spectrum(module.get_parameter(f"conv{k}.weight")).low_frequency_share for k in range(1, 13)
    ]
    assert min(shares) > 0.99  # of the filters themselves, which begin with about a third
    below = seed.curves["mean channel"][:-1]  # the last layer has the threshold
    for layer, d, g in zip(below, found.theory.exact.d, found.theory.exact.g, strict=False):
        assert 1 / 1.25 < layer.d / d < 1.25
        assert 1 / 1.25 < layer.g / g < 1.25


@pytest.mark.slow
def test_without_the_threshold_it_is_not_learned(tmp_path):
    """So the test above tests the recipe, and not a task that any start would solve."""
    assert trained(tmp_path, bias_mean=0.0).train_error == 0.5
