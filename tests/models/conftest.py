from collections.abc import Iterator

import pytest
import torch

from timm_diffsens.device import seeding


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """The networks here are too small for two threads, which only wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(autouse=True)
def _same_draws() -> Iterator[None]:
    """Networks and images that a test takes from torch's global stream are the same in every run."""
    with seeding.seeded(0):
        yield


@pytest.fixture
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy in the environment: then a name that cannot be resolved cannot be reached."""
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
