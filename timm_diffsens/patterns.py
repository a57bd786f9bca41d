"""Shell patterns that pick names from a list."""

import fnmatch
from collections.abc import Sequence

_WILD = "*?["


def is_pattern(text: str) -> bool:
    """Whether a text has a shell's wildcards in it."""
    return any(sign in text for sign in _WILD)


def matching(names: Sequence[str], pattern: str | None) -> list[str]:
    """Names that the pattern fits, whatever the case; one without wildcards fits wherever it occurs."""
    if pattern is None:
        return list(names)
    wild = pattern if is_pattern(pattern) else f"*{pattern}*"
    return [name for name in names if fnmatch.fnmatchcase(name.lower(), wild.lower())]
