"""Several pairs of a deformation and a noise in one pass: each as if there were no other."""

import math

import pytest
import torch

from timm_diffsens import sensitivity
from timm_diffsens.errors import UsageError
from timm_diffsens.schema.layers import LayerSensitivity
from timm_diffsens.sensitivities.estimator import Buffers, SensitivityEstimator

LARGE = 5000  # numbers a sample; up to 4096 the sums are in float64 whatever the type
MEASURES = ("d", "g", "r", "d_stderr", "g_stderr", "r_stderr", "r_low", "r_high")


def parts_of(n=50, d=7, pairs=3, dtype=torch.float64):
    """(1 + 2 K, n, d), each pair further away than the one before."""
    draws = torch.randn(1 + 2 * pairs, n, d, generator=torch.Generator().manual_seed(n), dtype=torch.float64)
    parts = draws * (0.1 * torch.arange(1 + 2 * pairs))[:, None, None]
    return (parts + draws[0] + 2).to(dtype)


def streamed(parts, size=None, **options):
    estimator = SensitivityEstimator(pairs=len(parts) // 2, **options)
    for batch in parts.split(size or parts.shape[1], dim=1):
        estimator.update_parts(batch)
    return estimator


def of_pair(parts, pair):
    return parts[[0, 1 + 2 * pair, 2 + 2 * pair]]


def assert_same(found, expected, rel):
    for one, two in zip(found, expected, strict=True):
        assert (one.n, one.reason) == (two.n, two.reason)
        for name in MEASURES:
            value = getattr(two, name)
            assert getattr(one, name) == (value if value is None else pytest.approx(value, rel=rel)), name


@pytest.mark.parametrize("size", [1, 7, None])
# Two orders of a float32 sum of 4096 squares, each off by 512 half units at most; of products, twice that.
@pytest.mark.parametrize(("d", "dtype", "rel"), [(7, torch.float64, 1e-10), (LARGE, torch.float32, 2**-13)])
def test_each_pair_is_what_it_is_alone_and_by_definition(size, d, dtype, rel):
    parts = parts_of(50, d, 3, dtype)
    found = streamed(parts, size).compute(layer="a", index=3, depth=0.5)
    assert [(layer.layer, layer.index, layer.depth) for layer in found] == [("a", 3, 0.5)] * 3
    alone = [streamed(of_pair(parts, pair), size).compute()[0] for pair in range(3)]
    assert_same(found, alone, rel)
    for pair, layer in enumerate(found):
        plain = sensitivity(*of_pair(parts, pair))
        assert (layer.d, layer.g, layer.r) == pytest.approx(tuple(plain), rel=min(rel, 1e-5))


def test_the_parts_of_one_update_are_clean_and_then_pair_by_pair():
    parts = parts_of(20, 6)
    given = SensitivityEstimator(pairs=3)
    given.update(*parts.view(7, 20, 2, 3))
    assert given.compute() == streamed(parts).compute()


@pytest.mark.parametrize("cut", [1, 13, 49])
def test_merged_halves_are_the_whole(cut):
    parts = parts_of(50)
    one, two = streamed(parts[:, :cut], 7), streamed(parts[:, cut:], 7)
    merged, whole = one.merge(two), streamed(parts)
    for pair in range(3):
        alone = [streamed(of_pair(half, pair), 7) for half in (parts[:, :cut], parts[:, cut:])]
        assert_same([merged.compute()[pair]], alone[0].merge(alone[1]).compute(), 1e-10)
    for found, expected in zip(merged.compute(), whole.compute(), strict=True):
        assert (found.d, found.g, found.r) == pytest.approx((expected.d, expected.g, expected.r), rel=1e-12)
    torch.testing.assert_close(merged.per_image()[:, :-1], whole.per_image()[:, :-1], rtol=1e-12, atol=0)


def by_hand(parts):
    """(a_1, g_1, ..., b) of each image of one pass, at most 32 of them."""
    clean = parts[0]
    squares = [(part - clean).square().sum(1) for part in parts[1:]]
    before = [max((k for k in (1, 2, 4, 8, 16) if k <= i), default=0) for i in range(len(clean))]
    b = [2 * k / (k + 1) * (clean[i] - clean[:k].mean(0)).square().sum() for i, k in enumerate(before) if k]
    return torch.stack([*squares, torch.tensor([0.0, *b], dtype=torch.float64)], dim=1)


@pytest.mark.parametrize("kept", [1, 5, 30, 64])
@pytest.mark.parametrize("size", [1, 7, None])
def test_the_numbers_of_the_first_images(kept, size):
    parts = parts_of(30)
    found = streamed(parts, size, kept=kept).per_image()
    assert found.shape == (min(kept, 30), 7)
    torch.testing.assert_close(found, by_hand(parts)[:kept], rtol=1e-12, atol=0)


def test_the_numbers_of_images_are_those_of_this_estimator_after_a_merge_and_of_none():
    assert SensitivityEstimator(pairs=2).per_image().shape == (0, 5)
    parts = parts_of(30)
    merged = streamed(parts[:, :20], kept=25).merge(streamed(parts[:, 20:], kept=25))
    halves = torch.cat([by_hand(parts[:, :20]), by_hand(parts[:, 20:])])
    torch.testing.assert_close(merged.per_image(), halves[:25], rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("n", "kept", "own"), [(30, 30, True), (30, 29, False), (100, 300, True), (101, 300, False)]
)
def test_r_has_an_interval_of_its_own_where_all_of_few_images_are_kept(n, kept, own):
    found = streamed(parts_of(n), kept=kept).compute()
    assert [layer.r_low is not None for layer in found] == [own] * 3
    few = streamed(parts_of(n)).compute()
    assert [(a.d, a.d_stderr) for a in found] == [(b.d, b.d_stderr) for b in few]


# ---- a fault of one pair is that of no other


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("part", [1, 2, 3, 6])
@pytest.mark.parametrize("image", [0, 23])
def test_a_pair_that_is_not_finite(bad, part, image):
    parts = parts_of(40)
    whole = streamed(parts, 7).compute()
    parts[part, image, 3] = bad
    expected = [*whole]
    expected[(part - 1) // 2] = LayerSensitivity.of(40, reason="non-finite")
    assert_same(streamed(parts, 7).compute(), expected, 1e-15)
    merged = streamed(parts[:, :20]).merge(streamed(parts[:, 20:]))
    assert [layer.reason for layer in merged.compute()] == [layer.reason for layer in expected]


def test_clean_images_that_are_not_finite_end_all_pairs():
    parts = parts_of(40)
    parts[0, 11, 2] = math.nan
    assert streamed(parts, 7).compute() == [LayerSensitivity.of(40, reason="non-finite")] * 3


def test_noise_of_one_pair_that_does_not_move_the_layer():
    parts = parts_of(40)
    parts[4] = parts[0]  # the noised of the second pair
    found = streamed(parts, 7).compute()
    assert [layer.reason for layer in found] == [None, "noise does not move it", None]
    assert found[1].d == pytest.approx(sensitivity(*of_pair(parts, 1)).d, rel=1e-10)
    assert (found[1].g, found[1].r) == (0.0, None)


def test_a_constant_layer_is_constant_for_all_pairs():
    parts = parts_of(40)
    parts[0] = 1
    assert [layer.reason for layer in streamed(parts).compute()] == ["constant"] * 3


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_images(n):
    estimator = SensitivityEstimator(pairs=2)
    estimator.update(*parts_of(n, pairs=2))
    assert estimator.compute() == [LayerSensitivity.of(n, reason="fewer than 2 images")] * 2


# ---- errors and memory


def test_more_or_fewer_parts_than_pairs():
    message = r"expected 5 parts \(clean, and deformed and noised of each of pairs=2\), got 3"
    with pytest.raises(UsageError, match=message):
        SensitivityEstimator(pairs=2).update(*parts_of(pairs=1))
    with pytest.raises(UsageError, match=r"expected 3 parts .*, got 4"):
        SensitivityEstimator().update_parts(torch.zeros(4, 5, 7))


@pytest.mark.parametrize("options", [{"pairs": 0}, {"kept": 0}])
def test_at_least_one_pair_and_one_image(options):
    with pytest.raises(UsageError, match=f"{next(iter(options))}: expected at least 1, got 0"):
        SensitivityEstimator(**options)


@pytest.mark.parametrize("options", [{"pairs": 2}, {"kept": 7}])
def test_only_like_estimators_merge(options):
    with pytest.raises(UsageError, match=r"expected pairs=1 and kept=100, got pairs="):
        SensitivityEstimator().merge(SensitivityEstimator(**options))


@pytest.mark.parametrize("fits", [True, False])
def test_memory_given_beforehand(fits):
    pairs, kept = (3, 17) if fits else (1, 100)
    (own,) = Buffers.for_sizes([7], False, torch.device("cpu"), pairs, kept)
    own.sums.memory.fill_(5)
    parts = parts_of(20)
    placed, plain = streamed(parts, kept=17, buffers=own), streamed(parts, kept=17)
    assert (placed.sums.memory.data_ptr() == own.sums.memory.data_ptr()) is fits
    assert torch.equal(placed.sums.memory, plain.sums.memory)
    assert placed.compute() == plain.compute()
    assert fits or bool((own.sums.memory == 5).all())
