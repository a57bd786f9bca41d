"""Recipes: the paper's defaults, checks, hashes."""

import pytest

from timm_diffsens.errors import UsageError
from timm_diffsens.models.arguments import ModelArguments
from timm_diffsens.train.recipe import Recipe


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
        Recipe("scale1", "net/lenet", amp=True),
        Recipe("scale1", "net/lenet", half=True),
    ]
    assert len({one.sha256, *(other.sha256 for other in others)}) == len(others) + 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "scale3"}, "did you mean scale"),
        ({"optimizer": "adamx"}, "adam"),
        ({"loss": "hinges"}, "hinge"),
        ({"epochs": 0}, "epochs must be a positive integer"),
        ({"lr": -1.0}, "lr must be positive"),
        ({"weight_decay": float("nan")}, "weight-decay"),
        ({"augment": True}, "active pixels"),
        ({"task": "cifar10", "loss": "hinge"}, "two classes"),
        ({"task": "cifar10", "scale": {"xi": 3}}, "not to cifar10"),
        ({"scale": {"xi": 500}}, "no images of one class"),
    ],
)
def test_wrong_recipes_are_named(changes, message):
    with pytest.raises(UsageError, match=message):
        Recipe(**{"task": "scale1", "model": "net/lenet", **changes})
