"""Weights in files: read safely or not at all, written whole or not at all."""

import hashlib
import json
import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save
from torch import nn

from timm_diffsens.errors import DiffsensError, UsageError, first_line, nearest, warn
from timm_diffsens.files import write_atomic
from timm_diffsens.models.weight_files import Checkpoint, read_checkpoint, read_metadata

_SUFFIX = ".safetensors"
# what torch's own wrappers put into names, at any depth
_INSIDE = re.compile(r"\b(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_DEEPEST_PREFIX, _NAMED = 4, 3


def load_checkpoint(module: nn.Module, path: Path) -> Checkpoint:
    """Fill a module's weights from a file, strictly; returns what was in the file.

    Args:
        module: filled in place.
        path: a safetensors file, or one that `torch.load(weights_only=True)` reads: told apart by content. Of
            averaged (EMA) and raw weights the averaged are taken, as timm does. Wrappers around the state
            dict, and prefixes before its names, are left out.

    Raises:
        UsageError: no such file, unreadable, unsafe (it would run code), or not this network's weights.
    """
    found = read_checkpoint(path)
    expected = module.state_dict()
    state = _without_prefix(found.state, expected, path)
    # batch-norm's counter is not in files of old torch versions, and evaluation does not read it
    state = {**{n: v for n, v in expected.items() if n.endswith("num_batches_tracked")}, **state}
    missing, extra = sorted(set(expected) - set(state)), sorted(set(state) - set(expected))
    wrong = [
        f"{name} {tuple(value.shape)} where {tuple(expected[name].shape)} is expected"
        for name, value in state.items()
        if name in expected and getattr(value, "shape", None) != getattr(expected[name], "shape", None)
    ]
    faults = [
        f"{len(names)} {what}: {_few(names)}"
        for what, names in (("missing", missing), ("unexpected", extra), ("of another shape", wrong))
        if names
    ]
    if faults:
        near = nearest(missing[0], extra, 1) if missing else []
        hint = f"; nearest to {missing[0]} is {near[0]}" if near else ""
        raise UsageError(f"checkpoint {path.name!r} does not fit the model; {'; '.join(faults)}{hint}")
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:  # of a module that reads its state in a way of its own
        raise UsageError(f"checkpoint {path.name!r} does not fit the model: {first_line(error)}") from error
    return found


def _few(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (", ..." if len(names) > _NAMED else "")


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
    return recipe_in(read_metadata(path))


def recipe_in(metadata: Mapping[str, str] | None) -> dict[str, Any] | None:
    """The recipe in a checkpoint's metadata; None if it has none, or another program's."""
    try:
        recipe = json.loads((metadata or {}).get("recipe", "null"))
    except json.JSONDecodeError:
        return None
    return recipe if isinstance(recipe, dict) else None


def _without_prefix(state: dict[str, Any], expected: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The entries under the prefix that wrappers put before names, without it, and without counters.

    Of all prefixes in the file, and none, it is the one under which most of the expected names are.
    """
    if not any(map(_INSIDE.search, expected)):
        state = {_INSIDE.sub("", name): value for name, value in state.items()}
    fitting = Counter({"": sum(name in expected for name in state)})
    for name in state:
        parts = name.split(".")
        for k in range(1, min(len(parts), _DEEPEST_PREFIX + 1)):
            fitting[".".join(parts[:k]) + "."] += ".".join(parts[k:]) in expected
    most = max(fitting.values())
    prefixes = [prefix for prefix, count in fitting.items() if count == most]
    if "" in prefixes:  # the network's own names, or names that fit in no way
        return {name: value for name, value in state.items() if name in expected or not _is_counter(value)}
    needed = {name for name in expected if not name.endswith("num_batches_tracked")}
    whole = [prefix for prefix in prefixes if all(prefix + name in state for name in needed)]
    if len(whole) > 1:
        named = ", ".join(whole)
        raise UsageError(
            f"checkpoint {path.name!r} holds several networks that fit: {named}; save the one meant"
        )
    prefix = min(whole or prefixes, key=len)
    under = {n.removeprefix(prefix): value for n, value in state.items() if n.startswith(prefix)}
    beside = {n: v for n, v in state.items() if not n.startswith(prefix) and not _is_counter(v)}
    if not whole:
        return {**beside, **under}  # to be named in the error
    if beside:
        warn(f"checkpoint {path.name!r}: only what is under {prefix} is measured, not {_few(sorted(beside))}")
    return under


def _is_counter(value: Any) -> bool:
    """How often weights were averaged, say: no network is made of a single whole number."""
    return isinstance(value, torch.Tensor) and value.ndim == 0 and not value.is_floating_point()


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
