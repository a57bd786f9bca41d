"""Noise: as long as the deformation image by image, in a direction of no preference."""

import math

import numpy as np
import pytest
import torch

from timm_diffsens import Diffeo, matched_noise
from timm_diffsens.errors import UsageError
from timm_diffsens.perturb.noise import corrupt, of_matched_norm
from timm_diffsens.perturb.streams import Streams

EPS = {torch.float64: 2.0**-53, torch.float32: 2.0**-24, torch.float16: 2.0**-11, torch.bfloat16: 2.0**-8}


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def pair(n=6, shape=(3, 16, 16), dtype=torch.float64):
    clean = torch.randn(n, *shape, generator=seeded(), dtype=torch.float64)
    sizes = torch.logspace(-3, 3, n, dtype=torch.float64).view(-1, *[1] * len(shape))
    moved = clean + sizes * torch.randn(n, *shape, generator=seeded(1), dtype=torch.float64)
    return clean.to(dtype), moved.to(dtype)


def norms(images):
    return torch.linalg.vector_norm(images.double().flatten(1), dim=1)


def on_the_sphere(n, d, seed=0):
    """Noise of norm one in d dimensions, n times."""
    clean = torch.zeros(n, d, dtype=torch.float64)
    moved = clean.clone()
    moved[:, -1] = 1.0
    return matched_noise(clean, moved, seeded(seed))


# ---- the norm


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_the_norm_is_that_of_the_deformation(dtype):
    # Each difference, the scale, and each product round once, by a relative eps at most (the sums are in
    # float64, where their own rounding is some eps of 1e-16).
    clean, moved = pair(dtype=dtype)
    eta = matched_noise(clean, moved, seeded())
    assert eta.dtype == dtype
    ratio = norms(eta) / norms(moved.double() - clean.double())
    assert (ratio - 1).abs().max() < 3 * EPS[dtype] + 16 * EPS[torch.float64]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_the_norm_in_half_precision(dtype):
    # Only the result is rounded, number by number: at most eps each. (A scale in half precision would be
    # off by eps for all at once; rounding of many numbers averages out, by a root of 768 = 28.)
    clean, moved = pair(dtype=dtype)
    moved = clean + (moved - clean).clamp(-100, 100)
    eta = matched_noise(clean, moved, seeded())
    assert eta.dtype == dtype
    ratio = norms(eta) / norms(moved.double() - clean.double())
    assert (ratio - 1).abs().max() < 4 * EPS[dtype] / math.sqrt(768)


def test_a_deformation_of_images():
    clean = torch.rand(5, 3, 24, 32, generator=seeded())
    moved = Diffeo()(clean, seeded(1))
    eta = matched_noise(clean, moved, seeded(2))
    assert eta.shape == clean.shape
    assert (norms(eta) / norms(moved.double() - clean.double()) - 1).abs().max() < 3 * EPS[
        torch.float32
    ] + 1e-15


def test_what_does_not_move_gets_no_noise():
    clean, moved = pair(n=4)
    moved[2] = clean[2]
    eta = matched_noise(clean, moved, seeded())
    assert (eta[2] == 0).all()
    assert (norms(eta)[[0, 1, 3]] > 0).all()


@pytest.mark.parametrize("count", [1, 3])
def test_many_large_images_on_several_threads(count):
    """Each still gets its own norm; gradients and inference mode do not stand in the way."""
    clean, moved = pair(5, (3, 300, 300), torch.float32)
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        eta = matched_noise(clean, moved.requires_grad_(), seeded())
        with torch.inference_mode():
            again = matched_noise(clean.clone(), moved.clone(), seeded())
    finally:
        torch.set_num_threads(before)
    assert (norms(eta) / norms(moved.double() - clean.double()) - 1).abs().max() < 3 * EPS[torch.float32]
    assert torch.equal(eta, again)


def test_inputs_are_left_as_they_are():
    clean, moved = pair(dtype=torch.float32)
    copies = clean.clone(), moved.clone()
    matched_noise(clean, moved, seeded())
    corrupt(clean, 0.5, seeded())
    assert torch.equal(clean, copies[0])
    assert torch.equal(moved, copies[1])


def test_any_number_of_dimensions():
    for shape in [(7,), (3, 7), (1, 2, 3, 4)]:
        clean, moved = pair(shape=shape)
        eta = matched_noise(clean, moved, seeded())
        assert eta.shape == clean.shape
        assert torch.allclose(norms(eta), norms(moved - clean), rtol=1e-14)


# ---- the direction


def test_no_direction_is_preferred():
    # For u uniform on the unit sphere in d dimensions: E u = 0 with variance 1/d; E u_i u_j = (i = j)/d with
    # variances 2 (d - 1)/(d^2 (d + 2)) and 1/(d (d + 2)). 27 numbers: bounds of 4.5 standard errors.
    n, d = 20_000, 6
    u = on_the_sphere(n, d).numpy()
    assert (abs(u.mean(axis=0)) < 4.5 * math.sqrt(1 / d / n)).all()
    diagonal, across = 2 * (d - 1) / (d**2 * (d + 2)), 1 / (d * (d + 2))
    spread = np.sqrt(np.where(np.eye(d, dtype=bool), diagonal, across) / n)
    assert (abs(u.T @ u / n - np.eye(d) / d) < 4.5 * spread).all()


def test_it_lies_on_a_sphere_evenly():
    # E u_i^4 = 3/(d (d + 2)) holds on the sphere only; E u_i^8 = 105/(d (d + 2)(d + 4)(d + 6)).
    n, d = 20_000, 6
    fourth = (on_the_sphere(n, d) ** 4).mean(0)
    mean, square = 3 / (d * (d + 2)), 105 / (d * (d + 2) * (d + 4) * (d + 6))
    assert ((fourth - mean).abs() < 4.5 * math.sqrt((square - mean**2) / n)).all()


def test_images_have_noise_of_their_own():
    # Products of two independent directions have mean 0 and variance 1/d.
    n, d = 20_000, 6
    u = on_the_sphere(n, d)
    products = (u[1:] * u[:-1]).sum(1)
    assert abs(products.mean()) < 4 * math.sqrt(1 / d / (n - 1))


# ---- streams


def test_noise_belongs_to_the_image_not_to_the_batch():
    clean, moved = pair(n=6, dtype=torch.float32)
    together = matched_noise(clean, moved, Streams(0, "noise", range(6)))
    for i in range(6):
        alone = matched_noise(clean[i : i + 1], moved[i : i + 1], Streams(0, "noise", [i]))
        assert torch.allclose(alone[0], together[i], rtol=2 * EPS[torch.float32], atol=0)
    order = [4, 0, 5, 1, 3, 2]
    shuffled = matched_noise(clean[order], moved[order], Streams(0, "noise", order))
    assert torch.allclose(shuffled, together[order], rtol=2 * EPS[torch.float32], atol=0)


def test_the_same_generator_gives_the_same_noise():
    clean, moved = pair()
    assert torch.equal(matched_noise(clean, moved, seeded(3)), matched_noise(clean, moved, seeded(3)))
    assert not torch.equal(matched_noise(clean, moved, seeded(3)), matched_noise(clean, moved, seeded(4)))


def test_without_a_generator_the_global_stream_moves_on():
    clean, moved = pair()
    with torch.random.fork_rng():
        torch.manual_seed(5)
        first, second = matched_noise(clean, moved), matched_noise(clean, moved)
        torch.manual_seed(5)
        again = matched_noise(clean, moved)
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


# ---- corruption


def test_no_corruption():
    clean, _ = pair()
    assert torch.equal(corrupt(clean, 0.0, seeded()), clean)


@pytest.mark.parametrize("sigma", [0.1, 2.0])
def test_corruption_has_the_standard_deviation_asked_for(sigma):
    # The mean of n squares of N(0, sigma) has a spread of sigma^2 sqrt(2/n), their mean sigma/sqrt(n).
    images = torch.rand(50, 3, 16, 16, generator=seeded(), dtype=torch.float64)
    added = corrupt(images, sigma, seeded(1)) - images
    n = added.numel()
    assert abs(added.mean()) < 4 * sigma / math.sqrt(n)
    assert abs(added.square().mean() - sigma**2) < 4 * sigma**2 * math.sqrt(2 / n)


def test_corruption_is_linear_in_sigma():
    images = torch.zeros(4, 3, 8, 8, dtype=torch.float64)
    assert torch.equal(corrupt(images, 2.0, seeded()), 2 * corrupt(images, 1.0, seeded()))


def test_corruption_is_fixed_for_each_image():
    images, _ = pair(n=6, dtype=torch.float32)
    together = corrupt(images, 0.3, Streams(0, "corruption", range(6)))
    assert torch.equal(corrupt(images[2:4], 0.3, Streams(0, "corruption", [2, 3])), together[2:4])
    assert torch.equal(corrupt(images, 0.3, Streams(0, "corruption", range(6))), together)
    assert not torch.equal(corrupt(images, 0.3, Streams(1, "corruption", range(6))), together)


@pytest.mark.parametrize("dtype", EPS)
def test_types_stay(dtype):
    images, _ = pair(dtype=dtype)
    assert corrupt(images, 0.1, seeded()).dtype == dtype
    assert corrupt(images, 1.0, seeded()).dtype == dtype


# ---- errors


def test_shapes_that_differ():
    with pytest.raises(UsageError, match=r"clean \(2, 3\) and deformed \(2, 4\)"):
        matched_noise(torch.ones(2, 3), torch.ones(2, 4))


@pytest.mark.parametrize("images", [torch.ones(2, 3, dtype=torch.uint8), torch.ones(2), torch.tensor(1.0)])
def test_what_is_no_batch_of_images(images):
    with pytest.raises(UsageError, match=r"floating-point images \(n, \.\.\.\)"):
        matched_noise(images, images)
    with pytest.raises(UsageError, match=r"floating-point images \(n, \.\.\.\)"):
        corrupt(images, 1.0)


# ---- noise of other kinds


def test_noise_of_any_kind_gets_the_norm_of_the_deformation_and_keeps_its_direction():
    clean, deformed = pair(dtype=torch.float32)
    drawn = torch.rand(clean.shape, generator=seeded(2)) * torch.tensor([1e-3, 1, 5, 9, 70, 1e4]).view(
        -1, 1, 1, 1
    )
    before = drawn.clone()
    eta = of_matched_norm(lambda clean, deformed, generator: drawn)(clean, deformed, None)
    assert torch.equal(drawn, before)  # which may be somebody's own
    # two norms in float64, their ratio and the product in float32
    assert torch.allclose(norms(eta), norms(deformed - clean), rtol=4 * EPS[torch.float32], atol=0)
    along = (eta.double() * drawn.double()).flatten(1).sum(1) / norms(eta) / norms(drawn)
    assert torch.allclose(along, torch.ones_like(along), rtol=0, atol=8 * EPS[torch.float32])


def test_gaussian_noise_scaled_is_the_matched_noise():
    clean, deformed = pair()
    draws = of_matched_norm(
        lambda clean, deformed, generator: corrupt(torch.zeros_like(clean), 1.0, generator)
    )
    assert torch.equal(draws(clean, deformed, seeded(3)), matched_noise(clean, deformed, seeded(3)))


def test_where_nothing_is_deformed_there_is_no_noise():
    clean, deformed = pair()
    deformed[1] = clean[1]
    eta = of_matched_norm(lambda clean, deformed, generator: torch.ones_like(clean))(clean, deformed, None)
    none = of_matched_norm(lambda clean, deformed, generator: 0 * clean)(clean, clean, None)
    assert eta[1].abs().max() == 0
    assert none.abs().max() == 0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (lambda clean: clean[:1], r"shape of the images, \(6, 3, 16, 16\), got \(1, 3, 16, 16\)"),
        (lambda clean: None, "got NoneType"),
        (lambda clean: clean / 0, "not finite"),
        (lambda clean: 0 * clean, "zero"),
    ],
)
def test_noise_that_cannot_be_used_is_refused(wrong, words):
    clean, deformed = pair()
    with pytest.raises(UsageError, match=words):
        of_matched_norm(lambda clean, deformed, generator: wrong(clean))(clean, deformed, None)
