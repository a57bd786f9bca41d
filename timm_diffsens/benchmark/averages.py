"""From passes to the record: averages over copies of a network, and the record's own types."""

import math
from collections.abc import Sequence

import torch

from timm_diffsens.errors import UsageError
from timm_diffsens.schema.layers import LayerSensitivity, Spectrum
from timm_diffsens.spectra.filters import filter_spectrum


def average_layers(passes: Sequence[list[LayerSensitivity]]) -> list[LayerSensitivity]:
    """Average D, G and R of m copies (shuffles, initialisations) layer by layer.

    The copies saw the same images, so their errors over images do not average out: the squared standard
    error is the mean of theirs, plus their variance over m for the choice of copies.
    """
    if len(passes) == 1:
        return passes[0]
    return [_average(list(copies)) for copies in zip(*passes, strict=True)]


def _average(copies: list[LayerSensitivity]) -> LayerSensitivity:
    changes: dict[str, float | None] = {}
    for name in ("d", "g", "r"):
        values = [getattr(copy, name) for copy in copies]
        errors = [getattr(copy, f"{name}_stderr") for copy in copies]
        if any(v is None for v in values):
            changes |= {name: None, f"{name}_stderr": None}
            continue
        mean = sum(values) / len(values)
        between = sum((v - mean) ** 2 for v in values) / (len(values) - 1) / len(values)
        within = sum(e**2 for e in errors) / len(errors)
        changes |= {name: mean, f"{name}_stderr": math.sqrt(within + between)}
    reason = next((copy.reason for copy in copies if copy.reason), None)
    return copies[0].model_copy(update={"reason": reason, **changes})


def filter_spectra(weights: dict[str, torch.Tensor]) -> list[Spectrum]:
    """Spectra of the convolution weights as applied, in order of execution; none for 1 x 1 kernels."""
    return [_spectrum(name, weight) for name, weight in weights.items() if max(weight.shape[2:]) > 1]


def _spectrum(name: str, weight: torch.Tensor) -> Spectrum:
    kernel = list(weight.shape[2:])
    try:
        found = filter_spectrum(weight)
    except UsageError as error:
        return Spectrum(
            layer=name,
            kernel=kernel,
            eigenvalues=[],
            power=[],
            low_frequency_share=None,
            mean_frequency=None,
            reason=str(error),
        )
    return Spectrum(
        layer=name,
        kernel=kernel,
        eigenvalues=found.eigenvalues.tolist(),
        power=found.power.tolist(),
        low_frequency_share=found.low_frequency_share,
        mean_frequency=found.mean_frequency,
        levels=found.levels.tolist(),
        level_power=found.level_power.tolist(),
    )
