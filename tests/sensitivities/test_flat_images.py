"""Images that a deformation changes by rounding alone: nothing is made of that."""

import pytest
import torch
from torch import nn

from timm_diffsens import Diffeo, bench, measure
from timm_diffsens.errors import DiffsensWarning
from timm_diffsens.schema.layers import MEASURES
from timm_diffsens.sensitivities import perturbed
from timm_diffsens.sensitivities.perturbed import Perturbation

REASON = "the deformation changes these images by rounding alone"


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 14 * 14, 5)).eval()


def flat(n, size=16, dtype=torch.float32):
    """Each channel of each image at a value of its own."""
    values = torch.randn(n, 3, 1, 1, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (10 * values).to(dtype).expand(n, 3, size, size).contiguous()


def textured(n, size=16):
    return torch.rand(n, 3, size, size, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("size", [16, 224])
def test_a_flat_image_is_neither_deformed_nor_noised(dtype, size):
    clean = flat(6, size, dtype)
    assert not torch.equal(Diffeo()(clean, torch.Generator().manual_seed(0)), clean), "rounding shows"
    one, deformed, noised = Perturbation().parts(clean, range(6)).chunk(3)
    assert torch.equal(one, clean)
    assert torch.equal(deformed, clean)
    assert torch.equal(noised, clean)


def test_images_that_are_not_flat_are_the_same_to_the_bit(monkeypatch):
    images = torch.cat([textured(3), textured(3) * 1e-3 + 5, flat(1)])
    images[-1, 0, 8, 8] += 1e-4  # ten units in the last place of the largest value, at one pixel
    found = Perturbation((Diffeo(delta=0.5),)).parts(images, range(7))
    monkeypatch.setattr(perturbed, "_without_rounding", lambda clean, deformed: deformed)
    assert torch.equal(found, Perturbation((Diffeo(delta=0.5),)).parts(images, range(7)))


def test_flat_images_alone_have_no_values():
    with pytest.warns(DiffsensWarning, match=f"no layer of Sequential has a value: {REASON}"):
        layers = measure(network(), flat(8), layers="all", batch_size=3)
    assert len(layers) == 4
    for layer in layers:
        assert layer.reason == REASON
        assert {getattr(layer, name) for name in MEASURES} == {None}
        assert layer.n == 8


def test_flat_images_among_others_add_nothing_to_the_displacement():
    """By hand: they have no a and no g, and their part in the distances of pairs."""
    images = torch.cat([flat(1), textured(5), flat(3)[1:]])
    perturbed = Perturbation().parts(images, range(8))
    net = network()
    with torch.no_grad():
        clean, deformed, noised = net(perturbed).double().chunk(3)
    a, g = ((part - clean).square().sum(1) for part in (deformed, noised))
    assert a[[0, 6, 7]].max() < 1e-9 * a.max()
    pairs = 2 * (clean - clean.mean(0)).square().sum() / 7
    output = measure(net, images, layers="output", batch_size=4)[-1]
    assert output.d == pytest.approx(float(a.mean() / pairs), rel=1e-5)
    assert output.g == pytest.approx(float(g.mean() / pairs), rel=1e-5)
    assert output.r == pytest.approx(float(a.sum() / g.sum()), rel=1e-5)
    assert output.reason is None


def test_a_record_of_flat_images_says_why_it_has_no_values():
    with pytest.warns(DiffsensWarning, match=REASON):
        record = bench(network(), dataset=flat(6), images=6, variants=["original", "mean-channel", "init"])
    for layers in record.variants.values():
        assert {layer.r for layer in layers} == {None}
        assert REASON in {layer.reason for layer in layers}
