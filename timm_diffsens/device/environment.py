"""Where a measurement ran: versions, device, memory."""

import contextlib
import importlib.metadata
import platform
import subprocess
from pathlib import Path

import torch

import timm_diffsens
from timm_diffsens.schema.records import Environment

_STATUS, _CLEAR = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def describe(device: torch.device, batch_size: int, retries: list[str]) -> Environment:
    """The record's environment part."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return Environment(
        package=timm_diffsens.__version__,
        git=_commit(),
        python=platform.python_version(),
        torch=torch.__version__,
        timm=_version("timm"),
        torchvision=_version("torchvision"),
        platform=platform.system(),
        device=f"{device.type} ({name})",
        threads=torch.get_num_threads(),
        batch_size=batch_size,
        retries=retries,
    )


def reset_peak_memory(device: torch.device) -> None:
    """Start counting anew, where that can be done."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif _CLEAR.exists():
        with contextlib.suppress(OSError):
            _CLEAR.write_text("5")  # proc(5): the peak resident set size is reset


def peak_memory(device: torch.device) -> int | None:
    """Bytes since the reset: allocated on the device, or resident in the process; None where not known."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    """Commit of the package's own checkout, with `+` if it was changed; None for an installed package."""
    root = Path(timm_diffsens.__file__).parent.parent
    if not (root / ".git").exists():
        return None
    try:
        commit = _git(root, "rev-parse", "HEAD")
        return commit + ("+" if _git(root, "status", "--porcelain", "--", "timm_diffsens") else "")
    except (OSError, subprocess.SubprocessError):
        return None


def _git(root: Path, *arguments: str) -> str:
    run = subprocess.run(
        ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=10, check=True
    )
    return run.stdout.strip()
