from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from timm_diffsens.device import allocator

allocator.prepare()

FolderMaker = Callable[..., Path]


def write_image(path: Path, number: int, side: int = 12, mode: str = "RGB") -> Path:
    """A small random image, a function of `number`, in the format that the name asks for."""
    rng = np.random.default_rng(number)
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    Image.fromarray(pixels).convert(mode).save(path)
    return path


@pytest.fixture
def make_folder(tmp_path: Path) -> FolderMaker:
    """make_folder("set", per_class=3, classes=("a", "b")) -> a folder of images; classes=("",) is flat."""

    def make(
        name: str = "set", per_class: int = 3, classes: Iterable[str] = ("a", "b"), suffix: str = ".png"
    ) -> Path:
        root = tmp_path / name
        for k, folder in enumerate(classes):
            for i in range(per_class):
                write_image(root / folder / f"{i:03d}{suffix}", 1000 * k + i)
        return root

    return make
