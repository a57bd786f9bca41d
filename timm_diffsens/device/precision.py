"""How exact a network's forwards are; what is made of them is never summed below float32."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

from timm_diffsens.errors import UsageError


@dataclass(frozen=True)
class Precision:
    """Forwards in the type of the weights, unless something faster is asked for.

    Attributes:
        amp: autocast to bfloat16 (8 bits of mantissa) where PyTorch's autocast allows it.
        tf32: convolutions and matrix products on CUDA with 10 bits of mantissa.
    """

    amp: bool = False
    tf32: bool = False

    def check(self, device: torch.device) -> None:
        """Raises: UsageError: the device has no such thing."""
        if self.tf32 and device.type != "cuda":
            raise UsageError(f"--tf32 is for CUDA devices, got {device}; drop it, or give --device cuda")

    def describe(self, dtype: str) -> str:
        """What a record calls it, given the type of the weights."""
        more = [name for name, on in (("bfloat16 autocast", self.amp), ("TF32", self.tf32)) if on]
        return ", ".join([dtype, *more])

    @contextmanager
    def applied(self, device: torch.device) -> Iterator[None]:
        """Forwards inside are of this precision; TF32 is off unless asked for, whatever it was before."""
        cuda = device.type == "cuda"
        switches: tuple[Any, ...] = (torch.backends.cudnn, torch.backends.cuda.matmul) if cuda else ()
        before = [switch.allow_tf32 for switch in switches]
        for switch in switches:
            switch.allow_tf32 = self.tf32
        try:
            if self.amp:
                with torch.autocast(device.type, torch.bfloat16):
                    yield
            else:
                yield
        finally:
            for switch, flag in zip(switches, before, strict=True):
                switch.allow_tf32 = flag


FULL = Precision()


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Neither TF32 nor autocast inside, whatever is on outside: for what is no part of the network."""
    autocast = torch.amp.is_autocast_available(device.type)
    with FULL.applied(device), torch.autocast(device.type, enabled=False) if autocast else nullcontext():
        yield
