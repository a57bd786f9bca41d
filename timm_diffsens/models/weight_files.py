"""Files of weights: told apart by content, read safely or not at all."""

import argparse
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from timm_diffsens.errors import UsageError, first_line, warn

_AVERAGED = ("state_dict_ema", "model_ema")  # timm's order: averaged weights go before raw ones
AVERAGED_NAME = re.compile(r"(?<![a-z])(ema|swa|averag[a-z]*)(?![a-z])", re.IGNORECASE)
_MOST_PACKED = 4  # times its size that a file may unpack to: weights hardly compress
_WRAPPERS = (*_AVERAGED, "state_dict", "model", "model_state_dict", "module", "net")
# what training scripts keep beside the weights, and what cannot run code: arguments (timm's own), accuracies
_SCALAR, _SCALAR_NAMES = np.float64(0).__reduce__()[0], ("numpy.core.multiarray", "numpy._core.multiarray")
_HARMLESS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *{type(np.dtype(code)) for code in "?bBhHiIlLqQefd"},
    *((_SCALAR, f"{home}.scalar") for home in _SCALAR_NAMES),
]


class Checkpoint(NamedTuple):
    """A file of weights.

    Attributes:
        state: the state dict. metadata: of a safetensors file.
        entry: the one of several state dicts in the file that was taken, or the averaged one; else None.
    """

    state: dict[str, Any]
    metadata: dict[str, str]
    entry: str | None = None


def _is_safetensors(path: Path) -> bool:
    """By content: the length of a JSON header in eight bytes, then the header.

    Raises:
        UsageError: there is no such file.
    """
    if not path.is_file():
        raise UsageError(f"checkpoint {str(path)!r} does not exist or is not a file")
    try:
        with path.open("rb") as file:
            return file.read(9)[8:] == b"{"
    except OSError as error:
        raise UsageError(f"checkpoint {path.name!r} cannot be read: {error.strerror}") from error


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        with safe_open(path, framework="pt") as file:
            yield file
    except (SafetensorError, OSError) as error:
        raise UsageError(f"checkpoint {path.name!r} cannot be read: {first_line(error)}") from error


def read_metadata(path: Path) -> dict[str, str]:
    """The metadata of a safetensors file, read without its weights; none of another file.

    Raises:
        UsageError: no such file, or a safetensors file that cannot be read.
    """
    if not _is_safetensors(path):
        return {}
    with _opened(path) as file:
        return dict(file.metadata() or {})


def read_checkpoint(path: Path) -> Checkpoint:
    """The state dict in a file, told apart by content.

    Args:
        path: a safetensors file, or one that `torch.load(weights_only=True)` reads. Of several state dicts in
            it that one is taken that timm takes: averaged weights (EMA) before raw ones.

    Raises:
        UsageError: no such file, unreadable, unsafe (it would run code), or no state dict in it.
    """
    if _is_safetensors(path):
        with _opened(path) as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return Checkpoint(state, dict(file.metadata() or {}))
    _refuse_packed(path)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(_HARMLESS), path.open("rb") as file:
            warnings.simplefilter("ignore", UserWarning)  # torch's, of what it then reads or refuses
            loaded = torch.load(file, map_location="cpu", weights_only=True)  # by name it goes by the suffix
    except Exception as error:  # a damaged file fails in many ways, and none of them is ours to mend
        raise _unreadable(path, error) from error
    return _unwrap(loaded, path)


def _refuse_packed(path: Path) -> None:
    """Refuse a zip file that unpacks to far more than it is, from its directory: torch packs nothing."""
    try:
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(entry.file_size for entry in archive.infolist())
    except (zipfile.BadZipFile, OSError, ValueError):
        return  # no zip file, or a damaged one, which torch refuses
    size = path.stat().st_size
    if unpacked > _MOST_PACKED * size:
        raise UsageError(
            f"checkpoint {path.name!r} was refused: it unpacks to {unpacked:,} bytes from {size:,}, and "
            "torch packs nothing; save its state_dict again"
        )


def _unreadable(path: Path, error: Exception) -> UsageError:
    """What keeps torch from reading a file: what is in it, or that it is none of torch's."""
    said = str(error).partition("WeightsUnpickler error: ")[2].strip().partition("\n")[0]
    said = said.partition(" was not an allowed global")[0][:200]
    if not said or "operand" in said or not isinstance(error, pickle.UnpicklingError):
        what = "it is neither a safetensors file nor a whole file of torch's"
        return UsageError(f"checkpoint {path.name!r} cannot be read: {what} ({said or first_line(error)})")
    return UsageError(
        f"checkpoint {path.name!r} was refused: it holds more than tensors, and could run code ({said}); "
        "save its state_dict alone, best as safetensors"
    )


def _unwrap(loaded: Any, path: Path) -> Checkpoint:
    """The state dict inside the usual wrappers, or inside the only entry that holds one."""
    entry = None
    while isinstance(loaded, Mapping):
        inside = [key for key, value in loaded.items() if _is_state(value)]
        known = [key for key in _WRAPPERS if _is_state(loaded.get(key)) or _is_wrapped(loaded.get(key))]
        if not known and (_is_state(loaded) or not inside):
            break
        several = {*map(str, known), *map(str, inside), *_averages(loaded)}
        if not known and len(inside) > 1:
            named = ", ".join(sorted(several))
            raise UsageError(
                f"checkpoint {path.name!r} holds several state dicts: {named}; save the one meant"
            )
        key = (known or inside)[0]
        if key in _AVERAGED or len(several) > 1:
            entry = str(key)
            _say_which(path, entry, sorted(several - {entry}))
        loaded = loaded[key]
    if _is_state(loaded):
        left = list(_averages(loaded))
        if left:
            warn(f"checkpoint {path.name!r}: not measured is {', '.join(left)}, which the file holds too")
        kept = {str(name): value for name, value in loaded.items() if _belongs(name, value)}
        return Checkpoint(kept, {}, entry)
    found = ", ".join(map(str, list(loaded)[:5])) if isinstance(loaded, Mapping) else type(loaded).__name__
    raise UsageError(f"checkpoint {path.name!r} holds no state dict; found: {found}")


def _say_which(path: Path, entry: str, others: list[str]) -> None:
    averaged = ", averaged weights (EMA), as timm takes them" if entry in _AVERAGED else ""
    left = f"; not {', '.join(others)}, which the file holds too" if others else ""
    warn(f"checkpoint {path.name!r}: measured is {entry}{averaged}{left}")


def _averages(loaded: Any, above: str = "") -> Iterator[str]:
    """Names of what may be averaged weights, in whatever form and depth, outside of state dicts."""
    for key, value in loaded.items() if isinstance(loaded, Mapping) else ():
        if AVERAGED_NAME.search(str(key)) and not isinstance(value, torch.Tensor):
            yield from [f"{above}{key}"] if _has_tensors(value) else []
        elif key not in _WRAPPERS and not _is_state(value):
            yield from _averages(value, f"{above}{key}.")


def _has_tensors(value: Any) -> bool:
    """Whether there is a tensor in it that is more than a number, at whatever depth."""
    if isinstance(value, Mapping | list | tuple):
        return any(map(_has_tensors, value.values() if isinstance(value, Mapping) else value))
    return isinstance(value, torch.Tensor) and value.ndim > 0


def _is_wrapped(value: Any) -> bool:
    return isinstance(value, Mapping) and any(map(_is_state, value.values()))


def _is_state(value: Any) -> bool:
    return isinstance(value, Mapping) and any(isinstance(v, torch.Tensor) and v.ndim for v in value.values())


def _belongs(name: object, value: Any) -> bool:
    """Whether it may be of a network: not a number that stands beside the weights, such as the epoch."""
    return isinstance(value, torch.Tensor) or str(name).endswith("_extra_state")
