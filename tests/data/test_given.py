"""Data of the caller's own: what the network is shown is what was given, in a known order."""

import hashlib

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, TensorDataset

from timm_diffsens import bench, registry
from timm_diffsens.data.labels import doubt, match_labels
from timm_diffsens.data.loading import load_images
from timm_diffsens.errors import DiffsensWarning, MeasurementError, UsageError, collected_warnings
from timm_diffsens.models.inputs import plain_input

N = 20
IMAGES = torch.from_numpy(np.random.default_rng(0).standard_normal((N, 3, 8, 10), dtype=np.float32))
LABELS = [i % 4 for i in range(N)]
INPUT = plain_input(3, (8, 10))


class Listed(Dataset):
    """The items of a list."""

    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return self.items[index]


def shown(sample, size=N, spec=INPUT):
    return torch.cat([images for _, images in sample.batches(sample.transform(spec), size)])


@pytest.mark.parametrize("size", [1, 7, N])
@pytest.mark.parametrize(
    ("data", "spec"),
    [
        (IMAGES, "tensor"),
        ((IMAGES, torch.tensor(LABELS)), "tensor"),
        (TensorDataset(IMAGES, torch.tensor(LABELS)), "TensorDataset"),
        (Listed(list(IMAGES)), "Listed"),
        (DataLoader(TensorDataset(IMAGES, torch.tensor(LABELS)), batch_size=6), "TensorDataset"),
        ([IMAGES[:13], IMAGES[13:]], "list"),
        ((batch for batch in IMAGES.split(3)), "generator"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_the_network_is_shown_what_was_given(data, spec, size):
    if spec == "generator":
        data = iter(IMAGES.split(3))
        spec = type(data).__name__
    sample = load_images(data, images=None)
    assert (sample.spec, sample.selection, sample.note[:19]) == (spec, "all", "given by the caller")
    assert sample.names == tuple(f"tensor/{i:08d}" for i in range(N))
    assert torch.equal(shown(sample, size), IMAGES)
    assert sample.labels in (None, tuple(LABELS))


def test_labels_are_the_models_class_indices():
    sample = load_images((IMAGES, LABELS))
    assert match_labels(sample, 4) == (tuple(LABELS), None)
    assert match_labels(sample, 3) == (None, "the data set has a label 3, the model 3 classes")
    assert load_images((IMAGES, [-1, *LABELS[1:]])).labels is None


IMAGENETTE = [0, 217, 482, 491, 497, 566, 569, 571, 574, 701]  # its classes' indices in ImageNet


@pytest.mark.parametrize(
    ("labels", "classes", "doubted"),
    [
        ([0, 1] * 4, 10, "the labels 0 to 1"),  # 0.2^8: two classes are not ten
        ([0, 1] * 4, 2, None),
        ([0, 3, 8, 8, 6, 1, 0, 6], 10, None),  # 0.9^8: CIFAR-10's first images happen to have no truck
        ([0, 1], 10, None),  # 0.2^2: of two images nobody knows
        ([*range(9)] * 7, 10, None),  # 0.9^63 is 0.13 %
        ([*range(9)] * 8, 10, "the labels 0 to 8"),  # 0.9^72 is 0.05 %
        ([3, 8] * 40, 10, None),  # a set numbered on its own would have 0, 1
        (IMAGENETTE * 5, 1000, None),  # the same: chosen among the model's
        ([0] * 50, 1000, "the label 0 alone"),  # such as the first images of a set sorted by class
        ([0, 1] * 4, None, None),
    ],
)
def test_plainly_fewer_labels_than_classes_are_doubted_and_kept(labels, classes, doubted):
    sample = load_images((torch.rand(len(labels), 3, 8, 8), labels))
    asked = f"the data set has {doubted}, the model {classes} classes: are these the model's classes?"
    assert doubt(sample, classes) == (asked if doubted else None)
    if classes is not None:
        assert match_labels(sample, classes) == (tuple(labels), None)


class Reader(torch.nn.Module):
    """A classifier of 1,000 classes: the class is a thousand times the mean of the first channel."""

    def __init__(self):
        super().__init__()
        self.pool, self.fc = torch.nn.AdaptiveAvgPool2d(1), torch.nn.Linear(3, 1000)
        classes = torch.arange(1000.0)
        with torch.no_grad():  # -(x - k)^2 is largest where k is next to x
            self.fc.weight.copy_(torch.stack([2000 * classes, 0 * classes, 0 * classes], 1))
            self.fc.bias.copy_(-(classes**2))

    def forward(self, x):
        return self.fc(self.pool(x).flatten(1))


@pytest.mark.parametrize("labels", [IMAGENETTE * 5, [0] * 50])
def test_a_doubt_costs_no_test_error(labels):
    images = torch.rand(50, 3, 8, 8)
    images[:, 0] = torch.tensor(labels)[:, None, None] / 1000
    images[:5, 0] = 0.3  # five of fifty are wrong
    asked = {"images": None, "layers": "output", "variants": "original"}
    with collected_warnings() as told:
        record = bench(Reader(), dataset=(images, labels), **asked)
    assert (record.test_error.value, record.test_error.n) == (0.1, 50)
    doubts = [text for text in told if "are these the model's classes? --test-error gives" in text]
    assert (len(doubts), set(doubts) <= set(record.warnings)) == (int(max(labels) == 0), True)
    with collected_warnings() as told:
        bench(Reader(), dataset=(images, labels), test_error=0.2, **asked)
    assert not any("the model's classes?" in text for text in told)


def test_all_of_a_tensor_and_a_sample_by_seed_if_asked_for():
    assert load_images(IMAGES).indices == tuple(range(N))
    whole = load_images(IMAGES, images=N, seed=3)
    part = load_images((IMAGES, LABELS), images=6, seed=3)
    assert (sorted(whole.indices), part.selection) == (list(range(N)), "random")
    assert part.indices == whole.indices[:6] == load_images(Listed(list(IMAGES)), images=6, seed=3).indices
    assert part.labels == tuple(LABELS[i] for i in part.indices)
    assert torch.equal(shown(part), IMAGES[list(part.indices)])


def test_a_loader_is_read_once_in_its_order_and_only_as_far_as_needed():
    read = []

    class Batches:
        def __iter__(self):
            for start in range(0, N, 6):
                read.append(start)
                yield IMAGES[start : start + 6], LABELS[start : start + 6]

    sample = load_images(Batches(), images=8, seed=5)
    assert (sample.indices, sample.labels, sample.selection) == (tuple(range(8)), tuple(LABELS[:8]), "first")
    assert read == [0, 6]
    assert torch.equal(shown(sample, 3), IMAGES[:8])
    assert torch.equal(shown(load_images(sample.source, images=None)), IMAGES)  # goes on where it was
    assert read == [0, 6, 12, 18]
    with pytest.warns(DiffsensWarning, match="gave 20 images, not 30"):
        assert load_images(Batches(), images=30).selection == "all"


def test_a_loader_that_shuffles_shows_every_variant_the_same_images():
    sample = load_images(DataLoader(TensorDataset(IMAGES), batch_size=4, shuffle=True), images=None)
    with pytest.raises(UsageError, match="expected a floating-point tensor"):
        load_images(DataLoader(TensorDataset(torch.zeros(4, 3, 8, 10, dtype=torch.uint8)), batch_size=2))
    assert torch.equal(shown(sample, 3), shown(sample, 7))


def test_the_hash_is_over_the_bytes():
    one = load_images(IMAGES).sha256
    assert (
        one == load_images(IMAGES.clone()).sha256 == load_images([IMAGES[:5], IMAGES[5:]], images=None).sha256
    )
    changed = IMAGES.clone()
    changed[-1, -1, -1, -1] += 1e-6
    others = [changed, IMAGES.double(), IMAGES.flip(0), (IMAGES, LABELS), IMAGES.transpose(2, 3)]
    assert len({one, *(load_images(other).sha256 for other in others)}) == 1 + len(others)


class Noisy(Listed):
    def __getitem__(self, index):
        return self.items[index] + torch.rand(())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (7, "data of type int; expected a name, a tensor"),
        (
            IMAGES[0, 0],
            r"tensor: expected a floating-point tensor \(n, c, h, w\), got torch.float32 \(8, 10\)",
        ),
        (IMAGES.long(), r"got torch.int64 \(20, 3, 8, 10\)"),
        ((IMAGES, LABELS[:5]), "expected 20 class indices as labels, got list of 5"),
        ((IMAGES, torch.rand(N)), r"expected 20 class indices as labels, got torch.float32 \(20,\)"),
        ((IMAGES, LABELS, 1), "got tuple of 3"),
        (np.zeros((4, 3, 8, 10)), r"numpy ndarray: torch\.from_numpy\(images\)"),
        ([IMAGES, IMAGES[..., :5]], r"shapes \(3, 8, 10\) and \(3, 8, 5\)"),
        (Listed(["a", "b"]), r"Listed\[0\]: expected a PIL image or a tensor \(c, h, w\), got str"),
        (
            Listed([IMAGES[0], IMAGES[1, :1]]),
            r"Listed\[1\]: expected a tensor \(3, 8, 10\), as at 0, got a te",
        ),
        (Listed([IMAGES[0], Image.new("RGB", (8, 8))]), "got a PIL image"),
        (IMAGES[:1], "tensor has 1 image"),
    ],
)
def test_what_does_not_fit_is_named(data, message):
    with pytest.raises(UsageError, match=message):
        load_images(data, images=None)


def test_a_tensor_of_another_shape_than_the_models_input():
    with pytest.raises(UsageError, match=r"shape \(3, 8, 10\), the model takes \(1, 28, 28\)"):
        load_images(IMAGES).transform(plain_input(1, (28, 28)))


def test_what_belongs_to_named_sets_is_refused():
    with pytest.raises(UsageError, match="for data sets that are named"):
        load_images(IMAGES, split="test")


def test_a_failing_loader():
    def batches():
        yield IMAGES
        raise OSError("disk gone")

    with pytest.raises(MeasurementError, match="generator: the loader failed after 20 images: disk gone"):
        load_images(batches(), images=None)


def test_random_augmentation_is_found():
    sample = load_images(Noisy(list(IMAGES)), images=None)
    with pytest.raises(MeasurementError, match=r"Noisy\[0\] is not the same when read again"):
        shown(sample)


def test_pil_images_are_prepared_as_those_of_a_folder(make_folder):
    folder = load_images("folder", data_dir=make_folder(per_class=5), images=10, seed=2)
    whole = load_images("folder", data_dir=make_folder(per_class=5), images=None)
    items = [(whole.load(i), whole.labels[i]) for i in range(10)]
    given = load_images(Listed(items), images=10, seed=2)
    assert (given.indices, given.labels) == (folder.indices, folder.labels)
    assert torch.equal(shown(given), shown(folder))
    plain = load_images(Listed([image for image, _ in items]), images=10, seed=2)
    assert plain.labels is None
    grey = load_images(Listed(items), images=10, seed=2, channels=1)
    assert torch.equal(
        shown(grey, spec=plain_input(1, (8, 10))),
        shown(
            load_images("folder", data_dir=make_folder(per_class=5), images=10, seed=2, channels=1),
            spec=plain_input(1, (8, 10)),
        ),
    )


OWN = """
import torch
from timm_diffsens.data.source import ImageSource, Item, Origin

tensor = torch.arange(96.0).view(2, 3, 4, 4) / 96


def scaled(factor=1):
    return factor * tensor, [0, 1]


class Own(ImageSource):
    def __init__(self, request):
        super().__init__(Origin("whatever", request.split), 2)

    def inspect(self, index, channels):
        return Item(index, None, str(index))

    def image(self, index, channels):
        return tensor[index]

    def shape(self, channels):
        return (3, 4, 4)
"""


@pytest.mark.parametrize(
    ("attribute", "shown_as", "factor"),
    [
        ("tensor", "tensor", 1),
        ("scaled", "scaled", 1),
        ("scaled:factor=3", "scaled:factor=3", 3),
        ("Own", "Own", 1),
    ],
)
def test_somebody_elses_set_is_recorded_with_the_hash_of_its_source(attribute, shown_as, factor, tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    digest = hashlib.sha256(OWN.encode()).hexdigest()[:12]
    sample = load_images(f"{file}:{attribute}", images=None)
    assert sample.spec == f"own.py:{shown_as}@{digest}"
    expected = factor * (torch.arange(96.0).view(2, 3, 4, 4) / 96)
    assert torch.equal(shown(sample, spec=plain_input(3, (4, 4))), expected)


def test_an_entry_point_is_a_set_like_any_other(tmp_path, monkeypatch):
    (tmp_path / "own_sets.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    point = registry.importlib.metadata.EntryPoint("mine", "own_sets:scaled", "timm_diffsens.datasets")
    monkeypatch.setattr(registry.importlib.metadata, "entry_points", lambda group: [point])
    assert load_images("mine:factor=2", images=None).labels == (0, 1)
    assert "mine" in registry.names("datasets")
