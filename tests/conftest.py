"""What every test shares: a prepared process, no network, and the real data where there is any."""

import gc
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import torch
import typer
import typer.testing

from timm_diffsens.device import allocator

allocator.prepare()
# one thread a worker where tests run side by side, else two
torch.set_num_threads(1 if "PYTEST_XDIST_WORKER" in os.environ else min(2, torch.get_num_threads()))

# the command line is put together once and not for each call, of which most take less than that
typer.testing._get_command = cache(typer.main.get_command)

DATA_VARIABLE = "DIFFSENS_TEST_DATA"


def pytest_collection_finish() -> None:
    """Collections of garbage in tests pass over what is imported by now, which takes them half a second."""
    gc.collect()
    gc.freeze()


def pytest_sessionfinish() -> None:
    """Libraries that count what is left at the end find it freed."""
    gc.unfreeze()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """How many layers the tests compared with their copies, all together, and how close they were."""
    found = [pair for report in terminalreporter.getreports("passed") for pair in report.user_properties]
    sums, gaps = Counter[str](), [value for name, value in found if name == "largest relative difference"]
    for name, value in found:
        if name.startswith("layers "):
            sums[name] += value
    if sums:
        said = [f"{name}: {count:,}" for name, count in sums.most_common()]
        terminalreporter.write_line("; ".join([*said, f"largest relative difference: {max(gaps):.1e}"]))


class NetworkBlockedError(ConnectionError):
    """A test tried to reach the network."""


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """Internet sockets and name look-ups fail at once, as on a machine without a network."""

    def guarded(connect):
        def connect_or_raise(self, address):
            if self.family in (socket.AF_INET, socket.AF_INET6):
                raise NetworkBlockedError(f"tests have no network; this one tried to connect to {address}")
            return connect(self, address)

        return connect_or_raise

    def no_look_up(host, *args, **kwargs):
        raise NetworkBlockedError(f"tests have no network; this one tried to look up {host}")

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, guarded(getattr(socket.socket, name)))
    monkeypatch.setattr(socket, "getaddrinfo", no_look_up)


@dataclass(frozen=True)
class RealData:
    """The real data: folders and single files by name; archives are unpacked when first asked for."""

    source: Path
    unpacked: Path

    def folder(self, name: str) -> Path:
        """`imagenet-sample`, `cifar10-jpeg-test` or `cifar10-jpeg-train` (large), one sub-folder a class."""
        for place in (self.source / name, self.unpacked / name):
            if place.is_dir():
                return place
        archives = sorted(self.source.glob(f"{name}.tar*"))
        if not archives:
            pytest.fail(f"{DATA_VARIABLE} holds neither a folder {name!r} nor an archive {name}.tar*")
        with tarfile.open(archives[0]) as archive:
            archive.extractall(self.unpacked / f"{name}.part", filter="data")
        return (self.unpacked / f"{name}.part").rename(self.unpacked / name)

    def file(self, name: str) -> Path:
        """`tf_efficientnet_lite0.safetensors`."""
        path = self.source / name
        if not path.is_file():
            pytest.fail(f"{DATA_VARIABLE} holds no file {name!r}")
        return path


@pytest.fixture(scope="session")
def real_data() -> Iterator[RealData]:
    """Photographs and trained weights; the test is skipped without them."""
    named = os.environ.get(DATA_VARIABLE)
    if not named:
        pytest.skip(f"needs real data: set {DATA_VARIABLE} to the folder that holds it")
    source = Path(named)
    if not source.is_dir():
        pytest.fail(f"{DATA_VARIABLE} is set to {named!r}, which is no folder")
    with tempfile.TemporaryDirectory(prefix="diffsens-data-") as unpacked:
        yield RealData(source.resolve(), Path(unpacked))


@pytest.fixture(scope="session")
def warm() -> Iterator[list[str]]:
    """How a command begins that is run as by `sys.executable`, with its libraries imported; see `warm.py`."""
    if sys.platform != "linux":
        yield [sys.executable]
        return
    with tempfile.TemporaryDirectory(prefix="diffsens-") as folder:
        command = [sys.executable, str(Path(__file__).with_name("warm.py")), f"{folder}/socket"]
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
        with subprocess.Popen(command, **pipes, env={**os.environ, "OMP_NUM_THREADS": "1"}) as server:
            assert server.stdout.readline() == b"ready\n"
            yield [sys.executable, "-I", "-S", *command[1:]]
            server.stdin.close()
