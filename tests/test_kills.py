"""Commands that are stopped at a file operation, and done again: nothing is lost, nothing is left over."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from board_factory import random_record

from timm_diffsens.results.records.store import write_record

WALK = Path(__file__).parent / "walk.py"
# command -> file operations that it has at least, files that it leaves, every which a fast test tries
CASES = {"bench": (20, 3, 13), "sweep": (40, 8, 19), "train": (55, 3, 29), "leaderboard": (30, 5, 19)}
SLOW = {**CASES, "demo": (100, 9, 1)}

pytestmark = pytest.mark.skipif(not hasattr(sys, "addaudithook") or sys.platform == "win32", reason="forks")


def walk(python: list[str], case: str, folder: Path, every: int) -> dict:
    if case == "leaderboard":
        for i in range(6):
            write_record(folder / "given" / "records", random_record(f"net{i}", i, 4))
    command = [*python, str(WALK), case, str(folder), str(every)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def check(case: str, found: dict) -> None:
    operations, files, _ = SLOW[case]
    assert found["code"] == (1 if case == "sweep" else 0)  # one of its networks fails
    assert found["operations"] >= operations
    assert found["files"] >= files
    assert found["faults"] == []


@pytest.mark.parametrize("case", CASES)
def test_stopped_at_some_operations_and_done_again_the_files_are_the_same(tmp_path, case, warm):
    check(case, walk(warm, case, tmp_path, CASES[case][2]))


@pytest.mark.slow
@pytest.mark.parametrize("case", SLOW)
def test_stopped_at_every_operation_and_done_again_the_files_are_the_same(tmp_path, case, warm):
    found = walk(warm, case, tmp_path, 1)
    check(case, found)
    assert found["left by kills"] > 0  # so there was something to clear
