"""Sums of log R over places of one record: the paired comparison where there is one, and their errors."""

import math

import numpy as np
import pytest
from record_factory import make_layers, make_record

from timm_diffsens.errors import UsageError
from timm_diffsens.results.stats.contrasts import Term, contrast
from timm_diffsens.results.stats.paired import Compared, pair_of
from timm_diffsens.schema.further import Further
from timm_diffsens.schema.records import Record

NAMES = ["stem", "block", "fc"]
COPIES = 4
SHUFFLED = "channel-shuffled"
# the fall of R from the first layer to the last under the second deformation less that under the first, and
# how much less of it there is with the channels shuffled
INTERACTION = [
    Term(sign * weight * end, variant, pair, place)
    for sign, variant in ((1, "original"), (-1, SHUFFLED))
    for weight, pair in ((1, 1), (-1, 0))
    for end, place in ((1, 0), (-1, 2))
]


def recorded(distances: dict[str, np.ndarray], copies: int = COPIES) -> Record:
    """The record of two deformations that follows from distances (layers, 5, n) of each copy."""
    n = distances["original"].shape[2]
    record = make_record(names=NAMES, variants=("original", SHUFFLED), n=n)
    under = []
    for pair in range(2):
        variants = {}
        for variant in ("original", SHUFFLED):
            each = [v.astype(float) for name, v in distances.items() if name.partition("#")[0] == variant]
            r = np.mean([v[:, 2 * pair].mean(axis=1) / v[:, 2 * pair + 1].mean(axis=1) for v in each], axis=0)
            variants[variant] = [
                layer.model_copy(update={"r": float(value)})
                for layer, value in zip(make_layers(NAMES, n=n), r, strict=True)
            ]
        under.append(variants)
    protocol = record.protocol.model_copy(update={"shuffles": copies})
    further = [Further.of(protocol.model_copy(update={"deformation": "rotation"}), under[1])]
    return record.model_copy(update={"protocol": protocol, "variants": under[0], "further": further})


def drawn(seed: int, n: int = 120, copies: int = COPIES, spread: float = 0.1) -> dict[str, np.ndarray]:
    """Lognormal distances with a part that all places share; each copy has factors of its own."""
    source = np.random.default_rng(seed)
    shared = source.normal(size=n) * 0.5

    def one(spread: float) -> np.ndarray:
        values = np.exp(shared + source.normal(size=(3, 5, n)) * 0.4)
        values[:, [0, 2]] *= np.exp(source.normal(size=(3, 2, 1)) * spread)
        return values.astype(np.float32)

    return {"original": one(0.0), **{f"{SHUFFLED}#{c}": one(spread) for c in range(copies)}}


@pytest.mark.parametrize("pair", [0, 1])
def test_a_difference_of_variants_is_that_of_the_paired_comparison(pair):
    distances = drawn(0)
    record = recorded(distances)
    sides = [
        Compared(v, record, record.views()[pair].variants[v], v, distances, pair)
        for v in ("original", SHUFFLED)
    ]
    rows = pair_of(*sides, measures=["r"])
    for place in range(3):
        found = contrast(
            record, distances, [Term(1, SHUFFLED, pair, place), Term(-1, "original", pair, place)]
        )
        expected = rows.iloc[place]
        assert found.value == pytest.approx(expected["log_ratio"], rel=1e-12)
        assert found.stderr == pytest.approx(expected["stderr"], rel=1e-9)
        assert [math.exp(found.low), math.exp(found.high)] == pytest.approx(
            expected[["low", "high"]], rel=1e-9
        )


def test_the_error_is_that_of_resampled_images_and_copies():
    distances = drawn(1, n=400, copies=30, spread=0.2)
    found = contrast(recorded(distances, 30), distances, INTERACTION)
    source, values = np.random.default_rng(2), []
    shuffled = np.stack([v for name, v in distances.items() if name != "original"]).astype(float)
    for _ in range(2000):
        images = source.integers(0, 400, 400)
        copies = source.integers(0, 30, 30)
        logs = []
        for each in (distances["original"][None].astype(float), shuffled[copies]):
            means = each[:, :, :, images].mean(axis=3)
            r = np.log((means[:, :, [0, 2]] / means[:, :, [1, 3]]).mean(axis=0))  # (layers, deformations)
            logs.append((r[0] - r[2]) @ [-1, 1])
        values.append(logs[0] - logs[1])
    # a standard deviation of 2,000 draws is known to 1.6 %; of 30 copies drawn anew the variance is 1/30 less
    assert found.stderr == pytest.approx(np.std(values), rel=0.06)


def test_what_copies_have_in_common_drops_out():
    """Copies whose R differ by one factor at every place: no difference of places is uncertain for it."""
    source = np.random.default_rng(3)
    base = np.exp(source.normal(size=(3, 5, 50))).astype(np.float32)
    distances = {"original": base}
    for copy, factor in enumerate((0.25, 1.0, 4.0, 16.0)):  # exact in binary
        distances[f"{SHUFFLED}#{copy}"] = (
            base * np.array([factor, 1, factor, 1, 1], np.float32)[None, :, None]
        )
    record = recorded(distances)
    fall = contrast(record, distances, [Term(1, SHUFFLED, 0, 0), Term(-1, SHUFFLED, 0, 2)])
    same = contrast(record, distances, [Term(1, "original", 0, 0), Term(-1, "original", 0, 2)])
    assert fall == pytest.approx(same, rel=1e-6)
    assert contrast(record, distances, [Term(1, SHUFFLED, 0, 0)]).stderr > 0.5
    nothing = contrast(record, distances, INTERACTION)
    assert nothing == pytest.approx((0, 0, 0, 0), abs=1e-6)


def test_intervals_hold_the_truth_in_95_of_100():
    """All places are alike in law, but for the factors of the copies, which are alike in law too."""
    inside, repeats = 0, 400
    for seed in range(repeats):
        distances = drawn(seed)
        found = contrast(recorded(distances), distances, INTERACTION)
        inside += found.low <= 0 <= found.high
    # binomial: three standard errors of 1.1 %, about 95 %, beside what few copies make the interval too wide
    assert 0.917 <= inside / repeats <= 0.99


def test_without_r_or_without_spread_there_is_no_sum():
    distances = drawn(4)
    record = recorded(distances)
    layers = list(record.variants["original"])
    layers[0] = layers[0].model_copy(update={"r": None})
    lacking = record.model_copy(update={"variants": {**record.variants, "original": layers}})
    assert np.isnan(contrast(lacking, distances, INTERACTION)).all()
    one = drawn(5, copies=1)
    alone = {"original": one["original"], SHUFFLED: one[f"{SHUFFLED}#0"]}
    found = contrast(recorded(alone, copies=1), alone, INTERACTION)
    assert math.isfinite(found.value)
    assert np.isnan(found[1:]).all()
    with pytest.raises(UsageError, match="were not kept"):
        contrast(record, {"original": distances["original"]}, INTERACTION)
