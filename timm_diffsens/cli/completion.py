"""What the shell completes: names of models, data sets, deformations and the other open kinds.

Finding the names imports timm, which takes seconds, so they are kept in the user's cache until a version
changes.
"""

import json
import os
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from pathlib import Path

from timm_diffsens.files import write_atomic

_DECIDING = ("timm-diffsens", "timm", "torchvision")  # their versions decide which names there are


def completes(kind: str, several: bool = False) -> Callable[[str], list[str]]:
    """A completion for Typer: the names of a kind that begin with what is typed.

    Args:
        kind: of `registry.KINDS`; "models" are architectures.
        several: names between commas; the last one is completed.
    """

    def complete(incomplete: str) -> list[str]:
        before, comma, last = incomplete.rpartition(",") if several else ("", "", incomplete)
        return [before + comma + name for name in _names().get(kind, []) if name.startswith(last)]

    return complete


def _names() -> dict[str, list[str]]:
    """Kind -> names, from the cache where it is of these versions; nothing in it ends a completion."""
    file, versions = _cache(), _versions()
    with suppress(OSError, ValueError, TypeError, KeyError):
        kept = json.loads(file.read_bytes())
        if kept["versions"] == versions:
            found: dict[str, list[str]] = kept["names"]
            return found
    names = _found()
    with suppress(Exception):  # a cache that cannot be written is none
        file.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(file, json.dumps({"versions": versions, "names": names}).encode())
    return names


def _found() -> dict[str, list[str]]:
    from timm_diffsens import registry
    from timm_diffsens.models.architectures import known_names

    names = {kind: registry.names(kind) for kind in registry.KINDS}
    return names | {"models": known_names()}


def _cache() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "timm-diffsens" / "names.json"


def _versions() -> dict[str, str]:
    """Of what names come from: this package and its libraries, and packages with entry points of ours."""
    groups = metadata.entry_points()
    others = (e.dist for g in groups.groups if g.startswith("timm_diffsens.") for e in groups.select(group=g))
    found = {dist.name: dist.version for dist in others if dist is not None}
    for name in _DECIDING:
        with suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
