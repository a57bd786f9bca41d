"""What the command line does where the machine refuses: room, a reader, address space, permission."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from board_factory import random_record

from timm_diffsens.results.records.store import write_record
from timm_diffsens.results.report import export

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /dev/full and limits")

QUICK = ["--no-pretrained", "--dataset", "scale1", "--images", "2", "--layers", "output"]
NARROW = 20 * 2**30  # bytes: enough for torch, not for the renderer's engine


@pytest.fixture
def board(tmp_path):
    for i in range(3):
        write_record(tmp_path / "records", random_record(f"net{i}", i, 3))
    return tmp_path


@pytest.fixture
def run(warm):
    """By a shell, which sets limits and closes streams."""

    def run_in_shell(*arguments: object, before: str = "", python=warm, **streams):
        script = f'{before} "$@"' if before.startswith("ulimit") else f'"$@" {before}'
        command = ["bash", "-c", script, "bash", *python, "-m", "timm_diffsens", *map(str, arguments)]
        return subprocess.run(command, capture_output=True, text=True, **streams)

    return run_in_shell


def only_error(done: subprocess.CompletedProcess) -> str:
    """The one line that is an error; nothing else speaks of what went wrong."""
    assert "Traceback" not in done.stderr
    assert "panicked" not in done.stderr
    (line,) = (line for line in done.stderr.splitlines() if line.startswith("error: "))
    return line


def test_a_board_without_address_space_for_figures_is_written_but_for_them(board, run):
    done = run("leaderboard", "--out", board, "--resamples", "100", before=f"ulimit -v {NARROW // 1024};")
    assert done.returncode == 1
    assert "figures cannot be drawn in an address space of 20 GiB (`ulimit -v`)" in only_error(done)
    assert {path.name for path in board.iterdir()} == {
        "records", "README.md", "index.html", "leaderboard.csv"
    }  # fmt: skip
    assert "net1" in done.stdout
    assert "not drawn on this machine" in (board / "index.html").read_text()


def test_a_record_without_address_space_for_its_figure_is_shown(board, tmp_path, run):
    """By a Python that imports everything inside of the limit."""
    figure, limit = tmp_path / "net1.png", f"ulimit -v {NARROW // 1024};"
    done = run("show", "net1", "--out", board, "--figure", figure, before=limit, python=[sys.executable])
    assert done.returncode == 1
    assert "figures cannot be drawn" in only_error(done)
    assert "R over depth" in done.stdout
    assert not figure.exists()


@pytest.mark.parametrize("form", ["svg", "png", "pdf"])
def test_under_a_limit_that_is_wide_enough_charts_are_the_same(form, monkeypatch):
    chart = export.alt.Chart(export.alt.Data(values=[{"a": 1}])).mark_point().encode(x="a:Q")
    free = export.render(chart, form)
    monkeypatch.setattr(export, "_address_space", lambda: 2**40)
    narrow = export.render(chart, form)
    assert narrow == free or (form == "pdf" and len(narrow) == len(free))  # a pdf has the time in it


@pytest.mark.parametrize("arguments", [["--version"], ["--help"], ["ls", "--help"], ["ls", "noises"], []])
def test_help_and_lists_on_a_full_disk_are_one_line(arguments, run):
    done = run(*arguments, before=">/dev/full")
    assert done.returncode == 1
    assert only_error(done) == "error: what was found cannot be printed: No space left on device"


@pytest.mark.parametrize(
    ("streams", "code"),
    [(">/dev/full", 1), (">&-", 0), ("<&- >&- 2>&-", 0), ("| true; exit ${PIPESTATUS[0]}", 1)],
)
def test_a_record_is_kept_whatever_becomes_of_the_output(tmp_path, streams, code, run):
    done = run("bench", "net/fc2", *QUICK, "--variants", "original", "--out", tmp_path, before=streams)
    assert done.returncode == code
    assert len(list((tmp_path / "records").rglob("*.json"))) == 1
    assert "Traceback" not in done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == (streams == ">/dev/full")


def test_ctrl_c_while_libraries_are_imported_ends_at_once(tmp_path):
    """A library that takes it for a missing part would go on without that part."""
    (tmp_path / "torch.py").write_text(
        "import os, signal, time\n"
        "try:\n    os.kill(os.getpid(), signal.SIGINT)\n    time.sleep(60)\n"
        "except BaseException:\n    pass\n"
    )
    path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    begin = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
    code = (
        begin
        + "import sys; sys.argv = ['diffsens', 'ls', 'models']; from timm_diffsens.cli import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True
    )
    assert done.returncode == 130
    assert only_error(done) == "error: interrupted"
    assert done.stderr.count("\n") == 1


# The superuser may read everything, but for what follows capset(2) with no capability.
UNPRIVILEGED = """
import ctypes, runpy, sys
ctypes.CDLL(None).capset((ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)())
runpy.run_module("timm_diffsens", run_name="__main__", alter_sys=True)
"""


def refused(command: list[str], folder: Path) -> subprocess.CompletedProcess:
    """What a command does that may not look into a folder."""
    folder.chmod(0)
    try:
        done = subprocess.run(command, capture_output=True, text=True)
    finally:
        folder.chmod(0o755)
    assert done.returncode == 2
    return done


@pytest.mark.parametrize("place", ["records", "records/imagenet"])
@pytest.mark.parametrize(
    "arguments", [["ls", "records"], ["validate"], ["leaderboard"], ["show", "net1"]], ids=lambda a: a[0]
)
def test_a_folder_that_may_not_be_read_is_not_an_empty_one(board, place, arguments, warm):
    closed = board / place
    done = refused([*warm, "-c", UNPRIVILEGED, *arguments, "--out", str(board)], closed)
    assert only_error(done) == f"error: cannot read the folder {closed}: permission denied"


@pytest.mark.parametrize("verb", ["show", "validate"])
def test_a_record_in_a_closed_folder(board, verb, warm):
    path = next(Path(board / "records").rglob("*.json"))
    done = refused([*warm, "-c", UNPRIVILEGED, verb, str(path)], path.parent)
    assert "permission denied" in only_error(done).lower()
