"""Image classifiers of transformers, of random configurations: D and G are those of their own outputs."""

import pytest
import torch
from packaging.version import Version

from timm_diffsens import Diffeo, Probe, measure, sensitivity

transformers = pytest.importorskip("transformers", reason="needs transformers")
# before version 5 blocks lie deeper than `blocks` looks, and the last hidden state is behind the norm
NESTED = Version(transformers.__version__) < Version("5")
LAYERS = ["vit.embeddings", "vit.encoder.layer.?", "output"] if NESTED else "blocks"


@pytest.fixture
def vit():
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.ViTConfig(image_size=32, patch_size=8, num_labels=5, **shape)
    return transformers.ViTForImageClassification(config).eval()


def block_names(model):
    """Which differ between releases of transformers."""
    return [name for name, module in model.named_modules() if type(module).__name__ == "ViTLayer"]


def logits(model, images):
    return model(pixel_values=images).logits


def test_layers_are_the_hidden_states_that_the_model_gives_itself(vit):
    """The reference: the plain definition on `hidden_states` and on the logits, in double precision."""
    draws = torch.Generator().manual_seed(1)
    clean = torch.randn(8, 3, 32, 32, generator=draws)
    parts = [clean, *(clean + 0.1 * torch.randn(clean.shape, generator=draws) for _ in range(2))]
    with torch.no_grad(), Probe(vit, layers=LAYERS) as probe:
        logits(vit, torch.cat(parts))
    found = {layer.layer: layer for layer in probe.results()}
    with torch.no_grad():
        outputs = [vit(pixel_values=part, output_hidden_states=True) for part in parts]
    names = block_names(vit)[: -1 if NESTED else None]
    expected = {name: [out.hidden_states[k + 1] for out in outputs] for k, name in enumerate(names)}
    expected["output"] = [out.logits for out in outputs]
    for name, values in expected.items():
        d, g, _ = sensitivity(*(value.double() for value in values))
        # some 100 operations in float32 one after another, 100 u / sqrt(D), are 2e-5
        assert found[name].d == pytest.approx(d, rel=1e-4), name
        assert found[name].g == pytest.approx(g, rel=1e-4), name


def test_a_forward_of_ones_own_gives_what_its_model_gives(vit):
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    given = {"diffeo": Diffeo(1.0, 3), "layers": LAYERS, "seed": 3}
    asked, plain = measure(vit, images, forward=logits, **given), measure(vit, images, **given)
    assert [layer.layer for layer in asked] == ["vit.embeddings", *block_names(vit), "output"]
    assert asked == plain
