"""Job arrays, with submitit's stand-in for Slurm: processes on this machine."""

import os
import time

import pytest
from sweeps import Here, jobs, network, numbers

from timm_diffsens.errors import MeasurementError, UsageError
from timm_diffsens.sweep.executors import slurm
from timm_diffsens.sweep.executors.slurm import Slurm
from timm_diffsens.sweep.run import sweep


def test_an_array_gives_what_one_process_gives(tmp_path):
    alone, out = tmp_path / "alone", tmp_path / "out"
    bad = network(tmp_path, "bad", 'raise ValueError("no good")')
    executor = Slurm(tmp_path / "slurm", cluster="local")
    found = {outcome.model: outcome for outcome in sweep(jobs(out, "net/lenet", bad), executor)}
    assert found["net/lenet"].status == "done"
    assert (found[bad].status, found[bad].error, found[bad].attempt) == ("failed", "ValueError", 1)
    list(sweep(jobs(alone, "net/lenet"), Here()))
    assert numbers(out) == numbers(alone)


@pytest.mark.slow
def test_workers_that_die_are_tried_again(tmp_path):
    kill = network(tmp_path, "kill", "import os; os.kill(os.getpid(), 9)")
    (outcome,) = sweep(jobs(tmp_path, kill), Slurm(tmp_path / "slurm", cluster="local"))
    assert (outcome.status, outcome.attempt) == ("lost", 3)


def test_leaving_early_cancels_what_is_under_way(tmp_path):
    class Interrupted(Exception):
        pass

    def interrupt(job):
        # a signal to a process that is still being started is lost where its parent ignores it
        logs, until = tmp_path / "slurm", time.monotonic() + 60
        while not any("Loading" in log.read_text() for log in logs.glob("*_log.out")):
            assert time.monotonic() < until
            time.sleep(0.05)
        raise Interrupted

    slow = network(tmp_path, "slow", "import time; time.sleep(600)")
    executor, submitted = Slurm(tmp_path / "slurm", cluster="local"), []
    submit = executor.executor.map_array
    executor.executor.map_array = lambda *args: submitted.extend(submit(*args)) or submitted
    with pytest.raises(Interrupted):
        next(executor.run(jobs(tmp_path, slow), interrupt))
    assert [task.wait() or task.state for task in submitted] == ["INTERRUPTED"]


def test_long_lists_are_several_arrays(tmp_path, monkeypatch):
    monkeypatch.setattr(slurm, "_MOST", 2)
    executor = Slurm(tmp_path / "slurm", cluster="debug")
    found = list(sweep(jobs(tmp_path, "net/lenet", "net/simple", "net/resnet20", options=None), executor))
    assert [outcome.status for outcome in found] == ["done"] * 3


def test_without_slurm_there_is_a_message(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(MeasurementError, match="Slurm cannot be used here"):
        Slurm(tmp_path / "slurm")


def test_tasks_that_cannot_be_written_down_have_failed(tmp_path):
    executor = Slurm(tmp_path / "slurm", cluster="local")
    for path in sorted((tmp_path / "slurm").rglob("*"), reverse=True):
        path.rmdir()
    (tmp_path / "slurm").rmdir()
    (tmp_path / "slurm").write_text("a file in the way")
    (outcome,) = sweep(jobs(tmp_path, "net/lenet"), executor)
    assert (outcome.status, outcome.attempt) == ("failed", 1)
    assert str(tmp_path / "slurm") in outcome.message


def test_times_are_minutes(tmp_path):
    with pytest.raises(UsageError, match="whole minutes"):
        Slurm(tmp_path / "slurm", cluster="local", options={"time": "1:00:00"})


def test_tasks_that_left_the_queue_without_a_result_are_lost(tmp_path, monkeypatch):
    """As where Slurm keeps no accounting: submitit then never says that a killed task has ended."""
    slow = network(tmp_path, "slow", "import time; time.sleep(600)")
    executor = Slurm(tmp_path / "slurm", cluster="local")
    monkeypatch.setattr(slurm, "_QUEUE_PAUSE", 0)
    monkeypatch.setattr(executor, "_not_queued", set)
    queue = tmp_path / "squeue"
    queue.write_text("#!/bin/sh\necho 7_0\n")
    queue.chmod(0o755)
    ((_, outcome),) = executor.run(jobs(tmp_path, slow), lambda job: None)
    assert outcome.status == "lost"
    assert "left the queue without a result" in outcome.message
    monkeypatch.undo()
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert executor._not_queued(["7_0", "7_1"]) == set()  # there is no queue to ask
    monkeypatch.setattr(executor, "cluster", "slurm")
    assert executor._not_queued(["7_0", "7_1"]) == {"7_1"}
    queue.write_text("#!/bin/sh\nexit 1\n")
    assert executor._not_queued(["7_0", "7_1"]) == set()
