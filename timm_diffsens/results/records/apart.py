"""What tells records apart that look equal: of one model, on as many images of one data set."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from timm_diffsens.schema.protocol import Protocol, delta_text
from timm_diffsens.schema.records import Record

_EQUAL_LOOKS = ("model", "dataset", "n")
_DIGITS = 8


def traits(record: Record) -> dict[str, str]:
    """What records of one model may differ in, by name, in words; hashes come last."""
    model, protocol = record.model, record.protocol
    named = ": ".join(filter(None, (model.weights.detail, model.weights.entry)))
    corruption = f"{protocol.corruption_sigma:g}"
    return {
        "weights": named or model.weights.source,
        "deformation": _deformations(record),
        "split": record.data.split or "",
        "input": f"{model.input.height} x {model.input.width}",
        "mean": _listed(model.input.mean),
        "std": _listed(model.input.std),
        "resized": f"{model.input.interpolation}, {model.input.crop_mode} {model.input.crop_pct:g}",
        "variants": ", ".join(record.variants),
        "layers": ", ".join(protocol.layers),
        "seed": str(protocol.seed),
        "corruption sigma": corruption,
        "noise": protocol.noise,
        "forwards in": protocol.dtype,
        "equivariance": "yes" if record.equivariance else "no",
        "weights sha256": (model.weights.sha256 or "")[:_DIGITS],
        "sample": record.data.sample_sha256[:_DIGITS],
        "protocol": protocol.sha256[:_DIGITS],
        "key": record.key[:_DIGITS],
    }


def _listed(numbers: Sequence[float]) -> str:
    return ", ".join(f"{number:g}" for number in numbers)


def _deformations(record: Record) -> str:
    """All of them; those that differ in their size alone together."""
    sizes: dict[tuple[str, int | None], list[Protocol]] = defaultdict(list)
    for view in record.views():
        sizes[view.protocol.deformation, view.protocol.cut].append(view.protocol)
    texts = []
    for first, *others in sizes.values():
        further = "".join(
            f", {delta_text(each.delta, each.reference_side)}" for each in others if each.delta is not None
        )
        texts.append(first.deformation_text.replace(" px", f"{further} px", 1))
    return "; ".join(texts)


def apart(rows: Sequence[Mapping[str, Any]]) -> list[dict[str, str]]:
    """For each row of `frames.record_row`, as many of its traits as tell it from those that look equal.

    Example:
        >>> like = {"model": "net", "dataset": "cifar10", "n": 10}
        >>> seeds = [{"split": "test", "seed": "0"}, {"split": "test", "seed": "1"}]
        >>> apart([{**like, "traits": each} for each in seeds])
        [{'seed': '0'}, {'seed': '1'}]
    """
    alike: dict[tuple[Any, ...], list[Mapping[str, str]]] = defaultdict(list)
    for row in rows:
        alike[_look(row)].append(row["traits"])
    return [_telling(row["traits"], alike[_look(row)]) for row in rows]


def _look(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in _EQUAL_LOOKS)


def _telling(own: Mapping[str, str], left: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Traits one after the other, where some of those that are left have another."""
    found: dict[str, str] = {}
    for name, value in own.items():
        same = [other for other in left if other[name] == value]
        if len(same) < len(left):
            found[name], left = value, same
    return found


def in_words(traits: Mapping[str, str]) -> str:
    """Traits in one line; a deformation says itself what it is.

    Example:
        >>> in_words({"split": "", "seed": "1"})
        'split none; seed 1'
    """
    named = {name: value or "none" for name, value in traits.items()}
    return "; ".join(value if name == "deformation" else f"{name} {value}" for name, value in named.items())
