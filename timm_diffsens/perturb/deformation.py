"""What a deformation is, and what it may say of itself: its rms displacement, a size it cannot handle."""

from collections.abc import Sequence
from typing import Any
from typing import Protocol as Interface

import torch

from timm_diffsens.errors import UsageError
from timm_diffsens.perturb.streams import Generator

Size = int | tuple[int, int]  # side of a square, or (height, width), in pixels


class Deformation(Interface):
    """Images -> deformed images. Any callable of that kind will do.

    Two methods are used where there are such: `rms(size) -> float`, the expected rms displacement in pixels,
    and `problem(size) -> str | None`, what is wrong with the deformation on images of that size.
    """

    def __call__(self, images: torch.Tensor, generator: Generator, /) -> torch.Tensor:
        """Deform each image by a draw of its own: (n, c, ...) -> (n, c, ...).

        Args:
            images: the network's normalised input.
            generator: a sequence of numpy generators, one an image: what is drawn for an image from its own
                generator does not depend on the batch.
        """


def rms_of(deformation: Any, size: Size) -> float | None:
    """Expected rms displacement in pixels; None where the deformation does not state it."""
    rms = getattr(deformation, "rms", None)
    return None if rms is None else float(rms(size))


def problem_of(deformation: Any, size: Size) -> str | None:
    """What is wrong with the deformation on images of `size`; None where nothing is known to be."""
    problem = getattr(deformation, "problem", None)
    return None if problem is None else problem(size)


def as_deformations(given: Any) -> tuple[Deformation, ...]:
    """One deformation or several, as a tuple.

    Raises:
        UsageError: none at all, or one that is no deformation.
    """
    several = tuple(given) if isinstance(given, Sequence) and not isinstance(given, str) else (given,)
    wrong = [one for one in several if isinstance(one, type) or not callable(one)]
    if wrong or not several:
        got = repr(wrong[0]) if wrong else "none"
        raise UsageError(f"diffeo must be a deformation such as Diffeo(delta=1.0), or several, got {got}")
    return several
