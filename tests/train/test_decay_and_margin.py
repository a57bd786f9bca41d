"""What decays and by how much, the normalised margin, and going on after the loss reached zero."""

import json
import math

import pytest
import torch
from torch import nn

from timm_diffsens.errors import UsageError
from timm_diffsens.models.arguments import ModelArguments
from timm_diffsens.models.nets.simple import SimpleCNN
from timm_diffsens.schema.training import TrainOptions
from timm_diffsens.train import loop
from timm_diffsens.train.data import Images
from timm_diffsens.train.objective import normalised_margin
from timm_diffsens.train.recipe import Recipe, recipes_of
from timm_diffsens.train.run import CURVE, read_result, train

SHAPE = ModelArguments(width=4, depth=2, filter=2, stride=2, bias="all", bias_std=1.0)
SMALL = {"scale": {"dims": 1, "size": 32, "xi": 4}, "train_images": 40, "batch_size": 16}


def recipe_of(**changes):
    return Recipe("scale2", "net/simple", SHAPE, **{**SMALL, **changes})


def net_of(**changes):
    torch.manual_seed(5)
    shape = {"channels": 1, "classes": 1, "side": 16, "dims": 1, "width": 6, "depth": 3}
    return SimpleCNN(**{**shape, **changes}).double()


def images_of(n=12):
    generator = torch.Generator().manual_seed(2)
    x = torch.randn(n, 1, 16, generator=generator, dtype=torch.float64)
    return Images(x, torch.tensor([1, -1] * (n // 2)))


# --- what decays


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize(
    ("decay", "names"),
    [
        (
            "all",
            {"conv1.weight", "conv1.bias", "conv2.weight", "conv2.bias", "readout.weight", "readout.bias"},
        ),
        ("weights", ["conv1.weight", "conv2.weight", "readout.weight"]),
        ("filters", ["conv1.weight", "conv2.weight"]),
    ],
)
def test_without_a_gradient_a_step_takes_lr_times_decay_of_what_decays(decay, names, optimizer):
    """Coupled in SGD, at the scaled rate of a mean-field network too; decoupled in AdamW."""
    net = net_of(depth=2, bias="all", bias_std=1.0)
    with torch.no_grad():
        net.readout.bias.fill_(2.0)
    before = {name: value.detach().clone() for name, value in net.named_parameters()}
    made = loop.make_optimizer(net, recipe_of(decay=decay, optimizer=optimizer, lr=0.25, weight_decay=0.5))
    for value in net.parameters():
        value.grad = torch.zeros_like(value)
    made.step()
    for name, value in net.named_parameters():
        left = 1 - 0.25 * 0.5 if name in names else 1.0
        torch.testing.assert_close(value, left * before[name], rtol=1e-12, atol=0)


def test_norms_and_biases_of_other_networks_do_not_decay_with_the_weights():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(8, 2))
    for decay, names in (("weights", ["0.weight", "3.weight"]), ("filters", ["0.weight"])):
        groups = loop.make_optimizer(net, recipe_of(decay=decay, weight_decay=0.5)).param_groups
        decaying = {id(value) for group in groups if group["weight_decay"] for value in group["params"]}
        assert [name for name, value in net.named_parameters() if id(value) in decaying] == names
        assert sum(len(group["params"]) for group in groups) == 6


# --- by how much


def test_the_budget_is_the_sum_of_rate_times_decay_over_steps(tmp_path):
    """40 images in batches of 16 are three steps an epoch; the cosine is that of the epoch."""
    recipe = recipe_of(epochs=4, lr=0.02, weight_decay=0.3, momentum=0.0)
    result = train(recipe, TrainOptions(out=tmp_path))
    rates = [0.02 * (1 + math.cos(math.pi * epoch / 4)) / 2 for epoch in range(4)]
    budgets = [3 * 0.3 * sum(rates[: n + 1]) for n in range(4)]
    rows = json.loads((result.folder / CURVE).read_text())["curve"]
    assert [row["decay_budget"] for row in rows] == pytest.approx(budgets)
    assert result.decay_budget == pytest.approx(budgets[-1])
    again = read_result(result.folder, recipe)
    assert (again.decay_budget, again.margin) == (result.decay_budget, result.margin)


@pytest.mark.parametrize(
    ("optimizer", "momentum"), [("sgd", 0.0), ("sgd", 0.9), ("adamw", 0.9), ("adam", 0.9)]
)
def test_what_only_decays_is_left_with_the_exponential_of_the_budget(optimizer, momentum):
    """After steps whose gradient is zero; the coupled decay of Adam has no budget."""
    steps, lr, decay = 2000, 0.01, 0.01
    recipe = recipe_of(optimizer=optimizer, momentum=momentum, lr=lr, weight_decay=decay)
    budget = loop._decay_budget(loop.State({}, {}, {}), recipe, steps * lr)
    if optimizer == "adam":
        assert budget is None
        return
    net = net_of()
    before = net.conv1.weight.detach().clone()
    made = loop.make_optimizer(net, recipe)
    for value in net.parameters():
        value.grad = torch.zeros_like(value)
    for _ in range(steps):
        made.step()
    left = -(net.conv1.weight / before).log().mean().item()
    # momentum takes 1 / (1 - m) steps to arrive; terms of second order are lr decay / (1 - m)^2
    bound = 1 / (1 - momentum) / steps + lr * decay / (1 - momentum) ** 2
    assert left == pytest.approx(budget, rel=bound + 1e-9)


def test_a_budget_that_began_in_an_older_file_is_not_known():
    state = loop.State({}, {}, {})
    state.curve.append({"epoch": 1, "loss": 0.5})
    assert loop._decay_budget(state, recipe_of(weight_decay=0.1), 1.0) is None


def test_a_decay_of_filters_of_a_network_that_has_none_is_refused():
    net = nn.Sequential(nn.Flatten(), nn.Linear(8, 2))
    with pytest.raises(UsageError, match="--decay filters"):
        loop.make_optimizer(net, recipe_of(decay="filters", weight_decay=0.1))


def test_files_without_budget_and_margin_are_still_results(tmp_path):
    recipe = recipe_of(epochs=1)
    file = train(recipe, TrainOptions(out=tmp_path)).folder / CURVE
    stated = json.loads(file.read_text())
    for name in ("decay_budget", "margin"):
        del stated["result"][name]
    file.write_text(json.dumps(stated))
    found = read_result(file.parent, recipe)
    assert (found.margin, found.decay_budget, found.epochs) == (None, None, 1)


# --- margin


def test_the_margin_by_hand():
    """One channel, one layer, stride F: the worst y f over the norms of the filter and the read-out."""
    net = net_of(width=1, depth=1, filter=2, stride=2, bias="last")
    with torch.no_grad():
        net.conv1.weight.copy_(torch.tensor([[[3.0, 4.0]]]))
        net.conv1.bias.fill_(-1.0)
        net.readout.weight.fill_(-2.0)
        net.readout.bias.fill_(0.5)
    images = images_of()
    scores = []
    for x, y in zip(images.x[:, 0], images.y, strict=True):
        places = [max((3 * x[i] + 4 * x[i + 1]) / math.sqrt(2) - 1, 0) for i in range(0, 16, 2)]
        scores.append(float(y * (-2 * sum(places) / 8 + 0.5)))
    assert normalised_margin(net, images) == pytest.approx(min(scores) / (5 / math.sqrt(2) * 2))


def test_equal_channels_have_the_margin_of_one_channel():
    images, one, many = images_of(), net_of(width=1, depth=2), net_of(width=7, depth=2)
    with torch.no_grad():
        for k in (1, 2):
            ours, theirs = (net.get_submodule(f"conv{k}").weight for net in (one, many))
            ours.abs_()
            theirs.copy_(ours.expand_as(theirs))
        many.readout.weight.copy_(one.readout.weight.expand(1, 7))
    assert normalised_margin(many, images) == pytest.approx(normalised_margin(one, images))


@pytest.mark.parametrize("bias", ["none", "all"])
def test_the_margin_does_not_change_where_layers_are_rescaled_with_their_biases(bias):
    net, images = net_of(bias=bias, bias_std=float(bias != "none"), gain=1.3), images_of()
    before, product = normalised_margin(net, images), 1.0
    with torch.no_grad():
        for name, factor in (("conv1", 3.0), ("conv2", 0.2), ("conv3", 7.0), ("readout", 0.5)):
            layer, product = net.get_submodule(name), product * factor
            layer.weight.mul_(factor)
            if layer.bias is not None:
                layer.bias.mul_(product)
    assert normalised_margin(net, images) == pytest.approx(before, rel=1e-9)
    with torch.no_grad():
        net.conv2.weight[0, 0, 0] += 1.0
    assert normalised_margin(net, images) != pytest.approx(before, rel=1e-3)


def test_other_networks_and_filters_that_are_zero_have_no_margin():
    images, net = images_of(), net_of()
    assert normalised_margin(nn.Sequential(nn.Flatten(), nn.Linear(16, 1)).double(), images) is None
    assert normalised_margin(net_of(classes=2), images) is None
    nn.init.zeros_(net.conv2.weight)
    assert normalised_margin(net, images) is None


# --- after the loss is zero


def test_it_goes_on_for_so_many_times_the_epochs_until_the_loss_was_zero(tmp_path, monkeypatch):
    losses = iter([2.0, 0.5, 0.0, 0.1, 0.0, *[0.0] * 20])
    monkeypatch.setattr(loop.Steps, "epoch", lambda *_: (next(losses), 0.0))
    result = train(recipe_of(epochs=20, after_zero=3), TrainOptions(out=tmp_path))
    assert (result.epochs, result.epoch) == (9, 9)


def test_epochs_is_the_most_and_a_loss_that_is_never_zero_stops_nothing(tmp_path, monkeypatch):
    losses = iter([1.0, 0.0, *[0.0] * 20])
    monkeypatch.setattr(loop.Steps, "epoch", lambda *_: (next(losses), 0.0))
    assert train(recipe_of(epochs=5, after_zero=100), TrainOptions(out=tmp_path)).epochs == 5
    monkeypatch.setattr(loop.Steps, "epoch", lambda *_: (1e-9, 0.0))
    assert train(recipe_of(epochs=4, after_zero=1), TrainOptions(out=tmp_path)).epochs == 4


def test_the_options_of_the_command_line():
    start = {"bias": "last", "bias_std": 0.5, "weight_mean": 1, "weight_std": 0.1}
    start |= {"readout_mean": 1, "gain": 2}
    asked = TrainOptions(**start, decay="filters", after_zero=9)
    (recipe,) = recipes_of("scale1", "net/simple", asked)
    assert (recipe.decay, recipe.after_zero) == ("filters", 9)
    assert recipe.arguments == ModelArguments(**start)
    plain = Recipe("scale1", "net/simple").to_json()
    assert not {"decay", "after_zero"} & set(plain)
    assert plain["arguments"] == {"dims": 2}
