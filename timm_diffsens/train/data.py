"""Training, validation and test images of a task, in memory, and how a batch of them is made."""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
import torch.nn.functional as F

from timm_diffsens.data.loading import ImageSample, load_images
from timm_diffsens.data.scale_detection import ScaleDetection
from timm_diffsens.errors import UsageError
from timm_diffsens.models.inputs import plain_input
from timm_diffsens.perturb.noise import corrupt
from timm_diffsens.perturb.streams import Streams, stream
from timm_diffsens.schema.protocol import digest
from timm_diffsens.schema.records import InputSpec
from timm_diffsens.schema.training import DEFAULTS, TrainOptions
from timm_diffsens.train.recipe import CIFAR10_MEAN, CIFAR10_STD, Recipe

SHIFT = 4  # pixels, largest translation
CPU = torch.device("cpu")
_TEST_IMAGES = 10_000
_DECIDING = ("task", "scale", "loss", "seed", "corrupt", "train_images", "validation_images")  # of the images


@dataclass(frozen=True)
class Images:
    """Images as the network sees them.

    Attributes:
        x: (n, c, h, w) or (n, c, length), float32, normalised and corrupted.
        y: (n,), int64: +1 or -1 on scale detection, else the class.
    """

    x: torch.Tensor
    y: torch.Tensor

    def __len__(self) -> int:
        return len(self.y)

    def to(self, device: torch.device) -> "Images":
        """The same on a device."""
        x = self.x.to(device)
        return Images(x.contiguous() if x.is_cuda else x, self.y.to(device))


@dataclass(frozen=True)
class TaskData:
    """All images of a training.

    Attributes:
        train, validation, test: disjoint; validation may be empty.
        input: what the network is shown. outputs: how many numbers it gives.
        sha256: of the CIFAR-10 sample; None for scale detection, which is known by its parameters.
        note: what the reader must know about the images, or None.
    """

    train: Images
    validation: Images
    test: Images
    input: InputSpec
    outputs: int
    sha256: str | None = None
    note: str | None = None

    def to(self, device: torch.device) -> "TaskData":
        """The same on a device."""
        parts = {name: getattr(self, name).to(device) for name in ("train", "validation", "test")}
        return replace(self, **parts)


def load_task(recipe: Recipe, config: TrainOptions = DEFAULTS) -> TaskData:
    """The images of a recipe, on the CPU; see `TaskLoader`."""
    return TaskLoader(config)(recipe)


class TaskLoader:
    """The images of recipes, one after another: files are read once, and what the next one shares stays.

    Args:
        config: where the images of CIFAR-10 are, see `data.loading.load_images`.
        device: where images are put.
    """

    def __init__(self, config: TrainOptions = DEFAULTS, device: torch.device = CPU) -> None:
        self.config, self.device = config, device
        self._last: tuple[str, TaskData] | None = None

    def __call__(self, recipe: Recipe) -> TaskData:
        """The images of a recipe.

        Raises:
            UsageError: data that are missing, too few images.
        """
        key = digest({name: getattr(recipe, name) for name in _DECIDING})
        if self._last is None or self._last[0] != key:
            self._last = None  # its memory goes first
            self._last = key, self._load(recipe).to(self.device)
        return self._last[1]

    def _load(self, recipe: Recipe) -> TaskData:
        if recipe.detection is None:
            return _cifar10(recipe, *self._files)
        if self.config.data_dir is not None or self.config.test_dir is not None:
            raise UsageError(f"{recipe.task} is made here, not read, so it takes no --data-dir")
        return _scale_detection(recipe, recipe.detection)

    @cached_property
    def _files(self) -> tuple["_Decoded", "_Decoded"]:
        config = self.config
        home, apart = config.data_dir, config.test_dir
        if home is None:
            raise UsageError(
                "cifar10 needs --data-dir, the folder it is read from (--download fetches it there)"
            )
        split = None if apart else "train"
        training = load_images("cifar10", data_dir=home, split=split, images=None, download=config.download)
        split = None if apart else "test"
        return _decoded(training), _decoded(
            load_images("cifar10", data_dir=apart or home, split=split, images=None)
        )


def _scale_detection(recipe: Recipe, task: ScaleDetection) -> TaskData:
    wanted, held = recipe.train_images or 0, recipe.validation_images or 0
    chosen = task.train(wanted + held, recipe.seed)
    tested = task.test(min(task.count("test"), _TEST_IMAGES), 0)  # the same for all seeds
    x, test_x = (
        _corrupted(sample.images, sample.indices, recipe, part)
        for sample, part in ((chosen, "train"), (tested, "test"))
    )
    # pairs of images, one of each class, come in order: cut between pairs, both parts are balanced
    return TaskData(
        train=Images(x[:wanted], chosen.labels[:wanted]),
        validation=Images(x[wanted:], chosen.labels[wanted:]),
        test=Images(test_x, tested.labels),
        input=plain_input(1, (task.side if task.dims == 2 else 1, task.side)),
        outputs=1 if recipe.loss == "hinge" else 2,
    )


@dataclass(frozen=True)
class _Decoded:
    """A part of CIFAR-10 as it was read: (n, 3, 32, 32) bytes, labels, and the numbers of the images."""

    pixels: torch.Tensor
    y: torch.Tensor
    indices: torch.Tensor
    sample: ImageSample


def _decoded(sample: ImageSample) -> _Decoded:
    if sample.labels is None:
        raise UsageError("the images of cifar10 have no labels: expected one folder of images per class")
    raw = np.stack([np.asarray(sample.load(i)) for i in range(len(sample))])
    pixels = torch.from_numpy(raw).permute(0, 3, 1, 2)
    return _Decoded(pixels, torch.tensor(sample.labels), torch.tensor(sample.indices), sample)


def _cifar10(recipe: Recipe, training: _Decoded, testing: _Decoded) -> TaskData:
    count, held = len(training.y), recipe.validation_images or 0
    order = np.argsort(stream(recipe.seed, "validation split").random(count), kind="stable")
    wanted = recipe.train_images or count - held
    if wanted + held > count:
        raise UsageError(
            f"cifar10 has {count} training images here; {wanted} and {held} for validation were asked"
        )
    return TaskData(
        train=_normalised(training, recipe, "train", order[:wanted]),
        validation=_normalised(training, recipe, "train", order[count - held :]),
        test=_normalised(testing, recipe, "test", np.arange(len(testing.y))),
        input=plain_input(3, (32, 32), CIFAR10_MEAN, CIFAR10_STD),
        outputs=10,
        sha256=training.sample.sha256,
        note=training.sample.note,
    )


def _normalised(images: _Decoded, recipe: Recipe, part: str, chosen: np.ndarray) -> Images:
    rows = torch.from_numpy(chosen)
    x = images.pixels[rows].float().div_(255)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (CIFAR10_MEAN, CIFAR10_STD))
    x.sub_(mean).div_(std)
    return Images(_corrupted(x, images.indices[rows], recipe, part), images.y[rows])


def _corrupted(x: torch.Tensor, indices: torch.Tensor, recipe: Recipe, part: str) -> torch.Tensor:
    """Noise fixed for each image; test images get that of `bench --corrupt` under seed 0."""
    if recipe.corrupt == 0:
        return x
    purpose = "corruption" if part == "test" else f"corruption of {part}"
    out = torch.empty_like(x)
    for start in range(0, len(x), 1024):
        rows = slice(start, start + 1024)
        out[rows] = corrupt(x[rows], recipe.corrupt, Streams(0, purpose, indices[rows].tolist()))
    return out


def draw_augmentation(n: int, rng: np.random.Generator) -> np.ndarray:
    """(n, 3), int64, of each image: rows and columns it is shifted by (from 0), whether it is flipped."""
    shifts = rng.integers(0, 2 * SHIFT + 1, (n, 2))
    return np.column_stack([shifts, rng.random(n) < 0.5])


def augmented(x: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
    """Each image (n, c, h, w) shifted by up to 4 pixels along both axes (zeros come in), and half flipped.

    `drawn` (n, 3), on the same device, is what `draw_augmentation` gives.
    """
    n, _, height, width = x.shape
    padded = F.pad(x, (SHIFT,) * 4)
    rows = torch.arange(height, device=x.device) + drawn[:, :1]
    columns = torch.arange(width, device=x.device) + drawn[:, 1:2]
    columns = torch.where(drawn[:, 2:] > 0, columns.flip(1), columns)
    image = torch.arange(n, device=x.device)[:, None, None]
    shifted = padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]
    return shifted.permute(0, 3, 1, 2).contiguous()
