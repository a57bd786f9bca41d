"""Sums of log R, with signs, over layers, variants and deformations of one record: paired in everything.

Everything in a record saw the same images and noises, and every copy of a variant (the shuffles, say) is in
all of its layers and deformations. So for C = sum_i w_i log R_i, with z as in `paired` and R_ic of copy c,

    Var(C) = Var(sum_i w_i z_i) / n + Var(sum_i w_i R_ic / mean_c R_ic) / m

over n images and m copies (delta method): what the places have in common drops out of both.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy import special

from timm_diffsens.results.records.per_image import PerImage
from timm_diffsens.results.stats.paired import LEVEL, Compared, is_draw, of_copies
from timm_diffsens.results.stats.resampling import Array
from timm_diffsens.schema.records import Record


class Term(NamedTuple):
    """log R of a layer, times a weight.

    Attributes:
        weight: 1 or -1, mostly. variant: its name. pair: which of the record's deformations.
        place: of the layer, from 0.
    """

    weight: float
    variant: str
    pair: int
    place: int


class Contrast(NamedTuple):
    """A sum with its error; NaN where one of the layers has no R, or one draw of a variant no spread.

    Attributes:
        value, stderr: of the sum.
        low, high: its interval, of 95 % if nothing else was asked for; images and copies have their own
            quantile of Student's t, in quadrature.
    """

    value: float
    stderr: float
    low: float
    high: float


def contrast(record: Record, distances: PerImage, terms: Sequence[Term], level: float = LEVEL) -> Contrast:
    """The sum of these terms.

    Args:
        record, distances: of one network. terms: of the sum.
        level: the share of cases in which the true sum is above the lower end, and that in which it is below
            the upper one.

    Raises:
        UsageError: the distances of a variant were not kept.
    """
    views, value = record.views(), 0.0
    images: Array = np.zeros(1)
    copies: dict[str, Array] = {}
    for weight, variant, pair, place in terms:
        layers = views[pair].variants[variant]
        side = Compared(variant, record, layers, variant, distances, pair)
        r = layers[place].r
        if not r:
            return Contrast(*[math.nan] * 4)
        value += weight * math.log(r)
        zs, each = of_copies(side, "r")
        share = each[:, place] / each[:, place].mean()
        images = images + weight * (share @ zs[:, place]) / len(share)
        if len(share) > 1 or is_draw(side):
            copies[variant] = copies.get(variant, np.zeros(1)) + weight * share
    parts = [images, *copies.values()]
    counts = [record.data.n, *map(len, copies.values())]  # of very many images some were kept
    variances = [part.var(ddof=1) / n if n > 1 else math.nan for part, n in zip(parts, counts, strict=True)]
    quantiles = [special.stdtrit(len(part) - 1, level) for part in parts]
    wide = math.sqrt(sum(q**2 * variance for q, variance in zip(quantiles, variances, strict=True)))
    return Contrast(value, math.sqrt(sum(variances)), value - wide, value + wide)
