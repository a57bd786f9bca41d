"""Components of a displacement: their kind, their size, and what they leave as it is."""

import math

import numpy as np
import pytest
import torch

from timm_diffsens import Diffeo, UsageError, registry
from timm_diffsens.perturb.components import Dilation, Mode, Rotation, Shear, Translation
from timm_diffsens.perturb.streams import Streams

KINDS = [Translation, Rotation, Dilation, Shear, Mode]
SIZES = [(32, 32), (24, 40), (33, 17)]


def fields(kind, n=64, size=(32, 32), **parameters):
    generators = Streams(0, "diffeo", range(n))
    return kind(**parameters).displacement(n, size, generators, torch.float64)


def pixels(size):
    """Coordinates of the pixels from the centre: x, y."""
    x, y = (torch.arange(side, dtype=torch.float64) - (side - 1) / 2 for side in (size[1], size[0]))
    return x.expand(*size), y[:, None].expand(*size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_each_field_has_the_rms_of_the_max_entropy_field(kind, size):
    found = fields(kind, size=size, delta=0.8, cut=4)
    rms = found.square().sum(dim=1).mean(dim=(1, 2)).sqrt()
    expected = Diffeo(0.8, cut=4).rms(size)
    assert kind(0.8, 4).rms(size) == pytest.approx(expected, rel=1e-12)
    assert rms.numpy() == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_pixels_at_a_reference_side(kind):
    for side, delta in ((224, 1.5), (112, 0.75)):
        plain = fields(kind, n=2, size=(side, side), delta=delta)
        assert torch.equal(fields(kind, n=2, size=(side, side), delta=1.5, reference_side=224), plain)


@pytest.mark.parametrize("kind", KINDS)
def test_signs_and_directions_have_no_preference(kind):
    n = 4000
    found = fields(kind, n=n, size=(9, 9))
    # each number of the mean of n fields, of variance at most rms^2 * 9 (corners lie up to 2.2 radii out)
    assert float(found.mean(dim=0).abs().max()) < 5 * 3 * kind().rms((9, 9)) / math.sqrt(n)
    assert float(found.std(dim=0).max()) > 0.1 * kind().rms((9, 9))


@pytest.mark.parametrize("kind", KINDS)
def test_draws_belong_to_the_image(kind):
    whole = fields(kind, n=7)
    for i in (0, 3, 6):
        alone = kind().displacement(1, 32, Streams(0, "diffeo", [i]), torch.float64)
        assert torch.equal(alone[0], whole[i])


def test_a_translation_is_the_same_everywhere():
    found = fields(Translation)
    assert torch.equal(found, found[:, :, :1, :1].expand_as(found))


@pytest.mark.parametrize("size", SIZES)
def test_a_rotation_keeps_distances_from_the_centre(size):
    x, y = pixels(size)
    found = fields(Rotation, size=size, delta=3.0)
    read_x, read_y = x - found[:, 0], y - found[:, 1]
    assert torch.allclose(read_x**2 + read_y**2, (x**2 + y**2).expand_as(read_x), atol=1e-9)
    turned = x * read_y - y * read_x  # r^2 sin(phi)
    assert set(np.sign(turned[:, 0, 0].numpy())) == {-1, 1}


def test_a_radially_symmetric_image_turns_into_itself_but_for_interpolation():
    size, width = (65, 65), 6.0
    x, y = pixels(size)
    image = torch.exp(-(x**2 + y**2) / (2 * width**2))[None, None]
    turned = Rotation(delta=2.0)(image, Streams(0, "diffeo", [0]))
    moved = Translation(delta=2.0)(image, Streams(0, "diffeo", [0]))
    # bilinear reading errs by at most an eighth of the second derivative along each axis, 1 / width^2
    bound = 2 / (8 * width**2)
    assert float((turned - image).abs().max()) < bound
    assert float((moved - image).abs().max()) > 10 * bound


@pytest.mark.parametrize("size", SIZES)
def test_a_dilation_is_in_proportion_to_the_distance(size):
    x, y = pixels(size)
    found = fields(Dilation, size=size)
    radius = math.sqrt(float((x**2 + y**2).mean()))
    for field in found:
        scale = float(field[0, 0, 0] / x[0, 0])
        assert abs(scale) == pytest.approx(Dilation().rms(size) / radius, rel=1e-9)
        assert torch.allclose(field, scale * torch.stack([x, y]), atol=1e-12)


def test_a_shear_has_neither_divergence_nor_curl():
    found = fields(Shear)
    across, down = found.diff(dim=3)[:, :, 1:, :], found.diff(dim=2)[:, :, :, 1:]
    divergence, curl = across[:, 0] + down[:, 1], across[:, 1] - down[:, 0]
    assert float(divergence.abs().max()) < 1e-12
    assert float(curl.abs().max()) < 1e-12
    angles = torch.atan2(across[:, 1, 0, 0], across[:, 0, 0, 0])
    assert float(angles.min()) < -2 < 2 < float(angles.max())  # all round


def test_the_kinds_are_orthogonal():
    """So that they are parts: no field of one kind has a share of another."""
    kinds = [fields(kind, n=1, delta=1e-4).flatten() for kind in (Translation, Rotation, Dilation, Shear)]
    for i, one in enumerate(kinds):
        for other in kinds[:i]:
            # the quadratic part of the rotation is smaller by phi / 2, which is some 1e-6 here
            assert abs(float(one @ other)) < 1e-5 * float(one.norm() * other.norm())


def test_modes_are_those_of_the_max_entropy_field():
    size, cut = (20, 28), 3
    diffeo = Diffeo(1.0, cut=cut)
    waves = {
        (i, j): fields(Mode, n=1, size=size, i=i, j=j)[0]
        for i in range(1, cut + 1)
        for j in range(1, cut + 1)
    }
    basis = torch.stack([w[0] / w[0].norm() for w in waves.values()]).flatten(1)
    drawn = diffeo.displacement(5, size, Streams(1, "diffeo", range(5)), torch.float64)[:, 0].flatten(1)
    residue = drawn - (drawn @ basis.T) @ basis
    assert float((basis @ basis.T - torch.eye(len(basis), dtype=torch.float64)).abs().max()) < 1e-9
    assert float(residue.abs().max()) < 1e-9


@pytest.mark.parametrize(
    ("make", "fault"),
    [
        (lambda: Translation(delta=0), "delta must be a positive number"),
        (lambda: Shear(cut=1), "cut must be an integer of at least 2"),
        (lambda: Mode(i=0), "i must be a whole number between 1 and 1000, got 0"),
        (lambda: Mode(i=1.5), "got 1.5"),
        (lambda: Mode(i=40)(torch.rand(1, 1, 32, 32)), "more half waves than 32 x 32 pixels show"),
        (lambda: Rotation(delta=99)(torch.rand(1, 1, 8, 8)), "no rotation"),
        (lambda: Dilation()(torch.rand(3, 8, 8)), r"expected floating-point images \(n, c, h, w\)"),
    ],
)
def test_what_cannot_be_is_refused(make, fault):
    with pytest.raises(UsageError, match=fault):
        make()


def test_a_displacement_beyond_the_centre_is_a_problem():
    for kind in (Rotation, Dilation, Shear):
        assert kind(delta=1.0).problem(32) is None
        assert "more than they are apart" in kind(delta=20.0).problem(32)


def test_they_are_found_by_name():
    assert {"translation", "rotation", "dilation", "shear", "mode"} <= {
        entry.name for entry in registry.built_ins("deformations")
    }
    entry = registry.find("deformations", "mode:i=2,j=1")
    assert entry.build(delta=0.5) == Mode(delta=0.5, i=2, j=1)
    assert entry.recorded == "mode:i=2,j=1"
