"""The most memory that this process has had."""

import resource
import sys
from pathlib import Path


def peak() -> int:
    """In bytes; on Linux of this program alone: `getrusage` counts what its parent had before it began."""
    status = Path("/proc/self/status")
    if status.exists():
        (line,) = (line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
