"""Every kind of data set spec: read where that needs no network, else up to its clear error."""

import builtins
import hashlib
import importlib.util
import io
import json
import pickle
import subprocess
import sys
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from timm_diffsens import registry
from timm_diffsens.data import source
from timm_diffsens.data.labels import match_labels
from timm_diffsens.data.loading import load_images
from timm_diffsens.errors import DiffsensWarning, MeasurementError, UsageError

CIFAR10 = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")


# ---- names


def test_every_kind_is_listed():
    assert registry.names("datasets") == [
        "dead-leaves",
        "cifar10",
        "imagenet",
        "scale1",
        "scale2",
        "folder",
        *(f"{prefix}/NAME" for prefix in ("torch", "hfds", "hfids", "wds", "tfds")),
    ]
    assert all(entry.help and "\n" not in entry.help for entry in registry.entries("datasets"))


def test_listing_them_imports_no_torch():
    code = "from timm_diffsens import registry; import sys; registry.entries('datasets')"
    code += "; print(sorted({'torch', 'timm', 'torchvision'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize(
    ("spec", "nearest"),
    [
        ("cifar", "did you mean cifar10"),
        ("Imagenet", "did you mean imagenet"),
        ("dead_leaves", "did you mean dead-leaves"),
        ("torch/cifar1", "did you mean torch/cifar10"),
        ("torch/../cifar10", "did you mean torch/"),
        ("nonsense", "`diffsens ls datasets` lists them"),
        ("", "`diffsens ls datasets` lists them"),
        ("/etc", "`diffsens ls datasets` lists them"),
    ],
)
def test_an_unknown_name_has_its_nearest(spec, nearest, tmp_path):
    with pytest.raises(UsageError, match=nearest):
        load_images(spec, data_dir=tmp_path)


@pytest.mark.parametrize("prefix", ["hfds", "hfids", "wds", "tfds"])
@pytest.mark.parametrize(
    "name", ["", "../x", "/etc/passwd", "a/../../b", "pipe:touch x", "a;b", "a b", "x.py"]
)
def test_a_name_cannot_be_a_path_or_a_command(prefix, name, tmp_path):
    with pytest.raises(UsageError, match="is no data set name"):
        load_images(f"{prefix}/{name}", data_dir=tmp_path)


@pytest.mark.parametrize("split", ["..", "../..", "/etc", "a/b", "pipe:x y", "$HOME", "~", ""])
def test_a_split_cannot_be_a_path_or_a_command(split, make_folder):
    with pytest.raises(UsageError, match="is no split name"):
        load_images("folder", data_dir=make_folder(), split=split)


@pytest.mark.parametrize(
    ("spec", "module", "package"),
    [
        ("hfds/owner/name", "datasets", "datasets"),
        ("hfids/name", "datasets", "datasets"),
        ("wds/name", "webdataset", "webdataset"),
        ("tfds/mnist", "tensorflow_datasets", "tensorflow-datasets"),
    ],
)
def test_a_missing_package_is_named(spec, module, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)  # so that importing it fails
    with pytest.raises(UsageError, match=f"pip install {package}"):
        load_images(spec, data_dir=tmp_path)


def test_old_versions_that_run_scripts_are_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    monkeypatch.setattr(source.importlib.metadata, "version", lambda name: "3.6.0")
    with pytest.raises(UsageError, match=r"needs datasets 4 or newer"):
        load_images("hfds/owner/name")


# ---- splits of a folder


@pytest.mark.parametrize(
    ("folders", "asked", "read"),
    [
        (("train", "val"), None, "val"),
        (("train", "validation"), "val", "validation"),
        (("train", "test"), None, "test"),
        (("train", "test"), "training", "train"),
        (("train", "val", "test"), "test", "test"),
        (("extra", "val"), None, "val"),
        (("small", "large"), "small", "small"),
        (("train", "dev"), "dev", "dev"),
    ],
)
def test_the_split_is_found(folders, asked, read, make_folder):
    root = make_folder(classes=[f"{folder}/{name}" for folder in folders for name in ("a", "b")])
    sample = load_images("folder", data_dir=root, split=asked, images=None)
    assert (sample.split, len(sample), sample.class_names) == (read, 6, ("a", "b"))


def test_class_folders_may_be_called_train_or_test(make_folder):
    sample = load_images("folder", data_dir=make_folder(classes=("car", "test", "train")), images=None)
    assert (sample.split, sample.class_names) == (None, ("car", "test", "train"))


@pytest.mark.parametrize(
    ("folders", "asked", "message"),
    [
        (("train/a", "test/a"), "val", "no sub-folder for the split 'val'; choose from test, train"),
        (("a", "b"), "train", "leave --split out"),
        (("train/a",), None, "holds the split train; ask for it with --split"),
        (
            ("train/a", "train/b", "dev/a", "dev/b"),
            None,
            "holds the split train and, beside it, dev; ask for one with --split",
        ),
    ],
)
def test_a_split_that_is_not_there(folders, asked, message, make_folder):
    with pytest.raises(UsageError, match=message):
        load_images("folder", data_dir=make_folder(classes=folders), split=asked)


# ---- CIFAR-10 and the other torchvision sets


def write_cifar10(folder: Path, monkeypatch: pytest.MonkeyPatch, per_file: int = 4) -> np.ndarray:
    """CIFAR-10's files with few random images; torchvision gets their checksums. Returns the test set."""
    from torchvision.datasets import CIFAR10 as Torchvision

    home = folder / Torchvision.base_folder
    home.mkdir(parents=True)
    rng = np.random.default_rng(0)

    def write(name: str, content: dict) -> list[str]:
        data = pickle.dumps(content)
        (home / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    def batch(name: str) -> list[str]:
        pixels = rng.integers(0, 256, (per_file, 3072), dtype=np.uint8)
        batches[name] = pixels.reshape(per_file, 3, 32, 32).transpose(0, 2, 3, 1)
        return write(name, {"data": pixels, "labels": [i % 10 for i in range(per_file)]})

    batches: dict[str, np.ndarray] = {}
    monkeypatch.setattr(Torchvision, "train_list", [batch(name) for name, _ in Torchvision.train_list])
    monkeypatch.setattr(Torchvision, "test_list", [batch(name) for name, _ in Torchvision.test_list])
    meta = write(Torchvision.meta["filename"], {"label_names": list(CIFAR10)})
    monkeypatch.setattr(Torchvision, "meta", {**Torchvision.meta, "md5": meta[1]})
    return batches["test_batch"]


@pytest.mark.parametrize("spec", ["cifar10", "torch/cifar10"])
def test_cifar10_as_torchvision_keeps_it(spec, tmp_path, monkeypatch):
    pixels = write_cifar10(tmp_path, monkeypatch)
    sample = load_images(spec, data_dir=tmp_path, images=None)
    assert (sample.spec, sample.split, len(sample), sample.note) == (spec, "test", 4, None)
    assert (sample.labels, sample.class_names) == ((0, 1, 2, 3), CIFAR10)
    assert match_labels(sample, 10, None)[0] == sample.labels
    assert match_labels(sample, 1000, None) == (None, "the data set has 10 classes, the model 1000")
    assert all((np.asarray(sample.load(i)) == pixels[i]).all() for i in range(4))
    assert len(load_images(spec, data_dir=tmp_path, images=None, split="train")) == 20
    assert load_images(spec, data_dir=tmp_path, images=None, split="val") == sample
    with pytest.raises(UsageError, match="unknown split 'tset'; did you mean test"):
        load_images(spec, data_dir=tmp_path, split="tset")


def test_a_changed_pickle_is_not_opened(tmp_path, monkeypatch):
    write_cifar10(tmp_path, monkeypatch)

    class Bomb:
        def __reduce__(self):
            return (builtins.open, (str(tmp_path / "ran"), "w"))

    (tmp_path / "cifar-10-batches-py" / "test_batch").write_bytes(pickle.dumps(Bomb()))
    with pytest.raises(UsageError, match="not found or corrupted; pass --download to fetch it, or another"):
        load_images("cifar10", data_dir=tmp_path)
    assert not (tmp_path / "ran").exists()


def test_pickles_of_an_old_torchvision_are_refused(tmp_path):
    (tmp_path / "MNIST" / "processed").mkdir(parents=True)
    (tmp_path / "MNIST" / "processed" / "test.pt").write_bytes(b"")
    with pytest.raises(UsageError, match=r"pickles of an old torchvision"):
        load_images("torch/mnist", data_dir=tmp_path)


@pytest.mark.parametrize("parent", [True, False])
def test_cifar10_as_an_image_folder(parent, make_folder):
    classes = [f"{split}/{name}" for split in ("train", "test") for name in CIFAR10] if parent else CIFAR10
    sample = load_images("cifar10", data_dir=make_folder(classes=classes, per_class=1), images=None)
    assert (len(sample), sample.class_names) == (10, CIFAR10)
    assert sample.split == ("test" if parent else None)
    assert "image folder, possibly re-encoded" in sample.note
    assert sample.title is None  # PNG keeps every pixel


def test_cifar10_that_went_through_jpeg_says_so(make_folder):
    root = make_folder(classes=CIFAR10, per_class=1)
    for path in sorted(root.glob("*/*.png")):
        Image.open(path).save(path.with_suffix(".jpg"))
        path.unlink()
    assert load_images("cifar10", data_dir=root, images=None).title == "CIFAR-10 (JPEG)"


def test_what_is_not_cifar10(make_folder, tmp_path):
    with pytest.raises(UsageError, match="is not CIFAR-10: it has 2 classes"):
        load_images("cifar10", data_dir=make_folder())
    with pytest.raises(UsageError, match=r"no CIFAR-10 in .* pass --download"):
        load_images("cifar10", data_dir=make_folder("flat", classes=("",)))
    with pytest.raises(UsageError, match="does not exist; pass --download"):
        load_images("cifar10", data_dir=tmp_path / "nowhere", split="test")


@pytest.mark.parametrize("spec", ["cifar10", "torch/cifar100", "torch/mnist"])
def test_a_torchvision_set_that_is_not_there(spec, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="pass --download to fetch it, or another --data-dir"):
        load_images(spec, data_dir=tmp_path / "empty")
    with pytest.raises(UsageError, match="needs --data-dir"):
        load_images(spec)


def test_a_download_without_a_network(tmp_path, capsys):
    with pytest.raises(UsageError, match=r"could not be opened: .* without a network, fetch it elsewhere"):
        load_images("cifar10", data_dir=tmp_path, download=True)
    assert capsys.readouterr().out == ""


def test_torchvisions_image_folder(make_folder):
    root = make_folder(per_class=50)
    (root / "a" / "007.png").write_text("no image")
    with pytest.warns(DiffsensWarning, match=r"1 of 100 images cannot be read .* a/007\.png"):
        sample = load_images("torch/image_folder", data_dir=root, images=100)
    assert (len(sample), sample.class_names, sample.skipped) == (99, ("a", "b"), ("a/007.png",))


# ---- shards


def write_shard(path: Path, labels: range, damaged: int | None = None) -> None:
    with tarfile.open(path, "w") as archive:
        for label in labels:
            buffer = io.BytesIO()
            Image.new("RGB", (8, 8), (label, 2 * label, 0)).save(buffer, format="PNG")
            image = b"no image" if label == damaged else buffer.getvalue()
            for suffix, data in (("png", image), ("cls", str(label).encode())):
                member = tarfile.TarInfo(f"{label:04d}.{suffix}")
                member.size = len(data)
                archive.addfile(member, io.BytesIO(data))


@pytest.fixture
def shards(tmp_path) -> Path:
    pytest.importorskip("webdataset")
    write_shard(tmp_path / "x-0.tar", range(60))
    write_shard(tmp_path / "x-1.tar", range(60, 120))
    return tmp_path


def test_a_stream_gives_its_first_images(shards):
    sample = load_images("wds/x", data_dir=shards, split="x-{0..1}.tar", images=70)
    assert (len(sample), sample.size, sample.selection) == (70, -1, "first")
    assert sample.indices == sample.labels == tuple(range(70))
    assert sample.class_names is None
    assert "class names unknown" in sample.note
    for i in (3, 65, 2):  # backwards too
        assert sample.load(i).getpixel((0, 0)) == (i, 2 * i, 0)
    assert load_images("wds/x", data_dir=shards, split="x-{0..1}.tar", images=70) == sample
    assert match_labels(sample, 1000, None)[0] == sample.labels
    assert match_labels(sample, 60, None) == (None, "the data set has a label 69, the model 60 classes")
    with pytest.warns(DiffsensWarning, match="gave 120 images, not 500"):
        load_images("wds/x", data_dir=shards, split="x-{0..1}.tar")


def test_damaged_images_of_a_stream_are_counted(shards):
    write_shard(shards / "x-1.tar", range(60, 120), damaged=70)
    with pytest.warns(DiffsensWarning, match="1 images of wds/x cannot be read|1 of 120"):
        sample = load_images("wds/x", data_dir=shards, split="x-{0..1}.tar", images=None)
    assert (len(sample), len(sample.skipped)) == (119, 1)
    with pytest.raises(MeasurementError, match="1 of 60 images of wds/x cannot be read, more than 1 %"):
        load_images("wds/x", data_dir=shards, split="x-1.tar", images=None)


@pytest.mark.parametrize(
    ("filename", "message"),
    [
        ("/etc/passwd", "lies outside --data-dir"),
        ("../x-0.tar", "lies outside --data-dir"),
        ("pipe:touch ran", "does not exist"),
        ("x-2.tar", "does not exist"),
    ],
)
def test_shards_stay_in_their_folder(filename, message, shards):
    split = {"name": "validation", "num_samples": 1, "filenames": [filename], "shard_lengths": [1]}
    (shards / "_info.json").write_text(json.dumps({"splits": {"validation": split}}))
    with pytest.raises(UsageError, match=message):
        load_images("wds/x", data_dir=shards)
    assert not list(shards.rglob("ran"))
    assert not Path("ran").exists()


def test_shards_are_asked_for_by_split(shards):
    with pytest.raises(UsageError, match=r"--split 'name-\{0000"):
        load_images("wds/x", data_dir=shards)
    with pytest.raises(UsageError, match="not URLs or commands"):
        load_images("wds/x", data_dir=shards, split="pipe:x.tar")
