"""What is left when a writer dies, and when many write at once."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from record_factory import make_record

from timm_diffsens.errors import DiffsensError
from timm_diffsens.results.records.store import (
    find_record,
    iter_records,
    load_record,
    record_path,
    write_record,
)

PREAMBLE = f"""
import os, pathlib, signal, sys
sys.path.insert(0, {str(Path(__file__).parents[2])!r})
from record_factory import make_record
from timm_diffsens.results.records.store import write_record
folder = sys.argv[1]
"""

needs_signals = pytest.mark.skipif(os.name == "nt", reason="no SIGKILL")


def start(code: str, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-c", PREAMBLE + code, *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize(
    "fault", [OSError(5, "Input/output error"), KeyboardInterrupt()], ids=["EIO", "Ctrl-C"]
)
def test_a_fault_between_write_and_rename_leaves_the_old_file(tmp_path, monkeypatch, fault):
    path = write_record(tmp_path, make_record())
    before = path.read_bytes()

    def fail(*args, **kwargs):
        raise fault

    monkeypatch.setattr(os, "replace", fail)
    expected = DiffsensError if isinstance(fault, OSError) else KeyboardInterrupt
    with pytest.raises(expected):
        write_record(tmp_path, make_record(warnings=["new"]))
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


@needs_signals
def test_a_kill_between_write_and_rename_leaves_the_old_file(tmp_path):
    record = make_record()
    path = write_record(tmp_path, record)
    before = path.read_bytes()
    die = "os.replace = lambda *a, **k: os.kill(os.getpid(), signal.SIGKILL)\n"
    child = start(die + "write_record(folder, make_record(warnings=['new']))", tmp_path)
    child.communicate(timeout=600)
    assert child.returncode == -signal.SIGKILL
    assert path.read_bytes() == before
    left = [p for p in path.parent.iterdir() if p != path]
    assert [p.suffix for p in left] == [".tmp"], "the kill came after the temporary file was written"
    assert [p for p, _ in iter_records(tmp_path)] == [path]
    assert find_record(tmp_path, record.key) == path


@needs_signals
def test_the_next_writer_removes_what_killed_writers_left_and_nothing_else(tmp_path):
    path = write_record(tmp_path, make_record())
    wait = "os.fsync = lambda *a: (print('writing', flush=True), sys.stdin.read())\n"
    code = PREAMBLE + wait + "write_record(folder, make_record('slow'))"
    command = [sys.executable, "-c", code, str(tmp_path)]
    slow = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert slow.stdout.readline() == "writing\n"
    die = "os.fsync = lambda *a: os.kill(os.getpid(), signal.SIGKILL)\n"
    child = start(die + "write_record(folder, make_record(warnings=['new']))", tmp_path)
    child.communicate(timeout=600)
    others = [path.parent / name for name in (".notes.tmp", "0123456789ab.tmp", ".a.0123456789ab.tmp.bak")]
    for other in others:
        other.write_text("somebody else's")
    os.mkfifo(path.parent / ".pipe.0123456789ab.tmp")
    assert len(list(path.parent.glob(".*.json.*.tmp"))) == 2
    write_record(tmp_path, make_record(warnings=["newer"]))
    assert len(list(path.parent.glob(".*.json.*.tmp"))) == 1, "of the writer that is at work"
    slow.communicate()
    assert slow.returncode == 0
    assert not list(path.parent.glob(".*.json.*.tmp"))
    assert {record.model.spec for _, record in iter_records(tmp_path)} >= {"slow"}
    assert all(other.exists() for other in [*others, path.parent / ".pipe.0123456789ab.tmp"])


@needs_signals
@pytest.mark.parametrize("delay", [0.011, 0.037])
def test_a_kill_at_any_moment_leaves_a_whole_file(tmp_path, delay):
    one, two = make_record(), make_record(warnings=["new"])
    code = """
one, two = make_record(), make_record(warnings=["new"])
print("ready", flush=True)
while True:
    write_record(folder, one)
    write_record(folder, two)
"""
    path = write_record(tmp_path, one)
    child = start(code, tmp_path)
    assert child.stdout.readline() == "ready\n"
    time.sleep(delay)
    child.kill()
    child.communicate(timeout=600)
    assert load_record(path) in (one, two)


def test_sixteen_writers_lose_nothing(tmp_path):
    code = """
me = int(sys.argv[2])
for i in range(4):
    write_record(folder, make_record(f"own-{me}-{i}"))
    write_record(folder, make_record("shared", warnings=[f"by {me}"]))
"""
    children = [start(code, tmp_path, me) for me in range(16)]
    assert [child.wait(timeout=600) for child in children] == [0] * 16
    for child in children:
        child.stdout.close()
    found = dict(iter_records(tmp_path))
    assert not [fault for fault in found.values() if isinstance(fault, Exception)]
    assert {record.model.spec for record in found.values()} == {
        "shared",
        *(f"own-{me}-{i}" for me in range(16) for i in range(4)),
    }
    shared = found[record_path(tmp_path, make_record("shared"))]
    assert shared.warnings[0] in {f"by {me}" for me in range(16)}
    assert not list(tmp_path.rglob("*.tmp"))
