"""Weights in files: read safely or not at all, written whole or not at all."""

import hashlib
import json
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from timm_diffsens.errors import DiffsensError, UsageError, first_line
from timm_diffsens.files import write_atomic

_SUFFIX = ".safetensors"
_WRAPPERS = ("state_dict", "model_state_dict", "model", "module", "net")
_PREFIXES = ("module.", "_orig_mod.", "model.")


def load_checkpoint(module: nn.Module, path: Path) -> dict[str, str]:
    """Fill a module's weights from a file, strictly; returns the file's metadata.

    Args:
        module: filled in place.
        path: a safetensors file, or a torch file (zip format), which is read with `weights_only=True`.
            `state_dict` and `model` wrappers and `module.` prefixes are understood.

    Raises:
        UsageError: no such file, unreadable, unsafe (it would run code), or not this network's weights.
    """
    _require_file(path)
    state, metadata = _read(path)
    expected = module.state_dict()
    state = _without_prefix(state, set(expected))
    # batch-norm's counter is not in files of old torch versions, and evaluation does not read it
    state = {**{n: v for n, v in expected.items() if n.endswith("num_batches_tracked")}, **state}
    missing, extra = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    wrong = [
        f"{name} {tuple(state[name].shape)} where {tuple(expected[name].shape)} is expected"
        for name in expected
        if name in state and state[name].shape != expected[name].shape
    ]
    faults = [
        f"{len(names)} {what}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}"
        for what, names in (("missing", missing), ("unexpected", extra), ("of another shape", wrong))
        if names
    ]
    if faults:
        raise UsageError(f"checkpoint {path.name!r} does not fit the model; {'; '.join(faults)}")
    module.load_state_dict(state, strict=True)
    return metadata


def save_checkpoint(module: nn.Module, path: Path, recipe: dict[str, Any], *, half: bool = False) -> None:
    """Write a module's weights, and how they were made, as a safetensors file, whole or not at all.

    Tensors that share memory (tied weights) are written each on its own.

    Args:
        module: on any device.
        path: ends in .safetensors.
        recipe: plain values, kept as JSON under `recipe` in the file's metadata. `load_model` builds the
            architecture from its `model` (a spec), `arguments` (`ModelArguments.to_json`) and `input`
            (`InputSpec`).
        half: matrices and filters as float16. Nothing is lost of a module after `round_to_half`.

    Raises:
        UsageError: another ending, or a recipe that JSON does not know (NaN, say).
        DiffsensError: the file could not be written; what was there is untouched.
    """
    if path.suffix != _SUFFIX:
        raise UsageError(f"a checkpoint is a {_SUFFIX} file, got {path.name!r}")
    try:
        text = json.dumps(recipe, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise UsageError(f"the recipe of checkpoint {path.name!r} is no JSON: {first_line(error)}") from error
    state = {
        name: (value.half() if half and _is_matrix(value) else value)
        .detach()
        .cpu()
        .clone(memory_format=torch.contiguous_format)
        for name, value in module.state_dict().items()
    }
    write_atomic(path, save(state, metadata={"format": "pt", "recipe": text}))


def round_to_half(module: nn.Module) -> None:
    """Round matrices and filters to float16, in place and still stored as they were.

    Biases, and parameters and statistics of norms are left: they are few, and variances may be too small.

    Raises:
        DiffsensError: a number is beyond 65,504, the largest of float16; nothing has been changed.
    """
    matrices = {name: value for name, value in module.state_dict().items() if _is_matrix(value)}
    for name, value in matrices.items():
        if value.isfinite().all() and not value.half().isfinite().all():
            raise DiffsensError(
                f"{name} has numbers beyond 65,504, which float16 cannot hold: leave out --half"
            )
    with torch.no_grad():
        for value in matrices.values():
            value.copy_(value.half())


def _is_matrix(value: torch.Tensor) -> bool:
    return value.is_floating_point() and value.dim() > 1


def read_recipe(path: Path) -> dict[str, Any] | None:
    """The recipe in a checkpoint's metadata, read without its weights; None if it has none.

    Raises:
        UsageError: no such file, or a safetensors file that cannot be read.
    """
    _require_file(path)
    if path.suffix != _SUFFIX:
        return None
    try:
        with safe_open(path, framework="pt") as file:
            return recipe_in(file.metadata())
    except (SafetensorError, OSError) as error:
        raise UsageError(f"checkpoint {path.name!r} cannot be read: {first_line(error)}") from error


def recipe_in(metadata: Mapping[str, str] | None) -> dict[str, Any] | None:
    """The recipe in a checkpoint's metadata; None if it has none, or another program's."""
    try:
        recipe = json.loads((metadata or {}).get("recipe", "null"))
    except json.JSONDecodeError:
        return None
    return recipe if isinstance(recipe, dict) else None


def _require_file(path: Path) -> None:
    if not path.is_file():
        raise UsageError(f"checkpoint {str(path)!r} does not exist or is not a file")


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    if path.suffix == _SUFFIX:
        return _read_safetensors(path)
    if not zipfile.is_zipfile(path):
        raise UsageError(
            f"checkpoint {path.name!r} is neither a safetensors file nor a torch zip file; "
            "old torch files are refused: save it again with torch.save, or as safetensors"
        )
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise UsageError(
            f"checkpoint {path.name!r} was refused: it holds more than tensors, and could run code; "
            "save its state_dict alone, best as safetensors"
        ) from error
    except Exception as error:  # a damaged file fails in many ways, and none of them is ours to mend
        raise UsageError(f"checkpoint {path.name!r} cannot be read: {first_line(error)}") from error
    return _unwrap(loaded, path), {}


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, dict(file.metadata() or {})  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise UsageError(f"checkpoint {path.name!r} cannot be read: {first_line(error)}") from error


def _unwrap(loaded: Any, path: Path) -> dict[str, torch.Tensor]:
    """The state dict inside the usual wrappers."""
    for _ in range(3):
        if (
            isinstance(loaded, Mapping)
            and loaded
            and all(isinstance(v, torch.Tensor) for v in loaded.values())
        ):
            return {str(name): value for name, value in loaded.items()}
        inner = [
            loaded[k] for k in _WRAPPERS if isinstance(loaded, Mapping) and isinstance(loaded.get(k), Mapping)
        ]
        if not inner:
            break
        loaded = inner[0]
    found = ", ".join(map(str, list(loaded)[:5])) if isinstance(loaded, Mapping) else type(loaded).__name__
    raise UsageError(f"checkpoint {path.name!r} holds no state dict; found: {found}")


def _without_prefix(state: dict[str, torch.Tensor], expected: set[str]) -> dict[str, torch.Tensor]:
    """Drop the prefixes that wrappers put before every name, as long as they are not the network's own."""
    for _ in range(3):
        if set(state) & expected:
            break
        prefix = next((p for p in _PREFIXES if state and all(name.startswith(p) for name in state)), None)
        if prefix is None:
            break
        state = {name.removeprefix(prefix): value for name, value in state.items()}
    return state


def state_sha256(state: Mapping[str, Any]) -> str:
    """Hash of a state dict: names, dtypes, shapes and bytes, sorted by name, whatever the file format."""
    total = hashlib.sha256()
    for name in sorted(state):
        value = state[name]
        if not isinstance(value, torch.Tensor):
            continue
        flat = value.detach().cpu().reshape(-1).clone(memory_format=torch.contiguous_format)
        total.update(json.dumps([name, str(value.dtype), list(value.shape)]).encode())
        total.update(flat.view(torch.uint8).numpy().tobytes())
    return total.hexdigest()
