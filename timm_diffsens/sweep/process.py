"""What a model may leave behind in a process: put back before the next one, and checked, as is the memory."""

import gc
import logging
import multiprocessing
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import timm.layers.config
import torch

from timm_diffsens.device import allocator

ALLOWANCE = 256 * 2**20  # bytes that a worker may keep of all its models together, in memory or on a device

_STATM = Path("/proc/self/statm")
_Setting = tuple[Callable[[], Any], Callable[[Any], object]]


def _has_context() -> bool:
    """Whether this process has used a GPU."""
    return bool(torch.cuda.is_initialized())  # type: ignore[no-untyped-call]


class Memory(NamedTuple):
    """Bytes of a process: resident, 0 where that cannot be known, and held by torch on all its GPUs."""

    resident: int
    device: int


class Kept:
    """The state of this process, as it is to be for each of the models that it does."""

    def __init__(self) -> None:
        gc.collect()
        gc.freeze()  # what is there now stays: the collections after each model pass it over
        self.settings = {name: read() for name, (read, _) in _SETTINGS.items()}
        self.memory = give_memory_back()
        self.on_gpu = _has_context()

    def restore(self) -> str | None:
        """Put everything back, and give memory back; gives what did not come back, in words."""
        for name, (read, write) in _SETTINGS.items():
            try:
                write(self.settings[name])
                back = read() == self.settings[name]
            except Exception as error:  # a working folder that is gone, say
                return f"{name} could not be put back: {type(error).__name__}: {error}"
            if not back:
                return f"{name} could not be put back"
        now = give_memory_back()
        if _has_context() and not self.on_gpu:  # the context itself takes memory, once
            self.memory, self.on_gpu = Memory(now.resident, self.memory.device), True
        for place, before, after in zip(("the process", "its GPUs"), self.memory, now, strict=True):
            if after - before > ALLOWANCE:
                kept = (after - before) / 2**20
                return f"{kept:,.0f} MiB of {place} did not come back (allowed: {ALLOWANCE / 2**20:,.0f} MiB)"
        return None


def give_memory_back() -> Memory:
    """Free what nothing refers to, hand it to the system, and see what is left."""
    gc.collect()
    if _has_context():
        torch._C._cuda_clearCublasWorkspaces()
        torch.cuda.empty_cache()
    allocator.give_back()
    resident = 0
    with suppress(OSError):
        resident = int(_STATM.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    held = 0
    if _has_context():
        held = sum(map(torch.cuda.memory_reserved, range(torch.cuda.device_count())))
    return Memory(resident, held)


def _attributes(thing: Any, *names: str) -> _Setting:
    """The attributes of an object that it has."""
    known = [name for name in names if hasattr(thing, name)]

    def write(values: Mapping[str, Any]) -> None:
        for name, value in values.items():
            if getattr(thing, name) != value:
                setattr(thing, name, value)

    return lambda: {name: getattr(thing, name) for name in known}, write


def _flags(module: Any) -> _Setting:
    """The plain values of a module, such as the switches of timm's layers."""
    names = (name for name, value in vars(module).items() if isinstance(value, bool | int | None))
    return _attributes(module, *names)


def _unchanged(read: Callable[[], Any]) -> _Setting:
    """What cannot be put back, and so must not have changed."""
    return read, lambda value: None


def _write_environment(values: Mapping[str, str]) -> None:
    for name in os.environ.keys() - values.keys():
        del os.environ[name]
    os.environ.update({name: text for name, text in values.items() if os.environ.get(name) != text})


def _write_filters(values: list[Any]) -> None:
    warnings.resetwarnings()
    warnings.filters[:] = values  # type: ignore[index]


def _signals() -> dict[signal.Signals, Any]:
    return {number: signal.getsignal(number) for number in signal.Signals}


def _write_signals(values: Mapping[signal.Signals, Any]) -> None:
    for number, handler in values.items():
        if signal.getsignal(number) != handler:
            signal.signal(number, handler)


def _write_collector(values: tuple[bool, tuple[int, int, int]]) -> None:
    (gc.enable if values[0] else gc.disable)()
    gc.set_threshold(*values[1])


def _autocast(device: str) -> _Setting:
    def write(values: tuple[bool, torch.dtype]) -> None:
        torch.set_autocast_enabled(device, values[0])
        torch.set_autocast_dtype(device, values[1])

    return lambda: (torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)), write


def _write_torch_random(state: bytes) -> None:
    torch.set_rng_state(torch.frombuffer(bytearray(state), dtype=torch.uint8))
    if _has_context():  # as in a process that has drawn nothing there
        for device in range(torch.cuda.device_count()):
            torch.cuda.set_rng_state(torch.Generator(f"cuda:{device}").get_state(), device)


def _numpy_random() -> tuple[Any, ...]:
    state: Any = np.random.get_state()  # noqa: NPY002
    name, keys, *more = state
    return (name, tuple(keys.tolist()), *more)


def _subnormal() -> bool:
    """Whether numbers below the normal ones are kept, in this thread."""
    return bool(torch.tensor(5e-324, dtype=torch.float64, device="cpu").mul(1.0).ne(0))


_SETTINGS: dict[str, _Setting] = {
    "the default type": (torch.get_default_dtype, torch.set_default_dtype),
    "the default device": (
        torch.get_default_device,
        lambda device: torch.set_default_device(None if device.type == "cpu" else device),
    ),
    "the gradient mode": (torch.is_grad_enabled, torch.set_grad_enabled),
    "the inference mode": _unchanged(torch.is_inference_mode_enabled),
    "autocast on the CPU": _autocast("cpu"),
    "autocast on the GPU": _autocast("cuda"),
    "the autocast cache": (torch.is_autocast_cache_enabled, torch.set_autocast_cache_enabled),
    "the anomaly mode": (torch.is_anomaly_enabled, torch.set_anomaly_enabled),
    "deterministic algorithms": (
        lambda: (
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
        ),
        lambda both: torch.use_deterministic_algorithms(both[0], warn_only=both[1]),
    ),
    "the precision of matrix products": (
        torch.get_float32_matmul_precision,
        torch.set_float32_matmul_precision,
    ),
    "the switches of matrix products": _attributes(
        torch.backends.cuda.matmul,
        *("allow_tf32", "allow_fp16_reduced_precision_reduction", "allow_bf16_reduced_precision_reduction"),
    ),
    "the switches of cuDNN": _attributes(
        torch.backends.cudnn, "enabled", "benchmark", "benchmark_limit", "deterministic", "allow_tf32"
    ),
    "the switches of oneDNN": _attributes(torch.backends.mkldnn, "enabled", "deterministic", "allow_tf32"),
    "the threads of torch": (torch.get_num_threads, torch.set_num_threads),
    "subnormal numbers": (_subnormal, lambda kept: torch.set_flush_denormal(not kept)),
    "torch's random numbers": (lambda: torch.get_rng_state().numpy().tobytes(), _write_torch_random),
    "numpy's random numbers": (_numpy_random, np.random.set_state),
    "Python's random numbers": (random.getstate, random.setstate),
    "numpy's handling of errors": (np.geterr, lambda values: np.seterr(**values)),
    "the switches of timm's layers": _flags(timm.layers.config),
    "the filters of warnings": (lambda: list(warnings.filters), _write_filters),
    "how warnings are shown": _attributes(warnings, "showwarning"),
    "the level of logging": (lambda: logging.root.manager.disable, logging.disable),
    "the environment": (lambda: dict(os.environ), _write_environment),
    "the working folder": (os.getcwd, os.chdir),
    "the path of modules": (lambda: list(sys.path), lambda values: sys.path.__setitem__(slice(None), values)),
    "the arguments": (lambda: list(sys.argv), lambda values: sys.argv.__setitem__(slice(None), values)),
    "the depth of calls": (sys.getrecursionlimit, sys.setrecursionlimit),
    "the collector": (lambda: (gc.isenabled(), gc.get_threshold()), _write_collector),
    "the handlers of signals": (_signals, _write_signals),
    "threads": _unchanged(lambda: {thread for thread in threading.enumerate() if not thread.daemon}),
    "processes": _unchanged(lambda: {child.pid for child in multiprocessing.active_children()}),
}
