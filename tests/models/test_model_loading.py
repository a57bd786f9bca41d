"""A model spec becomes the right network, with the right preprocessing and the right story of its weights."""

import importlib
import math
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from huggingface_hub import constants
from PIL import Image
from safetensors.torch import save_file
from timm.models import get_pretrained_cfg
from torch import nn

from timm_diffsens.benchmark.run import bench
from timm_diffsens.data.loading import image_transform
from timm_diffsens.errors import DiffsensWarning, UsageError
from timm_diffsens.models import hub
from timm_diffsens.models.architectures import find_architecture
from timm_diffsens.models.checkpoints import state_sha256
from timm_diffsens.models.libraries.torchvision import torchvision_names
from timm_diffsens.models.loading import InputOptions, LoadedModel, given_model, load_model

HALF = (0.5, 0.5, 0.5)
IMAGENET = (0.485, 0.456, 0.406)
SMALL = "torchvision/shufflenet_v2_x0_5"

MODEL_FILE = """
from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


@dataclass
class Config:
    width: int = 4


class Net(nn.Sequential):
    def __init__(self) -> None:
        super().__init__(nn.Conv2d(3, Config().width, 3), nn.Flatten(), nn.Linear(Config().width * 36, 5))


def make(classes: int = 7) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.Flatten(), nn.Linear(72, classes))


def trained() -> nn.Module:
    generator = torch.Generator().manual_seed(5)
    net = make()
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return net


def wants_arguments(classes: int) -> nn.Module:
    return make(classes)


def no_module() -> int:
    return 3


def fails() -> nn.Module:
    raise ZeroDivisionError("nothing")


instance = trained()
number = 3
"""


@pytest.fixture
def model_file(tmp_path: Path) -> Path:
    path = tmp_path / "mynets.py"
    path.write_text(MODEL_FILE)
    return path


def load(spec: str, seed: int = 0, **options) -> LoadedModel:
    return load_model(spec, pretrained=False, seed=seed, input_options=InputOptions(**options))


def load_file(path: Path, factory: str, **options) -> LoadedModel:
    return load(f"{path}:{factory}", **{"size": (8, 8), "mean": HALF, "std": HALF, **options})


def config_holder(name: str) -> nn.Module:
    """A module that carries the configuration of a timm model too large to build here."""
    module = nn.Identity()
    module.pretrained_cfg = get_pretrained_cfg(name).to_dict()
    return module


# --- names


@pytest.mark.parametrize(
    ("spec", "arch", "library", "classes"),
    [
        ("test_resnet", "test_resnet", "timm", 1000),
        ("test_resnet.r160_in1k", "test_resnet", "timm", 1000),
        ("timm/test_resnet", "test_resnet", "timm", 1000),
        ("timm/test_resnet.r160_in1k", "test_resnet", "timm", 1000),
        (SMALL, "shufflenet_v2_x0_5", "torchvision", 1000),
        (f"{SMALL}.IMAGENET1K_V1", "shufflenet_v2_x0_5", "torchvision", 1000),
        ("torchvision/squeezenet1_1", "squeezenet1_1", "torchvision", 1000),
        ("net/lenet", "lenet", "net", 10),
        ("net/resnet20", "resnet20", "net", 10),
    ],
)
def test_specs_by_name(spec, arch, library, classes):
    model = load(spec)
    assert (model.spec, model.arch, model.library, model.classes) == (spec, arch, library, classes)
    assert not any(module.training for module in model.module.modules())
    with torch.no_grad():
        assert model.module(torch.zeros(1, 3, 32, 32)).shape == (1, classes)


@pytest.mark.parametrize(
    ("spec", "parameters"), [("net/lenet", 62_006), ("torchvision/resnet18", 11_689_512)]
)
def test_parameters_are_counted(spec, parameters):
    assert load(spec).parameters == parameters


@pytest.mark.parametrize(
    ("spec", "near"),
    [
        ("test_resnett", "test_resnet"),
        ("resnet188", "resnet18"),
        ("vgg11bn", "vgg11_bn"),
        ("torchvision/resnet19", "resnet18"),
        ("net/lennet", "net/lenet"),
        ("resnet18.a9_in1k", "a3_in1k"),
        ("resnet18.", "a1_in1k"),
        (f"{SMALL}.IMAGENET1K_V9", "IMAGENET1K_V1"),
    ],
)
def test_unknown_names_get_the_nearest_ones(spec, near):
    with pytest.raises(UsageError, match=f"unknown .*{near}"):
        load(spec)


def test_an_unknown_tag_is_answered_with_the_tags_there_are():
    known = [name.partition(".")[2] for name in timm.list_pretrained("resnet18.*")]
    assert len(known) > 3
    with pytest.raises(UsageError, match="weights tag of resnet18 'nonsense'") as error:
        load("resnet18.nonsense")
    assert all(tag in str(error.value) for tag in known)


@pytest.mark.parametrize(
    "spec", ["torchvision/r3d_18", "torchvision/fasterrcnn_resnet50_fpn", "torchvision/raft_small"]
)
def test_networks_of_other_things_than_images_are_refused(spec):
    with pytest.raises(UsageError, match="unknown torchvision model"):
        load(spec)


@pytest.mark.parametrize("spec", ["", "  ", "torchvision/", "net/", ":", ":make", "torch.nn:"])
def test_empty_names_are_refused(spec):
    with pytest.raises(UsageError, match=r"expected|unknown"):
        load(spec)


# --- random weights


@pytest.mark.parametrize("spec", ["test_resnet", "test_vit", SMALL, "net/lenet", "FILE:make", "FILE:Net"])
def test_random_weights_follow_from_the_seed(spec, model_file):
    spec = spec.replace("FILE", str(model_file))
    options = {"size": (8, 8), "mean": HALF, "std": HALF} if ":" in spec else {}
    before = torch.get_rng_state()
    a, b, c = (load(spec, seed=seed, **options).weights for seed in (3, 3, 4))
    assert torch.equal(torch.get_rng_state(), before)
    assert a == b
    assert a.sha256 != c.sha256
    assert (a.source, a.seed, a.detail) == ("random", 3, None)


def test_the_hash_is_that_of_the_state():
    model = load("net/lenet")
    assert model.weights.sha256 == state_sha256(model.module.state_dict())


@pytest.mark.parametrize("spec", ["test_resnet", SMALL, "net/lenet"])
def test_fresh_weights(spec):
    model = load(spec, seed=0)
    before = torch.get_rng_state()
    one, same, other = (state_sha256(model.fresh(seed).state_dict()) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), before)
    assert one == same
    assert len({one, other, model.weights.sha256}) == 3
    assert not any(module.training for module in model.fresh(1).modules())
    assert model.weights.sha256 == state_sha256(model.module.state_dict())


def test_segmentation_networks_do_not_fetch_a_backbone():
    model = load("torchvision/lraspp_mobilenet_v3_large", size=(32, 32), mean=HALF, std=HALF)
    assert model.weights.source == "random"


# --- preprocessing


@pytest.mark.parametrize(
    ("spec", "size", "mean", "crop", "interpolation"),
    [
        ("test_resnet", (160, 160), HALF, 0.95, "bilinear"),
        ("test_vit", (160, 160), HALF, 0.95, "bicubic"),
        ("net/resnet20", (32, 32), HALF, 1.0, "bicubic"),
        (SMALL, (224, 224), IMAGENET, 224 / 256, "bilinear"),
    ],
)
def test_preprocessing_is_the_models_own(spec, size, mean, crop, interpolation):
    found = load(spec).input
    assert (found.height, found.width, found.channels) == (*size, 3)
    assert found.mean == mean
    assert found.crop_pct == pytest.approx(crop, abs=1e-9)
    assert (found.crop_mode, found.interpolation) == ("center", interpolation)


@pytest.mark.parametrize(
    ("name", "size", "mean", "std"),
    [
        ("vit_base_patch16_sapiens2", (1024, 768), IMAGENET, (0.229, 0.224, 0.225)),
        ("vit_base_patch16_siglip_224", (224, 224), HALF, HALF),
        ("inception_v3.tv_in1k", (299, 299), HALF, HALF),
        ("samvit_base_patch16", (1024, 1024), IMAGENET, (0.229, 0.224, 0.225)),
    ],
)
def test_preprocessing_of_timm_configurations(name, size, mean, std):
    found = given_model(config_holder(name), InputOptions()).input
    assert (found.height, found.width) == size
    assert (found.mean, found.std) == (mean, std)


def test_a_given_timm_model_keeps_the_size_and_channels_it_was_made_with():
    module = timm.create_model("test_vit", img_size=(64, 96), in_chans=1, num_classes=0)
    model = given_model(module, InputOptions())
    assert (model.input.channels, model.input.height, model.input.width) == (1, 64, 96)
    assert (model.input.mean, model.input.std) == ((0.5,), (0.5,))
    assert model.classes is None
    assert (model.weights.source, model.build) == ("given", None)
    with torch.no_grad():
        module.eval()(torch.zeros(1, 1, 64, 96))


@pytest.mark.parametrize("size", [(64, 64), (64, 96)])
def test_networks_of_fixed_size_are_built_for_the_size_asked_for(size):
    assert get_pretrained_cfg("test_maxvit").fixed_input_size
    model = load("test_maxvit", size=size)
    assert (model.input.height, model.input.width) == size
    with torch.no_grad():
        assert model.module(torch.zeros(1, 3, *size)).shape == (1, 1000)
        assert model.fresh(1)(torch.zeros(1, 3, *size)).shape == (1, 1000)


def test_a_size_that_a_network_cannot_be_built_for():
    with pytest.raises(UsageError, match=r"test_vit_relpos cannot be built for --input-size \(1, 1\)"):
        load("test_vit_relpos", size=(1, 1))


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
def test_the_input_is_transformed_as_under_the_published_weights(name):
    """torchvision sets this for its weights alone, and a state dict does not hold it."""
    with torch.device("meta"):
        assert find_architecture(f"torchvision/{name}").build().transform_input is True


def presets():
    """Every different preset of torchvision's classifiers, once."""
    different = {}
    for name in torchvision_names():
        for weights in torchvision.models.get_model_weights(name):
            different.setdefault(repr(weights.transforms()), f"{name}.{weights.name}")
    return sorted(different.values())


PRESETS = presets()


def test_the_presets_are_many():
    assert len(PRESETS) > 20
    assert {"convnext_tiny.IMAGENET1K_V1", "efficientnet_b0.IMAGENET1K_V1", "inception_v3.IMAGENET1K_V1"} <= {
        *PRESETS
    }


@pytest.mark.parametrize("name", [*PRESETS, "resnet50.IMAGENET1K_V2"])
def test_torchvision_presets_are_reproduced_to_the_pixel(name):
    arch, _, tag = name.partition(".")
    preset = torchvision.models.get_model_weights(arch)[tag].transforms()
    transform = image_transform(find_architecture(f"torchvision/{name}").input)
    rng = np.random.default_rng(len(name))
    for width, height in ((321, 240), (201, 333), (47, 61)):
        image = Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        assert torch.equal(transform(image), preset(image))


def test_what_is_asked_for_replaces_the_models_own():
    found = load("test_resnet", size=(96, 64), mean=(0.1, 0.2, 0.3), std=(2.0,)).input
    assert (found.height, found.width) == (96, 64)
    assert (found.mean, found.std) == ((0.1, 0.2, 0.3), (2.0, 2.0, 2.0))
    assert found.crop_pct == load("test_resnet").input.crop_pct


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mean": (0.5, 0.5)}, "--mean needs 1 or 3 numbers, got 2"),
        ({"std": (1.0,) * 4}, "--std needs 1 or 3 numbers, got 4"),
        ({"mean": ()}, "--mean needs 1 or 3 numbers, got 0"),
        ({"std": (0.5, 0.0, 0.5)}, "--std must be positive"),
        ({"std": (-1.0,)}, "--std must be positive"),
        ({"std": (math.nan,)}, "--std must be finite"),
        ({"std": (math.inf,)}, "--std must be finite"),
        ({"mean": (0.5, math.nan, 0.5)}, "--mean must be finite"),
        ({"size": (0, 32)}, "--input-size must be at least 1"),
        ({"size": (32, -1)}, "--input-size must be at least 1"),
    ],
)
def test_impossible_preprocessing_is_refused(options, message):
    with pytest.raises(UsageError, match=message):
        load("net/lenet", **options)


def test_the_input_size_of_a_foreign_module_must_be_given(model_file):
    with pytest.raises(
        UsageError, match=r"the input size of .*mynets\.py:make is not known; pass --input-size"
    ):
        load_file(model_file, "make", size=None)
    with pytest.raises(UsageError, match="the input size of Linear is not known"):
        given_model(nn.Linear(2, 2), InputOptions())


def test_the_mean_of_a_foreign_module_is_assumed_aloud(model_file):
    with pytest.warns(
        DiffsensWarning, match=r"ImageNet's are used \(mean 0\.485, .*std 0\.229, .*pass --mean and --std"
    ):
        found = load_file(model_file, "make", mean=None, std=None).input
    assert found.mean == IMAGENET
    for missing, fault in (
        ("mean", "--std is given, --mean is not"),
        ("std", "--mean is given, --std is not"),
    ):
        with pytest.raises(UsageError, match=fault):
            load_file(model_file, "make", **{missing: None})


@pytest.mark.parametrize(("channels", "expected"), [(1, (0.25,)), (3, (0.25, 0.25, 0.25))])
def test_one_number_goes_for_all_channels(channels, expected):
    options = InputOptions(size=(8, 8), mean=(0.25,), std=(0.5,))
    found = given_model(nn.Sequential(nn.Conv2d(channels, 2, 3)), options).input
    assert (found.channels, found.mean, len(found.std)) == (channels, expected, channels)


# --- classes


def test_classes_of_imagenet_by_their_wordnet_ids():
    for spec in ("test_resnet", SMALL):
        names = load(spec).class_names
        assert names is not None
        assert (len(names), names[0], names[-1]) == (1000, "n01440764", "n15075141")  # tench, toilet tissue
    given = timm.create_model("test_resnet")
    assert given_model(given, InputOptions()).class_names == names
    assert load("net/lenet").class_names is None
    assert given_model(timm.create_model("test_resnet", num_classes=7), InputOptions()).class_names is None


class HeadFirst(nn.Module):
    """The linear layer that comes last in the list is not the last one that runs."""

    def __init__(self) -> None:
        super().__init__()
        self.head, self.stem = nn.Linear(4, 3), nn.Linear(48, 4)

    def forward(self, x):
        return self.head(self.stem(x.flatten(1)))


@pytest.mark.parametrize(
    ("net", "classes"),
    [
        (HeadFirst(), 3),
        (nn.Conv2d(3, 6, 3), None),
        (nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), 6),
        (timm.create_model("test_resnet", num_classes=0), None),
    ],
    ids=["linear", "maps", "convolution", "features"],
)
def test_classes_of_a_given_network(net, classes):
    net.train()
    assert given_model(net, InputOptions(size=(4, 4), mean=HALF, std=HALF)).classes == classes
    assert all(module.training for module in net.modules())


LAZY = """
from torch import nn

def make():
    return nn.Sequential(nn.LazyConv2d(4, 3), nn.LazyBatchNorm2d(), nn.ReLU(), nn.Flatten(), nn.LazyLinear(5))

def never():
    net = make()
    net.unused = nn.LazyLinear(3)
    net.forward = lambda x: nn.functional.relu(x)
    return net

def small():
    return nn.Sequential(nn.LazyConv2d(4, 9), nn.LazyConv2d(4, 9))

def meta():
    return make()[:1].append(nn.Conv2d(4, 4, 3, device="meta"))

def buffer():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    net[1].running_mean = net[1].running_mean.to("meta")
    return net
"""


@pytest.fixture
def lazy_file(tmp_path: Path) -> Path:
    (tmp_path / "lazy.py").write_text(LAZY)
    return tmp_path / "lazy.py"


@pytest.mark.parametrize(
    ("mean", "std", "channels"),
    [(HALF, HALF, 3), ((0.5,), (0.25,), 3), ((0.1, 0.2, 0.3, 0.4), (1.0,), 4), ((0.5,), (1.0, 2.0), 2)],
)
def test_lazy_layers_get_their_sizes_from_the_input_and_their_weights_from_the_seed(
    mean, std, channels, lazy_file
):
    one, same, other = (load_file(lazy_file, "make", seed=s, mean=mean, std=std) for s in (1, 1, 2))
    assert one.input.channels == one.module[0].in_channels == len(one.input.mean) == channels
    assert one.classes == 5
    assert one.weights.sha256 == same.weights.sha256 != other.weights.sha256
    assert (one.weights.source, one.weights.seed) == ("random", 1)
    assert torch.equal(one.module[1].running_mean, torch.zeros(4))  # evaluation mode: it saw no data
    fresh = one.fresh(5)
    assert fresh[0].weight.shape == one.module[0].weight.shape
    assert not torch.equal(fresh[0].weight, one.module[0].weight)


def test_a_checkpoint_fills_lazy_layers(lazy_file, tmp_path):
    known = load_file(lazy_file, "make", seed=3)
    torch.save({"model": known.module.state_dict()}, tmp_path / "w")
    options = InputOptions(size=(8, 8), mean=HALF, std=HALF)
    model = load_model(f"{lazy_file}:make", checkpoint=tmp_path / "w", input_options=options)
    assert model.weights.sha256 == known.weights.sha256


def test_lazy_layers_of_a_given_network_read_what_the_images_have():
    net = nn.Sequential(nn.LazyConv2d(2, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    record = bench(net, dataset=torch.rand(6, 1, 9, 9), layers="output", variants="original")
    assert (net[0].in_channels, record.model.input.channels) == (1, 1)
    assert record.output.r is not None


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        (
            "small",
            r"lazy layers of .*lazy\.py:small get their sizes from a forward of \(3, 8, 8\), which failed",
        ),
        ("never", r"of .*lazy\.py:never is lazy and was not called"),
        ("meta", r"1\.weight is on the meta device"),
        ("buffer", r"1\.running_mean is on the meta device"),
    ],
)
def test_networks_without_numbers_are_refused_by_name(factory, message, lazy_file):
    with pytest.raises(UsageError, match=message):
        load_file(lazy_file, factory)


@pytest.mark.parametrize(
    "head",
    [
        [nn.Flatten(), nn.Linear(192, 1000)],
        [nn.Conv2d(3, 1000, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()],
        [nn.Flatten(), nn.Linear(192, 1000), nn.LayerNorm(1000), nn.Softmax(-1)],
    ],
    ids=["linear", "convolution", "normed"],
)
def test_other_networks_of_a_thousand_outputs_may_have_other_classes(head):
    """Which they are is told by the images: see `data.labels.match_labels`."""
    found = given_model(nn.Sequential(*head), InputOptions(size=(8, 8), mean=HALF, std=HALF))
    assert (found.classes, found.class_names) == (1000, None)


# --- published weights


@pytest.fixture
def _no_sleep(monkeypatch: pytest.MonkeyPatch) -> None:
    def sleep(seconds: float) -> None:
        pytest.fail(f"slept {seconds} s")

    monkeypatch.setattr(time, "sleep", sleep)


@pytest.mark.usefixtures("_no_proxy", "_no_sleep")
@pytest.mark.parametrize("spec", ["test_resnet", SMALL, "hf-hub:nobody/nothing"])
def test_weights_that_cannot_be_fetched(spec, tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    began = time.perf_counter()
    with pytest.raises(UsageError, match=rf"the weights of {spec} cannot be fetched") as error:
        load_model(spec)
    assert time.perf_counter() - began < 60  # on a busy machine; retries would wait for minutes
    assert "--checkpoint FILE" in str(error.value)
    assert "--no-pretrained" in str(error.value)
    assert "HF_HUB_OFFLINE" not in str(error.value)
    assert constants.HF_HUB_OFFLINE is False


@pytest.mark.usefixtures("_no_proxy", "_no_sleep")
def test_a_configuration_that_cannot_be_fetched(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(UsageError, match="the configuration of hf-hub:nobody/nothing cannot be fetched"):
        load("hf-hub:nobody/nothing")
    with pytest.raises(UsageError, match=r"the configuration of local-dir:.* cannot be fetched"):
        load(f"local-dir:{tmp_path}/nowhere")


def test_behind_a_proxy_the_hub_is_asked(monkeypatch):
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:1")
    during = []

    def make() -> nn.Module:
        during.append(constants.HF_HUB_OFFLINE)
        return nn.Identity()

    hub.fetch("nothing", make, "")
    monkeypatch.delenv("https_proxy")
    for name in ("http_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    hub.fetch("nothing", make, "")
    assert during == [False, True]
    assert constants.HF_HUB_OFFLINE is False


@pytest.mark.usefixtures("_no_proxy", "_no_sleep")
def test_weights_in_the_cache_need_no_network(tmp_path, monkeypatch):
    known = timm.create_model("test_resnet", pretrained=False)
    commit = "0" * 40
    repository = tmp_path / "models--timm--test_resnet.r160_in1k"
    snapshot = repository / "snapshots" / commit
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(commit)
    save_file(known.state_dict(), snapshot / "model.safetensors")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    model = load_model("test_resnet", seed=5)
    assert (model.weights.source, model.weights.detail) == ("pretrained", "timm/test_resnet.r160_in1k")
    assert model.weights.sha256 == state_sha256(known.state_dict())
    assert model.weights.sha256 != load("test_resnet", seed=5).weights.sha256


def test_weights_of_torchvision_in_its_cache(tmp_path, monkeypatch):
    known = torchvision.models.shufflenet_v2_x0_5(weights=None)
    url = torchvision.models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1.url
    folder = tmp_path / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.save(known.state_dict(), folder / url.rpartition("/")[2])
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    before = torch.get_rng_state()
    model = load_model(SMALL, seed=5)
    assert torch.equal(torch.get_rng_state(), before)
    assert (model.weights.source, model.weights.seed) == ("pretrained", None)
    assert model.weights.detail == "ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1"
    assert model.weights.sha256 == state_sha256(known.state_dict())
    assert model.published_error == pytest.approx(1 - 0.60552)  # torchvision's table: 60.552 % are right
    assert load(SMALL).published_error is None


def test_a_model_saved_for_the_hub_in_a_folder(tmp_path):
    known = timm.create_model("test_resnet", pretrained=False, num_classes=7)
    if not hasattr(timm.models, "save_for_hf"):
        pytest.skip("timm is too old: it reads no local folders")
    timm.models.save_for_hf(known, tmp_path / "saved", safe_serialization=True)
    model = load_model(f"local-dir:{tmp_path / 'saved'}", seed=5)
    assert (model.arch, model.classes, model.weights.source) == ("test_resnet", 7, "pretrained")
    assert model.weights.sha256 == state_sha256(known.state_dict())
    assert load(f"local-dir:{tmp_path / 'saved'}").weights.source == "random"


@pytest.mark.parametrize("options", [None, InputOptions(size=(192, 192))])
def test_an_architecture_without_weights(options):
    assert not get_pretrained_cfg("swinv2_cr_tiny_224").has_weights
    with pytest.raises(UsageError, match="there are no published weights for swinv2_cr_tiny_224"):
        load_model("swinv2_cr_tiny_224", input_options=options)


def test_our_own_networks_have_no_published_weights():
    with pytest.raises(
        UsageError, match=r"no published weights for net/lenet; pass --checkpoint FILE, or --no-pretrained"
    ):
        load_model("net/lenet")


def test_published_errors_are_fractions():
    errors = {}
    for name in torchvision_names():
        for weights in torchvision.models.get_model_weights(name):
            errors[f"{name}.{weights.name}"] = find_architecture(
                f"torchvision/{name}.{weights.name}"
            ).published_error
    assert errors["resnet18.IMAGENET1K_V1"] == pytest.approx(1 - 0.69758)
    assert errors["resnet50.IMAGENET1K_V2"] == pytest.approx(1 - 0.80858)
    assert errors.pop("vgg16.IMAGENET1K_FEATURES") is None  # stated as NaN: these weights have no classifier
    assert all(0 < error < 1 for error in errors.values())


# --- Python files and modules


@pytest.mark.parametrize(("factory", "classes"), [("make", 7), ("Net", 5), ("instance", 7), ("trained", 7)])
def test_factories_in_a_file(model_file, factory, classes):
    model = load_file(model_file, factory)
    assert (model.arch, model.library, model.classes) == (factory, "python", classes)
    with torch.no_grad():
        assert model.module(torch.zeros(2, 3, 8, 8)).shape == (2, classes)


@pytest.mark.parametrize("factory", ["trained", "instance"])
def test_weights_that_a_factory_brings_are_not_called_random(model_file, factory):
    model = load_file(model_file, factory, seed=3)
    assert (model.weights.source, model.weights.seed) == ("given", None)
    assert model.weights.sha256 == load_file(model_file, factory, seed=4).weights.sha256
    fresh = model.fresh(1)
    assert state_sha256(fresh.state_dict()) != model.weights.sha256
    assert not torch.equal(fresh[0].weight, model.module[0].weight)


def test_a_file_is_shown_by_its_name_alone(model_file):
    """Records are published: they hold no paths of the machine that made them."""
    model = load_file(model_file, "make")
    assert model.spec == "mynets.py:make"


def test_an_instance_is_copied(model_file):
    model = load_file(model_file, "instance")
    with torch.no_grad():
        model.module[0].weight.zero_()
    assert load_file(model_file, "instance").module[0].weight.abs().sum() > 0


def test_a_factory_in_a_package():
    model = load("torchvision.models:shufflenet_v2_x0_5", size=(32, 32), mean=HALF, std=HALF)
    assert (model.library, model.classes, model.weights.source) == ("python", 1000, "random")
    assert load("net/lenet").code_sha256 is None


def test_the_code_of_a_file_is_hashed(model_file):
    one = load_file(model_file, "make").code_sha256
    assert one == load_file(model_file, "make").code_sha256
    model_file.write_text(MODEL_FILE + "\n# changed\n")
    assert load_file(model_file, "make").code_sha256 not in (None, one)


def test_a_file_does_not_take_the_place_of_an_installed_module(model_file):
    shutil.copy(model_file, model_file.with_name("random.py"))
    known = sys.modules["random"]
    load_file(model_file.with_name("random.py"), "make")
    assert sys.modules["random"] is known


@pytest.mark.parametrize(
    ("factory", "message"),
    [
        ("maek", r"unknown model in .*mynets\.py 'maek'; did you mean make\?"),
        ("no_module", "gives a int, expected a torch.nn.Module"),
        ("number", "is a int, expected a function that makes a module"),
        ("fails", r"mynets\.py:fails raised ZeroDivisionError: nothing"),
        ("wants_arguments", "must be callable without arguments: missing a required argument: 'classes'"),
    ],
)
def test_factories_that_are_none(model_file, factory, message):
    with pytest.raises(UsageError, match=message):
        load_file(model_file, factory)


FACTORY = """
from torch import nn

def make():
    return nn.Sequential(nn.Conv2d(3, SIZE, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten())
"""
NEIGHBOURS = {
    "beside": ("from shapes import width", "width", {"shapes.py": "width = WIDTH"}),
    "in the factory": ("", "__import__('shapes').width", {"shapes.py": "width = WIDTH"}),
    "lazily through another": (
        "import first",
        "first.width()",
        {"first.py": "def width():\n    from second import w\n    return w", "second.py": "w = WIDTH"},
    ),
    "a package": (
        "from pieces.inner import w",
        "w",
        {"pieces/__init__.py": "", "pieces/inner.py": "w = WIDTH"},
    ),
    "a folder": (
        "import pieces.inner as i",
        "i.w",
        {"pieces/inner.py": "from pieces.more import w", "pieces/more.py": "w = WIDTH"},
    ),
    "as the standard library": ("import colorsys", "colorsys.w", {"colorsys.py": "w = WIDTH"}),
}


@pytest.mark.parametrize("kind", NEIGHBOURS)
def test_files_beside_a_factory(kind, tmp_path, monkeypatch):
    """As by `python file.py`; and a file of another folder by the same name is another file."""
    imports, width, files = NEIGHBOURS[kind]
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    path, modules = list(sys.path), dict(sys.modules)
    hashes = set()
    for number in (4, 6, 4):
        folder = tmp_path / str(number)
        for name, text in {"net.py": f"{imports}\n{FACTORY.replace('SIZE', width)}", **files}.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text.replace("WIDTH", str(number)))
        model = load_file(folder / "net.py", "make")
        assert model.module[0].out_channels == number
        assert model.fresh(3)[0].out_channels == number
        hashes.add(model.code_sha256)
    assert len(hashes) == 2
    names = {name.partition(".")[0] for name in ("shapes", "first", "second", "pieces", "colorsys")}
    assert not names & {*sys.modules} - {*modules}
    assert sys.path == path


def test_the_hash_covers_what_a_factory_imports_while_it_runs(tmp_path):
    (tmp_path / "net.py").write_text(FACTORY.replace("SIZE", "int(__import__('shapes').width)"))
    hashes = []
    for text in ("width = 4", "width = 4.0", "width = 4"):
        (tmp_path / "shapes.py").write_text(text)
        hashes.append(load_file(tmp_path / "net.py", "make").code_sha256)
    assert hashes[0] == hashes[2] != hashes[1]


def test_a_file_of_the_callers_own_does_not_get_in_the_way(tmp_path, monkeypatch):
    """The caller's script has a neighbour of the same name, and has imported it."""
    for name, number in (("mine", 3), ("theirs", 5)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "shapes.py").write_text(f"width = {number}")
        (tmp_path / name / "net.py").write_text(
            f"from shapes import width\n{FACTORY.replace('SIZE', 'width')}"
        )
    monkeypatch.syspath_prepend(tmp_path / "mine")
    own = importlib.import_module("shapes")
    for name, number in (("theirs", 5), ("mine", 3)):
        assert load_file(tmp_path / name / "net.py", "make").module[0].out_channels == number
        assert sys.modules["shapes"] is own
    monkeypatch.delitem(sys.modules, "shapes")


@pytest.mark.parametrize("call", ["sys.exit(3)", "argparse.ArgumentParser().parse_args(['--lr', '1'])"])
def test_a_factory_that_ends_the_program_fails_alone(call, tmp_path):
    file = tmp_path / "ends.py"
    file.write_text(f"import argparse, sys\ndef make():\n    {call}\n")
    with pytest.raises(UsageError, match=r"ends\.py:make raised SystemExit: [23]"):
        load_file(file, "make")
    file.write_text(f"import argparse, sys\n{call}\ndef make(): ...\n")
    with pytest.raises(UsageError, match=r"cannot import .*ends\.py': SystemExit: [23]"):
        load_file(file, "make")
    assert "_diffsens_ends" not in sys.modules


def test_an_interrupted_import_leaves_nothing(tmp_path):
    (tmp_path / "stopped.py").write_text("raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        load_file(tmp_path / "stopped.py", "make")
    assert "_diffsens_stopped" not in sys.modules


def test_files_that_are_not_there_or_broken(model_file):
    with pytest.raises(UsageError, match=r"unknown model file .*did you mean .*mynets\.py\?"):
        load_file(model_file.with_name("mynet.py"), "make")
    model_file.write_text("import no_such_package\n")
    with pytest.raises(
        UsageError, match=r"cannot import .*ModuleNotFoundError: No module named 'no_such_package'"
    ):
        load_file(model_file, "make")
    model_file.write_text("def make(:\n")
    with pytest.raises(UsageError, match=r"cannot import .*SyntaxError"):
        load_file(model_file, "make")


def test_packages_that_are_not_there():
    with pytest.raises(UsageError, match=r"cannot import 'no_such_package\.nets'"):
        load("no_such_package.nets:make")


def test_a_checkpoint_fills_a_factorys_module(model_file, tmp_path):
    known = load_file(model_file, "make", seed=9)
    save_file(known.module.state_dict(), tmp_path / "weights.safetensors")
    model = load_model(
        f"{model_file}:make",
        checkpoint=tmp_path / "weights.safetensors",
        input_options=InputOptions(size=(8, 8), mean=HALF, std=HALF),
    )
    assert (model.weights.source, model.weights.detail) == ("checkpoint", "weights.safetensors")
    assert model.weights.sha256 == known.weights.sha256
    assert state_sha256(model.fresh(1).state_dict()) != known.weights.sha256
