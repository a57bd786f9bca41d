"""Reduced precision: of the forwards alone, and in the record."""

import pytest
import torch
from torch import nn

from timm_diffsens import Diffeo, Precision, Probe, UsageError, bench, measure, sensitivity
from timm_diffsens.device.precision import FULL
from timm_diffsens.sensitivities.perturbed import Perturbation

CPU = torch.device("cpu")


@pytest.fixture
def images():
    return torch.rand(20, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def test_sums_over_bfloat16_forwards_are_those_of_float64(images):
    layer = nn.Conv2d(3, 3, 1, groups=3, bias=False)  # one product a number: rounded once, in any layout
    moved = Perturbation((Diffeo(delta=2),)).parts(images, range(20))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        outputs = layer(moved)
    assert outputs.dtype == torch.bfloat16
    expected = sensitivity(*outputs.double().chunk(3))
    found = measure(nn.Sequential(layer), images, diffeo=Diffeo(delta=2), precision=Precision(amp=True))[-1]
    # of float32 sums over stretches, see test_reductions: 2^12 / 8 half units, in numerator and denominator
    assert (found.d, found.g, found.r) == pytest.approx(tuple(expected), rel=2 * 2**9 * 2**-24)
    full = measure(nn.Sequential(layer), images, diffeo=Diffeo(delta=2))[-1]
    assert full.d != found.d


def test_channel_averages_of_bfloat16_are_not_rounded(images):
    layer = nn.Conv2d(3, 3, 1, groups=3, bias=False)
    layer.weight.data.flatten().copy_(torch.tensor([0.7, -0.4, 0.9]))
    moved = Perturbation((Diffeo(delta=2),)).parts(images, range(20))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16), Probe(layer, mean_channel=True) as probe:
        output = probe.model(moved)
    assert output.dtype == torch.bfloat16
    clean, changed, noised = output.double().mean(1).flatten(1).chunk(3)
    found = probe.mean_channel_results()[-1]
    # Averages below 2 are rounded to float32 by at most 2^-24, in both terms of a gap of 32 x 32 numbers;
    # relative to its norm, twice in its square, in numerator and denominator.
    smallest = min(float((each - clean).norm(dim=1).min()) for each in (changed, noised))
    assert float(output.abs().max()) < 2
    bound = 2 * 2 * (2 * 2**-24 * 32) / smallest
    assert (found.d, found.g, found.r) == pytest.approx(tuple(sensitivity(clean, changed, noised)), rel=bound)


def test_what_is_drawn_is_not_rounded(images):
    whole = Perturbation().parts(images, range(20))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(Perturbation().parts(images, range(20)), whole)


def test_autocast_ends_with_the_measurement(images):
    measure(nn.Conv2d(3, 2, 3), images, precision=Precision(amp=True))
    assert not torch.is_autocast_enabled("cpu")


def test_tf32_is_off_unless_asked_for_and_put_back():
    switches = (torch.backends.cudnn, torch.backends.cuda.matmul)
    before = [switch.allow_tf32 for switch in switches]
    try:
        for was in (True, False):
            for switch in switches:
                switch.allow_tf32 = was
            for precision, wanted in ((FULL, False), (Precision(tf32=True), True)):
                with precision.applied(torch.device("cuda")):
                    assert [switch.allow_tf32 for switch in switches] == [wanted] * 2
                assert [switch.allow_tf32 for switch in switches] == [was] * 2
    finally:
        for switch, flag in zip(switches, before, strict=True):
            switch.allow_tf32 = flag


def test_tf32_without_cuda_is_refused_before_anything_is_measured(images):
    asked = {"pretrained": False, "images": 4, "device": "cpu"}
    with pytest.raises(UsageError, match=r"^tf32 is for CUDA devices, got cpu"):
        bench("test_resnet", tf32=True, **asked)
    with pytest.raises(UsageError, match="--tf32 is for CUDA devices, got cpu"):
        measure(nn.Conv2d(3, 2, 3), images, precision=Precision(tf32=True))


def test_a_record_says_how_exact_its_forwards_were_and_has_a_key_of_its_own():
    asked = {"pretrained": False, "images": 4, "layers": "stages", "variants": ["original"]}
    full, half = (bench("test_resnet", amp=amp, **asked) for amp in (False, True))
    assert (full.protocol.dtype, half.protocol.dtype) == ("float32", "float32, bfloat16 autocast")
    assert full.key != half.key
    assert full.protocol.sha256 != half.protocol.sha256  # not compared with each other
    assert Precision(amp=True, tf32=True).describe("float64") == "float64, bfloat16 autocast, TF32"
    assert half.output.d != full.output.d
