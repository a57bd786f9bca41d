"""Where a measurement ran: versions, device, memory."""

import importlib.metadata
import platform
import subprocess
import sys
from pathlib import Path

import torch

import timm_diffsens
from timm_diffsens.results.record import Environment


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
    """Start counting anew, where the device can."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)


def peak_memory(device: torch.device) -> int | None:
    """Bytes: the device's peak since the reset, or the process's since it began."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


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
