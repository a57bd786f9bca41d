"""Theory and measurement side by side: settings, runs, and their results as rows and as a JSON document."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, TypeVar

import numpy as np
from scipy.stats import sem

from timm_diffsens.errors import UsageError, warn
from timm_diffsens.schema import limits
from timm_diffsens.schema.layers import LayerSensitivity
from timm_diffsens.theory.exponents import (
    Exponent,
    asymptotic_exponents,
    fit_exponent,
    fitted_layers,
    local_slopes,
    power_law,
)
from timm_diffsens.theory.homogeneous import homogeneous_network, measured_curve
from timm_diffsens.theory.infinite_width import InfiniteWidth
from timm_diffsens.theory.pixel_pairs import PairImages, PixelPairs
from timm_diffsens.theory.predictions import Curve, check_shape, effective_receptive_field, exact_curve
from timm_diffsens.theory.receptive_field import ReceptiveField, receptive_fields

TheoryRow = dict[str, Any]
Number = TypeVar("Number", int, float)

GAP = 2.0  # of task 1, in pixels, unless it is given
_PAPER = {1: (12, 3), 2: (7, 2)}  # task -> depth and filter (App. B.2)
_IMAGES = {1: 512, 2: 16384}  # in task 2 few moves cross from patch to patch, so it takes more
_POSITIONS = 4  # of the pixel whose spread is measured: the network treats all alike
GROUPS = 8  # of a setting's images, an eighth in each
_BATCH = 512  # images held at a time
_ENOUGH = 512  # images for curves of G alone, which varies little from image to image
_WIDE = 8  # A_K above this part of the circle is called wide
_PAIRS = 2**13  # of images, for the denominator at infinite width


@dataclass(frozen=True)
class Setting:
    """One run: task 1 with stride 1, or task 2 with stride F. Lengths in pixels."""

    task: int
    depth: int
    filter_size: int
    stride: int
    length: int
    xi: float
    images: int
    seed: int
    gap: float = GAP

    @property
    def title(self) -> str:
        """`task 1, stride 1, F = 3`."""
        return f"task {self.task}, stride {self.stride}, F = {self.filter_size}"

    @property
    def widths(self) -> list[float]:
        """A_k as predicted, of layers 1 to K."""
        return [effective_receptive_field(k, self.filter_size, self.stride) for k in self.layers]

    @property
    def layers(self) -> range:
        """1 to K."""
        return range(1, self.depth + 1)

    @property
    def fitted(self) -> range:
        """The layers that exponents are fitted over."""
        return fitted_layers(self.depth, self.stride)

    @property
    def pooling(self) -> range:
        """The layers that exponents of other networks are fitted over: where one is expected to pool alike.

        At stride 1 the first two thirds. At stride F those whose patches are smaller than xi: beyond it D is
        zero, as the task asks for.
        """
        if self.stride == 1:
            return range(1, max(2 * self.depth // 3, 2) + 1)
        small = [k for k in self.layers if self.filter_size**k < self.xi]
        return range(1, max(small, default=1) + 1)

    def batches(self, groups: Sequence[int] = range(GROUPS)) -> Iterator[PairImages]:
        """The images, an eighth of them in each group, batch by batch."""
        pairs = self.pairs()
        for group in groups:
            rng = np.random.default_rng([self.seed, group])
            left = self.images // GROUPS
            while left > 0:
                yield pairs.sample(min(left, _BATCH), rng)
                left -= _BATCH

    def pairs(self) -> PixelPairs:
        """The task's distribution of images."""
        if self.task == 1:
            return PixelPairs.task1(self.length, self.xi, self.gap)
        return PixelPairs.task2(self.length, int(self.xi))


def theory_setting(
    task: int,
    depth: int | None = None,
    *,
    filter_size: int | None = None,
    length: int | None = None,
    xi: float | None = None,
    images: int | None = None,
    seed: int = 0,
    gap: float = GAP,
) -> Setting:
    """A setting; what is not given is as in the paper (App. B.2), scaled to other depths.

    Task 1: K = 12, F = 3, and as for `ScaleDetection` 128 pixels and xi = 14; at other depths the length is
    128 K / 12, so that it grows faster than A_K, and xi with it. Task 2: K = 7, F = 2, length F^K = 128 and
    xi = F^(K - 2) = 32. Images: a multiple of 8, as errors are taken between eighths of them. The
    gap is that of task 1.

    Raises:
        UsageError: an unknown task, or values that do not fit together.
    """
    if task not in _PAPER:
        raise UsageError(f"task must be 1 or 2, got {task}")
    depth, size = _given(depth, _PAPER[task][0]), _given(filter_size, _PAPER[task][1])
    images = _given(images, _IMAGES[task])
    check_shape(depth, size, 1)
    _check_numbers(depth, size, xi, seed)
    if images < 2 * GROUPS or images % GROUPS:
        raise UsageError(f"images must be a multiple of {GROUPS}, and {2 * GROUPS} or more, got {images}")
    if task == 1:
        length = _given(length, max(round(128 * depth / 12), 32))
        _check_size(images, length)
        xi = _given(xi, max(round(14 * length / 128), 4))
        return Setting(1, depth, size, 1, length, xi, images, seed, gap)
    length = _given(length, size ** max(depth, 3))
    _check_size(images, length)
    xi = _given(xi, size ** max(depth - 2, 1))
    if int(xi) != xi:
        raise UsageError(f"xi is a whole number of pixels in task 2, got {xi:g}")
    return Setting(2, depth, size, size, length, xi, images, seed, 0.0)


def _check_numbers(depth: int, filter_size: int, xi: float | None, seed: int) -> None:
    for name, value in (("depth", depth), ("filter", filter_size)):
        if value > limits.ARGUMENTS[name]:
            raise UsageError(f"{name} must be at most {limits.ARGUMENTS[name]:,}, got {value}")
    if not 0 <= seed <= limits.SEED:
        raise UsageError(f"seed must be at least 0 and below 2^63, got {seed}")
    if xi is not None and not math.isfinite(xi):
        raise UsageError(f"xi must be a number of pixels, got {xi}")


def _check_size(images: int, length: int) -> None:
    if length > limits.LENGTH:
        depth = "choose fewer layers" if length > limits.SEED else f"got {length}"
        raise UsageError(f"length must be at most {limits.LENGTH:,} pixels; {depth}")
    if images * length > limits.LINES:
        most = limits.LINES // max(length, 1)
        raise UsageError(f"images must be at most {most:,} at a length of {length} pixels, got {images}")


def _given(value: Number | None, default: Number) -> Number:
    return default if value is None else value


@dataclass(frozen=True)
class TheoryResult:
    """Exact and measured curves of one setting.

    Attributes:
        fields: A_k measured on the homogeneous network.
        homogeneous: that network, measured with rectified noise. white: with white noise on the image.
        linear: with white noise, and without its ReLUs. (The last two on the first 512 images or more.)
        groups: `homogeneous` again, on each eighth of the images: what the choice of images does.
        infinite: random networks of infinite width on the same images, by curve, see `infinite_width_curves`.
    """

    setting: Setting
    exact: Curve
    fields: list[ReceptiveField]
    homogeneous: list[LayerSensitivity]
    white: list[LayerSensitivity]
    linear: list[LayerSensitivity]
    groups: list[list[LayerSensitivity]]
    infinite: dict[str, list[LayerSensitivity]]


def run_theory(setting: Setting) -> TheoryResult:
    """The exact curve, and the same measured by running the homogeneous network on sampled images."""
    exact = exact_curve(setting.pairs(), setting.depth, setting.filter_size, setting.stride)
    if setting.stride == 1 and exact.width[-1] > setting.length / _WIDE:
        warn(
            f"the last layer's receptive field, {exact.width[-1]:.3g} pixels rms, is not small beside the "
            f"image, {setting.length}: the powers do not hold there; raise --length"
        )
    shape = setting.depth, setting.filter_size, setting.stride
    network = homogeneous_network(*shape)
    few = range(min(math.ceil(_ENOUGH * GROUPS / setting.images), GROUPS))
    return TheoryResult(
        setting,
        exact,
        receptive_fields(network, setting.length, _POSITIONS if setting.stride == 1 else None),
        measured_curve(network, setting.batches()).layers,
        measured_curve(network, setting.batches(few), rectified=False).layers,
        measured_curve(homogeneous_network(*shape, relu=False), setting.batches(few), rectified=False).layers,
        [measured_curve(network, setting.batches([group])).layers for group in range(GROUPS)],
        infinite_width_curves(setting),
    )


def infinite_width_curves(setting: Setting) -> dict[str, list[LayerSensitivity]]:
    """The simple CNN of infinite width at initialisation: without biases, and as the paper's were trained.

    That is with biases drawn from N(0, 1) and the gain sqrt(F). Names as in `results.report.theory_chart`.
    """
    networks = {
        "init, infinite width": InfiniteWidth(setting.depth, setting.filter_size, setting.stride),
        "init, infinite width, biases": at_initialisation(setting),
    }
    pairs = math.ceil(_PAIRS / setting.images)
    return {name: network.layers(setting.batches(), pairs) for name, network in networks.items()}


def at_initialisation(setting: Setting) -> InfiniteWidth:
    """Infinitely many channels, with biases N(0, 1) and the gain sqrt(F) of the paper's networks."""
    shape = setting.depth, setting.filter_size, setting.stride
    return InfiniteWidth(*shape, gain=math.sqrt(setting.filter_size), bias=1)


def layer_rows(
    setting: Setting, curve: str, layers: Sequence[LayerSensitivity], measures: str = "dgr"
) -> list[TheoryRow]:
    """Measured layers as rows for `results.report.theory_chart.theory_chart`."""
    return [
        row
        for measure in measures
        for row in _rows(
            setting, curve, measure, values_of(layers, measure), values_of(layers, f"{measure}_stderr")
        )
    ]


def values_of(layers: Sequence[LayerSensitivity], name: str) -> list[float | None]:
    """One value of each layer."""
    return [getattr(layer, name) for layer in layers]


def theory_rows(result: TheoryResult) -> list[TheoryRow]:
    """All curves of a result as rows for `results.report.theory_chart.theory_chart`."""
    setting, exact = result.setting, result.exact
    powers = asymptotic_exponents(setting.stride)
    rows = []
    for measure in "dgr":
        values = getattr(exact, measure)
        law = power_law(exact.width, values, powers[measure], setting.fitted)
        rows += _rows(setting, "prediction", measure, np.where(values > 0, law, np.nan))
        rows += _rows(setting, "exact", measure, values)
    for measure in "gr":
        rows += _rows(setting, "exact, no ReLU", measure, getattr(exact, f"{measure}_linear"))
    rows += layer_rows(setting, "homogeneous", result.homogeneous)
    rows += layer_rows(setting, "homogeneous, no ReLU", result.linear, "gr")
    rows += layer_rows(setting, "homogeneous, white noise", result.white, "gr")
    return rows + [
        row for name, layers in result.infinite.items() for row in layer_rows(setting, name, layers)
    ]


def _rows(
    setting: Setting, curve: str, measure: str, values: Any, errors: Sequence[float | None] | None = None
) -> list[TheoryRow]:
    numbers = np.asarray(values, dtype=np.float64)
    columns = {
        "layer": setting.layers,
        "width": setting.widths,
        "value": map(finite, numbers),
        "stderr": errors or [None] * setting.depth,
        "slope": map(finite, local_slopes(setting.widths, numbers)),
    }
    same = {"task": setting.title, "depth": setting.depth, "curve": curve, "measure": measure.upper()}
    return [same | dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


# ---- exponents


@dataclass(frozen=True)
class FittedExponents:
    """Exponent of one measure: the asymptotic value, the exact curve's, the measured one's.

    None where fewer than two of the layers have a value. What is measured is fitted to all images; its error
    from the choice of images is that of the fits to the groups.
    """

    asymptotic: float
    exact: Exponent | None
    measured: Exponent | None


def theory_exponents(result: TheoryResult) -> dict[str, FittedExponents]:
    """Of the homogeneous network, by measure: d, g, r, and g_linear and r_linear without ReLU."""
    setting, found = result.setting, {}
    for measure, power in asymptotic_exponents(setting.stride).items():
        exact = fit_exponent(setting.widths, getattr(result.exact, measure), setting.fitted)
        if measure.endswith("_linear"):
            measured = fit_of(setting, result.linear, measure[0])
        else:
            measured = fit_of(setting, result.homogeneous, measure)
            fits = [fit.value for layers in result.groups if (fit := fit_of(setting, layers, measure))]
            if measured is not None and len(fits) == GROUPS:
                measured = replace(measured, sampling=float(sem(fits)))
        found[measure] = FittedExponents(power, exact, measured)
    return found


def fit_of(
    setting: Setting, layers: Sequence[LayerSensitivity], measure: str, over: range | None = None
) -> Exponent | None:
    """The exponent of a measured curve, over `setting.fitted` by default."""
    return fit_exponent(setting.widths, values_of(layers, measure), over or setting.fitted)


# ---- as JSON


def theory_document(result: TheoryResult) -> TheoryRow:
    """Everything as plain values; null where a layer is constant over the images."""
    setting, exact = result.setting, result.exact
    names = ("d", "g", "r", "g_linear", "r_linear")
    slopes = {name: local_slopes(exact.width, getattr(exact, name)) for name in names}
    layers = [
        {
            "layer": k,
            "width": float(exact.width[k - 1]),
            "width_measured": finite(result.fields[k - 1].width),
            "exact": {name: finite(getattr(exact, name)[k - 1]) for name in names},
            "slopes": {name: finite(slopes[name][k - 1]) for name in names},
            "homogeneous": layer_document(result.homogeneous[k - 1]),
            "linear": layer_document(result.linear[k - 1], "gr"),
            "white": layer_document(result.white[k - 1], "gr"),
            "infinite_width": {n: layer_document(found[k - 1]) for n, found in result.infinite.items()},
        }
        for k in setting.layers
    ]
    exponents = {name: asdict(found) for name, found in theory_exponents(result).items()}
    fitted = [setting.fitted[0], setting.fitted[-1]]
    return {**asdict(setting), "fitted_layers": fitted, "exponents": exponents, "layers": layers}


def layer_document(layer: LayerSensitivity, measures: str = "dgr") -> TheoryRow:
    """Values, standard errors and number of images of a measured layer."""
    names = [name for measure in measures for name in (measure, f"{measure}_stderr")]
    return {**{name: getattr(layer, name) for name in names}, "n": layer.n, "reason": layer.reason}


def finite(value: Any) -> float | None:
    """A number, or None for nan and infinity."""
    return float(value) if math.isfinite(value) else None
