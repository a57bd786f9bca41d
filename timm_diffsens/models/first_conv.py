"""The convolution that reads the image: found by calling the network, replaced for other channels."""

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from timm_diffsens.device.evaluation import evaluating
from timm_diffsens.errors import UsageError

_COLOURS = 3


class _Reached(Exception):
    """The forward has come to its first convolution."""

    def __init__(self, conv: _ConvNd, channels: int) -> None:
        super().__init__()
        self.conv, self.channels = conv, channels


def first_convolution(module: nn.Module, shape: tuple[int, ...]) -> tuple[str, _ConvNd, int] | None:
    """The convolution that is called first: its name, itself, and how many channels it is given.

    The forward ends there, so this costs next to nothing, and the rest of the network need not run.

    Args:
        module: any network; not changed. shape: of one input, (c, h, w) or (c, length).

    Returns:
        None where no convolution is reached.
    """
    handles = [m.register_forward_pre_hook(_stop) for m in module.modules() if isinstance(m, _ConvNd)]
    like = next((p for p in module.parameters() if p.is_floating_point()), torch.empty(0))
    try:
        with torch.no_grad(), evaluating(module):
            module(torch.zeros(2, *shape, dtype=like.dtype, device=like.device))
    except _Reached as reached:
        name = next(name for name, part in module.named_modules() if part is reached.conv)
        return name, reached.conv, reached.channels
    except Exception:  # where the network would have read the image is not known
        return None
    finally:
        for handle in handles:
            handle.remove()
    return None


def _stop(conv: nn.Module, args: tuple[torch.Tensor, ...]) -> None:
    assert isinstance(conv, _ConvNd)
    raise _Reached(conv, args[0].shape[1])


def replace_input_channels(module: nn.Module, channels: int, sides: tuple[int, int], name: str) -> nn.Module:
    """Give a network of colour images another first convolution, with fresh weights for `channels` channels.

    Args:
        module: changed in place and returned. sides: height and width of its images.
        name: of the network, for the message.

    Raises:
        UsageError: what is called first is no convolution of the three colours.
    """
    found = first_convolution(module, (_COLOURS, *sides))
    if found is None or found[2] != _COLOURS or found[1].groups != 1:
        raise UsageError(f"{name} cannot be built for {channels} channels: no convolution reads its image")
    conv = found[1]
    conv.in_channels = channels
    conv.weight = nn.Parameter(conv.weight.new_empty(conv.out_channels, channels, *conv.kernel_size))
    conv.reset_parameters()
    return module


def check_input_channels(module: nn.Module, shape: tuple[int, ...], name: str) -> None:
    """Refuse a network whose first convolution reads another number of channels than it is given.

    Raises:
        UsageError: it does.
    """
    found = first_convolution(module, shape)
    if found and found[1].in_channels != found[2]:
        raise UsageError(
            f"{name} reads {found[1].in_channels} channels where in_chans={shape[0]} was asked for; "
            "let its function take in_chans"
        )
