"""Images that were not normalised are told from those that were."""

import warnings

import numpy as np
import pytest
import torch

from timm_diffsens import DiffsensWarning, ScaleDetection, UsageError, bench, load_images, measure
from timm_diffsens.integrations.training import Monitor
from timm_diffsens.models.nets import make_net

NORMALISED = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
PIXELS = ((NORMALISED.clamp(-2, 2) + 2) * 63.75).round()  # 0 to 255
MESSAGE = r"not normalised, it seems: their rms is 14\d, .* divide pixels by 255"


def loader(images):
    return [(images.to(torch.uint8), torch.zeros(len(images)))]


@pytest.mark.parametrize(
    "see",
    [
        lambda images: measure(make_net("lenet"), images),
        lambda images: measure(make_net("lenet"), loader(images)),
        lambda images: Monitor(images),
        lambda images: load_images(images),
        lambda images: load_images([images[:2], images[2:]], images=4),
        lambda images: load_images(torch.utils.data.TensorDataset(images), images=4),
    ],
)
def test_pixels_from_0_to_255_are_warned_of(see):
    with pytest.warns(DiffsensWarning, match=MESSAGE):
        see(PIXELS)


def test_a_monitor_warns_once():
    with pytest.warns(DiffsensWarning, match=MESSAGE):
        monitor = Monitor(PIXELS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        monitor(make_net("lenet"), 0)


@pytest.mark.parametrize(
    "images",
    [
        NORMALISED,
        (PIXELS / 255 - 0.5) / 0.05,
        ScaleDetection(task=1, dims=1, size=512, xi=14, gap=2).test(4, 0).images,  # a pixel of 16 on zeros
    ],
)
def test_normalised_images_are_not(images):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Monitor(images)
        load_images(images)


@pytest.mark.parametrize(
    "see",
    [
        lambda images: measure(make_net("lenet"), images),
        Monitor,
        lambda images: bench(make_net("lenet"), dataset=images, input_size=32, mean=0.5, std=0.5),
    ],
)
@pytest.mark.parametrize("kind", [np.ndarray, np.ma.MaskedArray])
def test_arrays_are_refused_with_what_makes_tensors_of_them(see, kind):
    with pytest.raises(UsageError, match=rf"numpy {kind.__name__}: torch\.from_numpy"):
        see(np.zeros((4, 3, 32, 32), dtype=np.float32).view(kind))
