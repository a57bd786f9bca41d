"""Deformations by name, and somebody else's, which need to be callable and nothing more."""

import pytest
import torch

from timm_diffsens import (
    Deformation,
    Diffeo,
    UsageError,
    matched_noise,
    measure,
    measure_infinitesimal,
    registry,
    sensitivity,
)
from timm_diffsens.perturb.deformation import problem_of, rms_of
from timm_diffsens.sensitivities.perturbed import Perturbation


def to_the_right(images, generator):
    """Each image by as many pixels as its own generator says."""
    shifts = [int(g.integers(1, 8)) for g in generator]
    return torch.stack([image.roll(shift, -1) for image, shift in zip(images, shifts, strict=True)])


def test_the_built_in_ones_by_name():
    assert registry.names("deformations")[:2] == ["diffeo", "active-pixels"]
    assert registry.names("noises")[0] == "gaussian"
    assert registry.find("deformations", "diffeo:delta=2").build(delta=1.0, cut=5) == Diffeo(2, 5)
    assert registry.find("noises", "gaussian").build() is matched_noise
    assert registry.of_object("deformations", Diffeo(2, 4)).spec == "diffeo:cut=4,delta=2"


def test_a_function_is_a_deformation():
    """A global average does not see a circular shift: D = 0; a pixel does, as much as the definition says."""
    deformation: Deformation = to_the_right
    images = torch.rand(12, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    pixelwise = torch.nn.Conv2d(3, 4, 1).double()
    model = torch.nn.Sequential(pixelwise, torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    pixels, *_, output = measure(model, images, diffeo=deformation, layers="all", batch_size=5, seed=3)
    with torch.no_grad():
        parts = pixelwise(Perturbation((to_the_right,), seed=3).parts(images, range(12))).chunk(3)
    assert (pixels.d, pixels.g, pixels.r) == pytest.approx(tuple(sensitivity(*parts)), rel=1e-10)
    assert output.d < 1e-28  # squares of float64 rounding, over a variance of some 1e-3
    assert rms_of(deformation, 16) is None
    assert problem_of(deformation, 16) is None
    assert rms_of(Diffeo(), 16) == Diffeo().rms(16)
    assert problem_of(Diffeo(9.0), 16) == Diffeo(9.0).problem(16)


def test_another_shape_is_refused():
    def halved(images, generator):
        return images[:, :, ::2]

    with pytest.raises(
        UsageError, match=r"^the deformation halved gave images \(2, 3, 4, 8\), expected \(2, 3, 8, 8\)$"
    ):
        Perturbation((halved,)).parts(torch.rand(2, 3, 8, 8), [0, 1])


@pytest.mark.parametrize("given", [1.0, "diffeo", Diffeo, [Diffeo(), 1.0], []])
def test_what_is_no_deformation_is_refused(given):
    with pytest.raises(UsageError, match=r"diffeo must be a deformation such as Diffeo\(delta=1.0\)"):
        measure(torch.nn.Flatten(), torch.rand(2, 1, 8, 8), diffeo=given)
    with pytest.raises(UsageError, match=r"diffeo must be a deformation such as Diffeo\(delta=1.0\)"):
        measure_infinitesimal(torch.nn.Flatten(), torch.rand(2, 1, 8, 8), diffeo=given)
