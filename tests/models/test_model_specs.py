"""Arguments in model specs reach the network and its fresh copies, or are refused by name."""

import importlib.metadata
from pathlib import Path

import pytest
import timm
import torch
import torchvision
from torch import nn

from timm_diffsens.errors import UsageError
from timm_diffsens.models.architectures import find_architecture, known_names, shown_spec
from timm_diffsens.models.arguments import ModelArguments
from timm_diffsens.models.checkpoints import save_checkpoint, state_sha256
from timm_diffsens.models.loading import InputOptions, LoadedModel, load_model

FACTORIES = """
import torch
from torch import nn

from beside import ACTIVATION


def make(width: int = 4, slope: float = 0.0, num_classes: int = 3) -> nn.Module:
    act = ACTIVATION(slope) if slope else nn.ReLU()
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
    return nn.Sequential(nn.Conv2d(3, width, 3), act, pool, nn.Linear(width, num_classes))


instance = make()
"""


@pytest.fixture
def net_file(tmp_path: Path) -> Path:
    (tmp_path / "beside.py").write_text("from torch import nn\n\nACTIVATION = nn.LeakyReLU\n")
    path = tmp_path / "net.py"
    path.write_text(FACTORIES)
    return path


def load(spec: str, arguments: ModelArguments | None = None) -> LoadedModel:
    options = InputOptions(size=(8, 8), mean=(0.5,), std=(0.5,)) if ".py:" in spec else InputOptions()
    return load_model(spec, pretrained=False, input_options=options, arguments=arguments)


def same_weights(one: nn.Module, other: nn.Module) -> bool:
    return state_sha256(one.state_dict()) == state_sha256(other.state_dict())


def seeded(seed: int, make) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return make().eval()


@pytest.mark.parametrize(
    ("spec", "make"),
    [
        ("test_resnet:num_classes=7", lambda: timm.create_model("test_resnet", num_classes=7)),
        ("test_resnet:in_chans=1", lambda: timm.create_model("test_resnet", in_chans=1)),
        (
            "torchvision/squeezenet1_1:num_classes=10",
            lambda: torchvision.models.squeezenet1_1(weights=None, num_classes=10),
        ),
        (
            "torchvision/mobilenet_v3_small:width_mult=0.5,dropout=0.1",
            lambda: torchvision.models.mobilenet_v3_small(weights=None, width_mult=0.5, dropout=0.1),
        ),
    ],
)
def test_a_librarys_arguments_are_passed_on(spec, make):
    model = load(spec)
    name = spec.partition(":")[0]
    assert (model.spec, model.arch) == (spec, name.rpartition("/")[2])
    assert same_weights(model.module, seeded(0, make))
    assert same_weights(model.fresh(3), seeded(3, make))  # the init variant builds with the same arguments


def test_arguments_that_leave_no_trace_in_the_weights():
    """`pad_type` changes what is computed and not one parameter; fresh weights keep it."""
    spec = "mobilenetv2_100:pad_type=same"
    same, plain = load(spec), load("mobilenetv2_100")
    assert same.weights.sha256 == plain.weights.sha256
    image = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    made = timm.create_model("mobilenetv2_100", pad_type="same").eval()
    made.load_state_dict(plain.module.state_dict())
    with torch.no_grad():
        assert torch.equal(same.module(image), made(image))
        assert not torch.equal(same.module(image), plain.module(image))
    for name, module in same.fresh(1).named_modules():
        assert type(module) is type(same.module.get_submodule(name))


def test_our_own_networks():
    model = load("net/resnet20:width=8,num_classes=1")
    assert model.parameters < load("net/resnet20").parameters
    assert (model.arch, model.classes, model.arguments.width) == ("resnet20", 1, 8)
    asked = load("net/resnet20", ModelArguments(width=8, num_classes=1))
    assert (model.weights, model.input, model.arguments) == (asked.weights, asked.input, asked.arguments)
    assert load("net/simple:dims=1,size=64,in_chans=1").input_shape == (1, 64)


def test_a_factory_in_a_file(net_file):
    model = load(f"{net_file}:make:width=6,slope=0.25")
    assert (model.spec, model.arch, model.library) == ("net.py:make:width=6,slope=0.25", "make", "python")
    assert (model.module[0].out_channels, model.module[1].negative_slope) == (6, 0.25)
    assert model.fresh(1)[1].negative_slope == 0.25
    other = load(f"{net_file}:make:width=6")
    assert other.weights.sha256 == model.weights.sha256
    assert other.code_sha256 != model.code_sha256


def test_a_factory_in_a_package():
    spec = "torchvision.models:squeezenet1_1:num_classes=4"
    model = load_model(spec, pretrained=False, input_options=InputOptions((32, 32), (0.5,), (0.5,)))
    assert (model.spec, model.arch, model.classes) == (spec, "squeezenet1_1", 4)


def test_a_model_of_an_installed_package(net_file, monkeypatch):
    """By its name, with arguments; a name that timm has stays timm's."""
    monkeypatch.syspath_prepend(str(net_file.parent))
    points = [
        importlib.metadata.EntryPoint(name, "net:make", "timm_diffsens.models")
        for name in ("my-net", "test_resnet")
    ]
    monkeypatch.setattr(importlib.metadata, "entry_points", lambda group: points)
    options = InputOptions(size=(8, 8), mean=(0.5,), std=(0.5,))
    model = load_model("my-net:width=5", pretrained=False, input_options=options)
    assert (model.spec, model.arch, model.library) == ("my-net:width=5", "my-net", "python")
    assert (model.module[0].out_channels, model.classes) == (5, 3)
    assert model.code_sha256 is not None
    assert "my-net" in known_names()
    assert load("test_resnet").library == "timm"
    with pytest.raises(UsageError, match="unknown model 'my-nett'; did you mean my-net"):
        load("my-nett")


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (
            "mobilenetv2_100:pad_typ=same",
            "unknown argument of mobilenetv2_100 'pad_typ'; did you mean pad_type",
        ),
        ("torchvision/resnet18:num_clases=3", "argument of torchvision/resnet18 'num_clases'.*num_classes"),
        ("net/resnet20:widht=8", "unknown argument of net/resnet20 'widht'; did you mean width"),
        ("net/lenet:width=8", "unknown argument of net/lenet 'width'"),
        ("FILE:make:widht=3", r"unknown argument of .*net\.py:make 'widht'; did you mean width"),
        ("FILE:instance:width=3", "is a Sequential, expected a function that makes a module, which takes"),
        ("net/resnet20:width=wide", "width must be a positive integer, got 'wide'"),
        ("test_resnet:num_classes=many", "test_resnet cannot be built with num_classes=many"),
        ("test_resnet:num_classes=", "test_resnet cannot be built with num_classes="),
        ("test_resnet:num_classes=3,7", "expected arguments as test_resnet:key=value,..., got '7'"),
        (
            "test_resnet:pretrained=true",
            "test_resnet takes no pretrained: weights are chosen by --checkpoint",
        ),
        ("torchvision/resnet18:weights=DEFAULT", "takes no weights: weights are chosen by --checkpoint"),
        (":width=3", "empty model spec"),
    ],
)
def test_arguments_that_are_not_taken(net_file, spec, message):
    with pytest.raises(UsageError, match=message):
        load(spec.replace("FILE", str(net_file)))


@pytest.mark.parametrize("spec", ["net/resnet20:width=8", "test_resnet:num_classes=8"])
def test_a_task_that_asks_for_something_else(spec):
    word = spec.rpartition(":")[2].partition("=")[0]
    with pytest.raises(UsageError, match=f"{spec} has {word}=8 where 4 was asked for"):
        find_architecture(spec, ModelArguments(**{word: 4}))
    assert (
        find_architecture(spec, ModelArguments(**{word: 8})).arch == spec.partition(":")[0].rpartition("/")[2]
    )


def test_published_weights_are_for_the_published_classes():
    with pytest.raises(UsageError, match="no published weights for torchvision/resnet18 with other"):
        load_model("torchvision/resnet18:num_classes=10")


def test_a_checkpoint_of_a_network_with_arguments(tmp_path):
    spec, path = "net/resnet20:width=4", tmp_path / "net.safetensors"
    trained = load(spec)
    save_checkpoint(trained.module, path, {"model": spec, "arguments": trained.arguments.to_json()})
    assert same_weights(load_model(spec, checkpoint=path).module, trained.module)
    with pytest.raises(UsageError, match=r"was made from net/resnet20:width=4, not from net/resnet20"):
        load_model("net/resnet20", checkpoint=path)


@pytest.mark.parametrize(
    ("spec", "shown"),
    [
        ("some/where/net.py:make:width=3", "net.py:make:width=3"),
        ("a=b/net.py:make", "net.py:make"),
        ("timm/resnet18:drop_rate=0.1", "resnet18:drop_rate=0.1"),
        ("local-dir:some/lr=0.1/net", "local-dir:some/lr=0.1/net"),
    ],
)
def test_specs_as_they_are_shown(spec, shown):
    assert shown_spec(spec) == shown
