"""What of the fall of R before any training is max-pooling: fresh networks with it, and without."""

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from scipy import stats
from torch import nn

from timm_diffsens.models.inputs import InputOptions
from timm_diffsens.models.loading import load_model
from timm_diffsens.perturb.diffeo import Diffeo
from timm_diffsens.reproduce.workspace import Workspace
from timm_diffsens.sensitivities.forwards import PassSettings
from timm_diffsens.sensitivities.perturbed import Perturbation, PerturbedImages, batches_of
from timm_diffsens.sensitivities.run import run_pass
from timm_diffsens.train.recipe import CIFAR10_MEAN, CIFAR10_STD, Recipe

_IMAGES, _FRESH, _BATCH = 200, 4, 64


class Subsampling(nn.Module):
    """(n, c, h, w) -> the shape that a max-pooling gives, of every `stride`-th pixel: nothing is pooled."""

    def __init__(self, pooling: nn.MaxPool2d) -> None:
        super().__init__()
        if pooling.ceil_mode or pooling.dilation not in (1, (1, 1)):
            raise ValueError(f"only plain max-pooling can be replaced, not {pooling}")
        numbers = (pooling.kernel_size, pooling.stride, pooling.padding)
        self.size, self.stride, self.padding = (n if isinstance(n, int) else n[0] for n in numbers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Take the pixels."""
        height, width = ((n + 2 * self.padding - self.size) // self.stride + 1 for n in x.shape[-2:])
        return x[..., :: self.stride, :: self.stride][..., :height, :width]


def without_max_pooling(module: nn.Module) -> int:
    """Replace each max-pooling of a network, in place; returns how many there were."""
    count = 0
    for name, child in module.named_children():
        if isinstance(child, nn.MaxPool2d):
            setattr(module, name, Subsampling(child))
            count += 1
        else:
            count += without_max_pooling(child)
    return count


def max_pooling_tested(workspace: Workspace, recipe: Recipe) -> str:
    """`tested: ... -0.66 with its max-pooling, 0.13 without`: log(R_K / R_1) of a recipe's fresh networks.

    Means over four of them with standard errors; empty for a network without max-pooling.
    """
    images = workspace.cifar10_images(min(_IMAGES, workspace.settings.images))
    told = []
    for pooling in (True, False):
        falls = list(_falls(recipe, images, pooling))
        if len(falls) < 2:
            return ""
        told.append(f"{sum(falls) / len(falls):.2f} ± {stats.sem(falls):.2f}")
    name = recipe.model.removeprefix("net/")
    return (
        f"tested: before training log(R_K / R_1) of {name} is {told[0]} with its max-pooling, "
        f"{told[1]} with one pixel in place of each maximum ({_FRESH} fresh networks, standard errors)"
    )


def _falls(recipe: Recipe, images: torch.Tensor, pooling: bool) -> Iterator[float]:
    """log(R_K / R_1) over convolutions of fresh networks, K the last one."""
    side = images.shape[-1]
    shown = InputOptions(size=(side, side), mean=CIFAR10_MEAN, std=CIFAR10_STD)
    arguments = replace(recipe.arguments, in_chans=images.shape[1], num_classes=10, size=side)
    for seed in range(_FRESH):
        loaded = load_model(
            recipe.model, pretrained=False, seed=seed, input_options=shown, arguments=arguments
        )
        module = loaded.module.eval()
        if not pooling and not without_max_pooling(module):
            return
        perturbed = PerturbedImages(batches_of(images), Perturbation((Diffeo(),)))
        layers = run_pass(module, perturbed, PassSettings("convs", _BATCH)).layers[0]
        known = [layer.r for layer in layers if layer.layer != "output" and layer.r]
        if len(known) > 1:
            yield math.log(known[-1] / known[0])
