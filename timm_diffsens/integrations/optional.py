"""Libraries that not everybody has."""

import importlib
from typing import Any

from timm_diffsens.errors import UsageError


def optional(module: str, what: str, extra: str) -> Any:
    """The module of an optional library.

    Args:
        module: its name. what: needs it. extra: of this package, which installs it.

    Raises:
        UsageError: it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise missing(module.partition(".")[0], what, extra) from error


def missing(library: str, what: str, extra: str) -> UsageError:
    """The error of a library that is not installed."""
    return UsageError(f"{what} needs {library}, which is not installed: pip install 'timm-diffsens[{extra}]'")
