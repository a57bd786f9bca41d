"""Streaming, mergeable estimators of D, G and R with standard errors."""

import copy
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from timm_diffsens.errors import UsageError
from timm_diffsens.schema.layers import LayerSensitivity
from timm_diffsens.sensitivities.ratios import cross_terms, log_ratio_spread, values_of
from timm_diffsens.sensitivities.reductions.dispatch import add_rows
from timm_diffsens.sensitivities.reductions.state import FEW, RunningSums, blocks_of

# Rounding of a forward differs with the position in the batch (blocked matrix products), by some ten units
# in the last place; a spread below that is no spread.
ROUNDING_UNITS = 64
# Layers up to this size are summed in float64: over fewer columns the rounding of a float32 mean, which
# matters where it is large beside the spread, does not average out.
_SMALL = 2**12


@dataclass(frozen=True)
class CentredMoments:
    """Count, mean (d,) and centred square sum `sum ||f_i - mean||^2` of n vectors."""

    count: int
    mean: torch.Tensor
    centred_square_sum: float

    def merge(self, other: "CentredMoments") -> "CentredMoments":
        """Moments of both samples together (Chan, Golub and LeVeque 1979)."""
        count = self.count + other.count
        gap = other.mean - self.mean
        square_sum = self.centred_square_sum + other.centred_square_sum
        square_sum += float(gap.double().square().sum()) * self.count * other.count / count
        return CentredMoments(count, self.mean + gap * (other.count / count), square_sum)


@dataclass(frozen=True)
class Buffers:
    """Memory for the state of an estimator: `pivot` and `drift` (d,), and the sums."""

    pivot: torch.Tensor
    drift: torch.Tensor | None
    sums: RunningSums

    def fits(self, row: torch.Tensor, dtype: torch.dtype, pairs: int, kept: int) -> bool:
        """Whether a pivot of this type, made of this row, and sums for so many pairs can be kept in them."""
        pivot, sums = self.pivot, self.sums
        found = pivot.dtype, pivot.device, pivot.shape, sums.numbers, sums.kept
        return found == (dtype, row.device, row.shape, 2 * pairs + 1, kept)

    @classmethod
    def for_sizes(
        cls, sizes: Sequence[int], drift: bool, device: torch.device, pairs: int = 1, kept: int = FEW
    ) -> "list[Buffers]":
        """Buffers for layers of so many numbers a sample, all in a few pieces.

        Allocated layer by layer, between activations that come and go, each would leave a hole that the next
        activation does not fit into, and memory would grow to several times what is in use.
        """
        pivots = _vectors(sizes, device)
        drifts = _vectors(sizes, device) if drift else [None] * len(sizes)
        return list(map(cls, pivots, drifts, RunningSums.of_layers(len(sizes), device, pairs, kept)))


def _vectors(sizes: Sequence[int], device: torch.device) -> list[torch.Tensor]:
    """A vector of the pivot's type for each size, in one piece for each type."""
    whole = {
        dtype: torch.empty(sum(d for d in sizes if _pivot_dtype(d) == dtype), dtype=dtype, device=device)
        for dtype in (torch.float32, torch.float64)
    }
    at = dict.fromkeys(whole, 0)
    vectors = []
    for d in sizes:
        dtype = _pivot_dtype(d)
        vectors.append(whole[dtype][at[dtype] : at[dtype] + d])
        at[dtype] += d
    return vectors


@dataclass
class SensitivityEstimator:
    """D, G and R of one layer from batches of (clean, deformed, noised) representations.

    Of one clean image there may be several pairs (deformed, noised), each with a D, G and R of its own; the
    denominator is that of all.

    Image i contributes a_i = ||f(tau x) - f(x)||^2 and g_i = ||f(x + eta) - f(x)||^2, and D = mean(a) / B,
    G = mean(g) / B with B = 2 / (n - 1) times the centred square sum. That is followed exactly: a pivot
    stays the mean of the N images before it for a block of at most 16 images, and after c of them

        square sum(N + c) = square sum(N) + sum ||f_i - pivot||^2 - ||sum (f_i - pivot)||^2 / (N + c)

    (Chan, Golub and LeVeque 1979). Blocks end at 1, 2, 4, 8, 16, 32, 48, ... images, wherever batches
    end, so that nothing depends on the batch size. The share of image i in the denominator is
    b_i = 2 N / (N + 1) ||f_i - pivot||^2, with expectation 2 tr Cov = E ||f(x1) - f(x2)||^2; the first image
    has none, and is given the mean of the others. The delta method over images gives the standard errors:

        Var(D) ~ sum (a_i - D b_i)^2 / (n (n - 1) B^2), likewise for G and R = mean(a) / mean(g).

    Of few images that is too small an error; with at most `FEW` of them R has an interval of its own, see
    `log_ratio_spread`. The state is a vector of the layer's size (two while a block is open), a few sums, and
    (a, g) of each pair and b of the first `kept` images.

    Example:
        >>> import torch
        >>> from timm_diffsens.sensitivities.estimator import SensitivityEstimator
        >>> clean, deformed, noised = torch.randn(3, 100, 8, dtype=torch.float64)
        >>> whole, first, second = (SensitivityEstimator() for _ in range(3))
        >>> whole.update(clean, deformed, noised)
        >>> first.update(clean[:40], deformed[:40], noised[:40])
        >>> second.update(clean[40:], deformed[40:], noised[40:])
        >>> abs(first.merge(second).compute()[0].d - whole.compute()[0].d) < 1e-12
        True
    """

    pairs: int = 1
    kept: int = FEW
    count: int = 0
    pivot: torch.Tensor | None = None
    # Of the images since the pivot was set: their number and, once a batch ended among them, sum (f - pivot).
    open_count: int = 0
    drift: torch.Tensor | None = None
    sums: RunningSums | None = None
    eps: float = 0.0  # rounding unit of what was given, at most that of float32
    buffers: Buffers | None = None  # where the above go if they fit; else they are allocated

    def __post_init__(self) -> None:
        for name, value in (("pairs", self.pairs), ("kept", self.kept)):
            if value < 1:  # the first image's numbers are needed for the standard errors
                raise UsageError(f"{name}: expected at least 1, got {value}")

    def update(
        self, clean: torch.Tensor, deformed: torch.Tensor, noised: torch.Tensor, *further: torch.Tensor
    ) -> None:
        """Add n images: arrays (n, ...) of equal shape; `further` are deformed and noised of other pairs.

        Raises:
            UsageError: the shapes differ, a sample holds more or fewer numbers than in earlier batches, or
                there are more or fewer pairs than `pairs`.
        """
        parts = [part.detach() for part in (clean, deformed, noised, *further)]
        shapes = [tuple(part.shape) for part in parts]
        if len(set(shapes)) > 1:
            raise UsageError(f"shapes differ: {', '.join(map(str, shapes))}")
        if not shapes[0]:
            raise UsageError("expected tensors (n, ...), got single numbers")
        if shapes[0][0] == 0:
            return
        self.update_parts(torch.stack([p.reshape(len(p), math.prod(shapes[0][1:])) for p in parts]))

    def update_parts(self, parts: torch.Tensor) -> None:
        """Add n images, as one array (1 + 2 K, n, d): clean, then deformed and noised of each of K pairs.

        Raises:
            UsageError: a sample holds more or fewer numbers than in earlier batches, or K is not `pairs`.
        """
        if parts.shape[0] != 1 + 2 * self.pairs:
            raise UsageError(
                f"expected {1 + 2 * self.pairs} parts (clean, and deformed and noised of each of pairs="
                f"{self.pairs}), got {parts.shape[0]}"
            )
        if self.pivot is None:
            self._start(parts[0])
        assert self.pivot is not None
        assert self.sums is not None
        if parts.shape[2] != len(self.pivot):
            raise UsageError(f"expected {len(self.pivot)} numbers a sample, got {parts.shape[2]}")
        blocks = blocks_of(parts.shape[1], self.count, self.open_count)
        if not blocks:
            return
        goes_on = blocks[-1].after == 0
        if self.drift is None and goes_on:
            drift = None if self.buffers is None else self.buffers.drift
            self.drift = torch.empty_like(self.pivot) if drift is None else drift
        add_rows(parts, blocks, self.pivot, self.drift, self.sums)
        self.count += parts.shape[1]
        self.open_count = self.count - blocks[-1].before if goes_on else 0
        if not goes_on:
            self.drift = None

    def _start(self, rows: torch.Tensor) -> None:
        dtype = _accumulation_dtype(rows)
        self.eps = torch.finfo(dtype).eps
        dtype = _pivot_dtype(rows.shape[1], dtype)
        if self.buffers is not None and not self.buffers.fits(rows[0], dtype, self.pairs, self.kept):
            self.buffers = None
        if self.buffers is None:
            self.pivot = rows[0].to(dtype, copy=True)
            (self.sums,) = RunningSums.of_layers(1, rows.device, self.pairs, self.kept)
        else:
            self.pivot = self.buffers.pivot.copy_(rows[0])
            self.sums = self.buffers.sums
            self.sums.memory.zero_()

    def moments(self) -> CentredMoments:
        """Count, mean and centred square sum of the clean representations."""
        if self.pivot is None or self.sums is None:
            raise UsageError("no images were added")
        sums = self.sums.to_cpu()
        settled = float(sums.settled)
        if self.drift is None:
            return CentredMoments(self.count, self.pivot, settled)
        gap = float(self.drift.double().square().sum())
        square_sum = settled + float(sums.in_block) - gap / self.count
        return CentredMoments(self.count, self.pivot + self.drift / self.count, square_sum)

    def merge(self, other: "SensitivityEstimator") -> "SensitivityEstimator":
        """The estimator of both samples together.

        Values equal those of one pass over both; standard errors agree to order 1/n, since the distance
        between the two means becomes the share of the other's first image in the denominator.

        Raises:
            UsageError: samples of the two differ in size, or the two in `pairs` or `kept`.
        """
        if (self.pairs, self.kept) != (other.pairs, other.kept):
            raise UsageError(
                f"expected pairs={self.pairs} and kept={self.kept}, "
                f"got pairs={other.pairs} and kept={other.kept}"
            )
        if not (self.count and other.count):
            return copy.deepcopy(self if self.count else other)
        one, two = self.moments(), other.moments()
        if len(one.mean) != len(two.mean):
            raise UsageError(f"expected {len(one.mean)} numbers a sample, got {len(two.mean)}")
        assert self.sums is not None
        assert other.sums is not None
        both = one.merge(two)
        share = 2 * (both.centred_square_sum - one.centred_square_sum - two.centred_square_sum)
        sums = RunningSums(self.sums.memory + other.sums.memory)
        sums.totals[-1] += share
        sums.products.add_(cross_terms(other.sums.first, share))
        sums.images.copy_(self.sums.images)
        space = sums.images[one.count :]
        space.copy_(other.sums.images[: len(space)])
        sums.in_block.zero_()
        sums.settled.fill_(both.centred_square_sum)
        eps = max(self.eps, other.eps)
        return SensitivityEstimator(self.pairs, self.kept, both.count, pivot=both.mean, sums=sums, eps=eps)

    def per_image(self) -> torch.Tensor:
        """(a_1, g_1, ..., a_K, g_K, b) of the first `kept` images, on the CPU: (min(n, kept), 2 K + 1).

        In the order in which they came. b is zero for the first image, and for the first image of what was
        merged into this.
        """
        if self.sums is None:
            return torch.zeros(0, 2 * self.pairs + 1, dtype=torch.float64)
        return self.sums.images[: self.count].cpu()

    def compute(self, floor: float = 0.0, **place: Any) -> list[LayerSensitivity]:
        """D, G and R of each pair and their standard errors; None with a reason where there is none.

        Args:
            floor: square distances of samples up to this one are rounding of what the samples were made from.
            place: other fields of the `LayerSensitivity`: the layer's name, index, depth, ...
        """
        if self.sums is None or self.count < 2:
            return [LayerSensitivity.of(self.count, **place, reason="fewer than 2 images")] * self.pairs
        moments, sums = self.moments(), self.sums.to_cpu()
        threshold = (ROUNDING_UNITS * self.eps) ** 2 * float(moments.mean.double().square().sum())
        between = 2 * moments.centred_square_sum / (self.count - 1)
        few = self.count <= min(FEW, self.kept)
        found = []
        for pair in range(self.pairs):
            own = sums.of_pair(pair)
            values = values_of(own, self.count, between, threshold, floor)
            layer = LayerSensitivity.of(self.count, **place, **values)
            spread = log_ratio_spread(own.images[: self.count, :2]) if few and layer.r else None
            found.append(layer if spread is None else layer.with_r_spread(spread))
        return found


def _pivot_dtype(d: int, given: torch.dtype = torch.float32) -> torch.dtype:
    return torch.float64 if d <= _SMALL else given


def _accumulation_dtype(rows: torch.Tensor) -> torch.dtype:
    """Half precision is widened before any difference is taken."""
    return torch.float64 if rows.dtype == torch.float64 else torch.float32
