"""Warnings on a record: what is wrong, and the option that mends it."""

import math
from collections import Counter
from collections.abc import Iterator

from timm_diffsens.results.numbers import some_of
from timm_diffsens.results.records.frames import output_layer
from timm_diffsens.schema.layers import LayerSensitivity
from timm_diffsens.schema.protocol import delta_problem
from timm_diffsens.schema.records import Record

FEWEST_IMAGES = 100
WIDEST = 0.2  # relative standard error of R at the output
_MOST_NAMED = 3


def advice(record: Record) -> list[str]:
    """One line for each thing that weakens the record, most serious first; empty for a sound one."""
    return [*_weights(record), *_images(record), *_deformation(record), *_layers(record), *_run(record)]


def _weights(record: Record) -> Iterator[str]:
    if record.trained is False:
        published = "" if record.model.library in ("python", "net") else ", or drop --no-pretrained,"
        yield f"the weights are random: give --checkpoint FILE{published} for a trained network"


def _images(record: Record) -> Iterator[str]:
    n = record.data.n
    if record.data.spec == "dead-leaves":
        yield "the images are synthetic (dead leaves): give real ones with --dataset and --data-dir"
    if n < FEWEST_IMAGES:
        yield f"too few images ({n}), the standard errors are rough: use --images {FEWEST_IMAGES} or more"
    output = output_layer(record)
    if output and output.r and output.r_stderr and output.r_stderr > WIDEST * output.r:
        spread = output.r_stderr / output.r
        needed = math.ceil(n * (spread / WIDEST) ** 2 / 100) * 100
        yield (
            f"wide interval: the standard error of R at the output is {spread:.0%} of it, "
            f"use --images {needed} or more"
        )
    if record.data.skipped:
        named = some_of(record.data.skipped, _MOST_NAMED)
        yield f"unreadable images were skipped ({len(record.data.skipped)}: {named}): repair --data-dir"


def _deformation(record: Record) -> Iterator[str]:
    protocol, shown = record.protocol, record.model.input
    if protocol.delta is not None and protocol.cut is not None:
        side = min(shown.height, shown.width)
        problem = delta_problem(protocol.delta, protocol.cut, side, protocol.reference_side)
        if problem:
            yield problem


def _layers(record: Record) -> Iterator[str]:
    for variant, layers in record.variants.items():
        empty = [layer for layer in layers if layer.r is None]
        if empty:
            where = "" if variant == "original" else f" of the {variant} network"
            yield f"no R at {len(empty)} of {len(layers)} layers{where} ({_reasons(empty)}){_remedy(empty)}"
    if record.not_called:
        named = some_of(record.not_called, _MOST_NAMED)
        yield (
            f"modules with weights were never called, so no hook saw them "
            f"({len(record.not_called)}: {named}): --layers all shows what was"
        )


def _reasons(layers: list[LayerSensitivity]) -> str:
    counts = Counter(layer.reason or "no reason given" for layer in layers)
    return ", ".join(f"{reason}: {count}" for reason, count in counts.most_common())


def _remedy(layers: list[LayerSensitivity]) -> str:
    reasons = " ".join(layer.reason or "" for layer in layers)
    if "non-finite" in reasons:
        return ": check the checkpoint, --mean and --std"
    if "fewer than" in reasons:
        return ": use more --images"
    return ": choose others with --layers, or leave them as they are"


def _run(record: Record) -> Iterator[str]:
    ran = record.environment
    if ran.retries:
        size = ran.batch_size
        yield f"memory ran out, and the batch was reduced to {size}: start with --batch-size {size}"
