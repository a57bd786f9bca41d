"""Recipes: the paper's defaults, checks, hashes."""

import pytest
import torch

from timm_diffsens.errors import UsageError
from timm_diffsens.models.arguments import ModelArguments
from timm_diffsens.schema.training import TrainOptions
from timm_diffsens.train.recipe import Recipe, recipes_of
from timm_diffsens.train.run import train


def test_defaults_follow_the_paper():
    scale = Recipe("scale1", "net/lenet")
    assert (scale.loss, scale.optimizer, scale.lr, scale.momentum) == ("hinge", "sgd", 0.05, 0.9)
    assert (scale.train_images, scale.augment, scale.schedule) == (1024, False, "cosine")
    assert (scale.detection.xi, scale.detection.gap, scale.detection.size) == (14, 2, 32)
    cifar = Recipe("cifar10", "net/vgg11")
    assert (cifar.loss, cifar.optimizer, cifar.lr, cifar.momentum) == ("cross-entropy", "sgd", 0.1, 0.9)
    assert (cifar.batch_size, cifar.epochs, cifar.augment) == (128, 250, True)
    assert Recipe("cifar10", "net/fc4").optimizer == "adam"
    assert Recipe("cifar10", "net/fc4", optimizer="sgd").lr == 0.1


def test_the_hash_covers_every_field():
    one = Recipe("scale1", "net/lenet")
    assert one.sha256 == Recipe("scale1", "net/lenet", epochs=40, lr=0.05).sha256
    others = [
        Recipe("scale2", "net/lenet"),
        Recipe("scale1", "net/alexnet"),
        Recipe("scale1", "net/lenet", seed=1),
        Recipe("scale1", "net/lenet", epochs=41),
        Recipe("scale1", "net/lenet", corrupt=0.1),
        Recipe("scale1", "net/lenet", scale={"xi": 10}),
        Recipe("scale1", "net/lenet", arguments=ModelArguments(width=8)),
        Recipe("scale1", "net/lenet", weight_decay=1e-4),
        Recipe("scale1", "net/lenet", patience=3),
        Recipe("scale1", "net/lenet", after_zero=3),
        Recipe("scale1", "net/lenet", decay="weights"),
        Recipe("scale1", "net/lenet", decay="filters"),
        Recipe("scale1", "net/lenet", amp=True),
        Recipe("scale1", "net/lenet", half=True),
        Recipe("scale1", "net/lenet", channels_last=True),
        Recipe("scale1", "net/lenet", until_fitted=0.001),
        Recipe("scale1", "net/lenet", until_fitted=0.01),
    ]
    assert len({one.sha256, *(other.sha256 for other in others)}) == len(others) + 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "scale3"}, "did you mean scale"),
        ({"optimizer": "adamx"}, "adam"),
        ({"loss": "hinges"}, "hinge"),
        ({"epochs": 0}, "epochs must be a positive integer"),
        ({"decay": "filter"}, "unknown decay 'filter'; did you mean filters"),
        ({"after_zero": 0}, "after-zero must be a positive integer"),
        ({"after_zero": 2, "patience": 2}, "patience and after-zero are two rules"),
        ({"lr": -1.0}, "lr must be positive"),
        ({"weight_decay": float("nan")}, "weight-decay"),
        ({"augment": True}, "active pixels"),
        ({"task": "cifar10", "loss": "hinge"}, "two classes"),
        ({"task": "cifar10", "scale": {"xi": 3}}, "not to cifar10"),
        ({"scale": {"xi": 500}}, "no images of one class"),
        ({"until_fitted": 1.0}, "fitted-at must be at least 0 and below 1"),
        ({"channels_last": True, "scale": {"dims": 1}}, "single axis"),
    ],
)
def test_wrong_recipes_are_named(changes, message):
    with pytest.raises(UsageError, match=message):
        Recipe(**{"task": "scale1", "model": "net/lenet", **changes})


def test_until_fitted_is_a_share_and_older_files_say_true_for_one_percent():
    """Kept checkpoints state `true`: their recipes, and with them their hashes, stay what they were."""
    old, same = (Recipe("cifar10", "net/lenet", until_fitted=asked) for asked in (True, 0.01))
    assert old == same
    assert old.until_fitted == 0.01
    assert old.to_json()["until_fitted"] is True
    assert Recipe("cifar10", "net/lenet", until_fitted=0.001).to_json()["until_fitted"] == 0.001
    never = Recipe("cifar10", "net/lenet", until_fitted=False)
    assert never == Recipe("cifar10", "net/lenet")
    assert "until_fitted" not in never.to_json()
    zero = Recipe("cifar10", "net/lenet", until_fitted=0.0)
    assert (zero.until_fitted, zero.validation_images) == (0, 0)


def test_what_the_options_mean():
    def one(**asked):
        return recipes_of("cifar10", "net/lenet", TrainOptions(**asked))[0]

    assert one().until_fitted is None
    assert one(until_fitted=True).until_fitted == 0.001
    assert one(until_fitted=True, fitted_at=0.01) == Recipe("cifar10", "net/lenet", until_fitted=True)
    assert one(bfloat16=True) == one(amp=True) == Recipe("cifar10", "net/lenet", amp=True)
    assert one(channels_last=True) == Recipe("cifar10", "net/lenet", channels_last=True)
    assert one(graph=False) == one()
    with pytest.raises(UsageError, match="give both"):
        one(fitted_at=0.01)


def test_a_recipe_says_which_devices_it_is_for(tmp_path, monkeypatch):
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    Recipe("cifar10", "net/lenet", amp=True).check_device(cpu)
    Recipe("cifar10", "net/lenet", channels_last=True).check_device(cuda)
    for known in (True, False):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda k=known: k)
        if known:
            Recipe("cifar10", "net/lenet", amp=True).check_device(cuda)
    with pytest.raises(UsageError, match="bfloat16, which cuda does not have"):
        Recipe("cifar10", "net/lenet", amp=True).check_device(cuda)
    laid_out = Recipe("scale1", "net/lenet", channels_last=True, train_images=64)
    with pytest.raises(UsageError, match="--channels-last is for CUDA devices, got cpu"):
        train(laid_out, TrainOptions(out=tmp_path, device="cpu"))
