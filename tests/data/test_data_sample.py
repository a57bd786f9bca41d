"""Which images are chosen, how they are hashed, and what their batches hold."""

import shutil
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from timm_diffsens.data.loading import image_transform, load_images, match_labels
from timm_diffsens.errors import DiffsensWarning, UsageError
from timm_diffsens.schema.records import InputSpec


def to_tensor(image: Image.Image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image).copy()).permute(2, 0, 1)


def background_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("diffsens-batches")]


# ---- the sample


def test_a_labelled_folder(make_folder):
    root = make_folder(per_class=4, classes=("b", "a", "c10", "c9"))
    with pytest.warns(DiffsensWarning, match=r"natural order: class 2 is 'c9'; .* it is 'c10'"):
        sample = load_images("folder", data_dir=root, images=None)
    assert (len(sample), sample.size, sample.selection, sample.split) == (16, 16, "all", None)
    assert sample.class_names == ("a", "b", "c9", "c10")
    assert sample.indices == tuple(range(16))
    assert sample.names[:5] == ("a/000.png", "a/001.png", "a/002.png", "a/003.png", "b/000.png")
    assert sample.labels == (0,) * 4 + (1,) * 4 + (2,) * 4 + (3,) * 4
    for i, name in enumerate(sample.names):
        assert (np.asarray(sample.load(i)) == np.asarray(Image.open(root / name))).all()


def test_a_flat_folder_has_no_labels(make_folder):
    sample = load_images("folder", data_dir=make_folder(classes=("",), per_class=5), images=5)
    assert (sample.labels, sample.class_names) == (None, None)
    assert sorted(sample.names) == [f"{i:03d}.png" for i in range(5)]
    assert match_labels(sample, 10, None) == (None, "the images have no labels")


def test_images_beside_the_class_folders_take_the_labels_away(make_folder):
    root = make_folder(classes=("a", "b", ""))
    with pytest.warns(DiffsensWarning, match="3 images lie in .* no class"):
        sample = load_images("folder", data_dir=root, images=None)
    assert (len(sample), sample.labels) == (9, None)


def test_smaller_samples_are_prefixes(make_folder):
    root = make_folder(per_class=30)
    whole = load_images("folder", data_dir=root, images=60, seed=3)
    assert sorted(whole.indices) == list(range(60))
    assert whole.selection == "all"
    for n in (2, 7, 31):
        part = load_images("folder", data_dir=root, images=n, seed=3)
        assert part.selection == "random"
        assert part.indices == whole.indices[:n]
        assert part.names == whole.names[:n]
        assert part.labels == whole.labels[:n]
    assert load_images("folder", data_dir=root, images=60, seed=4).indices != whole.indices


def test_the_same_seed_gives_the_same_sample(make_folder):
    root = make_folder(per_class=10)
    first, second = (load_images("folder", data_dir=root, images=8, seed=1) for _ in range(2))
    assert first == second


def test_the_default_sample_never_changes():
    # a published record says "dead-leaves, seed 0, 500 images": these are they
    sample = load_images()
    assert (len(sample), sample.spec, sample.size, sample.selection) == (500, "dead-leaves", 50_000, "random")
    assert sample.indices[:4] == (23145, 46488, 28245, 16317)
    assert sample.labels is None
    assert "synthetic" in sample.note


def test_fewer_images_than_asked_for_warns(make_folder):
    with pytest.warns(DiffsensWarning, match="has 6 images, not 500"):
        sample = load_images("folder", data_dir=make_folder())
    assert (len(sample), sample.selection) == (6, "all")


# ---- the hash


def test_the_hash_does_not_depend_on_the_place(make_folder, tmp_path):
    root = make_folder()
    moved = tmp_path / "else" / "where"
    shutil.copytree(root, moved)
    ours, theirs = (load_images("folder", data_dir=place, images=6) for place in (root, moved))
    assert ours.sha256 == theirs.sha256


@pytest.mark.parametrize("change", ["bytes", "label", "name", "order", "fewer"])
def test_the_hash_changes_with(change, make_folder):
    root = make_folder()
    before = load_images("folder", data_dir=root, images=None)
    images = None
    file = root / "a" / "000.png"
    if change == "bytes":
        file.write_bytes(file.read_bytes() + b"\0")  # the same pixels, other bytes
    elif change == "label":
        (root / "a").rename(root / "z")
        (root / "b").rename(root / "a")
        (root / "z").rename(root / "b")
    elif change == "name":
        file.rename(root / "a" / "000b.png")
    elif change == "order":
        images = 6  # the same images as drawn by the seed
    else:
        file.unlink()
    after = load_images("folder", data_dir=root, images=images)
    assert after.sha256 != before.sha256
    if change == "order":
        assert set(after.names) == set(before.names)


def test_the_hash_of_drawn_images_follows_the_drawing(monkeypatch):
    from timm_diffsens.data.sets import dead_leaves

    before = load_images(images=5)
    assert before.sha256 == load_images(images=5).sha256
    monkeypatch.setattr(dead_leaves, "STRETCH", 2.9)
    assert load_images(images=5).sha256 != before.sha256


# ---- modes


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "1", "I;16"])
def test_every_mode_is_converted(mode, tmp_path):
    suffix = ".tif" if mode == "CMYK" else ".png"
    grey = np.linspace(0, 255, 64, dtype=np.uint8).reshape(8, 8)
    for i in range(2):
        if mode == "I;16":
            image = Image.fromarray(grey.astype(np.uint16) * 257)
        else:
            image = Image.fromarray(grey).convert(mode)
        image.save(tmp_path / f"{i}{suffix}", **({"transparency": b"\x80"} if mode == "P" else {}))
    colour = load_images("folder", data_dir=tmp_path, images=2).load(0)
    plain = load_images("folder", data_dir=tmp_path, images=2, channels=1).load(0)
    assert (colour.mode, plain.mode, colour.size) == ("RGB", "L", (8, 8))
    if mode not in ("1", "CMYK", "P"):
        assert (np.asarray(plain) == grey).all()
        assert (np.asarray(colour) == grey[..., None]).all()


# ---- batches


@pytest.mark.parametrize("batch_size", [1, 7, 20, 64])
def test_batches_equal_one_shot(batch_size, make_folder):
    sample = load_images("folder", data_dir=make_folder(per_class=10), images=20)
    whole = torch.stack([to_tensor(sample.load(i)) for i in range(20)])
    batches = list(sample.batches(to_tensor, batch_size))
    assert [i for positions, _ in batches for i in positions] == list(range(20))
    assert [len(positions) for positions, _ in batches[:-1]] == [batch_size] * (len(batches) - 1)
    assert torch.equal(torch.cat([tensor for _, tensor in batches]), whole)
    assert not background_threads()


def test_the_next_batch_is_prepared_meanwhile_and_no_more(make_folder):
    sample = load_images("folder", data_dir=make_folder(per_class=10), images=20)
    made: list[str] = []
    three = threading.Event()

    def transform(image: Image.Image) -> torch.Tensor:
        made.append(threading.current_thread().name)
        if len(made) == 8:
            three.set()
        return to_tensor(image)

    batches = sample.batches(transform, 4)
    assert not made
    next(batches)
    assert three.wait(5)  # the second batch, while nothing was asked for
    assert not threading.Event().wait(0.1)
    assert len(made) == 8  # not the third
    assert len(set(made)) == 1
    assert made[0] != threading.current_thread().name
    batches.close()


def test_the_thread_ends_after_an_early_close(make_folder):
    sample = load_images("folder", data_dir=make_folder(per_class=10), images=20)
    batches = sample.batches(to_tensor, 3)
    next(batches)
    assert background_threads()
    batches.close()
    assert not background_threads()


def test_an_exception_comes_through_and_ends_the_thread(make_folder):
    sample = load_images("folder", data_dir=make_folder(per_class=10), images=20)

    def transform(image: Image.Image, calls: list[int] = []) -> torch.Tensor:  # noqa: B006
        calls.append(1)
        if len(calls) == 8:
            raise ZeroDivisionError("the eighth")
        return to_tensor(image)

    batches = sample.batches(transform, 3)
    assert [next(batches)[0], next(batches)[0]] == [[0, 1, 2], [3, 4, 5]]
    with pytest.raises(ZeroDivisionError, match="the eighth"):
        next(batches)
    assert not background_threads()


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_below_one_is_refused_at_once(batch_size):
    with pytest.raises(UsageError, match="at least 1"):
        load_images(images=2).batches(to_tensor, batch_size)


# ---- preprocessing


@pytest.mark.parametrize(("channels", "height", "width"), [(3, 32, 48), (1, 20, 20)])
def test_the_transform_is_the_models_own(channels, height, width):
    spec = InputSpec(
        channels=channels,
        height=height,
        width=width,
        mean=(0.5,) * channels,
        std=(0.25,) * channels,
        crop_pct=1.0,
        crop_mode="center",
        interpolation="bilinear",
    )
    sample = load_images(images=2, channels=channels)
    tensor = image_transform(spec)(sample.load(0))
    assert tensor.shape == (channels, height, width)
    white = image_transform(spec)(Image.new(sample.load(0).mode, (64, 64), "white"))
    assert torch.allclose(white, torch.tensor(2.0))  # (1 - 0.5) / 0.25


# ---- labels


WORDNET = ["n00000001", "n00000002", "n00000003", "n00000004"]


def test_labels_of_the_same_number_of_classes(make_folder):
    sample = load_images("folder", data_dir=make_folder(), images=None)
    assert match_labels(sample, 2, None) == ((0, 0, 0, 1, 1, 1), None)
    labels, reason = match_labels(sample, 2, WORDNET[:2])  # equal counts of other classes are no match
    assert labels is None
    assert "WordNet ids" in reason
    assert match_labels(sample, 1000, None) == (None, "the folder has 2 classes, the model 1000")
    assert match_labels(sample, None, None) == (None, "the model has no classifier")


def test_wordnet_folders_are_matched_by_name(make_folder):
    root = make_folder(per_class=2, classes=("n00000004", "n00000002"))
    sample = load_images("folder", data_dir=root, images=None)
    assert sample.labels == (0, 0, 1, 1)
    assert match_labels(sample, 4, WORDNET) == ((1, 1, 3, 3), None)
    assert match_labels(sample, 4, None) == (None, "the folder has 2 classes, the model 4")
    assert match_labels(sample, 2, WORDNET[:2]) == (
        None,
        "the folder has the class n00000004, which the model does not have",
    )


def test_real_images(real_data):
    from timm.data import ImageNetInfo

    folder = real_data.folder("imagenet-sample")
    sample = load_images("imagenet", data_dir=folder, images=40, seed=5)
    names = ImageNetInfo("imagenet-1k").label_names()
    labels, reason = match_labels(sample, 1000, names)
    assert reason is None
    assert [names[label] for label in labels] == [Path(name).parts[0] for name in sample.names]
    assert labels == sample.labels  # all 1,000 class folders are there
    assert not sample.skipped
    assert all(min(sample.load(i).size) == 256 for i in range(3))
