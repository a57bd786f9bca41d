"""One process a model on this machine: what is sent back, what is lost, and what is left after a kill."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from sweeps import TINY, Here, jobs, network, numbers

from timm_diffsens.errors import UsageError
from timm_diffsens.results.store import iter_records
from timm_diffsens.sweep.jobs import outcome_folder
from timm_diffsens.sweep.local import Local
from timm_diffsens.sweep.outcomes import read_outcome
from timm_diffsens.sweep.run import sweep

CHILDREN = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
needs_proc = pytest.mark.skipif(not CHILDREN.exists(), reason="finds worker processes through /proc")


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
    assert time.monotonic() - clock < 30


def test_no_process_is_no_sweep():
    with pytest.raises(UsageError, match="--jobs"):
        Local(0)


# --- kills


def command(out: Path, models: list[str], workers: int) -> list[str]:
    options = ["--no-pretrained", "--images", "2", "--layers", "output", "--variants", "original"]
    more = ["--threads", "1", "--jobs", str(workers), "--out", str(out)]
    return [sys.executable, "-m", "timm_diffsens", "sweep", *models, *options, *more]


def start(out: Path, models: list[str], workers: int, stdout: int = subprocess.DEVNULL) -> subprocess.Popen:
    quiet = {"stdout": stdout, "stderr": subprocess.DEVNULL}
    return subprocess.Popen(
        command(out, models, workers),
        **quiet,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def is_alive(pid: int) -> bool:
    """Whether there is such a process that has not ended; one that nobody waits for stays in the list."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def workers_of(process: subprocess.Popen) -> list[int]:
    """Processes that do a model: forked from the one that the sweep has started for that."""

    def children(pid: int) -> list[int]:
        try:
            return [int(part) for part in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
        except OSError:
            return []

    return [worker for child in children(process.pid) for worker in children(child)]


def records_in(out: Path) -> dict[Path, bytes]:
    """Every record as it lies there; fails if one cannot be read."""
    folder = out / "records"
    found = dict(iter_records(folder)) if folder.exists() else {}
    assert not [fault for fault in found.values() if isinstance(fault, Exception)]
    return {path: path.read_bytes() for path in found}


def done_in(out: Path) -> set[str]:
    outcomes = [read_outcome(path) for path in outcome_folder(out, "measured").glob("*.json")]
    assert None not in outcomes, "an outcome file cannot be read"
    return {outcome.model for outcome in outcomes if outcome.status == "done"}


def kill_at_random(process: subprocess.Popen, draw: random.Random, within: float) -> int:
    """A worker, while one is found, then the sweep itself; gives the number of kills.

    One time in five the clock runs from the start, imports and all, else from the first worker's.
    """
    patience = time.monotonic() + 60
    early = draw.random() < 0.2
    while not early and not workers_of(process) and process.poll() is None and time.monotonic() < patience:
        time.sleep(0.05)
    kills, end = 0, time.monotonic() + draw.uniform(0, within)
    while time.monotonic() < end and process.poll() is None:
        found = workers_of(process)
        if found and not kills and draw.random() < 0.2:
            with suppress(ProcessLookupError):
                os.kill(draw.choice(found), signal.SIGKILL)
                kills += 1
        time.sleep(0.05)
    left = workers_of(process)
    if process.poll() is None:
        process.kill()
        kills += 1
    process.wait(timeout=60)
    end = time.monotonic() + 60
    while any(map(is_alive, left)):  # they end with the sweep
        assert time.monotonic() < end
        time.sleep(0.05)
    return kills


def check_kills(folder: Path, models: list[str], workers: int, total: int, within: float) -> None:
    """Sweeps are killed until `total` kills are done, each then goes on, and all end as one unbroken."""
    assert all(outcome.status == "done" for outcome in sweep(jobs(folder / "whole", *models), Here()))
    whole = numbers(folder / "whole")
    assert len(whole) == len(models)
    draw, kills, round_ = random.Random(0), 0, 0
    while kills < total:
        out, before, round_ = folder / f"broken{round_}", {}, round_ + 1
        while len(done_in(out)) < len(models) and kills < total:
            kills += kill_at_random(start(out, models, workers), draw, within)
            after = records_in(out)
            assert before.items() <= after.items()  # no finished model is lost, or done again
            before = after
        finished = len(done_in(out))
        last = subprocess.run(command(out, models, workers), capture_output=True, text=True)
        assert last.returncode == 0, last.stderr
        assert f"{len(models)} models, {finished} of them done before" in last.stderr
        again = last.stderr.count(": done,")  # those without an outcome; a worker each may have its record
        assert again == len(models) - finished
        assert len(before) - finished <= workers + 1
        assert before.items() <= records_in(out).items()
        assert numbers(out) == whole


@needs_proc
def test_a_killed_sweep_goes_on_where_it_was(tmp_path):
    check_kills(tmp_path, ["net/lenet", "test_resnet", "test_vit"], workers=2, total=2, within=6)


@pytest.mark.slow
@needs_proc
def test_two_hundred_kills(tmp_path):
    check_kills(tmp_path, TINY, workers=2, total=200, within=6)


@needs_proc
def test_ctrl_c_leaves_everything_readable(tmp_path):
    slow = network(tmp_path, "slow", "import time; time.sleep(600)")
    out = tmp_path / "out"
    process = start(out, ["net/lenet", slow], 2, subprocess.PIPE)
    deadline = time.monotonic() + 120
    while not done_in(out) and time.monotonic() < deadline:
        time.sleep(0.1)
    workers = workers_of(process)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert b"1 model: 1 done" in said
    assert b"interrupted: 1 model left; the same command goes on" in said
    assert (out / "sweep.csv").read_text().splitlines()[1].startswith("net/lenet,done")
    assert len(records_in(out)) == 1
    assert not any(map(is_alive, workers))
