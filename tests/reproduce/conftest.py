"""Folders of images as `--data-dir` takes them."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

CLASSES = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]


@pytest.fixture(scope="session")
def images(tmp_path_factory) -> Path:
    """`cifar10/train`, `cifar10/test` and `imagenet`: noise in the layouts of the real sets."""
    folder, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for part, count, side in (("cifar10/train", 6, 32), ("cifar10/test", 3, 32), ("imagenet", 2, 40)):
        for label, name in enumerate(CLASSES):
            place = folder / part / (name if part.startswith("cifar10") else f"n{label:08d}")
            place.mkdir(parents=True)
            for number in range(count):
                pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{number}.png")
    return folder
