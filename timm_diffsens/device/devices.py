"""Which device a measurement runs on."""

import torch

from timm_diffsens.errors import UsageError, nearest


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
