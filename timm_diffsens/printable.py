"""Text of unknown origin, made harmless at the edge of each medium: nothing in it acts on where it is shown.

Model names, file names, reasons and what exceptions say may come from strangers. A terminal obeys control
characters, a reader is misled by those that turn the direction of writing, a spreadsheet runs cells that
begin like a formula. Inside the package texts stay as they are; what prints or writes calls these.
"""

import unicodedata


def spelt_out(text: str) -> str:
    r"""The text with control, format and direction characters, line breaks among them, as escapes.

    Example:
        >>> print(spelt_out("a\x1b[2J\nb\u202e"), spelt_out("5 μm, naïve"))
        a\x1b[2J\nb\u202e 5 μm, naïve
    """
    return text if text.isprintable() else "".join(map(_visible, text))


def _visible(character: str) -> str:
    if character.isprintable() or unicodedata.category(character) == "Zs":
        return character
    return character.encode("unicode_escape").decode("ascii")
