import contextlib
import copy

import pytest
import timm
import torch
from clones import cloned_outputs, compare
from torch import nn

from timm_diffsens import Diffeo, Probe, UsageError, matched_noise, sensitivity
from timm_diffsens.errors import MeasurementError

N = 4


def triple(n=N, side=64, channels=3, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    clean = torch.rand(n, channels, side, side, generator=generator, dtype=dtype)
    moved = Diffeo()(clean, generator)
    return torch.cat([clean, moved, clean + matched_noise(clean, moved, generator)])


@pytest.fixture(scope="module")
def resnet():
    return timm.create_model("test_resnet", pretrained=False).eval()


def run(model, batch, layers="all", **options):
    with Probe(model, layers, **options) as probe, torch.no_grad():
        model(batch)
    return probe


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "test_mambaout"]
)
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.float64, 1e-10)])
def test_equals_copies_of_every_output(name, dtype, tolerance):
    model = timm.create_model(name, pretrained=False).eval().to(dtype)
    batch = triple(side=160 if "vit" in name else 64, dtype=dtype)
    probe = run(model, batch)
    assert compare(probe.results(), probe.layers, cloned_outputs(model, batch), N, tolerance) >= 20


def test_outputs_are_the_same_to_the_bit(resnet):
    batch = triple()
    with torch.no_grad():
        bare = resnet(batch)
        with Probe(resnet, "all", mean_channel=True):
            hooked = resnet(batch)
        after = resnet(batch)
    assert torch.equal(bare, hooked)
    assert torch.equal(bare, after)


def hooks_on(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


class Failing(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        self.fail_from = 10**9
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        if self.calls >= self.fail_from:
            raise ValueError("broken on purpose")
        return self.layer(x)


@pytest.mark.parametrize("fail_from", [1, 2, 3, 4])
def test_no_hook_is_left_behind_after_an_error(fail_from):
    model = Failing()
    model.fail_from = fail_from  # in the first traced forward, the second, the real one, the next
    model.train()
    with Probe(model, "all"), contextlib.suppress(ValueError):
        model(torch.rand(6, 4))
        model(torch.rand(6, 4))
        pytest.fail("it did not break")
    assert hooks_on(model) == 0
    assert model.training
    assert model.layer.training


def test_no_hook_is_left_behind_without_an_error(resnet):
    run(resnet, triple())
    assert hooks_on(resnet) == 0


def test_train_mode_is_put_back_and_buffers_are_untouched():
    model = timm.create_model("test_resnet", pretrained=False).train()
    model.layer1.eval()
    flags = [m.training for m in model.modules()]
    before = copy.deepcopy(model.state_dict())
    run(model, triple())
    assert [m.training for m in model.modules()] == flags
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_several_forwards_are_one_sample(resnet):
    batch = triple(n=6)
    parts = batch.chunk(3)
    with Probe(resnet, "stages") as probe, torch.no_grad():
        for start, stop in ((0, 1), (1, 4), (4, 6)):
            resnet(torch.cat([part[start:stop] for part in parts]))
    whole = run(resnet, batch, "stages").results()
    for one, other in zip(probe.results(), whole, strict=True):
        assert one.n == other.n == 6
        # float32 forwards of other batch sizes differ in the last places
        assert one.d == pytest.approx(other.d, rel=1e-4)
        assert one.g_stderr == pytest.approx(other.g_stderr, rel=1e-3)


def test_mean_channel_is_the_sensitivity_of_the_channel_average():
    model = timm.create_model("test_convnext", pretrained=False).eval().double()
    batch = triple(dtype=torch.float64)
    probe = run(model, batch, "all", mean_channel=True)
    kept = cloned_outputs(model, batch)
    compared = 0
    for layer, result in zip(probe.layers, probe.mean_channel_results(), strict=True):
        if layer.channel_axis is None:
            assert result.reason == "channel axis not known"
        elif result.reason is None and layer.fold == 1:
            mean = kept[layer.call].mean(dim=layer.channel_axis + 1)
            assert result.d == pytest.approx(sensitivity(*mean.chunk(3)).d, rel=1e-10)
            compared += 1
    assert compared > 50


def test_identity_layer_gives_the_pixel_values():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.same = nn.AvgPool2d(1)

        def forward(self, x):
            return self.same(x).flatten(1)

    batch = triple(dtype=torch.float64)
    result = run(Net(), batch).results()[0]
    expected = sensitivity(*batch.chunk(3))
    assert (result.d, result.g, result.r) == pytest.approx(expected, rel=1e-12)
    # the noise has the norm of the deformation image by image, so on the pixels R = 1
    assert result.r == pytest.approx(1, abs=1e-12)


def test_global_average_under_a_circular_shift_does_not_move():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.pool = nn.AdaptiveAvgPool2d(1)

        def forward(self, x):
            return self.pool(x).flatten(1)

    clean = torch.rand(8, 3, 16, 16, dtype=torch.float64)
    shifted = clean.roll(3, dims=-1)
    result = run(Net(), torch.cat([clean, shifted, clean + 0.1 * torch.randn_like(clean)])).results()[0]
    assert result.d == pytest.approx(0, abs=1e-28)  # sums in another order: rounding squared
    assert result.g > 0


def test_the_same_draws_as_both_perturbations_give_r_of_one(resnet):
    clean, moved, _ = triple().chunk(3)
    for result in run(resnet, torch.cat([clean, moved, moved])).results():
        if result.reason is None:
            assert result.d == pytest.approx(result.g, rel=1e-4)
            assert result.r == pytest.approx(1, rel=1e-4)


def test_linear_layer_moves_by_the_norm_of_its_matrix():
    # E ||W eta||^2 = (norm^2 / d) ||W||_F^2 for noise uniform on a sphere of that norm in d dimensions
    d, n = 48, 4000
    generator = torch.Generator().manual_seed(3)
    layer = nn.Linear(d, 5).double()
    clean = torch.randn(n, d, generator=generator, dtype=torch.float64)
    moved = clean + 0.3
    batch = torch.cat([clean, moved, clean + matched_noise(clean, moved, generator)])
    model = nn.Sequential(layer)
    result = run(model, batch).results()[0]
    norm_square = 0.09 * d
    out = clean @ layer.weight.T
    denominator = 2 * out.var(dim=0).sum()
    expected = norm_square / d * layer.weight.square().sum() / denominator
    assert abs(result.g - expected) < 4 * result.g_stderr


def test_non_finite_layers_are_null_with_a_reason():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second, self.third = nn.Conv2d(3, 4, 3), nn.Identity(), nn.Conv2d(4, 2, 1)

        def forward(self, x):
            x = self.first(x)
            bad = self.third(x * torch.where(x.amax() > -1e9, torch.nan, 1.0))
            return self.second(x.mean((2, 3))) + 0 * bad.mean((2, 3)).nan_to_num().sum()

    results = {r.layer: r for r in run(Net(), triple()).results()}
    assert results["third"].reason == "non-finite"
    assert results["third"].d is None
    assert results["first"].reason is None


@pytest.mark.parametrize(
    ("shape", "words"), [((7, 3, 64, 64), "three equal parts"), ((0, 3, 64, 64), "three equal")]
)
def test_a_batch_that_is_not_three_parts(resnet, shape, words):
    with Probe(resnet), pytest.raises(UsageError, match=words):
        resnet(torch.zeros(shape))


def test_inference_mode_is_refused(resnet):
    with Probe(resnet), torch.inference_mode(), pytest.raises(UsageError, match="no_grad"):
        resnet(triple())


def test_gradients_are_not_kept_by_the_probe(resnet):
    with Probe(resnet, "all") as probe:
        output = resnet(triple())
    assert output.requires_grad  # the caller's graph is the caller's
    assert probe.results()[-1].d > 0


def test_scripted_modules_are_refused():
    scripted = torch.jit.script(nn.Sequential(nn.Linear(2, 2)))
    with pytest.raises(UsageError, match="ScriptModule"):
        Probe(scripted)


def test_wrappers_are_seen_through(resnet):
    batch = triple()
    plain = run(resnet, batch, "stages").results()
    for wrapper in (torch.compile(resnet), nn.DataParallel(resnet)):
        with Probe(wrapper, "stages") as probe, torch.no_grad():
            probe.model(batch)
        assert probe.results() == plain


def test_results_without_a_forward(resnet):
    with Probe(resnet) as probe:
        pass
    with pytest.raises(MeasurementError, match="no forward"):
        probe.results()


def test_unknown_pattern_names_the_nearest(resnet):
    with Probe(resnet, "layr1.0"), pytest.raises(UsageError, match=r"layer1\.0"):
        resnet(triple())


def test_half_precision_sums_are_wide():
    model = timm.create_model("test_vit", pretrained=False).eval()
    batch = triple(side=160)
    with Probe(model, "blocks") as probe, torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(batch)
    exact = run(model, batch, "blocks").results()
    for half, full in zip(probe.results(), exact, strict=True):
        # bfloat16 keeps 8 bits: its own rounding adds noise of 2^-9 a value, which D and G feel as a floor
        assert half.d == pytest.approx(full.d, rel=0.5)
        assert half.reason is None


def test_sums_inside_autocast_are_those_outside_it():
    layer = nn.Conv2d(3, 16, 3)  # 16 x 62 x 62 numbers, more than the sums keep in float64
    batch = triple()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        kept = cloned_outputs(layer, batch)[""]
        with Probe(nn.Sequential(layer), "all") as probe:
            probe.model(batch)
    assert kept.dtype == torch.bfloat16
    expected = sensitivity(*kept.float().chunk(3))
    found = probe.results()[0]
    assert (found.d, found.g, found.r) == pytest.approx(expected, rel=1e-5)


def test_state_does_not_grow_with_the_images(resnet):
    def size(probe):
        return sum(e.pivot.numel() for e in probe._estimators.values())

    with Probe(resnet, "all") as probe, torch.no_grad():
        resnet(triple())
        before = size(probe)
        for seed in range(3):
            resnet(triple(n=7, seed=seed))
        assert size(probe) == before
