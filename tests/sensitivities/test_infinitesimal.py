"""The small limit against Jacobians by hand, finite differences, and sums over modes."""

import math
import warnings
from concurrent.futures import ThreadPoolExecutor

import pytest
import timm
import torch
from torch import nn
from torch.autograd import forward_ad

from timm_diffsens import Diffeo, MeasurementError, UsageError, bench, measure, measure_infinitesimal
from timm_diffsens.data.loading import load_images
from timm_diffsens.device.precision import Precision
from timm_diffsens.errors import DiffsensWarning
from timm_diffsens.models.loading import load_model
from timm_diffsens.perturb.components import Mode, Translation
from timm_diffsens.perturb.fields import deform
from timm_diffsens.perturb.limit import derivative, direction
from timm_diffsens.perturb.noise import matched_noise
from timm_diffsens.perturb.streams import Streams

N = 12
IMAGES = torch.rand(N, 3, 16, 20, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def smooth_network() -> nn.Module:
    """Differentiable everywhere, in double precision."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 5, 3, padding=1), nn.GELU(), nn.AvgPool2d(2), nn.Conv2d(5, 4, 3), nn.Tanh()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)).double().eval()


def test_the_direction_is_the_derivative_of_the_deformed_image():
    tau = Diffeo(1.0).displacement(N, (16, 20), Streams(0, "diffeo", range(N)), torch.float64)
    v = derivative(IMAGES, tau)
    errors = []
    for eps in (1e-3, 5e-4):
        finite = (deform(IMAGES, eps * tau) - IMAGES) / eps
        errors.append(float((finite - v).abs().max()))
    # bilinear reading has one further term, eps tau_x tau_y times the mixed difference
    assert errors[0] < 1e-3 * float(tau.abs().max()) ** 2 * 4
    assert errors[1] == pytest.approx(errors[0] / 2, rel=0.01)


def test_a_linear_layer_is_its_own_jacobian():
    torch.manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 20, 7).double()).eval()
    found = measure_infinitesimal(net, IMAGES, layers="all", seed=3)[-1]
    v = direction(Diffeo(), IMAGES, Streams(3, "diffeo", range(N)))
    noise = matched_noise(IMAGES, IMAGES + v, Streams(3, "noise", range(N)))
    weight = net[1].weight.detach()
    between = 2 * (IMAGES.flatten(1) @ weight.T).var(dim=0).sum()
    d, g = (float((part.flatten(1) @ weight.T).square().sum(dim=1).mean() / between) for part in (v, noise))
    # what is measured is (f + J v) - f in double precision
    assert found.d == pytest.approx(d, rel=1e-9)
    assert found.g == pytest.approx(g, rel=1e-9)
    assert found.r == pytest.approx(d / g, rel=1e-9)


def test_finite_differences_agree():
    net, eps = smooth_network(), 1e-4
    limit = measure_infinitesimal(net, IMAGES, layers="all", seed=1)
    with pytest.warns(UserWarning, match="less than a pixel"):
        small = measure(net, IMAGES, diffeo=Diffeo(eps), layers="all", seed=1)
    for ours, theirs in zip(limit, small, strict=True):
        assert ours.layer == theirs.layer
        # the next term of the expansion is smaller by eps, and by a factor of order ten
        assert ours.d == pytest.approx(theirs.d / eps**2, rel=30 * eps)
        assert ours.g == pytest.approx(theirs.g / eps**2, rel=30 * eps)
        assert ours.r_stderr == pytest.approx(theirs.r_stderr, rel=100 * eps)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:with delta")
def test_trained_weights_have_their_limit_where_the_size_is_small_enough(real_data):
    """Deep in this network 0.05 px is not small: D is near its limit, G, whose noise switches units, far."""
    loaded = load_model(
        "tf_efficientnet_lite0", checkpoint=real_data.file("tf_efficientnet_lite0.safetensors")
    )
    sample = load_images("imagenet", data_dir=real_data.folder("imagenet-sample"), images=8)
    show = sample.transform(loaded.input)
    images = torch.stack([show(sample.load(i)) for i in range(8)]).double()
    model, small = loaded.module.double(), 0.0005
    sizes = [Diffeo(small), Diffeo(0.05)]
    near, far = measure(model, images, diffeo=sizes, layers="stages", batch_size=4)
    limit = measure_infinitesimal(model, images, layers="stages", batch_size=4)
    for one, zero in zip(near, limit, strict=True):
        assert one.d / small**2 == pytest.approx(zero.d, rel=0.01)
        assert one.g / small**2 == pytest.approx(zero.g, rel=0.02)
    assert far[-1].d / 0.05**2 == pytest.approx(limit[-1].d, rel=0.15)
    assert far[-1].g / 0.05**2 > 1.5 * limit[-1].g


def test_d0_adds_over_the_modes_of_the_field():
    """E ||J v||^2 of a field of independent modes is the sum over them, for each mode with its own rms."""
    net, cut, n = smooth_network(), 2, 4000
    images = IMAGES[:1].expand(n, -1, -1, -1) + 1e-3 * torch.randn(n, 3, 16, 20, dtype=torch.float64)

    def numerator(deformation):
        (found,) = measure_infinitesimal(net, images, diffeo=deformation, layers="output", batch_size=400)
        return found.d, found.d_stderr

    whole, spread = numerator(Diffeo(1.0, cut=cut))
    side = Diffeo(1.0, cut=cut)
    modes = [(i, j) for i in (1, 2) for j in (1, 2) if math.hypot(i, j) < cut + 0.5]
    total, square = 0.0, spread**2
    for i, j in modes:
        value, error = numerator(Mode(1.0, cut=cut, i=i, j=j))
        # the share of a mode in the mean square displacement goes with 1 / (i^2 + j^2)
        waves = [
            torch.sin(math.pi * k * torch.linspace(0, 1, s, dtype=torch.float64)).square().mean()
            for k, s in ((i, 20), (j, 16))
        ]
        variance = 4 / (math.pi * math.log(cut)) / (i**2 + j**2)
        share = float(2 * variance * waves[0] * waves[1]) / side.rms((16, 20)) ** 2
        total += share * value
        square += (share * error) ** 2
    assert total == pytest.approx(whole, abs=4 * math.sqrt(square))


def test_any_batch_size_gives_the_same():
    net = smooth_network()
    whole = measure_infinitesimal(net, IMAGES, layers="all", batch_size=12)
    parts = measure_infinitesimal(net, IMAGES, layers="all", batch_size=5)
    for one, other in zip(whole, parts, strict=True):
        assert one.d == pytest.approx(other.d, rel=1e-10)
        assert one.r_stderr == pytest.approx(other.r_stderr, rel=1e-8)


def test_attention_has_a_derivative_and_its_kernels_are_put_back():
    net = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2).double().eval()
    images = torch.randn(6, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    before = torch.backends.cuda.flash_sdp_enabled()
    limit = measure_infinitesimal(net, images, layers="blocks")
    assert torch.backends.cuda.flash_sdp_enabled() == before
    with pytest.warns(UserWarning, match="less than a pixel"):
        small = measure(net, images, diffeo=Diffeo(1e-4), layers="blocks")
    assert [one.r for one in limit] == pytest.approx([one.r for one in small], rel=1e-2)


class Stuck(torch.autograd.Function):
    """Without a forward-mode derivative."""

    @staticmethod
    def forward(ctx, x):
        return x * 2

    @staticmethod
    def backward(ctx, grad):
        return grad


class Unwilling(nn.Module):
    def forward(self, x):
        return Stuck.apply(x).flatten(1)


def test_a_network_without_a_forward_derivative_is_named_with_the_reason():
    with pytest.raises(MeasurementError, match=r"Unwilling has no forward-mode derivative: .*forward"):
        measure_infinitesimal(Unwilling(), IMAGES, layers="all")


def test_a_measurement_beside_another_says_that_one_runs_at_a_time():
    net = smooth_network()
    with ThreadPoolExecutor(1) as beside, forward_ad.dual_level():
        measuring = beside.submit(measure_infinitesimal, net, IMAGES, layers="all")
        with pytest.raises(MeasurementError, match="one small limit is measured at a time in a process"):
            measuring.result()
    assert measure_infinitesimal(net, IMAGES, layers="output")[0].r > 0


def test_group_norms_have_a_limit_in_autocast_and_channels_last():
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv2d(3, 8, 3),
        nn.GroupNorm(2, 8),
        nn.GELU(),
        nn.Conv2d(8, 8, 3),
        nn.GroupNorm(2, 8),
        nn.Flatten(),
    ).eval()
    full = measure_infinitesimal(net, IMAGES.float(), layers="all")
    fast = measure_infinitesimal(net, IMAGES.float(), layers="all", precision=Precision(amp=True))
    for one, other in zip(full, fast, strict=True):
        assert other.r == pytest.approx(one.r, rel=0.02)  # a few roundings of 2^-8


class Cut(nn.Module):
    """Half of what it computes is hidden from derivatives: detached, or rounded."""

    def __init__(self, how):
        super().__init__()
        self.conv, self.how = nn.Conv2d(3, 4, 3).double(), how

    def forward(self, x):
        return self.how(self.conv(x)).flatten(1)


@pytest.mark.parametrize(
    "how",
    [
        lambda x: x.detach() + 0.1 * x,
        lambda x: torch.as_tensor(x.detach().numpy().copy()),
        lambda x: x + 5e-5 * torch.round(x / 5e-5),
    ],
    ids=["partly detached", "through numpy", "rounded"],
)
def test_derivatives_that_are_not_those_of_small_steps_are_named(how):
    with pytest.warns(
        DiffsensWarning, match="limit of Cut is not that of small steps at output: it detaches"
    ):
        measure_infinitesimal(Cut(how), IMAGES, layers="all")


def test_a_network_that_is_differentiable_is_not_warned_of():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        measure_infinitesimal(smooth_network(), IMAGES, layers="all")
        measure_infinitesimal(smooth_network().float(), IMAGES.float(), layers="all")


def test_a_deformation_without_fields_is_refused():
    with pytest.raises(UsageError, match="flipped has no displacement fields"):
        measure_infinitesimal(smooth_network(), IMAGES, diffeo=flipped)


def flipped(images, generator):
    return images.flip(-1)


def test_in_a_record_the_limit_is_the_last_deformation():
    options = {"dataset": IMAGES, "images": "all", "layers": "all", "shuffles": 1, "input_size": (16, 20)}
    record = bench(smooth_network(), infinitesimal=True, delta=(1, 2), **options)
    *_, limit = record.views()
    assert [view.protocol.delta for view in record.views()] == [1, 2, None]
    assert limit.protocol.deformation == "max-entropy, small limit"
    alone = measure_infinitesimal(smooth_network(), IMAGES, layers="all")
    for one, other in zip(limit.variants["original"], alone, strict=True):
        assert one.r == pytest.approx(other.r, rel=1e-6)
    assert limit.variants["mean-channel"][0].r != limit.variants["original"][0].r


def test_a_record_of_a_network_without_one_says_so():
    with pytest.warns(UserWarning, match="no small limit: Unwilling"):
        record = bench(
            Unwilling(),
            infinitesimal=True,
            dataset=IMAGES,
            images="all",
            input_size=(16, 20),
            variants="original",
        )
    *_, limit = record.views()
    assert all("no forward-mode derivative" in layer.reason for layer in limit.variants["original"])
    assert record.output.r > 0


def test_components_are_measured_beside_the_field():
    record = bench(
        smooth_network(),
        components=True,
        dataset=IMAGES,
        images="all",
        input_size=(16, 20),
        variants="original",
    )
    named = [view.protocol.deformation for view in record.views()]
    assert named == ["max-entropy", "translation", "rotation", "dilation", "shear"]
    rms = {view.protocol.rms_displacement for view in record.views()}
    assert len(rms) == 1
    alone = measure(smooth_network(), IMAGES, diffeo=Translation(), layers="blocks")
    assert record.views()[1].output.d == pytest.approx(alone[-1].d, rel=1e-6)
