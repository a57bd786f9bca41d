"""The two sizes of the reproduction: what is trained, on how much, and how often."""

from dataclasses import dataclass, field, replace
from typing import Any

from timm_diffsens.errors import unknown
from timm_diffsens.models.arguments import ModelArguments
from timm_diffsens.train.recipe import Recipe


@dataclass(frozen=True)
class Settings:
    """Everything in which the scales differ; the code is the same.

    Attributes:
        name: small or paper.
        boards: whether Figs 1, 8 and 10 take the networks of a leaderboard, where there is one.
        cifar10: else the networks of Fig. 1 (centre), seed 0. noisy: of Fig. 1 (right) and Fig. 10, without
            noise. scale1: of Fig. 8.
        noises: on the images, in units of the noise that G uses, eta* (rms over images).
        depth: the VGG11s of Figs 3, 4 and 12. more: of Figs 11 and 13.
        pooling: the VGG11s of Figs 4 (third row) and 9.
        components: CIFAR-10 networks whose R is measured by component of the displacement.
        simple: networks of Fig. 7 and Tables 1 and 2, one a task.
        imagenet: models of Figs 3 and 4, with published weights. more_imagenet: of Figs 11 to 14.
        seeds: of every training but those of `simple`, which have `simple_seeds`, one number a task.
        images: a measurement is over. shuffles, init_samples: averaged over.
        copies: the same, of measurements layer by layer. few_copies: of the longest ones, of models on
            ImageNet and under all components.
        resamples: of the bootstrap over networks.
        caveats: subject -> what else may differ from the paper, and was not tested.
    """

    name: str
    cifar10: tuple[Recipe, ...]
    noisy: tuple[Recipe, ...]
    noises: tuple[float, ...]
    depth: tuple[Recipe, ...]
    more: tuple[Recipe, ...]
    scale1: tuple[Recipe, ...]
    pooling: tuple[Recipe, ...]
    components: tuple[Recipe, ...]
    simple: tuple[Recipe, ...]
    simple_seeds: tuple[int, ...]
    imagenet: tuple[str, ...]
    more_imagenet: tuple[str, ...]
    seeds: int = 1
    images: int = 500
    shuffles: int = 3
    init_samples: int = 3
    copies: int = 5
    few_copies: int = 5
    resamples: int = 2000
    boards: bool = False
    caveats: dict[str, str] = field(default_factory=dict)

    def caveat(self, *subjects: str) -> str:
        """`not tested: ...`, the caveats of these subjects, each once; empty where they have none."""
        found = [self.caveats.get(subject, "") for subject in dict.fromkeys(subjects)]
        known = "; ".join(filter(None, found))
        return f"not tested: {known}" if known else ""

    def to_json(self) -> dict[str, Any]:
        """As plain values: the settings that a report states."""
        recipes = ("cifar10", "noisy", "depth", "more", "scale1", "pooling", "components", "simple")
        return vars(self) | {name: [one.to_json() for one in vars(self)[name]] for name in recipes}


def find_settings(scale: str) -> Settings:
    """The settings of a scale.

    Raises:
        UsageError: an unknown one.
    """
    if scale not in SCALES:
        raise unknown("scale", scale, SCALES)
    return SCALES[scale]


def seeds_of(recipe: Recipe, count: int) -> list[Recipe]:
    """The same training from `count` seeds."""
    return [replace(recipe, seed=seed) for seed in range(count)]


def _cifar(model: str, width: int | None, epochs: int, **more: Any) -> Recipe:
    return Recipe("cifar10", model, ModelArguments(width=width), epochs=epochs, **more)


def _scale(model: str, width: int | None = None, **more: Any) -> Recipe:
    return Recipe("scale1", model, ModelArguments(width=width), **more)


def _simple1(width: int, mean: float, threshold: float, scale: dict[str, Any], **more: Any) -> Recipe:
    """App. B.2, task 1: one-dimensional, 12 layers of stride 1.

    Filters of mean `mean` / sqrt(fan in), and a threshold in the last layer: docs/scale_detection.md.
    """
    shape = ModelArguments(
        depth=12,
        filter=3,
        stride=1,
        width=width,
        bias="last",
        bias_mean=-threshold,
        bias_std=1.0,
        weight_mean=mean,
    )
    how: dict[str, Any] = {"optimizer": "sgd", "momentum": 0.0, "decay": "filters", "batch_size": 16}
    return Recipe("scale1", "net/simple", shape, scale={"dims": 1} | scale, **how, **more)


def _simple2(width: int, **more: Any) -> Recipe:
    """App. B.2, task 2: one-dimensional, 7 layers of stride 2."""
    shape = ModelArguments(depth=7, filter=2, stride=2, width=width)
    how: dict[str, Any] = {"scale": {"dims": 1}, "optimizer": "adamw", "lr": 0.01, "weight_decay": 1.0}
    return Recipe("scale2", "net/simple", shape, **how, **more)


_DECAY: dict[str, Any] = {"weight_decay": 5e-4, "amp": True, "half": True}


def _fitted(model: str, width: int | None, epochs: int, **more: Any) -> Recipe:
    """A line of leaderboard/cifar10-fitted.recipes: no augmentation, until the training set is fitted."""
    how: dict[str, Any] = {"augment": False, "until_fitted": 0.01, "amp": True, "half": True}
    return _cifar(model, width, epochs, **how | more)


# Trained with translations and flips for a few epochs (leaderboard/cifar10.recipes) ...
_AUGMENTED = {
    "vgg11": _cifar("net/vgg11", 12, 8, lr=0.02, amp=True, half=True),
    "vgg11_bn": _cifar("net/vgg11_bn", 12, 12, **_DECAY),
    "narrow": _cifar("net/vgg11_bn", 6, 10, **_DECAY),
    "alexnet": _cifar("net/alexnet", 16, 12, lr=0.02, amp=True, half=True),
    "resnet18": _cifar("net/resnet18", 8, 10, **_DECAY),
    "resnet20": _cifar("net/resnet20", 28, 12, **_DECAY),
}
# ... and without, until they fit (leaderboard/cifar10-fitted.recipes). A clone has the checkpoints of both.
_FITTED = {
    "vgg11": _fitted("net/vgg11", 16, 25, lr=0.02),
    "vgg11_bn": _fitted("net/vgg11_bn", 16, 16, lr=0.05, weight_decay=5e-4),
    "wide": _fitted("net/vgg11_bn", 24, 14, lr=0.05, weight_decay=5e-4),
    "alexnet": _fitted("net/alexnet", 32, 30, lr=0.02),
    "resnet18": _fitted("net/resnet18", 16, 14, weight_decay=5e-4),
}

_UNTOLD = (
    "translations and flips apart from fitting, as the networks with them do not fit their training set; "
    "wider networks, and several seeds of each"
)

SMALL = Settings(
    name="small",
    # lines of leaderboard/cifar10.recipes
    cifar10=(
        *(_cifar(f"net/fc{depth}", 48, 15, half=True) for depth in (2, 4, 6)),
        _cifar("net/lenet", None, 15, lr=0.02, half=True),
        *(_cifar("net/alexnet", width, 12, lr=0.02, amp=True, half=True) for width in (8, 16)),
        *(_AUGMENTED[name] for name in ("vgg11", "narrow", "vgg11_bn", "resnet18")),
        _cifar("net/resnet20", 4, 6, **_DECAY),
        _AUGMENTED["resnet20"],
    ),
    noisy=(
        *(_cifar(f"net/fc{depth}", 48, 8) for depth in (2, 4)),
        _cifar("net/lenet", None, 8, lr=0.02),
        *(_cifar("net/alexnet", width, 6, lr=0.02, amp=True) for width in (8, 16)),
        _cifar("net/vgg11_bn", 6, 5, weight_decay=5e-4, amp=True),
        _cifar("net/resnet20", 4, 4, weight_decay=5e-4, amp=True),
    ),
    noises=(0.0, 0.5, 1.0),
    depth=(
        *(_AUGMENTED[name] for name in ("vgg11", "vgg11_bn", "narrow")),
        *(_FITTED[name] for name in ("vgg11", "vgg11_bn", "wide")),
    ),
    more=(
        *(_AUGMENTED[name] for name in ("alexnet", "resnet18", "resnet20")),
        *(_FITTED[name] for name in ("alexnet", "resnet18")),
    ),
    scale1=(
        *(_scale(f"net/{name}") for name in ("fc2", "fc4", "lenet")),
        _scale("net/alexnet", 16),
        _scale("net/vgg11", 8, lr=0.01),
        *(_scale(f"net/{name}", 8) for name in ("vgg11_bn", "vgg13_bn", "resnet20")),
    ),
    pooling=(
        _scale("net/vgg11", 8, optimizer="adamw", lr=0.003, weight_decay=6.0, epochs=300),
        _scale("net/vgg11_bn", 8, optimizer="adamw", lr=0.003, weight_decay=3.0, epochs=200),
    ),
    components=(
        *(_AUGMENTED[name] for name in ("vgg11", "vgg11_bn")),
        *(_FITTED[name] for name in ("vgg11", "vgg11_bn", "resnet18")),
        _AUGMENTED["resnet20"],
    ),
    simple=(
        _simple1(
            64,
            1.39,
            10.0,
            {"size": 32, "xi": 9.0, "gap": 6.0},
            train_images=112,
            lr=0.01,
            weight_decay=0.2,
            epochs=860,
        ),
        _simple2(128, epochs=80),
    ),
    simple_seeds=(4, 4),
    imagenet=("torchvision/vgg11", "torchvision/vgg11_bn"),
    more_imagenet=("tf_efficientnet_lite0",),
    copies=10,
    boards=True,
    caveats={
        "cifar10": "250 epochs with translations and flips; the original files in place of JPEG images",
        "cifar10 depth": _UNTOLD,
        "components": _UNTOLD,
        "scale1": "wider networks, and more families of them",
        "pooling": "more than eight channels at the first layer; L2 in place of AdamW's decay",
        "simple": "1,000 channels, filters that begin without a mean, xi = 14 and a gap of 2 (task 1); SGD "
        "with L2 in place of AdamW (task 2)",
        "imagenet": "images that the network was certainly not trained on",
    },
)

_PAPER_CIFAR = (
    *(_cifar(f"net/fc{depth}", None, 250) for depth in (2, 4, 6)),
    _cifar("net/lenet", None, 250),
    _cifar("net/alexnet", 64, 250),
    *(_cifar(f"net/vgg{depth}", 64, 250, lr=0.02) for depth in (11, 16)),
    *(_cifar(f"net/vgg{depth}_bn", 64, 250) for depth in (11, 13, 16)),
    _cifar("net/resnet18", 64, 250),
    _cifar("net/resnet20", 16, 250),
)


def _named(*models: str) -> tuple[Recipe, ...]:
    return tuple(recipe for recipe in _PAPER_CIFAR if recipe.model in models)


PAPER = Settings(
    name="paper",
    cifar10=_PAPER_CIFAR,
    noisy=_PAPER_CIFAR,
    noises=(0.0, 0.5, 1.0, 2.0),
    depth=_named("net/vgg11", "net/vgg11_bn"),
    more=_named("net/alexnet", "net/vgg16_bn", "net/resnet18"),
    scale1=(
        *(_scale(f"net/fc{depth}", epochs=250) for depth in (2, 4, 6)),
        *(_scale(f"net/{name}", epochs=250) for name in ("lenet", "alexnet")),
        _scale("net/vgg11", epochs=250, lr=0.01),
        *(_scale(f"net/vgg{depth}_bn", epochs=250) for depth in (11, 13, 16)),
        *(_scale(f"net/resnet{depth}", epochs=250) for depth in (18, 20)),
    ),
    pooling=(
        _scale("net/vgg11", 64, epochs=250, lr=0.01, weight_decay=5e-3),
        _scale("net/vgg11_bn", 64, epochs=250, weight_decay=5e-3),
    ),
    components=(
        _cifar("net/vgg11", 64, 250, lr=0.02),
        *(_cifar(f"net/{name}", 64, 250) for name in ("vgg11_bn", "resnet18")),
    ),
    simple=(
        _simple1(1000, 1.72, 58.0, {"size": 64}, lr=1e-4, weight_decay=0.1, epochs=12000),
        _simple2(1000, epochs=1000),
    ),
    simple_seeds=(4, 10),
    imagenet=("torchvision/vgg11", "torchvision/vgg11_bn"),
    more_imagenet=("torchvision/alexnet", "torchvision/resnet18", "torchvision/resnet50"),
    seeds=5,
    shuffles=5,
    init_samples=5,
    copies=10,
    few_copies=10,
    caveats={
        "cifar10": "ADAM at 0.1, at which it diverges, for fully connected networks: theirs is 0.001",
        "pooling": "weight decay other than 5e-3, of which the paper says nothing",
        "simple": "random filters without a positive mean; in task 2, SGD with L2 in place of AdamW",
    },
)

SCALES = {scale.name: scale for scale in (SMALL, PAPER)}
