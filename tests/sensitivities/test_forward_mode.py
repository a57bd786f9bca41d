"""Our rules of differentiation beside PyTorch's own, and how often they apply an operator."""

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from timm_diffsens.sensitivities.forward_mode import differentiable


def numbers(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


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
    assert torch.equal(ours.primal, usual.primal)
    assert torch.allclose(ours.tangent, usual.tangent, rtol=1e-12, atol=1e-12)


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
