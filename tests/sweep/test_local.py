"""Workers on this machine: what is sent back, what is lost, and what is left after a kill."""

import errno
import json
import os
import random
import re
import signal
import subprocess
import time
from collections import Counter
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
from kills import (
    KilledSweep,
    children,
    command,
    done_in,
    is_alive,
    needs_proc,
    records_in,
    start,
    wait_until,
    workers_of,
)
from sweeps import TINY, Here, jobs, network, numbers

from timm_diffsens.errors import UsageError
from timm_diffsens.sweep.executors.local import Local
from timm_diffsens.sweep.run import sweep


def test_models_run_side_by_side_and_give_what_one_process_gives(tmp_path):
    """Of three, one raises and one takes its process with it."""
    kill = network(tmp_path, "kill", "import os; os.kill(os.getpid(), 9)")
    bad = network(tmp_path, "bad", 'raise ValueError("no good")')
    out, alone = tmp_path / "out", tmp_path / "alone"
    found = {o.model: o for o in sweep(jobs(out, kill, bad, "net/lenet"), Local(2))}
    assert (found[bad].status, found[bad].attempt) == ("failed", 1)
    assert (found[kill].status, found[kill].attempt) == ("lost", 3)
    assert "SIGKILL" in found[kill].message
    assert found["net/lenet"].status == "done"
    list(sweep(jobs(alone, "net/lenet"), Here()))
    assert numbers(out) == numbers(alone)
    lines = [json.loads(line) for line in (out / "errors.jsonl").read_text().splitlines()]
    assert sorted(line["model"] for line in lines) == sorted([bad, kill, kill, kill])


def test_leaving_early_ends_the_workers(tmp_path):
    slow = [network(tmp_path, f"slow{i}", "import time; time.sleep(600)") for i in range(2)]
    started = []
    running = Local(3).run(jobs(tmp_path, "net/lenet", *slow), lambda job: started.append(job.model))
    job, outcome = next(running)
    assert (job.model, outcome.status) == ("net/lenet", "done")
    assert len(started) == 3
    clock = time.monotonic()
    running.close()
    assert time.monotonic() - clock < 300


def test_a_process_that_cannot_be_started_is_tried_again(tmp_path, monkeypatch):
    def refused(process):
        monkeypatch.undo()
        raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    monkeypatch.setattr(BaseProcess, "start", refused)
    found = {o.model: o for o in sweep(jobs(tmp_path, "net/lenet", "net/simple"), Local(2))}
    assert {model: (o.status, o.attempt) for model, o in found.items()} == {
        "net/simple": ("done", 1),
        "net/lenet": ("done", 2),
    }
    (line,) = (tmp_path / "errors.jsonl").read_text().splitlines()
    assert "no process could be started: [Errno 11]" in json.loads(line)["message"]


def test_no_process_is_no_sweep():
    with pytest.raises(UsageError, match="--jobs"):
        Local(0)


# --- kills


def check_kills(folder: Path, models: list[str], workers: int, kinds: list[str]) -> dict[str, int]:
    """All these kills, in as many folders as it takes, each of which ends as one unbroken sweep."""
    assert all(outcome.status == "done" for outcome in sweep(jobs(folder / "whole", *models), Here()))
    whole = numbers(folder / "whole")
    assert len(whole) == len(models)
    draw, left, folders, sweeps = random.Random(0), list(reversed(kinds)), 0, 0
    while left:
        broken = KilledSweep(folder / f"broken{folders}", models, workers, left, draw)
        broken.run()
        assert numbers(broken.out) == whole
        folders, sweeps = folders + 1, sweeps + broken.sweeps
    return {**Counter(kinds), "folders": folders, "sweeps": sweeps}


@needs_proc
def test_a_killed_sweep_goes_on_where_it_was(tmp_path):
    done = check_kills(tmp_path, ["net/lenet", "test_resnet", "test_vit"], 2, ["worker", "sweep"])
    assert done["sweeps"] >= 2


@pytest.mark.slow
@needs_proc
def test_two_hundred_kills(tmp_path, record_property):
    weights = {"worker": 6, "sweep": 2, "server": 1, "all": 1}
    kinds = random.Random(1).choices(list(weights), list(weights.values()), k=200)
    for name, n in check_kills(tmp_path, TINY, 2, kinds).items():
        record_property(name, n)


@needs_proc
def test_a_disk_that_is_full_from_some_moment_on_ends_no_sweep(tmp_path, warm):
    """No process of the sweep can lengthen a file any more, while the second of three models is measured."""
    resource = pytest.importorskip("resource")
    wait = "import time; tries.touch(); "
    wait += "[time.sleep(0.05) for _ in iter(tries.with_suffix('.full').exists, True)]"
    waits, tries = network(tmp_path, "waits", wait), tmp_path / "waits.tries"
    kill = network(tmp_path, "kill", "import os; os.kill(os.getpid(), 9)")
    out, pipes = tmp_path / "out", {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = start(out, ["net/lenet", waits, kill], 1, **pipes)
    wait_until(tries.exists)
    assert done_in(out)
    servers = children(process.pid)
    for pid in (process.pid, *servers, *workers_of(process)):
        resource.prlimit(pid, resource.RLIMIT_FSIZE, (0, resource.prlimit(pid, resource.RLIMIT_FSIZE)[1]))
    (tmp_path / "waits.full").touch()
    said, told = process.communicate(timeout=600)
    assert process.returncode == 1
    assert "3 models: 1 done, 1 failed, 1 lost" in said
    assert re.search(rf"{re.escape(waits)}: OSError: cannot write .*: File too large", said)
    assert f"{kill}: LostWorker: the worker was ended by SIGKILL" in said
    assert told.count("warning: ") == 1
    assert "errors.jsonl: File too large; the sweep goes on" in told
    assert "error: cannot write" in told
    assert "Traceback" not in told
    assert len(records_in(out)) == 1
    again = [*warm, *command(out, ["net/lenet", waits], 1)[1:]]
    last = subprocess.run(again, capture_output=True, text=True)
    assert last.returncode == 0, last.stderr
    assert "2 models, 1 done before" in last.stderr


@needs_proc
def test_ctrl_c_leaves_everything_readable(tmp_path):
    slow = network(tmp_path, "slow", "import time; tries.touch(); time.sleep(600)")
    out, pipes = tmp_path / "out", {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    process = start(out, ["net/lenet", slow], 1, **pipes)
    wait_until((tmp_path / "slow.tries").exists)  # begun when the outcome of the first is counted
    workers = workers_of(process)
    process.send_signal(signal.SIGINT)
    said, told = process.communicate(timeout=600)
    assert process.returncode == 130
    assert said.startswith("1 model: 1 done\ninterrupted: 1 model left; the same command goes on\n")
    first, second, last = told.splitlines()
    assert first == "2 models"
    assert second.startswith("net/lenet: done, ")
    assert last == "error: interrupted"
    assert (out / "sweep.csv").read_text().splitlines()[1].startswith("net/lenet,done")
    assert len(records_in(out)) == 1
    assert workers
    assert not any(map(is_alive, workers))
