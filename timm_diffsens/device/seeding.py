"""The one place where torch's global random stream is seeded."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
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


@contextmanager
def streams_kept() -> Iterator[None]:
    """The global streams of torch (CPU and CUDA), numpy and Python are after it what they were before.

    CUDA that is not in use yet is not started.
    """
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    on_gpus = torch.cuda.get_rng_state_all() if started else []
    torchs, numpys, pythons = torch.get_rng_state(), np.random.get_state(), random.getstate()  # noqa: NPY002
    try:
        yield
    finally:
        torch.set_rng_state(torchs)
        np.random.set_state(numpys)  # noqa: NPY002
        random.setstate(pythons)
        if on_gpus:
            torch.cuda.set_rng_state_all(on_gpus)


def random_state() -> tuple[object, ...]:
    """What changes whenever code draws from a global stream of torch, numpy or Python."""
    cuda = torch.cuda.get_rng_state_all() if torch.cuda.is_available() else []
    return *(state.numpy().tobytes() for state in cuda), *host_random_state()


def host_random_state() -> tuple[object, ...]:
    """The same of the streams that are drawn from on the host."""
    torchs = torch.get_rng_state().numpy().tobytes()
    return torchs, str(np.random.get_state()), random.getstate()  # noqa: NPY002
