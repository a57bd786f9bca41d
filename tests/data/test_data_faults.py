"""What is wrong with a folder is told, image by image, and nothing is replaced in silence."""

import os
import shutil
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from timm_diffsens.data.loading import load_images
from timm_diffsens.errors import DiffsensWarning, MeasurementError, UsageError


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def text(path: Path) -> None:
    path.write_text("this is no image")


def empty(path: Path) -> None:
    path.write_bytes(b"")


def broken_chunk(path: Path) -> None:
    """PIL raises SyntaxError, not OSError, for some of these."""
    Image.new("RGB", (16, 16)).save(path, format="PNG")
    data = bytearray(path.read_bytes())
    data[data.index(b"IDAT") + 6] ^= 0xFF
    path.write_bytes(data)


def dangling(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("gone.jpg"))


@pytest.fixture
def hundred(make_folder) -> Path:
    return make_folder(per_class=50, suffix=".jpg")


@pytest.mark.parametrize("damage", [truncate, text, empty, broken_chunk, dangling])
def test_one_in_a_hundred_is_named_skipped_and_counted(damage, hundred):
    whole = load_images("folder", data_dir=hundred, images=100)
    damage(hundred / "a" / "007.jpg")
    with pytest.warns(DiffsensWarning, match=r"1 of 100 images cannot be read and are left out: a/007\.jpg"):
        sample = load_images("folder", data_dir=hundred, images=100)
    assert sample.skipped == ("a/007.jpg",)
    assert (len(sample), sample.size) == (99, 100)
    assert "a/007.jpg" not in sample.names
    # nothing took its place, and the others kept their dataset index, so their random streams
    gone = whole.names.index("a/007.jpg")
    assert sample.names == whole.names[:gone] + whole.names[gone + 1 :]
    assert sample.indices == whole.indices[:gone] + whole.indices[gone + 1 :]


def test_more_than_one_percent_fails(hundred):
    truncate(hundred / "a" / "007.jpg")
    text(hundred / "b" / "001.jpg")
    message = r"2 of 100 images of folder cannot be read, more than 1 %: .*a/007\.jpg \(.*b/001\.jpg \("
    with pytest.raises(MeasurementError) as raised:
        load_images("folder", data_dir=hundred, images=None)
    assert raised.match(message)


def test_the_share_is_of_the_sample(hundred):
    text(hundred / "a" / "000.jpg")
    (hundred / "b" / "049.jpg").unlink()
    with pytest.raises(MeasurementError, match="1 of 99"):
        load_images("folder", data_dir=hundred, images=None)


def test_only_sampled_images_count(hundred):
    sample = load_images("folder", data_dir=hundred, images=20)
    for name in {path.relative_to(hundred).as_posix() for path in hundred.rglob("*.jpg")} - set(sample.names):
        text(hundred / name)
    assert load_images("folder", data_dir=hundred, images=20) == sample


def test_an_image_that_goes_away_afterwards(make_folder):
    root = make_folder()
    sample = load_images("folder", data_dir=root, images=None)
    (root / "a" / "001.png").unlink()
    with pytest.raises(MeasurementError, match=r"a/001\.png can no longer be read"):
        sample.load(1)


def test_no_readable_image(make_folder):
    root = make_folder()
    for path in root.rglob("*.png"):
        text(path)
    with pytest.raises(UsageError, match=r"folder has no readable image: .*a/000\.png .* and 1 more"):
        load_images("folder", data_dir=root, images=6)


def test_an_empty_folder(tmp_path):
    with pytest.raises(UsageError, match=r"Found 0 images.*expected images \(\.png"):
        load_images("folder", data_dir=tmp_path)


def test_a_single_image(make_folder):
    with pytest.raises(UsageError, match="at least 2"):
        load_images("folder", data_dir=make_folder(classes=("a",), per_class=1), images=2)


def test_a_missing_folder_and_a_file(tmp_path):
    with pytest.raises(UsageError, match=r"needs --data-dir"):
        load_images("folder")
    with pytest.raises(UsageError, match=r"nowhere' does not exist"):
        load_images("folder", data_dir=tmp_path / "nowhere")
    (tmp_path / "set.tar").write_bytes(b"")
    with pytest.raises(UsageError, match=r"set\.tar' is a file; expected a folder"):
        load_images("folder", data_dir=tmp_path / "set.tar")


@pytest.mark.skipif(os.name != "posix", reason="file permissions as on Unix")
@pytest.mark.parametrize("locked", ["", "b"])
def test_an_unreadable_folder(locked, make_folder):
    # a class folder that is passed over in silence would shift the labels of those after it
    with tempfile.TemporaryDirectory() as place:  # pytest's own folders are closed to other users
        Path(place).chmod(0o755)
        root = Path(shutil.copytree(make_folder(classes=("a", "b", "c")), Path(place) / "set"))
        (root / locked).chmod(0o000)
        user = os.geteuid()
        try:
            if user == 0:
                os.seteuid(65534)  # root may read everything
            with pytest.raises(UsageError, match=r"--data-dir .* cannot be read: Permission denied"):
                load_images("folder", data_dir=root)
        finally:
            if user == 0:
                os.seteuid(0)
            (root / locked).chmod(0o755)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 1}, "--images must be at least 2"),
        ({"images": 0}, "--images must be at least 2"),
        ({"seed": -1}, "--seed must not be negative"),
        ({"channels": 4}, "1 or 3 channels, the model wants 4"),
        ({"data_dir": "/tmp"}, "takes no --data-dir; to read '/tmp' add --dataset folder"),
        ({"split": "test"}, "no splits"),
    ],
)
def test_wrong_arguments(arguments, message):
    with pytest.raises(UsageError, match=message):
        load_images(**arguments)
