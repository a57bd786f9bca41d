"""What must be right about the process before torch runs: torchvision, the allocator, the device.

Import torchvision and timm only after `prepare()`.
"""

import ctypes
import functools
import importlib.util
import platform
import sys
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from timm_diffsens.errors import DiffsensWarning, UsageError, nearest

# Schemas of torchvision's own operators, as its Python files register fake kernels for them at import.
_TORCHVISION_OPERATORS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}
_libraries: list[torch.library.Library] = []  # torch forgets the schemas when the library object dies

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
# Activations of a batch reach hundreds of megabytes. Some glibc refuse more than 32 MiB (HEAP_MAX_SIZE / 2).
_MMAP_THRESHOLDS = (2**30, 32 * 2**20)


def guard_torchvision() -> bool:
    """Let a CUDA build of torchvision be imported beside a CPU build of torch.

    Its compiled part cannot load there, so its operators are missing and the import ends with
    "operator torchvision::nms does not exist". The missing schemas are defined here, and only in that
    case; box operators still cannot be run, and no classifier needs them.

    Returns whether anything was defined.
    """
    if "torchvision" in sys.modules or torch.version.cuda is not None:
        return False
    if "+cu" not in _torchvision_build():
        return False
    library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for name, schema in _TORCHVISION_OPERATORS.items():
        if not hasattr(torch.ops.torchvision, name):
            library.define(schema)  # type: ignore[no-untyped-call]
    _libraries.append(library)
    return True


def _torchvision_build() -> str:
    """The text of the installed torchvision's version file ("0.28.0+cu130", say), read without import."""
    spec = importlib.util.find_spec("torchvision")
    folders = spec.submodule_search_locations if spec else None
    if not folders:
        return ""
    file = Path(folders[0]) / "version.py"
    return file.read_text() if file.exists() else ""


@functools.cache
def tune_allocator() -> bool:
    """Keep freed activations in the process instead of handing each back to the kernel (glibc only).

    By default glibc maps every large block afresh, and the page faults cost a ResNet-50 forward on the
    CPU about as much as its arithmetic. Returns whether the thresholds were raised.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    raised = any(mallopt(_M_MMAP_THRESHOLD, size) for size in _MMAP_THRESHOLDS)
    return bool(raised and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))


def prepare() -> None:
    """Everything that has to be done once, before timm and torchvision are imported."""
    guard_torchvision()
    tune_allocator()


def resolve_device(name: str = "auto") -> torch.device:
    """`auto`, `cpu`, `cuda` or `cuda:i` -> a device that exists here.

    Raises:
        UsageError: the name is unknown, or there is no such device.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type not in ("cpu", "cuda"):
            raise RuntimeError(name)
    except RuntimeError:
        close = nearest(name, ["auto", "cpu", "cuda", "cuda:0"])
        raise UsageError(
            f"unknown device {name!r}; expected auto, cpu, cuda or cuda:i"
            + (f" (did you mean {close[0]}?)" if close else "")
        ) from None
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UsageError(
            f"device {name!r} does not exist ({torch.cuda.device_count()} CUDA devices); use --device cpu"
        )
    return device


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


def warn(message: str) -> None:
    """A `DiffsensWarning` without a source line of ours in it."""
    warnings.warn(message, DiffsensWarning, stacklevel=3)
