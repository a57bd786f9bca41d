"""The network of largest margin beside the homogeneous one: margins, filters and sensitivities."""

from dataclasses import dataclass

from timm_diffsens.data.scale_detection import ScaleDetection
from timm_diffsens.schema.layers import LayerSensitivity
from timm_diffsens.theory.exponents import Exponent, fit_exponent
from timm_diffsens.theory.homogeneous import measured_curve
from timm_diffsens.theory.max_margin import MarginNetwork, MaxMargin, max_margin
from timm_diffsens.theory.predictions import exact_curve
from timm_diffsens.theory.report import Setting, TheoryRow, fit_of, layer_document, layer_rows

CURVE = "max margin"


@dataclass(frozen=True)
class MarginResult:
    """Largest margins of a setting's task, and the layers of the network that has the largest.

    Attributes:
        layers: measured on the images of the setting, noise rectified.
    """

    setting: Setting
    found: MaxMargin
    layers: list[LayerSensitivity]

    @property
    def exponents(self) -> dict[str, Exponent | None]:
        """Of D, G and R over `setting.pooling`."""
        return {m: fit_of(self.setting, self.layers, m, self.setting.pooling) for m in "dgr"}

    @property
    def exact(self) -> dict[str, Exponent | None]:
        """The same of the homogeneous network, without biases."""
        setting = self.setting
        curve = exact_curve(setting.pairs(), setting.depth, setting.filter_size, setting.stride)
        return {m: fit_exponent(setting.widths, getattr(curve, m), setting.pooling) for m in "dgr"}


def run_max_margin(setting: Setting) -> MarginResult:
    """Find the network of largest margin on all images of a setting's task, and measure it."""
    gap = setting.gap if setting.task == 1 else None
    task = ScaleDetection(setting.task, dims=1, size=setting.length, xi=setting.xi, gap=gap)
    found = max_margin(task, setting.depth, setting.filter_size, setting.stride)
    return MarginResult(setting, found, measured_curve(found.free.network(), setting.batches()).layers)


def margin_rows(result: MarginResult) -> list[TheoryRow]:
    """Rows for `results.report.theory_chart`."""
    return layer_rows(result.setting, CURVE, result.layers)


def margin_document(result: MarginResult) -> TheoryRow:
    """Everything as plain values."""
    both = result.exponents, result.exact
    fits, exact = ({measure: fit and fit.value for measure, fit in found.items()} for found in both)
    return {
        "homogeneous": _network(result.found.homogeneous),
        "free": _network(result.found.free),
        "fitted_layers": [result.setting.pooling[0], result.setting.pooling[-1]],
        "exponents": {"free": fits, "exact": exact},
        "layers": [layer_document(layer) for layer in result.layers],
    }


def _network(network: MarginNetwork) -> TheoryRow:
    return {
        "margin": network.margin,
        "constant_shares": network.constant_shares,
        "filters": network.filters.tolist(),
        "biases": network.biases.tolist(),
        "sign": network.sign,
        "threshold": network.threshold,
    }
