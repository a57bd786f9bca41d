"""Text of unknown origin in Markdown: model names and reasons shall show as they are, and do nothing."""

import re
from collections.abc import Sequence

# In Markdown, HTML, or on a code host; an underscore inside a word is none of these.
_MEANING = re.compile(r"[&<>`|\\*~\[\]#@!$]|(?<![A-Za-z0-9])_|_(?![A-Za-z0-9])")
_ADDRESS = re.compile(r"(?i)\b(https?|ftp|mailto|xmpp|www)(?=[:.])")  # of a link that a host makes by itself


def code(name: str) -> str:
    """A name as it is, in a fixed-width font, whatever characters it has.

    Example:
        >>> code("resnet50.a1_in1k"), code("a|`b`")
        ('`resnet50.a1_in1k`', '<code>a&#124;&#96;b&#96;</code>')
    """
    plain = one_line(name)
    if plain and not re.search(r"[`|\\<>&]", plain):
        return f"`{plain}`"
    return f"<code>{_entities(plain)}</code>"


def text(words: str) -> str:
    """Words that Markdown and HTML leave as they are; addresses do not become links.

    Example:
        >>> text("e ~ R, a_b"), text("<img src=x>")
        ('e &#126; R, a_b', '&#60;img src=x&#62;')
    """
    return _entities(one_line(words))


def link(path: str) -> str:
    """A relative path as the target of a link."""
    return re.sub(r"[^A-Za-z0-9._/-]", lambda match: "".join(f"%{b:02X}" for b in match[0].encode()), path)


def table(head: Sequence[str], rows: Sequence[Sequence[str]], first: int = 1) -> str:
    """A pipe table of escaped cells; the first columns to the left, the others to the right."""
    lines = [head, ["---"] * first + ["---:"] * (len(head) - first), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def one_line(words: str) -> str:
    """Without line breaks, control characters, and spaces at the ends."""
    return " ".join("".join(c if c.isprintable() else " " for c in words).split())


def _entities(words: str) -> str:
    referenced = _MEANING.sub(lambda match: f"&#{ord(match[0])};", words)
    return _ADDRESS.sub(lambda match: "".join(f"&#{ord(c)};" for c in match[0][0]) + match[0][1:], referenced)
