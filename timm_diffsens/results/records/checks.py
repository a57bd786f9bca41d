"""What the schema alone cannot see: keys, hashes, file names, ranges and order."""

from collections.abc import Iterator
from pathlib import Path

from timm_diffsens.errors import UsageError
from timm_diffsens.results.records.store import KEY_DIGITS, load_record
from timm_diffsens.schema.layers import LayerSensitivity, Spectrum
from timm_diffsens.schema.protocol import protocol_hash
from timm_diffsens.schema.records import Record, verify_key

_DEPTH_ROUNDING = 1e-6


def checked(path: Path) -> tuple[Record | None, list[str]]:
    """The record in a file, None where it is none, and what is wrong with it; no faults for a good one."""
    try:
        record = load_record(path)
    except UsageError as error:
        return None, [str(error).removeprefix(f"{path} ")]
    return record, faults(record, path)


def faults(record: Record, path: Path | None = None) -> list[str]:
    """What is wrong with a record that fits the schema; empty for a good one.

    Args:
        record: as loaded.
        path: of its file, whose name must agree with the key.
    """
    found = [*_hashes(record), *_counts(record)]
    if path is not None and not path.name.endswith(f".{record.key[:KEY_DIGITS]}.json"):
        found.append(f"the file name does not end in .{record.key[:KEY_DIGITS]}.json, the start of its key")
    for variant, layers in record.variants.items():
        found += [f"variants.{variant}: {fault}" for fault in _layer_list(layers)]
    for variant, spectra in record.spectra.items():
        found += [f"spectra.{variant}: {fault}" for spectrum in spectra for fault in _spectrum(spectrum)]
    return found


def _hashes(record: Record) -> Iterator[str]:
    if not verify_key(record):
        yield "the key does not follow from the content: the record was edited, or another version wrote it"
    if record.protocol.sha256 != protocol_hash(record.protocol):
        yield "protocol.sha256 does not follow from the protocol"


def _counts(record: Record) -> Iterator[str]:
    if not record.variants.get("original"):
        yield "the original network has no layers"
    if record.data.n < 1:
        yield f"data.n is {record.data.n}, expected at least 1"
    for name, value in (("test_error", record.test_error.value), ("train_error", record.train_error)):
        if value is not None and not 0 <= value <= 1:
            yield f"{name} is {value}, expected a fraction between 0 and 1"
    if (record.test_error.value is None) != (record.test_error.source is None):
        yield "test_error needs both a value and its source, or neither"


def _layer_list(layers: list[LayerSensitivity]) -> Iterator[str]:
    for position, layer in enumerate(layers):
        if layer.index != position:
            yield f"{layer.layer}: index is {layer.index}, expected {position}"
        if abs(layer.depth - (position + 1) / len(layers)) > _DEPTH_ROUNDING:
            yield f"{layer.layer}: depth is {layer.depth}, expected {position + 1}/{len(layers)}"
        yield from (f"{layer.layer}: {fault}" for fault in _values(layer))


def _values(layer: LayerSensitivity) -> Iterator[str]:
    for name in ("d", "g", "r"):
        value, stderr = getattr(layer, name), getattr(layer, f"{name}_stderr")
        if value is None and stderr is not None:
            yield f"{name} is null but has a standard error"
        for field, number in ((name, value), (f"{name}_stderr", stderr)):
            if number is not None and number < 0:
                yield f"{field} is {number}, expected none below 0"
    if layer.reason is None and None in (layer.d, layer.g, layer.r):
        yield "a value is null without a reason"


def _spectrum(spectrum: Spectrum) -> Iterator[str]:
    name = spectrum.layer
    if len(spectrum.eigenvalues) != len(spectrum.power):
        yield f"{name}: {len(spectrum.power)} powers for {len(spectrum.eigenvalues)} eigenvalues"
    if spectrum.eigenvalues != sorted(spectrum.eigenvalues):
        yield f"{name}: the eigenvalues do not ascend"
    if any(power < 0 for power in spectrum.power):
        yield f"{name}: negative power"
    share = spectrum.low_frequency_share
    if share is not None and not 0 <= share <= 1:
        yield f"{name}: low_frequency_share is {share}, expected a fraction between 0 and 1"
