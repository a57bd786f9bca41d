"""What a training minimises, and the errors it is judged by."""

import copy

import torch
import torch.nn.functional as F
from torch import nn

from timm_diffsens.device.evaluation import evaluating
from timm_diffsens.models.checkpoints import round_to_half
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
