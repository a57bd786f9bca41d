"""A model spec or a checkpoint -> a `LoadedModel`: the module, what it wants to be shown, where it is from."""

import copy
import functools
import hashlib
import importlib
import importlib.util
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

from timm_diffsens import runtime
from timm_diffsens.errors import MeasurementError, UsageError, unknown
from timm_diffsens.models.checkpoints import load_checkpoint, state_sha256
from timm_diffsens.models.nets import NETS
from timm_diffsens.results.record import InputSpec, Weights

Library = Literal["timm", "torchvision", "net", "python"]

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_HALF = (0.5, 0.5, 0.5)


@dataclass(frozen=True)
class InputOptions:
    """What the user asks for instead of the model's own preprocessing; None keeps the model's."""

    size: tuple[int, int] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None


@dataclass(frozen=True)
class LoadedModel:
    """A model ready to be measured.

    Attributes:
        spec: as given. arch: architecture name. library: where the architecture is from.
        module: the network, in evaluation mode.
        input: preprocessing. classes: number of classes, or None without a classifier.
        weights: where the weights are from. build: makes the architecture with fresh random weights.
        class_names: WordNet ids in the order of the classes, where the classes are ImageNet's.
        published_error: top-1 error (fraction) that the weights' authors state, on ImageNet's validation set.
        metadata: of the checkpoint.
    """

    spec: str
    arch: str
    library: Library
    module: nn.Module
    input: InputSpec
    classes: int | None
    weights: Weights
    build: Callable[[], nn.Module]
    class_names: tuple[str, ...] | None = None
    published_error: float | None = None
    published_by: str | None = None
    metadata: dict[str, str] | None = None

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(p.numel() for p in self.module.parameters())

    def fresh(self, seed: int) -> nn.Module:
        """The same architecture with fresh random weights."""
        with runtime.seeded(seed):
            return self.build().eval()


@dataclass(frozen=True)
class _Source:
    """An architecture before its weights: how to make it, and what is known about its input."""

    arch: str
    library: Library
    build: Callable[[], nn.Module]
    pretrained: Callable[[], nn.Module] | None
    input: InputSpec | None
    detail: str | None
    class_names: tuple[str, ...] | None = None
    published_error: float | None = None


def load_model(
    spec: str,
    *,
    pretrained: bool = True,
    checkpoint: str | Path | None = None,
    seed: int = 0,
    input_options: InputOptions | None = None,
) -> LoadedModel:
    """Load a model by its spec.

    Args:
        spec: a timm name (`resnet50`, `resnet50.a1_in1k`, `hf-hub:owner/name`), `torchvision/resnet50`,
            `net/NAME` (ours), `file.py:factory` or `package.module:factory`.
        pretrained: fetch the published weights; otherwise random ones from `seed`.
        checkpoint: a safetensors file, or a torch file, which is read with `weights_only=True`.
        input_options: size, mean and std in place of the model's own.

    Raises:
        UsageError: unknown name, weights that cannot be fetched, a checkpoint that does not fit.

    Example:
        >>> from timm_diffsens import load_model
        >>> model = load_model("test_resnet", pretrained=False, seed=0)
        >>> model.input.height, model.classes, model.weights.source
        (160, 1000, 'random')
    """
    runtime.prepare()
    source = _find(spec)
    metadata = None
    if checkpoint is not None:
        with runtime.seeded(seed):
            module = source.build()
        metadata = load_checkpoint(module, Path(checkpoint))
        weights = ("checkpoint", Path(checkpoint).name, None)
    elif pretrained and source.pretrained is not None:
        module = _fetch(spec, source)
        weights = ("given" if source.library == "python" else "pretrained", source.detail, None)
    else:
        with runtime.seeded(seed):
            module = source.build()
        weights = ("random", None, seed)
    module.eval()
    spec_of_input = _input(spec, source, module, input_options or InputOptions())
    return LoadedModel(
        spec=spec,
        arch=source.arch,
        library=source.library,
        module=module,
        input=spec_of_input,
        classes=_classes(module),
        weights=Weights(
            source=weights[0], detail=weights[1], seed=weights[2], sha256=state_sha256(module.state_dict())
        ),
        build=source.build,
        class_names=source.class_names or _imagenet_names(module),
        published_error=source.published_error if weights[0] == "pretrained" else None,
        published_by=source.detail if weights[0] == "pretrained" else None,
        metadata=metadata,
    )


def _find(spec: str) -> _Source:
    if not spec.strip():
        raise UsageError("empty model spec; expected a name such as resnet50 (`diffsens ls models` lists them)")
    if spec.startswith("torchvision/"):
        return _torchvision(spec.removeprefix("torchvision/"))
    if spec.startswith("net/"):
        return _net(spec.removeprefix("net/"))
    if spec.startswith(("hf-hub:", "hf_hub:", "local-dir:")) or ":" not in spec:
        return _timm(spec)
    return _python(spec)


def _timm(spec: str) -> _Source:
    import timm

    remote = spec.startswith(("hf-hub:", "hf_hub:", "local-dir:"))
    if not remote:
        name, _, tag = spec.removeprefix("timm/").partition(".")
        if name not in timm.list_models():
            known = [*timm.list_models(), *(f"torchvision/{n}" for n in torchvision_names())]
            known += [f"net/{n}" for n in NETS]
            raise unknown("model", spec, known, "`diffsens ls models` lists them")
        tags = timm.list_pretrained(f"{name}.*") if tag else []
        if tag and f"{name}.{tag}" not in tags:
            raise unknown(f"weights tag of {name}", tag, [t.partition(".")[2] for t in tags], f"it has: {', '.join(t.partition('.')[2] for t in tags) or 'none'}")
    build = functools.partial(timm.create_model, spec, pretrained=False)
    config = _timm_config(spec, remote)
    available = remote or bool(config and (config.get("hf_hub_id") or config.get("url") or config.get("file")))
    return _Source(
        arch=(config or {}).get("architecture") or spec.partition(".")[0],
        library="timm",
        build=build,
        pretrained=functools.partial(timm.create_model, spec, pretrained=True) if available else _no_weights(spec),
        input=None,
        detail=(config or {}).get("hf_hub_id") or (config or {}).get("url"),
    )


def _timm_config(spec: str, remote: bool) -> dict[str, Any] | None:
    from timm.models import get_pretrained_cfg

    config = None if remote else get_pretrained_cfg(spec, allow_unregistered=False)
    return config.to_dict() if config else None


def _no_weights(spec: str) -> Callable[[], nn.Module]:
    def refuse() -> nn.Module:
        raise UsageError(
            f"there are no published weights for {spec}; pass --checkpoint FILE, or --no-pretrained for random weights"
        )

    return refuse


def torchvision_names() -> list[str]:
    """Names of torchvision's image classifiers."""
    import torchvision

    return list(torchvision.models.list_models(module=torchvision.models))


def _torchvision(spec: str) -> _Source:
    import torchvision

    name, _, tag = spec.partition(".")
    if name not in torchvision.models.list_models():
        raise unknown("torchvision model", name, torchvision.models.list_models(), "`diffsens ls models` lists them")
    enum = torchvision.models.get_model_weights(name)
    members = {w.name: w for w in enum}
    if tag and tag not in members:
        raise unknown(f"weights of torchvision/{name}", tag, members, f"it has: {', '.join(members) or 'none'}")
    weights = members[tag] if tag else (enum.DEFAULT if members else None)
    get = functools.partial(torchvision.models.get_model, name)
    extra = {"init_weights": True} if name in {"googlenet", "inception_v3"} else {}
    accuracy = _accuracy(weights)
    return _Source(
        arch=name,
        library="torchvision",
        build=functools.partial(get, weights=None, **({"weights_backbone": None} if _has_backbone(name) else {}), **extra),
        pretrained=functools.partial(get, weights=weights) if weights is not None else _no_weights(f"torchvision/{name}"),
        input=_torchvision_input(weights),
        detail=f"{type(weights).__name__}.{weights.name}" if weights is not None else None,
        published_error=None if accuracy is None else 1 - accuracy / 100,
    )


def _has_backbone(name: str) -> bool:
    import torchvision

    builder = torchvision.models.get_model_builder(name)
    return "weights_backbone" in (getattr(builder, "__kwdefaults__", None) or {})


def _accuracy(weights: Any) -> float | None:
    metrics = (weights.meta.get("_metrics") or {}) if weights is not None else {}
    value = metrics.get("ImageNet-1K", {}).get("acc@1")
    return None if value is None else float(value)


def _torchvision_input(weights: Any) -> InputSpec | None:
    """timm's terms for torchvision's resize-then-crop: crop_pct = crop / resize."""
    preset = weights.transforms() if weights is not None else None
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


def _net(name: str) -> _Source:
    if name not in NETS:
        raise unknown("network", f"net/{name}", [f"net/{n}" for n in NETS], "`diffsens ls models 'net/*'` lists them")
    side = InputSpec(
        channels=3, height=32, width=32, mean=_HALF, std=_HALF, crop_pct=1.0, crop_mode="center", interpolation="bicubic"
    )
    return _Source(arch=name, library="net", build=NETS[name], pretrained=_no_weights(f"net/{name}"), input=side, detail=None)


def _python(spec: str) -> _Source:
    """`file.py:factory` or `package.module:factory`; runs that code, as importing it would."""
    where, _, name = spec.rpartition(":")
    module = _import_file(Path(where)) if where.endswith(".py") else _import_module(where)
    if not hasattr(module, name):
        raise unknown(f"factory in {where}", name, [n for n in vars(module) if not n.startswith("_")])
    factory = getattr(module, name)

    def build() -> nn.Module:
        made = copy.deepcopy(factory) if isinstance(factory, nn.Module) else factory()
        if not isinstance(made, nn.Module):
            raise UsageError(f"{spec} gives a {type(made).__name__}, expected a torch.nn.Module")
        return made

    return _Source(arch=name, library="python", build=build, pretrained=None, input=None, detail=None)


def _import_file(path: Path) -> Any:
    if not path.is_file():
        near = [str(p) for p in path.parent.glob("*.py")] if path.parent.is_dir() else []
        raise unknown("model file", str(path), near)
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _import_module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise UsageError(f"cannot import {name!r}: {error}; expected file.py:factory or package.module:factory") from error


def _fetch(spec: str, source: _Source) -> nn.Module:
    """Published weights; whatever goes wrong on the way to them becomes one clear sentence."""
    assert source.pretrained is not None
    quiet = logging.getLogger("huggingface_hub")
    level = quiet.level
    quiet.setLevel(logging.ERROR)
    try:
        return source.pretrained()
    except (OSError, RuntimeError) as error:
        if isinstance(error, MeasurementError | UsageError):
            raise
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise UsageError(
            f"the weights of {spec} cannot be fetched ({first[:160]}); "
            "pass --checkpoint FILE for weights on disk, or --no-pretrained for random ones"
        ) from error
    finally:
        quiet.setLevel(level)


def _input(spec: str, source: _Source, module: nn.Module, asked: InputOptions) -> InputSpec:
    known = source.input or _timm_input(module)
    if known is None:
        if asked.size is None:
            raise UsageError(f"the input size of {spec} is not known; pass --input-size, and --mean and --std")
        if asked.mean is None or asked.std is None:
            runtime.warn(f"mean and std of {spec} are not known: ImageNet's are used; pass --mean and --std")
        channels = len(asked.mean or _IMAGENET_MEAN)
        known = InputSpec(
            channels=channels,
            height=asked.size[0],
            width=asked.size[1],
            mean=_IMAGENET_MEAN,
            std=_IMAGENET_STD,
            crop_pct=1.0,
            crop_mode="center",
            interpolation="bicubic",
        )
    changes: dict[str, Any] = {}
    if asked.size is not None:
        changes |= {"height": asked.size[0], "width": asked.size[1]}
    for name, value in (("mean", asked.mean), ("std", asked.std)):
        if value is not None:
            changes[name] = _per_channel(name, value, known.channels)
    return known.model_copy(update=changes)


def _per_channel(name: str, value: Sequence[float], channels: int) -> tuple[float, ...]:
    values = tuple(float(v) for v in value)
    values = values * channels if len(values) == 1 else values
    if len(values) != channels:
        raise UsageError(f"--{name} needs 1 or {channels} numbers, got {len(values)}")
    if name == "std" and min(values) <= 0:
        raise UsageError(f"--std must be positive, got {values}")
    return values


def _timm_input(module: nn.Module) -> InputSpec | None:
    from timm.data import resolve_model_data_config

    if not getattr(module, "pretrained_cfg", None) and not getattr(module, "default_cfg", None):
        return None
    config = resolve_model_data_config(module)
    channels, height, width = config["input_size"]
    return InputSpec(
        channels=channels,
        height=height,
        width=width,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        crop_pct=config["crop_pct"],
        crop_mode=config["crop_mode"],
        interpolation=config["interpolation"],
    )


def _classes(module: nn.Module) -> int | None:
    """What the model says about itself, or else the width of its last linear layer."""
    said = getattr(module, "num_classes", None)
    if isinstance(said, int):
        return said or None
    linear = [m for m in module.modules() if isinstance(m, nn.Linear)]
    return linear[-1].out_features if linear else None


def _imagenet_names(module: nn.Module) -> tuple[str, ...] | None:
    from timm.data import ImageNetInfo, infer_imagenet_subset

    if not hasattr(module, "pretrained_cfg"):
        subset = "imagenet-1k" if _classes(module) == 1000 else None
    else:
        subset = infer_imagenet_subset(module) if _classes(module) else None
    return tuple(ImageNetInfo(subset).label_names()) if subset else None


__all__ = ["InputOptions", "LoadedModel", "load_model", "torchvision_names"]
_ = (hashlib, replace)
