"""E_k of maps that move with the image, of maps that do not, and by brute force."""

import pytest
import torch
from torch import nn

from timm_diffsens import Diffeo, UsageError, bench
from timm_diffsens.perturb.fields import deform
from timm_diffsens.perturb.streams import Streams
from timm_diffsens.sensitivities.equivariance import resized
from timm_diffsens.sensitivities.forwards import PassSettings
from timm_diffsens.sensitivities.perturbed import Perturbation, PerturbedImages, batches_of
from timm_diffsens.sensitivities.probe import Probe
from timm_diffsens.sensitivities.run import run_pass

N, SIDE = 10, 24


def images(channels=2):
    """In the middle of an empty frame, so that nothing leaves it and no border shows."""
    made = torch.zeros(N, channels, SIDE, SIDE, dtype=torch.float64)
    source = torch.Generator().manual_seed(0)
    made[:, :, 8:16, 8:16] = torch.rand(N, channels, 8, 8, generator=source, dtype=torch.float64)
    return made


class WholePixels:
    """Each image moves by a few whole pixels."""

    def displacement(self, n, size, generator=None, dtype=torch.float64, device="cpu"):
        tau = torch.stack([torch.from_numpy(each.integers(-3, 4, 2)) for each in generator])
        return tau[:, :, None, None].expand(n, 2, *size).to(device, dtype)

    def __call__(self, batch, generator):
        tau = self.displacement(len(batch), batch.shape[-2:], generator, batch.dtype)
        return deform(batch, tau)


def measured(net, deformation, batch, batch_size=4):
    perturbed = PerturbedImages(batches_of(batch), Perturbation((deformation,)))
    done = run_pass(net, perturbed, PassSettings("all", batch_size, equivariance=True))
    return {layer.layer: layer for layer in done.equivariance}


def test_a_circular_convolution_moves_with_whole_pixels():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1, padding_mode="circular", bias=False), nn.ReLU())
    found = measured(net.double().eval(), WholePixels(), images())
    for layer in found.values():
        # the grid of whole pixels is off by some rounding units of its ends, and so is what is read
        assert layer.r < 1e-24
        assert layer.g > 0.01


def test_a_layer_that_knows_its_place_does_not():
    class Ramp(nn.Module):
        """Each pixel is weighted by where it is, the more so to the right."""

        def forward(self, x):
            return x * 10 ** torch.linspace(-3, 3, SIDE, dtype=x.dtype)

    found = measured(nn.Sequential(Ramp()).eval(), WholePixels(), images())
    assert found["0"].r > 0.1


def test_it_equals_the_definition_on_maps_of_another_size():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 4, 3, stride=2, padding=1), nn.Tanh()).double().eval()
    batch, field = images(), Diffeo(1.5)
    tau = field.displacement(N, SIDE, Streams(0, "diffeo", range(N)), torch.float64)
    with torch.no_grad():
        clean, moved = net(batch), net(deform(batch, tau))
    small = resized(tau, (12, 12))
    numerator = (moved - deform(clean, small)).square().sum(dim=(1, 2, 3)).mean()
    expected = float(numerator / (moved - clean).square().sum(dim=(1, 2, 3)).mean())
    for size in (4, 10):
        assert measured(net, field, batch, size)["1"].r == pytest.approx(expected, rel=1e-10)


def test_a_field_on_a_smaller_map_is_the_same_in_its_pixels():
    constant = torch.tensor([4.0, -2.0])[:, None, None].expand(1, 2, 20, 40)
    small = resized(constant, (5, 20))
    assert small.shape == (1, 2, 5, 20)
    assert torch.allclose(small[0, 0], torch.tensor(2.0))
    assert torch.allclose(small[0, 1], torch.tensor(-0.5))
    assert resized(constant, (20, 40)) is constant


def test_channels_last_maps_are_read_as_they_lie():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(2, 5).double()

        def forward(self, x):
            return self.inner(x.permute(0, 2, 3, 1))

    torch.manual_seed(0)
    net = Last().eval()
    found = measured(net, WholePixels(), images())
    assert found["inner"].channel_axis == 2
    assert found["inner"].r < 1e-24


def test_layers_without_a_map_say_so():
    net = nn.Sequential(nn.Conv2d(2, 3, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 2))
    found = measured(net.double().eval(), Diffeo(1.0), images())
    assert [found[name].reason for name in ("0", "1", "2", "3")] == [None, *["no map"] * 3]


def test_in_a_record_it_stands_beside_the_layers():
    torch.manual_seed(0)
    net = (
        nn.Sequential(nn.Conv2d(2, 3, 3), nn.Conv2d(3, 3, 3), nn.Flatten(), nn.LazyLinear(2)).double().eval()
    )
    options = {"dataset": images(), "images": "all", "input_size": SIDE, "layers": "all", "shuffles": 2}
    record = bench(net, equivariance=True, **options)
    assert list(record.equivariance) == ["original", "channel-shuffled"]
    values = record.equivariance["original"]
    assert len(values.r) == len(record.variants["original"])
    assert 0 < values.r[0] < 2
    assert values.r[-1] is None
    assert values.reason[-1] == "no map"
    plain = bench(net, **options)
    assert plain.key != record.key
    assert plain.variants == record.variants


def test_a_deformation_without_fields_is_refused():
    with pytest.raises(UsageError, match="no displacement fields"):
        bench(
            nn.Flatten(),
            dataset=images(3),
            deformation=lambda x, generator: x.flip(-1),
            equivariance=True,
            input_size=SIDE,
        )


def test_results_need_the_probe_to_be_opened_for_them():
    with pytest.raises(UsageError, match="equivariance=True"):
        Probe(nn.Flatten()).equivariance_results()


def test_half_precision_reads_maps_as_exactly_as_float32():
    """Of an identity E is 0 but for the rounding of the map itself, 2^-8 of it in bfloat16."""
    net = nn.Sequential(nn.Conv2d(2, 2, 1, bias=False)).eval()
    with torch.no_grad():
        net[0].weight.copy_(torch.eye(2)[:, :, None, None])
    for dtype, bound in ((torch.float32, 1e-10), (torch.bfloat16, 1e-3)):
        batch = torch.rand(N, 2, 56, 56, generator=torch.Generator().manual_seed(1)).to(dtype)
        found = measured(net.to(dtype), Diffeo(1.0), batch)
        assert found["0"].r < bound
