"""The reproduction in miniature: the same code, on as little as it runs on."""

from timm_diffsens.models.arguments import ModelArguments
from timm_diffsens.reproduce.settings import Settings
from timm_diffsens.train.recipe import Recipe


def scale(model: str, width: int | None = None, **more) -> Recipe:
    given = {"epochs": 1, "train_images": 64, "half": True} | more
    return Recipe("scale1", model, ModelArguments(width=width), **given)


def cifar(model: str, width: int | None = None) -> Recipe:
    return Recipe(
        "cifar10",
        model,
        ModelArguments(width=width),
        epochs=1,
        train_images=40,
        validation_images=10,
        batch_size=20,
        lr=0.001,
    )


def simple(task: int) -> Recipe:
    shape = {"depth": 3, "filter": 3, "stride": 1} if task == 1 else {"depth": 4, "filter": 2, "stride": 2}
    size = {} if task == 1 else {"size": 16, "xi": 4}
    return Recipe(
        f"scale{task}",
        "net/simple",
        ModelArguments(**shape, width=8),
        scale={"dims": 1, **({"size": 64} if task == 1 else size)},
        epochs=1,
        train_images=16,
        optimizer="adamw",
    )


TINY = Settings(
    name="tiny",
    cifar10=(cifar("net/fc2", 8), cifar("net/lenet"), cifar("net/vgg11", 4), cifar("net/vgg11_bn", 4)),
    noisy=(cifar("net/fc2", 8), cifar("net/lenet")),
    noises=(0.0, 1.0),
    depth=(cifar("net/vgg11", 4), cifar("net/vgg11_bn", 4)),
    more=(cifar("net/lenet"),),
    scale1=(scale("net/fc2", 8), scale("net/lenet"), scale("net/vgg11", 4)),
    pooling=(scale("net/vgg11", 4), scale("net/vgg11_bn", 4)),
    components=(cifar("net/vgg11", 4), cifar("net/vgg11_bn", 4)),
    simple=(simple(1), simple(2)),
    simple_seeds=(2, 2),
    imagenet=("torchvision/vgg11",),
    more_imagenet=("test_resnet",),
    images=8,
    shuffles=1,
    init_samples=1,
    resamples=100,
    boards=True,
    caveats={"scale1": "longer trainings", "pooling": "longer trainings"},
)
