"""The streaming estimators: equal to the plain definition, mergeable, with standard errors that cover."""

import functools
import itertools
import math
import random

import numpy as np
import pytest
import reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from timm_diffsens import sensitivity
from timm_diffsens.errors import UsageError
from timm_diffsens.schema.layers import LayerSensitivity
from timm_diffsens.sensitivities.estimator import Buffers, CentredMoments, SensitivityEstimator

STDERRS = ("d_stderr", "g_stderr", "r_stderr")
# What the project promises: the streaming value is the plain one to this relative error.
PROMISED = {torch.float64: 1e-10, torch.float32: 1e-5}
LARGE = 5000  # numbers a sample; up to 4096 the sums are in float64 whatever the type


@pytest.fixture(autouse=True, scope="module")
def _one_thread():
    """Thousands of small matrix products: on a busy machine threads wait for one another at each."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def three_parts(n=50, shape=(7,), dtype=torch.float64, offset=0.0, scale=1.0, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(3, n, *shape, generator=generator, dtype=torch.float64)
    clean = draws[0] + offset
    parts = clean, clean + 0.3 * draws[1], clean + 0.7 * draws[2]
    return tuple((scale * part).to(dtype) for part in parts)


def streamed(parts, size=None):
    estimator = SensitivityEstimator()
    n = len(parts[0])
    for start in range(0, n, size or n):
        estimator.update(*(part[start : start + (size or n)] for part in parts))
    return estimator


def split(parts, cuts):
    bounds = [0, *sorted(cuts), len(parts[0])]
    return [
        streamed([part[a:b] for part in parts]) if b > a else SensitivityEstimator()
        for a, b in itertools.pairwise(bounds)
    ]


def plain(*parts):
    return tuple(sensitivity(*parts))


def values(estimate):
    return estimate.d, estimate.g, estimate.r


def stderrs(estimate):
    return tuple(getattr(estimate, name) for name in STDERRS)


# ---- streaming equals the definition


@pytest.mark.parametrize("size", [1, 7, None])
@pytest.mark.parametrize("dtype", PROMISED)
@pytest.mark.parametrize("shape", [(), (7,), (3, 5, 4), (LARGE,)])
def test_equals_the_definition_at_every_batch_size(size, dtype, shape):
    parts = three_parts(40, shape, dtype)
    found = values(streamed(parts, size).compute()[0])
    assert found == pytest.approx(plain(*parts), rel=PROMISED[dtype])
    assert found == pytest.approx(reference.sensitivity(*parts), rel=PROMISED[dtype])


@pytest.mark.parametrize("size", [1, 7, None])
@pytest.mark.parametrize("dtype", PROMISED)
@pytest.mark.parametrize("d", [1, 20, LARGE])
def test_equals_the_definition_far_from_zero(size, dtype, d):
    # The mean is a thousand times the spread: sums of squares would lose six digits.
    parts = three_parts(100, (d,), dtype, offset=1000.0)
    assert values(streamed(parts, size).compute()[0]) == pytest.approx(plain(*parts), rel=PROMISED[dtype])


@pytest.mark.parametrize("scale", [1e-15, 1e-6, 1e6, 1e15])
@pytest.mark.parametrize("dtype", PROMISED)
@pytest.mark.parametrize("d", [20, LARGE])
def test_equals_the_definition_at_every_scale(scale, dtype, d):
    parts = three_parts(30, (d,), dtype, offset=1.0, scale=scale)
    assert values(streamed(parts, 7).compute()[0]) == pytest.approx(plain(*parts), rel=PROMISED[dtype])


@pytest.mark.parametrize("dtype", PROMISED)
def test_equals_the_definition_over_several_column_blocks(dtype):
    parts = three_parts(20, (2**15 + 3,), dtype)  # a block has 2^15 columns
    assert values(streamed(parts, 7).compute()[0]) == pytest.approx(plain(*parts), rel=PROMISED[dtype])


def test_tiny_moves_on_a_large_mean():
    # Differences are taken before anything is summed, so a move a millionth of the mean keeps its digits.
    clean, _, _ = three_parts(40, (6,), offset=1.0)
    parts = clean, clean * (1 + 2.0**-40), clean * (1 - 2.0**-41)
    assert values(streamed(parts, 7).compute()[0]) == pytest.approx(plain(*parts), rel=1e-10)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("offset", [0.0, 100.0])
@pytest.mark.parametrize("d", [9, LARGE])
def test_half_precision_is_widened_before_differences(dtype, offset, d):
    parts = three_parts(30, (d,), dtype, offset=offset)
    found = values(streamed(parts, 7).compute()[0])
    assert found == pytest.approx(plain(*parts), rel=PROMISED[torch.float32])


def test_half_precision_does_not_overflow():
    clean = torch.tensor([[0.0], [300.0]], dtype=torch.float16)  # 300^2 is beyond float16
    assert values(streamed([clean, clean + 300, clean - 300]).compute()[0]) == (1.0, 1.0, 1.0)


@pytest.mark.parametrize("d", [9, LARGE])
def test_parts_of_different_types(d):
    clean, moved, noised = three_parts(30, (d,))
    parts = clean.bfloat16(), moved.float(), noised.half()
    found = values(streamed(parts, 7).compute()[0])
    assert found == pytest.approx(plain(*parts), rel=PROMISED[torch.float32])


@pytest.mark.parametrize(
    "lay_out",
    [
        lambda p: p.to(memory_format=torch.channels_last),
        lambda p: p.transpose(2, 3).contiguous().transpose(2, 3),
        lambda p: torch.stack([p, -p], dim=-1)[..., 0],
        lambda p: p.flip(0).flip(0),
    ],
)
def test_memory_layout_does_not_matter(lay_out):
    parts = three_parts(20, (3, 4, 5), torch.float32)
    assert streamed([lay_out(p) for p in parts], 7).compute()[0] == streamed(parts, 7).compute()[0]


def test_expanded_inputs():
    clean, moved, noised = (part.expand(-1, 5) for part in three_parts(20, (1,)))
    assert clean.stride(1) == 0
    found = values(streamed([clean, moved, noised]).compute()[0])
    assert found == pytest.approx(plain(clean, moved, noised), rel=1e-10)


def test_inputs_are_left_as_they_are():
    parts = three_parts(40)
    copies = [part.clone() for part in parts]
    streamed(parts, 7)
    assert all(torch.equal(p, c) for p, c in zip(parts, copies, strict=True))


def test_no_graph_is_kept():
    parts = [part.requires_grad_() for part in three_parts(40)]
    estimator = streamed(parts, 7)
    assert not any(t.requires_grad for t in vars(estimator).values() if isinstance(t, torch.Tensor))


# ---- merging


@settings(max_examples=40, deadline=None)
@given(cuts=st.lists(st.integers(0, 60), max_size=5), order=st.randoms(use_true_random=False))
def test_any_split_merged_in_any_order_is_the_whole(cuts, order: random.Random):
    parts = three_parts(60, (5,), offset=10.0)
    pieces = split(parts, cuts)
    while len(pieces) > 1:
        one, two = (pieces.pop(order.randrange(len(pieces))) for _ in range(2))
        pieces.append(one.merge(two))
    found = pieces[0].compute()[0]
    assert found.n == 60
    assert values(found) == pytest.approx(plain(*parts), rel=1e-10)


def test_merging_is_associative():
    first, second, third = split(three_parts(60), [13, 40])
    left, right = first.merge(second).merge(third), first.merge(second.merge(third))
    assert values(left.compute()[0]) == pytest.approx(values(right.compute()[0]), rel=1e-12)
    assert torch.allclose(left.moments().mean, right.moments().mean, rtol=1e-12)


@pytest.mark.parametrize("dtype", PROMISED)
@pytest.mark.parametrize("d", [1, 20, LARGE])
def test_merging_far_from_zero(dtype, d):
    parts = three_parts(100, (d,), dtype, offset=1000.0)
    merged = functools.reduce(SensitivityEstimator.merge, split(parts, range(10, 100, 10)))
    assert values(merged.compute()[0]) == pytest.approx(plain(*parts), rel=PROMISED[dtype])


def test_updating_after_a_merge():
    parts = three_parts(60)
    first, second, third = split(parts, [20, 40])
    merged = first.merge(second)
    merged.update(*(part[40:] for part in parts))
    assert values(merged.compute()[0]) == pytest.approx(plain(*parts), rel=1e-10)
    assert third.count == 20


@pytest.mark.parametrize("empty_first", [True, False])
def test_merging_with_nothing(empty_first):
    full, empty = streamed(three_parts()), SensitivityEstimator()
    merged = empty.merge(full) if empty_first else full.merge(empty)
    assert merged.compute()[0] == full.compute()[0]


@pytest.mark.parametrize("count", [0, 30])
def test_merging_leaves_its_operands_alone(count):
    parts = three_parts(60)
    one, two = split(parts, [60 - count])
    before = one.compute()[0], two.compute()[0]
    merged = one.merge(two)
    merged.update(*three_parts(30, seed=1))
    assert (one.compute()[0], two.compute()[0]) == before


def test_merging_nothing_with_nothing():
    assert SensitivityEstimator().merge(SensitivityEstimator()).compute()[0].reason == "fewer than 2 images"


def test_merging_single_images():
    parts = three_parts(5)
    merged = functools.reduce(SensitivityEstimator.merge, split(parts, [1, 2, 3, 4]))
    assert values(merged.compute()[0]) == pytest.approx(plain(*parts), rel=1e-10)


# ---- standard errors


def test_images_merged_one_by_one_give_the_values_of_one_pass():
    parts = three_parts(30)
    merged = functools.reduce(SensitivityEstimator.merge, split(parts, range(1, 30)))
    assert values(merged.compute()[0]) == pytest.approx(values(streamed(parts).compute()[0]), rel=1e-12)
    # R has no denominator over pairs: its error is that of one pass, whatever was merged
    assert merged.compute()[0].r_stderr == pytest.approx(streamed(parts).compute()[0].r_stderr, rel=1e-12)


@pytest.mark.parametrize("size", [1, 7, 64])
def test_standard_errors_do_not_depend_on_the_batch_size(size):
    parts = three_parts(200, (5,), offset=10.0)
    whole = stderrs(streamed(parts).compute()[0])
    assert stderrs(streamed(parts, size).compute()[0]) == pytest.approx(whole, rel=1e-6)


@pytest.mark.parametrize("cuts", [[200], [1], [50, 100, 150, 399]])
def test_merged_standard_errors_are_close(cuts):
    # A merge changes the share b of one image in n = 400 for each cut, to another draw from the same law.
    # Over these images no residual is above 7 rms, so a cut changes the sum of their squares by at most
    # (7^2 + 7^2)/400, and typically by 1/400; four cuts change its root by a few per cent at most.
    parts = three_parts(400, (5,))
    merged = functools.reduce(SensitivityEstimator.merge, split(parts, cuts))
    assert stderrs(merged.compute()[0]) == pytest.approx(stderrs(streamed(parts).compute()[0]), rel=0.03)


def shares(clean):
    """b of all images of one pass but the first, for at most 32 images."""
    pivots = [max(k for k in (1, 2, 4, 8, 16) if k <= i) for i in range(1, len(clean))]  # images before
    return [2 * k / (k + 1) * ((clean[i] - clean[:k].mean(0)) ** 2).sum() for i, k in enumerate(pivots, 1)]


def square_sum(clean):
    return ((clean - clean.mean(axis=0)) ** 2).sum()


def delta_method(parts, b):
    """Standard errors of D, G and R, given b of all images but the first, which gets their mean."""
    clean, deformed, noised = parts
    n, b = len(clean), np.array([np.mean(b), *b])
    a, g = (((part - clean) ** 2).sum(axis=1) for part in (deformed, noised))
    pairs = 2 * square_sum(clean) / (n - 1)

    def stderr(top, bottom, scale):
        residuals = top - top.mean() / bottom.mean() * bottom
        return math.sqrt((residuals**2).sum() / (n * (n - 1))) / scale

    return stderr(a, b, pairs), stderr(g, b, pairs), stderr(a, g, g.mean())


def test_the_delta_method_by_hand():
    parts = three_parts(30, (4,))
    arrays = [part.numpy() for part in parts]
    expected = delta_method(arrays, shares(arrays[0]))
    assert stderrs(streamed(parts, 7).compute()[0]) == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("cut", [1, 12, 29])
def test_the_delta_method_after_a_merge_by_hand(cut):
    """The other's first image, which has no share of its own, gets what the merge adds to the pairs."""
    parts = three_parts(30, (4,))
    arrays = [part.numpy() for part in parts]
    clean, one, two = arrays[0], arrays[0][:cut], arrays[0][cut:]
    between = 2 * (square_sum(clean) - square_sum(one) - square_sum(two))
    expected = delta_method(arrays, [*shares(one), between, *shares(two)])
    first, second = split(parts, [cut])
    assert stderrs(first.merge(second).compute()[0]) == pytest.approx(expected, rel=1e-10)


def gaussian(n, d, generator):
    """Clean N(0, 1); a move along the representation, so that a_i and b_i go together; independent noise."""
    normal = functools.partial(torch.randn, generator=generator, dtype=torch.float64)
    clean = normal(n, d)
    return (clean, clean * (1 + 0.2 * normal(n, 1)), clean + 0.5 * normal(n, d)), (0.04 / 2, 0.25 / 2)


def student(n, d, generator):
    """Multivariate t with 5 degrees of freedom: sqrt(5/chi^2) a sample, so its square norm has heavy tails.

    The move has the image's own scale, the noise another of the same law.
    """
    normal = functools.partial(torch.randn, generator=generator, dtype=torch.float64)
    own, other = (math.sqrt(5) / torch.linalg.vector_norm(normal(2, n, 5), dim=2)).unsqueeze(-1)
    clean = own * normal(n, d)
    return (clean, clean + 0.3 * own * normal(n, d), clean + 0.5 * other * normal(n, d)), (0.09 / 2, 0.25 / 2)


# Seen (per cent of 200 intervals that hold D, G, R):
#   gaussian  n = 100, d = 300: 94, 93, 93;  n = 200, d = 3: 96, 96, 95;  n = 500, d = 2: 94.5, 94, 95
#   student   n = 100, d = 300: 96, 92, 92;  n = 500, d = 2: 95, 96, 93
@pytest.mark.parametrize(
    ("law", "n", "d"),
    [
        (gaussian, 100, 300),
        (gaussian, 200, 3),
        (gaussian, 500, 2),
        (student, 100, 300),
        (student, 500, 2),
    ],
)
def test_the_95_per_cent_interval_covers(law, n, d):
    generator = torch.Generator().manual_seed(1)
    repeats, hits = 200, np.zeros(3)
    for _ in range(repeats):
        parts, (true_d, true_g) = law(n, d, generator)
        found = streamed(parts).compute()[0]
        misses = np.subtract(values(found), (true_d, true_g, true_d / true_g))
        hits += np.abs(misses) <= 1.96 * np.array(stderrs(found))
    assert (hits >= 0.90 * repeats).all(), hits / repeats
    assert (hits <= 0.99 * repeats).all(), hits / repeats


def test_standard_errors_match_the_scatter_where_images_are_alike():
    # In 500 dimensions a_i and b_i vary by a few per cent only, and the first image, which has no share of
    # the denominator of its own, must not stand out. The scatter over 400 repeats is known to
    # 1/sqrt(2 * 400) = 3.5 %; four of these, and 1/n = 2 % for the delta method.
    generator = torch.Generator().manual_seed(0)
    found = [streamed(gaussian(50, 500, generator)[0]).compute()[0] for _ in range(400)]
    scatter = np.std([estimate.g for estimate in found], ddof=1)
    stated = math.sqrt(np.mean([estimate.g_stderr**2 for estimate in found]))
    assert abs(stated / scatter - 1) < 4 * 0.035 + 0.02


# ---- the shares of the denominator


@pytest.mark.parametrize("n", [2, 3, 15, 16, 17, 31, 33, 50])
@pytest.mark.parametrize("size", [1, 7, None])
def test_the_centred_square_sum_is_exact_within_and_between_blockes(size, n):
    parts = three_parts(n, (7,), offset=5.0)
    clean = parts[0]
    found = streamed(parts, size).moments()
    assert found.count == n
    assert torch.allclose(found.mean, clean.mean(0), rtol=1e-12)
    assert found.centred_square_sum == pytest.approx(float((clean - clean.mean(0)).square().sum()), rel=1e-12)


@pytest.mark.parametrize("sizes", [(3, 30), (16, 17), (1, 32), (20, 13)])
def test_batches_may_end_anywhere_in_a_block(sizes):
    parts = three_parts(33, (5,))
    whole, cut = streamed(parts), SensitivityEstimator()
    for chunk in zip(*(part.split(list(sizes)) for part in parts), strict=True):
        cut.update(*chunk)
    assert stderrs(cut.compute()[0]) == pytest.approx(stderrs(whole.compute()[0]), rel=1e-12)
    assert cut.compute()[0].d == pytest.approx(whole.compute()[0].d, rel=1e-12)


def test_each_share_is_unbiased():
    # For Gaussian images f_i - mean of N others has covariance 1 + 1/N, so b_i follows 2 chi^2 with d degrees
    # of freedom: mean 2 d = 2 tr Cov, variance 8 d.
    repeats, d = 2000, 3
    generator = torch.Generator().manual_seed(0)
    sums = []
    for _ in range(repeats):
        vectors = torch.randn(20, d, generator=generator, dtype=torch.float64)
        estimator, before, shares = SensitivityEstimator(), 0.0, []
        for image in vectors.split(1):
            estimator.update(image, image, image)
            shares.append(float(estimator.sums.totals[2]) - before)
            before = float(estimator.sums.totals[2])
        sums.append(shares)
    shares = torch.tensor(sums)
    assert (shares[:, 0] == 0).all()
    assert ((shares[:, 1:].mean(0) - 2 * d).abs() < 4 * math.sqrt(8 * d / repeats)).all()


# ---- no value


@pytest.mark.parametrize("n", [0, 1])
def test_fewer_than_two_images(n):
    estimator = SensitivityEstimator()
    estimator.update(*(part[:n] for part in three_parts()))
    assert estimator.compute()[0] == LayerSensitivity.of(n, reason="fewer than 2 images")


def test_two_images():
    found = streamed(three_parts(2)).compute()[0]
    assert values(found) == pytest.approx(plain(*three_parts(2)), rel=1e-10)
    assert all(math.isfinite(v) and v > 0 for v in stderrs(found))


@pytest.mark.parametrize("dtype", PROMISED)
@pytest.mark.parametrize("value", [0.0, 0.1, -1e10])
@pytest.mark.parametrize("size", [1, 7, None])
def test_constant(dtype, value, size):
    constant = torch.full((40, 9), value, dtype=dtype)
    assert streamed([constant] * 3, size).compute()[0] == LayerSensitivity.of(40, reason="constant")


@pytest.mark.parametrize("dtype", [*PROMISED, torch.float16, torch.bfloat16])
def test_constant_but_moved(dtype):
    constant = torch.ones(40, 9, dtype=dtype)
    assert streamed([constant, constant + 1, constant + 2], 7).compute()[0] == LayerSensitivity.of(
        40, reason="constant"
    )


@pytest.mark.parametrize("dtype", PROMISED)
@pytest.mark.parametrize("d", [9, LARGE])
def test_constant_to_rounding(dtype, d):
    # A forward rounds an image differently at different places of the batch: some units in the last place.
    units = torch.randint(-8, 9, (40, d), generator=torch.Generator().manual_seed(0)).to(dtype)
    clean = 3.7 * (1 + units * torch.finfo(dtype).eps)
    parts = clean, clean.flip(0), clean.flip(1)
    assert streamed(parts, 7).compute()[0].reason == "constant"
    one, two = split(parts, [20])
    assert one.merge(two).compute()[0].reason == "constant"


@pytest.mark.parametrize(("dtype", "spread"), [(torch.float32, 1e-4), (torch.float64, 1e-12)])
def test_a_small_spread_is_not_constant(dtype, spread):
    # A thousand units in the last place, and more: the inputs are coarse, what is made of them is not. In
    # float64 the running mean rounds to 1e-16/1e-12 = 1e-4 of the spread, over 40 x 9 numbers a 19th of it.
    clean, _, _ = three_parts(40, (9,), offset=1 / spread)
    parts = [part.to(dtype) for part in (clean, clean + 0.3, clean - 0.7)]
    found = streamed(parts, 7).compute()[0]
    assert found.reason is None
    assert values(found) == pytest.approx(plain(*parts), rel=1e-5)


def test_noise_that_does_not_move_it():
    clean, moved, _ = three_parts()
    found = streamed([clean, moved, clean], 7).compute()[0]
    assert found.reason == "noise does not move it"
    assert found.d == pytest.approx(sensitivity(clean, moved, clean).d, rel=1e-10)
    assert found.d_stderr > 0
    assert (found.g, found.r, found.r_stderr) == (0.0, None, None)


def test_a_deformation_that_does_not_move_it():
    clean, _, noised = three_parts()
    found = streamed([clean, clean, noised], 7).compute()[0]
    assert (found.d, found.r, found.d_stderr, found.r_stderr) == (0.0, 0.0, 0.0, 0.0)
    assert found.reason is None


def test_the_same_draws_as_both_perturbations_give_r_of_one_exactly():
    clean, moved, _ = three_parts()
    found = streamed([clean, moved, moved], 7).compute()[0]
    assert (found.d, found.d_stderr) == (found.g, found.g_stderr)
    assert (found.r, found.r_stderr) == (1.0, 0.0)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("part", [0, 1, 2])
@pytest.mark.parametrize("place", [0, 23, 39])
def test_non_finite(bad, part, place):
    parts = three_parts(40)
    parts[part][place, 3] = bad
    assert streamed(parts, 7).compute()[0] == LayerSensitivity.of(40, reason="non-finite")
    one, two = split(parts, [20])
    assert one.merge(two).compute()[0] == LayerSensitivity.of(40, reason="non-finite")


def test_squares_beyond_the_range():
    parts = three_parts(20, (LARGE,), torch.float32, scale=1e25)
    assert streamed(parts).compute()[0].reason == "non-finite"
    assert streamed(three_parts(40, scale=1e100)).compute()[0].reason == "non-finite"  # products of squares


# ---- errors and size


def test_shapes_that_differ():
    clean, moved, noised = three_parts()
    with pytest.raises(UsageError, match=r"shapes differ: \(50, 7\), \(50, 7\), \(49, 7\)"):
        SensitivityEstimator().update(clean, moved, noised[:-1])
    with pytest.raises(UsageError, match=r"shapes differ: \(50, 7\), \(50, 7, 1\), \(50, 7\)"):
        SensitivityEstimator().update(clean, moved[..., None], noised)


def test_samples_of_another_size():
    estimator = streamed(three_parts())
    before = estimator.compute()[0]
    with pytest.raises(UsageError, match="expected 7 numbers a sample, got 6"):
        estimator.update(*three_parts(shape=(6,)))
    assert estimator.compute()[0] == before


@pytest.mark.parametrize("size", [1, 6])  # one number would spread over all of them in silence
def test_merging_samples_of_another_size(size):
    with pytest.raises(UsageError, match=f"expected 7 numbers a sample, got {size}"):
        streamed(three_parts()).merge(streamed(three_parts(shape=(size,))))


def test_single_numbers():
    with pytest.raises(UsageError, match=r"expected tensors \(n, ...\)"):
        SensitivityEstimator().update(*torch.ones(3))


def test_moments_of_nothing():
    with pytest.raises(UsageError, match="no images"):
        SensitivityEstimator().moments()


def test_samples_without_numbers_are_constant():
    assert streamed(torch.ones(3, 10, 0)).compute()[0].reason == "constant"


def state_bytes(estimator):
    tensors = [value for value in vars(estimator).values() if isinstance(value, torch.Tensor)]
    tensors.append(estimator.sums.memory)
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def test_the_state_does_not_grow():
    # A vector of the layer's size, a second while a block of 16 is open, and some 300 float64 numbers.
    vector, numbers = LARGE * 4, 330 * 8
    estimator, parts = SensitivityEstimator(), three_parts(8, (LARGE,), torch.float32)
    for step in range(1, 41):
        estimator.update(*parts)
        vectors = 1 if step % 2 == 0 or step == 1 else 2
        assert vectors * vector < state_bytes(estimator) < vectors * vector + numbers
    assert vector < state_bytes(estimator.merge(estimator)) < vector + numbers


# ---- moments


def rows(n, seed=0, offset=3.0):
    draws = torch.randn(n, 4, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return draws + offset


def moments_of(rows):
    """Moments of the rows of an (n, d) matrix, half precision widened."""
    rows = rows.to(torch.promote_types(rows.dtype, torch.float32))
    mean = rows.mean(dim=0)
    return CentredMoments(len(rows), mean, float((rows - mean).double().square().sum()))


def assert_close(one: CentredMoments, two: CentredMoments):
    assert one.count == two.count
    assert torch.allclose(one.mean, two.mean, rtol=1e-12, atol=1e-14)
    assert one.centred_square_sum == pytest.approx(two.centred_square_sum, rel=1e-11, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(1, 20), min_size=1, max_size=6), order=st.randoms(use_true_random=False))
def test_moments_merge_in_any_order(sizes, order: random.Random):
    whole = rows(sum(sizes))
    pieces = [moments_of(piece) for piece in whole.split(sizes)]
    while len(pieces) > 1:
        one, two = (pieces.pop(order.randrange(len(pieces))) for _ in range(2))
        pieces.append(one.merge(two))
    assert_close(pieces[0], moments_of(whole))


def test_moments_by_hand():
    found = moments_of(torch.tensor([[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]]))
    assert (found.count, found.mean.tolist(), found.centred_square_sum) == (3, [2.0, 2.0], 14.0)


def test_moments_of_half_precision():
    # The mean of float16 numbers near 1000, where they lie 0.5 apart, is not a float16 number.
    found = moments_of(torch.tensor([[1000.0], [1000.5]], dtype=torch.float16))
    assert (found.mean.item(), found.centred_square_sum) == (1000.25, 0.125)


def test_moments_of_an_estimator():
    parts = three_parts(50, (4,))
    assert_close(streamed(parts, 7).moments(), moments_of(parts[0]))


# ---- memory given beforehand


@pytest.mark.parametrize("drift", [True, False])
def test_memory_given_beforehand_changes_no_bit(drift):
    sizes = [7, 5000, 12]  # of float64 and of float32 pivots
    buffers = Buffers.for_sizes(sizes, drift, torch.device("cpu"))
    for again in range(2):  # what it held before is forgotten
        for d, own in zip(sizes, buffers, strict=True):
            plain, placed = SensitivityEstimator(), SensitivityEstimator(buffers=own)
            for n in (5, 20, 16, 6):  # a block stays open
                batch = torch.randn(3, n, d, generator=torch.Generator().manual_seed(d + n + again))
                plain.update_parts(batch)
                placed.update_parts(batch)
            assert placed.pivot.data_ptr() == own.pivot.data_ptr()
            assert torch.equal(placed.pivot, plain.pivot)
            assert torch.equal(placed.drift, plain.drift)
            assert torch.equal(placed.sums.memory, plain.sums.memory)
            assert placed.compute()[0] == plain.compute()[0]


def test_memory_that_does_not_fit_is_left_alone():
    (own,) = Buffers.for_sizes([5000], False, torch.device("cpu"))
    for batch in (torch.randn(3, 4, 5000, dtype=torch.float64), torch.randn(3, 4, 4999)):
        own.pivot.fill_(7)
        estimator, plain = SensitivityEstimator(buffers=own), SensitivityEstimator()
        estimator.update_parts(batch)
        plain.update_parts(batch)
        assert estimator.compute()[0] == plain.compute()[0]
        assert bool((own.pivot == 7).all())
