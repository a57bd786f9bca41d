"""Warnings that go into the record and are shown all the same."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from timm_diffsens.errors import DiffsensWarning


@contextmanager
def noted(into: list[str]) -> Iterator[None]:
    """Append the text of each `DiffsensWarning` raised inside to `into`, once, and show it afterwards."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", DiffsensWarning)
        yield
    for item in caught:
        text = str(item.message)
        if not issubclass(item.category, DiffsensWarning):
            warnings.warn_explicit(item.message, item.category, item.filename, item.lineno)
        elif text not in into:
            into.append(text)
            warnings.warn(text, DiffsensWarning, stacklevel=3)
