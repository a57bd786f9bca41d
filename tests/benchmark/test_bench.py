import json
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from record_factory import VARIANTS
from safetensors.torch import save_file
from timm.data import ImageNetInfo

from timm_diffsens import UsageError, bench, read_records
from timm_diffsens.benchmark.plan import prepare
from timm_diffsens.device import seeding
from timm_diffsens.errors import DiffsensWarning
from timm_diffsens.results.records.store import record_text
from timm_diffsens.schema.config import Config
from timm_diffsens.schema.records import Record, verify_key

QUICK = {"pretrained": False, "images": 12, "layers": "stages"}


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Thirty small photographs-to-be in three classes."""
    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for kind in ("ape", "bee", "cow"):
        (folder / kind).mkdir()
        for i in range(10):
            coarse = rng.integers(0, 255, (6, 6, 3), dtype=np.uint8)
            Image.fromarray(coarse).resize((40, 40)).save(folder / kind / f"{i}.png")
    return folder


def without_timings(record: Record) -> str:
    data = json.loads(record_text(record))
    data.pop("timings")
    return json.dumps(data)


@pytest.fixture(scope="module")
def full() -> Record:
    return bench("test_resnet", **QUICK, variants=["all"])


def test_every_variant_is_there_with_every_layer(full):
    assert list(full.variants) == list(VARIANTS)
    names = [layer.layer for layer in full.variants["original"]]
    assert names[-1] == "output"
    for layers in full.variants.values():
        assert [layer.layer for layer in layers] == names
    assert set(full.spectra) == {"original", "init"}
    assert [s.layer for s in full.spectra["original"]] == [s.layer for s in full.spectra["init"]]
    assert verify_key(full)


def test_a_second_run_gives_the_same_bytes_apart_from_timings(full):
    again = bench("test_resnet", **QUICK, variants=["all"])
    assert without_timings(again) == without_timings(full)


def test_the_sample_and_the_synthetic_set_are_said_plainly(full):
    assert full.data.spec == "dead-leaves"
    assert "synthetic" in full.data.note
    assert full.trained is False
    assert full.model.weights.source == "random"
    assert full.test_error.value is None
    assert full.test_error.reason


@pytest.mark.parametrize(
    "change",
    [
        {"seed": 1},
        {"delta": 1.5},
        {"cut": 4},
        {"images": 13},
        {"layers": "blocks"},
        {"corrupt": 0.1},
        {"input_size": 96},
        {"mean": 0.4},
        {"std": 0.3},
        {"variants": ["original"]},
        {"shuffles": 2},
        {"init_samples": 2},
        {"shuffle_linear": True},
        {"test_error": 0.25},
    ],
)
def test_the_key_knows_everything_that_changes_the_numbers(change, key_of):
    assert key_of(change) != key_of({})


@pytest.mark.parametrize("change", [{"batch_size": 3}, {"device": "cpu"}])
def test_the_key_does_not_know_what_does_not(change, key_of):
    assert key_of(change) == key_of({})


@pytest.fixture(scope="module")
def key_of():
    from timm_diffsens.benchmark.plan import prepare

    seen = {}

    def key(change):
        text = repr(change)
        if text not in seen:
            seen[text] = prepare("test_resnet", Config(**QUICK | change)).key
        return seen[text]

    return key


def test_the_key_knows_the_weights():
    from timm_diffsens.benchmark.plan import prepare

    one, other = timm.create_model("test_resnet"), timm.create_model("test_resnet")
    other.load_state_dict(one.state_dict())
    options = Config(images=4)
    assert prepare(one, options).key == prepare(other, options).key
    with torch.no_grad():
        other.fc.bias[3] += 1e-6
    assert prepare(one, options).key != prepare(other, options).key


def test_done_is_not_measured_again_unless_forced(tmp_path):
    calls = []
    options = QUICK | {"out": tmp_path, "progress": lambda *a: calls.append(a), "variants": ["original"]}
    first = bench("test_resnet", **options)
    measured = len(calls)
    assert measured > 0
    assert bench("test_resnet", **options) == first
    assert len(calls) == measured
    forced = bench("test_resnet", force=True, **options)
    assert len(calls) == 2 * measured
    assert without_timings(forced) == without_timings(first)
    assert len(read_records(tmp_path / "records")) == 1


def test_nothing_is_half_written_when_it_is_interrupted(tmp_path):
    def interrupt(variant, done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench("test_resnet", **QUICK, out=tmp_path, progress=interrupt)
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []


def test_an_output_folder_that_cannot_be_written_is_found_before_measuring(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot write"):
        bench("test_resnet", **QUICK, out=tmp_path / "file", progress=lambda *a: pytest.fail("measured"))


def test_error_is_measured_on_labelled_images_of_fitting_classes(pictures, tmp_path):
    file = tmp_path / "net.py"
    file.write_text(
        "import torch\n"
        "def three():\n"
        "    net = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1),\n"
        "                              torch.nn.Flatten(), torch.nn.Linear(4, 3))\n"
        "    torch.nn.init.zeros_(net[3].weight)\n"
        "    net[3].bias.data = torch.tensor([0.0, 1.0, 0.0])\n"
        "    return net\n"
    )
    common = {"dataset": "folder", "data_dir": pictures, "input_size": 32, "mean": 0.5, "std": 0.5}
    some = bench(f"{file}:three", images=12, layers="all", **common)
    # it says class 1 to everything: exactly the images of the other classes are wrong
    assert some.test_error.source == "measured"
    assert some.test_error.n == 12
    whole = bench(f"{file}:three", images=12, layers="all", full_error=True, **common)
    assert whole.test_error.source == "measured on the full split"
    assert (whole.test_error.value, whole.test_error.n) == (pytest.approx(2 / 3), 30)
    assert whole.test_error.stderr == pytest.approx((2 / 9 / 30) ** 0.5, rel=1e-6)
    given = bench(f"{file}:three", images=12, layers="all", test_error=0.125, train_error=0.0625, **common)
    assert (given.test_error.value, given.test_error.source, given.train_error) == (0.125, "given", 0.0625)
    assert some.train_error is None
    assert some.variants["original"][-1].reason == "input-independent"  # the zero weights: 0/0, said so


class Shade(torch.nn.Module):
    """Class k of grey images of brightness k / 5, or what `order` makes of k."""

    def __init__(self, order=range(6)):
        super().__init__()
        self.scale = torch.nn.Conv2d(3, 3, 1)
        self.order, self.num_classes = list(order), 6

    def forward(self, x):
        grey = x.mean((1, 2, 3)) + 0 * self.scale(x).mean((1, 2, 3))
        return -(grey[:, None] - torch.linspace(0, 1, 6)).abs()[:, self.order]


@pytest.fixture
def shades(tmp_path):
    for k in range(6):
        folder = tmp_path / "shades" / f"shade{k}"
        folder.mkdir(parents=True)
        for i in range(6):
            ramp = np.arange(-8, 8, dtype=int) + min(max(51 * k, 8), 247)  # flat images are not deformed
            pixels = np.broadcast_to(ramp[:, None], (16, 16, 3)).astype("uint8")
            Image.fromarray(pixels).save(folder / f"{i}.png")
    return {"data_dir": tmp_path / "shades", "dataset": "folder", "images": 36, "layers": "all"} | {
        "input_size": 16,
        "mean": 0.0,
        "std": 1.0,
        "variants": ["original"],
    }


def test_an_error_that_is_worse_than_guessing_is_said(shades):
    right = bench(Shade(), **shades)
    assert (right.test_error.value, right.warnings) == (0, [])
    assert right.data.classes.names == [f"shade{k}" for k in range(6)]
    words = (
        r"worse than guessing: do the labels fit\? 100.0% of 36 .* 83.3% would be by a guess among 6 classes"
    )
    with pytest.warns(DiffsensWarning, match=words):
        wrong = bench(Shade([1, 2, 3, 4, 5, 0]), **shades)
    assert (wrong.test_error.value, len(wrong.warnings)) == (1, 1)
    with pytest.warns(DiffsensWarning, match=words):
        bench(Shade([1, 2, 3, 4, 5, 0]), **shades | {"images": 24}, full_error=True)
    # one class in six right, which is what a guess would have
    assert bench(Shade([0, 2, 3, 4, 5, 1]), **shades).warnings == []


class Thousand(torch.nn.Module):
    """Tells the grey levels of `shades` apart, with the outputs of a thousand classes."""

    def __init__(self, outputs):
        super().__init__()
        self.shade, self.outputs = Shade(), outputs

    def forward(self, x):
        scores = self.shade(x)
        return torch.full((len(x), 1000), -1e3).index_copy(1, torch.tensor(self.outputs), scores)


def test_a_network_of_a_thousand_outputs_is_scored_by_wordnet_ids(shades):
    """Its outputs are taken to be in ImageNet's order, which the record says; an error of chance is told."""
    names, outputs = ImageNetInfo("imagenet-1k").label_names(), [7, 2, 900, 430, 999, 0]
    for k, output in enumerate(outputs):
        (shades["data_dir"] / f"shade{k}").rename(shades["data_dir"] / names[output])
    others = [outputs[k] for k in (0, 2, 3, 4, 5, 1)]  # one class in six is right: a guess
    right = bench(Thousand(outputs), **shades)
    assert right.test_error.value == 0
    assert right.warnings == [
        "the order of the 1,000 outputs is not known, that of ImageNet's WordNet ids is assumed"
    ]
    words = "no better than guessing: 83.3% of 36 images are wrong; are the outputs in the order of"
    with pytest.warns(DiffsensWarning, match=words):
        wrong = bench(Thousand(others), **shades)
    assert (wrong.test_error.n, len(wrong.warnings)) == (36, 2)
    known = bench(Thousand(others), test_error=0.3, **shades)
    assert (known.test_error.source, known.warnings) == ("given", [])


def test_what_was_odd_when_the_folder_was_opened_is_in_the_record(shades):
    (shades["data_dir"] / "shade3").rename(shades["data_dir"] / "shade10")
    with pytest.warns(
        DiffsensWarning, match="natural order: class 2 is 'shade2'; .* it is 'shade10'"
    ) as said:
        record = bench(Shade(), **shades)
    assert record.data.classes.names[-1] == "shade10"
    assert record.warnings == [str(each.message) for each in said]
    assert len(record.warnings) == 1


def test_classes_that_do_not_fit_give_null_and_a_warning(pictures):
    with pytest.warns(DiffsensWarning, match="no test error: .*3 classes.*1000"):
        record = bench("test_resnet", **QUICK, dataset="folder", data_dir=pictures, variants=["original"])
    assert record.test_error.value is None
    assert "1000" in record.test_error.reason
    assert any("no test error" in text for text in record.warnings)


def test_a_checkpoint_is_measured_as_the_module_it_came_from(tmp_path):
    with seeding.seeded(5):
        model = timm.create_model("test_resnet", pretrained=False).eval()
    save_file(model.state_dict(), tmp_path / "w.safetensors", metadata={"recipe": '{"train_error": 0.004}'})
    options = {"images": 8, "layers": "stages", "variants": ["original"]}
    from_file = bench("test_resnet", checkpoint=tmp_path / "w.safetensors", **options)
    from_module = bench(model, **options)
    assert from_file.variants == from_module.variants
    assert from_file.model.weights.sha256 == from_module.model.weights.sha256
    assert (from_file.trained, from_module.trained) == (True, None)
    assert from_file.train_error == 0.004
    with pytest.raises(UsageError, match=r"expected what the checkpoint states, 0\.004, got 0\.1"):
        bench("test_resnet", checkpoint=tmp_path / "w.safetensors", train_error=0.1, **options)


def test_a_given_module_needs_an_input_size_unless_it_is_timms():
    with pytest.raises(UsageError, match=r"pass input_size, and mean and std"):
        bench(torch.nn.Sequential(torch.nn.Conv2d(3, 2, 3)), images=4)


def test_shuffles_and_initialisations_are_averaged_with_their_spread():
    one = bench("test_resnet", **QUICK, variants=["init"], init_samples=1)
    three = bench("test_resnet", **QUICK, variants=["init"], init_samples=3)
    assert one.variants["original"] == three.variants["original"]
    assert one.variants["init"] != three.variants["init"]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"variants": ["shufled"]}, "unknown variant 'shufled'.*channel-shuffled"),
        ({"layers": "layr1"}, "unknown layer or pattern 'layr1'.*layer1"),
        ({"dataset": "cifar11", "data_dir": "."}, "cifar10"),
        ({"device": "cdua"}, "unknown device 'cdua'.*cuda"),
        ({"cut": 1}, "cut must be"),
        ({"delta": -1}, "delta must be"),
        ({"images": 1}, "2"),
        ({"batch_size": 0}, "^batch_size"),
        ({"test_error": 7.0}, "between 0 and 1"),
        ({"corrupt": -0.1}, "corrupt"),
        ({"input_size": (0, 3)}, "^input_size"),
        ({"mean": (0.5, 0.5)}, "^mean needs 1 or 3"),
        ({"std": 0.0}, "^std must be positive"),
        ({"imges": 4}, "unknown option 'imges'.*images"),
        ({"shuffles": 0}, "shuffles must be"),
        ({"seed": -1}, "seed"),
    ],
)
def test_wrong_use_is_named(wrong, words):
    with pytest.raises(UsageError, match=f"(?s){words}"):
        bench("test_resnet", **QUICK | wrong)


def test_a_deformation_that_folds_is_warned_of_with_the_numbers():
    with pytest.warns(DiffsensWarning, match=r"one-to-one.*--delta between 0.5 and 16\.97"):
        record = bench("test_resnet", **QUICK, delta=30, variants=["original"])
    assert any("one-to-one" in text for text in record.warnings)


def test_real_weights_on_real_images(real_data):
    record = bench(
        "tf_efficientnet_lite0",
        checkpoint=real_data.file("tf_efficientnet_lite0.safetensors"),
        dataset="imagenet",
        data_dir=real_data.folder("imagenet-sample"),
        images=40,
        layers="stages",
        variants=["original"],
    )
    assert record.trained
    assert record.test_error.source == "measured"
    # 12.3 % over all 1,000 images; 40 of them have a binomial standard error of 5.2 %
    assert abs(record.test_error.value - 0.123) < 4 * 0.052
    first, last = record.variants["original"][0], record.output
    assert last.r + 4 * last.r_stderr < first.r  # training made it fall with depth


def test_records_hold_no_machine_path(full):
    assert str(Path.home()) not in record_text(full)


PUBLISHED = 0.19


@pytest.fixture
def published(monkeypatch):
    """A model whose authors state an error, without fetching its weights."""
    from dataclasses import replace

    from timm_diffsens.models.loading import load_model
    from timm_diffsens.schema.records import Weights

    loaded = load_model("test_resnet", pretrained=False)
    weights = Weights(source="pretrained", detail="x", seed=None, sha256=loaded.weights.sha256)
    return replace(loaded, published_error=PUBLISHED, weights=weights)


def test_a_published_error_is_not_put_on_data_it_does_not_belong_to(published, pictures):
    options = {"images": 8, "layers": "stages", "variants": ["original"]}
    assert bench(published, **options).test_error.value == PUBLISHED
    assert bench(published, **options, corrupt=0.5).test_error.value is None
    with pytest.warns(DiffsensWarning, match="no test error"):
        record = bench(published, **options, dataset="folder", data_dir=pictures)
    assert record.test_error.value is None


def test_options_without_effect_are_refused(published):
    with pytest.raises(UsageError, match="weights already"):
        bench(published, images=8, checkpoint="w.safetensors")
    with pytest.raises(UsageError, match="input_options"):
        bench(published, images=8, input_size=64)
    with pytest.raises(UsageError, match="weights already"):
        bench(torch.nn.Conv2d(3, 2, 3), images=8, input_size=32, pretrained=False)


def test_the_key_knows_the_code_of_a_network_of_ones_own(tmp_path):
    from timm_diffsens.benchmark.plan import prepare

    options = Config(images=4, input_size=32, mean=0.5, std=0.5)
    layer = torch.nn.Conv2d(3, 2, 3)
    keys = {
        prepare(torch.nn.Sequential(layer, act), options).key for act in (torch.nn.ReLU(), torch.nn.Tanh())
    }
    assert len(keys) == 2
    file = tmp_path / "net.py"
    head = "import torch\nclass Net(torch.nn.Module):\n    def forward(self, x):\n"
    text = head + "        return x.mean((2, 3)) * {}\n"
    found = []
    for factor in (1, 2, 1):
        file.write_text(text.format(factor))
        found.append(prepare(f"{file}:Net", options))
    assert found[0].key == found[2].key != found[1].key
    assert found[0].parts.model.spec == "net.py:Net"  # no machine path in a record


LATE = """
import copy, torch

class Net(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 2, 3)

    def forward(self, x):
        from parts import act
        return act(self.conv(x)).mean((2, 3))

def shift(images, generator=None):
    from parts import step
    return images.roll(step, -1)

def checks(clean, deformed, generator=None):
    from parts import step
    return clean.roll(step, -2) - clean

def halved(model, generator):
    from parts import step
    changed = copy.deepcopy(model)
    changed.conv.weight.data /= step
    return changed

class Set(torch.utils.data.Dataset):
    def __len__(self):
        from parts import step
        return 6 * step

    def __getitem__(self, i):
        from parts import draw
        return draw(i)
"""


def test_files_beside_are_found_while_the_code_runs(tmp_path):
    """As by `python late.py`; of two folders each model has its own."""
    values = []
    for step in (1, 2, 1):
        folder = tmp_path / str(step)
        folder.mkdir(exist_ok=True)
        (folder / "late.py").write_text(LATE)
        (folder / "parts.py").write_text(
            f"import torch\nstep = {step}\ndef act(x): return x.relu() * {step} + x\n"
            "def draw(i): return torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(i))\n"
        )
        late = f"{folder / 'late.py'}:"
        things = {"deformation": f"{late}shift", "noise": f"{late}checks", "dataset": f"{late}Set"}
        variants = ["original", f"{late}halved"]
        record = bench(f"{late}Net", layers="all", variants=variants, pretrained=False, **things)
        assert (record.data.n, record.model.classes) == (6 * step, 2)
        values.append((record.output.d, record.output.r, record.key))
    assert values[0] == values[2]
    assert all(one != other for one, other in zip(values[0], values[1], strict=True))


def test_a_network_of_ones_own_with_a_thousand_classes_of_ones_own(tmp_path):
    for k in range(1000):
        (tmp_path / f"shape{k:03d}").mkdir()
        Image.new("L", (8, 8), k % 256).save(tmp_path / f"shape{k:03d}" / "0.png")
    net = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(3, 1000))
    images = {"dataset": "folder", "data_dir": str(tmp_path), "images": 8}
    given = Config(**images, input_size=8, mean=0.5, std=0.5)
    plan = prepare(net, given)
    assert plan.no_labels is None
    assert plan.labels == {index: index for index in plan.sample.indices}
    with pytest.warns(DiffsensWarning, match=r"not the model's, which are WordNet ids \('shape000', say\)"):
        assert prepare("test_resnet", Config(**images, pretrained=False)).labels is None


def test_scores_that_are_not_finite_give_no_error(pictures, tmp_path):
    file = tmp_path / "net.py"
    file.write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    def forward(self, x):\n"
        "        return x.mean((2, 3)) * float('nan')\n"
    )
    common = {"dataset": "folder", "data_dir": pictures, "input_size": 32, "mean": 0.5, "std": 0.5}
    for full in (False, True):
        record = bench(f"{file}:Net", images=8, layers="all", full_error=full, **common)
        assert record.test_error.value is None
        assert "finite" in record.test_error.reason
        assert record.output.reason == "non-finite"


def test_an_impossible_initialisation_is_found_before_measuring():
    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(3, 1, 1))

        def forward(self, x):
            return (self.scale * x).mean((2, 3))

    with pytest.raises(UsageError, match="cannot be re-initialised: scale"):
        bench(
            Net(),
            images=8,
            input_size=32,
            mean=0.5,
            std=0.5,
            variants="all",
            progress=lambda *a: pytest.fail("measured"),
        )


def test_the_number_format_is_recorded():
    model = timm.create_model("test_resnet").double()
    record = bench(model, images=4, layers="stages", variants=["original"])
    assert record.protocol.dtype == "float64"


def test_a_fixed_size_network_is_built_for_the_size_asked_for():
    record = bench("deit_tiny_patch16_224", pretrained=False, images=2, layers="output", input_size=64)
    assert record.model.input.height == 64
    assert record.output.r is not None


def test_errors_name_keywords():
    """What the command line calls `--no-pretrained` is `pretrained=False` in Python."""
    for options, words in (
        ({}, r"pass checkpoint FILE, or pretrained=False for random weights"),
        ({"pretrained": False, "shuffles": 0}, r"^shuffles must be between 1 and 10,000, got 0"),
        ({"pretrained": False, "init_samples": -1}, r"^init_samples must be between 1 and "),
        ({"pretrained": False, "dataset": "folder"}, r"needs data_dir"),
        ({"pretrained": False, "tf32": True, "device": "cpu"}, r"^tf32 is for CUDA devices"),
    ):
        with pytest.raises(UsageError, match=words) as error:
            bench("net/lenet", images=4, **options)
        assert "--" not in str(error.value)
