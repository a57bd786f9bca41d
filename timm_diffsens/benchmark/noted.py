"""Warnings that go into the record and are shown all the same."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from timm_diffsens.errors import DiffsensWarning


@contextmanager
def noted(into: list[str]) -> Iterator[None]:
    """Show each `DiffsensWarning` raised inside at once, once, and append its text to `into`."""
    with warnings.catch_warnings():
        warnings.simplefilter("always", DiffsensWarning)
        show = warnings.showwarning

        def note(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
            text = str(message)
            if not issubclass(category, DiffsensWarning):
                show(message, category, *place, **more)
            elif text not in into:
                into.append(text)
                show(message, category, *place, **more)

        warnings.showwarning = note
        yield
