"""What tells records apart that look equal: of one model, on as many images of one data set."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from timm_diffsens.schema.records import Record

_EQUAL_LOOKS = ("model", "dataset", "n")
_HASHES = ("weights sha256", "sample", "protocol")  # where nothing that has a name tells them apart
_DIGITS = 8


def traits(record: Record) -> dict[str, str]:
    """What records of one model may differ in, by name, in words."""
    model, protocol = record.model, record.protocol
    named = ": ".join(filter(None, (model.weights.detail, model.weights.entry)))
    corruption = f"{protocol.corruption_sigma:g}" if protocol.corruption_sigma else ""
    return {
        "deformation": "; ".join(view.protocol.deformation_text for view in record.views()),
        "weights": model.weights.source + (f" ({named})" if named else ""),
        "split": record.data.split or "",
        "input": f"{model.input.height} x {model.input.width}",
        "variants": ", ".join(record.variants),
        "layers": ", ".join(protocol.layers),
        "seed": str(protocol.seed),
        "corruption sigma": corruption,
        "noise": protocol.noise,
        "forwards in": protocol.dtype,
        "equivariance": "yes" if record.equivariance else "",
        "weights sha256": (model.weights.sha256 or "")[:_DIGITS],
        "sample": record.data.sample_sha256[:_DIGITS],
        "protocol": protocol.sha256[:_DIGITS],
    }


def apart(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """For each row of `frames.record_row`, those of its traits in which rows that look equal differ.

    Example:
        >>> like = {"model": "net", "dataset": "cifar10", "n": 10}
        >>> seeds = [{"seed": "0", "split": "test"}, {"seed": "1", "split": "test"}]
        >>> apart([{**like, "traits": each} for each in seeds])
        [{'seed': '0'}, {'seed': '1'}]
    """
    alike: dict[tuple[Any, ...], list[Mapping[str, str]]] = defaultdict(list)
    for row in rows:
        alike[_look(row)].append(row["traits"])
    differing = {look: _differing(group) for look, group in alike.items()}
    return [
        {name: row["traits"][name] for name in differing[_look(row)] if row["traits"][name]} for row in rows
    ]


def _look(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in _EQUAL_LOOKS)


def _differing(group: Sequence[Mapping[str, str]]) -> list[str]:
    found: list[str] = []
    for name in group[0]:
        told = len({tuple(one[each] for each in found) for one in group}) == len(group)
        if len({one[name] for one in group}) > 1 and not (told and name in _HASHES):
            found.append(name)
    return found


def in_words(traits: Mapping[str, str]) -> str:
    """Traits in one line; a deformation says itself what it is."""
    return "; ".join(value if name == "deformation" else f"{name} {value}" for name, value in traits.items())
