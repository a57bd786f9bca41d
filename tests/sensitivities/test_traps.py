"""Each trap that real models set for hooks, on the model that sets it or a small kin.

The truth is always the same: hooks that copy every output on the spot, reduced in float64 by the plain
definition.
"""

import pytest
import timm
import torch
import torchvision
from clones import cloned_outputs, compare
from test_probe import triple
from torch import nn

from timm_diffsens import Probe, measure
from timm_diffsens.device import seeding
from timm_diffsens.models.loading import timm_input
from timm_diffsens.sensitivities.probe import model_output

N = 2


def build(name, **options):
    with seeding.seeded(0):
        if name.startswith("torchvision/"):
            return torchvision.models.get_model(
                name.removeprefix("torchvision/"), weights=None, **options
            ).eval()
        return timm.create_model(name, pretrained=False, **options).eval()


def probed(model, side, layers="all", n=N, **options):
    batch = triple(n=n, side=side)
    with Probe(model, layers, **options) as probe, torch.no_grad():
        model(batch)
    return probe, batch


# (model, side, at least this many layers with values)
OVERWRITTEN = [
    ("torchvision/alexnet", 64, 15),
    ("torchvision/resnet18", 64, 50),
    ("resnet18", 64, 45),
    ("densenet121", 64, 200),
    ("tresnet_m", 64, 150),
    ("twins_svt_small", 64, 120),  # x += ... on a convolution's output
]
SMALL_SWIN = {"embed_dim": 24, "depths": (1,) * 4, "num_heads": (1, 2, 2, 2)}
OPTIONS = {  # smaller than published: what is tested is how they are put together
    "coat_tiny": {"img_size": 64},
    "maxvit_rmlp_pico_rw_256": {"img_size": 64, "embed_dim": (32,) * 4, "depths": (1,) * 4},
    "mvitv2_tiny": {"img_size": 64},
    "swin_tiny_patch4_window7_224": {"img_size": 112, "window_size": 7},
    "swinv2_cr_tiny_224": {"img_size": 64, **SMALL_SWIN},
    "swinv2_tiny_window8_256": {"img_size": 64, **SMALL_SWIN},
    "tnt_s_legacy_patch16_224": {"img_size": 64, "depth": 2},
    "volo_d1_224": {"img_size": 112},
}
REUSED = [("dla34", 64, 80), ("legacy_seresnet18", 64, 60), ("coat_tiny", 64, 250)]
TUPLES = [("xcit_nano_12_p16_224", 64, 150), ("pit_ti_distilled_224", 224, 100), ("selecsls42", 64, 100)]
LAYOUTS = [
    ("swin_tiny_patch4_window7_224", 112, 80),
    ("torchvision/swin_t", 64, 60),
    ("test_mambaout", 64, 20),
    ("test_convnext", 64, 40),
    ("levit_128s", 224, 100),
    ("volo_d1_224", 112, 120),
    ("skresnet18", 64, 50),
    ("halonet26t", 256, 60),
    ("mvitv2_tiny", 64, 80),
    ("tnt_s_legacy_patch16_224", 64, 40),
]


@pytest.mark.parametrize(("name", "side", "least"), [*OVERWRITTEN, *REUSED, *TUPLES, *LAYOUTS])
def test_every_layer_equals_its_copy(name, side, least):
    model = build(name, **OPTIONS.get(name, {}))
    probe, batch = probed(model, side)
    assert compare(probe.results(), probe.layers, cloned_outputs(model, batch), N, 1e-5) >= least


def test_1_an_overwritten_output_kept_by_reference_would_be_wrong():
    model = build("torchvision/resnet18")
    probe, batch = probed(model, 64)
    kept = {}
    handle = model.bn1.register_forward_hook(lambda m, a, out: kept.update(bn1=out))
    with torch.no_grad():
        model(batch)
    handle.remove()
    copied = cloned_outputs(model, batch)["bn1"]
    assert not torch.equal(kept["bn1"], copied)  # the ReLU wrote over it: the trap is real
    assert torch.equal(kept["bn1"], copied.relu())
    assert any(result.layer == "bn1" for result in probe.results())


def test_4_calls_of_one_module_have_names_of_their_own():
    names = [layer.name for layer in probed(build("torchvision/resnet18"), 64)[0].layers]
    assert {"layer1.0.relu", "layer1.0.relu#1"} <= set(names)
    assert "layer1.0.relu#2" not in names


def test_5_shared_modules_have_one_name_and_note_the_others():
    probe, _ = probed(build("coat_tiny", img_size=64), 64)
    shared = [layer for layer in probe.layers if any(a.startswith("serial_blocks") for a in layer.aliases)]
    assert any(layer.name.startswith("cpe") or layer.name.startswith("crpe") for layer in shared)


def test_6_what_hands_on_its_input_is_not_measured_twice():
    model = build("resnet18")
    probe, _ = probed(model, 64)
    names = {layer.name for layer in probe.layers}
    handed_on = {n for n, m in model.named_modules() if isinstance(m, nn.Identity)}
    assert len(handed_on) > 10
    assert not handed_on & names
    assert any(set(layer.aliases) & handed_on for layer in probe.layers)


def test_7_norm_and_activation_in_one_module_are_one_layer():
    model = build("densenet121")
    names = {layer.name for layer in probed(model, 64)[0].layers}
    fused = [n for n, m in model.named_modules() if type(m).__name__ == "BatchNormAct2d"]
    assert len(fused) > 100
    for name in fused:
        assert name in names
        assert not any(other.startswith(f"{name}.") for other in names)


def test_8_functional_use_is_listed():
    vit = probed(build("torchvision/vit_b_16", image_size=32), 32)[0]
    assert any(name.endswith("self_attention.out_proj") for name in vit.not_called)
    swin = probed(build("torchvision/swin_t"), 64)[0]
    assert any(name.endswith("attn.qkv") for name in swin.not_called)


def test_9_a_head_that_is_called_only_through_its_children():
    model = build("poolformer_s12")
    names = {layer.name for layer in probed(model, 64)[0].layers}
    assert "head" not in names
    assert {"head.norm", "head.fc"} <= names


def test_10_items_of_tuples_are_layers_and_none_is_skipped():
    vit = probed(build("torchvision/vit_b_16", image_size=32), 32)[0]
    names = {layer.name for layer in vit.layers}
    attention = "encoder.layers.encoder_layer_0.self_attention"
    assert f"{attention}[0]" in names
    assert f"{attention}[1]" not in names
    xcit = probed(build("xcit_nano_12_p16_224"), 64, "patch_embed*")[0]
    assert "patch_embed[0]" in {layer.name for layer in xcit.layers} | {
        alias for layer in xcit.layers for alias in layer.aliases
    }
    assert "patch_embed[1][0]" not in {layer.name for layer in xcit.layers}


def test_11_a_model_that_returns_a_dict():
    model = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
        weights=None, weights_backbone=None, num_classes=4
    ).eval()
    probe, batch = probed(model, 64, "stages")
    assert probe.results()[-1].layer == "output"
    with torch.no_grad():
        assert torch.equal(model_output(model(batch)), model(batch)["out"])
    assert probe.results()[-1].shape == (4, 64, 64)


@pytest.mark.parametrize("name", ["torchvision/googlenet", "deit_tiny_distilled_patch16_224"])
@pytest.mark.filterwarnings("ignore:no layer of GoogLeNet has a value")  # without its own initialisation
def test_11_12_models_whose_training_output_is_another(name):
    options = {"init_weights": False} if "googlenet" in name else {}
    model = build(name, **options).train()
    results = measure(model, torch.rand(3, 3, 224, 224), layers="output", batch_size=3)
    assert results[-1].shape == (1000,)
    assert model.training


def test_13_channels_of_undeclared_nhwc_maps():
    probe, _ = probed(build("test_convnext"), 64)
    axes = {layer.name: (layer.channel_axis, layer.shape) for layer in probe.layers}
    axis, shape = axes["stages.0.blocks.0.mlp.fc1"]
    assert (axis, len(shape)) == (2, 3)  # inside the block: (h, w, c)
    axis, shape = axes["stages.0.blocks.0.conv_dw"]
    assert (axis, len(shape)) == (0, 3)
    blocks, _ = probed(build("test_convnext"), 64, "blocks")
    assert all(layer.channel_axis == 0 for layer in blocks.layers)  # permuted back at its end


def test_14_prefix_tokens_are_counted():
    model = build("test_vit")
    probe, _ = probed(model, 160, "blocks")
    assert probe.trace.prefix_tokens == model.num_prefix_tokens == 1
    block = next(layer for layer in probe.layers if layer.name == "blocks.0")
    assert block.shape[0] == 101
    assert block.channel_axis == 1


@pytest.mark.parametrize(("name", "side"), [("swin_tiny_patch4_window7_224", 112), ("levit_128s", 224)])
def test_15_folded_batches(name, side):
    probe, _ = probed(build(name, **OPTIONS.get(name, {})), side)
    folded = [layer for layer in probe.layers if layer.fold > 1]
    assert folded
    results = {result.layer: result for result in probe.results()}
    assert any(results[layer.name].reason is None for layer in folded)
    assert {results[layer.name].reason for layer in folded} <= {None, "constant"}  # zero at initialisation


@pytest.mark.parametrize(
    ("name", "side", "pattern"),
    [
        ("swinv2_cr_tiny_224", 64, "*meta_mlp*"),
        ("maxvit_rmlp_pico_rw_256", 64, "stages.0.blocks.0.attn_block.attn.rel_pos.mlp*"),
        ("swinv2_tiny_window8_256", 64, "layers.0.blocks.0.attn.cpb_mlp*"),
    ],
)
def test_17_outputs_that_do_not_depend_on_the_input(name, side, pattern):
    probe, _ = probed(build(name, **OPTIONS.get(name, {})), side, pattern)
    assert probe.results()
    for result in probe.results():
        assert result.reason == "input-independent"
        assert result.d is None
        assert result.r is None


def test_17_a_class_token_that_has_seen_nothing_yet():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.token = nn.Parameter(torch.randn(1, 4))
            self.query, self.head = nn.Linear(4, 4), nn.Linear(3, 2)

        def forward(self, x):
            queries = self.query(self.token.expand(len(x), -1))
            return self.head(x.mean((2, 3))) + 0 * queries.sum(1, keepdim=True)

    results = {r.layer: r for r in probed(Net(), 16)[0].results()}
    assert results["query"].reason == "input-independent"
    assert results["head"].reason is None


def test_18_layers_that_are_zero_at_initialisation():
    results = {r.layer: r for r in probed(build("resnet18"), 64)[0].results()}
    assert results["layer1.0.bn2"].reason == "constant"
    assert results["layer1.0.bn2"].d is None
    assert results["layer1.0.bn1"].reason is None


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("inception_v3", (3, 299, 299)),
        ("samvit_base_patch16", (3, 1024, 1024)),
        ("vit_base_patch16_sapiens2", (3, 1024, 768)),
    ],
)
def test_19_input_sizes_are_the_models_own(name, shape):
    with torch.device("meta"):
        model = timm.create_model(name, pretrained=False)
    found = timm_input(model)
    assert (found.channels, found.height, found.width) == shape


def test_20_a_model_without_a_classifier_is_measured():
    model = build("test_vit", num_classes=0)
    results = probed(model, 160, "blocks")[0].results()
    assert results[-1].r is not None


def test_21_train_mode_would_have_changed_the_buffers():
    model = build("test_resnet").train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with torch.no_grad():
        measure(model, torch.rand(4, 3, 64, 64), layers="stages")
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with torch.no_grad():
        model(torch.rand(4, 3, 64, 64))
    assert any(not torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_23_mixed_precision_layers_all_have_values():
    model = build("test_vit")
    batch = triple(n=N, side=160)
    with Probe(model, "all") as probe, torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        model(batch)
    dtypes = {tensor.dtype for tensor in _autocast_outputs(model, batch).values()}
    assert {torch.float32, torch.bfloat16} <= dtypes
    assert all(result.reason is None for result in probe.results())


def _autocast_outputs(model, batch):
    with torch.autocast("cpu", torch.bfloat16):
        return cloned_outputs(model, batch)


@pytest.mark.parametrize(
    "name", ["test_resnet", "test_vit", "test_convnext", "test_efficientnet", "test_mambaout"]
)
def test_samples_of_a_batch_do_not_interact(name):
    """The ground the one-forward protocol stands on."""
    model = build(name).double()
    side = 160 if "vit" in name else 64
    batch = triple(n=2, side=side, dtype=torch.float64)
    with torch.no_grad():
        whole = model(batch)
        alone = torch.cat([model(image[None]) for image in batch])
    # another blocking of the same float64 sums
    assert torch.allclose(whole, alone, rtol=1e-9, atol=1e-11)


def test_27_hooks_do_not_pile_up():
    model = build("test_resnet")
    for _ in range(3):
        probed(model, 64)
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == 0
