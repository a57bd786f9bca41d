"""What the schema alone cannot see: keys, hashes, order, and values that do not go together."""

from collections.abc import Iterator

from timm_diffsens.schema.layers import LayerSensitivity, Spectrum
from timm_diffsens.schema.protocol import Protocol, protocol_hash
from timm_diffsens.schema.records import Record, verify_key

_DEPTH_ROUNDING = 1e-6
_RATIO_ROUNDING = 2e-6  # of R beside D / G: each of the three is rounded to seven digits
_LEAST, _MOST = 1e-40, 1e40  # D, G and R of double precision stay far inside
_MOST_RELATIVE = 100  # standard error over value; that of a mean of n values >= 0 is at most 1
_MOST_POWER = 1e100
_MOST_VARIANTS = 64


def faults(record: Record) -> list[str]:
    """What is wrong with a record that fits the schema; empty for a good one."""
    found = [*_hashes(record), *_whole(record)]
    for number, view in enumerate(record.views()):
        where = f"further.{number - 1}." if number else ""
        for variant, layers in view.variants.items():
            single = _is_single(variant, view.protocol)
            found += [f"{where}variants.{variant}: {fault}" for fault in _layer_list(layers, single)]
    for variant, values in record.equivariance.items():
        for layer in values.joined(record.variants[variant]):
            found += [f"equivariance.{variant}: {layer.layer}: {fault}" for fault in _values(layer)]
    for variant, spectra in record.spectra.items():
        found += [f"spectra.{variant}: {fault}" for spectrum in spectra for fault in _spectrum(spectrum)]
    return found


def _hashes(record: Record) -> Iterator[str]:
    if not verify_key(record):
        yield "the key does not follow from the content: the record was edited, or another version wrote it"
    if record.protocol.sha256 != protocol_hash(record.protocol):
        yield "protocol.sha256 does not follow from the protocol"


def _whole(record: Record) -> Iterator[str]:
    if not record.variants.get("original"):
        yield "the original network has no layers"
    protocols = [view.protocol.sha256 for view in record.views()]
    if len(set(protocols)) < len(protocols):
        yield "a deformation stands twice"
    if len(record.variants | record.spectra) > _MOST_VARIANTS:
        yield f"{len(record.variants | record.spectra)} variants, expected at most {_MOST_VARIANTS}"
    if (record.test_error.value is None) != (record.test_error.source is None):
        yield "test_error needs both a value and its source, or neither"
    model = record.model
    if record.trained and model.parameters < (model.classes or 1):
        yield f"model.parameters is {model.parameters}, too few for a trained network"
    training = (model.recipe or {}).get("training")
    seed = training.get("seed") if isinstance(training, dict) else None
    if isinstance(seed, int) and not 0 <= seed < 2**64:
        yield "model.recipe.training.seed is out of range, expected 0 to 2^64 - 1"


def _is_single(variant: str, protocol: Protocol) -> bool:
    """Whether the values are of one network: a mean of ratios is not the ratio of the means.

    Of somebody else's variant nobody knows how many copies it averages.
    """
    copies = {"original": 1, "mean-channel": 1, "mean-filter": 1}
    copies |= {"channel-shuffled": protocol.shuffles, "init": protocol.init_samples}
    return copies.get(variant) == 1


def _layer_list(layers: list[LayerSensitivity], single: bool) -> Iterator[str]:
    for position, layer in enumerate(layers):
        if layer.index != position:
            yield f"{layer.layer}: index is {layer.index}, expected {position}"
        if abs(layer.depth - (position + 1) / len(layers)) > _DEPTH_ROUNDING:
            yield f"{layer.layer}: depth is {layer.depth}, expected {position + 1}/{len(layers)}"
        yield from (f"{layer.layer}: {fault}" for fault in _values(layer))
        if single and (fault := _ratio(layer)):
            yield f"{layer.layer}: {fault}"


def _values(layer: LayerSensitivity) -> Iterator[str]:
    for name, value, stderr in (
        ("d", layer.d, layer.d_stderr),
        ("g", layer.g, layer.g_stderr),
        ("r", layer.r, layer.r_stderr),
    ):
        if value is None:
            if stderr is not None:
                yield f"{name} is null but has a standard error"
            continue
        if value and not _LEAST <= value <= _MOST:
            yield f"{name} is {value}, expected 0 or a number between {_LEAST} and {_MOST}"
        if stderr is not None and stderr > _MOST_RELATIVE * value:
            yield f"{name}_stderr is {stderr}, more than {_MOST_RELATIVE} times the value"
    low, high = layer.r_low, layer.r_high
    if (low is None) != (high is None) or (
        low is not None and high is not None and not _LEAST**2 <= low <= high <= _MOST**2
    ):
        yield f"the interval of r is {low} to {high}, expected two numbers that ascend"
    if layer.reason is None and None in (layer.d, layer.g, layer.r):
        yield "a value is null without a reason"
    if layer.n < 1 and not (layer.d is layer.g is layer.r is None):
        yield "values of no images"


def _ratio(layer: LayerSensitivity) -> str | None:
    d, g, r = layer.d, layer.g, layer.r
    if d is None or g is None or r is None:
        return None
    if g == 0:
        return f"r is {r}, but g is 0"
    return f"r is {r}, but d / g is {d / g:.7g}" if abs(r * g - d) > _RATIO_ROUNDING * d else None


def _spectrum(spectrum: Spectrum) -> Iterator[str]:
    name = spectrum.layer
    if len(spectrum.eigenvalues) != len(spectrum.power):
        yield f"{name}: {len(spectrum.power)} powers for {len(spectrum.eigenvalues)} eigenvalues"
    if spectrum.eigenvalues != sorted(spectrum.eigenvalues):
        yield f"{name}: the eigenvalues do not ascend"
    for power in (*spectrum.power, *spectrum.level_power):
        if not 0 <= power <= _MOST_POWER:
            yield f"{name}: power is {power}, expected 0 to {_MOST_POWER}"
            break
