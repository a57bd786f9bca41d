"""Do two networks, or two variants of one, differ: log R, D and G, paired image by image.

Draws belong to the image, so two networks that were measured with one seed saw the same images, fields and
noises. With a_i, g_i and b_i the distances of image i, log R = log(mean a / mean g) changes with each image
by z_i / n, z_i = a_i / mean(a) - g_i / mean(g) (delta method), likewise log D (a, b) and log G (g, b). So

    Var(log R_A - log R_B) = Var(z_A - z_B) / n,

which is smaller than the sum of the two variances by what the networks have in common. For a mean of R over
copies, z is the mean of theirs, weighted with their R; the spread of the copies comes on top. Between layers
log R is interpolated over relative depth, and so is z.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
from scipy import special

from timm_diffsens.errors import UsageError
from timm_diffsens.results.records.frames import readable_name
from timm_diffsens.results.records.per_image import PerImage, read_per_image
from timm_diffsens.results.records.reading import load_record
from timm_diffsens.results.stats.by_depth import DEPTHS
from timm_diffsens.results.stats.correlate import holm
from timm_diffsens.results.stats.groups import differences
from timm_diffsens.results.stats.resampling import Array
from timm_diffsens.schema.layers import LayerSensitivity
from timm_diffsens.schema.records import Record

MEASURES = ("r", "d", "g")
LEVEL = 0.975
_COLUMNS = ["a", "b", "place", "depth", "measure", "n", "log_ratio", "stderr", "unpaired_stderr"]
_COLUMNS += ["ratio", "low", "high", "p", "p_corrected", "reason"]


@dataclass(frozen=True)
class Compared:
    """One side of a comparison.

    Attributes:
        name: in tables and figures.
        record: under one of its deformations.
        layers: of the variant.
        variant: its name.
        distances: of single images, None where the comparison is not paired.
        pair: which of the record's deformations.
    """

    name: str
    record: Record
    layers: list[LayerSensitivity]
    variant: str
    distances: PerImage | None
    pair: int


def compare(records: Sequence[str | Path], *, paired: bool = True, deformation: int = 0) -> pd.DataFrame:
    """Differences of log R, log D and log G between the first record and each of the others.

    Args:
        records: files of records, each with `@VARIANT` behind it for another variant than the original.
        paired: image by image, for which the distances of single images must lie beside the records; else
            as if the two had seen different images, which only makes the errors larger.
        deformation: which of the records' deformations, from 0.

    Returns:
        A row for each other record, place and measure. `a`, `b`: the two; `place`: the layer where both have
        the same layers, else "depth 0.3"; `depth`; `measure` (r, d, g); `n` images; `log_ratio` =
        log(X_b / X_a) with its `stderr`, and `unpaired_stderr` for comparison; `ratio` = X_b / X_a with its
        95 % interval, `low` to `high` (images and copies each with their own quantile, in quadrature); `p`
        (two-sided, Student's t, degrees of freedom after Satterthwaite) and `p_corrected` over all places
        of the pair and measure (Holm); `reason`: why a place has no ratio, else None. The last place is
        the output.

    Raises:
        UsageError: fewer than two records; they did not see the same draws; no distances beside one of them.
    """
    sides = [side_of(text, paired=paired, deformation=deformation) for text in records]
    return compare_sides(sides)


def side_of(text: str | Path, *, paired: bool = True, deformation: int = 0) -> Compared:
    """One side of a comparison: `FILE` or `FILE@VARIANT`."""
    file, variant = split_variant(str(text))
    record = load_record(file)
    if variant not in record.variants:
        raise UsageError(f"{file} has no variant {variant}, but {', '.join(record.variants)}")
    views = record.views()
    if not 0 <= deformation < len(views):
        raise UsageError(f"{file} has {len(views)} deformations, there is no number {deformation}")
    view = views[deformation]
    name = readable_name(record) + ("" if variant == "original" else f", {variant}")
    distances = read_per_image(Path(file), record) if paired else None
    return Compared(name, view, view.variants[variant], variant, distances, deformation)


def split_variant(text: str) -> tuple[str, str]:
    """`FILE@VARIANT` -> file and variant; either may have an @ in it, so what is a file decides."""
    if not Path(text).is_file():
        for place in (at for at, letter in enumerate(text) if letter == "@"):
            if Path(text[:place]).is_file():
                return text[:place], text[place + 1 :] or "original"
    return text, "original"


def compare_sides(sides: Sequence[Compared]) -> pd.DataFrame:
    """As `compare`."""
    if len(sides) < 2:
        raise UsageError(f"a comparison needs at least 2 records, got {len(sides)}")
    first, *others = uniquely_named(sides)
    for other in others:
        if other.distances is not None:
            _check_alike(first, other)
    rows: pd.DataFrame = pd.concat([pair_of(first, other) for other in others], ignore_index=True)
    return rows


def uniquely_named(sides: Sequence[Compared]) -> list[Compared]:
    """The same; equal names get their weights where these differ, else the start of their record's key."""
    sides = [replace(side, name=f"{side.name}{_weights(side, sides)}") for side in sides]
    names = [side.name for side in sides]
    marked = [
        replace(side, name=f"{side.name} [{side.record.key[:8]}]") if names.count(side.name) > 1 else side
        for side in sides
    ]
    count: dict[str, int] = {}
    found = []
    for side in marked:  # one record twice, under two deformations say
        count[side.name] = count.get(side.name, 0) + 1
        found.append(
            replace(side, name=f"{side.name} ({count[side.name]})") if count[side.name] > 1 else side
        )
    return found


def _weights(side: Compared, sides: Sequence[Compared]) -> str:
    """Which weights it has, where another side of its name has others."""

    def said(one: Compared) -> str:
        weights = one.record.model.weights
        return "random weights" if weights.source == "random" else weights.detail or weights.source

    told = said(side)
    return f", {told}" if any(one.name == side.name and said(one) != told for one in sides) else ""


def _check_alike(first: Compared, other: Compared) -> None:
    """Raises: UsageError: the two did not see the same images, fields and noises."""
    same = first.record.data.sample_sha256 == other.record.data.sample_sha256
    if not same or first.record.protocol.sha256 != other.record.protocol.sha256:
        why = differences(other.record, first.record)
        raise UsageError(
            f"{other.name} and {first.name} did not see the same draws ({why}): they can only be compared "
            "unpaired (--unpaired)"
        )


def pair_of(first: Compared, other: Compared, measures: Sequence[str] = MEASURES) -> pd.DataFrame:
    """The rows of `compare` of two sides, whose draws have to be the same where both have distances."""
    by_layer = [one.layer for one in first.layers] == [one.layer for one in other.layers]
    depths = [one.depth for one in first.layers] if by_layer else list(DEPTHS)
    places = [one.layer for one in first.layers] if by_layer else [f"depth {depth:g}" for depth in DEPTHS]
    found = []
    for measure in measures:
        a, b = (_Curve.of(side, measure, depths) for side in (first, other))
        n = min(a.n, b.n)
        unpaired = np.sqrt(a.stderr**2 + b.stderr**2)
        # variances and their degrees of freedom: of the images, and of the choice of copies on either side
        terms = [(side.between, side.freedom) for side in (a, b)]
        if a.shares is not None and b.shares is not None:
            kept = min(a.shares.shape[1], b.shares.shape[1])
            gaps = b.shares[:, :kept] - a.shares[:, :kept]
            terms += [(gaps.var(axis=1, ddof=1) / n, kept - 1)]
        else:
            terms += [(side.stderr**2 - side.between, side.rest_freedom) for side in (a, b)]
        stderr = np.sqrt(sum(variance for variance, _ in terms))
        log_ratio = b.logs - a.logs
        stderr, unpaired = (np.where(np.isnan(log_ratio), np.nan, error) for error in (stderr, unpaired))
        with np.errstate(invalid="ignore", divide="ignore"):
            freedom = stderr**4 / sum(variance**2 / each for variance, each in terms)
            p = 2 * special.stdtr(freedom, -np.abs(log_ratio) / stderr)
        p[stderr == 0] = np.where(log_ratio[stderr == 0] == 0, 1.0, 0.0)
        quantiles = [special.stdtrit(each, LEVEL) for _, each in terms]
        wide = np.sqrt(sum(q**2 * variance for q, (variance, _) in zip(quantiles, terms, strict=True)))
        values = {"log_ratio": log_ratio, "stderr": stderr, "unpaired_stderr": unpaired, "p": p}
        values |= {
            "ratio": np.exp(log_ratio),
            "low": np.exp(log_ratio - wide),
            "high": np.exp(log_ratio + wide),
        }
        names = {
            "a": first.name,
            "b": other.name,
            "place": places,
            "depth": depths,
            "measure": measure,
            "n": n,
        }
        found.append(
            pd.DataFrame(
                {
                    **names,
                    **values,
                    "p_corrected": holm(p),
                    "reason": _reasons(first, other, by_layer, log_ratio),
                }
            )
        )
    whole: pd.DataFrame = pd.concat(found, ignore_index=True)[_COLUMNS]
    return whole


def _reasons(first: Compared, other: Compared, by_layer: bool, log_ratio: Array) -> list[str | None]:
    """Why a place has no ratio: the layer's own reason, of either side."""
    found: list[str | None] = ["no layers with values on both sides of this depth"] * len(log_ratio)
    if by_layer:
        found = [a.reason or b.reason for a, b in zip(first.layers, other.layers, strict=True)]
    return [None if np.isfinite(value) else why for value, why in zip(log_ratio, found, strict=True)]


@dataclass(frozen=True)
class _Curve:
    """log X at some depths, and what each image adds to it.

    Attributes:
        logs, stderr: (depths,), the error as the record has it, of log X.
        shares: z of each image, (depths, n), or None.
        between: variance for the choice of copies, (depths,), of so much `freedom`.
        rest_freedom: of the rest of the variance: of images, unless copies are in it, which are fewer.
        n: images of the record.
    """

    logs: Array
    stderr: Array
    shares: Array | None
    between: Array
    freedom: int
    rest_freedom: int
    n: int

    @classmethod
    def of(cls, side: Compared, measure: str, depths: Sequence[float]) -> "_Curve":
        layers = side.layers
        values = np.array([getattr(one, measure) or np.nan for one in layers], dtype=float)
        errors = np.array([getattr(one, f"{measure}_stderr") or np.nan for one in layers], dtype=float)
        weights = _interpolation([one.depth for one in layers], ~np.isnan(values), depths)
        logs = weights @ np.nan_to_num(np.log(values))
        logs[weights.sum(axis=1) == 0] = np.nan
        # errors of neighbouring layers go together: the larger bound
        stderr = weights @ np.nan_to_num(errors / values)
        shares, between, copies = None, np.zeros(len(layers)), 1
        if side.distances is not None:
            z, between, copies = _shares(side, measure)
            shares = weights @ np.nan_to_num(z)
        elif is_draw(side):
            between = np.full(len(layers), np.nan)
        spread = (weights @ np.sqrt(between)) ** 2
        n = max((one.n for one in layers), default=0)
        draws = 0 if shares is not None else _draws(side)
        rest = min(n, draws or n)
        return cls(logs, stderr, shares, spread, max(copies - 1, 1), max(rest - 1, 1), n)


def _interpolation(known_at: Sequence[float], known: "np.ndarray", depths: Sequence[float]) -> Array:
    """Weights of the layers at each depth, linear between those with a value: (depths, layers)."""
    places = np.flatnonzero(known)
    weights = np.zeros((len(depths), len(known_at)))
    at = np.asarray(known_at)[places]
    for row, depth in enumerate(depths):
        if not len(at) or not at[0] - 1e-9 <= depth <= at[-1] + 1e-9:
            continue
        above = int(np.clip(np.searchsorted(at, depth - 1e-9), 0, len(at) - 1))
        below = max(above - 1, 0)
        gap = at[above] - at[below]
        share = 1.0 if gap == 0 else float(np.clip((depth - at[below]) / gap, 0, 1))
        weights[row, places[above]] += share
        weights[row, places[below]] += 1 - share
    return weights


def _shares(side: Compared, measure: str) -> tuple[Array, Array, int]:
    """z of each layer and image, (layers, n); the variance of log X for the choice of copies; how many."""
    zs, each = of_copies(side, measure)
    m = len(each)
    with np.errstate(invalid="ignore"):
        weights = each / each.sum(axis=0)
        between = np.zeros(each.shape[1])
        if m > 1:
            between = np.nan_to_num(each.var(axis=0, ddof=1) / m / each.mean(axis=0) ** 2)
        elif is_draw(side):  # how far copies differ is not known from one
            between[:] = np.nan
    return np.einsum("cl,cln->ln", weights, zs), between, m


def of_copies(side: Compared, measure: str) -> tuple[Array, Array]:
    """z of each copy, layer and image, (m, layers, n), and X of each copy and layer, (m, layers).

    Raises:
        UsageError: the distances of this variant were not kept.
    """
    copies = [
        values.astype(float)
        for name, values in sorted((side.distances or {}).items())
        if name.partition("#")[0] == side.variant
    ]
    if not copies:
        raise UsageError(f"{side.name}: the distances of single images were not kept for this variant")
    top, bottom = {"r": (0, 1), "d": (0, -1), "g": (1, -1)}[measure]
    zs, values = [], []
    for distances in copies:
        pair = distances[:, [2 * side.pair, 2 * side.pair + 1, -1]]
        x, y = pair[:, top], pair[:, bottom]
        with np.errstate(invalid="ignore", divide="ignore"):
            mean_x, mean_y = x.mean(axis=1, keepdims=True), y.mean(axis=1, keepdims=True)
            zs.append(x / mean_x - y / mean_y)
            values.append((mean_x / mean_y)[:, 0])
    return np.stack(zs), np.stack(values)


def is_draw(side: Compared) -> bool:
    """Whether the variant is one draw of many, so that nothing is known of how far draws differ."""
    return _draws(side) == 1


def _draws(side: Compared) -> int:
    """How many draws the variant averages; 0 where nothing is drawn."""
    protocol = side.record.protocol
    return {"channel-shuffled": protocol.shuffles, "init": protocol.init_samples}.get(side.variant, 0)
