"""Streaming, mergeable estimators of D, G and R with standard errors."""

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from timm_diffsens.errors import UsageError

# Rounding of a forward differs with the position in the batch (blocked matrix products), by some ten units
# in the last place; a spread below that is no spread.
_ROUNDING_UNITS = 64
# Rows and columns of a block that stays in the cache while it is read four times. Short columns also keep
# float32 sums exact to 1e-6.
_STRETCH = 2**12
_ROWS, _COLUMNS_CPU, _COLUMNS_GPU = 16, 2**15, 2**20
# Layers up to this size are summed in float64: over fewer columns the rounding of a float32 mean, which
# matters where it is large beside the spread, does not average out.
_SMALL = 2**12


@dataclass(frozen=True)
class LayerSensitivity:
    """What one layer makes of deformations (D) and noise (G), with R = D / G.

    Attributes:
        layer: module path; `#k` marks the k-th further call of a module, `[j]` an item of its output.
        index: order of execution among the measured layers, from 0.
        depth: relative depth k / K: (index + 1) / number of measured layers; 1 at the output.
        d, g, r: Eq. 1 of arXiv 2210.01506, or None.
        d_stderr, g_stderr, r_stderr: standard errors over images, or None.
        n: number of images.
        reason: None, or why a value is None.
        kind: class of the module.
        aliases: other names under which the same tensor was seen.
        shape: shape of one sample.
        channel_axis: axis of the channels in `shape`, or None where it is not known.
    """

    layer: str
    index: int
    depth: float
    d: float | None
    g: float | None
    r: float | None
    d_stderr: float | None
    g_stderr: float | None
    r_stderr: float | None
    n: int
    reason: str | None = None
    kind: str = ""
    aliases: tuple[str, ...] = ()
    shape: tuple[int, ...] = ()
    channel_axis: int | None = None


@dataclass(frozen=True)
class Estimate:
    """D, G, R and their standard errors at one layer; None with a reason where there is none."""

    n: int
    d: float | None = None
    g: float | None = None
    r: float | None = None
    d_stderr: float | None = None
    g_stderr: float | None = None
    r_stderr: float | None = None
    reason: str | None = None


@dataclass(frozen=True)
class Moments:
    """Count, mean (d,) and centred square sum `sum ||f_i - mean||^2` of n vectors."""

    count: int
    mean: torch.Tensor
    centred_square_sum: float

    @classmethod
    def of(cls, rows: torch.Tensor) -> "Moments":
        """Moments of the rows of an (n, d) matrix."""
        rows = rows.to(_accumulation_dtype(rows))
        mean = rows.mean(dim=0)
        return cls(len(rows), mean, float((rows - mean).double().square().sum()))

    def merge(self, other: "Moments") -> "Moments":
        """Moments of both samples together (Chan, Golub and LeVeque 1979)."""
        count = self.count + other.count
        gap = other.mean - self.mean
        square_sum = self.centred_square_sum + other.centred_square_sum
        square_sum += float(gap.double().square().sum()) * self.count * other.count / count
        return Moments(count, self.mean + gap * (other.count / count), square_sum)


@dataclass
class SensitivityEstimator:
    """D, G and R of one layer from batches of (clean, moved, noised) representations.

    Image i contributes three numbers: a_i = ||f(tau x) - f(x)||^2, g_i = ||f(x + eta) - f(x)||^2, and its
    share of the denominator, b_i = 2 (i - 1)/i ||f_i - mean of those before||^2 (Welford 1962). Every b_i has
    expectation 2 tr Cov = E ||f(x1) - f(x2)||^2 for i > 1, and their sum is exactly twice the centred square
    sum; the first image has no share, and is given the mean of the others. So D = mean(a) / mean(b) and
    G = mean(g) / mean(b) are ratios of means of per-image numbers, and the delta method over images gives
    the standard errors:

        Var(D) ~ sum (a_i - D b_i)^2 / (n (n - 1) mean(b)^2), likewise for G and R = mean(a) / mean(g).

    The state is one vector of the layer's size and some twenty numbers, whatever n is.

    Example:
        >>> import torch
        >>> from timm_diffsens.measures.estimators import SensitivityEstimator
        >>> clean, moved, noised = torch.randn(3, 100, 8, dtype=torch.float64)
        >>> whole, first, second = (SensitivityEstimator() for _ in range(3))
        >>> whole.update(clean, moved, noised)
        >>> first.update(clean[:40], moved[:40], noised[:40])
        >>> second.update(clean[40:], moved[40:], noised[40:])
        >>> abs(first.merge(second).compute().d - whole.compute().d) < 1e-12
        True
    """

    count: int = 0
    mean: torch.Tensor | None = None
    # (a, g, b) summed over images, and the sums of their products, in float64.
    sums: torch.Tensor | None = None
    products: torch.Tensor | None = None
    # (a, g, 0) of the first image, whose share of the denominator is settled later.
    first: torch.Tensor | None = None
    # Rounding unit of what was given, at most that of float32.
    eps: float = 0.0

    def update(self, clean: torch.Tensor, moved: torch.Tensor, noised: torch.Tensor) -> None:
        """Add n images: three arrays (n, ...) of equal shape.

        Raises:
            UsageError: the shapes differ, or a sample holds more or fewer numbers than in earlier batches.
        """
        parts = [part.detach() for part in (clean, moved, noised)]
        shapes = [tuple(part.shape) for part in parts]
        if not shapes[0] == shapes[1] == shapes[2]:
            raise UsageError(f"shapes differ: {', '.join(map(str, shapes))}")
        if not shapes[0]:
            raise UsageError("expected tensors (n, ...), got single numbers")
        if shapes[0][0] == 0:
            return
        self.update_parts(torch.stack([p.reshape(len(p), math.prod(shapes[0][1:])) for p in parts]))

    def update_parts(self, parts: torch.Tensor) -> None:
        """Add n images, given as one array (3, n, d) of clean, moved and noised representations.

        Raises:
            UsageError: a sample holds more or fewer numbers than in earlier batches.
        """
        if self.mean is None:
            self._start(parts[0])
        assert self.mean is not None
        if parts.shape[2] != len(self.mean):
            raise UsageError(f"expected {len(self.mean)} numbers a sample, got {parts.shape[2]}")
        for start in range(0, parts.shape[1], _ROWS):
            self._update_rows(parts[:, start : start + _ROWS])

    def _start(self, rows: torch.Tensor) -> None:
        dtype = _accumulation_dtype(rows)
        self.eps = torch.finfo(dtype).eps
        self.mean = rows[0].to(torch.float64 if rows.shape[1] <= _SMALL else dtype, copy=True)
        self.sums = torch.zeros(3, dtype=torch.float64, device=rows.device)
        self.products = torch.zeros(3, 3, dtype=torch.float64, device=rows.device)

    def _update_rows(self, parts: torch.Tensor) -> None:
        assert self.mean is not None
        assert self.sums is not None
        assert self.products is not None
        n = parts.shape[1]
        gram = torch.zeros(n, n, dtype=torch.float64, device=parts.device)
        moves = torch.zeros(2, n, dtype=torch.float64, device=parts.device)
        for block in _blocks(parts):
            mean = self.mean[block]
            part = parts[:, :, block].to(mean.dtype)  # half precision is widened before it is subtracted
            centred = part[0] - mean
            for stretch in centred.split(_STRETCH, dim=1):
                gram += stretch @ stretch.T
            mean.add_(centred.sum(dim=0), alpha=1 / (self.count + n))
            moves += _square_norms(part[1:] - part[0])
        numbers = torch.cat([moves, 2 * _welford_increments(gram, self.count)[None]])
        self.sums += numbers.sum(dim=1)
        self.products += numbers @ numbers.T
        if self.first is None:
            self.first = numbers[:, 0].clone()
        self.count += n

    def merge(self, other: "SensitivityEstimator") -> "SensitivityEstimator":
        """The estimator of both samples together.

        Values equal those of one pass over both; standard errors agree to order 1/n, since the distance
        between the two means becomes the share of the other's first image in the denominator.

        Raises:
            UsageError: samples of the two differ in size.
        """
        if not (self.count and other.count):
            return copy.deepcopy(self if self.count else other)
        assert self.mean is not None
        assert other.mean is not None
        if len(self.mean) != len(other.mean):
            raise UsageError(f"expected {len(self.mean)} numbers a sample, got {len(other.mean)}")
        assert self.sums is not None
        assert other.sums is not None
        assert self.products is not None
        assert other.products is not None
        assert other.first is not None
        gap = (other.mean - self.mean).double().square().sum()
        count = self.count + other.count
        share = float(2 * gap * self.count * other.count / count)
        return SensitivityEstimator(
            count,
            mean=self.mean + (other.mean - self.mean) * (other.count / count),
            sums=self.sums + other.sums + _share(share, other.sums),
            products=self.products + _give_share(other.products, other.first, share),
            first=self.first,
            eps=max(self.eps, other.eps),
        )

    def moments(self) -> Moments:
        """Count, mean and centred square sum of the clean representations."""
        if self.mean is None or self.sums is None:
            raise UsageError("no images were added")
        return Moments(self.count, self.mean, float(self.sums[2]) / 2)

    def compute(self) -> Estimate:
        """D, G, R and their standard errors; None with a reason where there is none."""
        n = self.count
        if self.mean is None or self.sums is None or self.products is None or self.first is None or n < 2:
            return Estimate(n, reason="fewer than 2 images")
        if not (self.sums.isfinite().all() and self.products.isfinite().all()):
            return Estimate(n, reason="non-finite")
        a, g, b = (float(v) for v in self.sums)
        square_norm = float(self.mean.double().square().sum())
        threshold = (_ROUNDING_UNITS * self.eps) ** 2 * square_norm
        if b / (n - 1) <= 2 * threshold:
            return Estimate(n, reason="constant")
        pairs = b / (n - 1)
        d, noise = a / n / pairs, g / n / pairs
        products = _give_share(self.products, self.first, pairs).tolist()
        d_stderr = _ratio_stderr(products, 0, 2, d, n, pairs)
        g_stderr = _ratio_stderr(products, 1, 2, noise, n, pairs)
        if g == 0:
            return Estimate(n, d, noise, None, d_stderr, g_stderr, None, reason="noise does not move it")
        r_stderr = _ratio_stderr(products, 0, 1, a / g, n, g / n)
        return Estimate(n, d, noise, a / g, d_stderr, g_stderr, r_stderr)


def _welford_increments(gram: torch.Tensor, count: int) -> torch.Tensor:
    """Growth of the centred square sum by each of n further vectors: (n,).

    Args:
        gram: (n, n) products of u_i = f_i - (mean of the `count` vectors before the first).
        count: number of vectors before.

    The mean before vector i is that mean plus s_i / (count + i), s_i = sum of the u_j with j < i, so
    ||f_i - mean||^2 = u_i.u_i - 2 u_i.s_i / (count + i) + s_i.s_i / (count + i)^2, read off the Gram matrix.
    """
    own, place = gram.diagonal(), torch.arange(len(gram), dtype=torch.float64, device=gram.device)
    # not torch.tril: it starts all threads whatever the size, and waits for them
    with_sum = torch.where(place[:, None] > place, gram, 0).sum(dim=1)
    of_sum = torch.cumsum(2 * with_sum + own, dim=0) - (2 * with_sum + own)
    before = count + place
    distance = own - 2 * with_sum / before.clamp(min=1) + of_sum / before.clamp(min=1) ** 2
    return before / (before + 1) * distance


def _share(share: float, like: torch.Tensor) -> torch.Tensor:
    return like.new_tensor([0.0, 0.0, share])


def _give_share(products: torch.Tensor, first: torch.Tensor, share: float) -> torch.Tensor:
    """Sums of products after an image with the numbers (a, g, 0) got its share of the denominator."""
    b = _share(share, first)
    return products + torch.outer(first, b) + torch.outer(b, first) + torch.outer(b, b)


def _ratio_stderr(
    products: list[list[float]], top: int, bottom: int, ratio: float, n: int, mean: float
) -> float:
    """Delta method for mean(x) / mean(y): sqrt(sum (x_i - ratio y_i)^2 / (n (n - 1))) / mean(y)."""
    square = products[top][top] - 2 * ratio * products[top][bottom] + ratio**2 * products[bottom][bottom]
    return math.sqrt(max(square, 0.0) / (n * (n - 1))) / mean


def _square_norms(x: torch.Tensor) -> torch.Tensor:
    """Sums of squares over the last dim, in float64 over stretches: float32 drifts in longer ones."""
    width = x.shape[-1] - x.shape[-1] % _STRETCH
    squares = torch.linalg.vector_norm(x[..., :width].unflatten(-1, (-1, _STRETCH)), dim=-1).double().square_()
    rest = torch.linalg.vector_norm(x[..., width:], dim=-1).double().square_()
    return squares.sum(dim=-1).add_(rest)


def _blocks(parts: torch.Tensor) -> Iterator[slice]:
    width = _COLUMNS_GPU if parts.is_cuda else _COLUMNS_CPU
    for start in range(0, parts.shape[2], width):
        yield slice(start, start + width)


def _accumulation_dtype(rows: torch.Tensor) -> torch.dtype:
    """Half precision is widened before any difference is taken."""
    return torch.float64 if rows.dtype == torch.float64 else torch.float32
