"""Evaluation mode, and back."""

from torch import nn


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
