"""Layer-by-layer sensitivity of vision models to smooth deformations and to noise.

The public names are loaded on first use, so that importing the package (and `diffsens --help`)
does not import torch. Once it is imported, timm and torchvision can be imported wherever it can.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "DiffsensError": "errors",
    "UsageError": "errors",
    "MeasurementError": "errors",
    "DiffsensWarning": "errors",
    "sensitivity": "sensitivities.functional",
    "Sensitivity": "sensitivities.functional",
    "LayerSensitivity": "schema.layers",
    "Probe": "sensitivities.probe",
    "measure": "sensitivities.measure",
    "measure_infinitesimal": "sensitivities.measure",
    "Precision": "device.precision",
    "bench": "benchmark.run",
    "filter_spectrum": "spectra.filters",
    "FilterSpectrum": "spectra.filters",
    "Deformation": "perturb.deformation",
    "Diffeo": "perturb.diffeo",
    "StoredFields": "perturb.stored",
    "save_fields": "perturb.stored",
    "matched_noise": "perturb.noise",
    "shuffle_channels": "models.variants.channel_shuffled",
    "mean_filters": "models.variants.mean_filter",
    "reinitialise": "models.variants.init",
    "load_model": "models.loading",
    "select_layers": "models.layers",
    "load_images": "data.loading",
    "ScaleDetection": "data.scale_detection",
    "ActivePixels": "perturb.pixels",
    "Config": "schema.config",
    "Record": "schema.records",
    "read_records": "results.records.store",
    "read_layers": "results.records.store",
    "correlate": "results.stats.correlate",
    "compare": "results.stats.paired",
    "Executor": "sweep.executor",
}
_MODULES = {"runtime": "device.allocator"}

__all__ = ["__version__", *_HOMES]

if TYPE_CHECKING:
    from timm_diffsens.benchmark.run import bench
    from timm_diffsens.data.loading import load_images
    from timm_diffsens.data.scale_detection import ScaleDetection
    from timm_diffsens.device.precision import Precision
    from timm_diffsens.errors import DiffsensError, DiffsensWarning, MeasurementError, UsageError
    from timm_diffsens.models.layers import select_layers
    from timm_diffsens.models.loading import load_model
    from timm_diffsens.models.variants.channel_shuffled import shuffle_channels
    from timm_diffsens.models.variants.init import reinitialise
    from timm_diffsens.models.variants.mean_filter import mean_filters
    from timm_diffsens.perturb.deformation import Deformation
    from timm_diffsens.perturb.diffeo import Diffeo
    from timm_diffsens.perturb.noise import matched_noise
    from timm_diffsens.perturb.pixels import ActivePixels
    from timm_diffsens.perturb.stored import StoredFields, save_fields
    from timm_diffsens.results.records.store import read_layers, read_records
    from timm_diffsens.results.stats.correlate import correlate
    from timm_diffsens.results.stats.paired import compare
    from timm_diffsens.schema.config import Config
    from timm_diffsens.schema.layers import LayerSensitivity
    from timm_diffsens.schema.records import Record
    from timm_diffsens.sensitivities.functional import Sensitivity, sensitivity
    from timm_diffsens.sensitivities.measure import measure, measure_infinitesimal
    from timm_diffsens.sensitivities.probe import Probe
    from timm_diffsens.spectra.filters import FilterSpectrum, filter_spectrum
    from timm_diffsens.sweep.executor import Executor


class _Prepare:
    """Lets `device.allocator.prepare` act before whoever it is imports torchvision or timm."""

    @classmethod
    def find_spec(cls, name: str, *_: object) -> None:
        """Called by each import; finds nothing itself."""
        if name in ("timm", "torchvision"):
            sys.meta_path.remove(cls)
            import_module("timm_diffsens.device.allocator").prepare()


sys.meta_path.insert(0, _Prepare)


def __getattr__(name: str) -> Any:
    """Load a public name from the module it lives in (PEP 562)."""
    if name in _MODULES:
        return import_module(f"timm_diffsens.{_MODULES[name]}")
    if name not in _HOMES:
        raise AttributeError(f"module 'timm_diffsens' has no attribute {name!r}")
    if not _HOMES[name].startswith(("errors", "schema.", "results.")):  # those import no torch
        import_module("timm_diffsens.device.allocator").prepare()
    value = getattr(import_module(f"timm_diffsens.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
