"""What is said of an architecture without its numbers, and that nothing is dropped unseen."""

import pytest
import torch
from sweeps import jobs
from torch import nn
from torch.nn.utils.parametrizations import weight_norm

from timm_diffsens.models.architectures import find_architecture
from timm_diffsens.models.inputs import timm_input
from timm_diffsens.models.layers import select_layers, trace_images
from timm_diffsens.sensitivities.probe import Probe
from timm_diffsens.sweep import structure as module
from timm_diffsens.sweep.structure import FATES, count_parameters, on_meta, structure
from timm_diffsens.sweep.work import work

SOME = [
    "test_resnet",
    "densenet121",
    "coat_tiny",
    "hrnet_w18_small",
    "xcit_nano_12_p16_224",
    pytest.param("sequencer2d_s", marks=pytest.mark.slow),
    "torchvision/vit_b_16",
    "torchvision/regnet_x_400mf",
    "net/lenet",
]


@pytest.mark.parametrize("spec", SOME)
def test_every_leaf_output_has_a_fate(spec):
    row = structure(spec)
    assert row["dropped"] == 0
    assert sum(row[fate] for fate in FATES) == row["leaf outputs"] > 5
    assert (
        row["layer"] <= row["layers"] <= row["layer"] + row["same tensor"] + row["part of a fused norm"] + 1
    )
    assert row["blocks"] <= row["layers"]


def test_the_row_is_that_of_a_real_forward():
    row = structure("test_resnet")
    net = find_architecture("test_resnet").build()
    with Probe(net, "all") as probe, torch.no_grad():
        net(torch.rand(6, 3, 160, 160))
    assert row["layers"] == len(probe.results())
    assert row["parameters"] == sum(p.numel() for p in net.parameters()) == count_parameters("test_resnet")
    assert row["not called"] == len(probe.not_called)


def test_norms_with_their_activation_are_one_layer():
    row = structure("densenet121")
    assert row["part of a fused norm"] > 100


def test_no_memory_is_taken():
    net = on_meta(find_architecture("vit_giant_patch14_224"))
    assert sum(p.numel() for p in net.parameters()) > 1e9
    assert all(p.is_meta for p in net.parameters())


@pytest.mark.parametrize("lost", ["conv1.0", "layer1.0.act1", "fc"])
def test_a_call_that_the_trace_missed_is_counted_as_dropped(monkeypatch, lost):
    def forgetful(net, images):
        seen = trace_images(net, images)
        seen.calls = [call for call in seen.calls if call.name != lost]
        seen.begun.pop(lost)
        return seen

    monkeypatch.setattr(module, "trace_images", forgetful)
    assert structure("test_resnet")["dropped"] == 1


def test_a_layer_that_is_not_selected_is_counted_as_dropped(monkeypatch):
    monkeypatch.setattr(module, "select_layers", lambda seen, s: select_layers(seen, s)[1:])
    assert structure("test_resnet")["dropped"] == 1


def test_calls_without_a_tensor_and_weights_that_are_computed_are_named(tmp_path):
    path = tmp_path / "odd.py"
    path.write_text(
        "from torch import nn\n"
        "from torch.nn.utils.parametrizations import weight_norm\n"
        "class Nothing(nn.Module):\n"
        "    def forward(self, x): return None\n"
        "class Net(nn.Module):\n"
        "    pretrained_cfg = dict(input_size=(3, 16, 16), mean=(0.5,) * 3, std=(0.5,) * 3)\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.conv, self.nothing = weight_norm(nn.Conv2d(3, 2, 3)), Nothing()\n"
        "    def forward(self, x):\n"
        "        self.nothing(x)\n"
        "        return self.conv(x).mean((2, 3))\n"
    )
    row = structure(f"{path}:Net")
    assert (row["no tensor"], row["computes a weight"], row["dropped"]) == (1, 1, 0)
    assert row["layers"] == 2


def test_what_cannot_be_measured_is_named_with_its_reason(tmp_path):
    path = tmp_path / "odd.py"
    path.write_text(
        "import torch\n"
        "from torch import nn\n"
        "class Odd(nn.Module):\n"
        "    def forward(self, x): return x.argmax(1)\n"
        "class Net(nn.Module):\n"
        "    pretrained_cfg = dict(input_size=(3, 16, 16), mean=(0.5,) * 3, std=(0.5,) * 3)\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.odd, self.conv, self.unused = Odd(), nn.Conv2d(3, 2, 3), nn.Linear(2, 2)\n"
        "    def forward(self, x):\n"
        "        return self.conv(x + self.odd(x)[:, None])\n"
    )
    row = structure(f"{path}:Net")
    assert row["names"] == {"without values": {"odd": "not floating-point"}, "not called": ["unused"]}
    assert row["without values"] == "not floating-point: 1"
    assert row["dropped"] == 0


def test_the_input_is_the_models_own():
    assert structure("torchvision/inception_v3")["input"] == "3x299x299"
    row = structure("vit_base_patch16_sapiens2")
    assert row["input"] == "3x1024x768"
    assert timm_input(on_meta(find_architecture("vit_base_patch16_sapiens2"))).width == 768


def test_an_architecture_that_cannot_be_built_is_an_outcome(tmp_path):
    path = tmp_path / "bad.py"
    path.write_text("def net():\n    raise KeyError('no such part')\n")
    (job,) = jobs(tmp_path, f"{path}:net", options=None)
    outcome = work(job)
    assert outcome.status == "failed"
    assert outcome.error in ("KeyError", "UsageError")


def test_parametrized_modules_are_no_layers_of_their_own():
    net = nn.Sequential(weight_norm(nn.Conv2d(3, 2, 3)), nn.ReLU())
    assert len(select_layers(trace_images(net, torch.rand(3, 3, 8, 8)), "all")) == 2
