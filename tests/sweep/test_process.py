"""What a model leaves behind in its process is put back; what cannot be is told."""

import gc
import logging
import os
import random
import re
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import timm.layers
import torch

from timm_diffsens.sweep.process import _SETTINGS, ALLOWANCE, Kept

needs_resident = pytest.mark.skipif(sys.platform != "linux", reason="resident memory is read from /proc")


@pytest.fixture
def kept() -> Iterator[Kept]:
    made = Kept()
    yield made
    made.restore()


def state() -> dict:
    return {name: read() for name, (read, _) in _SETTINGS.items()}


CHANGES = {
    "the default type": lambda: torch.set_default_dtype(torch.float64),
    "the default device": lambda: torch.set_default_device("meta"),
    "the gradient mode": lambda: torch.set_grad_enabled(False),
    "autocast on the CPU": lambda: torch.set_autocast_enabled("cpu", True),
    "autocast on the GPU": lambda: torch.set_autocast_dtype("cuda", torch.bfloat16),
    "the autocast cache": lambda: torch.set_autocast_cache_enabled(False),
    "the anomaly mode": lambda: torch.set_anomaly_enabled(True),
    "deterministic algorithms": lambda: torch.use_deterministic_algorithms(True, warn_only=True),
    "the precision of matrix products": lambda: torch.set_float32_matmul_precision("medium"),
    "the switches of matrix products": lambda: setattr(
        torch.backends.cuda.matmul, "allow_fp16_reduced_precision_reduction", False
    ),
    "the switches of cuDNN": lambda: setattr(torch.backends.cudnn, "benchmark", True),
    "the switches of oneDNN": lambda: setattr(torch.backends.mkldnn, "enabled", False),
    "the threads of torch": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "subnormal numbers": lambda: torch.set_flush_denormal(True),
    "torch's random numbers": lambda: torch.rand(3),
    "numpy's random numbers": lambda: np.random.rand(3),  # noqa: NPY002
    "Python's random numbers": random.random,
    "numpy's handling of errors": lambda: np.seterr(all="raise"),
    "the switches of timm's layers": lambda: timm.layers.set_fused_attn(False),
    "the filters of warnings": lambda: warnings.simplefilter("error"),
    "how warnings are shown": lambda: setattr(warnings, "showwarning", print),
    "the level of logging": lambda: logging.disable(logging.CRITICAL),
    "the environment": lambda: (os.environ.pop("HOME"), os.environ.update(DIFFSENS_LEFT="1", LANG="xx")),
    "the working folder": lambda: os.chdir("/"),
    "the path of modules": lambda: sys.path.insert(0, "/nowhere"),
    "the arguments": lambda: sys.argv.append("--left"),
    "the depth of calls": lambda: sys.setrecursionlimit(5000),
    "the collector": gc.disable,
    "the handlers of signals": lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
}


@pytest.mark.parametrize("name", CHANGES)
def test_what_a_model_changed_is_put_back(kept, name, monkeypatch):
    monkeypatch.setenv("HOME", "/home")
    kept.settings = before = state()
    CHANGES[name]()
    changed = {each for each, value in state().items() if value != before[each]}
    assert name in changed
    assert kept.restore() is None
    assert state() == before


def test_every_setting_has_its_test():
    assert set(_SETTINGS) - set(CHANGES) == {"the inference mode", "threads", "processes"}


def test_numbers_are_drawn_as_before(kept):
    def draws() -> list[float]:
        return [torch.rand(()).item(), float(np.random.rand()), random.random()]  # noqa: NPY002

    first = draws()
    torch.manual_seed(3)
    assert kept.restore() is None
    assert draws() == first


def test_a_thread_that_goes_on_cannot_be_put_back(kept):
    end = threading.Event()
    left = threading.Thread(target=end.wait)
    left.start()
    try:
        assert kept.restore() == "threads could not be put back"
    finally:
        end.set()
        left.join()
    assert kept.restore() is None


def test_a_folder_that_is_gone_is_told(kept, tmp_path, monkeypatch):
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    kept.settings["the working folder"] = str(Path.cwd())
    gone.rmdir()
    assert kept.restore().startswith("the working folder could not be put back: FileNotFoundError")
    monkeypatch.undo()
    kept.settings["the working folder"] = str(Path.cwd())


@needs_resident
def test_memory_has_to_come_back(kept):
    half = torch.ones(ALLOWANCE // 2, dtype=torch.uint8)
    assert kept.restore() is None
    more = torch.ones(ALLOWANCE, dtype=torch.uint8)
    said = re.fullmatch(r"(\d+) MiB of the process did not come back \(allowed: 256 MiB\)", kept.restore())
    assert 320 < int(said[1]) < 448  # 384, and what else came and went
    del half, more
    assert kept.restore() is None


@needs_resident
def test_what_refers_to_itself_is_freed(kept):
    """A network that hooks of its own refer to, say: only the collector finds it."""
    for _ in range(3):
        ring = [torch.ones(ALLOWANCE, dtype=torch.uint8)]
        ring.append(ring)
        del ring
        assert kept.restore() is None
