"""The hooks: a context manager that reduces every layer's output the moment it is made."""

import math
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from types import TracebackType
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

from timm_diffsens.device.evaluation import eager, evaluating
from timm_diffsens.errors import MeasurementError, UsageError
from timm_diffsens.models.containers import tensors, with_tensors
from timm_diffsens.models.layers import Layer, select_layers
from timm_diffsens.models.trace import Arguments, Trace, call_name, measured_modules, pick_output, trace
from timm_diffsens.models.weights import is_lazy, refuse_meta
from timm_diffsens.schema.layers import MEASURES, LayerSensitivity
from timm_diffsens.sensitivities.equivariance import displaced_parts, has_map
from timm_diffsens.sensitivities.estimator import ROUNDING_UNITS, Buffers, SensitivityEstimator
from timm_diffsens.sensitivities.reductions.dispatch import prepare
from timm_diffsens.sensitivities.reductions.state import FEW, MOST_IMAGES

Forward = Callable[[nn.Module, torch.Tensor], Any]  # (model, images) -> what the model returns

_TRACING = ContextVar("tracing", default=False)  # some probe traces: no hook of any probe measures


class Probe:
    """While open, every forward of a batch made of three equal parts is measured layer by layer.

    The parts are clean, deformed and noised images, concatenated along dim 0 in that order; with `pairs`
    above one, further pairs of deformed and noised images follow. Each layer's output is reduced inside its
    hook, before a later in-place operation can overwrite it; nothing of it is kept but running sums
    (`SensitivityEstimator`). The model is in evaluation mode while the probe is open; its outputs are
    unchanged to the bit.

    Args:
        model: any module; `torch.compile` and DataParallel wrappers are seen through (call `probe.model`).
        layers: a selection or shell patterns, see `models.layers.select_layers`.
        mean_channel: measure the average over channels of each layer too.
        pairs: of deformed and noised images for each clean one.
        kept: the distances of so many images are kept, each for itself, see `per_image`.
        equivariance: compare each map with the displaced map of the clean images, see `run`.

    Raises:
        UsageError: a scripted module, no such layer, a batch that is not of 1 + 2 `pairs` equal parts.

    Example:
        >>> from timm_diffsens import Diffeo, Probe, matched_noise
        >>> import timm, torch
        >>> model = timm.create_model("test_resnet", pretrained=False)
        >>> clean = torch.rand(4, 3, 64, 64)
        >>> deformed = Diffeo()(clean)
        >>> noised = clean + matched_noise(clean, deformed)
        >>> with Probe(model, layers="stages") as probe, torch.no_grad():
        ...     _ = model(torch.cat([clean, deformed, noised]))
        >>> [layer.layer for layer in probe.results()]
        ['layer1', 'layer2', 'layer3', 'layer4', 'output']
    """

    def __init__(
        self,
        model: nn.Module,
        layers: str | Sequence[str] = "blocks",
        *,
        mean_channel: bool = False,
        pairs: int = 1,
        kept: int = FEW,
        equivariance: bool = False,
    ) -> None:
        if pairs < 1:
            raise UsageError(f"pairs must be at least 1, got {pairs}")
        self.model = unwrap(model)
        self.pairs, self.kept = pairs, max(kept, FEW)
        self.selection = layers
        self.mean_channel, self.equivariance = mean_channel, equivariance
        self.trace: Trace | None = None
        self.layers: list[Layer] = []
        self._estimators: dict[str, SensitivityEstimator] = {}
        self._mean_estimators: dict[str, SensitivityEstimator] = {}
        self._map_estimators: dict[str, SensitivityEstimator] = {}
        self._fields: torch.Tensor | None = None
        self._faults: dict[str, str] = {}
        self._orders: dict[int, tuple[int, ...]] = {}
        self._counts: dict[str, int] = {}
        self._batch = 0
        self._expected: int | None = None
        self._depth = 0  # of calls of the model inside of itself
        self._forwards = 0
        self._handles: list[RemovableHandle] = []
        self._evaluation, self._eager = evaluating(self.model), eager()

    def __enter__(self) -> "Probe":
        if self._handles:
            raise UsageError("this probe is open already")
        self._evaluation.__enter__()
        self._eager.__enter__()
        self._depth = 0
        self._handles.append(self.model.register_forward_pre_hook(self._before, with_kwargs=True))
        self._handles.append(self.model.register_forward_hook(self._after, always_call=True))
        if self.layers:
            self._attach()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._eager.__exit__(kind, error, traceback)
        self._evaluation.__exit__(kind, error, traceback)

    def reset(self) -> None:
        """Forget all images; the layers stay."""
        for estimators in (self._estimators, self._mean_estimators):
            for name, estimator in estimators.items():
                estimators[name] = self._estimator(estimator.buffers)
        self._map_estimators = {name: SensitivityEstimator() for name in self._map_estimators}
        self._faults.clear()
        self._orders.clear()

    def run(
        self, images: torch.Tensor, forward: Forward | None = None, fields: torch.Tensor | None = None
    ) -> Any:
        """One forward of images (parts x n, c, h, w) by `forward(model, images)`, else by `model(images)`.

        With `equivariance`, `fields` (n, 2, h, w) are the displacements of the first deformation, in pixels.

        Raises:
            UsageError: `forward` calls the model not at all, or several times.
        """
        self._expected, before = len(images), self._forwards
        self._fields = fields
        try:
            output = forward(self.model, images) if forward else self.model(images)
        finally:
            self._expected = None
        if self._forwards != before + 1:
            raise UsageError(
                f"forward= must call the model itself, once, with all the images; it called it "
                f"{self._forwards - before} times: wrap what it does in a module, and measure that"
            )
        return output

    @property
    def not_called(self) -> list[str]:
        """Modules with parameters that no forward called (functional use), so that no hook could see them."""
        return self.trace.not_called if self.trace else []

    @property
    def parts(self) -> int:
        """Of a batch: clean images, and `pairs` of deformed and noised ones."""
        return 1 + 2 * self.pairs

    def results(self, pair: int = 0) -> list[LayerSensitivity]:
        """One `LayerSensitivity` a layer, in order of execution, of one of the pairs.

        Raises:
            MeasurementError: no forward was seen.
        """
        return self._results(pair, self._estimators, {})

    def per_image(self, mean_channel: bool = False) -> dict[str, torch.Tensor]:
        """Layer -> a_1, g_1, ..., a_K, g_K, b of each of the first `kept` images: (n, 2 K + 1), float64.

        a = ||f(tau x) - f(x)||^2 and g = ||f(x + eta) - f(x)||^2 for each of the K pairs; for b see
        `SensitivityEstimator`. Layers without values are left out.
        """
        estimators = self._mean_estimators if mean_channel else self._estimators
        return {name: one.per_image() for name, one in estimators.items() if name not in self._faults}

    def mean_channel_results(self, pair: int = 0) -> list[LayerSensitivity]:
        """The same for the average over channels (Fig. 7 of the paper, dotted); needs `mean_channel=True`."""
        if not self.mean_channel:
            raise UsageError("open the probe with mean_channel=True")
        unknown = {
            layer.name: "channel axis not known" for layer in self.layers if layer.channel_axis is None
        }
        return self._results(pair, self._mean_estimators, unknown, self._floor)

    def equivariance_results(self) -> list[LayerSensitivity]:
        """E_k in the place of R, see `sensitivities.equivariance`; needs `equivariance=True`.

        D and G are then the numerator and the denominator of E_k, over the spread of f_k(tau x).
        """
        if not self.equivariance:
            raise UsageError("open the probe with equivariance=True")
        flat = {layer.name: "no map" for layer in self.layers if not has_map(layer)}
        found = self._results(0, self._map_estimators, flat)
        still = {**dict.fromkeys(MEASURES), "reason": "the deformation does not move it"}
        return [one.model_copy(update=still) if one.reason and one.d is not None else one for one in found]

    def _floor(self, layer: Layer) -> float:
        """Square distance between averages over channels that rounding of the channels makes.

        A layer norm leaves an average of zero, to rounding. An average over c channels of size s is off by
        some units in the last place of s; by s eps / sqrt(c) where each channel was rounded on its own.
        """
        if layer.channel_axis is None or layer.name not in self._estimators or self.trace is None:
            return 0.0
        moments = self._estimators[layer.name].moments()
        channels = layer.shape[layer.channel_axis]
        square = float(moments.mean.double().square().sum()) + moments.centred_square_sum / moments.count
        eps = next(call.eps for call in self.trace.calls if call.name == layer.call)
        wide = (ROUNDING_UNITS * min(eps, torch.finfo(torch.float32).eps)) ** 2
        return (wide + eps**2 / channels) * square / channels

    def _results(
        self,
        pair: int,
        estimators: dict[str, SensitivityEstimator],
        reasons: dict[str, str],
        floor: Callable[[Layer], float] = lambda layer: 0.0,
    ) -> list[LayerSensitivity]:
        if not self.layers:
            raise MeasurementError(
                "the probe saw no forward; a compiled or wrapped model must be called through probe.model"
            )
        return [
            self._result(layer, estimators.get(layer.name), reasons.get(layer.name), floor)[pair]
            for layer in self.layers
        ]

    def _result(
        self,
        layer: Layer,
        estimator: SensitivityEstimator | None,
        reason: str | None,
        floor: Callable[[Layer], float],
    ) -> list[LayerSensitivity]:
        """Of each pair."""
        reason = layer.reason or self._faults.get(layer.name) or reason
        place = {
            "layer": layer.name,
            "index": layer.index,
            "depth": layer.depth,
            "kind": layer.kind,
            "aliases": layer.aliases,
            "shape": layer.shape,
            "channel_axis": layer.channel_axis,
        }
        if reason is None and (estimator is None or estimator.count == 0):
            reason = "not called"
        if reason is not None:
            nothing = LayerSensitivity.of(estimator.count if estimator else 0, reason=reason, **place)
            return [nothing] * self.pairs
        assert estimator is not None
        found = estimator.compute(floor(layer), **place)
        dead = {"reason": "input-independent"}
        return [
            one.model_copy(update=dead) if one.reason == "constant" and not layer.uniform else one
            for one in found
        ]

    def _before(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self._depth += 1
        if _TRACING.get() or self._depth > 1:
            return
        self._forwards += 1
        if torch.is_inference_mode_enabled():
            raise UsageError(
                "the probe needs torch.no_grad(): inference_mode drops what shows in-place overwriting"
            )
        given = [t for _, t in tensors([*args, *kwargs.values()])]
        shapes = ", ".join(str(tuple(t.shape)) for t in given) or "no tensor"
        if self._expected is not None:  # tensors of another length do not belong to the images
            given = [t for t in given if t.ndim and len(t) == self._expected]
        images = max(given, key=lambda t: (t.is_floating_point(), t.ndim), default=None)
        if images is None or images.ndim == 0 or len(images) % self.parts or len(images) == 0:
            further = f", and {self.pairs - 1} further pairs of the last two" if self.pairs > 1 else ""
            number = "three" if self.pairs == 1 else self.parts
            raise UsageError(
                f"the probe expects a batch of {number} equal parts along dim 0 (clean, deformed, "
                f"noised{further}), got {shapes}"
            )
        self._batch = len(images)
        self._counts.clear()
        if self.trace is None:
            self._start((args, kwargs), images.device)

    def _after(self, module: nn.Module, args: Any, output: Any) -> None:
        self._depth -= 1

    def _start(self, given: Arguments, device: torch.device) -> None:
        """Trace the model on three samples of the first batch, then hook the layers asked for."""
        if device.type != "meta":
            refuse_meta(self.model)
        samples = (0, self._batch // self.parts, self._batch - 1)

        def batch(numbers: Sequence[int]) -> Arguments:
            rows = [samples[number] for number in numbers]
            taken: Arguments = with_tensors(
                given, lambda t: t[rows] if t.ndim and len(t) == self._batch else t
            )
            return taken

        token = _TRACING.set(True)
        try:
            if is_lazy(self.model):
                args, kwargs = batch([0, 1])
                self.model(*args, **kwargs)
            seen = trace(self.model, batch)
        finally:
            _TRACING.reset(token)
        self.layers = select_layers(seen, self.selection)
        self.trace = seen
        prepare(device)
        measured = [layer for layer in self.layers if layer.reason is None]
        self._estimators = self._prepare({layer.name: layer.shape for layer in measured}, device)
        if self.mean_channel:
            averages = {
                layer.name: layer.shape[: layer.channel_axis] + layer.shape[layer.channel_axis + 1 :]
                for layer in measured
                if layer.channel_axis is not None
            }
            self._mean_estimators = self._prepare(averages, device)
        if self.equivariance:
            self._map_estimators = {one.name: SensitivityEstimator() for one in measured if has_map(one)}
        self._attach()

    def _prepare(
        self, shapes: dict[str, tuple[int, ...]], device: torch.device
    ) -> dict[str, SensitivityEstimator]:
        """An estimator for each layer, given the shape of a sample, with memory of its own."""
        between = bool(self._batch // self.parts % MOST_IMAGES)  # batches end inside of blocks
        sizes = [math.prod(shape) for shape in shapes.values()]
        buffers = Buffers.for_sizes(sizes, between, device, self.pairs, self.kept)
        return {name: self._estimator(own) for name, own in zip(shapes, buffers, strict=True)}

    def _estimator(self, buffers: Buffers | None) -> SensitivityEstimator:
        return SensitivityEstimator(pairs=self.pairs, kept=self.kept, buffers=buffers)

    def _attach(self) -> None:
        """Hook the layers; a call of the model that is under way, and can be inside of itself, begins."""
        wanted: dict[str, dict[str, Layer]] = {}
        for layer in self.layers:
            if layer.reason is None:
                wanted.setdefault(layer.module, {})[layer.call] = layer
        modules = measured_modules(self.model)
        for module, layers in wanted.items():
            hook = _LayerHook(self, module, layers)
            if self.trace is not None and module in self.trace.recursive:
                self._handles.append(modules[module].register_forward_pre_hook(hook.begin))
                if module == "" and self._depth:
                    hook.begin(self.model, ())
            self._handles.append(modules[module].register_forward_hook(hook))

    def _reduce(self, layer: Layer, output: torch.Tensor) -> None:
        parts = self._parts_of(layer, output)
        if parts is None:
            return
        self._update(self._estimators, layer.name, parts)
        if self.mean_channel and layer.channel_axis is not None:
            wide = torch.promote_types(parts.dtype, torch.float32)
            mean = parts.mean(dim=layer.channel_axis + 2, dtype=wide)
            self._update(self._mean_estimators, layer.name, mean)
        if layer.name in self._map_estimators and self._fields is not None:
            assert layer.channel_axis is not None
            displaced = displaced_parts(parts, layer.channel_axis, self._fields)
            self._map_estimators[layer.name].update_parts(displaced.flatten(2))

    def _parts_of(self, layer: Layer, output: torch.Tensor) -> torch.Tensor | None:
        """What the estimator takes of a layer's output: (parts, n, *layer.shape); None where it is faulty."""
        samples = self._samples(layer, output.detach())
        return None if samples is None else samples.reshape(self.parts, -1, *samples.shape[1:])

    def _samples(self, layer: Layer, output: torch.Tensor) -> torch.Tensor | None:
        """(batch, *layer.shape), or None with the fault kept for the results."""
        expected = (layer.fold * self._batch, *layer.shape[layer.fold > 1 :])
        if tuple(output.shape) != expected:
            self._faults[layer.name] = f"shape {tuple(output.shape)} where {expected} was expected"
            return None
        if layer.fold == 1:
            return output
        if layer.batch_inner:
            return output.reshape(layer.fold, self._batch, *output.shape[1:]).transpose(0, 1)
        return output.reshape(self._batch, layer.fold, *output.shape[1:])

    def _update(self, estimators: dict[str, SensitivityEstimator], name: str, parts: torch.Tensor) -> None:
        estimator = estimators[name]
        order = self._orders.get(id(estimator))  # unknown too in a copy of an open probe
        if order is None:
            order = self._orders[id(estimator)] = memory_order(parts)  # the same for all batches
        estimator.update_parts(parts.permute(0, 1, *order).reshape(*parts.shape[:2], -1))


class _LayerHook:
    """The hook of one module: finds which of its calls and outputs are layers."""

    def __init__(self, probe: Probe, module: str, layers: dict[str, Layer]) -> None:
        self.probe, self.module, self.layers = probe, module, layers
        self.begun: list[int] = []  # calls under way of a module that is called inside of itself

    def begin(self, module: nn.Module, args: Any) -> None:
        """Number a call when it begins: it ends after those inside of it."""
        if not _TRACING.get():
            self.begun.append(self._count())

    def _count(self) -> int:
        counts = self.probe._counts
        counts[self.module] = counts.get(self.module, 0) + 1
        return counts[self.module] - 1

    def __call__(self, module: nn.Module, args: Any, output: Any) -> None:
        if _TRACING.get():
            return
        count = self.begun.pop() if self.begun else self._count()
        call = call_name(self.module, count)
        for path, tensor in tensors(output):
            layer = self.layers.get(call + path)
            if layer is None:
                continue
            kind = tensor.device.type
            if torch.is_autocast_enabled(kind):
                with torch.autocast(kind, enabled=False):  # sums are never in half precision
                    self.probe._reduce(layer, tensor)
            else:
                self.probe._reduce(layer, tensor)


def unwrap(model: nn.Module) -> nn.Module:
    """The module inside `torch.compile`, DataParallel and DistributedDataParallel wrappers.

    Raises:
        UsageError: not a module, or a scripted one, which takes no hooks.
    """
    if not isinstance(model, nn.Module):
        raise UsageError(f"expected a torch.nn.Module, got {type(model).__name__}")
    parallel = (nn.DataParallel, nn.parallel.DistributedDataParallel)
    while True:
        if isinstance(model, parallel):
            model = model.module
        elif isinstance(getattr(model, "_orig_mod", None), nn.Module):
            model = model._orig_mod  # type: ignore[assignment]
        else:
            break
    if any(isinstance(module, torch.jit.ScriptModule) for module in model.modules()):
        raise UsageError(
            f"{type(model).__name__} is (partly) a ScriptModule, which takes no hooks; pass the eager module"
        )
    return model


def model_output(value: Any) -> torch.Tensor:
    """The tensor that counts as a network's output.

    Raises:
        MeasurementError: there is none.
    """
    chosen = pick_output(value)
    if chosen is None:
        raise MeasurementError(f"the model returned no floating-point tensor but {type(value).__name__}")
    return chosen[1]


def memory_order(parts: torch.Tensor) -> tuple[int, ...]:
    """Axes after the first two as they lie in memory, slowest first: flattened so, nothing is copied."""
    strides = parts.stride()
    return tuple(sorted(range(2, parts.ndim), key=lambda axis: (-strides[axis], axis)))
