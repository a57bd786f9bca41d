"""What the records of a group have in common, in words, and how one group differs from another."""

from collections import Counter
from collections.abc import Sequence

from timm_diffsens.files import slug
from timm_diffsens.results.records.frames import data_parameters
from timm_diffsens.results.stats.population import COMPARABLE
from timm_diffsens.schema.protocol import Protocol, digest
from timm_diffsens.schema.records import Record

_DEFAULT = "its default"
_DIGITS = 12  # of a hash, where one is shown


def comparable_values(record: Record) -> dict[str, str]:
    """The values that must agree, by column of the table of records; "" for none."""
    values = {
        "dataset": record.data.spec,
        "split": record.data.split,
        "data_parameters": data_parameters(record),
        "protocol": record.protocol.sha256,
        "sample": record.data.sample_sha256,
    }
    return {name: values[name] or "" for name in COMPARABLE}


def without_corruption(record: Record) -> str:
    """Hash of all that must agree but for the noise on the images: equal for the groups of a series."""
    protocol = _inputs(record.protocol)
    del protocol["corruption sigma"]
    return digest({**comparable_values(record), "protocol": protocol})


def group_slug(record: Record) -> str:
    """A name for files and anchors: the data set, and the start of a hash of all that must agree."""
    return f"{slug(record.data.spec)[:40]}-{digest(comparable_values(record))[:8]}"


def titles(records: Sequence[Record]) -> list[str]:
    """A title for each group, given one record of each; hashes are named where titles would be equal."""
    plain = [_title(record) for record in records]
    return [
        title
        if plain.count(title) == 1
        else f"{title} (protocol {record.protocol.sha256[:8]}, images {record.data.sample_sha256[:8]})"
        for title, record in zip(plain, records, strict=True)
    ]


def series_title(record: Record) -> str:
    """Of groups that differ in the noise on their images alone."""
    return f"{_data_title(record)}: noise on the images"


def _title(record: Record) -> str:
    sigma = record.protocol.corruption_sigma
    return _data_title(record) + (f", corruption sigma = {sigma:g}" if sigma else "")


def _data_title(record: Record) -> str:
    data, side = record.data, record.protocol.reference_side
    unit = f"delta in pixels at a side of {side}" if side else None
    return ", ".join(filter(None, [data.title or data.spec, data.split, unit]))


def group_fields(record: Record, sources: Sequence[str]) -> dict[str, str]:
    """What is equal in all records of a group, name -> value, and where their test errors are from.

    Args:
        record: any of the group.
        sources: of the test errors of all its records.
    """
    data, counts = record.data, Counter(sources)
    fields = {
        "data set": data.spec,
        "split": data.split or "",
        "parameters": data_parameters(record) or "",
        "note": data.note or "",
        "images": f"{data.n} ({data.selection}, seed {data.seed}; sample {data.sample_sha256[:_DIGITS]})",
        **{name: value for name, value in _inputs(record.protocol).items() if value not in ("no", "0")},
        "protocol": record.protocol.sha256[:_DIGITS],
        "test errors": ", ".join(f"{count} {source}" for source, count in sorted(counts.items())),
    }
    return {name: value for name, value in fields.items() if value}


def differences(record: Record, other: Record) -> str:
    """In what a record differs from those of another group, so that the two cannot be compared."""
    found = []
    ours, theirs = record.data, other.data
    if ours.spec != theirs.spec:
        return f"data set: {ours.spec} instead of {theirs.spec}"
    if ours.split != theirs.split:
        found.append(f"split: {ours.split or 'none'} instead of {theirs.split or 'none'}")
    if data_parameters(record) != data_parameters(other):
        found.append(f"parameters: {data_parameters(record)} instead of {data_parameters(other)}")
    if not found and ours.sample_sha256 != theirs.sample_sha256:
        found.append(_sample_difference(record, other))
    mine, their = _inputs(record.protocol), _inputs(other.protocol)
    found += [
        f"{name}: {mine.get(name, _DEFAULT)} instead of {their.get(name, _DEFAULT)}"
        for name in {**mine, **their}
        if mine.get(name) != their.get(name)
    ]
    if not found and record.protocol.sha256 != other.protocol.sha256:
        found.append("protocol: its hash does not follow from its fields")
    return "; ".join(found) or "nothing"


def _sample_difference(record: Record, other: Record) -> str:
    for name in ("n", "selection", "seed"):
        ours, theirs = getattr(record.data, name), getattr(other.data, name)
        if ours != theirs:
            return f"images: {name} {ours} instead of {theirs}"
    return "images: other files or bytes (equal number, selection and seed)"


def _inputs(protocol: Protocol) -> dict[str, str]:
    """What goes into the protocol's hash, name -> value."""
    fields = protocol.model_dump(exclude={"sha256", "rms_displacement"})
    fields |= fields.pop("options", {})  # left out where they are at their defaults
    return {name.replace("_", " "): _text(value) for name, value in fields.items()}


def _text(value: object) -> str:
    if value is None or isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
