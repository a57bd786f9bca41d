"""Trained networks and their records, each made once: found in a folder, or made and kept there."""

import re
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from timm_diffsens.benchmark.plan import prepare
from timm_diffsens.benchmark.run import run_once
from timm_diffsens.data.loading import load_images
from timm_diffsens.errors import DiffsensError, UsageError
from timm_diffsens.models.checkpoints import read_recipe
from timm_diffsens.models.inputs import plain_input
from timm_diffsens.perturb.diffeo import Diffeo
from timm_diffsens.perturb.streams import Streams
from timm_diffsens.reproduce.boards import Board, checkpoint_folders, checkpoints_in
from timm_diffsens.reproduce.settings import Settings
from timm_diffsens.results.records.store import copy_record, find_record
from timm_diffsens.schema.config import Config
from timm_diffsens.schema.protocol import digest
from timm_diffsens.schema.records import Record
from timm_diffsens.schema.training import TrainOptions
from timm_diffsens.train.data import TaskLoader
from timm_diffsens.train.recipe import CIFAR10_MEAN, CIFAR10_STD, Recipe
from timm_diffsens.train.run import read_result, run_folder, train

_BOARDS = "boards"
_CIFAR10, _IMAGENET = re.compile(r"cifar-?10(?!\d)"), re.compile(r"imagenet(?![a-z])")
_TORCHVISION = "cifar-10-batches-py"  # the folder that torchvision unpacks


class MissingError(DiffsensError):
    """Images or published weights that a target needs are missing; other targets continue."""


class TimeUpError(Exception):
    """The time for a part is over: what was done is kept, and the same call goes on there."""


@dataclass(frozen=True)
class Places:
    """Where real images are; None where they are not.

    Attributes:
        cifar10: the training images, or all. cifar10_test: the test images, if they lie elsewhere.
        imagenet: a folder with a sub-folder for each class.
    """

    cifar10: Path | None = None
    cifar10_test: Path | None = None
    imagenet: Path | None = None


def find_places(data_dir: Path | None) -> Places:
    """Look for CIFAR-10 and ImageNet below a folder.

    CIFAR-10 is a sub-folder whose name begins with `cifar10` or `cifar-10`: either `cifar-10-batches-py` as
    torchvision unpacks it, or a folder with `train` and `test`, each with a folder of images for each class.
    ImageNet is a sub-folder whose name begins with `imagenet`.

    Raises:
        UsageError: `data_dir` is given and is no folder, holds neither, or several that may be one of them.
    """
    if data_dir is None:
        return Places()
    if not data_dir.is_dir():
        raise UsageError(f"--data-dir: {data_dir} is no folder")
    places: dict[str, Path] = {}
    for name, pattern in (("CIFAR-10", _CIFAR10), ("ImageNet", _IMAGENET)):
        found = [p for p in sorted(data_dir.iterdir()) if p.is_dir() and pattern.match(p.name.lower())]
        if len(found) > 1:
            named = ", ".join(path.name for path in found)
            raise UsageError(
                f"--data-dir: {data_dir} holds {named}, each of which may be {name}; keep one there"
            )
        for path in found:
            if name == "ImageNet":
                places["imagenet"] = path
            elif (path / "train").is_dir() and (path / "test").is_dir():
                places |= {"cifar10": path / "train", "cifar10_test": path / "test"}
            else:
                places["cifar10"] = data_dir if path.name == _TORCHVISION else path
    if not places:
        raise UsageError(
            f"--data-dir: {data_dir} holds neither images of CIFAR-10 (a folder cifar10 with train and test, "
            f"or {_TORCHVISION}) nor of ImageNet (a folder imagenet)"
        )
    return Places(**places)


@dataclass
class Workspace:
    """Makes what targets ask for, or finds it made.

    Attributes:
        out: gets `runs/` (trainings) and `boards/` (records, by the figures that they are for).
        settings: the scale.
        places: of real images.
        board: folder of a leaderboard: its records are used in place of trainings and measurements where a
            claim is about a set of networks (at scales that say so), its checkpoints in place of trainings.
        checkpoints: further folders with checkpoints of `diffsens train`: one whose recipe is the one asked
            for is used in place of a training.
        weights: model spec -> file, for published weights that cannot be fetched.
        device: auto, cpu, cuda or cuda:i.
        progress: called with a line on each step.
        until: the moment, as of `time.monotonic`, from which on nothing new is begun; None: never.
    """

    out: Path
    settings: Settings
    places: Places = field(default_factory=Places)
    board: Path | None = None
    checkpoints: Sequence[Path] = ()
    weights: dict[str, Path] = field(default_factory=dict)
    device: str = "auto"
    progress: Callable[[str], None] = lambda line: None
    until: float | None = None

    def trained(self, recipe: Recipe) -> Path:
        """The checkpoint of a recipe: found in `checkpoints`, or of a training, done now or before.

        Raises:
            MissingError: the recipe needs images that are not there.
            TimeUpError: `until` is over; its state after the last epoch is kept.
        """
        found = self._found.get(digest(recipe.to_json()))
        if found is not None and self._of_these_images(recipe, found):
            return found
        done = read_result(run_folder(self.out / "runs", recipe), recipe)
        force = done is not None and not self._of_these_images(recipe, done.checkpoint)
        if done is None or force:
            self._check_time()
            noise = f", noise {recipe.corrupt:g}" if recipe.corrupt else ""
            self.progress(f"training {name_of(recipe)} on {recipe.task}{noise}, seed {recipe.seed}")
            load = self._cifar10_loader if recipe.task == "cifar10" else None
            running = TrainOptions(out=self.out / "runs", device=self.device, force=force)
            done = train(recipe, running, load=load, progress=self._check_time)
            errors = f"test error {done.test_error:.1%}, train {done.train_error:.1%}"
            self.progress(f"  {errors}; {done.seconds:.0f} s")
        return done.checkpoint

    def _of_these_images(self, recipe: Recipe, checkpoint: Path) -> bool:
        """Whether a network was trained on the CIFAR-10 images that are here; scale detection always is."""
        if recipe.task != "cifar10":
            return True
        same = (read_recipe(checkpoint) or {}).get("data_sha256") == self._cifar10_sha256
        if not same:
            self.progress(f"{checkpoint.name} of {name_of(recipe)} was trained on other images: not used")
        return same

    @cached_property
    def _cifar10_sha256(self) -> str:
        """Of the training images, as trainings state it; all of them are read."""
        split = "train" if self.places.cifar10_test is None else None
        return load_images("cifar10", data_dir=self._cifar10, split=split, images=None).sha256

    def record(self, group: str, recipe: Recipe, **options: Any) -> Record:
        """The record of a recipe's network on its own task, below `records_of(group)`."""
        checkpoint = self.trained(recipe)
        asked: dict[str, Any] = {"dataset": recipe.task, "corrupt": recipe.corrupt, "checkpoint": checkpoint}
        if recipe.task == "cifar10":
            asked["data_dir"] = self.places.cifar10_test or self._cifar10
        return self._measured(group, recipe.model, name_of(recipe), asked | options)

    def published(self, group: str, model: str, **options: Any) -> Record:
        """The record of a model with published weights on ImageNet.

        Raises:
            MissingError: no images, or the weights could not be had.
        """
        if self.places.imagenet is None:
            raise MissingError("no ImageNet images: give --data-dir, a folder with a folder imagenet in it")
        asked = {"dataset": "imagenet", "data_dir": self.places.imagenet} | options
        if model in self.weights:
            asked["checkpoint"] = self.weights[model]
        try:
            return self._measured(group, model, model, asked)
        except DiffsensError as error:
            hint = f" (here: --weights {model}=FILE)" if "weights" in str(error) else ""
            raise MissingError(f"{model}: {error}{hint}") from error

    def records_of(self, group: str) -> Path:
        """The folder of a group of records, as `build_leaderboard` takes it."""
        return self.out / _BOARDS / group

    def cifar10_images(self, count: int) -> torch.Tensor:
        """The first test images of the sample that is measured: (n, 3, 32, 32), as networks see them."""
        sample = load_images("cifar10", data_dir=self.places.cifar10_test or self._cifar10, images=count)
        show = sample.transform(plain_input(3, (32, 32), CIFAR10_MEAN, CIFAR10_STD))
        return torch.stack([show(sample.load(i)) for i in range(len(sample))])

    @cached_property
    def noise_unit(self) -> float:
        """eta* a pixel and channel: the rms of tau x - x over CIFAR-10 test images, to two digits."""
        images = self.cifar10_images(self.settings.images)
        deformed = Diffeo()(images, Streams(0, "unit of noise", range(len(images))))
        return float(f"{(deformed - images).square().mean().sqrt().item():.2g}")

    def _measured(self, group: str, model: str, name: str, asked: dict[str, Any]) -> Record:
        settings = self.settings
        given = {"shuffles": settings.shuffles, "init_samples": settings.init_samples} | asked
        options = Config(images=settings.images, device=self.device, **given)
        plan = prepare(model, options)
        folder = self.records_of(group) / "records"
        for other in sorted((self.out / _BOARDS).glob("*/records")):
            found = find_record(other, plan.key)
            if found is not None and other != folder and find_record(folder, plan.key) is None:
                copy_record(found, folder)  # measured for another figure
        if find_record(folder, plan.key) is None:
            self._check_time()
        record, _, now = run_once(plan, folder)
        if now:
            self.progress(f"measured {name}: {record.timings.seconds:.0f} s")
        return record

    def _check_time(self, *_: object) -> None:
        if self.until is not None and time.monotonic() >= self.until:
            raise TimeUpError

    @cached_property
    def _found(self) -> dict[str, Path]:
        kept = checkpoint_folders(self.board) if self.board else []
        return checkpoints_in([*kept, *self.checkpoints])

    @cached_property
    def populations(self) -> Board | None:
        """Sets of networks that are measured already, where this scale takes them."""
        usable = self.settings.boards and self.board is not None
        return Board(self.board, self.settings.resamples) if usable and self.board else None

    @property
    def _cifar10(self) -> Path:
        if self.places.cifar10 is None:
            raise MissingError("no CIFAR-10 images: give --data-dir, a folder with a folder cifar10 in it")
        return self.places.cifar10

    @cached_property
    def _cifar10_loader(self) -> TaskLoader:
        """It takes a while to decode."""
        return TaskLoader(TrainOptions(data_dir=self._cifar10, test_dir=self.places.cifar10_test))


def name_of(recipe: Recipe) -> str:
    """`net/vgg11_bn 12`: the model and its width, where that is given."""
    width = recipe.arguments.width
    return recipe.model if width is None else f"{recipe.model} {width}"


@contextmanager
def reporting_missing(missing: list[str]) -> Iterator[None]:
    """A missing input is added to the list once; what follows the block continues."""
    try:
        yield
    except MissingError as error:
        if str(error) not in missing:
            missing.append(str(error))
