"""The single-channel network of largest normalised margin on scale detection in one dimension."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from scipy.optimize import minimize
from torch import nn

from timm_diffsens.data.scale_detection import ScaleDetection, labels_of
from timm_diffsens.theory.predictions import check_shape

Array = npt.NDArray[np.float64]

_WORKING = 256  # images that the optimiser sees at a time
_ADDED = 32  # of each class that are added where others are nearer to the wrong side
_ROUNDS = 20  # of adding
_STEPS = 200  # of one solution
_PRECISE = 1e-9  # change of the margin, in units of a homogeneous network's mean output, that ends it
_THRESHOLDS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)  # of the last layer at starts, in shares of its largest value
_NEAR = (0.1, 0.03, 0.01, 0.03, 0.01, 0.003)  # disturbances of the best solution, to begin again from
_GAIN = 1e-4  # a further solution from where the last one ended is worth it if that won more, relatively


@dataclass(frozen=True)
class MarginNetwork:
    """f(x) = s <h_K> + c with h_0 = x, h_k = ReLU(w_k * h_(k-1) + b_k), and <.> the average over all places.

    Its normalised margin is

        min over images x of class y of y f(x) / (|s| ||w_1|| ... ||w_K||)

    with free biases b and c. It does not depend on scales: w_k times l, with c and the biases from b_k on
    times l, has l times the outputs and l times the norms. So it stands for norms and |s| of 1 here, and
    the best c, half way between the classes, makes it half of the gap between their outputs. Where filters
    and read-out decay and biases do not, the network of least norm that separates the classes by a given
    margin is the one of largest normalised margin.

    Attributes:
        filters: (K, F), of norm 1. biases: (K,), for images of `ScaleDetection`, ||x||^2 = length.
        sign: s, 1 or -1. threshold: c.
        stride: 1, on a circle, or F.
        margin: over all images of the task.
    """

    filters: Array
    biases: Array
    sign: float
    threshold: float
    stride: int
    margin: float

    @property
    def constant_shares(self) -> list[float]:
        """Share of the constant mode in each filter's power, 1 if it is homogeneous."""
        return [float(share) for share in self.filters.sum(axis=1) ** 2 / self.filters.shape[1]]

    def network(self) -> nn.Sequential:
        """Its layers as a network on (n, 1, length), float64, without average and read-out."""
        size, modules = self.filters.shape[1], list[nn.Module]()
        for w, b in zip(self.filters, self.biases, strict=True):
            if self.stride == 1:
                modules.append(nn.CircularPad1d((size // 2, (size - 1) // 2)))
            convolution = nn.Conv1d(1, 1, size, self.stride, dtype=torch.float64)
            with torch.no_grad():
                convolution.weight.copy_(torch.from_numpy(w))
                convolution.bias.fill_(float(b))  # type: ignore[union-attr]
            modules += [convolution, nn.ReLU()]
        return nn.Sequential(*modules).requires_grad_(False).eval()


@dataclass(frozen=True)
class MaxMargin:
    """Largest margins of one task: with homogeneous filters, and with free ones."""

    homogeneous: MarginNetwork
    free: MarginNetwork


def max_margin(
    task: ScaleDetection, depth: int, filter_size: int, stride: int = 1, *, starts: int = 8, seed: int = 0
) -> MaxMargin:
    """The largest normalised margins (`MarginNetwork`) over all images of a task in one dimension.

    max t subject to y_i f(x_i) >= t, over filters of norm 1 and biases, by sequential quadratic programming
    (SLSQP), from the homogeneous filters at several thresholds of the last layer, and from random filters;
    then again from near the best. The problem is not convex: what is found is a lower bound, which more
    starts may raise. The optimiser sees a few hundred images; those that are nearer to the wrong side than
    the margin of these are added, until there are none.

    Args:
        task: with `dims` 1. At stride 1 the network is the same at all places of the circle, so only
            distances matter.
        depth: K. filter_size: F. stride: 1 or F.
        starts: from random filters; others are from homogeneous ones.
        seed: of the random filters.

    Raises:
        UsageError: a filter, stride or depth that is none.
    """
    check_shape(depth, filter_size, stride)
    images, labels = _images(task, stride)
    search = _Search(images, labels, depth, filter_size, stride)
    even = np.full((depth, filter_size), 1 / math.sqrt(filter_size))
    thresholds = [search.start(even, share) for share in _THRESHOLDS]
    rng = np.random.default_rng(seed)
    even_ones = [search.solve(one, free=False) for one in thresholds]
    homogeneous = search.improved(max(even_ones, key=_margin), rng, free=False)
    begun = [homogeneous, *even_ones, *(search.random(rng, k / starts) for k in range(1, starts + 1))]
    best = max((search.solve(one) for one in begun), key=_margin)
    return MaxMargin(homogeneous, search.improved(best, rng))


def _margin(network: MarginNetwork) -> float:
    return network.margin


def _images(task: ScaleDetection, stride: int) -> tuple[Array, Array]:
    """Every image that the network can tell from others, (n, length), and its class, 1 or -1."""
    length = task.side
    pairs = np.stack(np.triu_indices(length, 1), axis=1)
    if stride == 1:
        pairs = pairs[(pairs[:, 0] == 0) & (pairs[:, 1] <= length // 2)]
    labels = labels_of(task, pairs[:, :, None])
    pairs, labels = pairs[labels != 0], labels[labels != 0]
    return task.render(torch.from_numpy(pairs[:, :, None])).double()[:, 0].numpy(), labels.astype(np.float64)


class _Search:
    """Solutions from given starts; biases in units of what homogeneous filters give on average."""

    def __init__(self, images: Array, labels: Array, depth: int, size: int, stride: int) -> None:
        self.images, self.labels, self.stride = images, labels, stride
        self.units = images.mean() * math.sqrt(size) ** np.arange(1, depth + 1)
        places = np.arange(images.shape[1])[:, None]
        offsets = np.arange(size) - size // 2
        self.inputs, self.outputs = ((places + sign * offsets) % len(places) for sign in (1, -1))

    # ---- starts

    def start(self, filters: Array, share: float) -> MarginNetwork:
        """No biases but in the last layer, at a share of its largest value; the better sign."""
        biases = np.zeros(len(filters))
        top = _Pass(self, self.images, filters, biases).layers[-1].max()
        biases[-1] = -share * top
        outputs = _Pass(self, self.images, filters, biases).outputs
        near, far = (outputs[self.labels == label].mean() for label in (1, -1))
        return MarginNetwork(filters, biases, 1.0 if near >= far else -1.0, 0.0, self.stride, -math.inf)

    def random(self, rng: np.random.Generator, spread: float) -> MarginNetwork:
        """Filters of positive sum, the more random the larger `spread` is."""
        shape = len(self.units), self.inputs.shape[1]
        filters = _normed((1 - spread) + spread * rng.standard_normal(shape))
        filters *= np.where(filters.sum(axis=1, keepdims=True) < 0, -1, 1)
        return self.start(filters, float(rng.random()))

    # ---- solutions

    def improved(self, best: MarginNetwork, rng: np.random.Generator, free: bool = True) -> MarginNetwork:
        """The best of it and of solutions from near it."""
        for size in _NEAR:
            filters = _normed(best.filters + size * free * rng.standard_normal(best.filters.shape))
            biases = best.biases + size * self.units * rng.standard_normal(len(self.units))
            near = self.solve(replace(best, filters=filters, biases=biases), free)
            best = max(best, near, key=_margin)
        return best

    def solve(self, network: MarginNetwork, free: bool = True) -> MarginNetwork:
        """The largest margin from there, with the filters as they are unless they are free."""
        best = self.judged(network)
        seen = np.unique(np.linspace(0, len(self.labels) - 1, _WORKING).round().astype(np.int64))
        for _ in range(_ROUNDS):
            network, claimed = self._solution(network, seen, free)
            network, before = self.judged(network), best.margin
            best = max(best, network, key=_margin)
            if network.margin >= claimed - _PRECISE * self.units[-1]:  # of all images, too
                if best.margin <= before + _GAIN * abs(before):
                    break
                continue
            values = network.sign * _Pass(self, self.images, network.filters, network.biases).outputs
            order = np.argsort(values)
            worst = [order[self.labels[order] > 0][:_ADDED], order[self.labels[order] < 0][-_ADDED:]]
            seen = np.union1d(seen, np.concatenate(worst))
        return best

    def judged(self, network: MarginNetwork) -> MarginNetwork:
        """With its margin over all images, and the threshold half way between the classes."""
        values = network.sign * _Pass(self, self.images, network.filters, network.biases).outputs
        low, high = values[self.labels > 0].min(), values[self.labels < 0].max()
        return replace(network, margin=float(low - high) / 2, threshold=-float(low + high) / 2)

    def _solution(self, network: MarginNetwork, seen: Array, free: bool) -> tuple[MarginNetwork, float]:
        """SLSQP on some images: where it ends, and the margin of these."""
        images, labels, unit = self.images[seen], self.labels[seen], float(self.units[-1])
        shape, weights = network.filters.shape, network.filters.size * free
        known: dict[bytes, tuple[Array, Array]] = {}

        def read(point: Array) -> tuple[Array, Array]:
            filters = point[:weights].reshape(shape) if free else network.filters
            return filters, point[weights:-2] * self.units

        def values(point: Array) -> tuple[Array, Array]:
            """y f - t, and its derivatives."""
            if point.tobytes() not in known:
                known.clear()
                filters, biases = read(point)
                done = _Pass(self, images, _normed(filters), biases)
                by_filter, by_bias = done.gradients()
                parts = [_through_norm(by_filter, filters).reshape(len(images), -1)] * free
                slopes = np.concatenate([*parts, by_bias * self.units], axis=1) * (network.sign / unit)
                top = labels * (network.sign / unit * done.outputs + point[-2]) - point[-1]
                rest = np.stack([labels, -np.ones_like(labels)], axis=1)
                known[point.tobytes()] = top, np.concatenate([labels[:, None] * slopes, rest], axis=1)
            return known[point.tobytes()]

        inside: Any = {"type": "ineq", "fun": lambda p: values(p)[0], "jac": lambda p: values(p)[1]}
        first = [network.filters.ravel()] * free
        point = np.concatenate([*first, network.biases / self.units, [network.threshold / unit, 0.0]])
        point[-1] = values(point)[0].min()
        ahead = np.zeros(len(point))
        ahead[-1] = -1
        options: Any = {"maxiter": _STEPS, "ftol": _PRECISE}
        found = minimize(  # type: ignore[call-overload]  # its stubs know no dictionary of constraints
            lambda p: -p[-1], point, jac=lambda p: ahead, constraints=inside, method="SLSQP", options=options
        )
        filters, biases = read(found.x)
        return replace(network, filters=_normed(filters), biases=biases), float(found.x[-1]) * unit


class _Pass:
    """One forward of images (n, length), and the derivatives of its outputs."""

    def __init__(self, search: _Search, images: Array, filters: Array, biases: Array) -> None:
        self.search, self.filters = search, filters
        self.patches: list[Array] = []
        self.layers: list[Array] = []  # after the ReLU
        for w, b in zip(filters, biases, strict=True):
            if search.stride == 1:
                patches = images[:, search.inputs]
            else:
                patches = images.reshape(len(images), -1, len(w))
            images = np.maximum(patches @ w + b, 0)
            self.patches.append(patches)
            self.layers.append(images)
        self.outputs = images.mean(axis=1)

    def gradients(self) -> tuple[Array, Array]:
        """Of each image's <h_K>, by filters (n, K, F) and by biases (n, K)."""
        back = np.full_like(self.layers[-1], 1 / self.layers[-1].shape[1])
        by_filter, by_bias = [], []
        for k in reversed(range(len(self.filters))):
            w, patches = self.filters[k], self.patches[k]
            back = back * (self.layers[k] > 0)
            by_filter.append(np.matmul(back[:, None], patches)[:, 0])
            by_bias.append(back.sum(axis=1))
            if self.search.stride == 1:
                back = back[:, self.search.outputs] @ w
            else:
                back = (back[:, :, None] * w).reshape(len(back), -1)
        return np.stack(by_filter[::-1], axis=1), np.stack(by_bias[::-1], axis=1)


def _normed(filters: Array) -> Array:
    return np.asarray(filters / np.linalg.norm(filters, axis=1, keepdims=True))


def _through_norm(gradients: Array, filters: Array) -> Array:
    """Derivatives by w / ||w||, (n, K, F), as derivatives by w."""
    unit, norm = _normed(filters), np.linalg.norm(filters, axis=1)[:, None]
    return np.asarray((gradients - (gradients * unit).sum(axis=2, keepdims=True) * unit) / norm)
