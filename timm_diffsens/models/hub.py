"""What is fetched from the hub, or sent there: no retries where there is no network, one clear error."""

import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies

from timm_diffsens.errors import DiffsensError, UsageError, first_line

_Made = TypeVar("_Made")


def fetch(what: str, make: Callable[[], _Made], advice: str, done: str = "fetched") -> _Made:
    """Call `make`, which may use the network; whatever goes wrong on the way becomes one sentence.

    Args:
        what: what is fetched, "the weights of resnet18".
        make: gives the model.
        advice: what to do when it cannot be fetched.
        done: what is done to it.

    Raises:
        UsageError: it cannot be fetched.
    """
    with _no_useless_retries() as reachable:
        try:
            return make()
        except DiffsensError:
            raise
        except Exception as error:  # timm, torchvision, the hub's client and its transport: each has its own
            reason = first_line(error)
            if not reachable and type(error).__module__.startswith("huggingface_hub"):
                reason = "the hub's name cannot be resolved: no network?"
            raise UsageError(f"{what} cannot be {done} ({reason}); {advice}") from error


@contextmanager
def _no_useless_retries() -> Iterator[bool]:
    """Let the hub's client read its cache or fail at once where nothing else is possible.

    It asks six times, over 23 seconds, for a file that is not in its cache. Where the hub's name cannot be
    resolved, and no proxy would resolve it for us, it is set to be offline. Yields whether it may be
    reached.
    """
    from huggingface_hub import constants

    logger = logging.getLogger("huggingface_hub")
    reachable = _may_answer(constants.ENDPOINT)
    with ExitStack() as stack:
        stack.callback(logger.setLevel, logger.level)
        stack.callback(setattr, constants, "HF_HUB_OFFLINE", constants.HF_HUB_OFFLINE)
        logger.setLevel(logging.ERROR)
        constants.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE or not reachable
        yield reachable


def _may_answer(url: str) -> bool:
    """Whether a host can be reached as far as anybody knows: a proxy resolves names itself."""
    if {"http", "https", "all"} & set(getproxies()):
        return True
    try:
        socket.getaddrinfo(urlsplit(url).hostname, None)
    except OSError:
        return False
    return True
