"""Looking inside chart specifications."""

from typing import Any


def parts(node: Any, key: str) -> list[Any]:
    """Every value of `key` anywhere in a specification."""
    if isinstance(node, dict):
        return [v for k, v in node.items() if k == key] + [x for v in node.values() for x in parts(v, key)]
    if isinstance(node, list):
        return [x for v in node for x in parts(v, key)]
    return []
