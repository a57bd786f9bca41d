"""The wheel and the sdist, built from the working tree, hold what they should."""

import shutil
import subprocess
import sys
import tarfile
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

import timm_diffsens

pytest.importorskip("hatchling")  # of the `test` extra

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = ("diffsens", "timm-diffsens")


def built(kind: str, source: Path, folder: Path) -> Path:
    """The file that the build backend makes of a source tree; `kind`: sdist or wheel."""
    command = [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", str(folder)]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (file,) = folder.iterdir()
    return file


@pytest.fixture(scope="module")
def unpacked_sdist(tmp_path_factory) -> Path:
    file = built("sdist", ROOT, tmp_path_factory.mktemp("sdist"))
    folder = tmp_path_factory.mktemp("unpacked")
    with tarfile.open(file) as archive:
        archive.extractall(folder, filter="data")
    (top,) = folder.iterdir()
    return top


@pytest.fixture(scope="module")
def unpacked_wheel(tmp_path_factory) -> Path:
    file = built("wheel", ROOT, tmp_path_factory.mktemp("wheel"))
    folder = tmp_path_factory.mktemp("installed")
    with zipfile.ZipFile(file) as archive:
        archive.extractall(folder)
    return folder


def files(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def files_in_the_repository(tmp_path: Path) -> set[str]:
    """What git would track here: with a repository of its own, as a copy and an unpacked sdist have none."""
    if not shutil.which("git"):
        pytest.skip("needs git")
    git = ["git", f"--git-dir={tmp_path}", f"--work-tree={ROOT}"]
    subprocess.run([*git, "init", "--quiet"], check=True, capture_output=True)
    command = [*git, "ls-files", "-z", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
    return set(listed.stdout.strip("\0").split("\0")) - {"PKG-INFO"}


def test_the_sdist_holds_the_repository(unpacked_sdist, tmp_path):
    assert files(unpacked_sdist) - {"PKG-INFO"} == files_in_the_repository(tmp_path)


def test_the_wheel_holds_the_package(unpacked_wheel, tmp_path):
    expected = {name for name in files_in_the_repository(tmp_path) if name.startswith("timm_diffsens/")}
    packed = {name for name in files(unpacked_wheel) if not name.partition("/")[0].endswith(".dist-info")}
    assert packed == expected


def test_the_sdist_builds_the_same_wheel(unpacked_sdist, unpacked_wheel, tmp_path):
    with zipfile.ZipFile(built("wheel", unpacked_sdist, tmp_path)) as archive:
        assert set(archive.namelist()) == files(unpacked_wheel)
        for name in archive.namelist():
            assert archive.read(name) == (unpacked_wheel / name).read_bytes(), name


@pytest.mark.parametrize("script", SCRIPTS)
def test_the_scripts_of_the_wheel_run(unpacked_wheel, script):
    (distribution,) = metadata.distributions(path=[str(unpacked_wheel)])
    points = distribution.entry_points.select(group="console_scripts")
    assert {point.name for point in points} == set(SCRIPTS)
    module, _, function = next(point.value for point in points if point.name == script).partition(":")
    code = f"import sys; sys.path.insert(0, {str(unpacked_wheel)!r}); sys.argv = [{script!r}, '--version']\n"
    code += f"from {module} import {function}; sys.exit({function}())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=unpacked_wheel)
    assert done.returncode == 0, done.stderr
    assert timm_diffsens.__version__ in done.stdout
