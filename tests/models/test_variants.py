"""Changed copies: what is changed is changed exactly so, all else and the original stay as they are."""

import copy
import itertools
from collections import Counter, OrderedDict

import numpy as np
import pytest
import timm
import torch
import torch.nn.functional as F
import torchvision
from timm.layers import (
    BatchNormAct2d,
    CondConv2d,
    Conv2dSame,
    EvoNorm2dS0,
    FrozenBatchNormAct2d,
    MixedConv2d,
    RmsNorm,
    ScaledStdConv2d,
    ScaledStdConv2dSame,
    StdConv2d,
    StdConv2dSame,
)
from torch import nn
from torch.nn.utils import parametrizations, parametrize, prune
from torchvision.ops import FrozenBatchNorm2d

from timm_diffsens import Probe
from timm_diffsens.device import seeding
from timm_diffsens.errors import DiffsensWarning, UsageError
from timm_diffsens.models.channels import FollowChannels
from timm_diffsens.models.checkpoints import state_sha256
from timm_diffsens.models.nets import NETS
from timm_diffsens.models.variants.channel_shuffled import shuffle_channels
from timm_diffsens.models.variants.init import reinitialise
from timm_diffsens.models.variants.mean_filter import mean_filters
from timm_diffsens.models.weights import filters


def torch_generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomise(net: nn.Module, seed: int = 0) -> nn.Module:
    """Unusual values everywhere, norm statistics too."""
    generator = torch_generator(seed)
    with torch.no_grad():
        for value in net.state_dict().values():
            if not value.is_floating_point():
                value.fill_(11)
            elif value.ndim > 1:
                value.copy_(torch.randn(value.shape, generator=generator) / value[0].numel() ** 0.5)
            else:
                value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
    return net


def sha(net: nn.Module) -> str:
    return state_sha256(net.state_dict())


def applied_weights(net: nn.Module, images: torch.Tensor) -> list[torch.Tensor]:
    """What the convolutions really use, after any standardisation or mixing."""
    seen: list[torch.Tensor] = []
    with torch.no_grad(), FollowChannels(lambda weight: seen.append(weight.clone())):
        net.eval()(images)
    return seen


def find_permutation(before: torch.Tensor, after: torch.Tensor, dim: int) -> list[int]:
    """p with after[j] == before[p[j]] along `dim`; every slice must be found exactly once."""
    old, new = before.unbind(dim), after.unbind(dim)
    found = [[i for i, slice_ in enumerate(old) if torch.equal(slice_, one)] for one in new]
    assert all(len(matches) == 1 for matches in found), "a slice is not there, or not as it was"
    order = [matches[0] for matches in found]
    assert sorted(order) == list(range(len(old)))
    return order


# --- channel shuffling

# module, (groups, channels in a group) of the input, images
GROUPED = {
    "plain": (nn.Conv2d(6, 4, 3), (1, 6), (2, 6, 7, 7)),
    "no bias, stride, padding": (nn.Conv2d(6, 4, 5, stride=2, padding=2, bias=False), (1, 6), (2, 6, 9, 9)),
    "1 x 1": (nn.Conv2d(6, 4, 1), (1, 6), (2, 6, 3, 3)),
    "dilated": (nn.Conv2d(6, 4, 3, dilation=2), (1, 6), (2, 6, 9, 9)),
    "grouped": (nn.Conv2d(8, 6, 3, groups=2), (2, 4), (2, 8, 7, 7)),
    "circular": (nn.Conv2d(6, 4, 3, padding=1, padding_mode="circular"), (1, 6), (2, 6, 7, 7)),
    "1-D": (nn.Conv1d(6, 4, 3), (1, 6), (2, 6, 9)),
    "1-D grouped": (nn.Conv1d(6, 4, 3, groups=2), (2, 3), (2, 6, 9)),
    "3-D": (nn.Conv3d(6, 4, 3), (1, 6), (2, 6, 5, 5, 5)),
    "transposed": (nn.ConvTranspose2d(6, 4, 3, stride=2), (1, 6), (2, 6, 5, 5)),
    "transposed grouped": (nn.ConvTranspose2d(8, 4, 3, groups=2), (2, 4), (2, 8, 5, 5)),
    "transposed 1-D": (nn.ConvTranspose1d(6, 4, 3), (1, 6), (2, 6, 9)),
    "same padding": (Conv2dSame(6, 4, 3, stride=2), (1, 6), (2, 6, 7, 7)),
}


@pytest.mark.parametrize("name", GROUPED)
def test_inputs_are_permuted_inside_their_groups(name):
    conv, (groups, size), shape = GROUPED[name]
    transposed = isinstance(conv, nn.ConvTranspose1d | nn.ConvTranspose2d)
    changed = shuffle_channels(conv, torch_generator(1))
    inputs = []  # for each channel of the changed one's input, the channel of the original it stands for
    for group in range(groups):
        weights = [w.chunk(groups)[group] for w in (conv.weight.detach(), changed.weight.detach())]
        order = find_permutation(*weights, dim=0 if transposed else 1)
        assert len(order) == size
        inputs += [group * size + i for i in order]
    assert inputs != list(range(groups * size))
    if conv.bias is not None:
        assert torch.equal(conv.bias, changed.bias)
    images = torch.randn(shape, generator=torch_generator(2))
    moved = torch.empty_like(images)
    moved[:, inputs] = images
    torch.testing.assert_close(changed(images), conv(moved), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(6, 6, 3, groups=6),
        nn.Conv2d(6, 12, 3, groups=6),
        nn.Conv1d(6, 6, 3, groups=6),
        nn.ConvTranspose2d(6, 6, 3, groups=6),
        nn.ConvTranspose2d(6, 12, 3, groups=6),
    ],
    ids=["plain", "two filters a channel", "1-D", "transposed", "transposed, two filters a channel"],
)
def test_a_depthwise_convolution_has_its_filters_permuted(conv):
    changed = shuffle_channels(conv, torch_generator(1))
    by_channel = [w.detach().reshape(6, -1) for w in (conv.weight, changed.weight)]
    assert find_permutation(*by_channel, dim=0) != list(range(6))
    assert torch.equal(conv.bias, changed.bias)


@pytest.mark.parametrize("conv", [nn.Conv2d(1, 5, 3), nn.Conv1d(1, 5, 3), nn.ConvTranspose2d(1, 5, 3)])
def test_shuffling_one_channel_changes_nothing(conv):
    assert sha(shuffle_channels(conv, torch_generator())) == sha(conv)


def test_shuffling_a_single_channel_network_changes_nothing():
    net = nn.Sequential(nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1), nn.ReLU(), nn.Conv2d(1, 1, 3))
    assert sha(shuffle_channels(net, torch_generator())) == sha(net)


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_mambaout"])
def test_every_convolution_of_a_network_is_shuffled_and_nothing_else(name):
    net = timm.create_model(name)
    changed = shuffle_channels(net, torch_generator())
    state, other = net.state_dict(), changed.state_dict()
    convs = {f"{n}.weight" for n, m in net.named_modules() if isinstance(m, nn.Conv2d)}
    for key, value in state.items():
        if key in convs:
            assert Counter(value.flatten().tolist()) == Counter(other[key].flatten().tolist())
            assert not torch.equal(value, other[key])
        else:
            assert torch.equal(value, other[key])


def test_all_permutations_are_equally_likely():
    conv, draws = nn.Conv1d(3, 1, 1, bias=False), 600
    generator, counts = torch_generator(0), Counter()
    for _ in range(draws):
        changed = shuffle_channels(conv, generator)
        counts[tuple(find_permutation(conv.weight.detach(), changed.weight.detach(), dim=1))] += 1
    assert set(counts) == set(itertools.permutations(range(3)))
    sigma = (draws * 1 / 6 * 5 / 6) ** 0.5
    assert all(abs(count - draws / 6) < 4 * sigma for count in counts.values())


@pytest.mark.parametrize("make", [torch_generator, np.random.default_rng], ids=["torch", "numpy"])
def test_the_draw_is_the_generators(make):
    net = NETS["lenet"]()
    before = torch.get_rng_state()
    one, same, other = (sha(shuffle_channels(net, make(seed))) for seed in (1, 1, 2))
    assert one == same != other
    generator = make(1)
    again = [sha(shuffle_channels(net, generator)) for _ in range(2)]
    assert again[0] == one != again[1]
    assert torch.equal(torch.get_rng_state(), before)


def test_without_a_generator_the_global_stream_is_drawn_from():
    net = NETS["lenet"]()
    with torch.random.fork_rng():
        state = torch.get_rng_state()
        one = sha(shuffle_channels(net))
        assert not torch.equal(torch.get_rng_state(), state)
        torch.set_rng_state(state)
        assert sha(shuffle_channels(net)) == one


def test_linear_layers_are_shuffled_on_request():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 5), nn.ReLU(), nn.Linear(5, 1))
    plain, linear = (shuffle_channels(net, torch_generator(1), linear=on) for on in (False, True))
    for i in (2, 4):
        assert torch.equal(plain[i].weight, net[i].weight)
        order = find_permutation(net[i].weight.detach(), linear[i].weight.detach(), dim=1)
        assert order != sorted(order)
        assert torch.equal(linear[i].bias, net[i].bias)
    find_permutation(net[0].weight.detach(), linear[0].weight.detach(), dim=1)


@pytest.mark.parametrize("kind", [StdConv2d, ScaledStdConv2d, Conv2dSame])
def test_the_weight_that_is_applied_is_permuted(kind):
    """Standardisation is over all inputs of a filter, so it commutes with their order."""
    conv, images = kind(6, 4, 3), torch.rand(2, 6, 8, 8)
    (before,), (after,) = (
        applied_weights(conv, images),
        applied_weights(shuffle_channels(conv, torch_generator(1)), images),
    )
    order = [min(range(6), key=lambda i: float((before[:, i] - after[:, j]).abs().max())) for j in range(6)]
    assert sorted(order) == list(range(6)) != order
    torch.testing.assert_close(before[:, order], after, rtol=1e-5, atol=1e-6)


def test_mixed_convolutions_are_shuffled_kernel_by_kernel():
    conv = MixedConv2d(6, 6, [3, 5], depthwise=False)
    images = torch.rand(2, 6, 8, 8)
    before, after = (
        applied_weights(conv, images),
        applied_weights(shuffle_channels(conv, torch_generator(1)), images),
    )
    assert [w.shape for w in before] == [(3, 3, 3, 3), (3, 3, 5, 5)]
    assert [find_permutation(*pair, dim=1) for pair in zip(before, after, strict=True)] != [[0, 1, 2]] * 2


@pytest.mark.parametrize(
    ("net", "dim"),
    [
        (nn.Sequential(nn.Conv2d(6, 4, 1, groups=2)), 1),
        (nn.Sequential(nn.Conv1d(6, 2, 1, groups=2)), 1),
        (nn.Sequential(nn.ConvTranspose2d(6, 4, 1, groups=2)), 0),
        (nn.Sequential(nn.Conv2d(3, 2, 1), nn.Conv2d(3, 2, 1)), 1),
    ],
    ids=["groups", "1-D groups", "transposed groups", "layers"],
)
def test_groups_and_layers_are_permuted_independently_of_one_another(net, dim):
    """Of three channels in each of two, all 36 pairs of permutations are equally likely."""

    def parts(module: nn.Module) -> list[torch.Tensor]:
        return [part for conv in module for part in conv.weight.detach().chunk(2 // len(module))]

    n, generator, counts = 360, torch_generator(0), Counter()
    for _ in range(n):
        changed = parts(shuffle_channels(net, generator))
        pairs = zip(parts(net), changed, strict=True)
        counts[tuple(tuple(find_permutation(b, a, dim=dim)) for b, a in pairs)] += 1
    assert len(counts) == 36
    chi_square = sum((count - n / 36) ** 2 / (n / 36) for count in counts.values())
    assert chi_square < 35 + 4 * (2 * 35) ** 0.5


@pytest.mark.parametrize("groups", [1, 2, 6])
def test_the_experts_of_a_conditional_convolution_get_one_permutation(groups):
    conv = CondConv2d(6, 6, 3, groups=groups, num_experts=3, bias=True)
    randomise(conv)
    changed = shuffle_channels(conv, torch_generator(1))
    routing = torch.rand(2, 3, generator=torch_generator(2))
    images = torch.rand(2, 6, 8, 8)
    mixed = []
    for net in (conv, changed):
        weights = []
        with torch.no_grad(), FollowChannels(weights.append):
            net(images, routing)
        mixed.append(weights[0].reshape(2, 6, 6 // groups, 3, 3))  # one mixture an image
    for before, after in zip(*mixed, strict=True):
        if groups == 6:
            assert find_permutation(before, after, dim=0) == find_permutation(mixed[0][0], mixed[1][0], dim=0)
        else:
            for b, a in zip(before.chunk(groups), after.chunk(groups), strict=True):
                find_permutation(b, a, dim=1)
    assert not torch.equal(*mixed)


def test_tied_weights_are_shuffled_once_and_stay_tied():
    net = nn.Sequential(nn.Conv2d(6, 6, 3), nn.Conv2d(6, 6, 3))
    net[1].weight = net[0].weight
    once = shuffle_channels(nn.Sequential(net[0]), torch_generator(1))
    changed = shuffle_channels(net, torch_generator(1))
    assert changed[0].weight is changed[1].weight
    assert torch.equal(changed[0].weight, once[0].weight)


def standardised(conv, kind):
    made = kind(conv.in_channels, conv.out_channels, conv.kernel_size[0])
    made.load_state_dict(conv.state_dict(), strict=False)
    return made


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning", "ignore:.*spectral_norm:FutureWarning")
@pytest.mark.parametrize(
    "wrap",
    [
        parametrizations.weight_norm,
        parametrizations.spectral_norm,
        nn.utils.weight_norm,
        nn.utils.spectral_norm,
        lambda conv: prune.random_unstructured(prune.l1_unstructured(conv, "weight", 0.3), "bias", 0.5),
        lambda conv: prune.random_unstructured(parametrizations.orthogonal(conv), "bias", 0.5),
        lambda conv: standardised(conv, StdConv2d),
        lambda conv: standardised(conv, ScaledStdConv2d),
        lambda conv: standardised(conv, StdConv2dSame),
        lambda conv: standardised(conv, ScaledStdConv2dSame),
    ],
    ids=[
        "weight norm",
        "spectral norm",
        "old weight norm",
        "old spectral norm",
        "pruned",
        "orthogonal and pruned",
        "standardised",
        "scaled and standardised",
        "standardised, same",
        "scaled and standardised, same",
    ],
)
def test_computed_weights_are_shuffled_as_they_are_applied(wrap):
    conv, images = wrap(nn.Conv2d(6, 4, 3)), torch.rand(2, 6, 8, 8)
    conv(images)  # leaves a weight with a gradient behind
    conv.eval()
    state = sha(conv)
    (before,) = applied_weights(conv, images)
    changed = shuffle_channels(conv, torch_generator(1))
    (after,) = applied_weights(changed, images)
    order = find_permutation(before, after, dim=1)
    assert order != sorted(order)
    averaged = mean_filters(conv)
    (after,) = applied_weights(averaged, images)
    torch.testing.assert_close(
        after, before.mean((0, 1), keepdim=True).expand_as(before), rtol=1e-5, atol=1e-7
    )
    assert sha(conv) == state
    assert torch.equal(applied_weights(conv, images)[0], before)


@pytest.mark.parametrize("kind", [StdConv2dSame, ScaledStdConv2dSame, StdConv2d])
@pytest.mark.parametrize("stride", [1, 2])
def test_a_standardised_convolution_made_permanent_is_the_same_function(kind, stride):
    conv, images = kind(4, 6, 3, stride=stride), torch.rand(2, 4, 9, 9)
    expected = conv(images)
    changed = copy.deepcopy(nn.Sequential(conv))
    assert len(list(filters(changed))) == 1
    assert torch.equal(changed(images), expected)


@pytest.mark.parametrize("change", [shuffle_channels, mean_filters])
def test_weights_that_a_forward_computes_are_named(change):
    """A hook of its own would write over whatever is done to the weight."""
    conv = nn.Conv2d(4, 4, 3)
    values = nn.Parameter(conv.weight.detach().clone())
    del conv.weight
    conv.register_parameter("raw", values)
    conv.weight = values.detach() * 2
    conv.register_forward_pre_hook(lambda module, args: setattr(module, "weight", module.raw * 2))
    with pytest.raises(UsageError, match="the weight of inner is no parameter but computed"):
        change(nn.Sequential(OrderedDict(inner=conv)))


class Masked(nn.Conv2d):
    """Its mask stays where it is while weights move under it."""

    def __init__(self, *args, on=0.5):
        super().__init__(*args)
        shape = self.weight.shape
        self.register_buffer("mask", (torch.rand(shape, generator=torch_generator()) < on).float())

    def forward(self, x):
        return F.conv2d(x, self.weight * self.mask, self.bias)


class Standardised(nn.Conv2d):
    def forward(self, x):
        spread, mean = torch.std_mean(self.weight, dim=(1, 2, 3), keepdim=True)
        return F.conv2d(x, (self.weight - mean) / spread, self.bias)


class StdConv1d(nn.Conv1d):
    """By name like timm's."""

    def forward(self, x):
        return F.conv1d(x, self.weight - self.weight.mean(1, keepdim=True), self.bias)


def rewritten(conv):
    """The parameter stays one, and gets its values anew in each forward."""
    raw = conv.weight.detach().clone()

    def rewrite(module, args):
        module.weight.data.copy_(raw)

    conv.register_forward_pre_hook(rewrite)
    return conv


def patched(conv):
    conv.forward = lambda x, weight=conv.weight: F.conv2d(x, weight, conv.bias)
    return conv


COMPUTED = {
    "masked": lambda: Masked(4, 4, 3),
    "standardised": lambda: Standardised(4, 4, 3),
    "named like timm's": lambda: StdConv1d(4, 4, 3),
    "rewritten by a hook": lambda: rewritten(nn.Conv2d(4, 4, 3)),
    "another forward": lambda: patched(nn.Conv2d(4, 4, 3)),
}


@pytest.mark.parametrize("change", [shuffle_channels, mean_filters])
@pytest.mark.parametrize("make", COMPUTED)
def test_convolutions_that_apply_another_weight_are_named(change, make):
    state = torch.get_rng_state()
    net = nn.Sequential(OrderedDict(first=nn.Conv2d(4, 4, 1), inner=COMPUTED[make]()))
    torch.set_rng_state(state)
    before = sha(net)
    with pytest.raises(UsageError, match="the weight of inner is not applied as it is"):
        change(net)
    assert sha(net) == before


def test_linear_layers_that_apply_another_weight_are_named():
    class Positive(nn.Linear):
        def forward(self, x):
            return F.linear(x, self.weight.abs(), self.bias)

    shuffle_channels(nn.Sequential(Positive(4, 3)))  # not touched
    with pytest.raises(UsageError, match="the weight of 0 is not applied"):
        shuffle_channels(nn.Sequential(Positive(4, 3)), linear=True)


class StdConvGain(nn.Conv2d):
    """Does more than its name says, with the weight as it is."""

    def forward(self, x):
        return 5 * F.conv2d(x, self.weight, self.bias)


class Attentive(nn.Conv2d):
    """Its parts have weights of their own."""

    def __init__(self, *args):
        super().__init__(*args)
        self.gate, self.score = nn.Conv2d(1, 1, 1), nn.Linear(1, 1)

    def forward(self, x):
        x = x * self.score(self.gate(x.mean((1, 2, 3), keepdim=True)))
        return F.conv2d(x, self.weight, self.bias)


@pytest.mark.parametrize(
    "conv",
    [StdConvGain(6, 4, 3), Masked(6, 4, 3, on=2), Attentive(6, 4, 3), StdConvGain(6, 4, 3, dilation=2)],
    ids=["gain", "mask of ones", "parts", "dilated"],
)
def test_classes_of_ones_own_stay_what_they_are(conv):
    outputs = []
    conv.register_forward_hook(lambda module, args, output: outputs.append(output))
    conv.register_forward_pre_hook(lambda module, args: (args[0] * 2,))
    changed, images = shuffle_channels(conv, torch_generator(1)), torch.rand(2, 6, 9, 9)
    assert not outputs
    assert type(changed) is type(conv)
    order = find_permutation(conv.weight.detach(), changed.weight.detach(), dim=1)
    assert order != sorted(order)
    moved = torch.empty_like(images)
    moved[:, order] = images
    torch.testing.assert_close(changed(images), conv(moved), rtol=1e-4, atol=1e-4)


def test_what_cannot_be_run_alone_is_said():
    class Gated(nn.Conv2d):
        def forward(self, x, gate):
            return super().forward(x * gate)

    net = nn.Sequential(OrderedDict(inner=Gated(6, 4, 3)))
    with pytest.warns(DiffsensWarning, match=r"inner \(Gated\) cannot be run by itself"):
        changed = shuffle_channels(net, torch_generator(1))
    order = find_permutation(net.inner.weight.detach(), changed.inner.weight.detach(), dim=1)
    assert order != sorted(order)


def test_checks_draw_no_random_numbers():
    class Noisy(nn.Conv2d):
        def forward(self, x):
            return super().forward(x + torch.rand_like(x))

    conv, other = Noisy(6, 4, 3), nn.Conv2d(6, 4, 3)
    other.load_state_dict(conv.state_dict())
    with torch.random.fork_rng():
        found = []
        for net in (conv, other):
            torch.manual_seed(3)
            found.append([shuffle_channels(net).weight for _ in range(3)])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


# --- mean filters

NORMS = {
    "batch": (nn.BatchNorm2d(4), (2, 4, 5, 5)),
    "batch 1-D": (nn.BatchNorm1d(4), (2, 4, 5)),
    "batch, no affine": (nn.BatchNorm2d(4, affine=False), (2, 4, 5, 5)),
    "batch and activation": (BatchNormAct2d(4), (2, 4, 5, 5)),
    "group": (nn.GroupNorm(2, 4), (2, 4, 5, 5)),
    "instance": (nn.InstanceNorm2d(4, affine=True, track_running_stats=True), (2, 4, 5, 5)),
    "layer": (nn.LayerNorm(4), (2, 5, 4)),
    "root mean square": (nn.RMSNorm(4), (2, 5, 4)),
    "timm's root mean square": (RmsNorm(4), (2, 5, 4)),
    "frozen": (FrozenBatchNorm2d(4), (2, 4, 5, 5)),
    "timm's frozen": (FrozenBatchNormAct2d(4), (2, 4, 5, 5)),
    "evo": (EvoNorm2dS0(4, group_size=2), (2, 4, 5, 5)),
}


@pytest.mark.parametrize("name", NORMS)
def test_norms_treat_all_channels_alike(name):
    norm, shape = NORMS[name]
    norm = randomise(copy.deepcopy(norm)).eval()
    axis = shape.index(4)
    same = torch.rand([n if i != axis else 1 for i, n in enumerate(shape)]).expand(shape)
    spread = [(net(same).amax(axis) - net(same).amin(axis)).abs().max() for net in (norm, mean_filters(norm))]
    assert spread[1] < 1e-6
    if norm.state_dict().keys() - {"num_batches_tracked"}:
        assert spread[0] > 1e-2
    for key, value in mean_filters(norm).state_dict().items():
        if value.is_floating_point():
            expected = sum(norm.state_dict()[key].flatten().tolist()) / value.numel()
            assert value.flatten().tolist() == pytest.approx([expected] * value.numel(), rel=1e-6)
        else:
            assert torch.equal(value, norm.state_dict()[key])


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


def parametrised(norm):
    for name in ("weight", "bias"):
        parametrize.register_parametrization(norm, name, Doubled())
    return norm


def pruned(norm):
    for name in ("weight", "bias"):
        prune.random_unstructured(norm, name, 0.5)
    return norm


@pytest.mark.parametrize("wrap", [pruned, parametrised])
@pytest.mark.parametrize("kind", [nn.BatchNorm2d, lambda n: nn.GroupNorm(2, n)], ids=["batch", "group"])
def test_computed_vectors_of_norms_are_averaged_as_they_are_applied(wrap, kind):
    norm = wrap(randomise(kind(6))).eval()
    applied = {name: getattr(norm, name).detach() for name in ("weight", "bias")}
    before = sha(norm)
    changed = mean_filters(nn.Sequential(norm, nn.Linear(2, 2)))[0]
    changed(torch.rand(2, 6, 3, 3))  # hooks would compute them again
    for name, values in applied.items():
        assert values.std() > 0.1
        torch.testing.assert_close(getattr(changed, name).detach(), values.mean().expand(6))
    assert sha(norm) == before


@pytest.mark.parametrize(
    "conv",
    [
        nn.Conv2d(3, 4, 3),
        nn.Conv2d(4, 6, (1, 5), groups=2),
        nn.Conv2d(4, 4, 3, groups=4, bias=False),
        nn.Conv1d(3, 4, 5),
        nn.ConvTranspose2d(3, 4, 3),
    ],
)
def test_filters_become_the_average_of_all_channels(conv):
    changed = mean_filters(conv)
    pairs = list(itertools.product(*(range(n) for n in conv.weight.shape[:2])))
    average = sum(conv.weight[i, j].double() for i, j in pairs) / len(pairs)
    for i, j in pairs:
        torch.testing.assert_close(changed.weight[i, j].double(), average, rtol=1e-6, atol=1e-9)
    if conv.bias is not None:
        assert changed.bias.tolist() == pytest.approx(
            [sum(conv.bias.tolist()) / len(conv.bias)] * len(conv.bias)
        )


def test_the_experts_of_a_conditional_convolution_are_averaged_one_by_one():
    conv = randomise(CondConv2d(4, 6, 3, num_experts=3, bias=True))
    changed = mean_filters(conv)
    for e in range(3):
        filters = conv.weight[e].reshape(24, 9).mean(0)
        torch.testing.assert_close(changed.weight[e].reshape(24, 9), filters.expand(24, 9))
        torch.testing.assert_close(changed.bias[e], conv.bias[e].mean().expand(6))


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet"])
def test_all_channels_of_a_mean_filter_network_are_the_same(name):
    net = mean_filters(randomise(timm.create_model(name))).eval()
    maps: list[torch.Tensor] = []
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            module.register_forward_hook(lambda module, args, output: maps.append(output.clone()))
    with torch.no_grad():
        net(torch.rand(1, 3, 32, 32, generator=torch_generator()))
    assert len(maps) > 10
    for out in maps:
        torch.testing.assert_close(out, out.mean(1, keepdim=True).expand_as(out), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [NETS["resnet20"], lambda: timm.create_model("test_efficientnet")])
def test_averaging_twice_equals_averaging_once(make):
    net = randomise(make())
    once = mean_filters(net)
    assert sha(once) != sha(net)
    assert sha(mean_filters(once)) == sha(once)


def test_averaging_leaves_linear_layers_alone():
    net = nn.Sequential(nn.Linear(4, 3), parametrizations.spectral_norm(nn.Linear(3, 3)), nn.Conv2d(3, 2, 3))
    changed = mean_filters(net)
    for key, value in net.state_dict().items():
        assert torch.equal(changed.state_dict()[key], value) == (not key.startswith("2."))


# --- fresh weights

TIMM = ["test_resnet", "test_vit", "test_convnext", "test_efficientnet"]


def spreads(net: nn.Module) -> dict[str, tuple[float, int]]:
    return {name: (float(p.detach().std()), p.numel()) for name, p in net.named_parameters() if p.numel() > 1}


def assert_same_law(one: nn.Module, two: nn.Module) -> None:
    """Standard deviations agree within 4 of their standard errors (normal values have the widest)."""
    other = spreads(two)
    assert spreads(one).keys() == other.keys()
    for name, (std, n) in spreads(one).items():
        if std == 0 or other[name][0] == 0:
            assert std == other[name][0], name
        else:
            assert abs(std / other[name][0] - 1) < 4 * (1 / n) ** 0.5, name


@pytest.mark.parametrize("options", [{}, {"num_classes": 7, "in_chans": 1}], ids=["as it is", "other ends"])
@pytest.mark.parametrize("name", TIMM)
def test_timm_models_get_weights_of_timms_own_law(name, options):
    net = timm.create_model(name, **options)
    fresh = reinitialise(net, seed=1)
    assert type(fresh) is type(net)
    assert repr(fresh) == repr(net)
    assert_same_law(fresh, net)
    moved = [k for k, v in net.named_parameters() if v.ndim > 1 and v.detach().std() > 0]
    assert moved
    assert not any(torch.equal(net.get_parameter(k), fresh.get_parameter(k)) for k in moved)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("test_resnet", {"act_layer": nn.SiLU}),
        ("test_resnet", {"global_pool": "max"}),
        ("test_resnet", {"output_stride": 8}),
        ("test_vit", {"act_layer": nn.ReLU}),
        ("test_efficientnet", {"act_layer": nn.ReLU, "global_pool": "max"}),
    ],
)
def test_timm_models_stay_the_same_function_of_their_weights(name, options):
    net = timm.create_model(name, **options).eval()
    fresh = reinitialise(net, seed=1)
    images = torch.rand(2, 3, 160, 160) if name == "test_vit" else torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        assert not torch.allclose(fresh(images), net(images))
        fresh.load_state_dict(net.state_dict())
        assert torch.equal(fresh(images), net(images))


def test_a_new_head_is_kept():
    net = timm.create_model("test_vit")
    net.reset_classifier(5)
    assert reinitialise(net, seed=1).head.out_features == 5


def test_a_generic_network_is_reset_to_torchs_own_law():
    """That of `reset_parameters`: uniform on [-b, b] with b^2 = 1 / inputs. torchvision's own is another."""
    net = torchvision.models.resnet18(weights=None, num_classes=10)
    fresh = reinitialise(net, seed=1)
    for name, module in fresh.named_modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            bound = module.weight[0].numel() ** -0.5
            n = module.weight.numel()
            assert float(module.weight.detach().abs().max()) <= bound * (1 + 1e-6)
            assert float(module.weight.detach().std()) == pytest.approx(bound / 3**0.5, rel=4 / n**0.5)
            assert not torch.equal(module.weight, net.get_submodule(name).weight)


def test_a_factory_decides_the_law():
    net = torchvision.models.shufflenet_v2_x0_5(weights=None)
    fresh = reinitialise(net, seed=1, factory=lambda: torchvision.models.shufflenet_v2_x0_5(weights=None))
    assert_same_law(fresh, net)
    assert sha(fresh) != sha(net)


@pytest.mark.parametrize(
    "make", [lambda: timm.create_model("test_resnet"), NETS["resnet20"]], ids=["timm", "generic"]
)
def test_norm_statistics_are_reset(make):
    fresh = reinitialise(randomise(make()), seed=1)
    norms = [module for module in fresh.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) > 10
    for norm in norms:
        assert not norm.running_mean.any()
        assert (norm.running_var == 1).all()
        assert norm.num_batches_tracked == 0


@pytest.mark.parametrize(
    "make", [lambda: timm.create_model("test_vit"), NETS["lenet"]], ids=["timm", "generic"]
)
def test_fresh_weights_follow_from_the_seed(make):
    net = make()
    before = torch.get_rng_state()
    one, same, other = (sha(reinitialise(net, seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert one == same
    assert len({one, other, sha(net)}) == 3


@pytest.mark.parametrize(
    "net",
    [
        nn.MultiheadAttention(8, 2),
        nn.TransformerEncoderLayer(8, 2, 16),
        nn.LSTM(4, 4),
        nn.Sequential(nn.Embedding(5, 4), nn.PReLU(), nn.Bilinear(4, 4, 2), nn.GroupNorm(2, 4)),
    ],
    ids=lambda net: type(net).__name__,
)
def test_modules_of_torch_can_reset_themselves(net):
    fresh = reinitialise(randomise(net), seed=1)
    again = type(net)(8, 2) if isinstance(net, nn.MultiheadAttention) else None
    assert all(not torch.equal(p, fresh.get_parameter(n)) for n, p in net.named_parameters())
    if again is not None:
        assert_same_law(fresh, again)


class Scaled(nn.Module):
    def __init__(self, value: torch.Tensor) -> None:
        super().__init__()
        self.scale, self.linear = nn.Parameter(value), nn.Linear(4, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x * self.scale)


@pytest.mark.parametrize("value", [torch.ones(4), torch.rand(4)], ids=["constant", "random"])
def test_a_bare_parameter_is_named(value):
    net = nn.Sequential(Scaled(value), Scaled(value))
    with pytest.raises(
        UsageError, match=r"Sequential cannot be re-initialised: 0\.scale, 1\.scale .*pass factory="
    ):
        reinitialise(net)
    fresh = reinitialise(net, seed=1, factory=lambda: nn.Sequential(Scaled(value), Scaled(value)))
    assert not torch.equal(fresh[0].linear.weight, net[0].linear.weight)


class Forgetful(nn.Linear):
    """Its reset leaves one parameter as it is."""

    def __init__(self) -> None:
        super().__init__(4, 2)
        self.extra = nn.Parameter(torch.rand(3))


@pytest.mark.filterwarnings("ignore:.*weight_norm:FutureWarning")
@pytest.mark.parametrize(
    ("make", "named"),
    [
        (Forgetful, "extra"),
        (lambda: nn.utils.weight_norm(nn.Conv2d(3, 4, 3)), "weight_g, weight_v"),
        (lambda: parametrizations.weight_norm(nn.Conv2d(3, 4, 3)), "parametrizations.weight.original0"),
    ],
    ids=["forgotten", "old weight norm", "weight norm"],
)
def test_parameters_that_a_reset_leaves_are_named(make, named):
    with pytest.raises(UsageError, match=f"cannot be re-initialised: {named}"):
        reinitialise(make())


class ZeroHead(nn.Module):
    """Its own reset comes after its parts', as in its constructor."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 2)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        nn.init.zeros_(self.head.weight)


def test_the_seed_may_be_the_one_the_network_was_made_with():
    with seeding.seeded(5):
        net = nn.Linear(4, 2)
    assert sha(reinitialise(net, seed=5)) == sha(net)


def test_outer_initialisers_have_the_last_word():
    net = randomise(ZeroHead())
    assert not reinitialise(net).head.weight.any()


# --- what holds for all

CHANGES = {
    "shuffle": lambda net: shuffle_channels(net, torch_generator()),
    "shuffle linear": lambda net: shuffle_channels(net, torch_generator(), linear=True),
    "mean": mean_filters,
    "fresh": lambda net: reinitialise(net, seed=1),
}
MAKERS = {"generic": NETS["resnet20"], "timm": lambda: timm.create_model("test_efficientnet")}


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("change", CHANGES)
def test_the_original_stays_as_it_is(change, make):
    net = randomise(MAKERS[make]())
    before, grads = sha(net), [p.requires_grad for p in net.parameters()]
    images = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        out = net.eval()(images)
        changed = CHANGES[change](net)
        assert not torch.allclose(changed.eval()(images), out)
        for value in changed.state_dict().values():  # nothing is shared
            value.zero_()
        assert torch.equal(net(images), out)
    assert sha(net) == before
    assert [p.requires_grad for p in changed.parameters()] == grads


@pytest.mark.parametrize("make", MAKERS)
@pytest.mark.parametrize("change", CHANGES)
def test_training_flags_and_dtypes_are_kept(change, make):
    net = MAKERS[make]().train().bfloat16()
    norms = [module for module in net.modules() if isinstance(module, nn.BatchNorm2d)]
    norms[0].float().eval()
    changed = CHANGES[change](net)
    assert [m.training for m in changed.modules()] == [m.training for m in net.modules()]
    assert [p.dtype for p in changed.parameters()] == [p.dtype for p in net.parameters()]
    assert len({p.dtype for p in changed.parameters()}) == 2


def test_a_factorys_network_gets_the_models_dtype_and_mode():
    for mode in (True, False):
        net = NETS["lenet"]().double().train(mode)
        fresh = reinitialise(net, factory=NETS["lenet"])
        assert fresh.training is mode
        assert {p.dtype for p in fresh.parameters()} == {torch.float64}


@pytest.mark.parametrize("change", CHANGES)
def test_copies_do_not_feed_an_open_probe(change):
    net = NETS["lenet"]()
    images = torch.rand(6, 3, 32, 32)
    with Probe(net) as probe, torch.no_grad():
        net(images)
        before = [(layer.layer, layer.d, layer.n) for layer in probe.results()]
        CHANGES[change](net)(torch.rand(6, 3, 32, 32))
        assert [(layer.layer, layer.d, layer.n) for layer in probe.results()] == before
    assert before[0][2] == 2
