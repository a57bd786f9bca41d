"""Our rules of differentiation beside PyTorch's own, and how often they apply an operator."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode

from timm_diffsens.sensitivities.forward_mode import differentiable


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def attention(*args, **kwargs):
    """By its plain kernel, the only one that PyTorch can differentiate."""
    with sdpa_kernel(SDPBackend.MATH):
        return functional.scaled_dot_product_attention(*args, **kwargs)


STATISTICS = (numbers(4, seed=1), numbers(4, seed=2).square())
OPERATORS = {
    "conv1d": (lambda x, w: functional.conv1d(x, w, numbers(4, seed=3), padding=1), (2, 4, 9), (4, 4, 3)),
    "conv2d": (
        lambda x, w: functional.conv2d(x, w, bias=numbers(4, seed=3), stride=2, groups=2),
        (2, 4, 9, 8),
        (4, 2, 3, 3),
    ),
    "conv2d, same": (lambda x, w: functional.conv2d(x, w, padding="same"), (2, 4, 9, 8), (4, 4, 3, 3)),
    "conv3d": (lambda x, w: functional.conv3d(x, w), (2, 4, 5, 5, 5), (4, 4, 3, 3, 3)),
    "transposed": (
        lambda x, w: functional.conv_transpose2d(x, w, numbers(4, seed=3), stride=2, output_padding=1),
        (2, 4, 5, 4),
        (4, 4, 3, 3),
    ),
    "linear": (lambda x, w: functional.linear(x, w, numbers(5, seed=3)), (2, 7, 4), (5, 4)),
    "linear, by keywords": (lambda x, w: functional.linear(input=x, weight=w), (2, 4), (5, 4)),
    "batch norm": (lambda x, w: functional.batch_norm(x, *STATISTICS, w, w / 2), (3, 4, 5, 5), (4,)),
    "batch norm, training": (
        lambda x, w: functional.batch_norm(x, None, None, w, training=True),
        (3, 4, 5, 5),
        (4,),
    ),
    "layer norm": (lambda x, w: functional.layer_norm(x, (4, 5), w, w / 2), (2, 3, 4, 5), (4, 5)),
    "layer norm, bare": (lambda x, w: functional.layer_norm(x * w, (5,)), (2, 3, 5), (5,)),
    "group norm": (lambda x, w: functional.group_norm(x, 2, w, w / 2), (3, 4, 5, 5), (4,)),
    "group norm, bare": (lambda x, w: functional.group_norm(x * w[:, None], 2), (3, 4, 5), (4,)),
    "softmax": (lambda x, w: functional.softmax(x * w, 1), (2, 5, 3), (3,)),
    "softmax, method": (lambda x, w: (x * w).softmax(dim=-1).mul_(2), (2, 5, 3), (3,)),
    "softmax, function": (lambda x, w: torch.softmax(x * w, dim=0), (2, 5, 3), (3,)),
    "softmax, in single precision": (lambda x, w: (x * w).softmax(-1, dtype=torch.float32), (2, 5, 3), (3,)),
    "softmax, module": (lambda x, w: nn.Softmax(dim=-1)(x * w), (2, 5, 3), (3,)),
    "attention": (lambda x, w: attention(x, x * w, x + w), (2, 3, 5, 4), (5, 4)),
    "attention, scaled": (lambda x, w: attention(x, x * w, x + w, scale=0.3), (2, 3, 5, 4), (5, 4)),
    "attention, causal": (lambda x, w: attention(x, x * w, x + w, is_causal=True), (2, 3, 5, 4), (5, 4)),
    "attention, masked": (lambda x, w: attention(x, x * w, x, numbers(5, 5)), (2, 3, 5, 4), (5, 4)),
    "in place after": (lambda x, w: functional.conv2d(x, w).relu_().mul_(2), (2, 4, 9, 8), (4, 4, 3, 3)),
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("varying", ["x", "weight", "both"])
def test_derivatives_are_those_of_autograd(name, varying):
    function, *shapes = OPERATORS[name]
    given = [numbers(*shape, seed=seed) for seed, shape in enumerate(shapes)]
    along = [numbers(*shape, seed=seed + 10) for seed, shape in enumerate(shapes)]

    def derivative():
        x, weight = (forward_ad.make_dual(*pair) for pair in zip(given, along, strict=True))
        return forward_ad.unpack_dual(
            function(x if varying != "weight" else given[0], weight if varying != "x" else given[1])
        )

    with torch.no_grad(), forward_ad.dual_level():
        usual = derivative()
        with differentiable():
            ours = derivative()
    assert torch.allclose(ours.primal, usual.primal, rtol=1e-14, atol=1e-15)
    assert torch.allclose(ours.tangent, usual.tangent, rtol=1e-12, atol=1e-12)


def test_a_group_norm_of_channels_last_images_has_a_derivative():
    x, along = numbers(2, 4, 3, 3), numbers(2, 4, 3, 3, seed=1)
    norm = nn.GroupNorm(2, 4).double()
    found = []
    with torch.no_grad(), forward_ad.dual_level(), differentiable():
        for layout in (torch.contiguous_format, torch.channels_last):
            given = [part.contiguous(memory_format=layout) for part in (x, along)]
            made = forward_ad.unpack_dual(norm(forward_ad.make_dual(*given)))
            assert made.tangent.stride() == made.primal.stride()
            found.append(made.tangent)
    assert torch.allclose(*found, rtol=1e-12, atol=1e-12)


def derivative(function, x, along):
    """Value and derivative by our rules."""
    with torch.no_grad(), forward_ad.dual_level(), differentiable():
        return forward_ad.unpack_dual(function(forward_ad.make_dual(x, along)))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("kind", ["group", "layer"])
def test_norms_of_bfloat16_images_with_weights_in_single_precision(kind, autocast, layout):
    """As in autocast, or where the norms of a network alone stay in float32."""
    weight, bias = numbers(4, seed=2).float(), numbers(4, seed=3).float()
    x, along = (numbers(2, 4, 6, 4, seed=seed).bfloat16().to(memory_format=layout) for seed in (0, 1))

    def norm(x, *given):
        return (
            functional.group_norm(x, 2, *given) if kind == "group" else functional.layer_norm(x, (4,), *given)
        )

    with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
        found = derivative(lambda x: norm(x, weight, bias), x, along)
        assert torch.equal(found.primal, norm(x, weight, bias))
    exact = torch.func.jvp(
        lambda x: norm(x, weight.double(), bias.double()),
        *[(part.double().contiguous(),) for part in (x, along)],
    )[1]
    assert (found.tangent.double() - exact).abs().max() < 2**-8 * exact.abs().max()


def test_operators_inside_of_vmap_keep_their_derivatives():
    """Kernels of their own for each image; against the same, one image after the other."""
    x, along = numbers(3, 2, 6, 6), numbers(3, 2, 6, 6, seed=1)
    kernels = numbers(3, 4, 2, 3, 3, seed=2)

    def convolved(image, kernel):
        return functional.softmax(functional.conv2d(image[None], kernel)[0], 0)

    found = derivative(lambda x: torch.func.vmap(convolved)(x, kernels), x, along)
    single = derivative(
        lambda x: torch.stack([convolved(*pair) for pair in zip(x, kernels, strict=True)]), x, along
    )
    assert torch.allclose(found.tangent, single.tangent, rtol=1e-12, atol=1e-12)


class Convolutions(TorchDispatchMode):
    """Counts them, below autograd."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += function is torch.ops.aten.convolution.default
        return function(*args, **(kwargs or {}))


def test_a_convolution_is_applied_to_the_images_and_to_the_tangents_and_no_more():
    net = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True), nn.Conv2d(4, 4, 3)
    ).eval()
    images = torch.rand(2, 3, 8, 8)
    with torch.no_grad(), forward_ad.dual_level(), differentiable(), Convolutions() as seen:
        net(forward_ad.make_dual(images, torch.rand_like(images)))
    assert seen.count == 4


def test_an_lstm_has_a_derivative():
    """In single precision, where PyTorch has a kernel without one; a central difference in double agrees."""
    torch.manual_seed(0)
    net = nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True)
    x, along = numbers(2, 5, 3), numbers(2, 5, 3, seed=1)
    with torch.no_grad(), forward_ad.dual_level():
        given = forward_ad.make_dual(x.float(), along.float())
        with pytest.raises(NotImplementedError, match="forward AD with mkldnn_rnn_layer"):
            net(given)
        with differentiable():
            found = forward_ad.unpack_dual(net(given)[0]).tangent
        net.double()
        central = (net(x + 1e-5 * along)[0] - net(x - 1e-5 * along)[0]) / 2e-5
    assert torch._C._get_mkldnn_enabled()
    assert torch.allclose(found.double(), central, rtol=1e-4, atol=1e-6)
