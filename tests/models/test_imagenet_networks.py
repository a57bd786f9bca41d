"""The examples of ImageNet networks: their sizes as published, and that published weights fit them."""

import csv
from pathlib import Path

import pytest
import torch

from timm_diffsens import load_model
from timm_diffsens.data.labels import match_labels
from timm_diffsens.data.loading import load_images
from timm_diffsens.models.classes import imagenet_names
from timm_diffsens.models.inputs import InputOptions

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "examples" / "imagenet_networks.py"
with (ROOT / "leaderboard" / "imagenet.csv").open(newline="") as table:
    NETWORKS = {row["checkpoint"]: row for row in csv.DictReader(table)}


@pytest.mark.parametrize(
    ("factory", "parameters"),
    [
        ("mobilenetv1", 4_231_976),  # trainable ones that Keras counts
        ("mobilenetv1:width=0.25", 470_072),
        ("mobilenetv2", 3_504_872),  # torchvision's
    ],
)
def test_the_number_of_parameters_is_that_published(factory, parameters):
    found = load_model(f"{FILE}:{factory}", pretrained=False)
    assert (found.parameters, found.classes) == (parameters, 1000)
    assert (found.input.height, found.input.crop_pct, found.input.mean) == (224, 0.875, (0.5, 0.5, 0.5))


def test_padding_is_tensorflows():
    """Of an even side a stride of 2 pads one pixel at the end alone: the first output sees pixels 0 to 2."""
    network = load_model(f"{FILE}:mobilenetv1:width=0.25", pretrained=False).module
    image = torch.zeros(1, 3, 32, 32)
    image[..., 0, 0] = 1
    weight = network.conv_stem.weight
    assert torch.equal(network.conv_stem(image)[0, :, 0, 0], weight[:, :, 0, 0].sum(dim=1))


def test_the_first_projection_of_edgetpu_is_linear():
    network = load_model(f"{FILE}:edgetpu", pretrained=False).module
    first, x = network.blocks[0][0], torch.randn(1, 32, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(first(-x), -first(x))
    assert first.conv.kernel_size == (1, 1)


@pytest.mark.parametrize("checkpoint", NETWORKS)
def test_published_weights_fit_and_classify(checkpoint, real_data):
    """Strictly, and the outputs are in the order of WordNet ids: images of the training set are known."""
    row = NETWORKS[checkpoint]
    weights = next(real_data.source.rglob(f"{checkpoint}.safetensors"))
    side = int(row["input_size"])
    spec = f"{ROOT / 'examples'}/{row['model']}" if ".py:" in row["model"] else row["model"]
    model = load_model(spec, checkpoint=weights, input_options=InputOptions((side, side)))
    sample = load_images("imagenet", data_dir=real_data.folder("imagenet-sample"), images=24, seed=0)
    labels, _ = match_labels(sample, 1000, imagenet_names(1000))
    images = torch.stack([sample.transform(model.input)(sample.load(i)) for i in range(24)])
    with torch.no_grad():
        found = model.module(images).argmax(dim=1)
    assert (found == torch.tensor(labels)).float().mean() > 0.2  # a guess: one in a thousand
