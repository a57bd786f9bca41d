"""Trained simple CNNs beside the theory, over seeds."""

import numpy as np
import pytest
import torch
from torch import nn

from timm_diffsens.errors import UsageError
from timm_diffsens.models.arguments import ModelArguments
from timm_diffsens.models.checkpoints import read_recipe, save_checkpoint
from timm_diffsens.models.loading import load_model
from timm_diffsens.results.report.theory_chart import theory_chart
from timm_diffsens.schema.training import TrainOptions
from timm_diffsens.spectra.filter_means import mean_filters_by_layer
from timm_diffsens.theory.trained import (
    homogeneous_exponents,
    trained_curves,
    trained_document,
    trained_exponents,
    trained_rows,
)
from timm_diffsens.train.recipe import Recipe
from timm_diffsens.train.run import train

SIMPLE = {"depth": 4, "filter": 2, "stride": 2, "width": 8}


def trained(folder, seed=0, task="scale2", dims=1, model="net/simple", **arguments):
    size, xi = (64, 8) if task == "scale2" else (32, 10)
    recipe = Recipe(
        task,
        model,
        ModelArguments(**{**SIMPLE, **arguments}) if model == "net/simple" else ModelArguments(),
        scale={"dims": dims, "size": size, "xi": xi},
        epochs=1,
        train_images=64,
        seed=seed,
    )
    return train(recipe, TrainOptions(out=folder)).checkpoint


def homogeneous(path, noise=0.0):
    """The checkpoint's network with the homogeneous single-channel solution written into every channel."""
    module = load_model("net/simple", checkpoint=path).module
    stream = torch.Generator().manual_seed(len(str(noise)))
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Conv1d):
                layer.weight.fill_(1.0)
                layer.weight.add_(noise * torch.randn(layer.weight.shape, generator=stream))
                if layer.bias is not None:
                    layer.bias.zero_()
    recipe = read_recipe(path)
    assert recipe is not None
    save_checkpoint(module, path, recipe)
    return path


def test_the_homogeneous_solution_has_the_theorys_exponents(tmp_path):
    """Channels that are all alike are the single-channel network: its exact exponents come back."""
    path = homogeneous(trained(tmp_path))
    (found,) = trained_curves([path], images=4096)
    exact = homogeneous_exponents(found)
    assert list(found.fitted) == [1, 2]  # patches of 2 and 4 pixels are smaller than xi = 8
    for measure, fits in trained_exponents(found).items():
        for curve in ("trained", "mean channel"):
            # over the two layers, by the delta method, from the errors of their values
            layers = found.seeds[0].curves[curve][:2]
            relative = [getattr(x, f"{measure}_stderr") / getattr(x, measure) for x in layers]
            error = np.hypot(*relative) / np.log(2)
            assert fits[curve].value == pytest.approx(exact[measure].value, abs=4 * error)
            assert fits[curve].stderr is None
        assert abs(fits["init"].value - exact[measure].value) > 0.2  # random filters do not pool


def test_seeds_are_averaged_and_their_spread_is_the_error(tmp_path):
    paths = [trained(tmp_path, seed) for seed in (2, 0, 1)]
    (found,) = trained_curves(paths, images=64)
    assert [seed.seed for seed in found.seeds] == [0, 1, 2]
    singles = [trained_curves([path], images=64)[0] for path in sorted(paths)]
    by_hand = {
        (row["curve"], row["measure"], row["layer"]): [row["value"]] for row in trained_rows(singles[0])
    }
    for single in singles[1:]:
        for row in trained_rows(single):
            by_hand[row["curve"], row["measure"], row["layer"]].append(row["value"])
    rows = trained_rows(found)
    assert len(rows) == len(by_hand) == 3 * 3 * 4
    for row in rows:
        values = by_hand[row["curve"], row["measure"], row["layer"]]
        if None in values:
            assert row["value"] is None
        else:
            assert row["value"] == pytest.approx(np.mean(values), rel=1e-12)
            assert row["stderr"] == pytest.approx(np.std(values, ddof=1) / np.sqrt(3), rel=1e-9)
    for measure, fits in trained_exponents(found).items():
        slopes = [trained_exponents(single)[measure]["trained"].value for single in singles]
        assert fits["trained"].value == pytest.approx(np.mean(slopes), rel=1e-12)
        assert fits["trained"].stderr == pytest.approx(np.std(slopes, ddof=1) / np.sqrt(3), rel=1e-9)
    assert theory_chart(rows).to_dict()


def test_trainings_that_differ_are_apart(tmp_path):
    paths = [trained(tmp_path), trained(tmp_path, width=6), trained(tmp_path, 1)]
    found = trained_curves(paths, images=16)
    assert [[s.seed for s in f.seeds] for f in found] == [[0, 1], [0]]
    document = trained_document(found[0])
    assert document["training"]["arguments"]["width"] == 8
    assert "seed" not in document["training"]
    assert document["exponents"]["d"]["asymptotic"] == -1
    assert document["exponents"]["d"]["trained"]["seeds"] == 2
    assert len(document["seeds"][1]["curves"]["init"]) == 4


def test_first_layers_of_both_strides(tmp_path):
    path = trained(tmp_path, task="scale1", depth=6, filter=3, stride=1)
    (found,) = trained_curves([path], images=16)
    assert list(found.fitted) == [1, 2, 3, 4]
    assert (found.setting.task, found.setting.length, found.setting.xi) == (1, 32, 10)


def test_arguments_that_were_left_to_the_network_are_known(tmp_path):
    path = trained(tmp_path, task="scale1", depth=None, filter=None, stride=None)
    (found,) = trained_curves([path], images=16)
    assert (found.setting.depth, found.setting.filter_size, found.setting.stride) == (12, 3, 1)


def test_the_images_have_the_gap_of_the_training(tmp_path):
    path = trained(tmp_path, task="scale1", depth=3, filter=3, stride=1)
    recipe = read_recipe(path)
    assert trained_curves([path], images=16)[0].setting.gap == 2
    recipe["training"]["scale"]["gap"] = 8.0
    save_checkpoint(load_model("net/simple", checkpoint=path).module, path, recipe)
    (found,) = trained_curves([path], images=16)
    distances = np.arange(32)
    distances = np.minimum(distances, 32 - distances)
    seen = found.setting.pairs().weights[0] > 0
    assert set(distances[seen]) == {*range(1, 6), *range(15, 17)}  # xi = 10: nearer than 6, farther than 14


def test_budget_margin_and_filters_of_a_training_are_stated(tmp_path):
    path = trained(tmp_path)
    recipe = read_recipe(path)
    (seed,) = trained_curves([path], images=16)[0].seeds
    assert (seed.decay_budget, seed.margin) == (recipe["decay_budget"], recipe["margin"])
    module = load_model("net/simple", checkpoint=path).module
    assert seed.constant_shares == [found.constant_share for found in mean_filters_by_layer(module)]
    stated = trained_document(trained_curves([homogeneous(path)], images=16)[0])["seeds"][0]
    assert stated["constant_shares"] == pytest.approx([1] * 4)
    for name in ("decay_budget", "margin"):  # as in files of older versions
        del recipe[name]
    save_checkpoint(load_model("net/simple", checkpoint=path).module, path, recipe)
    (seed,) = trained_curves([path], images=16)[0].seeds
    assert (seed.decay_budget, seed.margin) == (None, None)


def test_what_is_no_simple_cnn_of_one_dimension_is_refused(tmp_path):
    path = trained(tmp_path)
    with pytest.raises(UsageError, match=r"seed 0 of this training was given already"):
        trained_curves([path, path], images=16)
    with pytest.raises(UsageError, match="does not exist"):
        trained_curves([tmp_path / "none.safetensors"])
    lenet = trained(tmp_path, dims=2, task="scale1", model="net/lenet")
    with pytest.raises(UsageError, match="is net/lenet trained on scale1; the theory is about net/simple"):
        trained_curves([lenet])
    strided = trained(tmp_path, task="scale1", depth=3)
    with pytest.raises(UsageError, match="stride 2; the theory of task 1 is for 1 dimension and stride 1"):
        trained_curves([strided])
    bare = tmp_path / "bare.safetensors"
    save_checkpoint(nn.Linear(2, 2), bare, {"model": "x"})
    with pytest.raises(UsageError, match="no recipe in it"):
        trained_curves([bare])
