"""All that decides the outcome of a training, as plain values: checked, defaulted by task, hashed."""

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any

import torch

from timm_diffsens.data.scale_detection import ScaleDetection
from timm_diffsens.errors import UsageError, unknown
from timm_diffsens.models.arguments import ModelArguments
from timm_diffsens.schema.protocol import digest
from timm_diffsens.schema.training import TrainOptions

TASKS = ("scale1", "scale2", "cifar10")
OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "cosine")
DECAYS = ("all", "weights", "filters")
LOSSES = ("hinge", "cross-entropy")
FITTED = 0.01  # training error up to which a network counts as having fitted its training set
CIFAR10_MEAN, CIFAR10_STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # of its training pixels


@dataclass(frozen=True)
class Recipe:
    """A training, in full: two equal recipes give the same weights on the same machine.

    Defaults that depend on the task (None here) follow App. B.1 of arXiv 2210.01506: SGD with momentum 0.9
    and cosine annealing, learning rate 0.1 with cross-entropy, batch 128, translations and flips on
    CIFAR-10 (Adam for fully connected networks, where its 0.1 diverges: 0.001), and 0.05 with the hinge
    loss on scale detection.

    Attributes:
        task: scale1, scale2 or cifar10. model: a spec, see `models.loading.load_model`.
        arguments: of the architecture. scale: parameters of the scale-detection task.
        epochs, batch_size, optimizer, lr, momentum, weight_decay, schedule, loss: of the optimisation. The
            learning rate is that of a standard network; a mean-field one (`lr_scale`) multiplies it by its
            width and divides the weight decay by it (`train.loop.make_optimizer`).
        decay: which parameters the weight decay acts on: all; weights, the filters of convolutions and the
            matrices, not biases or norms; or filters alone.
        train_images, validation_images: how many; chosen by `seed`. With validation images the epoch of least
            error on them is kept (early stopping: 5,000 on CIFAR-10), without any the last (scale detection).
        augment: random translations by up to 4 pixels, and flips.
        corrupt: standard deviation of the Gaussian noise fixed for each image, in training and test.
        patience: epochs without a better validation error after which to stop; None: never.
        after_zero: stop at so many times the epoch at which the training loss first was zero, as the hinge
            loss can be, or after `epochs`; None: go on to the last.
        until_fitted: stop after the first epoch whose weights, in evaluation mode and without augmentation,
            err on at most this share of the training images (True: 1 %), and keep those weights; `epochs` is
            the upper limit, over which the schedule runs: a cosine is cut short. No validation images then,
            unless asked for, and they choose nothing.
        amp: forwards of training in bfloat16 where autocast allows it; errors are always of float32 forwards.
        channels_last: weights and images with the channels innermost, on CUDA.
        half: round the trained matrices and filters to float16 and keep them so; errors are
            those of the rounded network.
        seed: of weights, data and order.
    """

    task: str
    model: str
    arguments: ModelArguments = field(default_factory=ModelArguments)
    scale: dict[str, Any] | None = None
    epochs: int | None = None
    batch_size: int | None = None
    optimizer: str | None = None
    lr: float | None = None
    momentum: float = 0.9
    weight_decay: float | None = None
    decay: str = "all"
    schedule: str = "cosine"
    loss: str | None = None
    train_images: int | None = None
    validation_images: int | None = None
    augment: bool | None = None
    corrupt: float = 0.0
    patience: int | None = None
    after_zero: int | None = None
    until_fitted: bool | float | None = None
    amp: bool = False
    half: bool = False
    seed: int = 0
    channels_last: bool = False

    def __post_init__(self) -> None:
        for what, value, known in (
            ("task", self.task, TASKS),
            ("optimizer", self.optimizer or "sgd", OPTIMIZERS),
            ("decay", self.decay, DECAYS),
            ("schedule", self.schedule, SCHEDULES),
            ("loss", self.loss or "hinge", LOSSES),
        ):
            if value not in known:
                raise unknown(what, value, known)
        if isinstance(self.until_fitted, bool):  # as older files have it
            object.__setattr__(self, "until_fitted", FITTED if self.until_fitted else None)
        for name, value in self._defaults().items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        self._check()

    def _defaults(self) -> dict[str, Any]:
        natural = self.task == "cifar10"
        optimizer = self.optimizer or ("adam" if natural and self.model.startswith("net/fc") else "sgd")
        rate = 0.001 if optimizer != "sgd" else 0.1 if natural else 0.05
        common = {"optimizer": optimizer, "lr": rate, "weight_decay": 0.0, "augment": natural}
        if natural:
            held = 5000 if self.until_fitted is None else 0
            own = {"epochs": 250, "batch_size": 128, "loss": "cross-entropy", "validation_images": held}
        else:
            own = {"epochs": 40, "batch_size": 64, "loss": "hinge", "train_images": 1024}
            own |= {"validation_images": 0, "scale": self.detection.parameters() if self.detection else None}
        return common | own

    def _check(self) -> None:
        for name in ("epochs", "batch_size", "train_images", "patience", "after_zero"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or value < 1):
                raise UsageError(f"{name.replace('_', '-')} must be a positive integer, got {value!r}")
        for name in ("weight_decay", "momentum", "corrupt"):
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= 0):
                raise UsageError(f"{name.replace('_', '-')} must be at least 0, got {value!r}")
        if not (self.lr and math.isfinite(self.lr) and self.lr > 0):
            raise UsageError(f"lr must be positive, got {self.lr!r}")
        if self.validation_images is not None and self.validation_images < 0:
            raise UsageError(f"validation-images must be at least 0, got {self.validation_images}")
        if self.task == "cifar10" and self.loss == "hinge":
            raise UsageError("the hinge loss is for two classes; cifar10 needs cross-entropy")
        if self.task == "cifar10" and self.scale is not None:
            raise UsageError("xi, gap, size and dims belong to scale1 and scale2, not to cifar10")
        if self.augment and self.task != "cifar10":
            raise UsageError("augmentation would move the active pixels of scale detection")
        if not (self.until_fitted is None or 0 <= self.until_fitted < 1):
            raise UsageError(f"fitted-at must be at least 0 and below 1, got {self.until_fitted!r}")
        if self.channels_last and self.detection is not None and self.detection.dims == 1:
            raise UsageError("channels-last is a layout of images; those of --dims 1 have a single axis")
        rules = [n for n in ("patience", "after_zero", "until_fitted") if getattr(self, n) is not None]
        if len(rules) > 1:
            names = " and ".join(name.replace("_", "-") for name in rules[:2])
            raise UsageError(f"{names} are two rules of when to stop: give one of them")
        if not 0 <= self.seed < 2**63:
            raise UsageError(f"seed must be at least 0 and below 2^63, got {self.seed}")

    @property
    def detection(self) -> ScaleDetection | None:
        """The scale-detection task, if it is one."""
        if not self.task.startswith("scale"):
            return None
        return ScaleDetection(**{**(self.scale or {}), "task": int(self.task.removeprefix("scale"))})

    def check_device(self, device: torch.device) -> None:
        """Raises: UsageError: the device cannot run it."""
        cuda = device.type == "cuda"
        # oneDNN's backward of narrow convolutions (4 channels) writes past its memory in this layout
        if self.channels_last and not cuda:
            raise UsageError(
                f"--channels-last is for CUDA devices, got {device}; drop it, or give --device cuda"
            )
        if self.amp and cuda and not torch.cuda.is_bf16_supported():
            raise UsageError(f"--amp trains in bfloat16, which {device} does not have; drop it")

    def to_json(self) -> dict[str, Any]:
        """As plain values; newer fields only where they are set, so that older hashes stay what they were."""
        plain = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        plain["until_fitted"] = True if self.until_fitted == FITTED else self.until_fitted
        for name, unset in (
            ("until_fitted", None),
            ("after_zero", None),
            ("decay", "all"),
            ("channels_last", False),
        ):
            if plain[name] == unset:
                del plain[name]
        return {**plain, "arguments": self.arguments.to_json()}

    @property
    def sha256(self) -> str:
        """Hash of everything in it."""
        return digest(self.to_json())


def recipes_of(task: str, model: str, config: TrainOptions) -> list[Recipe]:
    """What `diffsens train` is asked for: a recipe for each seed."""
    asked, scale = config.chosen(Recipe), config.chosen(ScaleDetection)
    asked |= {"scale": scale or None, "augment": None if config.augment else False}
    if "fitted_at" in config.model_fields_set and not config.until_fitted:
        raise UsageError("--fitted-at says when --until-fitted stops: give both")
    asked["until_fitted"] = config.fitted_at if config.until_fitted else None
    shape = {name: value for name, value in config.chosen(ModelArguments).items() if name not in scale}
    seeds = range(config.seed, config.seed + config.seeds)
    return [Recipe(task, model, ModelArguments(**shape), **asked | {"seed": seed}) for seed in seeds]
