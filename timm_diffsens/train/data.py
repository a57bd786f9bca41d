"""Training, validation and test images of a task, in memory, and how a batch of them is made."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from timm_diffsens.data.loading import ImageSample, load_images
from timm_diffsens.data.scale_detection import ScaleDetection
from timm_diffsens.errors import UsageError
from timm_diffsens.models.inputs import plain_input
from timm_diffsens.perturb.noise import corrupt
from timm_diffsens.perturb.streams import Streams, stream
from timm_diffsens.schema.records import InputSpec
from timm_diffsens.schema.training import DEFAULTS, TrainOptions
from timm_diffsens.train.recipe import CIFAR10_MEAN, CIFAR10_STD, Recipe

SHIFT = 4  # pixels, largest translation
_TEST_IMAGES = 10_000


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
        return Images(self.x.to(device), self.y.to(device))


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


def load_task(recipe: Recipe, config: TrainOptions = DEFAULTS) -> TaskData:
    """The images of a recipe.

    Args:
        recipe: names the task, the numbers of images and the seed.
        config: where the images of CIFAR-10 are, see `data.loading.load_images`.

    Raises:
        UsageError: data that are missing, too few images.
    """
    if recipe.detection is not None:
        if config.data_dir is not None or config.test_dir is not None:
            raise UsageError(f"{recipe.task} is made here, not read, so it takes no --data-dir")
        return _scale_detection(recipe, recipe.detection)
    return _cifar10(recipe, config)


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


def _cifar10(recipe: Recipe, config: TrainOptions) -> TaskData:
    home, apart = config.data_dir, config.test_dir
    if home is None:
        raise UsageError("cifar10 needs --data-dir, the folder it is read from (--download fetches it there)")
    split = None if apart else "train"
    training = load_images("cifar10", data_dir=home, split=split, images=None, download=config.download)
    split = None if apart else "test"
    testing = load_images("cifar10", data_dir=apart or home, split=split, images=None)
    held = recipe.validation_images or 0
    order = np.argsort(stream(recipe.seed, "validation split").random(len(training)), kind="stable")
    wanted = recipe.train_images or len(training) - held
    if wanted + held > len(training):
        raise UsageError(
            f"cifar10 has {len(training)} training images here; {wanted} and {held} for validation were asked"
        )
    x, y = _pixels(training, recipe, "train")
    test_x, test_y = _pixels(testing, recipe, "test")
    chosen, rest = order[:wanted].copy(), order[len(order) - held :].copy()
    return TaskData(
        train=Images(x[chosen], y[chosen]),
        validation=Images(x[rest], y[rest]),
        test=Images(test_x, test_y),
        input=plain_input(3, (32, 32), CIFAR10_MEAN, CIFAR10_STD),
        outputs=10,
        sha256=training.sha256,
        note=training.note,
    )


def _pixels(sample: ImageSample, recipe: Recipe, part: str) -> tuple[torch.Tensor, torch.Tensor]:
    if sample.labels is None:
        raise UsageError("the images of cifar10 have no labels: expected one folder of images per class")
    raw = np.stack([np.asarray(sample.load(i)) for i in range(len(sample))])
    x = torch.from_numpy(raw).permute(0, 3, 1, 2).float().div_(255)
    mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in (CIFAR10_MEAN, CIFAR10_STD))
    x.sub_(mean).div_(std)
    return _corrupted(x, torch.tensor(sample.indices), recipe, part), torch.tensor(sample.labels)


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


def augmented(x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Each image (n, c, h, w) shifted by up to 4 pixels along both axes (zeros come in), and half flipped."""
    n, _, height, width = x.shape
    shifts = torch.from_numpy(rng.integers(0, 2 * SHIFT + 1, (n, 2))).to(x.device)
    flips = torch.from_numpy(rng.random(n) < 0.5).to(x.device)
    padded = F.pad(x, (SHIFT,) * 4)
    rows = torch.arange(height, device=x.device) + shifts[:, :1]
    columns = torch.arange(width, device=x.device) + shifts[:, 1:]
    columns = torch.where(flips[:, None], columns.flip(1), columns)
    image = torch.arange(n, device=x.device)[:, None, None]
    shifted = padded.permute(0, 2, 3, 1)[image, rows[:, :, None], columns[:, None, :]]
    return shifted.permute(0, 3, 1, 2).contiguous()
