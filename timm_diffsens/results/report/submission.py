"""Is a new record fit for a leaderboard? What a contributor, and whoever takes the change, runs on it."""

from collections.abc import Iterator
from pathlib import Path

from timm_diffsens.results.records.store import checked_file
from timm_diffsens.results.report.advice import FEWEST_IMAGES
from timm_diffsens.results.stats import groups as names
from timm_diffsens.results.stats.leaderboard import Group, Leaderboard
from timm_diffsens.schema.layers import LayerSensitivity
from timm_diffsens.schema.records import Record

_WIDEST = 1e3  # D or G above which even an untrained network is not: 1 is the distance of two images


def submission_faults(path: Path, board: Leaderboard | None) -> list[str]:
    """Why a record cannot be added to a leaderboard; empty for one that can.

    Args:
        path: of the new record's file.
        board: built without it, or None where there is none yet.
    """
    record, found = checked_file(path)
    if record is None:
        return found
    found += _implausible(record)
    if not found and board is not None and board.groups:
        found = list(_unlike(record, board))
    return found


def _implausible(record: Record) -> Iterator[str]:
    """What fits the schema, but no measurement of a trained network gives."""
    error = record.test_error
    if record.trained is False:
        yield "the weights are random: a leaderboard is of trained networks"
    if error.value is None:
        yield f"no test error{f' ({error.reason})' if error.reason else ''}: give labelled images, or --error"
    if error.source and error.source.startswith("measured") and not error.n:
        yield "the test error is measured, but on how many images is not told"
    if record.data.n < FEWEST_IMAGES:
        yield f"measured on {record.data.n} images, expected {FEWEST_IMAGES} or more"
    for layer in record.variants.get("original", []):
        yield from (f"{layer.layer}: {fault}" for fault in _implausible_layer(layer, record.data.n))


def _implausible_layer(layer: LayerSensitivity, images: int) -> Iterator[str]:
    if layer.d is None or layer.g is None or layer.r is None:
        return
    for name in ("d", "g"):
        value = getattr(layer, name)
        if value > _WIDEST:
            yield f"{name.upper()} is {value}: two different images are 1 apart"
    if layer.n != images:
        yield f"n is {layer.n}, expected the {images} images of the record"


def _unlike(record: Record, board: Leaderboard) -> Iterator[str]:
    """That it has no place beside the records of the board."""
    keys = {known.key for _, known in board.records} | set(board.not_comparable["key"])
    if record.key in keys:
        yield f"the board has a record of this key, {record.key[:12]}"
    firsts = [(group, _first(group, board)) for group in board.groups]
    own = names.comparable_values(record)
    place = next((group for group, first in firsts if names.comparable_values(first) == own), None)
    if place is not None:
        stated = place.models.loc[place.models["in_fit"], "train_error"].notna()
        if record.train_error is None and len(stated) and stated.all():
            yield "no training error, and all networks that are fitted there have one: give --train-error"
        return
    same = [pair for pair in firsts if pair[1].data.spec == record.data.spec] or firsts
    group, first = same[0]
    yield f"not comparable with the board's {group.title!r}: {names.differences(record, first)}"


def _first(group: Group, board: Leaderboard) -> Record:
    keys = set(group.models["key"])
    return next(record for _, record in board.records if record.key in keys)
