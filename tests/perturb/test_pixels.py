"""Active pixels: found, moved, and nothing else changed."""

import numpy as np
import pytest
import torch

from timm_diffsens import registry
from timm_diffsens.data.scale_detection import ScaleDetection
from timm_diffsens.errors import UsageError
from timm_diffsens.perturb.pixels import ActivePixels
from timm_diffsens.perturb.streams import Streams


@pytest.mark.parametrize("task", [ScaleDetection(1, 2), ScaleDetection(2, 1)])
def test_moving_images_is_moving_positions(task):
    sample = task.test(50)
    draws = [Streams(0, "diffeo", range(50)) for _ in range(2)]
    moved = ActivePixels(task)(sample.images, draws[0])
    expected = task.render(task.displace(_ordered(task, sample.images), draws[1]))
    assert torch.equal(moved, expected)


def _ordered(task, images):
    """The positions in the order in which they are found."""
    return ActivePixels(task).positions(images)


def test_noise_stays_where_it_is():
    task = ScaleDetection(1, 2)
    clean = task.test(20).images
    noise = 0.5 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))
    draws = [np.random.default_rng(1) for _ in range(2)]
    found = ActivePixels(task).positions(clean + noise)
    assert torch.equal(found.sort(dim=1).values, ActivePixels(task).positions(clean).sort(dim=1).values)
    change = ActivePixels(task)(clean + noise, draws[0]) - (clean + noise)
    # rounding of numbers of size 22.6 in float32: spacing 2^-19
    values = change.abs().flatten()
    assert ((values < 2**-17) | ((values - task.amplitude).abs() < 2**-17) | (values > task.amplitude)).all()


def test_every_channel_moves_alike():
    task = ScaleDetection(1, 2)
    images = task.test(5).images.repeat(1, 3, 1, 1)
    moved = ActivePixels(task)(images, np.random.default_rng(0))
    assert torch.equal(moved[:, 0], moved[:, 1])
    assert torch.equal(moved[:, 0], moved[:, 2])


def test_other_images_are_refused():
    move = ActivePixels(ScaleDetection(1, 2))
    with pytest.raises(UsageError, match="two active pixels"):
        move(torch.zeros(2, 1, 32, 32), np.random.default_rng(0))
    with pytest.raises(UsageError, match=r"\(n, c, 32, 32\)"):
        move(torch.zeros(2, 1, 16, 16), np.random.default_rng(0))
    with pytest.raises(UsageError, match="numpy generators"):
        move(ScaleDetection(1, 2).test(2).images, torch.Generator())


def test_asked_for_by_name_it_says_where_it_belongs():
    with pytest.raises(UsageError, match="belongs to the data sets scale1 and scale2"):
        registry.find("deformations", "active-pixels").build()
    task = ScaleDetection(1, 2)
    assert registry.find("deformations", "active-pixels").build(task=task) == ActivePixels(task)
