"""Errors and warnings that speak to the user, and the search for the nearest valid name."""

import difflib
import re
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

_FEW = 12  # as many choices as fit in a sentence
_SHOWN = 5  # things that a message names


class DiffsensError(Exception):
    """A fault whose message is meant for the user; the command line prints it without a traceback."""

    exit_code = 1


class UsageError(DiffsensError, ValueError):
    """Wrong use: an unknown name, an option out of range, a file that does not fit. Exit code 2."""

    exit_code = 2


class MeasurementError(DiffsensError, RuntimeError):
    """The request was right, but the measurement could not be completed. Exit code 1."""


class DiffsensWarning(UserWarning):
    """Something the user should know: what is wrong, and the option that mends it."""


def warn(message: str) -> None:
    """A `DiffsensWarning` without a source line of ours in it."""
    warnings.warn(message, DiffsensWarning, stacklevel=3)


@contextmanager
def kept_warnings(kept: list[str]) -> Iterator[None]:
    """Inside, each `DiffsensWarning` is shown at once, once, and its text is appended to `kept`."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", DiffsensWarning)
        show = warnings.showwarning

        def keep(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            if issubclass(category, DiffsensWarning):
                if str(message) in kept:
                    return
                kept.append(str(message))
            show(message, category, *place, **more)

        warnings.showwarning = keep
        yield


@contextmanager
def collected_warnings() -> Iterator[list[str]]:
    """The text of each `DiffsensWarning` inside is in the list afterwards; none is shown."""
    texts: list[str] = []
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DiffsensWarning)
        yield texts
    for each in caught:
        if issubclass(each.category, DiffsensWarning):
            texts.append(str(each.message))
        else:
            warnings.showwarning(each.message, each.category, each.filename, each.lineno)


@contextmanager
def errors_in_python() -> Iterator[None]:
    """Errors that advise options of the command line name keyword arguments instead."""
    try:
        yield
    except DiffsensError as error:
        text = re.sub(r"--no-([a-z-]+)", r"--\1=False", str(error))
        error.args = (re.sub(r"--([a-z][a-z-]*)", lambda found: found[1].replace("-", "_"), text),)
        raise


def without_options(text: str, missing: Iterable[str]) -> str:
    """A message without the advice to use options that a verb does not have (`--checkpoint`)."""
    named = "|".join(map(re.escape, missing))
    text = re.sub(rf"(?:{named})\b[^,;]*, or ", "", text)
    return re.sub(rf"[;,:] [^;,:]*(?:{named})\b[^;,]*", "", text)


def first_line(error: BaseException, most: int = 200) -> str:
    """What an error of another library says, in one line; its class where it says nothing."""
    lines = str(error).strip().splitlines()
    return (lines[0] if lines else type(error).__name__)[:most]


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many more there are.

    >>> listed("abcdefg")
    'a, b, c, d, e and 2 more'
    """
    names = list(names)
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def nearest(name: str, known: Iterable[str], count: int = 3) -> list[str]:
    """The `count` known names closest to `name`, best first; empty when none is close."""
    known = list(known)
    found = difflib.get_close_matches(name, known, n=count, cutoff=0.5)
    inside = [k for k in known if name and name.lower() in k.lower() and k not in found]
    return (found + sorted(inside, key=len))[:count]


def unknown(what: str, name: str, known: Iterable[str], hint: str = "") -> UsageError:
    """A `UsageError` that names the unknown thing and the nearest known ones."""
    known = list(known)
    close = nearest(name, known)
    message = f"unknown {what} {name!r}"
    if close:
        message += f"; did you mean {', '.join(close)}?"
    elif 0 < len(known) <= _FEW and not hint:
        message += f"; expected {', '.join(known)}"
    if hint:
        message += ("" if message.endswith("?") else ";") + f" {hint}"
    return UsageError(message)
