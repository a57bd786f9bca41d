"""The simple CNN of infinite width with random weights: its kernel, layer by layer, and so its D, G and R."""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from timm_diffsens.errors import UsageError
from timm_diffsens.schema.layers import LayerSensitivity
from timm_diffsens.theory.pixel_pairs import PairImages
from timm_diffsens.theory.predictions import check_shape

Array = npt.NDArray[np.float64]

_CONSTANT = 1e-12  # a square distance below this share of the squares is rounding
_NUMBERS = 2**19  # of an array that is worked on at a time


@dataclass(frozen=True)
class InfiniteWidth:
    """f_k = gain ReLU(w_k * f_(k-1) / sqrt(F H_(k-1)) + bias b_k), w and b drawn from N(0, 1), H to infinity.

    What stands inside of the ReLU is then Gaussian, independently from channel to channel, and its covariance
    between place p of one image and place q of another follows from the layer before:

        Q_k(p, q) = bias^2 + 1/F sum over j of K_(k-1)(p + j, q + j),   K_0(p, q) = x_p y_q,
        K_k(p, q) = gain^2 E ReLU(u) ReLU(v) = gain^2 sqrt(Q^xx_pp Q^yy_qq) (sin t + (pi - t) cos t) / (2 pi),
        cos t = Q_k(p, q) / sqrt(Q^xx_pp Q^yy_qq):

    the arc-cosine kernel of degree 1 (Cho and Saul, *Kernel methods for deep learning*, 2009). A convolution
    keeps q - p, and a square distance needs equal places alone:
    E ||f_k(x) - f_k(y)||^2 / H_k = sum over p of K^xx(p, p) + K^yy(p, p) - 2 K^xy(p, p), so what is carried
    from layer to layer is one number a place. Without biases the gain changes neither D, G nor R.

    Attributes:
        depth: K. filter_size: F. stride: 1, on a circle, or F.
        gain: of a layer. bias: standard deviation of the biases.

    Raises:
        UsageError: a stride that is neither 1 nor F, fewer than one layer, or a filter below 2 pixels.
    """

    depth: int
    filter_size: int
    stride: int = 1
    gain: float = 1.0
    bias: float = 0.0

    def __post_init__(self) -> None:
        check_shape(self.depth, self.filter_size, self.stride)

    def square_distances(self, x: Array, y: Array) -> Array:
        """E ||f_k(x) - f_k(y)||^2 / H_k over weights, of images (n, length) each: (n, K)."""
        step = max(_NUMBERS // x.shape[-1], 1)
        parts = [self._distances(x[i : i + step], y[i : i + step]) for i in range(0, len(x), step)]
        return np.concatenate(parts)

    def _distances(self, x: Array, y: Array) -> Array:
        # bias-free, distances only have a common factor: sqrt 2 keeps them from vanishing with depth
        gain2, bias2 = (self.gain**2, self.bias**2) if self.bias else (2.0, 0.0)
        first, second, both, found = x * x, y * y, x * y, []
        for _ in range(self.depth):
            first, second, both = (self._pooled(part) + bias2 for part in (first, second, both))
            both = gain2 * arc_cosine(first, second, both)
            first, second = (gain2 / 2) * first, (gain2 / 2) * second
            size, apart = (first + second).sum(axis=-1), (first + second - 2 * both).sum(axis=-1)
            found.append(np.where(apart > _CONSTANT * size, apart, 0))
        return np.stack(found, axis=-1)

    def _pooled(self, places: Array) -> Array:
        """Averages over the places of a filter: (n, places) -> (n, places / stride)."""
        size = self.filter_size
        if self.stride > 1:
            return np.asarray(places.reshape(len(places), -1, size).mean(axis=-1))
        return np.asarray(sum(np.roll(places, size // 2 - j, axis=-1) for j in range(size)) / size)

    def layers(self, images: Iterable[PairImages], pairs: int = 16) -> list[LayerSensitivity]:
        """D, G and R of all layers, as `homogeneous.measured_curve` has them of a network: noise rectified.

        Args:
            images: batches from `PixelPairs.sample`.
            pairs: the denominator is over so many pairs with each image, all of its batch, for the sake of
                time; the mean over distinct pairs is unbiased whichever they are. `batch - 1` are all.

        Raises:
            UsageError: a batch of one image.
        """
        parts = [self._batch(part, pairs) for part in images]
        moved, noised, apart = (np.concatenate(same) for same in zip(*parts, strict=True))
        return [
            _layer(k, self.depth, *(part[:, k] for part in (moved, noised, apart))) for k in range(self.depth)
        ]

    def _batch(self, part: PairImages, pairs: int) -> tuple[Array, Array, Array]:
        """Square distances of each image from it deformed, from it with noise, and from others: (n, K)."""
        three = (part.clean, part.deformed, part.clean + part.eta.relu())
        clean, deformed, noised = (images[:, 0].double().numpy() for images in three)
        if len(clean) < 2:
            raise UsageError("the denominator needs at least 2 images a batch, got 1")
        shifts = range(1, min(pairs, len(clean) - 1) + 1)
        apart = np.zeros((len(clean), self.depth))
        for shift in shifts:
            found = self.square_distances(clean, np.roll(clean, shift, axis=0))
            apart += (found + np.roll(found, -shift, axis=0)) / (2 * len(shifts))
        return self.square_distances(clean, deformed), self.square_distances(clean, noised), apart


def arc_cosine(first: Array, second: Array, both: Array) -> Array:
    """E ReLU(u) ReLU(v) of Gaussian u and v with these variances and this covariance, element by element."""
    size = np.sqrt(first) * np.sqrt(second)
    cosine = np.divide(both, size, out=np.ones_like(size), where=size > 0).clip(-1, 1)
    angle = np.arccos(cosine)
    return np.asarray(size * (np.sqrt(1 - cosine**2) + (math.pi - angle) * cosine) / (2 * math.pi))


def _layer(k: int, depth: int, moved: Array, noised: Array, apart: Array) -> LayerSensitivity:
    """From each image's square distances; standard errors as of `sensitivities.functional`'s ratios.

    An image's share of the denominator is 2 b_i - B, with b_i its mean distance from others: what leaving it
    out changes, to first order.
    """
    n, b = len(moved), float(apart.mean())
    known = {"layer": f"layer {k + 1}", "index": k, "depth": (k + 1) / depth}
    values: dict[str, float] = {}
    tops, bottoms = {"d": moved, "g": noised, "r": moved}, {"d": apart, "g": apart, "r": noised}
    for name, top in tops.items():
        bottom = float(bottoms[name].mean())
        if bottom <= 0:
            continue
        share = 2 * apart - b if name != "r" else noised
        value = float(top.mean()) / bottom
        error = np.sqrt(np.sum((top - value * share) ** 2) / (n * (n - 1))) / bottom
        values |= {name: value, f"{name}_stderr": float(error)}
    return LayerSensitivity.of(n, **known, **values, reason=None if b > 0 else "constant")
