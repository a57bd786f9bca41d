"""From passes to the record: averages over copies of a network, and the record's own types."""

import math
import statistics
from collections.abc import Sequence

import torch
from scipy import special

from timm_diffsens.errors import UsageError
from timm_diffsens.schema.layers import LayerSensitivity, Spectrum
from timm_diffsens.spectra.filters import filter_spectrum


def average_layers(passes: Sequence[list[LayerSensitivity]]) -> list[LayerSensitivity]:
    """Average D, G and R of m copies (shuffles, initialisations) layer by layer.

    The copies saw the same images, so their errors over images do not average out: the squared standard
    error is the mean of theirs, plus their variance over m for the choice of copies. Of few copies that is
    little to judge by, so R gets an interval of its own, see `_spread`.
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
    average = copies[0].model_copy(update={"reason": reason, "r_low": None, "r_high": None, **changes})
    spread = _spread(copies)
    return average if spread is None else average.with_r_spread(spread)


def _spread(copies: list[LayerSensitivity]) -> float | None:
    """Half the width of the 95 % interval of the log of the mean R.

    Those of the images (mean square over the copies) and of the choice of copies (Student's t of m - 1
    degrees of freedom) in quadrature, each with a factor of its own: Graybill and Wang 1980.
    """
    intervals = [copy.r_interval for copy in copies]
    known = [interval for interval in intervals if interval is not None]
    if len(known) < len(copies):
        return None
    m, values = len(copies), [copy.r or 0.0 for copy in copies]
    within = sum((math.log(high / low) / 2) ** 2 for low, high in known) / m
    relative = statistics.stdev(values) / statistics.fmean(values) / math.sqrt(m)
    return math.hypot(math.sqrt(within), float(special.stdtrit(m - 1, 0.975)) * relative)


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
