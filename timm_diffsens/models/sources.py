"""A model spec -> where the architecture and its published weights come from."""

import copy
import functools
import hashlib
import importlib
import importlib.util
import inspect
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from torch import nn

from timm_diffsens.errors import UsageError, unknown
from timm_diffsens.models.hub import fetch
from timm_diffsens.models.nets import NETS
from timm_diffsens.results.record import InputSpec

Library = Literal["timm", "torchvision", "net", "python"]

_HALF = (0.5, 0.5, 0.5)
_REMOTE = ("hf-hub:", "hf_hub:", "local-dir:")
_NAMES = "`diffsens ls models` lists what needs no configuration"


@dataclass(frozen=True)
class Source:
    """An architecture before its weights: how to make it, and what is known about its input."""

    arch: str
    library: Library
    build: Callable[[], nn.Module]
    pretrained: Callable[[], nn.Module] | None
    input: InputSpec | None
    detail: str | None
    class_names: tuple[str, ...] | None = None
    published_error: float | None = None
    code_sha256: str | None = None
    shown: str | None = None  # the spec as records have it, where it is not the one given
    fixed_size: bool = False  # takes images of one size only


def find_source(spec: str) -> Source:
    """Find out what a model spec means, without making the model.

    Raises:
        UsageError: nothing of that name; the message has the nearest names.
    """
    if not spec.strip():
        raise UsageError(
            "empty model spec; expected a name such as resnet50 (`diffsens ls models` lists them)"
        )
    if spec.startswith("torchvision/"):
        return _torchvision(spec.removeprefix("torchvision/"))
    if spec.startswith("net/"):
        return _net(spec.removeprefix("net/"))
    if spec.startswith(_REMOTE):
        return _timm_remote(spec)
    if ":" not in spec:
        return _timm(spec.removeprefix("timm/"))
    return _python(spec)


def _timm(spec: str) -> Source:
    import timm
    from timm.models import get_pretrained_cfg

    name, dot, tag = spec.partition(".")
    if name not in timm.list_models():
        known = [*timm.list_models(), *(f"torchvision/{n}" for n in torchvision_names())]
        known += [f"net/{n}" for n in NETS]
        raise unknown("model", spec, known, "`diffsens ls models` lists them")
    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{name}.*")] if dot else []
    if dot and tag not in tags:
        raise unknown(f"weights tag of {name}", tag, tags, f"it has: {', '.join(tags) or 'none'}")
    found = get_pretrained_cfg(spec, allow_unregistered=False)
    config = found.to_dict() if found else {}
    available = config.get("hf_hub_id") or config.get("url") or config.get("file")
    make = functools.partial(timm.create_model, spec)
    return Source(
        arch=config.get("architecture") or name,
        library="timm",
        build=functools.partial(make, pretrained=False),
        pretrained=functools.partial(make, pretrained=True) if available else _no_weights(spec),
        input=None,
        detail=config.get("hf_hub_id") or config.get("url"),
        fixed_size=bool(config.get("fixed_input_size")),
    )


def _timm_remote(spec: str) -> Source:
    """An architecture named by a configuration elsewhere, which has to be read even for random weights."""
    import timm

    make = functools.partial(timm.create_model, spec)
    return Source(
        arch=spec.partition(":")[2],
        library="timm",
        build=lambda: fetch(
            f"the configuration of {spec}", functools.partial(make, pretrained=False), _NAMES
        ),
        pretrained=functools.partial(make, pretrained=True),
        input=None,
        detail=spec.partition(":")[2],
    )


def _no_weights(spec: str) -> Callable[[], nn.Module]:
    def refuse(**_: Any) -> nn.Module:
        raise UsageError(
            f"there are no published weights for {spec}; "
            "pass --checkpoint FILE, or --no-pretrained for random weights"
        )

    return refuse


def torchvision_names() -> list[str]:
    """Names of torchvision's image classifiers."""
    import torchvision

    return list(torchvision.models.list_models(module=torchvision.models))


def _torchvision_known() -> list[str]:
    """Networks of images with one output: classifiers and segmentation; neither video nor detection."""
    from torchvision import models

    parts = (models.quantization, models.segmentation)
    return torchvision_names() + [name for part in parts for name in models.list_models(module=part)]


def _torchvision(spec: str) -> Source:
    import torchvision

    name, _, tag = spec.partition(".")
    if name not in _torchvision_known():
        raise unknown("torchvision model", name, _torchvision_known(), "`diffsens ls models` lists them")
    enum = torchvision.models.get_model_weights(name)
    members = {w.name: w for w in enum}
    if tag and tag not in members:
        raise unknown(
            f"weights of torchvision/{name}", tag, members, f"it has: {', '.join(members) or 'none'}"
        )
    weights = members[tag] if tag else (enum.DEFAULT if members else None)
    get = functools.partial(torchvision.models.get_model, name)
    extra: dict[str, Any] = {}
    if name in {"googlenet", "inception_v3"}:
        # the published weights imply the input transform, and it leaves no trace in a state dict
        extra = {"init_weights": True, "transform_input": True}
    if _has_backbone(name):
        extra["weights_backbone"] = None
    accuracy = _accuracy(weights)
    return Source(
        arch=name,
        library="torchvision",
        build=functools.partial(get, weights=None, **extra),
        pretrained=functools.partial(get, weights=weights)
        if weights is not None
        else _no_weights(f"torchvision/{name}"),
        input=_torchvision_input(weights),
        detail=f"{type(weights).__name__}.{weights.name}" if weights is not None else None,
        published_error=None if accuracy is None else 1 - accuracy / 100,
    )


def _has_backbone(name: str) -> bool:
    import torchvision

    return "weights_backbone" in inspect.signature(torchvision.models.get_model_builder(name)).parameters


def _accuracy(weights: Any) -> float | None:
    metrics = (weights.meta.get("_metrics") or {}) if weights is not None else {}
    value = metrics.get("ImageNet-1K", {}).get("acc@1")
    return float(value) if value is not None and math.isfinite(value) else None


def _torchvision_input(weights: Any) -> InputSpec | None:
    """timm's terms for torchvision's resize-then-crop: crop_pct = crop / resize."""
    if weights is None:
        return None
    preset = weights.transforms()
    crop, resize = (getattr(preset, name, None) for name in ("crop_size", "resize_size"))
    if not crop or not resize:
        return None
    return InputSpec(
        channels=3,
        height=crop[0],
        width=crop[0],
        mean=tuple(preset.mean),
        std=tuple(preset.std),
        crop_pct=crop[0] / resize[0],
        crop_mode="center",
        interpolation=preset.interpolation.value,
    )


def _net(name: str) -> Source:
    if name not in NETS:
        raise unknown(
            "network", f"net/{name}", [f"net/{n}" for n in NETS], "`diffsens ls models 'net/*'` lists them"
        )
    side = InputSpec(
        channels=3,
        height=32,
        width=32,
        mean=_HALF,
        std=_HALF,
        crop_pct=1.0,
        crop_mode="center",
        interpolation="bicubic",
    )
    return Source(
        arch=name,
        library="net",
        build=NETS[name],
        pretrained=_no_weights(f"net/{name}"),
        input=side,
        detail=None,
    )


def _python(spec: str) -> Source:
    """`file.py:factory` or `package.module:factory`; runs that code, as importing it would."""
    where, _, name = spec.rpartition(":")
    if not where or not name:
        raise UsageError(f"model spec {spec!r}: expected file.py:factory or package.module:factory")
    path = Path(where) if where.endswith(".py") else None
    module = _import_file(path) if path else _import_module(where)
    if not hasattr(module, name):
        raise unknown(f"factory in {where}", name, [n for n in vars(module) if not n.startswith("_")])
    return Source(
        arch=name,
        library="python",
        build=functools.partial(_call, spec, getattr(module, name)),
        pretrained=None,
        input=None,
        detail=None,
        code_sha256=hashlib.sha256(path.read_bytes()).hexdigest() if path else None,
        shown=f"{path.name}:{name}" if path else None,
    )


def _call(spec: str, factory: Any) -> nn.Module:
    """A new module from a function, a class or a module."""
    if isinstance(factory, nn.Module):
        return copy.deepcopy(factory)
    if not callable(factory):
        raise UsageError(f"{spec} is a {type(factory).__name__}, expected a function that makes a module")
    try:
        inspect.signature(factory).bind()
    except TypeError as error:
        raise UsageError(f"{spec} must be callable without arguments: {error}") from error
    except ValueError:  # no signature to be had of some built-in functions
        pass
    try:
        made = factory()
    except Exception as error:
        raise UsageError(f"{spec} raised {type(error).__name__}: {error}") from error
    if not isinstance(made, nn.Module):
        raise UsageError(f"{spec} gives a {type(made).__name__}, expected a torch.nn.Module")
    return made


def _import_file(path: Path) -> Any:
    if not path.is_file():
        near = [str(p) for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise unknown("model file", str(path), near)
    name = f"_diffsens_{path.stem}"  # never that of an installed module
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses look their module up there
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise UsageError(f"cannot import {str(path)!r}: {type(error).__name__}: {error}") from error
    return module


def _import_module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:
        raise UsageError(
            f"cannot import {name!r}: {type(error).__name__}: {error}; "
            "expected file.py:factory or package.module:factory"
        ) from error
