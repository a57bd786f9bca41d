"""Each image's distances beside a record: what paired comparisons of two records need.

One safetensors file a record, of the same name with another ending; it is written before the record, so that
a record never lacks it for a kill. A tensor `<variant>` or, of a variant that averages copies, one
`<variant>#<copy>` each: (layers, 2 K + 1, n) of float32, with a_1, g_1, ..., a_K, g_K, b of the first n
images in the order of the record's sample (docs/measures.md). Layers without values are NaN.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt

from timm_diffsens.errors import UsageError, first_line
from timm_diffsens.files import write_atomic
from timm_diffsens.schema.records import Record

MOST_KEPT = 20_000  # images whose distances are kept; of more, those of the first
_MOST_BYTES = 2**32  # of a file
_ENDING = ".images.safetensors"
_KEY = "record"  # of the metadata: the key of the record

PerImage = dict[str, npt.NDArray[np.float32]]


def per_image_path(record_file: Path) -> Path:
    """The file beside the record's."""
    return record_file.with_name(record_file.name.removesuffix(".json") + _ENDING)


def write_per_image(record_file: Path, record: Record, values: Mapping[str, npt.NDArray[np.float32]]) -> Path:
    """Write the distances of a record that will have this file, atomically."""
    from safetensors.numpy import save

    path = per_image_path(record_file)
    whole = {
        name: np.ascontiguousarray(array) for name, array in sorted(values.items())
    }  # written as it lies
    write_atomic(path, save(whole, metadata={_KEY: record.key}))
    return path


def read_per_image(record_file: Path, record: Record) -> PerImage:
    """The distances that were kept of a record.

    Raises:
        UsageError: there are none, the file is of another record, or it is none.
    """
    from safetensors import SafetensorError, safe_open

    path = per_image_path(record_file)
    if not path.is_file() or path.stat().st_size > _MOST_BYTES:
        raise UsageError(
            f"no distances of single images beside {record_file}: {path.name} is not there; without them "
            "records can only be compared --unpaired"
        )
    try:
        with safe_open(path, framework="numpy") as file:
            if (file.metadata() or {}).get(_KEY) != record.key:
                raise UsageError(f"{path} belongs to another record than {record_file}")
            found = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, ValueError, SafetensorError) as error:
        raise UsageError(f"{path} cannot be read: {first_line(error)}") from error
    for name, values in found.items():
        layers = record.variants.get(name.partition("#")[0])
        width = 2 * (1 + len(record.further)) + 1
        if layers is None or values.shape[:2] != (len(layers), width) or values.ndim != 3:
            raise UsageError(f"{path}: {name} has shape {values.shape}, not that of the record's layers")
        if values.dtype != np.float32 or values.shape[2] > record.data.n or not (~(values < 0)).all():
            raise UsageError(
                f"{path}: {name} holds numbers that are no square distances of the record's images"
            )
    return found
