"""Kinds of networks that people hook: each works as it does by itself, or says why it does not."""

import copy
import dataclasses
import warnings
from collections import OrderedDict
from collections.abc import Mapping, MutableMapping
from types import MappingProxyType

import pytest
import torch
import torch.nn.functional as F
from clones import cloned_outputs, compare
from drawn_networks import CONTAINERS, Drawn
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from timm_diffsens import (
    Diffeo,
    DiffsensWarning,
    MeasurementError,
    Probe,
    UsageError,
    bench,
    matched_noise,
    measure,
    sensitivity,
)
from timm_diffsens.sensitivities.forwards import PassSettings
from timm_diffsens.sensitivities.perturbed import Perturbation, PerturbedImages, batches_of
from timm_diffsens.sensitivities.run import count_wrong, run_pass
from timm_diffsens.sensitivities.statistics import STATISTICS_BATCH, set_running_statistics

N, SIDE = 6, 16
pytestmark = pytest.mark.filterwarnings("ignore:.*its output is taken to be")


def images(n=N, side=SIDE, seed=0):
    return torch.rand(n, 3, side, side, generator=torch.Generator().manual_seed(seed))


def triple(n=N, side=SIDE):
    generator, clean = torch.Generator().manual_seed(1), images(n, side)
    deformed = Diffeo()(clean, generator)
    return torch.cat([clean, deformed, clean + matched_noise(clean, deformed, generator)])


def seeded(make, seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make()


def of_layers(results, *names):
    return {layer.layer: layer for layer in results if not names or layer.layer in names}


def _parts():
    perturbed = PerturbedImages(batches_of(images()), Perturbation())
    return [triplets for _, triplets in perturbed.batches(N, torch.empty(0), torch.contiguous_format)]


# ---- drawn networks


@pytest.mark.parametrize("seed", range(200))
def test_drawn_networks_equal_stored_activations(seed):
    net = seeded(lambda: Drawn(seed), seed).eval()
    args, kwargs = CONTAINERS[net.container](triple())
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        net(*args, **kwargs)  # lazy parts get their sizes here, so that both see one network
    with Probe(net, "all") as probe, torch.no_grad():
        probe.model(*args, **kwargs)
    kept = cloned_outputs(net, *args, **kwargs)
    results = probe.results()
    compared = compare([r for r in results if r.d is not None], probe.layers, kept, N, 1e-5)
    assert all(layer.r is not None or layer.reason for layer in results)
    assert compared >= 2  # the stem and the output


def test_the_drawn_networks_are_of_all_kinds():
    nets = [seeded(lambda seed=seed: Drawn(seed), seed) for seed in range(200)]
    kinds = {type(part).__name__ for net in nets for part in net.modules()}
    assert {
        "Residual",
        "Tokens",
        "Functional",
        "Windows",
        "Constant",
        "Odd",
        "Stubborn",
        "LazyConv2d",
    } <= kinds
    assert {net.container for net in nets} == set(CONTAINERS)
    assert {net.form for net in nets} == {"view", "pool", "tuple", "dict", "maps"}


# ---- layout in memory


class Strided(nn.Module):
    """Reads its map as it lies in memory: an error, or other numbers, in another layout."""

    def __init__(self, how):
        super().__init__()
        self.conv, self.how = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3)), how

    def forward(self, x):
        x = self.conv(x)
        n, c, h, w = x.shape
        if self.how == "view":
            return x.view(n * c, h * w).view(n, -1)
        if self.how == "complex":
            return torch.view_as_complex(x.view(n, c, h, w // 2, 2)).abs().flatten(1)
        return torch.as_strided(x, (n, c * h), (c * h * w, w))


@pytest.mark.parametrize("how", ["view", "complex", "as_strided"])
def test_a_networks_own_layout_decides(how):
    net, batch = seeded(lambda: Strided(how)), images(8, 14)
    labels = dict.fromkeys(range(8), 1)
    perturbed = PerturbedImages(batches_of(batch), Perturbation())
    done = run_pass(net, perturbed, PassSettings("all"), labels=labels)
    with Probe(net, "all") as probe, torch.no_grad():  # by hand, in the layout that the images have
        for indices, triplets in perturbed.batches(8, batch, torch.contiguous_format):
            assert len(indices) == 8
            net(triplets)
    for got, true in zip(done.layers[0], probe.results(), strict=True):
        assert got.layer == true.layer
        assert got.r == pytest.approx(true.r, rel=1e-5)
    with torch.no_grad():
        wrong = int((net(batch).argmax(1) != 1).sum())
    assert (done.wrong, count_wrong(net, perturbed, labels)) == (wrong, (wrong, 8))
    assert all(p.is_contiguous() for p in net.parameters())


# ---- inputs


@pytest.mark.parametrize("container", CONTAINERS)
def test_containers_of_inputs_give_what_a_plain_tensor_gives(container):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 5)

        def forward(self, batch=None, images=None, flag=False, mask=None):
            from drawn_networks import unpacked

            x = unpacked(batch) if images is None else images
            return self.head(self.conv(x).relu().mean((2, 3)))

    net, found = seeded(Net), []
    for name in ("plain", container):
        args, kwargs = CONTAINERS[name](triple())
        with Probe(net, "all") as probe, torch.no_grad():
            probe.model(*args, **kwargs)
        found.append(probe.results())
    assert found[0] == found[1]
    assert all(layer.reason is None for layer in found[0])


# ---- data that are not there


@pytest.mark.parametrize("what", ["parameter", "buffer"])
def test_numbers_that_are_not_there_are_named(what):
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Conv2d(4, 2, 3))
    if what == "parameter":
        net[2].bias = nn.Parameter(net[2].bias.to("meta"))
    else:
        net[1].running_var = net[1].running_var.to("meta")
    named = {"parameter": "2.bias", "buffer": "1.running_var"}[what]
    with pytest.raises(UsageError, match=rf"{named} is on the meta device"):
        measure(net, images())
    with Probe(net, "all"), torch.no_grad(), pytest.raises(UsageError, match=named):
        net(triple())


def test_lazy_modules_are_run_once_under_the_seed():
    def lazy():
        return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.Flatten(), nn.LazyLinear(3))

    one, two, other = (measure(lazy(), images(), layers="all", seed=seed) for seed in (3, 3, 4))
    assert one == two
    assert one != other
    assert all(layer.reason is None for layer in one)
    state = torch.get_rng_state()
    measure(lazy(), images())
    assert torch.equal(torch.get_rng_state(), state)


def test_lazy_modules_have_variants():
    made = nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.LazyConv2d(4, 3))
    options = {"input_size": 16, "mean": 0.5, "std": 0.25, "images": N, "init_samples": 2, "layers": "convs"}
    record = bench(made, variants="all", **options)
    assert all(layer.r is not None for layers in record.variants.values() for layer in layers)


# ---- code that overrides, compiles, or gives odd things


class ForgetsToReturn(nn.Sequential):
    """As recipes that freeze norms have it."""

    def train(self, mode=True):
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.training = False


def test_train_may_return_nothing_in_every_variant():
    net = seeded(
        lambda: ForgetsToReturn(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3))
    )
    options = {"input_size": 16, "mean": 0.5, "std": 0.25, "images": N, "layers": "convs"}
    record = bench(nn.Sequential(OrderedDict(body=net)), variants="all", **options)
    assert all(layer.r is not None for layers in record.variants.values() for layer in layers)


@pytest.mark.parametrize("how", ["a child", "in place", "a child in place", "all of it"])
def test_compiled_parts_are_measured_as_written(how):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.Conv2d(8, 4, 3))

        def forward(self, x):
            return self.body(x).mean((2, 3))

    net = seeded(Net)
    expected, given = measure(net, images(), layers="all"), net
    if how == "a child":
        net.body = torch.compile(net.body, backend="eager")
    elif how == "in place":
        net.compile(backend="eager")
    elif how == "a child in place":
        net.body.compile(backend="eager")
    else:
        given = torch.compile(net, backend="eager")
    given(images())
    assert measure(given, images(), layers="all") == expected
    with torch.no_grad():
        assert torch.equal(given(images()), net(images()))  # and it is compiled as before


class Branch(nn.Module):
    """Calls an odd part beside its way."""

    def __init__(self, odd):
        super().__init__()
        self.conv, self.odd, self.last = nn.Conv2d(3, 4, 3), odd, nn.Conv2d(4, 2, 3)

    def forward(self, x):
        x = self.conv(x)
        self.odd(x)
        return self.last(x)


class Called(nn.Module):
    """A function as a module."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x):
        return self.function(x)


ODD = {
    "coo": (lambda x: x.flatten(1).to_sparse(), "no plain array (sparse_coo)"),
    "csr": (lambda x: x.flatten(1).to_sparse_csr(), "no plain array (sparse_csr)"),
    "nested": (lambda x: torch.nested.as_nested_tensor([x[0], x[0, :1]]), "no plain array (nested)"),
    "complex": (torch.fft.fft2, "not floating-point"),
    "quantised": (lambda x: torch.quantize_per_tensor(x, 0.1, 0, torch.quint8), "not floating-point"),
    "empty": (lambda x: x[:, :0], "not a batch: no dimension or no element"),
    "number": (lambda x: x.sum(), "not a batch: no dimension or no element"),
}


@pytest.mark.filterwarnings(
    "ignore:Sparse CSR", "ignore:The PyTorch API of nested", "ignore:.*quantize_per_tensor"
)
@pytest.mark.parametrize("kind", ODD)
def test_outputs_that_are_no_plain_array_have_a_reason(kind):
    function, reason = ODD[kind]
    found = of_layers(measure(Branch(Called(function)), images(), layers="all"))
    assert found["odd"].reason == reason
    assert found["conv"].r is not None
    assert found["last"].r is not None


def test_a_network_may_give_a_sparse_tensor():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), Called(lambda x: x.to_sparse()))
    done = run_pass(
        net,
        PerturbedImages(batches_of(images()), Perturbation()),
        PassSettings("all"),
        labels=dict.fromkeys(range(N), 0),
    )
    assert done.wrong is None
    assert [layer.r is not None for layer in done.layers[0]] == [True, True, False]


# ---- averages that are only rounding


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_an_average_of_zero_is_no_value(dtype):
    class Normed(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm = nn.Conv2d(3, 64, 3), nn.LayerNorm(64, elementwise_affine=False)
            self.last = nn.Conv2d(64, 8, 3)

        def forward(self, x):
            x = self.norm(self.conv(x).permute(0, 2, 3, 1) + 3)
            return self.last(x.permute(0, 3, 1, 2))

    net = seeded(Normed).to(dtype)
    with Probe(net, "all", mean_channel=True) as probe, torch.no_grad():
        net(triple(12).to(dtype))
    found = of_layers(probe.mean_channel_results())
    assert (found["norm"].d, found["norm"].reason) in [(None, "rounding alone"), (None, "constant")]
    assert found["conv"].r is not None
    assert found["last"].r is not None
    assert of_layers(probe.results())["norm"].r is not None


def test_small_averages_above_rounding_are_values():
    class Centred(nn.Module):
        def __init__(self, size):
            super().__init__()
            self.conv, self.size = nn.Conv2d(3, 64, 3), size

        def forward(self, x):
            x = self.conv(x)
            mean = x.mean(1, keepdim=True)
            return Called.forward(self.keep, x - mean + self.size * mean)

    net = seeded(lambda: Centred(1e-3))
    net.keep = Called(lambda x: x)
    plain = seeded(lambda: Centred(1.0))
    plain.keep = Called(lambda x: x)
    found = []
    for each in (net.double(), plain.double()):
        with Probe(each, "output", mean_channel=True) as probe, torch.no_grad():
            each(triple().double())
        found.append(probe.mean_channel_results()[-1])
    assert found[0].r == pytest.approx(found[1].r, rel=1e-9)  # scaling the average changes no ratio


# ---- several outputs


@pytest.mark.parametrize("form", ["list", "dict", "NHWC"])
def test_of_several_maps_the_deepest_is_the_output(form):
    class Pyramid(nn.Module):
        def __init__(self):
            super().__init__()
            self.stages = nn.ModuleList(nn.Conv2d(c, 2 * c + 1, 3, stride=2) for c in (3, 7, 15))

        def forward(self, x):
            maps = []
            for stage in self.stages:
                x = stage(x)
                maps.append(x.permute(0, 2, 3, 1) if form == "NHWC" else x)
            return {str(i): m for i, m in enumerate(maps)} if form == "dict" else maps

    net = seeded(Pyramid)
    found = measure(net, images(side=40), layers="all")
    deepest = net(images(side=40))["2" if form == "dict" else 2]
    assert found[-1].shape == tuple(deepest.shape[1:])
    assert found[-1].depth == 1


def test_hidden_states_of_one_size_end_with_the_last():
    class Tokens(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.ModuleList(nn.Linear(3, 3) for _ in range(3))

        def forward(self, x):
            states = [x.flatten(2).transpose(1, 2)]
            for mix in self.mix:
                states.append(mix(states[-1]).tanh())
            return tuple(states)

    net = seeded(Tokens)
    found = measure(net, images(), layers="all")[-1]
    with Probe(nn.Sequential(net, Called(lambda states: states[-1])), "output") as probe, torch.no_grad():
        probe.model(torch.cat(_parts()))
    assert found.r == pytest.approx(probe.results()[-1].r, rel=1e-5)


def test_scores_come_before_what_is_beside_them():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            x = self.conv(x)
            return x.mean((2, 3)), x

    assert measure(Two(), images(), layers="output")[-1].shape == (4,)


# ---- forwards that cannot be measured


class Noisy(nn.Module):
    """Random in evaluation mode, in one of its ways."""

    def __init__(self, how):
        super().__init__()
        self.how, self.first, self.last = how, nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 3)

    def forward(self, x):
        x = self.first(x)
        if self.how == "dropout":
            x = F.dropout(x, 0.5)
        elif self.how == "small":
            x = x + 1e-3 * torch.randn_like(x)
        elif self.how == "numpy":
            import numpy as np

            x = x * float(np.random.uniform(0.5, 1))  # noqa: NPY002
        elif self.how == "drop path":
            x = x * (torch.rand(len(x), 1, 1, 1) > 0.3)
        return self.last(x)


@pytest.mark.parametrize("how", ["dropout", "small", "numpy", "drop path"])
def test_random_networks_are_named_as_such(how):
    net = seeded(lambda: Noisy(how))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = of_layers(measure(net, images(), layers="all"))
    assert found["first"].r is not None
    assert "random in evaluation mode" in found["last"].reason
    assert found["last"].r is None


def test_a_network_that_draws_without_using_it_is_measured():
    class Draws(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            torch.rand(3)
            return self.conv(x)

    assert measure(Draws(), images(), layers="all")[-1].r is not None


@pytest.mark.parametrize("how", ["batch norm", "centred", "softmax over the batch"])
def test_batch_statistics_are_named_as_such(how):
    class Over(nn.Module):
        def forward(self, x):
            return x - x.mean(0, keepdim=True) if how == "centred" else x.flatten(1).softmax(0)

    middle = nn.BatchNorm2d(8, track_running_stats=False) if how == "batch norm" else Over()
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        found = measure(nn.Sequential(nn.Conv2d(3, 8, 3), middle, nn.Tanh()), images(), layers="all")
    assert found[0].r is not None
    for layer in found[1:]:
        assert "depends on the other images of its batch" in layer.reason
    assert not [w for w in seen if "no layer" in str(w.message)]


def test_one_warning_where_no_layer_has_a_value():
    net = nn.Sequential(nn.BatchNorm2d(3, track_running_stats=False), nn.Conv2d(3, 4, 3))
    with pytest.warns(DiffsensWarning, match="no layer of Sequential has a value: depends on") as seen:
        measure(net, images(), layers="all")
    assert len(seen) == 1


# ---- variants


@pytest.mark.parametrize("variant", ["channel-shuffled", "mean-filter"])
def test_functional_convolutions_are_named_where_they_are_left_as_they_are(variant):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.kernel = nn.Parameter(torch.randn(4, 8, 3, 3) / 9)

        def forward(self, x):
            return F.conv2d(x, self.kernel)

    net = nn.Sequential(OrderedDict(first=nn.Conv2d(3, 8, 3), own=Own()))
    options = {"input_size": 16, "mean": 0.5, "std": 0.25, "images": N, "layers": "all"}
    with pytest.warns(DiffsensWarning, match=f"own of .* no convolution modules: .* in {variant}$"):
        record = bench(net, variants=variant, **options)
    assert any("own of" in text for text in record.warnings)
    with warnings.catch_warnings():
        warnings.simplefilter("error", DiffsensWarning)
        bench(net, variants="mean-channel", **options)


class Listed(nn.Module):
    """Its kernels are in a list, which is a module of its own."""

    def __init__(self):
        super().__init__()
        self.kernels = nn.ParameterList([torch.randn(4, 8, 3, 3) / 9])

    def forward(self, x):
        return F.conv2d(x, self.kernels[0])


class Made(nn.Module):
    """Its kernel is what a linear layer makes of a code."""

    def __init__(self):
        super().__init__()
        self.make = nn.Linear(2, 4 * 8 * 9)

    def forward(self, x):
        return F.conv2d(x, self.make(x.new_ones(2)).view(4, 8, 3, 3))


class Lent(nn.Module):
    """The kernel of a convolution module, in part, without calling it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(8, 6, 3)
        self.scale = nn.Parameter(torch.ones(1, 4, 1, 1))

    def forward(self, x):
        return F.conv2d(x, self.conv.weight[2:]) * self.scale


class Blurred(nn.Module):
    """Fixed filters, from a buffer and made on the way."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, 8, 1, 1))
        self.register_buffer("edges", torch.randn(1, 1, 3, 3))

    def forward(self, x):
        x = F.conv2d(x * self.scale, self.edges.expand(8, 1, 3, 3), groups=8)
        x = F.conv2d(x, self.edges.repeat(8, 1, 1, 1), groups=8)
        return F.conv2d(x, torch.ones(8, 1, 3, 3) / 9, groups=8)


@pytest.mark.parametrize(("kind", "named"), [(Listed, True), (Made, True), (Lent, False), (Blurred, False)])
def test_functional_convolutions_are_named_wherever_their_parameters_are(kind, named):
    net = seeded(lambda: nn.Sequential(OrderedDict(first=nn.Conv2d(3, 8, 3), own=kind())))
    with warnings.catch_warnings(record=True):
        record = bench(net, variants="channel-shuffled", input_size=16, mean=0.5, std=0.25, images=N)
    assert any("own of" in text and "convolve" in text for text in record.warnings) == named


@pytest.mark.parametrize("variant", ["channel-shuffled", "mean-filter"])
def test_weights_that_the_network_writes_over_are_named(variant):
    """By a hook of the whole network, which no convolution by itself would show."""
    net = seeded(lambda: nn.Sequential(OrderedDict(first=nn.Conv2d(3, 8, 3), inner=nn.Conv2d(8, 4, 3))))
    raw = net.inner.weight.detach().clone()
    options = {"variants": variant, "input_size": 16, "mean": 0.5, "std": 0.25, "images": N}
    bench(net, **options)

    def rewrite(module, args):
        module.inner.weight.data.copy_(raw)

    net.register_forward_pre_hook(rewrite)
    with pytest.raises(MeasurementError, match="the weight of inner is computed in a forward"):
        bench(net, **options)


# ---- running statistics of fresh networks


def fresh():
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 3), nn.BatchNorm2d(4)
    )


def test_running_statistics_are_averages_over_the_batches():
    net, clean = seeded(fresh).eval(), images(2 * STATISTICS_BATCH)
    reference, before = copy.deepcopy(net), copy.deepcopy(net)
    assert (
        set_running_statistics(net, PerturbedImages(batches_of(clean), Perturbation()), PassSettings()) == []
    )
    reference.train()
    for norm in (reference[1], reference[4]):
        norm.momentum = None  # torch's own cumulative average
        norm.reset_running_stats()
    with torch.no_grad():
        for batch in clean.split(STATISTICS_BATCH):
            reference(batch)
    for k in (1, 4):
        assert torch.allclose(net[k].running_mean, reference[k].running_mean, rtol=1e-5, atol=1e-6)
        assert torch.allclose(net[k].running_var, reference[k].running_var, rtol=1e-5)
        assert (net[k].momentum, net[k].training) == (0.1, False)
    assert all(torch.equal(a, b) for a, b in zip(net.parameters(), before.parameters(), strict=True))


def test_running_statistics_do_not_depend_on_the_batch_size_of_the_measurement():
    options = {
        "input_size": 16,
        "mean": 0.5,
        "std": 0.25,
        "images": 40,
        "layers": "convs",
        "variants": "init",
    }
    one, two = (bench(seeded(fresh), batch_size=size, **options) for size in (3, 16))
    for a, b in zip(one.variants["init"], two.variants["init"], strict=True):
        assert a.r == pytest.approx(b.r, rel=1e-4)


def test_fresh_norms_normalise_what_they_are_shown():
    """The output of a norm with statistics of the images has mean 0 and variance 1 a channel, to sampling."""
    net, clean = seeded(fresh).eval(), images(STATISTICS_BATCH)
    set_running_statistics(net, PerturbedImages(batches_of(clean), Perturbation()), PassSettings())
    with torch.no_grad():
        out = net(clean)
    assert torch.allclose(out.mean((0, 2, 3)), torch.zeros(4), atol=1e-4)
    assert torch.allclose(out.var((0, 2, 3)), torch.ones(4), rtol=1e-3)


def test_networks_without_running_statistics_need_no_pass():
    perturbed = PerturbedImages(batches_of(images()), Perturbation())
    calls = []
    set_running_statistics(nn.Conv2d(3, 4, 3), perturbed, PassSettings(forward=lambda m, x: calls.append(1)))
    assert calls == []


# ---- calls of the network


class Recursive(nn.Module):
    """Calls itself, on the images and on their mirror images."""

    def __init__(self):
        super().__init__()
        self.body = nn.Conv2d(3, 4, 3)

    def forward(self, x, again=True):
        return self(x, False) + self(x.flip(-1) * 3, False) if again else self.body(x)


def test_a_network_that_calls_itself_is_one_forward():
    net = seeded(Recursive)
    found = of_layers(measure(net, images(), layers="all"))
    assert {layer.n for layer in found.values()} == {N}
    parts = _parts()[0]
    with torch.no_grad():
        for name, output in (
            ("body", net.body(parts)),
            ("body#1", net.body(parts.flip(-1) * 3)),
            ("output", net(parts)),
        ):
            expected = sensitivity(*output.reshape(3, N, -1).double())
            assert found[name].r == pytest.approx(expected.r, rel=1e-5), name


@pytest.mark.parametrize("times", [0, 2])
def test_a_forward_must_call_the_network_once(times):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Conv2d(3, 4, 3)

        def encode(self, x):
            return self.body(x)

        def forward(self, x):
            return self.body(x)

    def forward(model, x):
        return model.encode(x) if times == 0 else model(x) + model(x.flip(-1))

    with pytest.raises(UsageError, match=f"must call the model itself, once.*called it {times} times"):
        measure(Net(), images(), forward=forward)


def test_a_forward_in_chunks_is_told_what_it_gave():
    net = nn.Conv2d(3, 4, 3)
    with pytest.raises(UsageError, match=r"three equal parts .* got \(9, 3, 16, 16\)"):
        measure(net, images(), forward=lambda m, x: torch.cat([m(part) for part in x.chunk(2)]))


def test_two_probes_on_one_network_see_the_same():
    net = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)))
    with Probe(net, "all") as one, Probe(net, "all") as two, torch.no_grad():
        net(triple())
    assert one.results() == two.results()


def test_a_bad_pattern_is_told_at_each_forward():
    net = nn.Sequential(nn.Conv2d(3, 4, 3))
    with Probe(net, "nothing.*"), torch.no_grad():
        for _ in range(2):
            with pytest.raises(UsageError, match="unknown layer or pattern"):
                net(triple())


def test_images_are_told_from_what_is_beside_them():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, corners, x):
            return self.conv(x)

    net = seeded(Net)
    with Probe(net, "all") as probe, torch.no_grad():
        net(torch.rand(6, 2), triple())
    assert probe.results()[-1].n == N
    assert probe.results()[-1].r is not None


# ---- containers


class Wrapping(MutableMapping):
    """A mapping around another, without a copy of its own."""

    def __init__(self, items):
        self.items_inside = dict(items) if not isinstance(items, dict) else items

    def __getitem__(self, key):
        return self.items_inside[key]

    def __setitem__(self, key, value):
        self.items_inside[key] = value

    def __delitem__(self, key):
        del self.items_inside[key]

    def __iter__(self):
        return iter(self.items_inside)

    def __len__(self):
        return len(self.items_inside)


class Slotted:
    """Attributes without a dictionary."""

    __slots__ = ("image",)

    def __init__(self, image):
        self.image = image


@dataclasses.dataclass
class Unset:
    """A field that is not there yet."""

    image: torch.Tensor
    later: int = dataclasses.field(init=False)


@pytest.mark.parametrize("kind", ["wrapping", "proxy", "slots", "unset", "circle", "class"])
def test_odd_containers_are_seen_through_and_left_as_they_are(kind):
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, batch, other=None):
            return self.conv(batch["image"] if isinstance(batch, Mapping) else batch.image)

    x, other = triple(), Unset if kind == "class" else None
    circle = {"image": x}
    circle["self"] = circle
    given = {
        "wrapping": lambda: Wrapping({"image": x}),
        "proxy": lambda: MappingProxyType({"image": x}),
        "slots": lambda: Slotted(x),
        "unset": lambda: Unset(x),
        "circle": lambda: circle,
        "class": lambda: {"image": x},
    }[kind]()
    with Probe(seeded(Net), "all") as probe, torch.no_grad():
        probe.model(given, other)
    with Probe(seeded(Net), "all") as plain, torch.no_grad():
        plain.model({"image": x})
    assert probe.results() == plain.results()
    assert (given["image"] if isinstance(given, Mapping) else given.image) is x


# ---- what is left behind, and what memory may hold


def test_weights_that_share_memory_still_do_afterwards():
    net = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 3), nn.Conv2d(8, 8, 3))
    net[2].weight.data = net[1].weight.data
    places = [p.data_ptr() for p in net.parameters()]
    measure(net, images())
    assert [p.data_ptr() for p in net.parameters()] == places


def test_a_part_that_hardly_shows_decides_the_layout_too():
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 1)
            self.branch = Called(
                lambda x: torch.as_strided(x, x.shape, (x[0].numel(), 14 * 14, 14, 1)).square()
            )

        def forward(self, x):
            x = self.conv(x)
            return self.last(x) + 1e-6 * self.branch(x)

    net = seeded(Scaled)
    found = of_layers(measure(net, images(), layers="all"))
    with torch.no_grad():
        expected = sensitivity(*net.conv(_parts()[0]).square().reshape(3, N, -1).double())
    assert found["branch"].r == pytest.approx(expected.r, rel=1e-5)


@pytest.mark.parametrize("error", [AssertionError, ValueError])
def test_any_error_in_another_layout_leaves_the_networks_own(error):
    class Strict(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            x = self.conv(x)
            if not x.is_contiguous():
                raise error
            return x

    assert measure(Strict(), images())[-1].r is not None


def test_lazy_networks_may_be_of_any_type():
    net = nn.Sequential(
        nn.LazyConv2d(4, 3, dtype=torch.float64), nn.Flatten(), nn.LazyLinear(3, dtype=torch.float64)
    )
    loader = DataLoader(TensorDataset(images().double(), torch.zeros(N)), 2)
    assert measure(net, loader)[-1].r is not None
    net = nn.Sequential(nn.LazyConv2d(4, 3), nn.Flatten(), nn.LazyLinear(3))
    assert measure(net, loader)[-1].r is not None


def test_a_lazy_layer_that_is_not_called_is_no_obstacle():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.unused = nn.LazyConv2d(4, 3), nn.LazyConv2d(4, 3)

        def forward(self, x):
            return self.conv(x)

    assert measure(Unused(), images())[-1].r is not None


def test_nested_outputs_of_a_network_have_a_reason():
    class Ragged(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return torch.nested.as_nested_tensor(list(self.conv(x)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = of_layers(measure(Ragged(), images(), layers="all"))
    assert found["output"].reason == "no plain array (nested)"
    assert found["conv"].r is not None


def test_modules_inside_of_vmap_have_a_reason():
    class Mapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner, self.last = nn.Linear(16, 4), nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.last(x) + torch.vmap(self.inner)(x).mean()

    found = of_layers(measure(Mapped(), images(), layers="all"))
    assert found["inner"].reason == "no plain array (inside of torch.vmap)"


def test_inference_tensors_are_measured_and_inference_mode_is_refused():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        @torch.inference_mode()
        def forward(self, x):
            return self.conv(x)

    with torch.inference_mode():
        given = images()
    assert measure(nn.Conv2d(3, 4, 3), given)[-1].r is not None
    with pytest.raises(UsageError, match="inference_mode"):
        measure(Net(), images())


# ---- causes


def test_a_weak_dependence_on_the_batch_is_named():
    class Weak(nn.Module):
        def forward(self, x):
            return x + 0.02 * x.mean(0, keepdim=True)

    found = measure(nn.Sequential(nn.Conv2d(3, 8, 3), Weak()), images(), layers="all")
    assert found[0].r is not None
    assert "depends on the other images" in found[1].reason


@pytest.mark.parametrize("how", ["generator", "state"])
def test_what_differs_between_two_forwards_is_named(how):
    class Differs(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.generator, self.before = nn.Conv2d(3, 4, 3), torch.Generator().manual_seed(0), 0.0

        def forward(self, x):
            x = self.conv(x)
            if how == "generator":
                return x * (1 + torch.rand((), generator=self.generator))
            x, self.before = x + self.before, 0.5 * float(x.abs().mean()) + 0.5 * self.before
            return x

    found = measure(Differs(), images(), layers="all")[-1]
    assert "random in evaluation mode, or keeps state" in found.reason


# ---- which output


def outputs(make):
    class Several(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return make(self.conv(x))

    return Several()


SEVERAL = {
    "map, scores": (lambda y: (y, y.mean((2, 3))), (4,)),
    "scores, map": (lambda y: (y.mean((2, 3)), y), (4,)),
    "levels": (lambda y: {"p2": y, "p3": y[..., ::2, ::2]}, (4, 7, 7)),
    "last and all hidden states": (
        lambda y: {
            "last_hidden_state": y.flatten(2),
            "hidden_states": (y.flatten(2) * 2, y[..., 0]),
        },
        (4, 196),
    ),
    "logits and boxes": (
        lambda y: {"pred_logits": y.flatten(2), "pred_boxes": y.flatten(2)[..., :4]},
        (4, 196),
    ),
}


@pytest.mark.parametrize("kind", SEVERAL)
def test_which_of_several_outputs_is_taken_is_said(kind):
    make, shape = SEVERAL[kind]
    with pytest.warns(DiffsensWarning, match="Several returns . tensors .* its output is taken to be "):
        found = measure(outputs(make), images(), layers="output")
    assert found[-1].shape == shape


def test_nothing_is_said_where_the_output_has_its_name():
    with warnings.catch_warnings():
        warnings.simplefilter("error", DiffsensWarning)
        found = measure(outputs(lambda y: {"aux": y, "logits": y.mean((2, 3))}), images(), layers="output")
    assert found[-1].shape == (4,)


# ---- running statistics, again


def test_a_norm_called_twice_averages_both_calls():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x):
            return self.norm(x) + self.norm(x + 50)

    net, clean = Twice().eval(), images(STATISTICS_BATCH)
    set_running_statistics(net, PerturbedImages(batches_of(clean), Perturbation()), PassSettings())
    assert torch.allclose(net.norm.running_mean, clean.mean((0, 2, 3)) + 25, rtol=1e-5)
    assert not net.norm._forward_pre_hooks


def test_norms_that_no_forward_calls_are_named():
    class Unused(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm2d(3)

        def forward(self, x):
            return F.batch_norm(x, self.norm.running_mean, self.norm.running_var)

    with pytest.warns(DiffsensWarning, match="running statistics of norm stay as made"):
        set_running_statistics(
            Unused().eval(), PerturbedImages(batches_of(images()), Perturbation()), PassSettings()
        )
