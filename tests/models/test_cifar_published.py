"""The examples of CIFAR-10 networks with published weights: their sizes, and that the weights fit them."""

import csv
from pathlib import Path

import pytest
import torch

from timm_diffsens import load_model
from timm_diffsens.data.loading import load_images

ROOT = Path(__file__).resolve().parents[2]
FILE = ROOT / "examples" / "cifar_published.py"
with (ROOT / "leaderboard" / "cifar10.csv").open(newline="") as table:
    NETWORKS = {row["checkpoint"]: row for row in csv.DictReader(table)}


def test_the_size_is_that_of_mlperf_tiny():
    """78,666 numbers in Keras, of which 480 are running means and variances of 240 channels."""
    found = load_model(f"{FILE}:resnet8", pretrained=False)
    assert (found.parameters, found.classes) == (78_666 - 480, 10)


@pytest.mark.parametrize("checkpoint", NETWORKS)
def test_published_weights_fit_and_classify(checkpoint, real_data):
    """The share of 200 test images that is wrong is that of the table, to five standard errors."""
    row = NETWORKS[checkpoint]
    weights = next(real_data.source.rglob(f"{checkpoint}.safetensors"))
    model = load_model(f"{ROOT / 'examples'}/{row['model']}", checkpoint=weights)
    sample = load_images("cifar10", data_dir=real_data.folder("cifar10-jpeg-test"), images=200, seed=0)
    images = torch.stack([sample.transform(model.input)(sample.load(i)) for i in range(200)])
    with torch.no_grad():
        wrong = (model.module(images).argmax(dim=1) != torch.tensor(sample.labels)).float().mean()
    error = float(row["error"])
    assert abs(wrong - error) < 5 * (error * (1 - error) / 200) ** 0.5
