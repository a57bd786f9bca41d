"""Image classifiers of transformers, of random configurations: D and G are those of their own outputs."""

import pytest
import torch

from timm_diffsens import Diffeo, Probe, measure, sensitivity

transformers = pytest.importorskip("transformers", reason="needs transformers")


@pytest.fixture
def vit():
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = transformers.ViTConfig(image_size=32, patch_size=8, num_labels=5, **shape)
    return transformers.ViTForImageClassification(config).eval()


def logits(model, images):
    return model(pixel_values=images).logits


def test_layers_are_the_hidden_states_that_the_model_gives_itself(vit):
    """The reference: the plain definition on `hidden_states` and on the logits, in double precision."""
    draws = torch.Generator().manual_seed(1)
    clean = torch.randn(8, 3, 32, 32, generator=draws)
    parts = [clean, *(clean + 0.1 * torch.randn(clean.shape, generator=draws) for _ in range(2))]
    with torch.no_grad(), Probe(vit) as probe:
        logits(vit, torch.cat(parts))
    found = {layer.layer: layer for layer in probe.results()}
    with torch.no_grad():
        outputs = [vit(pixel_values=part, output_hidden_states=True) for part in parts]
    expected = {f"vit.layers.{k}": [out.hidden_states[k + 1] for out in outputs] for k in range(2)}
    expected["output"] = [out.logits for out in outputs]
    for name, values in expected.items():
        d, g, _ = sensitivity(*(value.double() for value in values))
        # some 100 operations in float32 one after another, 100 u / sqrt(D), are 2e-5
        assert found[name].d == pytest.approx(d, rel=1e-4), name
        assert found[name].g == pytest.approx(g, rel=1e-4), name


def test_a_forward_of_ones_own_gives_what_its_model_gives(vit):
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    given = {"diffeo": Diffeo(1.0, 3), "layers": "blocks", "seed": 3}
    asked, plain = measure(vit, images, forward=logits, **given), measure(vit, images, **given)
    assert [layer.layer for layer in asked] == ["vit.embeddings", "vit.layers.0", "vit.layers.1", "output"]
    assert asked == plain
