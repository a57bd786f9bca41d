"""What a training minimises, and the errors and the margin it is judged by."""

import copy
import math

import torch
import torch.nn.functional as F
from torch import nn

from timm_diffsens.device.evaluation import evaluating
from timm_diffsens.models.checkpoints import round_to_half
from timm_diffsens.models.nets.simple import MeanFieldConv1d, MeanFieldConv2d, MeanFieldLinear, SimpleCNN
from timm_diffsens.train.data import Images
from timm_diffsens.train.recipe import Recipe

_EVALUATION_BATCH = 500


def loss_of(outputs: torch.Tensor, y: torch.Tensor, recipe: Recipe) -> torch.Tensor:
    """Hinge loss max(0, 1 - y f) on a single score (n, 1), or cross-entropy on (n, classes)."""
    if recipe.loss == "hinge":
        return F.relu(1 - outputs[:, 0] * y).mean()
    return F.cross_entropy(outputs, classes_of(y, outputs.shape[1]))


def classes_of(y: torch.Tensor, outputs: int) -> torch.Tensor:
    """Class indices of labels: -1 and +1 are the classes 0 and 1."""
    return (y + 1) // 2 if outputs <= 2 else y


def wrong_answers(outputs: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """(n,) whether each answer is wrong: the sign of a single score (zero is wrong), else the top class."""
    if outputs.shape[1] == 1:
        return outputs[:, 0].sign() != y
    return outputs.argmax(dim=1) != classes_of(y, outputs.shape[1])


def error_of(module: nn.Module, images: Images) -> float:
    """Share of wrong answers in evaluation mode; the mode is put back."""
    wrong = torch.zeros((), device=images.y.device)
    with torch.no_grad(), evaluating(module):
        for start in range(0, len(images), _EVALUATION_BATCH):
            rows = slice(start, start + _EVALUATION_BATCH)
            wrong += wrong_answers(module(images.x[rows]), images.y[rows]).sum()
    return float(wrong) / len(images)


def fitted_error(module: nn.Module, images: Images, recipe: Recipe) -> float:
    """Training error in evaluation mode, without augmentation, of the weights that would be kept."""
    if recipe.half:
        module = copy.deepcopy(module)
        round_to_half(module)
    return error_of(module, images)


def normalised_margin(module: nn.Module, images: Images) -> float | None:
    """min y f(x) over images / product over layers of the norm of the weight that is applied.

    Norms are Euclidean, of all numbers of the filters that a convolution applies, and of the read-out: scales
    of the parametrisation (1 / sqrt(fan_in), 1 / H, the gain) are in them. Equal channels with one filter
    have the norms, and so the margin, of the network of a single channel with that filter.

    Without biases f is of degree K + 1 in the weights, and the margin does not change where a layer is
    multiplied by a positive number. Biases are free: they are in no norm. Multiplied with the outputs of
    their layer (those of a layer by what it and all layers before it are multiplied by), they leave the
    margin as it was too, so no network gains by the size of its biases.

    Returns:
        None for another network than the simple CNN with a single score, and where a norm is 0.
    """
    if not isinstance(module, SimpleCNN):
        return None
    layers = [
        part for part in module if isinstance(part, MeanFieldConv1d | MeanFieldConv2d | MeanFieldLinear)
    ]
    norms = [float(layer.applied.detach().norm()) for layer in layers]
    if len(layers[-1].weight) > 1 or not all(norms):
        return None
    worst = math.inf
    with torch.no_grad(), evaluating(module):
        for start in range(0, len(images), _EVALUATION_BATCH):
            rows = slice(start, start + _EVALUATION_BATCH)
            worst = min(worst, float((module(images.x[rows])[:, 0] * images.y[rows]).min()))
    return worst * math.exp(-sum(map(math.log, norms)))
