"""Layer-by-layer sensitivity of vision models to smooth deformations and to noise.

The public names are loaded on first use, so that importing the package (and `diffsens --help`)
does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "DiffsensError": "errors",
    "UsageError": "errors",
    "MeasurementError": "errors",
    "DiffsensWarning": "errors",
    "sensitivity": "measures.functional",
    "Sensitivity": "measures.functional",
    "LayerSensitivity": "measures.estimators",
    "Probe": "measures.probe",
    "measure": "measures.pipeline",
    "Precision": "measures.precision",
    "bench": "measures.bench",
    "filter_spectrum": "measures.spectra",
    "FilterSpectrum": "measures.spectra",
    "Diffeo": "perturb.diffeo",
    "matched_noise": "perturb.noise",
    "shuffle_channels": "models.variants",
    "mean_filters": "models.variants",
    "reinitialise": "models.variants",
    "load_model": "models.loading",
    "load_images": "data.loading",
    "ScaleDetection": "data.scale_detection",
    "ActivePixels": "perturb.pixels",
    "Record": "results.record",
    "read_records": "results.store",
    "correlate": "results.correlate",
}

__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from timm_diffsens.data.loading import load_images
    from timm_diffsens.data.scale_detection import ScaleDetection
    from timm_diffsens.errors import DiffsensError, DiffsensWarning, MeasurementError, UsageError
    from timm_diffsens.measures.bench import bench
    from timm_diffsens.measures.estimators import LayerSensitivity
    from timm_diffsens.measures.functional import Sensitivity, sensitivity
    from timm_diffsens.measures.pipeline import measure
    from timm_diffsens.measures.precision import Precision
    from timm_diffsens.measures.probe import Probe
    from timm_diffsens.measures.spectra import FilterSpectrum, filter_spectrum
    from timm_diffsens.models.loading import load_model
    from timm_diffsens.models.variants import mean_filters, reinitialise, shuffle_channels
    from timm_diffsens.perturb.diffeo import Diffeo
    from timm_diffsens.perturb.noise import matched_noise
    from timm_diffsens.perturb.pixels import ActivePixels
    from timm_diffsens.results.correlate import correlate
    from timm_diffsens.results.record import Record
    from timm_diffsens.results.store import read_records


def __getattr__(name: str) -> Any:
    """Load a public name from the module it lives in (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module 'timm_diffsens' has no attribute {name!r}")
    if not _HOMES[name].startswith(("errors", "results.")):  # those import no torch
        import_module("timm_diffsens.runtime").prepare()
    value = getattr(import_module(f"timm_diffsens.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
