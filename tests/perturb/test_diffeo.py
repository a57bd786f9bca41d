"""Deformations: the field against loops over modes, its law, and resampling against loops over pixels."""

import math
import re
import warnings

import numpy as np
import pytest
import reference
import torch
from hypothesis import example, given
from hypothesis import strategies as st

from timm_diffsens import Diffeo
from timm_diffsens.errors import DiffsensWarning, UsageError
from timm_diffsens.perturb.fields import deform
from timm_diffsens.perturb.normals import normals as drawn
from timm_diffsens.perturb.streams import Streams
from timm_diffsens.schema.protocol import delta_bounds, read_delta

EPS32, EPS64 = 2.0**-24, 2.0**-53
SIZES = [16, (16, 16), (11, 20), (24, 13)]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def sides(size):
    return (size, size) if isinstance(size, int) else size


def normals(n, cut, seed=0):
    """What the field is made of: (n, component, j, i)."""
    return np.random.default_rng(seed).standard_normal((n, 2, cut, cut))


def pictures(n=2, channels=3, size=16, dtype=torch.float64, seed=0):
    return torch.rand(n, channels, *sides(size), generator=seeded(seed), dtype=torch.float64).to(dtype)


# ---- the field


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("delta", "cut"), [(1.0, 3), (0.7, 2), (0.5, 5)])
def test_the_field_is_the_sum_over_modes(size, delta, cut):
    height, width = sides(size)
    field = Diffeo(delta, cut).displacement(3, size, np.random.default_rng(0), torch.float64)
    expected = [reference.displacement_field(c, height, width, delta, cut) for c in normals(3, cut)]
    # At most 21 modes, each below delta in size: some hundred roundings of 1e-16.
    assert field.shape == (3, 2, height, width)
    assert np.allclose(field.numpy(), expected, rtol=0, atol=1e-13)


def test_the_field_in_single_precision():
    field = Diffeo().displacement(3, 16, Streams(0, "diffeo", range(3)))
    draws = drawn(0, "diffeo", range(3), (2, 3, 3)).numpy()
    expected = [reference.displacement_field(c, 16, 16, 1.0, 3) for c in draws]
    # Six modes with weights below 1 and draws below 4, each with some five roundings.
    assert field.dtype == torch.float32
    assert np.allclose(field.numpy(), expected, rtol=0, atol=6 * 4 * 5 * EPS32)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_border_does_not_move(size, dtype):
    # sin(i pi) is 1e-16 in floating point, in either type.
    field = Diffeo().displacement(5, size, seeded(), dtype)
    for side in (field[..., 0, :], field[..., -1, :], field[..., 0], field[..., -1]):
        assert side.abs().max() < 1e-14
    assert (field.abs().amax(dim=(0, 2, 3)) > 0.5).all()


def test_the_first_component_is_across():
    # One mode of one component: two half waves across, one down.
    only = np.zeros((2, 3, 3))
    only[0, 0, 1] = 1.0  # dx, j = 1, i = 2
    field = reference.displacement_field(only, 11, 21, 1.0, 3)
    assert (field[1] == 0).all()
    assert (field[0, 1:-1, 1:10] > 0).all()
    assert (field[0, 1:-1, 11:20] < 0).all()


@pytest.mark.parametrize("size", [(12, 12), (12, 17)])
@pytest.mark.parametrize("cut", [2, 3])
def test_the_law_of_the_coefficients(size, cut):
    # On linspace(0, 1, n) the sines with i = 1 .. n - 2 are orthogonal with square norm (n - 1)/2, so the
    # coefficients can be read back. A mean of m squares of N(0, v) has a spread of v sqrt(2/m).
    height, width = size
    m, delta = 4000, 0.6
    fields = Diffeo(delta, cut).displacement(m, size, seeded(), torch.float64).numpy()
    across, down = (
        np.sin(np.pi * np.outer(np.arange(1, n - 1), np.linspace(0, 1, n))) * 2 / (n - 1)
        for n in (width, height)
    )
    found = np.einsum("ncyx,jy,ix->ncji", fields, down, across)
    inside = np.zeros(found.shape[2:], dtype=bool)
    for component, side in enumerate((width, height)):
        for i, j in reference.modes(cut):
            inside[j - 1, i - 1] = True
            c = found[:, component, j - 1, i - 1] / side
            variance = reference.temperature(delta, cut, side) / (i**2 + j**2)
            assert abs(c.mean()) < 4 * math.sqrt(variance / m)
            assert abs(np.mean(c**2) - variance) < 4 * variance * math.sqrt(2 / m)
    # Modes outside the cutoff are absent; 17 terms of 1e-16.
    assert abs(found[:, :, ~inside]).max() < 1e-13
    # Modes and components are independent: at most 66 correlations, each of spread 1/sqrt(m).
    kept = found[:, :, inside].reshape(m, -1)
    correlations = np.corrcoef(kept.T) - np.eye(kept.shape[1])
    assert abs(correlations).max() < 4.5 / math.sqrt(m)


def test_the_modes_inside_the_cutoff():
    # (cut + 1/2)^2 is never whole, so no mode lies on the edge.
    two = {(1, 1), (1, 2), (2, 1)}
    assert set(reference.modes(2)) == two
    assert set(reference.modes(3)) == two | {(2, 2), (1, 3), (3, 1)}


def test_fields_of_different_images_are_independent():
    m = 4000
    fields = Diffeo().displacement(m, 12, seeded())
    products = (fields[1:] * fields[:-1]).sum(dim=(1, 2, 3))
    assert abs(products.mean()) < 4 * products.std() / math.sqrt(m - 1)


# ---- its size


@pytest.mark.parametrize("size", [*SIZES, 2, (3, 40), (64, 64)])
def test_rms_by_loops(size):
    height, width = sides(size)
    total = 0.0
    for component_side in (width, height):
        for i, j in reference.modes(3):
            variance = reference.temperature(1.3, 3, component_side) / (i**2 + j**2)
            waves = [
                (math.sin(i * math.pi * x / (width - 1)) * math.sin(j * math.pi * y / (height - 1))) ** 2
                for x in range(width)
                for y in range(height)
            ]
            total += component_side**2 * variance * sum(waves) / (width * height)
    assert Diffeo(1.3, 3).rms(size) == pytest.approx(math.sqrt(total), rel=1e-12, abs=1e-14)


@pytest.mark.parametrize("size", [(16, 16), (12, 30), (24, 13)])
@pytest.mark.parametrize("cut", [2, 3])
def test_rms_is_what_fields_show(size, cut):
    n = 4000
    diffeo = Diffeo(0.9, cut)
    squares = diffeo.displacement(n, size, seeded(), torch.float64).square().sum(1).mean(dim=(1, 2))
    assert abs(squares.mean() - diffeo.rms(size) ** 2) < 4 * squares.std() / math.sqrt(n)


def test_rms_of_many_pixels():
    # Each mode has a mean square of 1/4 on the unit square, and the inverse squares of the six modes sum to
    # 1/2 + 2/5 + 1/8 + 2/10 = 1.225; on n points the mean of sin^2 is smaller by (n - 1)/n, on either axis.
    continuum = 2.5 * math.sqrt(2 * 1.225 / (math.pi * math.log(3)))
    assert Diffeo(2.5, 3).rms(400) == pytest.approx(continuum * 399 / 400, rel=1e-12)
    assert Diffeo(2.5, 3).rms((400, 200)) == pytest.approx(
        continuum * math.sqrt(399 / 400 * 199 / 200), rel=1e-12
    )


@pytest.mark.parametrize("cut", [2, 3, 5, 10, 20, 50])
def test_rms_is_smaller_than_delta(cut):
    # The authors' relation between delta and T replaces the sum over modes by an integral.
    assert 0.8 < Diffeo(1.0, cut).rms(512) < 1.0


def test_rms_is_proportional_to_delta():
    one = Diffeo(1.0, 3).rms((20, 31))
    assert Diffeo(4.0, 3).rms((20, 31)) == 4 * one  # a power of two: exact
    assert Diffeo(0.3, 3).rms((20, 31)) == pytest.approx(0.3 * one, rel=1e-14)


def test_the_field_is_proportional_to_delta():
    one, two = (Diffeo(delta).displacement(3, 32, seeded(), torch.float64) for delta in (1.0, 2.0))
    assert torch.equal(2 * one, two)


def test_components_scale_with_their_own_sides():
    # T goes as 1/n^2 and the pixels as n, so both components are as large in pixels whatever the sides.
    m = 4000
    squares = Diffeo().displacement(m, (12, 40), seeded(), torch.float64).square().mean(dim=(2, 3))
    half = Diffeo().rms((12, 40)) ** 2 / 2
    assert ((squares.mean(0) - half).abs() < 4 * squares.std(0) / math.sqrt(m)).all()


def test_square_sizes_both_ways():
    assert torch.equal(Diffeo().displacement(2, 16, seeded()), Diffeo().displacement(2, (16, 16), seeded()))
    assert Diffeo().rms(16) == Diffeo().rms((16, 16)) == Diffeo().rms(torch.Size([16, 16]))


# ---- arguments


@pytest.mark.parametrize("delta", [0.0, -1.0, math.nan, math.inf])
def test_delta_out_of_range(delta):
    with pytest.raises(UsageError, match=f"delta must be a positive number of pixels, got {delta}"):
        Diffeo(delta=delta)


@pytest.mark.parametrize("cut", [1, 0, -3, 2.5, math.nan, math.inf])
def test_cut_out_of_range(cut):
    with pytest.raises(
        UsageError, match=f"cut must be an integer of at least 2, got {cut}.*no meaning at cut = 1"
    ):
        Diffeo(cut=cut)


def test_a_whole_number_of_another_type_is_a_cut():
    assert Diffeo(cut=3.0) == Diffeo(cut=np.int64(3)) == Diffeo(cut=3)
    assert torch.equal(Diffeo(cut=3.0).displacement(2, 16, seeded()), Diffeo().displacement(2, 16, seeded()))


@pytest.mark.parametrize("size", [1, (1, 8), (8, 1), 0])
def test_too_few_pixels(size):
    with pytest.raises(UsageError, match="at least 2 pixels a side"):
        Diffeo().displacement(1, size)
    with pytest.raises(UsageError, match="at least 2 pixels a side"):
        Diffeo().rms(size)


# ---- the range of temperatures


@pytest.mark.parametrize(
    ("delta", "fault"), [(0.49, "less than a pixel"), (32 / (3 * math.pi) + 0.01, "one-to-one")]
)
def test_outside_the_range_a_warning_gives_the_numbers(delta, fault):
    with pytest.warns(DiffsensWarning, match=fault) as caught:
        Diffeo(delta).displacement(1, 32, seeded())
    message = str(caught[0].message)
    assert f"with delta = {delta:g}" in message
    assert "choose --delta between 0.5 and 3.39" in message
    assert "side of 32 pixels" in message


def test_the_bounds_are_those_of_the_temperature():
    """T = 1/(pi n^2 ln cut) and 4/(pi^3 cut^2 ln cut): Petrini et al. 2021, Appendix C."""
    n, cut = 64, 5
    low, high = (Diffeo(delta, cut).temperature(n) for delta in delta_bounds(n, cut))
    assert low == pytest.approx(1 / (math.pi * n**2 * math.log(cut)), rel=1e-15)
    assert high == pytest.approx(4 / (math.pi**3 * cut**2 * math.log(cut)), rel=1e-15)


@given(
    sides=st.tuples(st.integers(2, 2000), st.integers(2, 2000)),
    cut=st.integers(2, 40),
    delta=st.floats(1e-3, 1e3),
    reference_side=st.sampled_from([None, 32, 224]),
)
@example(sides=(19, 19), cut=3, delta=3.0, reference_side=None)
def test_what_is_advised_is_accepted(sides, cut, delta, reference_side):
    problem = Diffeo(delta, cut, reference_side).problem(sides)
    least, most = delta_bounds(min(sides), cut)
    if problem is None:
        assert least <= Diffeo(delta, cut, reference_side).at(sides).delta <= most
        return
    advised = re.search(r"choose --delta between (\S+) and (\S+)$", problem)
    if advised is None:  # no delta fits
        assert problem.endswith("use larger images or a lower --cut")
        step = 0.0 if reference_side is None else 2e-3 * min(sides) / reference_side  # of what is advised
        assert most - least < step
        return
    for bound in advised.groups():
        size, side = read_delta(bound)
        assert side == reference_side
        assert Diffeo(size, cut, side).problem(sides) is None


@pytest.mark.parametrize("delta", [0.5, 1.0, 32 / (3 * math.pi)])
def test_no_warning_inside_and_at_the_bounds(delta):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        Diffeo(delta).displacement(1, 32, seeded())
    assert Diffeo(delta).problem(32) is None


@pytest.mark.parametrize("size", [(9, 64), (64, 9)])
def test_the_shorter_side_counts(size):
    assert "side of 9 pixels" in Diffeo(1.0, 3).problem(size)


def test_no_delta_fits():
    problem = Diffeo(1.0, 20).problem(28)
    assert problem.endswith("use larger images or a lower --cut")


# ---- pixels at a reference side


@pytest.mark.parametrize("side", [float("nan"), "a", 1, 224.5])
def test_a_side_that_is_none_is_refused(side):
    with pytest.raises(UsageError, match="reference_side must be between 2 and"):
        Diffeo(reference_side=side)


@pytest.mark.parametrize("size", [224, (224, 224), (224, 300), (300, 224)])
def test_at_the_reference_side_it_is_in_plain_pixels(size):
    one, other = Diffeo(0.7), Diffeo(0.7, reference_side=224)
    assert torch.equal(one.displacement(3, size, seeded()), other.displacement(3, size, seeded()))
    assert one.rms(size) == other.rms(size)


def test_at_half_the_side_it_is_half_as_large():
    one, other = Diffeo(1.0), Diffeo(2.0, reference_side=224)
    images = pictures(2, 3, (112, 112))
    assert torch.equal(one(images, seeded()), other(images, seeded()))
    assert one.rms(112) == other.rms(112)
    assert one.temperature(112) == other.temperature(112)


@pytest.mark.parametrize("size", [(64, 160), (160, 64)])
def test_the_shorter_side_sets_the_scale(size):
    one, other = Diffeo(0.5, cut=4), Diffeo(1.0, cut=4, reference_side=128)
    assert torch.equal(one.displacement(2, size, seeded()), other.displacement(2, size, seeded()))
    assert one.rms(size) == other.rms(size)


def test_enlarged_images_move_by_the_same_share_of_the_side():
    """The field of equal draws, over the side: the same at each resolution, at the pixels that both have."""
    diffeo = Diffeo(1.0, reference_side=100)
    small, large = (
        diffeo.displacement(2, side, seeded(), torch.float64) / side for side in (57, 113)
    )  # every second pixel of 113 is one of 57
    torch.testing.assert_close(large[..., ::2, ::2], small, rtol=1e-12, atol=1e-15)


def test_the_problem_is_told_in_the_unit_asked_for():
    problem = Diffeo(0.6, reference_side=224).problem(128)
    assert problem.startswith("with delta = 0.6@224 the deformation moves less than a pixel on a side of 128")
    assert problem.endswith("choose --delta between 0.875@224 and 23.767@224")


@pytest.mark.parametrize("side", [0, 1, 2.5, 10_000])
def test_a_reference_side_is_a_number_of_pixels(side):
    with pytest.raises(UsageError, match=f"reference_side must be between 2 and 8,192, got {side}"):
        Diffeo(reference_side=side)


def test_the_temperature_is_of_one_side():
    with pytest.raises(UsageError, match=r"expected one side in pixels, got \(32, 32\)"):
        Diffeo().temperature((32, 32))


def test_temperature():
    assert Diffeo(2.0, 5).temperature(64) == reference.temperature(2.0, 5, 64)


# ---- resampling


@pytest.mark.parametrize("size", [(12, 12), (11, 15), (15, 10)])
@pytest.mark.parametrize("spread", [0.4, 3.0])
def test_resampling_pixel_by_pixel(size, spread):
    # Fields of any kind, also over the border. The place of a pixel goes through -1 .. 1 and back, which
    # rounds it by some eps of a side; slopes are below 1 a pixel.
    images = pictures(3, 2, size)
    fields = spread * torch.randn(3, 2, *size, generator=seeded(1), dtype=torch.float64)
    expected = [reference.resample(i, f) for i, f in zip(images.numpy(), fields.numpy(), strict=True)]
    assert np.allclose(deform(images, fields).numpy(), expected, rtol=0, atol=10 * 15 * EPS64)
    found = deform(images.float(), fields.float())
    assert np.allclose(found.numpy(), expected, rtol=0, atol=20 * 15 * EPS32)


def test_a_deformation_is_the_field_and_the_resampling():
    images = pictures(3, 2, (12, 17))
    expected = [
        reference.resample(image, reference.displacement_field(c, 12, 17, 1.0, 3))
        for image, c in zip(images.numpy(), normals(3, 3), strict=True)
    ]
    found = Diffeo()(images, np.random.default_rng(0)).numpy()
    assert np.allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("dtype", "eps"), [(torch.float32, EPS32), (torch.float64, EPS64)])
def test_no_displacement_no_change(dtype, eps):
    images = pictures(2, 3, (33, 50), dtype)
    found = deform(images, torch.zeros(2, 2, 33, 50, dtype=dtype))
    # Places are rounded by a few eps of the side; slopes are below 1 a pixel.
    assert (found - images).abs().max() < 4 * 50 * eps


@pytest.mark.parametrize(("dx", "dy"), [(1, 0), (0, 1), (-2, 3)])
def test_whole_pixels(dx, dy):
    images = pictures(2, 3, (10, 14))
    shift = torch.tensor([dx, dy], dtype=torch.float64).view(1, 2, 1, 1).expand(2, 2, 10, 14)
    found = deform(images, shift)
    # Read at x - tau: the picture moves by +tau, and what comes in is the border pixel.
    rows = (torch.arange(10) - dy).clamp(0, 9)
    columns = (torch.arange(14) - dx).clamp(0, 13)
    assert torch.allclose(found, images[:, :, rows][:, :, :, columns], rtol=0, atol=4 * 14 * EPS64)


def test_half_a_pixel_is_the_mean_of_two():
    images = pictures(1, 1, (6, 8))
    field = torch.zeros(1, 2, 6, 8, dtype=torch.float64)
    field[:, 0] = -0.5
    found = deform(images, field)
    expected = (images[..., :-1] + images[..., 1:]) / 2
    assert torch.allclose(found[..., :-1], expected, rtol=0, atol=4 * 8 * EPS64)
    assert torch.allclose(found[..., -1], images[..., -1], rtol=0, atol=4 * 8 * EPS64)


def test_far_outside_is_the_border():
    images = pictures(1, 2, (6, 8))
    field = torch.full((1, 2, 6, 8), 1e6, dtype=torch.float64)
    assert torch.equal(deform(images, field), images[..., :1, :1].expand_as(images))
    assert torch.equal(deform(images, -field), images[..., -1:, -1:].expand_as(images))


@pytest.mark.parametrize("value", [0.0, 1.0, -3.3])
def test_constant_images_do_not_change(value):
    # The four weights of a pixel sum to one, to rounding.
    images = torch.full((3, 2, 16, 20), value)
    assert (Diffeo()(images, seeded()) - images).abs().max() <= 4 * EPS32 * abs(value)


def test_a_ramp_shows_the_field():
    # Bilinear reading of a straight ramp is exact, so away from clamping the picture moves by the field.
    ramp = torch.arange(20, dtype=torch.float64).expand(1, 1, 16, 20)
    field = Diffeo().displacement(1, (16, 20), seeded(), torch.float64)
    across = (ramp[:, 0] - field[:, 0]).clamp(0, 19)
    assert torch.allclose(deform(ramp, field)[:, 0], across, rtol=0, atol=1e-13)


def test_values_stay_within_the_picture():
    images = pictures(4, 3, 32, torch.float32)
    moved = Diffeo(3.0)(images, seeded())
    assert moved.min() >= images.min() * (1 - 4 * EPS32)
    assert moved.max() <= images.max() * (1 + 4 * EPS32)
    assert not torch.equal(moved, images)


# ---- types and layouts


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_types_stay(dtype):
    images = pictures(2, dtype=dtype)
    moved = Diffeo()(images, seeded())
    assert (moved.dtype, moved.shape) == (dtype, images.shape)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_rounded_at_the_end_only(dtype):
    images = pictures(2, dtype=dtype)
    assert torch.equal(Diffeo()(images, seeded()), Diffeo()(images.float(), seeded()).to(dtype))


def test_the_wider_type_counts():
    images = pictures(2, 3, 16)
    field = Diffeo().displacement(2, 16, seeded())
    assert torch.equal(deform(images, field), deform(images, field.double()))


def test_channels_last():
    images = pictures(2, 3, (12, 16), torch.float32)
    found = Diffeo()(images.to(memory_format=torch.channels_last), seeded())
    assert torch.allclose(found, Diffeo()(images, seeded()), rtol=0, atol=4 * EPS32)


def test_channels_move_together():
    image = pictures(2, 1, 16)
    moved = Diffeo()(image.expand(-1, 5, -1, -1), seeded())
    assert torch.equal(moved, moved[:, :1].expand_as(moved))


def test_inputs_are_left_as_they_are():
    images = pictures()
    copy = images.clone()
    Diffeo()(images, seeded())
    assert torch.equal(images, copy)


def test_no_images():
    assert Diffeo()(torch.empty(0, 3, 16, 16)).shape == (0, 3, 16, 16)


# ---- whose draws


@pytest.mark.parametrize(
    "make", [seeded, lambda: np.random.default_rng(0), lambda: Streams(0, "diffeo", range(3))]
)
def test_equal_generators_equal_fields(make):
    one, two = (Diffeo().displacement(3, 16, make()) for _ in range(2))
    assert torch.equal(one, two)
    assert not torch.equal(one[0], one[1])


def test_without_a_generator_the_global_stream_counts():
    with torch.random.fork_rng():
        torch.manual_seed(3)
        first, second = Diffeo().displacement(2, 16), Diffeo().displacement(2, 16)
    assert torch.equal(first, Diffeo().displacement(2, 16, seeded(3)))
    assert not torch.equal(first, second)


def test_a_field_belongs_to_the_image_not_to_the_batch():
    # The draws are the same to the bit; the sum over six modes may be taken in another order.
    images = pictures(9, 1, 16, torch.float32)
    together = Diffeo().displacement(9, 16, Streams(0, "diffeo", range(9)))
    moved = Diffeo()(images, Streams(0, "diffeo", range(9)))
    close = {"rtol": 0, "atol": 6 * 4 * 5 * EPS32}
    for group in ([4], [0, 1, 2, 3, 4], [8, 4, 0], list(range(9))[::-1]):
        assert torch.allclose(
            Diffeo().displacement(len(group), 16, Streams(0, "diffeo", group)), together[group], **close
        )
        found = Diffeo()(images[group], Streams(0, "diffeo", group))
        assert torch.allclose(found, moved[group], rtol=0, atol=2 * close["atol"])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_as_many_generators_as_images(count):
    with pytest.raises(UsageError, match=f"one generator for each of the 2 images, got {count}"):
        Diffeo()(pictures(2), Streams(0, "diffeo", range(count)))


# ---- wrong shapes


@pytest.mark.parametrize(
    "images",
    [torch.rand(3, 16, 16), torch.rand(16, 16), torch.rand(1, 2, 3, 16, 16), torch.ones(1, 3, 16, 16).byte()],
)
def test_what_is_no_batch_of_images(images):
    with pytest.raises(UsageError, match=r"floating-point images \(n, c, h, w\), got"):
        Diffeo()(images)


@pytest.mark.parametrize("shape", [(1, 2, 16, 16), (2, 1, 16, 16), (2, 2, 16, 15), (2, 16, 16, 2), (2, 2)])
def test_a_field_that_does_not_fit(shape):
    with pytest.raises(UsageError, match=r"displacements \(n, 2, h, w\), got \(2, 3, 16, 16\) and"):
        deform(pictures(2), torch.zeros(shape))
