"""Work on the threads that PyTorch itself uses, and on threads beside them."""

import ctypes
import functools
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch


@functools.cache
def torch_library() -> ctypes.CDLL | None:
    """PyTorch's library for the CPU; through it one reaches the OpenMP that it is linked to, and no other."""
    names = {"win32": "torch_cpu.dll", "darwin": "libtorch_cpu.dylib"}
    try:
        return ctypes.CDLL(
            str(Path(torch.__file__).parent / "lib" / names.get(sys.platform, "libtorch_cpu.so"))
        )
    except OSError:
        return None


@functools.cache
def team() -> Callable[[int, Any, int], None]:
    """Runs a compiled function, given its address, its argument (a ctypes array) and how many threads.

    They are the threads that PyTorch itself uses: those of any other pool would share the cores with them,
    which go on spinning for some milliseconds after each operation.
    """
    start = getattr(torch_library(), "GOMP_parallel", None)  # GNU's OpenMP and LLVM's have it
    if start is None:
        return run_on_python_threads
    start.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint]
    start.restype = None
    return lambda function, task, threads: start(function, task, threads, 0)


def run_on_python_threads(function: int, task: Any, threads: int) -> None:
    """The same where PyTorch has another OpenMP; ctypes lets go of the interpreter's lock."""
    call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(function)
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(call, [ctypes.cast(task, ctypes.c_void_p)] * threads))


def share(work: Callable[[int], object], count: int) -> None:
    """`work(0)` to `work(count - 1)` on the threads of `team`, for what lets go of the interpreter's lock.

    What it raises is raised here, once the others have ended.
    """
    numbers, raised = iter(range(count)), list[BaseException]()

    def some(_: int | None) -> None:
        try:
            for number in numbers:
                work(number)
        except BaseException as error:
            raised.append(error)

    threads = min(count, torch.get_num_threads())
    if threads > 1:
        call = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(some)
        address = ctypes.cast(call, ctypes.c_void_p).value
        assert address is not None
        team()(address, None, threads)
    else:
        some(None)
    if raised:
        raise raised[0]


def helpers(count: int, name: str) -> ThreadPoolExecutor:
    """Threads for work beside the network, each of one core.

    By default PyTorch's operations in another thread call up a team of as many threads as there are cores,
    which then spin, and take the cores from the network's own.
    """
    return ThreadPoolExecutor(count, thread_name_prefix=f"diffsens-{name}", initializer=_use_one_core)


def _use_one_core() -> None:
    torch.get_num_threads()  # sets up what PyTorch keeps a thread; later it would undo the next line
    setter = getattr(torch_library(), "omp_set_num_threads", None)
    if setter is not None:  # unlike torch.set_num_threads, it is for this thread alone
        setter(1)
