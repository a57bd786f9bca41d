"""`until_fitted` and `augment`: when a training stops, which weights it keeps, what it was shown."""

import dataclasses
import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import nn
from typer.testing import CliRunner

from timm_diffsens.cli import app
from timm_diffsens.errors import UsageError
from timm_diffsens.models.arguments import ModelArguments
from timm_diffsens.models.loading import load_model
from timm_diffsens.schema.training import TrainOptions
from timm_diffsens.train import loop, objective, steps
from timm_diffsens.train.data import Images, load_task
from timm_diffsens.train.recipe import FITTED, Recipe
from timm_diffsens.train.run import CURVE, train
from timm_diffsens.train.steps import Steps

CHECKPOINTS = Path(__file__).parents[2] / "leaderboard" / "checkpoints"
FITTING = {"train_images": 64, "epochs": 60, "batch_size": 16, "lr": 0.02, "until_fitted": True}


def recipe_of(**changes):
    return Recipe("scale1", "net/lenet", **{**FITTING, **changes})


def trained(recipe, out, **options):
    """With few test images: they decide nothing here, and 10,000 take longer than the training."""
    data = load_task(recipe)
    few = Images(data.test.x[:50], data.test.y[:50])
    return train(recipe, TrainOptions(out=out), load=lambda _: dataclasses.replace(data, test=few), **options)


def rows_of(result):
    return json.loads((result.folder / CURVE).read_text())["curve"]


def test_it_stops_at_the_first_epoch_that_fits_and_keeps_its_weights(tmp_path):
    recipe = recipe_of()
    result = trained(recipe, out=tmp_path)
    rows = rows_of(result)
    measured = [row["fitted_error"] for row in rows]
    assert [error is not None and error <= FITTED for error in measured] == [False] * (len(rows) - 1) + [True]
    assert 1 < result.epoch == result.epochs == len(rows) < 60
    assert result.fitted
    kept = load_model(recipe.model, checkpoint=result.checkpoint).module
    assert objective.error_of(kept, load_task(recipe).train) == result.train_error == measured[-1]
    assert [row["fitted_error"] is None for row in rows] == [row["train_error"] > 0.05 for row in rows]


def test_it_is_the_start_of_the_same_training_that_does_not_stop(tmp_path):
    """The schedule runs over `epochs` and is cut: neither rates nor weights depend on where."""
    fitted = trained(recipe_of(schedule="constant"), out=tmp_path)
    length = {"schedule": "constant", "epochs": fitted.epochs, "until_fitted": False}
    plain = trained(recipe_of(**length), out=tmp_path)
    one, other = load_file(fitted.checkpoint), load_file(plain.checkpoint)
    assert all(torch.equal(one[name], other[name]) for name in one)
    cut = recipe_of()
    rates = [row["lr"] for row in rows_of(trained(cut, out=tmp_path))]
    assert rates == [cut.lr * loop.learning_rate(cut, epoch) for epoch in range(len(rates))]
    assert rates[-1] > 0


@pytest.mark.parametrize("half", [False, True])
def test_interrupted_anywhere_it_goes_on_to_the_same_result(tmp_path, half):
    """Also between the epoch that fits and the writing of the files: no further epoch is run then."""
    recipe = recipe_of(half=half)

    class Stop(Exception):
        pass

    def stop_after(count):
        def tell(row):
            if row["epoch"] == count:
                raise Stop

        return tell

    whole = trained(recipe, out=tmp_path / "whole")
    for count in (1, whole.epochs - 1, whole.epochs):
        with pytest.raises(Stop):
            trained(recipe, out=tmp_path / "broken", progress=stop_after(count))
    resumed = trained(recipe, out=tmp_path / "broken")
    with safe_open(whole.checkpoint, "pt") as one, safe_open(resumed.checkpoint, "pt") as other:
        for name in one.keys():  # noqa: SIM118
            assert torch.equal(one.get_tensor(name), other.get_tensor(name)), name
    assert [{**row, "seconds": 0} for row in rows_of(whole)] == [
        {**row, "seconds": 0} for row in rows_of(resumed)
    ]
    assert (resumed.epoch, resumed.train_error) == (whole.epoch, whole.train_error)


def test_what_never_fits_runs_to_the_end_and_says_so(tmp_path):
    result = trained(recipe_of(epochs=3, lr=1e-6), out=tmp_path)
    assert (result.epoch, result.epochs, result.fitted) == (3, 3, False)


def test_validation_images_are_measured_and_choose_nothing(tmp_path):
    assert Recipe("cifar10", "net/lenet", until_fitted=True).validation_images == 0
    module, kept = nn.Linear(1, 1), []
    for more in ({}, {"fitted_error": None}):
        state = loop.State({}, {}, {})
        for error in (0.2, 0.1, 0.3):
            optimizer = loop.make_optimizer(module, recipe_of())
            loop._advance(state, module, optimizer, {"validation_error": error, **more})
        kept.append(state.best_epoch)
    assert kept == [2, 3]
    result = trained(recipe_of(validation_images=64, epochs=2), out=tmp_path)
    assert rows_of(result)[-1]["validation_error"] == result.validation_error


class Scores(nn.Module):
    """A single score w * x, with dropout of nearly everything while training."""

    def __init__(self, weight):
        super().__init__()
        self.w, self.dropout = nn.Parameter(torch.tensor([[weight]])), nn.Dropout(0.999)

    def forward(self, x):
        return self.dropout(x.flatten(1)) @ self.w


def test_the_error_is_that_of_the_network_that_is_kept(monkeypatch):
    """In evaluation mode, on the images as they are, of the rounded weights where they will be rounded."""
    images = Images(torch.tensor([1.0, 2.0, -1.0, 3.0]).view(4, 1, 1, 1), torch.tensor([1, 1, -1, -1]))
    plain, half = Recipe("scale1", "net/fc2"), Recipe("scale1", "net/fc2", half=True)
    monkeypatch.setattr(steps, "augmented", None)
    module = Scores(1.0).train()
    assert objective.fitted_error(module, images, plain) == 0.25
    assert module.training
    tiny = Scores(1e-9)  # zero in float16, and a score of zero is a wrong answer
    assert objective.fitted_error(tiny, images, plain) == 0.25
    assert objective.fitted_error(tiny, images, half) == 1
    assert tiny.w.item() == pytest.approx(1e-9)


def test_without_augmentation_the_network_sees_the_images_as_they_are(monkeypatch):
    images = Images(torch.rand(8, 3, 32, 32), torch.arange(8))
    seen = []

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(1, 10)

        def forward(self, x):
            seen.append(x)
            return self.last(x.mean(dim=(1, 2, 3), keepdim=False)[:, None])

    def shown(augment):
        seen.clear()
        recipe = Recipe("cifar10", "net/fc2", augment=augment, batch_size=8)
        module = Spy()
        rng = loop.stream(0, "epoch", 0)
        Steps(module, images, recipe, None).epoch(loop.make_optimizer(module, recipe), rng)
        return torch.cat(seen)

    def same(x):
        return sorted(map(tuple, x.flatten(1).tolist())) == sorted(map(tuple, images.x.flatten(1).tolist()))

    assert same(shown(augment=False))
    assert not same(shown(augment=True))


def test_two_rules_of_stopping_are_refused():
    with pytest.raises(UsageError, match="two rules of when to stop"):
        Recipe("scale1", "net/lenet", until_fitted=True, patience=3)


def test_the_hashes_of_recipes_that_do_not_use_it_stay():
    """Values of version 0.1.0: trainings that are done are found again, and records keep their recipe."""
    how = {"epochs": 12, "weight_decay": 5e-4, "amp": True, "half": True}
    resnet = Recipe("cifar10", "net/resnet20", ModelArguments(width=28), **how)
    assert Recipe("scale1", "net/lenet").sha256[:16] == "23ac5045ac1ba784"
    assert resnet.sha256[:16] == "b3c31c1bb26c8cad"
    assert Recipe("scale1", "net/lenet", until_fitted=True).sha256 != Recipe("scale1", "net/lenet").sha256


def test_kept_checkpoints_hold_recipes_that_are_read_to_the_same_values():
    paths = sorted(CHECKPOINTS.glob("*.safetensors"))
    assert paths
    for path in paths:
        with safe_open(path, "pt") as file:
            stated = json.loads(file.metadata()["recipe"])["training"]
        arguments = ModelArguments.from_json(stated["arguments"])
        assert Recipe(**{**stated, "arguments": arguments}).to_json() == stated, path.name


def test_the_flags_reach_the_recipe(tmp_path):
    sizes = ("--train-images", "64", "--epochs", "1", "--out", str(tmp_path), "--json")
    flags = ("--until-fitted", "--no-augment")
    found = CliRunner().invoke(app, ["train", "scale1", "net/fc2", *flags, *sizes])
    (told,) = json.loads(found.stdout)
    assert told["recipe"]["until_fitted"] == 0.001
    assert told["recipe"]["augment"] is False
