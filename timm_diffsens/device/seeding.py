"""The one place where torch's global random stream is seeded."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Code inside draws from torch's global stream seeded with `seed`; the stream is put back after.

    Weight initialisers of every library draw from that stream, and take no generator.
    """
    with torch.random.fork_rng():
        torch.default_generator.manual_seed(seed)
        if torch.cuda.is_available():
            torch.cuda.manual_seed_all(seed)
        yield
