"""Checkpoints that say how they were made: written whole, and built again from what they say."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from timm_diffsens.errors import DiffsensError, UsageError
from timm_diffsens.models.arguments import ModelArguments
from timm_diffsens.models.checkpoints import load_checkpoint, read_recipe, save_checkpoint, state_sha256
from timm_diffsens.models.inputs import plain_input
from timm_diffsens.models.loading import InputOptions, LoadedModel, load_model

ARGUMENTS = ModelArguments(in_chans=1, num_classes=1, size=16, dims=1, width=4, depth=4, filter=2, stride=2)


def train(
    path: Path, spec: str = "net/simple", arguments: ModelArguments = ARGUMENTS, changes: dict | None = None
) -> LoadedModel:
    """What a training leaves behind."""
    model = load_model(spec, pretrained=False, seed=4, arguments=arguments)
    shown = model.input.model_copy(update={"mean": (0.25,) * model.input.channels})
    recipe = {
        "model": spec,
        "arguments": arguments.to_json(),
        "input": shown.model_dump(mode="json"),
        "train_error": 0.0,
    }
    save_checkpoint(model.module, path, {**recipe, **(changes or {})})
    return model


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "w.safetensors"


# --- round trips


@pytest.mark.parametrize(
    ("spec", "arguments"),
    [
        ("net/simple", ARGUMENTS),
        ("net/lenet", ModelArguments(in_chans=1, num_classes=1, size=28)),
        ("net/vgg11_bn", ModelArguments(in_chans=1, num_classes=2, size=32, width=4)),
        ("test_resnet", ModelArguments(in_chans=1, num_classes=1, size=32)),
        ("test_vit", ModelArguments(in_chans=2, num_classes=1, size=32)),
        ("torchvision/squeezenet1_1", ModelArguments(in_chans=1, num_classes=1, size=32)),
    ],
)
def test_a_checkpoint_builds_its_own_architecture(spec, arguments, path):
    known = train(path, spec, arguments)
    model = load_model(spec, checkpoint=path)
    assert (model.weights.source, model.weights.detail) == ("checkpoint", "w.safetensors")
    assert model.weights.sha256 == known.weights.sha256
    assert (model.arguments, model.input_shape) == (arguments, known.input_shape)
    assert model.classes == arguments.num_classes
    assert model.input == known.input.model_copy(update={"mean": (0.25,) * arguments.in_chans})
    images = torch.randn(3, *model.input_shape)
    with torch.no_grad():
        assert torch.equal(model.module(images), known.module(images))
    fresh = model.fresh(1)
    assert state_sha256(fresh.state_dict()) != known.weights.sha256
    assert fresh(images).shape == (3, arguments.num_classes)


def test_the_metadata_stays_readable(path):
    train(path)
    with safe_open(path, framework="pt") as file:
        metadata = file.metadata()
    assert set(metadata) == {"format", "recipe"}
    assert metadata["format"] == "pt"
    recipe = json.loads(metadata["recipe"])
    assert recipe == read_recipe(path)
    assert (recipe["model"], recipe["train_error"]) == ("net/simple", 0.0)
    assert load_model("net/simple", checkpoint=path).metadata == metadata


def test_input_options_replace_what_the_recipe_says(path):
    train(path, "net/resnet20", ModelArguments(in_chans=1, num_classes=1, size=32))
    asked = InputOptions(size=(16, 24), std=(3.0,))
    shown = load_model("net/resnet20", checkpoint=path, input_options=asked).input
    assert (shown.height, shown.width, shown.mean, shown.std) == (16, 24, (0.25,), (3.0,))


def test_arguments_of_the_caller_replace_those_of_the_recipe(path):
    train(path)
    with pytest.raises(UsageError, match="does not fit the model"):
        load_model("net/simple", checkpoint=path, arguments=ModelArguments(in_chans=1))


def test_a_recipe_without_an_input_leaves_that_of_the_arguments(path):
    train(path, changes={"input": None})
    model = load_model("net/simple", checkpoint=path)
    assert model.input == plain_input(1, (1, 16))


def test_a_file_of_the_users_own_may_have_moved(path, tmp_path):
    code = (
        "from torch import nn\n\ndef make(num_classes=3):\n    return nn.Sequential(nn.Flatten(), "
        "nn.Linear(12, num_classes))\n"
    )
    (tmp_path / "elsewhere").mkdir()
    for folder in (tmp_path, tmp_path / "elsewhere"):
        (folder / "mine.py").write_text(code)
    train(path, f"{tmp_path}/mine.py:make", ModelArguments(in_chans=3, num_classes=1, size=2))
    model = load_model(f"{tmp_path}/elsewhere/mine.py:make", checkpoint=path)
    assert (model.classes, model.weights.source) == (1, "checkpoint")


# --- what is refused


def test_weights_of_another_architecture(path):
    train(path)
    with pytest.raises(UsageError, match=r"'w\.safetensors' was made from net/simple, not from net/lenet"):
        load_model("net/lenet", checkpoint=path)
    train(path, "test_resnet", ModelArguments(num_classes=1))
    assert load_model("timm/test_resnet", checkpoint=path).classes == 1


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arguments": {"sides": 3}}, "recipe in checkpoint .* is not understood: unknown model argument"),
        ({"arguments": [1]}, "is not understood: expected an object of model arguments"),
        ({"arguments": {"in_chans": "3"}}, "in_chans must be a positive integer, got '3'"),
        ({"input": {"channels": 1}}, "is not understood: "),
    ],
)
def test_recipes_that_are_not_understood(changes, message, path):
    train(path, changes=changes)
    with pytest.raises(UsageError, match=message):
        load_model("net/simple", checkpoint=path)


@pytest.mark.parametrize(
    "text", ["{", "", "null", "[1, 2]", '"net/fc2"', '{"epochs": 3}', '{"model": 3}', '{"model": null}']
)
def test_recipes_of_other_programs_say_nothing(text, path):
    known = load_model("net/lenet", pretrained=False, seed=9)
    save_file(known.module.state_dict(), path, metadata={"recipe": text})
    assert load_model("net/lenet", checkpoint=path).weights.sha256 == known.weights.sha256


def test_files_without_a_recipe(path, tmp_path):
    save_file({"a": torch.ones(1)}, path)
    assert read_recipe(path) is None
    torch.save({"a": torch.ones(1)}, tmp_path / "w.pt")
    assert read_recipe(tmp_path / "w.pt") is None
    path.write_bytes(b"no such format")
    with pytest.raises(UsageError, match=rf"checkpoint '{path.name}' cannot be read: it is neither"):
        load_model("net/lenet", checkpoint=path)
    with pytest.raises(UsageError, match="does not exist or is not a file"):
        load_model("net/lenet", checkpoint=tmp_path / "none.safetensors")


# --- writing


def test_shared_tensors_and_views_are_written_each_on_its_own(path):
    net = nn.Sequential(
        nn.Linear(4, 4), nn.Linear(4, 4), nn.Conv2d(3, 2, 3).to(memory_format=torch.channels_last)
    )
    net[1].weight = net[0].weight
    net[0].bias = nn.Parameter(torch.arange(8.0)[::2])
    save_checkpoint(net, path, {})
    other = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4), nn.Conv2d(3, 2, 3))
    other[1].weight = other[0].weight
    load_checkpoint(other, path)
    assert state_sha256(other.state_dict()) == state_sha256(net.state_dict())


def test_the_module_is_not_changed(path):
    net = nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2)).to(memory_format=torch.channels_last).train()
    save_checkpoint(net, path, {})
    assert net[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert all(module.training for module in net.modules())
    assert all(p.requires_grad for p in net.parameters())


def test_a_failed_write_leaves_the_old_file(path, monkeypatch):
    train(path)
    before = path.read_bytes()

    def fail(self, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(DiffsensError, match="No space left on device"):
        save_checkpoint(nn.Linear(2, 2), path, {})
    assert path.read_bytes() == before
    assert [p.name for p in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize("recipe", [{"loss": float("nan")}, {"loss": torch.ones(1)}])
def test_recipes_that_are_no_json(recipe, path):
    with pytest.raises(UsageError, match=r"the recipe of checkpoint 'w\.safetensors' is no JSON"):
        save_checkpoint(nn.Linear(2, 2), path, recipe)
    assert not path.exists()


def test_checkpoints_have_their_ending(tmp_path):
    with pytest.raises(UsageError, match=r"a checkpoint is a \.safetensors file, got 'w\.pt'"):
        save_checkpoint(nn.Linear(2, 2), tmp_path / "w.pt", {})


# --- numbers of strangers


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"input": {"height": 10**9}}, r"input.height must be from 1 to 8,192, got 1000000000"),
        ({"input": {"width": 0}}, r"input.width: Input should be greater than or equal to 1, got 0"),
        ({"input": {"channels": 10**20}}, r"input.channels: Input should be less than "),
        ({"input": {"height": 8192, "width": 8192}}, r"an input holds at most 4,194,304 numbers"),
        ({"input": {"mean": [0.0] * 7}}, r"mean needs 1 number, got 7"),
        ({"input": {"std": [0.0]}}, r"std must be positive"),
        ({"input": {"crop_pct": 1e-9}}, r"input.crop_pct must be from 0.1 to 2.0, got 1e-09"),
        ({"arguments": {"width": 10**9}}, r"model argument width must be at most 16,384, got 1000000000"),
        ({"arguments": {"size": 10**20}}, r"model argument size must be at most 8,192"),
        ({"arguments": {"depth": 10**6}}, r"model argument depth must be at most 1,000"),
        ({"arguments": {"num_classes": 10**9}}, r"model argument num_classes must be at most 1,000,000"),
    ],
)
def test_numbers_of_a_recipe_are_bounded_before_anything_is_made_of_them(path, changes, message):
    train(path)
    recipe = read_recipe(path)
    for part, values in changes.items():
        recipe[part] |= values
    save_checkpoint(nn.Linear(2, 2), path, recipe)
    with pytest.raises(UsageError, match=message) as caught:
        load_model("net/simple", checkpoint=path)
    assert "recipe in checkpoint 'w.safetensors'" in str(caught.value)


def test_a_recipe_of_a_network_that_the_file_cannot_hold_is_refused_before_it_is_built(path, monkeypatch):
    train(path, "net/vgg11_bn", ModelArguments(in_chans=1, num_classes=1, size=32, width=4))
    recipe = read_recipe(path)
    recipe["arguments"]["width"] = 16_384  # 180 billion parameters
    save_checkpoint(nn.Linear(2, 2), path, recipe)
    with pytest.raises(UsageError, match=r"describes a network of [\d,]{13,} parameters, and the file has"):
        load_model("net/vgg11_bn", checkpoint=path)
