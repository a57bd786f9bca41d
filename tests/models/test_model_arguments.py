"""Any architecture for a given task: its channels, its scores, its size; images and sequences."""

import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

from timm_diffsens import Probe
from timm_diffsens.errors import UsageError
from timm_diffsens.models.architectures import find_architecture, shown_spec
from timm_diffsens.models.arguments import ModelArguments
from timm_diffsens.models.checkpoints import state_sha256
from timm_diffsens.models.first_conv import first_convolution
from timm_diffsens.models.layers import list_layers
from timm_diffsens.models.libraries.torchvision import torchvision_names
from timm_diffsens.models.loading import InputOptions, LoadedModel, load_model
from timm_diffsens.models.nets import NETS

SMALL_TASK = ModelArguments(in_chans=1, num_classes=1, size=32)
NARROW = {"simple": {"width": 8, "depth": 2}, "resnet18": {"width": 4}, "alexnet": {"width": 8}}
NARROW |= {name: {"width": 4} for name in NETS if name.startswith("vgg")}

MODEL_FILE = """
import torch
from torch import nn


class Net(nn.Sequential):
    def __init__(self, in_chans: int = 3, num_classes: int = 7) -> None:
        head = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, num_classes)
        super().__init__(nn.Conv2d(in_chans, 2, 3), *head)


class Backwards(nn.Module):
    \"\"\"Its first convolution by name is called last.\"\"\"

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(4, 1, 1), nn.Conv2d(1, 4, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.a(self.b(x)).mean((2, 3))


def keywords(**options: int) -> nn.Module:
    return Net(**options)


def required(num_classes: int) -> nn.Module:
    return Net(num_classes=num_classes)


def colours(num_classes: int = 7) -> nn.Module:
    return Net(3, num_classes)


def seven() -> nn.Module:
    return Net(1)


def sequences(in_chans: int = 1) -> nn.Module:
    return nn.Sequential(nn.Conv1d(in_chans, 2, 3), nn.AdaptiveAvgPool1d(1), nn.Flatten())


instance = Net()
"""


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    path = tmp_path / "mynets.py"
    path.write_text(MODEL_FILE)
    return path


def load(spec: str, **arguments: object) -> LoadedModel:
    return load_model(spec, pretrained=False, arguments=ModelArguments(**arguments))


def check_measurable(model: LoadedModel, n: int = 2) -> None:
    """Every layer but those that do not depend on the input has finite D, G and R."""
    clean = torch.randn(n, *model.input_shape)
    parts = [clean, clean.roll(1, -1), clean + 0.1 * torch.randn_like(clean)]
    with Probe(model.module) as probe, torch.no_grad():
        assert model.module(torch.cat(parts)).shape == (3 * n, 1)
    assert [layer.layer for layer in probe.results() if layer.reason is not None] == []
    assert probe.results()[-1].shape == (1,)


# --- the arguments themselves


@pytest.mark.parametrize(
    ("arguments", "plain"),
    [
        (ModelArguments(), {"dims": 2}),
        (SMALL_TASK, {"in_chans": 1, "num_classes": 1, "size": 32, "dims": 2}),
        (ModelArguments(size=(32, 48)), {"size": [32, 48], "dims": 2}),
        (ModelArguments(size=128, dims=1, depth=7), {"size": 128, "dims": 1, "depth": 7}),
        (
            ModelArguments(bias="last", weight_mean=1, gain=1.5),
            {"dims": 2, "bias": "last", "weight_mean": 1, "gain": 1.5},
        ),
    ],
)
def test_arguments_survive_json(arguments, plain):
    assert arguments.to_json() == plain
    assert ModelArguments.from_json(plain) == arguments


def test_sides():
    assert ModelArguments().sides is None
    assert ModelArguments(size=32).sides == (32, 32)
    assert ModelArguments(size=(32, 48)).sides == (32, 48)
    assert ModelArguments(size=128, dims=1).sides == (1, 128)


@pytest.mark.parametrize(
    ("plain", "message"),
    [
        ({"in_chans": 0}, "in_chans must be a positive integer, got 0"),
        ({"num_classes": -1}, "num_classes must be a positive integer, got -1"),
        ({"num_classes": True}, "num_classes must be a positive integer, got True"),
        ({"size": 2.5}, "size must be a positive integer, got 2.5"),
        ({"size": [32, 0]}, r"size must be a positive integer, got \(32, 0\)"),
        ({"size": [32, 32, 32]}, r"expected \(height, width\), got \(32, 32, 32\)"),
        ({"size": [32, 32], "dims": 1}, r"expected a length, got \(32, 32\)"),
        ({"dims": 3}, "dims must be 1 or 2, got 3"),
        ({"bias": "first"}, "unknown model argument bias 'first'; expected none, last, all"),
        ({"bias": ["all"]}, "unknown model argument bias"),
        ({"bias_mean": float("nan")}, "bias_mean must be a number, got nan"),
        ({"bias_std": -1}, "bias_std must be a number of at least 0, got -1"),
        ({"gain": float("inf")}, "gain must be a number above 0, got inf"),
        ({"gain": 0}, "gain must be a number above 0, got 0"),
        ({"weight_std": "1"}, "weight_std must be a number of at least 0, got '1'"),
        ({"weight_mean": True}, "weight_mean must be a number of at least 0, got True"),
        ({"classes": 3}, "unknown model argument 'classes'; did you mean num_classes"),
        ([1], "expected an object of model arguments, got list"),
    ],
)
def test_impossible_arguments(plain, message):
    with pytest.raises(UsageError, match=message):
        ModelArguments.from_json(plain)


# --- our own networks


@pytest.mark.parametrize("name", NETS)
def test_every_network_has_one_channel_and_a_single_score(name):
    model = load(f"net/{name}", in_chans=1, num_classes=1, size=32, **NARROW.get(name, {}))
    assert (model.classes, model.input_shape) == (1, (1, 32, 32))
    assert (model.input.mean, model.input.std, model.input.crop_pct) == ((0.0,), (1.0,), 1.0)
    check_measurable(model)
    assert model.fresh(1)(torch.zeros(1, 1, 32, 32)).shape == (1, 1)


@pytest.mark.parametrize(
    ("spec", "arguments"),
    [
        ("net/simple", {"depth": 3, "width": 16}),
        ("net/simple", {"depth": 5, "width": 8, "filter": 2, "stride": 2}),
        ("net/fc2", {}),
        ("net/fc6", {"width": 64}),
    ],
)
def test_networks_of_sequences(spec, arguments):
    model = load(spec, in_chans=1, num_classes=1, size=64, dims=1, **arguments)
    assert (model.classes, model.input_shape) == (1, (1, 64))
    assert (model.input.height, model.input.width) == (1, 64)
    check_measurable(model)
    for selection in ("blocks", "convs", "all", "stages"):
        layers = list_layers(model, selection)
        assert layers[-1].shape == (1,)
        assert all(layer.reason is None for layer in layers)
    assert model.fresh(1)(torch.zeros(1, 1, 64)).shape == (1, 1)


def test_how_weights_start_is_an_argument_of_the_spec():
    spec = "net/simple:bias=last,bias_mean=-2.5,bias_std=0.5,weight_mean=1,weight_std=0,gain=2"
    model = load(spec, in_chans=1, num_classes=1, size=16, dims=1, width=4, depth=2)
    assert model.arguments.to_json().items() >= {"bias": "last", "weight_mean": 1, "gain": 2}.items()
    net = model.fresh(0)
    assert net.conv1.bias is None
    assert net.conv2.bias.all()
    assert abs(net.conv2.bias.mean().item() + 2.5) < 4 * 0.5 / 4**0.5
    assert torch.equal(net.conv2.weight, torch.full((4, 4, 3), 1 / 12**0.5))
    assert net.conv2.applied[0, 0, 0].item() == pytest.approx(2 / 12)


@pytest.mark.parametrize(
    ("spec", "arguments"),
    [
        ("net/simple:bias_mean=-10", {}),
        ("net/simple:bias=none,bias_std=1", {}),
        ("net/simple", {"bias_mean": -10.0}),
    ],
)
def test_how_biases_start_needs_biases(spec, arguments):
    with pytest.raises(UsageError, match="bias_mean and bias_std need bias=last or bias=all"):
        find_architecture(spec, ModelArguments(**arguments))  # before the network is made
    assert load("net/simple:bias_mean=0,bias_std=0").module.conv1.bias is None
    assert find_architecture("net/simple:bias=all", ModelArguments(bias_mean=-1.0)).build().conv1.bias.any()


def test_fresh_weights_of_a_built_architecture_follow_from_the_seed():
    model = load("net/simple", in_chans=1, num_classes=1, size=16, dims=1, width=4, depth=2)
    one, same, other = (state_sha256(model.fresh(seed).state_dict()) for seed in (1, 1, 2))
    assert one == same != other


def test_without_arguments_nothing_changes():
    model, again = load("net/lenet"), load_model("net/lenet", pretrained=False)
    assert model.input == again.input
    assert model.weights == again.weights
    assert (model.input.mean, model.input_shape) == ((0.5, 0.5, 0.5), (3, 32, 32))


def test_only_scores_leave_the_input_as_it_is():
    model = load("net/lenet", num_classes=2)
    assert (model.classes, model.input.mean) == (2, (0.5, 0.5, 0.5))


def test_the_user_has_the_last_word_on_the_input():
    options = InputOptions(size=(48, 64), mean=(0.25,), std=(2.0,))
    model = load_model("net/resnet20", pretrained=False, input_options=options, arguments=SMALL_TASK)
    assert (model.input.height, model.input.width) == (48, 64)
    assert (model.input.mean, model.input.std) == ((0.25,), (2.0,))
    options = InputOptions(size=(1, 32), mean=(0.0,), std=(1.0,))
    sequences = ModelArguments(in_chans=1, num_classes=1, size=32, dims=1)
    assert load_model(
        "net/fc2", pretrained=False, input_options=options, arguments=sequences
    ).input_shape == (1, 32)


@pytest.mark.parametrize(
    ("spec", "arguments", "message"),
    [
        ("net/lenet", {"width": 8}, "net/lenet takes no width; it takes in_chans, num_classes, size"),
        ("net/lenet", {"bias": "all"}, "net/lenet takes no bias; it takes in_chans"),
        ("net/vgg11", {"dims": 1}, "net/vgg11 takes no dims; it takes in_chans"),
        ("net/lenet", {"size": (32, 48)}, "net/lenet takes square images, got size 32 x 48"),
        (
            "resnet18",
            {"width": 8},
            "timm model resnet18 takes no width; it takes in_chans, num_classes, size",
        ),
        ("resnet18", {"dims": 1, "depth": 3}, "timm model resnet18 takes no dims or depth"),
        ("torchvision/resnet18", {"filter": 3}, "torchvision/resnet18 takes no filter"),
        ("torch.nn:Identity", {"stride": 3}, "the factory torch.nn:Identity takes no stride"),
    ],
)
def test_arguments_that_an_architecture_does_not_take(spec, arguments, message):
    with pytest.raises(UsageError, match=message):
        find_architecture(spec, ModelArguments(**arguments))


# --- timm and torchvision


@pytest.mark.parametrize(
    "spec", ["resnet18", "vit_tiny_patch16_224", "torchvision/resnet18", "torchvision/mobilenet_v3_small"]
)
def test_libraries_have_one_channel_and_a_single_score(spec):
    model = load(spec, in_chans=1, num_classes=1, size=32)
    assert (model.classes, model.input_shape, model.class_names) == (1, (1, 32, 32), None)
    assert (model.input.mean, model.input.std, model.input.crop_pct) == ((0.0,), (1.0,), 1.0)
    check_measurable(model)


def test_sizes_that_are_not_square():
    assert load("test_resnet", size=(32, 64)).input_shape == (3, 32, 64)
    model = load("test_vit", size=(32, 64), num_classes=2)
    with torch.no_grad():
        assert model.module(torch.zeros(1, *model.input_shape)).shape == (1, 2)


def test_channels_alone_keep_the_size():
    for spec, size in (("test_resnet", 160), ("torchvision/squeezenet1_1", 224), ("net/lenet", 32)):
        model = load(spec, in_chans=2)
        assert (model.input_shape, model.input.mean) == ((2, size, size), (0.0, 0.0))


def test_a_new_first_convolution_of_torchvision():
    """All but the channels, and with them the weights, is as it was; other layers are not touched."""
    plain = load_model("torchvision/resnet18", pretrained=False, seed=3).module
    model = load("torchvision/resnet18", in_chans=5).module
    one, other = plain.conv1, model.conv1
    assert (one.in_channels, other.in_channels) == (3, 5)
    for name in ("out_channels", "kernel_size", "stride", "padding", "dilation", "groups", "padding_mode"):
        assert getattr(one, name) == getattr(other, name)
    assert one.bias is None
    assert other.bias is None
    assert [n for n, p in model.named_parameters() if p.shape != plain.get_parameter(n).shape] == [
        "conv1.weight"
    ]
    a, b = (load("torchvision/resnet18", in_chans=5).weights.sha256 for _ in range(2))
    assert a == b


def check_one_channel(name: str) -> None:
    source = find_architecture(f"torchvision/{name}", ModelArguments(in_chans=1, num_classes=1))
    with torch.device("meta"), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        module = source.build().eval()
    with torch.no_grad():
        out = module(torch.empty(2, 1, source.input.height, source.input.width, device="meta"))
    assert out.shape == (2, 1)


@pytest.mark.parametrize(
    "name", ["googlenet", "squeezenet1_1", "swin_t", "vit_b_16.IMAGENET1K_SWAG_E2E_V1", "convnext_tiny"]
)
def test_torchvision_families_read_one_channel(name):
    check_one_channel(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", [n for n in torchvision_names() if not n.startswith("regnet")])
def test_all_of_torchvision_reads_one_channel(name):
    """But RegNets, whose widths are computed from tensors, which have no values on the meta device."""
    check_one_channel(name)


def test_published_weights_are_for_three_channels_and_their_classes():
    for arguments in (ModelArguments(in_chans=1), ModelArguments(num_classes=2)):
        with pytest.raises(UsageError, match="no published weights for torchvision/resnet18 with other"):
            load_model("torchvision/resnet18", arguments=arguments)


def test_a_size_that_an_architecture_cannot_be_built_for():
    with pytest.raises(UsageError, match=r"torchvision/vit_b_16 cannot be built with .*image_size=33: Input"):
        load("torchvision/vit_b_16", size=33)
    with pytest.raises(UsageError, match=r"test_vit_relpos cannot be built with img_size=\(1, 1\): "):
        load("test_vit_relpos", size=1)


# --- the first convolution


def test_the_first_convolution_is_the_one_called_first(model_file):
    module = find_architecture(f"{model_file}:Backwards").build()
    assert first_convolution(module, (1, 8, 8)) == ("b", module.b, 1)
    assert first_convolution(nn.Sequential(nn.Flatten(), nn.Linear(64, 2)), (1, 8, 8)) is None
    assert first_convolution(nn.Sequential(nn.Linear(3, 2), nn.Conv2d(1, 1, 1)), (1, 8, 8)) is None


def test_looking_for_it_leaves_no_trace():
    net = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 2, 3), nn.Flatten()).train()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    assert first_convolution(net, (3, 8, 8)) == ("1", net[1], 3)
    assert all(module.training and not module._forward_pre_hooks for module in net.modules())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


# --- factories


@pytest.mark.parametrize("factory", ["Net", "keywords"])
def test_a_factory_gets_what_it_takes(model_file, factory):
    model = load(f"{model_file}:{factory}", in_chans=1, num_classes=1, size=16)
    assert (model.classes, model.input_shape, model.input.mean) == (1, (1, 16, 16), (0.0,))
    check_measurable(model)
    assert model.fresh(1)[0].in_channels == 1


def test_a_factory_that_needs_an_argument_can_have_it(model_file):
    assert load(f"{model_file}:required", num_classes=4, size=16).classes == 4


def test_a_factory_of_sequences(model_file):
    model = load(f"{model_file}:sequences", in_chans=2, num_classes=2, size=16, dims=1)
    assert (model.classes, model.input_shape) == (2, (2, 16))


@pytest.mark.parametrize(
    ("factory", "arguments", "message"),
    [
        ("colours", {"in_chans": 1}, "colours reads 3 channels where in_chans=1 was asked for"),
        ("instance", {"in_chans": 1, "size": 16}, "instance reads 3 channels where in_chans=1"),
        ("seven", {"num_classes": 1, "size": 16}, "seven gives 7 scores where num_classes=1 was asked for"),
    ],
)
def test_a_factory_that_cannot_give_what_is_asked_for(model_file, factory, arguments, message):
    with pytest.raises(UsageError, match=message):
        load(f"{model_file}:{factory}", **arguments)


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ("some/where/mynets.py:make", "mynets.py:make"),
        ("package.module:make", "package.module:make"),
        ("timm/resnet18", "resnet18"),
        ("torchvision/resnet18", "torchvision/resnet18"),
        ("hf-hub:owner/name.py:x", "hf-hub:owner/name.py:x"),
    ],
)
def test_specs_as_they_are_shown(spec, shown):
    assert shown_spec(spec) == shown
