"""The steps of an epoch: what is drawn, and that a replayed step is the step as written."""

import copy
import random
import warnings

import numpy as np
import pytest
import torch
from torch import nn

from timm_diffsens.errors import DiffsensWarning
from timm_diffsens.perturb.streams import stream
from timm_diffsens.train import steps
from timm_diffsens.train.data import SHIFT, Images
from timm_diffsens.train.loop import make_optimizer
from timm_diffsens.train.recipe import Recipe
from timm_diffsens.train.steps import WARM_UP, Steps, draw_epoch

BATCH = 8
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")


def recipe_of(**changes):
    return Recipe("cifar10", "net/resnet20", batch_size=BATCH, **{"lr": 0.02, **changes})


class Net(nn.Module):
    """Batch-norm and a part that gets no gradient."""

    dropout = 0.0  # drawn on the device, so on the CPU from a stream of the host

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3, 2), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(self.dropout)
        )
        self.head, self.unused = nn.Linear(4, 10), nn.Linear(2, 2)

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


def images_of(count):
    draws = torch.Generator().manual_seed(0)
    return Images(torch.rand(count, 3, 32, 32, generator=draws), torch.randint(10, (count,), generator=draws))


class Graph:
    """A CUDA graph on the CPU: a capture changes nothing, a replay works on the memory of the capture."""

    def __init__(self, module):
        self.module, self.replays = module, 0

    def __call__(self, compute):
        before = copy.deepcopy(self.module.state_dict())
        totals = compute.func.__self__.totals
        kept = totals.clone()
        compute()
        self.module.load_state_dict(before)
        totals.copy_(kept)
        memory = [p.grad for p in self.module.parameters()]
        for gradient in filter(lambda g: g is not None, memory):
            gradient.fill_(torch.nan)

        def replay():
            self.replays += 1
            seen_from_outside = [p.grad for p in self.module.parameters()]
            compute()
            for parameter, place, outside in zip(
                self.module.parameters(), memory, seen_from_outside, strict=True
            ):
                if place is not None:
                    place.copy_(parameter.grad)
                parameter.grad = outside

        return replay


def trained(capture_of, recipe, count, epochs=2, device="cpu", net=Net):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        module = net().to(device).train()
        capture = capture_of(module) if capture_of else None
        run = Steps(module, images_of(count).to(torch.device(device)), recipe, capture)
        optimizer = make_optimizer(module, recipe)
        found = []
        for epoch in range(epochs):
            for group in optimizer.param_groups:  # as a schedule does
                group["lr"] = 0.02 / (1 + epoch)
            found.append(run.epoch(optimizer, stream(0, "epoch", epoch)))
    return module, found, run


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
@pytest.mark.parametrize("augment", [False, True])
@pytest.mark.parametrize("count", [6 * BATCH, 6 * BATCH + 3])  # with a smaller last batch
def test_replayed_steps_are_the_steps_as_written(count, augment, optimizer):
    recipe = recipe_of(augment=augment, optimizer=optimizer, weight_decay=1e-3)
    plain, one, _ = trained(None, recipe, count)
    replayed, other, run = trained(Graph, recipe, count)
    assert run.replayed is not None
    assert one == other
    for name, value in plain.state_dict().items():
        assert torch.equal(value, replayed.state_dict()[name]), name


def test_only_whole_batches_after_the_first_few_are_replayed():
    graphs = []

    def capture_of(module):
        graphs.append(Graph(module))
        return graphs[-1]

    trained(capture_of, recipe_of(), 6 * BATCH + 3, epochs=3)
    assert graphs[0].replays == 3 * 6 - WARM_UP


class DrawsOnTheHost(Net):
    def forward(self, x):
        return super().forward(x) * (2 if random.random() < 0.5 else 1)


def test_what_the_host_does_in_a_step_is_not_replayed():
    random.seed(0)
    with pytest.warns(DiffsensWarning, match="draws random numbers on the host"):
        _, one, run = trained(Graph, recipe_of(), 6 * BATCH, net=DrawsOnTheHost)
    assert run.replayed is None
    random.seed(0)  # the stream of the test
    assert one == trained(None, recipe_of(), 6 * BATCH, net=DrawsOnTheHost)[1]


def test_a_capture_that_fails_leaves_the_steps_as_written():
    def failing(module):
        def capture(compute):
            raise RuntimeError("operation not permitted when stream is capturing\nmore")

        return capture

    with pytest.warns(DiffsensWarning, match="slower: operation not permitted when stream is capturing$"):
        _, one, _ = trained(failing, recipe_of(), 6 * BATCH)
    assert one == trained(None, recipe_of(), 6 * BATCH)[1]


@pytest.mark.parametrize(
    ("images", "batch", "used"), [(24, 8, 24), (27, 8, 27), (25, 8, 24), (1, 8, 1), (3, 1, 3)]
)
def test_an_epoch_shows_every_image_once_but_a_last_one_alone(images, batch, used):
    recipe = Recipe("cifar10", "net/fc2", batch_size=batch)
    drawn = draw_epoch(images, recipe, np.random.default_rng(0))
    assert drawn.shape == (used, 4)
    assert len(set(drawn[:, 0].tolist())) == used
    assert set(drawn[:, 0].tolist()) <= set(range(images))
    assert drawn[:, 1:3].min() >= 0
    assert drawn[:, 1:3].max() <= 2 * SHIFT


def test_augmentation_is_drawn_batch_by_batch_after_the_order():
    """The order of draws of version 0.1.0: kept checkpoints are made again to the bit."""
    drawn = draw_epoch(19, Recipe("cifar10", "net/fc2", batch_size=8), np.random.default_rng(3))
    rng = np.random.default_rng(3)
    assert drawn[:, 0].tolist() == rng.permutation(19).tolist()
    for start, count in ((0, 8), (8, 8), (16, 3)):
        rows = drawn[start : start + count]
        assert rows[:, 1:3].tolist() == rng.integers(0, 9, (count, 2)).tolist()
        assert rows[:, 3].tolist() == (rng.random(count) < 0.5).tolist()
    plain = draw_epoch(
        19, Recipe("cifar10", "net/fc2", batch_size=8, augment=False), np.random.default_rng(3)
    )
    assert plain.shape == (19, 1)


class Dropping(Net):
    dropout = 0.3


@needs_cuda
@pytest.mark.parametrize("changes", [{}, {"amp": True, "channels_last": True}])
def test_a_cuda_graph_gives_what_the_plain_loop_gives(changes):
    recipe, found = recipe_of(**changes), []
    for capture in (None, steps.capture_graph):
        with warnings.catch_warnings(), steps.own_stream(torch.device("cuda")):
            warnings.simplefilter("error", DiffsensWarning)
            module, rows, run = trained(lambda _, c=capture: c, recipe, 51, device="cuda", net=Dropping)
        assert (run.replayed is None) == (capture is None)
        found.append((module, rows))
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-4)
    for one, other in zip(found[0][0].parameters(), found[1][0].parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@needs_cuda
def test_a_network_that_waits_for_the_device_is_not_captured():
    class Waits(Net):
        def forward(self, x):
            return super().forward(x) * (1 if x.sum().item() else 2)

    with pytest.warns(DiffsensWarning, match="the host waits"), steps.own_stream(torch.device("cuda")):
        _, _, run = trained(lambda _: steps.capture_graph, recipe_of(), 48, device="cuda", net=Waits)
    assert run.replayed is None
