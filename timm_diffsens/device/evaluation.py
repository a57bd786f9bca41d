"""Evaluation mode, and back; compiled parts uncompiled, and back."""

import sys
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn


class eager:
    """Context: what `torch.compile` compiled runs as it was written, so that hooks in it are called."""

    def __init__(self) -> None:
        self.stance: AbstractContextManager[Any] | None = None

    def __enter__(self) -> None:
        if "torch._dynamo.eval_frame" in sys.modules:  # else nothing was compiled; its import takes seconds
            self.stance = torch.compiler.set_stance("force_eager")
            self.stance.__enter__()

    def __exit__(self, *error: Any) -> None:
        if self.stance is not None:
            self.stance.__exit__(*error)
            self.stance = None


class evaluating:
    """Context: evaluation mode inside; after it, and after an error, every part has its own training flag.

    The flags are set one by one: a module's own `train` may do more, or less, than that. It can be copied
    with a network whose hooks refer to it, which a generator could not.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.flags: dict[nn.Module, bool] = {}

    def __enter__(self) -> None:
        self.flags = {part: part.training for part in self.module.modules()}
        for part in self.flags:
            part.training = False

    def __exit__(self, *error: object) -> None:
        for part, flag in self.flags.items():
            part.training = flag
