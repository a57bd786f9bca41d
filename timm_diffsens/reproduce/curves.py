"""Numbers that claims about curves of R over depth are about: how it falls, and what shuffling changes."""

import math
from collections.abc import Sequence

from timm_diffsens.reproduce.claims import Finding, Numbers, Region
from timm_diffsens.schema.layers import LayerSensitivity
from timm_diffsens.schema.records import Record

HALF = 0.5  # of the fall after training: what may be there before it
ENDS, MIDDLE = (1, 7, 8), range(2, 7)  # layers of VGG11, numbered from 1, said to have larger gaps, and not

Named = list[tuple[str, Record]]  # the data and the network, `CIFAR-10, vgg11_bn 12`


def pooling_numbers(records: Named) -> Numbers:
    """How R_k falls over depth, and what shuffling and training change."""
    return {
        "r-falls": [change(name, record, "r") for name, record in records],
        "learned": [_before(name, record) for name, record in records],
        "channel-pooling": [_raised(name, record) for name, record in records],
        "spatial-pooling": [change(name, record, "r", "channel-shuffled") for name, record in records],
    }


def vgg_numbers(records: Named) -> Numbers:
    """Whether shuffled VGGs agree with and without batch-norm, and where shuffling changes most."""
    return {
        "dashed-overlap": _overlaps(records),
        "larger-gaps": [part for name, record in records for part in _gaps(name, record)],
    }


def by_augmentation(records: Named, parts: Sequence[Finding], region: Region) -> str:
    """`tested: held by 2 of 2 networks ... translated and flipped images, by 0 of 3 trained without`.

    Empty where networks do not differ in that. Counted are parts, which have the name of their record first.
    """
    counts = {True: [0, 0], False: [0, 0]}
    for name, record in records:
        training = (record.model.recipe or {}).get("training") or {}
        own = [part for part in parts if f"{part.name}, ".startswith(f"{name}, ")]
        if training.get("task") == "cifar10":
            counts[bool(training["augment"])][0] += sum(part.verdict(region) == "held" for part in own)
            counts[bool(training["augment"])][1] += len(own)
    (held, of), (held_without, of_without) = counts[True], counts[False]
    if not (of and of_without):
        return ""
    return (
        f"tested: {held} of {of} held where networks were trained on translated and flipped images, "
        f"{held_without} of {of_without} where they were not"
    )


def ends_of(
    record: Record, measure: str, variant: str = "original"
) -> tuple[LayerSensitivity, LayerSensitivity] | None:
    """The first and the last convolution of the original with a value there, as they are in a variant."""
    names = [
        layer.layer
        for layer in record.variants["original"]
        if layer.layer != "output" and getattr(layer, measure)
    ]
    if len(names) < 2:
        return None
    found = {layer.layer: layer for layer in record.variants.get(variant, [])}
    ends = tuple(found.get(name) for name in (names[0], names[-1]))
    if any(e is None or not getattr(e, measure) or getattr(e, f"{measure}_stderr") is None for e in ends):
        return None
    return ends  # type: ignore[return-value]


def _log_ratio(above: LayerSensitivity, below: LayerSensitivity, measure: str) -> tuple[float, float]:
    """log of a ratio and its standard error, errors taken as independent.

    They are of the same images, which mostly err in the same direction: the error is rather too large.
    """
    values = [getattr(layer, measure) for layer in (above, below)]
    errors = [getattr(layer, f"{measure}_stderr") for layer in (above, below)]
    spread = math.hypot(*(error / value for error, value in zip(errors, values, strict=True)))
    return math.log(values[0] / values[1]), spread


def _freedom(record: Record, variant: str) -> int | None:
    """Degrees of freedom of a variant's errors, where its copies are the fewest draws; None for images."""
    copies = {"channel-shuffled": record.protocol.shuffles, "init": record.protocol.init_samples}
    return None if variant not in copies else copies[variant] - 1


def change(name: str, record: Record, measure: str, variant: str = "original") -> Finding:
    """log(X_K / X_1) from the first to the last convolution."""
    ends = ends_of(record, measure, variant)
    if ends is None:
        return Finding(name, None, reason=f"first or last convolution without {measure.upper()}")
    return Finding.normal(name, *_log_ratio(ends[1], ends[0], measure), _freedom(record, variant))


def _before(name: str, record: Record) -> Finding:
    """fall at initialisation - HALF * fall after training, falls being negative."""
    trained, fresh = (ends_of(record, "r", v) for v in ("original", "init"))
    if trained is None or fresh is None:
        return Finding(name, None, reason="no value before or after training")
    (own, own_error), (other, error) = (_log_ratio(ends[1], ends[0], "r") for ends in (trained, fresh))
    spread = math.hypot(error, HALF * own_error)
    return Finding.normal(name, other - HALF * own, spread, _freedom(record, "init"))


def _raised(name: str, record: Record) -> Finding:
    own, shuffled = ends_of(record, "r"), ends_of(record, "r", "channel-shuffled")
    if own is None or shuffled is None:
        return Finding(name, None, reason="last convolution without R")
    return Finding.normal(name, *_log_ratio(shuffled[1], own[1], "r"), _freedom(record, "channel-shuffled"))


def shuffling(name: str, record: Record) -> Finding:
    """Between the curves of the network as trained and with its channels shuffled."""
    return _apart(name, record, record, "original")


def _overlaps(records: Named) -> list[Finding]:
    """Between the shuffled curves of each VGG without batch-norm and of the one with, of the same width."""
    found, parts = dict(records), []
    for name, record in records:
        with_norm = name.replace("vgg11 ", "vgg11_bn ")
        if with_norm != name and with_norm in found:
            width = name.partition("vgg11 ")[2]
            parts.append(_apart(f"width {width}", record, found[with_norm], "channel-shuffled"))
    return parts


def _apart(name: str, shuffled: Record, other: Record, variant: str) -> Finding:
    """The mean over convolutions of |log(R_k shuffled / R_k of another curve)|.

    Sizes, as signed logs cancel where curves cross. Its error is the mean of theirs, as if all erred
    together.
    """
    logs = [ratio for ratio in _log_ratios(shuffled, other, variant) if ratio is not None]
    if not logs:
        return Finding(name, None, reason="no layer with R")
    mean = sum(abs(log) for log, _ in logs) / len(logs)
    spread = sum(error for _, error in logs) / len(logs)
    return Finding.normal(name, mean, spread, _freedom(shuffled, "channel-shuffled"))


def _log_ratios(shuffled: Record, other: Record, variant: str) -> list[tuple[float, float] | None]:
    """log(R_k shuffled / R_k of the other's variant) with its error, by convolution; None without a value."""
    above = {layer.layer: layer for layer in shuffled.variants["channel-shuffled"]}
    found = []
    for own in other.variants[variant]:
        pair = above.get(own.layer), own
        known = all(one is not None and one.r and one.r_stderr is not None for one in pair)
        if own.layer != "output":
            found.append(_log_ratio(*pair, "r") if known else None)  # type: ignore[arg-type]
    return found


def _gaps(name: str, record: Record) -> list[Finding]:
    """|log(R_k shuffled / R_k)| of the layers with larger gaps, less its mean over the middle ones."""
    logs = dict(enumerate(_log_ratios(record, record, "original"), start=1))
    middle = [log for k in MIDDLE if (log := logs.get(k)) is not None]
    parts = []
    for k in ENDS:
        own, of = logs.get(k), f"{name}, layer {k}"
        if own is None or not middle:
            parts.append(Finding(of, None, reason="a layer without R"))
            continue
        mean = sum(abs(log) for log, _ in middle) / len(middle)
        spread = math.hypot(own[1], sum(error for _, error in middle) / len(middle))
        freedom = _freedom(record, "channel-shuffled")
        parts.append(Finding.normal(of, abs(own[0]) - mean, spread, freedom))
    return parts
