"""What the records of a group have in common, in words, and how one group differs from another."""

from collections import Counter
from collections.abc import Sequence

from timm_diffsens.files import slug
from timm_diffsens.results.records.frames import data_parameters
from timm_diffsens.results.stats.population import COMPARABLE
from timm_diffsens.schema.protocol import Protocol, digest
from timm_diffsens.schema.records import Record

_DEFAULT = "its default"
_NAMED = {"scale1": "Scale detection, task 1", "scale2": "Scale detection, task 2"}
_UNSAID = {  # what it means that an old record does not say
    "draws": "numpy's Philox4x64-10",
    "init statistics": "zero and one",
}
_CALLED = {"draws": "random draws"}  # in titles
_FIRST = ("deformation", "delta", "cut", "noise", "images", "layers", "draws")  # that tell groups apart
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
    """A title for each group, given one record of each: the data set, and in words what tells groups apart.

    The noise on the images and a unit of delta that is not the network's own pixels are always named. Of what
    else differs among groups of one title the first fields are named that tell them apart; hashes, where no
    field does.
    """
    units: dict[str, set[int | None]] = {}
    for record in records:
        units.setdefault(_data_title(record), set()).add(record.protocol.reference_side)
    plain = [_title(record, len(units[_data_title(record)]) > 1) for record in records]
    titles = list(plain)
    for title in dict.fromkeys(plain):
        places = [place for place, other in enumerate(plain) if other == title]
        for place, words in zip(places, _told_apart([records[place] for place in places]), strict=True):
            titles[place] = ", ".join([title, *words])
    return titles


def series_title(record: Record) -> str:
    """Of groups that differ in the noise on their images alone."""
    return f"{_title(record, clean=True)}: noise on the images"


def _title(record: Record, units: bool = False, *, clean: bool = False) -> str:
    """`units`: name that of delta, whichever it is. `clean`: leave the noise on the images out."""
    side, sigma = record.protocol.reference_side, record.protocol.corruption_sigma
    parts = [_data_title(record)]
    if side:
        parts.append(f"delta in pixels at a side of {side}")
    elif units:
        parts.append("delta in pixels of each input")
    if sigma and not clean:
        parts.append(f"noise on the images, sigma = {sigma:g}")
    return ", ".join(parts)


def _data_title(record: Record) -> str:
    spec = record.data.spec
    named = record.data.title or _NAMED.get(spec, spec)
    return ", ".join(filter(None, [named, record.data.split]))


def _told_apart(records: Sequence[Record]) -> list[list[str]]:
    """Words for each record, no two alike: as few fields as it takes, the first ones first."""
    described = [_described(record) for record in records]
    names = list(dict.fromkeys(name for fields in described for name in fields))
    words: list[list[str]] = [[] for _ in records]
    for name in sorted(names, key=lambda name: (name not in _FIRST, names.index(name))):
        called = _CALLED.get(name, name)
        longer = [
            [*before, f"{called}: {fields.get(name, _UNSAID.get(name, _DEFAULT))}"]
            for before, fields in zip(words, described, strict=True)
        ]
        if len(set(map(tuple, longer))) > len(set(map(tuple, words))):
            words = longer
    if len(set(map(tuple, words))) == len(words):
        return words
    return [
        [*before, f"protocol {record.protocol.sha256[:8]}, images {record.data.sample_sha256[:8]}"]
        for before, record in zip(words, records, strict=True)
    ]


def _described(record: Record) -> dict[str, str]:
    """The fields that groups of one title may differ in, name -> value."""
    data, named = record.data, ("corruption sigma", "reference side")  # named by the title already
    return {
        **{name: value for name, value in _inputs(record.protocol).items() if name not in named},
        **{name: _text(value) for name, value in (data.parameters or {}).items()},
        "data set": data.spec,
        "images": f"{data.n} {data.selection}, seed {data.seed}",
    }


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
