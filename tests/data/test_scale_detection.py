"""The tasks against loops over all pairs, and truths known by hand."""

import itertools
import math

import numpy as np
import pytest
import torch

from timm_diffsens.benchmark.plan import Inputs
from timm_diffsens.data.loading import load_images
from timm_diffsens.data.scale_detection import ScaleDetection, labels_of
from timm_diffsens.errors import UsageError
from timm_diffsens.models.inputs import plain_input
from timm_diffsens.schema.config import Config

TASKS = [
    ScaleDetection(1, 1, size=24, xi=6, gap=2),
    ScaleDetection(1, 2, size=8, xi=4.5, gap=1),
    ScaleDetection(1, 2, size=8, xi=3, gap=1, periodic=True),
    ScaleDetection(2, 1, size=24, xi=6),
    ScaleDetection(2, 2, size=8, xi=4),
]
every_task = pytest.mark.parametrize("task", TASKS, ids=lambda t: f"{t.task}-{t.dims}d-{t.periodic}")


def label_by_hand(task, first, second):
    if task.task == 2:
        return 1 if all(a // task.xi == b // task.xi for a, b in zip(first, second, strict=True)) else -1
    steps = [abs(a - b) for a, b in zip(first, second, strict=True)]
    if task.periodic:
        steps = [min(step, task.size - step) for step in steps]
    distance = math.hypot(*steps)
    if task.xi - task.gap / 2 <= distance <= task.xi + task.gap / 2:
        return 0
    return 1 if distance < task.xi else -1


def all_pairs(task):
    pixels = list(itertools.product(range(task.size), repeat=task.dims))
    return list(itertools.combinations(pixels, 2))


@every_task
def test_labels_are_exact_for_every_pair(task):
    pairs = all_pairs(task)
    by_hand = [label_by_hand(task, *pair) for pair in pairs]
    assert labels_of(task, np.array(pairs)).tolist() == by_hand
    assert {1, -1} <= set(by_hand)
    assert (0 in by_hand) == (task.task == 1)


@every_task
def test_the_two_parts_are_disjoint_balanced_and_nearly_everything(task):
    seen = {}
    for part in ("train", "test"):
        sample = task.sample(part, task.count(part))
        seen[part] = {tuple(map(tuple, pair)) for pair in sample.positions.tolist()}
        assert len(seen[part]) == len(sample)
        assert int(sample.labels.sum()) == 0
        assert (labels_of(task, sample.positions.numpy()) == sample.labels.numpy()).all()
    assert not seen["train"] & seen["test"]
    by_hand = [label_by_hand(task, *pair) for pair in all_pairs(task)]
    rarest = min(by_hand.count(1), by_hand.count(-1))
    # of the rarer class every pair is in one of the parts, unless their number is odd
    assert sum(map(len, seen.values())) >= 2 * (rarest - 1)


@every_task
def test_images_have_two_active_pixels_of_the_stated_norm(task):
    sample = task.train(20, seed=3)
    assert sample.images.shape == (20, 1, *task.shape)
    # two float32 values of sqrt(N/2): relative rounding of a square 2^-23 each
    squares = sample.images.flatten(1).square().sum(1)
    assert squares.tolist() == pytest.approx([task.size**task.dims] * 20, rel=2**-22)
    for image, pair in zip(sample.images, sample.positions, strict=True):
        assert sorted(image[0].nonzero().tolist()) == sorted(pair.tolist())


@every_task
def test_a_seed_decides_the_sample_and_a_smaller_one_is_a_prefix(task):
    one, again, other = task.train(16, 5), task.train(30, 5), task.train(16, 6)
    assert torch.equal(one.images, again.images[:16])
    assert not torch.equal(one.indices, other.indices)
    assert abs(int(task.train(15, 5).labels.sum())) == 1


def neighbours_by_hand(task, pixel):
    """Every place a pixel may go to, with repetition."""
    steps = [(-1,), (1,)] if task.dims == 1 else [(0, 0), (-1, 0), (1, 0), (0, -1), (0, 1)]
    found = []
    for step in steps:
        there = [a + s for a, s in zip(pixel, step, strict=True)]
        if task.periodic:
            there = [a % task.size for a in there]
        inside = all(0 <= a < task.size for a in there)
        same_patch = all(a // task.xi == b // task.xi for a, b in zip(there, pixel, strict=True))
        if inside and (task.task == 1 or same_patch):
            found.append(tuple(there))
    return found


@every_task
def test_every_allowed_move_is_equally_likely_and_no_other_happens(task):
    n = 4000
    for pixel in [(0,) * task.dims, (3,) * task.dims, (task.size - 1,) * task.dims]:
        other = (1,) * task.dims
        start = torch.tensor([[pixel, other]]).expand(n, -1, -1)
        there = [tuple(p) for p in task.displace(start, np.random.default_rng(1))[:, 0].tolist()]
        allowed = neighbours_by_hand(task, pixel)
        assert set(there) == set(allowed)
        share = 1 / len(allowed)
        bound = 4 * math.sqrt(share * (1 - share) / n)  # four standard deviations of a binomial share
        assert all(abs(there.count(place) / n - share) < bound for place in allowed) or share == 1


def test_in_task_2_no_pixel_leaves_its_patch_so_labels_stay():
    for task in (ScaleDetection(2, 1), ScaleDetection(2, 2)):
        sample = task.test(500)
        moved = task.displace(sample.positions, np.random.default_rng(0))
        assert (labels_of(task, moved.numpy()) == sample.labels.numpy()).all()


@every_task
def test_rms_displacement_is_that_of_all_pixels(task):
    squares = []
    for pixel in itertools.product(range(task.size), repeat=task.dims):
        places = neighbours_by_hand(task, pixel)
        squares.append(sum(place != pixel for place in places) / len(places))
    assert task.rms_displacement() == pytest.approx(math.sqrt(np.mean(squares)), rel=1e-12)


def test_draws_belong_to_the_image():
    task = ScaleDetection(1, 2)
    positions = task.test(6).positions
    draws = [np.random.default_rng(k) for k in range(6)]
    whole = task.displace(positions, draws)
    last = task.displace(positions[4:], [np.random.default_rng(k) for k in (4, 5)])
    assert torch.equal(whole[4:], last)


def test_two_pixels_on_one_place_add_up():
    task = ScaleDetection(1, 1)
    assert task.render(torch.tensor([[[5], [5]]])).max().item() == pytest.approx(2 * 8.0)  # sqrt(128 / 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"task": 3}, "task must be 1 or 2"),
        ({"dims": 3}, "dims must be 1 or 2"),
        ({"size": 100}, "from 4 to 64"),
        ({"task": 2, "dims": 1, "size": 128, "xi": 30}, "nearest: 32 or 16"),
        ({"task": 2, "xi": 8, "gap": 2}, "no gap"),
        ({"xi": 100}, "no images of one class"),
        ({"gap": -1}, "gap"),
        ({"xi": float("nan")}, "xi"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(UsageError, match=message):
        ScaleDetection(**arguments)


def test_more_images_than_there_are():
    task = ScaleDetection(2, 1)
    with pytest.raises(UsageError, match=r"1984 .* 5000"):
        task.train(5000)
    with pytest.raises(UsageError, match="train and test"):
        task.sample("validation", 10)


def plain(sample, channels=1):
    height, width = (1, *sample.task.shape)[-2:]
    return sample.transform(plain_input(channels, (height, width)))


@pytest.mark.parametrize("task", [ScaleDetection(1, 2, size=16, xi=6), ScaleDetection(2, 1, size=24, xi=6)])
@pytest.mark.parametrize("channels", [1, 3])
def test_as_a_data_set_it_gives_the_same_images(task, channels):
    spec, given = f"scale{task.task}", {"dims": task.dims, "size": task.size, "xi": task.xi}
    sample, direct = load_images(spec, images=40, seed=7, channels=channels, **given), task.test(40, 7)
    assert sample.task == task
    assert list(sample.indices) == direct.indices.tolist()
    assert [2 * label - 1 for label in sample.labels] == direct.labels.tolist()
    for size in (1, 7, 40):
        shown = torch.cat([images for _, images in sample.batches(plain(sample, channels), size)])
        assert torch.equal(shown, direct.images.repeat(1, channels, *[1] * task.dims))
    assert sample.sha256 != load_images(spec, images=40, seed=7, channels=channels).sha256


def test_arguments_of_a_spec_mean_the_same_as_options():
    sample = load_images("scale1:xi=11,gap=2", images=4)
    assert sample == load_images("scale1", images=4, xi=11, gap=2)
    assert (sample.spec, sample.task) == ("scale1", ScaleDetection(1, xi=11, gap=2))
    asked = (Config(dataset="scale1:xi=11,gap=4"), Config(dataset="scale1", xi=11, gap=4))
    assert [Inputs.of(config).source.task for config in asked] == [ScaleDetection(1, xi=11, gap=4)] * 2


def test_as_a_data_set_wrong_use_is_told():
    with pytest.raises(UsageError, match="takes no --data-dir"):
        load_images("scale1", data_dir=".")
    with pytest.raises(UsageError, match="xi belongs to scale1 and scale2, not to dead-leaves"):
        load_images("dead-leaves", xi=11)
    with pytest.raises(UsageError, match="xi must divide the size"):
        load_images("scale2", xi=7)
    with pytest.raises(UsageError, match=r"unknown argument of the data set scale1 'xy'; did you mean xi"):
        load_images("scale1:xy=7")
    with pytest.raises(UsageError, match=r"shape \(3, 32, 32\), the model takes \(3, 16, 16\)"):
        load_images("scale1", images=2).transform(plain_input(3, (16, 16)))
