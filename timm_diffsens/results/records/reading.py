"""From a file of unknown origin to a record: the one gate that all that reads records goes through."""

import json
import os
import stat
from pathlib import Path
from typing import Any

from pydantic import ValidationError
from pydantic_core import from_json

from timm_diffsens.errors import UsageError, first_line
from timm_diffsens.printable import spelt_out
from timm_diffsens.results.records.checks import faults
from timm_diffsens.schema.records import SCHEMA_VERSION, Record

MOST_BYTES = 64 * 2**20  # of a file; a network of a thousand layers has 2 MB
MOST_VALUES = 2**20  # numbers, texts, lists: a list of empty lists takes a hundred times its text in memory
_MOST_SAID = 5  # faults of one file
_LONGEST = 300  # characters of a fault, which may name what stands in the file
_CHUNK = 2**20


def checked(path: Path) -> tuple[Record | None, list[str]]:
    """The record in a file, None where it is none, and all that is wrong with it; no faults for a good one.

    A record is returned with its faults too, for whoever wants to say more of it.
    """
    record, found = _read(path)
    return record, [spelt_out(fault)[:_LONGEST] for fault in found]


def _read(path: Path) -> tuple[Record | None, list[str]]:
    try:
        content = _content(path)
    except (OSError, ValueError) as error:  # a name with a null byte is a ValueError
        return None, [f"cannot be read: {getattr(error, 'strerror', None) or error}"]
    try:
        record = Record.model_validate_json(content, strict=True)
        _refuse_repeated(content)
    except ValidationError as error:
        return None, [f"is not a record: {_fault(content, error)}"]
    except ValueError as error:
        return None, [f"is not a record: {first_line(error)}"]
    return record, faults(record)


def load_record(path: str | Path) -> Record:
    """Read one record.

    Only regular files are opened, and at most `MOST_BYTES` of one are read.

    Raises:
        UsageError: no such file, not a record, half-written, of another schema version, or with values that
            cannot be: out of range, R that is not D / G, a key that does not follow from the content.
    """
    record, found = checked(Path(path))
    if record is None or found:
        raise UsageError(f"{path} {summed_up(found)}")
    return record


def summed_up(found: list[str]) -> str:
    """What is wrong with a file, in one line."""
    more = f"; and {len(found) - _MOST_SAID} more faults" if len(found) > _MOST_SAID else ""
    return "; ".join(found[:_MOST_SAID]) + more


def _content(path: Path) -> bytes:
    """The bytes of a regular file: a pipe or a device would be waited for, or never end.

    Raises:
        OSError: it cannot be read. ValueError: it is no regular file, or too large.
    """
    if not stat.S_ISREG(path.stat().st_mode):  # before it is opened: to open a device may set it going
        raise ValueError("it is no regular file")
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    with os.fdopen(descriptor, "rb", buffering=0) as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise ValueError("it is no regular file")
        content = bytearray()
        while len(content) <= MOST_BYTES and (chunk := os.read(file.fileno(), _CHUNK)):
            content += chunk
    if len(content) > MOST_BYTES:
        raise ValueError(f"it is larger than {MOST_BYTES // 2**20} MiB, the most that a record may have")
    if sum(map(content.count, b",[{")) > MOST_VALUES:
        raise ValueError(f"it has more than {MOST_VALUES:,} values, the most that a record may have")
    return bytes(content)


def _refuse_repeated(content: bytes) -> None:
    """Of a key that stands twice readers take one or the other.

    Raises:
        ValueError: there is one.
    """

    def unique(pairs: list[tuple[str, Any]]) -> None:
        if len({name for name, _ in pairs}) < len(pairs):
            names = [name for name, _ in pairs]
            raise ValueError(f"{next(n for n in names if names.count(n) > 1)} stands twice in one object")

    json.loads(content, object_pairs_hook=unique)


def _fault(content: bytes, error: ValidationError) -> str:
    """The first thing that is wrong, in one line."""
    first = error.errors(include_url=False)[0]
    if first["type"] == "json_invalid":
        return "empty file" if not content.strip() else f"damaged or half-written JSON ({_reason(first)})"
    data = from_json(content)
    if not isinstance(data, dict) or "schema_version" not in data:
        return "foreign JSON (no schema_version)"
    version = data["schema_version"]
    if isinstance(version, bool) or version not in range(1, SCHEMA_VERSION + 1):
        read = f"this package reads 1 to {SCHEMA_VERSION}; install the one that wrote it"
        return f"schema version {repr(version)[:20]}, {read}"
    place = ".".join(str(part) for part in first["loc"])
    more = f" (and {error.error_count() - 1} more faults)" if error.error_count() > 1 else ""
    got = f", got {str(first['input'])[:20]}" if isinstance(first["input"], int | float) else ""
    return f"{place}: {first['msg']}{got}{more}"


def _reason(fault: Any) -> str:
    return str(fault.get("ctx", {}).get("error", fault["msg"]))
