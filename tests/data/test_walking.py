"""Which files of a folder are images, of which class each is, and what is said about the rest."""

import contextlib
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from test_data_faults import text

from timm_diffsens.data import source
from timm_diffsens.data.loading import image_transform, load_images
from timm_diffsens.errors import DiffsensWarning, MeasurementError, UsageError
from timm_diffsens.schema.records import InputSpec


def read(root: Path, spec: str = "folder", **options):
    """All images of a folder, and the warnings, in one text."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sample = load_images(spec, data_dir=root, images=None, **options)
    return sample, "\n".join(str(each.message) for each in caught)


# ---- links, pipes, hidden folders


@pytest.mark.parametrize(
    "junk", [".git/objects", "a/.cache", "__macosx/a", "b/@eaDir", "lost+found", "$RECYCLE.BIN/a"]
)
def test_what_systems_leave_behind_is_no_class(junk, make_folder):
    make_folder(classes=(junk,))
    sample, said = read(make_folder())
    assert (len(sample), sample.class_names, said) == (6, ("a", "b"), "")


def test_resource_forks_are_no_images(make_folder):
    root = make_folder()
    for path in list(root.rglob("*.png")):
        path.with_name(f"._{path.name}").write_bytes(b"\x00\x05\x16\x07")
    assert len(read(root)[0]) == 6


@pytest.mark.parametrize("target", ["..", ".", "../..", "/", "../b/../a"])
def test_no_link_upwards_is_followed(target, make_folder):
    root = make_folder()
    (root / "a" / "loop").symlink_to(target)
    (root / "loop").symlink_to(target.replace("/a", "/b") if "a" in target else target)
    sample, _ = read(root)
    assert (len(sample), sample.class_names) == (6, ("a", "b"))


def test_folders_that_link_to_one_another(make_folder):
    root = make_folder()
    for one, other in ("ab", "ba"):
        (root / one / "other").symlink_to(root / other)
    sample, said = read(root)
    assert (sample.names[0], sample.labels) == ("a/000.png", (0, 0, 0, 1, 1, 1))
    assert "counts once" in said


def test_links_to_a_store_elsewhere_are_images(make_folder, tmp_path):
    store, root = make_folder("store", classes=("x", "y")), tmp_path / "set"
    root.mkdir()
    (root / "b").symlink_to(store / "x")
    (root / "a").mkdir()
    for path in (store / "y").iterdir():
        (root / "a" / path.name).symlink_to(path)
    sample, said = read(root)
    assert (sample.names[0], sample.names[3], sample.labels) == ("a/000.png", "b/000.png", (0, 0, 0, 1, 1, 1))
    assert said == ""


@pytest.mark.parametrize("link", [os.symlink, os.link])
def test_a_file_of_two_names_is_one_image(link, make_folder):
    root = make_folder()
    link(root / "b" / "000.png", root / "b" / "again.png")
    sample, said = read(root)
    assert (len(sample), said) == (6, "")
    link(root / "b" / "001.png", root / "a" / "b1.png")
    sample, said = read(root)
    assert len(sample) == 6
    assert "in two classes counts once" in said
    assert ("b/001.png" in sample.names) == (link is os.symlink)  # a link's target lies in b; names are equal


def test_pipes_sockets_and_devices_are_named_and_not_opened(make_folder):
    root = make_folder()
    os.mkfifo(root / "a" / "pipe.JPG")
    (root / "a" / "zero.png").symlink_to("/dev/zero")
    (root / "b" / "to a pipe.png").symlink_to("../a/pipe.JPG")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(os.path.relpath(root / "b" / "s.webp"))
        sample, said = read(root)
    assert (len(sample), sample.skipped) == (6, ())
    for each in (
        "a/pipe.JPG (a named pipe)",
        "zero.png (a device)",
        "to a pipe.png (a named pipe)",
        "a socket",
    ):
        assert each in said


def test_links_to_nothing_are_left_out_by_name_but_for_half_of_the_images(make_folder):
    root = make_folder()
    (root / "a" / "gone.png").symlink_to("nowhere.png")
    (root / "a" / "round.png").symlink_to("round.png")
    (root / "c").symlink_to("nowhere")
    sample, said = read(root)
    assert (len(sample), sample.skipped) == (6, ("a/gone.png", "a/round.png"))
    assert "c (a link that leads nowhere)" in said
    for k in range(5):
        (root / "b" / f"gone{k}.png").symlink_to("nowhere.png")
    with pytest.raises(MeasurementError, match=r"7 of 13 images .* more than half: a/gone.png"):
        read(root)


# ---- classes


@pytest.mark.parametrize(
    ("folders", "classes", "said"),
    [
        (("oak/leaf", "pine/leaf"), ("oak", "pine"), ""),
        (("oak", "oak/old/er", "pine/a/b/c"), ("oak", "pine"), ""),
        (("pics/oak", "pics/pine"), ("oak", "pine"), "the classes are the folders in 'pics'"),
        (("data/pics/oak", "data/pics/pine/a"), ("oak", "pine"), "the folders in 'data/pics'"),
        (("oak/a/b",), ("oak",), ""),
        (("oak/a", "oak/b", "pine/a"), ("oak", "pine"), ""),
        (("oak/a", "oak/b", "pine/a", "pine/b", "ash"), ("ash", "oak", "pine"), ""),
        (("oak", "oak/a", "oak/b", "pine", "pine/a", "pine/b"), ("oak", "pine"), ""),
        (("x2", "X10"), ("x2", "X10"), "class 0 is 'x2'; torchvision's ImageFolder sorts .* it is 'X10'"),
        (("b", "A"), ("A", "b"), ""),
        (("a", "B"), ("a", "B"), "torchvision's ImageFolder"),
        (("1²2", "²"), None, ""),
    ],
)
def test_classes_are_the_top_folders(folders, classes, said, make_folder):
    sample, warned = read(make_folder(classes=folders, per_class=2))
    classes = classes or tuple(sorted(folders))
    assert sample.class_names == classes
    assert all(
        classes[label] in name.split("/") for label, name in zip(sample.labels, sample.names, strict=True)
    )
    assert re.search(said or "^$", warned)


@pytest.mark.parametrize(
    "folders",
    [
        ("training_set", "test_set"),
        ("train_images", "val_images"),
        ("images", "masks"),
        ("training_set/training_set", "test_set/test_set"),
        ("pets/part1", "pets/part2", "pets/part3"),
    ],
)
def test_folders_with_the_same_classes_inside_are_no_classes(folders, make_folder):
    root = make_folder(classes=[f"{folder}/{name}" for folder in folders for name in ("cats", "dogs")])
    with pytest.raises(
        UsageError, match=r"same sub-folders of images \(cats, dogs\).* give one of them with"
    ):
        read(root)
    sample, _ = read(root / folders[0])
    assert sample.class_names == ("cats", "dogs")
    tops = tuple(sorted({folder.split("/")[0] for folder in folders}))
    assert read(root, "torch/folder")[0].class_names == tops  # where they are classes nevertheless


def test_top_folders_by_other_names_are_classes_whatever_they_hold(make_folder):
    root = make_folder(classes=[f"{top}/{name}" for top in ("cat", "dog") for name in ("a", "b")])
    sample, said = read(root)
    assert sample.class_names == ("cat", "dog")
    assert re.search(
        r"the classes are the top folders, cat, dog, each with the same sub-folders \(a, b\)", said
    )


def test_an_empty_class_keeps_the_labels_of_the_others(make_folder):
    root = make_folder(classes=("a", "c"))
    (root / "b").mkdir()
    (root / "b" / ".gitkeep").touch()
    (root / "notes").mkdir()
    text(root / "notes" / "read.me")
    sample, said = read(root)
    assert (sample.class_names, sample.labels) == (("a", "b", "c"), (0, 0, 0, 2, 2, 2))
    assert "class folders without a file: b;" in said
    assert "are no classes: notes" in said


def test_torchvisions_order_is_had_by_name(make_folder):
    from torchvision.datasets import ImageFolder

    root = make_folder(classes=("x2", "X10/b", "X10/a b", "X10"), per_class=2)
    theirs = ImageFolder(str(root))
    sample, said = read(root, "torch/folder")
    assert said == ""
    assert (list(sample.class_names), list(sample.labels)) == (theirs.classes, theirs.targets)
    assert list(sample.names) == [Path(path).relative_to(root).as_posix() for path, _ in theirs.samples]


# ---- splits


@pytest.mark.parametrize(
    ("folders", "split", "classes", "said"),
    [
        (("invalid", "valid"), None, ("invalid", "valid"), ""),
        (("invalid/x", "valid/x", "valid/y"), None, ("invalid", "valid"), ""),
        (("bus", "eval"), None, ("bus", "eval"), ""),
        (("bus", "val", "train"), None, ("bus", "train", "val"), ""),
        (("Train/a", "Train/b", "Val/a", "Val/b"), "Val", ("a", "b"), ""),
        (("set/train/a", "set/train/b", "set/test/a", "set/test/b"), "test", ("a", "b"), ""),
        (
            ("train/a", "train/b", "test/a", "test/b", "more/a"),
            "test",
            ("a", "b"),
            "more beside it passed over",
        ),
        (("extra/a", "val/a", "val/b"), "val", ("a", "b"), "extra beside it passed over"),
        (("eval", "train"), "eval", None, "'eval' .* is read as a split, and train beside it passed over"),
    ],
)
def test_splits_are_splits_where_that_is_what_they_are(folders, split, classes, said, make_folder):
    sample, warned = read(make_folder(classes=folders))
    assert (sample.split, sample.class_names) == (split, classes)
    assert re.search(said or "^$", warned)


def test_a_folder_of_notes_does_not_make_splits_classes(make_folder):
    root = make_folder(classes=("train/a", "train/b", "test/a", "test/b"))
    (root / "notes").mkdir()
    text(root / "notes" / "read.me")
    assert read(root)[0].split == "test"


# ---- what one image may cost


def test_the_header_tells_a_bomb_whatever_pillow_allows(make_folder, monkeypatch):
    root = make_folder()
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    Image.new("1", (65_000, 3_000)).save(root / "a" / "bomb.png")
    sample, said = read(root)
    assert (len(sample), sample.skipped) == (6, ("a/bomb.png",))
    assert "a/bomb.png (65000 x 3000: more than 67,108,864 pixels)" in said


def test_a_file_of_terabytes_is_not_read(make_folder):
    root = make_folder()
    with (root / "b" / "sparse.png").open("wb") as file:
        file.truncate(2**40)
    sample, said = read(root)
    assert sample.skipped == ("b/sparse.png",)
    assert "1,099,511,627,776 bytes" in said
    assert source.MAX_BYTES < 2**40


LONG = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parents[1])!r})
from peaks import peak
from PIL import Image
from timm_diffsens.data.loading import image_transform
from timm_diffsens.models.inputs import plain_input

for mode in ("center", "border", "squash"):
    spec = plain_input(3, (224, 224)).model_copy(update=dict(crop_mode=mode, crop_pct=0.875))
    transform = image_transform(spec)
    transform(Image.new("RGB", (300, 200)))
    before = peak()
    for size in ((3, 60_000), (60_000, 1), (1, 20_000)):
        assert transform(Image.new("RGB", size)).shape == (3, 224, 224)
    print((peak() - before) // 2**20)
"""


def test_a_very_long_image_costs_little():
    done = subprocess.run([sys.executable, "-c", LONG], capture_output=True, text=True)
    taken = [int(line) for line in done.stdout.split()]
    assert len(taken) == 3, done.stderr
    assert max(taken) < 64  # MiB


def test_what_the_network_sees_of_a_long_image_is_what_it_saw():
    from timm.data import create_transform

    rng = np.random.default_rng(0)
    coarse = Image.fromarray(rng.integers(0, 256, (3, 90, 3), dtype=np.uint8))
    for size in ((900, 30), (901, 30), (30, 900), (480, 30)):
        image = (coarse if size[0] > size[1] else coarse.transpose(Image.Transpose.ROTATE_90)).resize(size)
        spec = InputSpec(
            channels=3,
            height=32,
            width=32,
            mean=(0.0,) * 3,
            std=(1.0,) * 3,
            crop_pct=0.9,
            crop_mode="center",
            interpolation="bicubic",
        )
        whole = create_transform((3, 32, 32), interpolation="bicubic", mean=0.0, std=1.0, crop_pct=0.9)
        before, now = whole(image), image_transform(spec)(image)
        if size == (480, 30):
            assert torch.equal(now, before)
        # at most a shift by a pixel, where the resized length is odd in one case and even in the other
        step = max(before.diff(dim=axis).abs().max() for axis in (1, 2))
        assert (now - before).abs().max() <= step


# ---- names that are no UTF-8, through to the record


def test_any_file_name_comes_through_to_the_record(make_folder, tmp_path, warm):
    root = make_folder(per_class=60)
    odd = os.fsdecode(b"caf\xe9\xff")
    (root / "a").rename(root / odd)
    (root / "b" / "000.png").rename(root / "b" / f"{odd}\n.png")
    (root / "b" / "gone.png").symlink_to("nowhere" + odd)
    text(root / "b" / f"{odd}.png")
    out = tmp_path / "out"
    command = "bench test_resnet --no-pretrained --dataset folder --json --input-size 32 --images 122"
    options = ["--layers", "stages", "--variants", "original", "--out", str(out), "--data-dir", str(root)]
    done = subprocess.run([*warm, "-m", "timm_diffsens", *command.split(), *options], capture_output=True)
    assert done.returncode == 0, done.stderr
    (file,) = out.rglob("*.json")
    record = json.loads(file.read_text(encoding="utf-8"))
    assert record["data"]["classes"]["names"] == ["b", r"caf\udce9\udcff"]
    assert record["data"]["classes"]["count"] == 2
    assert sorted(record["data"]["skipped"]) == [r"b/caf\udce9\udcff.png", "b/gone.png"]
    assert any(r"caf\udce9\udcff.png" in warning for warning in record["warnings"])


# ---- random trees

NAMES = [
    "c10",
    "C9",
    "x.jpg",
    " a ",
    "a\nb",
    "ünï",
    "²",
    os.fsdecode(b"\xff\xfe"),
    "invalid",
    "__MACOSX",
    ".h",
    "e",
]


class Grown:
    """A random tree with two classes at least, and a folder outside that links may lead to."""

    def __init__(self, home: Path, seed: int) -> None:
        self.rng, self.home, self.count = random.Random(seed), home, 0
        self.split = self.rng.random() < 0.2
        self.top = home / "set"
        self.root = self.top / "val" if self.split else self.top
        outside = home / "outside" / "deep"
        for folder in (self.root / "cat", self.root / "dog", outside, outside.parent):
            folder.mkdir(parents=True, exist_ok=True)
            for _ in range(4):
                self.image(folder)
        if self.split:
            (self.top / "train" / "cat").mkdir(parents=True)
            self.image(self.top / "train" / "cat")
        self.folders, self.places = [self.root], [*self.top.rglob("*"), *(home / "outside").rglob("*"), home]
        for _ in range(self.rng.randrange(5, 30)):
            self.grow()

    def image(self, folder: Path) -> None:
        self.count += 1
        suffix = self.rng.choice([".png", ".PNG", ".bmp", ".jpg"])
        pixels = np.full((2, 2, 3), self.count % 256, np.uint8)
        stem = self.rng.choice([f"i{self.count}", os.fsdecode(b"\xe9") + f"{self.count}", f".{self.count}"])
        Image.fromarray(pixels).save(folder / f"{stem}{suffix}")

    def grow(self) -> None:
        rng = self.rng
        folders = [
            path for path in (self.root, *self.root.rglob("*")) if path.is_dir() and not path.is_symlink()
        ]
        folder = rng.choice(folders if rng.random() < 0.1 else folders[1:])
        name = rng.choice(NAMES) + rng.choice(["", "2"])
        kind = rng.choice(
            ["folder", "folder", "image", "image", "link", "link", "hard", "pipe", "text", "gone"]
        )
        path = folder / (name if kind in ("folder", "link") else f"{name}.png")
        if kind == "folder" and len(path.relative_to(self.root).parts) < 5:
            path.mkdir(exist_ok=True)
        elif kind == "image":
            self.image(folder)
        elif path.exists() or path.is_symlink():
            return
        elif kind == "link":
            target = rng.choice(self.places + folders)
            with contextlib.suppress(FileExistsError):
                (path.with_suffix(".png") if target.is_file() else path).symlink_to(target)
        elif kind == "hard":
            os.link(rng.choice([file for file in self.places if file.is_file()]), path)
        elif kind == "pipe":
            os.mkfifo(path)
        elif kind == "gone" and rng.random() < 0.3:
            path.symlink_to("nowhere")
        elif kind == "text":
            text(path.with_suffix(".txt"))


def hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"


def paths_to_images(root: Path) -> dict[tuple[int, int], list[tuple[bool, str]]]:
    """Every path to every image, by recursion: file -> (whether by a link, path)."""
    found: dict[tuple[int, int], list[tuple[bool, str]]] = {}

    def look(folder: Path, shown: str, linked: bool, chain: tuple[Path, ...]) -> None:
        for path in folder.iterdir():
            by_link, at = linked or path.is_symlink(), f"{shown}{path.name}"
            if path.is_dir():
                target = path.resolve()
                up = any(target in (place, *place.parents) for place in (root.resolve(), folder.resolve()))
                if not hidden(path.name) and target not in chain and not (up and path.is_symlink()):
                    look(path, f"{at}/", by_link, (*chain, target))
            elif path.is_file() and path.name.lower().endswith((".png", ".bmp", ".jpg")):
                status = path.stat()
                found.setdefault((status.st_dev, status.st_ino), []).append((by_link, at))

    look(root, "", False, (root.resolve(),))
    return found


def check(home: Path, seed: int) -> None:
    grown = Grown(home, seed)
    expected = paths_to_images(grown.root)
    sample, _ = read(grown.top)
    assert sample.split == ("val" if grown.split else None)
    assert len(sample) == len(expected)
    counted = {}
    for position, name in enumerate(sample.names):
        status = (grown.root / name).stat()
        counted[status.st_dev, status.st_ino] = position
        paths = expected[status.st_dev, status.st_ino]
        direct = [path for by_link, path in paths if not by_link]
        assert name in (direct or [path for _, path in paths])
    assert counted.keys() == expected.keys()
    if any("/" not in name for name in sample.names):
        assert sample.labels is None
        return
    tops = [name.split("/")[0] for name in sample.names]
    assert [sample.class_names[label] for label in sample.labels] == tops
    empty = set()
    for top in grown.root.iterdir():
        inside = [file for _, _, files in os.walk(top) for file in files if not file.startswith(".")]
        links = [path for path in (top, *top.rglob("*")) if path.is_symlink()]
        if top.is_dir() and not hidden(top.name) and not inside and not links:
            empty.add(top.name)
    extra = set(sample.class_names) - set(tops)
    assert {name for name in empty if name not in tops} <= extra
    assert all(name in empty or list((grown.root / name).rglob("*")) for name in extra - empty)


class HangsError(Exception):
    pass


@pytest.mark.parametrize(
    "seeds", [range(50), pytest.param(range(50, 500), marks=pytest.mark.slow)], ids=["50", "500"]
)
def test_count_and_labels_of_random_trees_equal_an_independent_walk(seeds, tmp_path):
    def late(*_):
        raise HangsError

    before = signal.signal(signal.SIGALRM, late)
    try:
        for seed in seeds:
            signal.alarm(60)
            try:
                check(tmp_path / str(seed), seed)
            except (AssertionError, UsageError, MeasurementError, HangsError) as error:
                raise AssertionError(f"tree {seed}") from error
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def test_the_warnings_are_those_of_this_package(make_folder):
    root = make_folder()
    (root / "c").symlink_to("a")
    with pytest.warns(DiffsensWarning, match="counts once"):
        load_images("folder", data_dir=root, images=None)
