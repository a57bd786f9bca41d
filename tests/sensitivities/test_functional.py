"""D, G and R of plain arrays against the double loop, closed forms and invariances."""

import math
import warnings

import numpy as np
import pytest
import reference
import torch

from timm_diffsens import Diffeo, matched_noise, sensitivity
from timm_diffsens.errors import UsageError
from timm_diffsens.sensitivities.functional import mean_pair_distance, mean_square

# Sums of at most a few thousand positive float64 terms, added pairwise: a handful of units of 1.1e-16 each.
ROUNDING = 1e-13


def three_parts(shape, seed=0, offset=0.0):
    """Clean, moved and noised representations, with moves of different sizes."""
    rng = np.random.default_rng(seed)
    clean = rng.standard_normal(shape) + offset
    moved = clean + 0.3 * rng.standard_normal(shape)
    return clean, moved, clean + 0.7 * rng.standard_normal(shape)


def small_integers(n=12, d=6, seed=0):
    """Parts whose sums and differences are exact in every floating-point type."""
    rng = np.random.default_rng(seed)
    clean = rng.integers(-3, 4, (n, d)).astype(float)
    return clean, clean + rng.integers(-2, 3, (n, d)), clean + rng.integers(-2, 3, (n, d))


# ---- the definition


@pytest.mark.parametrize("shape", [(2, 1), (3,), (5, 3), (9, 2, 3, 4), (30, 7)])
def test_equals_the_double_loop(shape):
    parts = three_parts(shape)
    assert sensitivity(*parts) == pytest.approx(reference.sensitivity(*parts), rel=ROUNDING)


@pytest.mark.parametrize("offset", [1e3, 1e6, -1e8])
def test_equals_the_double_loop_far_from_zero(offset):
    # Numbers of one binade subtract exactly, so a large common offset costs neither version anything.
    parts = three_parts((20, 7), offset=offset)
    assert sensitivity(*parts) == pytest.approx(reference.sensitivity(*parts), rel=ROUNDING)


def test_known_by_hand():
    # Distances between the three points: 3, 4, 5; mean square (9 + 16 + 25)/3 = 50/3.
    clean = np.array([[0.0, 0.0], [3.0, 0.0], [0.0, 4.0]])
    d, g, r = sensitivity(clean, clean + np.array([1, 0]), clean + np.array([0, 2]))
    assert (d, g, r) == pytest.approx((3 / 50, 12 / 50, 1 / 4), rel=ROUNDING)


def test_two_samples_make_one_pair():
    clean = np.array([[1.0], [3.0]])
    assert sensitivity(clean, clean + 1, clean - 2) == (1 / 4, 1.0, 1 / 4)


# ---- truths


def test_the_identity_layer_gives_the_pixel_values():
    clean = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    moved = Diffeo()(clean, torch.Generator().manual_seed(1))
    noised = clean + matched_noise(clean, moved, torch.Generator().manual_seed(2))
    d, g, r = sensitivity(*(torch.nn.Identity()(part) for part in (clean, moved, noised)))
    pixels = clean.numpy()
    expected = ((moved.numpy() - pixels) ** 2).sum() / 6 / (2 * pixels.var(axis=0, ddof=1).sum())
    # Adding the noise to pixels of order 1 rounds it by 1e-16 a pixel, against moves of order 0.1.
    assert (d, g, r) == pytest.approx((expected, expected, 1), rel=1e-12)


def test_the_same_draws_as_both_perturbations_give_r_of_one_exactly():
    clean, moved, _ = three_parts((11, 5))
    d, g, r = sensitivity(clean, moved, moved)
    assert d == g
    assert r == 1.0


def test_r_is_the_ratio_of_the_numerators():
    clean, moved, noised = three_parts((11, 5))
    expected = np.sum((moved - clean) ** 2) / np.sum((noised - clean) ** 2)
    assert sensitivity(clean, moved, noised).r == pytest.approx(expected, rel=ROUNDING)


def test_the_noise_numerator_of_a_linear_layer():
    # For u uniform on the unit sphere in d dimensions and A = W'W: E u'Au = tr A / d = ||W||_F^2 / d, and
    # Var u'Au = (2 d tr A^2 - 2 (tr A)^2) / (d^2 (d + 2)); four standard errors of a mean over n draws.
    n, d, norm = 20_000, 12, 3.0
    weight = torch.randn(5, d, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    clean = torch.zeros(n, d, dtype=torch.float64)
    moved = clean.clone()
    moved[:, 0] = norm
    eta = matched_noise(clean, moved, torch.Generator().manual_seed(1))
    gram = weight.T @ weight
    expected = norm**2 / d * gram.trace()
    variance = norm**4 * (2 * d * (gram @ gram).trace() - 2 * gram.trace() ** 2) / (d**2 * (d + 2))
    numerator = mean_square((eta @ weight.T).numpy())
    assert abs(numerator - expected) < 4 * math.sqrt(variance / n)


def test_the_denominator_is_over_distinct_pairs():
    # For n Gaussian vectors with unit covariance in d dimensions, (n - 1)/2 times the denominator follows
    # chi^2 with d (n - 1) degrees of freedom: mean 2 d = 2 tr Cov, variance 8 d / (n - 1).
    repeats, n, d = 20_000, 4, 3
    rng = np.random.default_rng(0)
    found = np.mean([mean_pair_distance(rows) for rows in rng.standard_normal((repeats, n, d))])
    error = math.sqrt(8 * d / (n - 1) / repeats)
    assert abs(found - 2 * d) < 4 * error
    # The average over all n^2 pairs, the zero diagonal too, would be off by 75 of these.
    assert abs(found * (n - 1) / n - 2 * d) > 70 * error


# ---- invariances


def test_order_of_samples_does_not_matter():
    parts = three_parts((20, 6))
    order = np.random.default_rng(1).permutation(20)
    assert sensitivity(*(p[order] for p in parts)) == pytest.approx(sensitivity(*parts), rel=ROUNDING)


def test_order_and_shape_of_features_do_not_matter():
    parts = three_parts((20, 6))
    order = np.random.default_rng(1).permutation(6)
    assert sensitivity(*(p[:, order] for p in parts)) == pytest.approx(sensitivity(*parts), rel=ROUNDING)
    assert sensitivity(*(p.reshape(20, 2, 3) for p in parts)) == sensitivity(*parts)


def test_rotations_do_not_matter():
    parts = three_parts((20, 6))
    rotation, _ = np.linalg.qr(np.random.default_rng(1).standard_normal((6, 6)))
    # A rotated number is a rounded sum of six products, so each distance is off by some ten units of 1.1e-16.
    assert sensitivity(*(p @ rotation for p in parts)) == pytest.approx(sensitivity(*parts), rel=1e-13)


@pytest.mark.parametrize("scale", [2.0**-40, -4.0, 2.0**60])
def test_scale_does_not_matter(scale):
    # Powers of two scale every intermediate number exactly.
    parts = three_parts((20, 6))
    assert sensitivity(*(p * scale for p in parts)) == sensitivity(*parts)


def test_offset_does_not_matter():
    # Integers: the shifted numbers are exact, so only the means round.
    parts = small_integers()
    shifted = sensitivity(*(p + np.arange(6) * 1000 for p in parts))
    assert shifted == pytest.approx(sensitivity(*parts), rel=ROUNDING)


def test_constant_features_do_not_matter():
    parts = small_integers()
    widened = [np.hstack([p, np.full((12, 2), 7.0)]) for p in parts]
    assert sensitivity(*widened) == pytest.approx(sensitivity(*parts), rel=ROUNDING)


# ---- inputs


@pytest.mark.parametrize(
    "convert",
    [
        np.ndarray.tolist,
        torch.from_numpy,
        lambda p: torch.from_numpy(p).requires_grad_(),
        lambda p: torch.from_numpy(p).half(),
        lambda p: torch.from_numpy(p).bfloat16(),
        lambda p: torch.from_numpy(p).to(torch.int16),
        lambda p: p.astype(np.float16),
        lambda p: p.astype(np.int8),
        lambda p: [torch.from_numpy(row) for row in p],
        np.asfortranarray,
    ],
)
def test_kinds_of_input(convert):
    parts = small_integers()
    found, expected = sensitivity(*(convert(p) for p in parts)), sensitivity(*parts)
    assert tuple(found) == pytest.approx(tuple(expected), rel=ROUNDING)  # sums in another order, perhaps


def test_unsigned_integers_do_not_wrap_around():
    clean = np.array([[5], [200]], dtype=np.uint8)
    assert sensitivity(clean, clean - np.uint8(3), clean + np.uint8(6)) == (
        9 / 195**2,
        36 / 195**2,
        9 / 36,
    )


def test_half_precision_is_widened_before_squares():
    # 300^2 is beyond float16.
    clean = torch.tensor([[0.0], [300.0]], dtype=torch.float16)
    assert sensitivity(clean, clean + 300, clean - 300) == (1.0, 1.0, 1.0)


def test_inputs_are_left_as_they_are():
    parts = [torch.from_numpy(p) for p in three_parts((5, 3))]
    copies = [p.clone() for p in parts]
    sensitivity(*parts)
    assert all(torch.equal(p, c) for p, c in zip(parts, copies, strict=True))


# ---- no value


@pytest.mark.parametrize("value", [0.0, 0.1, -1e30])
def test_a_constant_representation_gives_nan(value):
    constant = np.full((7, 3), value)
    assert all(math.isnan(v) for v in sensitivity(constant, constant, constant))


def test_constant_only_when_clean():
    constant = np.full((7, 3), 0.1)
    d, g, r = sensitivity(constant, constant + 1, constant + 2)
    assert math.isnan(d)
    assert math.isnan(g)
    assert r == pytest.approx(1 / 4, rel=ROUNDING)


def test_noise_that_does_not_move_it():
    clean, moved, _ = three_parts((7, 3))
    d, g, r = sensitivity(clean, moved, clean)
    assert d > 0
    assert g == 0
    assert math.isnan(r)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("part", [0, 1, 2])
def test_non_finite_numbers_never_look_like_a_value(bad, part):
    parts = three_parts((7, 3))
    parts[part][4, 1] = bad
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        d, g, r = sensitivity(*parts)
    touched = {0: (d, g, r), 1: (d, r), 2: (g, r)}[part]
    assert not any(math.isfinite(v) for v in touched)


def test_squares_beyond_the_range_never_look_like_a_value():
    clean, moved, noised = three_parts((7, 3))
    assert not any(math.isfinite(v) for v in sensitivity(clean * 1e200, moved, noised))
    assert not math.isfinite(sensitivity(clean, moved, noised * 1e200).r)


# ---- errors


@pytest.mark.parametrize(
    ("shapes", "told"),
    [
        (((4, 3), (4, 3), (4, 2)), r"shapes differ: \(4, 3\), \(4, 3\), \(4, 2\)"),
        (((4, 3), (5, 3), (4, 3)), r"shapes differ: \(4, 3\), \(5, 3\)"),
        (((4, 2, 3), (4, 3, 2), (4, 6)), r"shapes differ: \(4, 2, 3\), \(4, 3, 2\), \(4, 6\)"),
        (((1, 3),) * 3, "at least 2 images, got 1"),
        (((0, 3),) * 3, "at least 2 images, got 0"),
        (((),) * 3, r"expected arrays \(n, ...\)"),
    ],
)
@pytest.mark.parametrize("make", [np.ones, torch.ones])
def test_wrong_shapes(shapes, told, make):
    with pytest.raises(UsageError, match=told):
        sensitivity(*(make(shape) for shape in shapes))


def test_no_features_is_constant():
    assert all(math.isnan(v) for v in sensitivity(*np.ones((3, 5, 0))))
