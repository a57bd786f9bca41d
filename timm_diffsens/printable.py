"""Text of unknown origin, made harmless at the edge of each medium: nothing in it acts on where it is shown.

Model names, file names, reasons and what exceptions say may come from strangers. A terminal obeys control
characters, a reader is misled by those that turn the direction of writing, a spreadsheet runs cells that
begin like a formula. Inside the package texts stay as they are; what prints or writes calls these.
"""

import re
import unicodedata
from typing import Any


def spelt_out(text: str) -> str:
    r"""The text with control, format and direction characters, line breaks among them, as escapes.

    Example:
        >>> print(spelt_out("a\x1b[2J\nb\u202e"), spelt_out("5 μm, naïve"))
        a\x1b[2J\nb\u202e 5 μm, naïve
    """
    return text if text.isprintable() else "".join(map(_visible, text))


def all_spelt_out(value: Any) -> Any:
    """Every text inside lists and dictionaries spelt out; other values as they are."""
    if isinstance(value, str):
        return spelt_out(value)
    if isinstance(value, dict):
        return {spelt_out(name): all_spelt_out(item) for name, item in value.items()}
    return [all_spelt_out(item) for item in value] if isinstance(value, list | tuple) else value


def _visible(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode("ascii")


def csv_cell(value: Any) -> Any:
    r"""A value for a CSV file: text that a spreadsheet would run as a formula gets an apostrophe in front.

    Numbers stay numbers, as text too.

    Example:
        >>> csv_cell("=1+1"), csv_cell("-0.5"), csv_cell(-2), csv_cell("resnet18"), csv_cell("\t=x")
        ("'=1+1", '-0.5', -2, 'resnet18', '\\t=x')
    """
    if not isinstance(value, str):
        return value
    plain = spelt_out(value)
    return f"'{plain}" if plain.startswith(_FORMULA) and not _NUMBER.fullmatch(plain) else plain


_FORMULA = tuple("=+-@＝＋－＠")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
