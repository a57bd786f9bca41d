"""Job arrays, with submitit's stand-in for Slurm: processes on this machine."""

import os
import time

import pytest
from sweeps import Here, import_here, jobs, network, numbers, process_of, telling, trusted
from typer.testing import CliRunner

from timm_diffsens.cli import app
from timm_diffsens.errors import MeasurementError, UsageError
from timm_diffsens.sweep.executors import slurm
from timm_diffsens.sweep.executors.slurm import Slurm, _Share, do_share
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
        logs, until = tmp_path / "slurm", time.monotonic() + 600
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


@pytest.fixture
def cluster(tmp_path, monkeypatch):
    """A machine on which Slurm can be asked for something: what it is given is the `sbatch` script."""
    for name, text in {"srun": "exit 0", "sbatch": f'cp "$1" {tmp_path}/submitted; exit 1'}.items():
        (tmp_path / name).write_text(f"#!/bin/sh\n{text}\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    asked = ["sweep", "net/lenet", "net/simple", "--structure", "--engine", "slurm", "--out", str(tmp_path)]

    def submitted(*more):
        CliRunner().invoke(app, [*asked, *more])
        return (tmp_path / "submitted").read_text().splitlines()

    return submitted


def test_a_job_array_has_no_limit_but_that_asked_for(cluster):
    assert "#SBATCH --array=0-1%2" in cluster()
    assert "#SBATCH --array=0-1%2" in cluster("--jobs", "auto")
    assert "#SBATCH --array=0-1%1" in cluster("--jobs", "1")


def test_gpus_are_asked_for_once(cluster):
    def gpus(*more):
        return [line for line in cluster(*more) if line.startswith("#SBATCH --g")]

    assert gpus() == []
    assert gpus("--gpus", "2") == ["#SBATCH --gpus-per-node=2"]
    assert gpus("--slurm", "gres=gpu:1") == ["#SBATCH --gres=gpu:1"]
    assert gpus("--slurm", "gpus-per-task=1") == ["#SBATCH --gpus-per-task=1"]
    assert "#SBATCH --time=30" in cluster("--slurm", "time=30")


@pytest.mark.parametrize("option", ["gres=gpu:1", "gpus=1", "gpus-per-task=1", "tres-per-task=gres/gpu:1"])
def test_gpus_are_not_asked_for_twice(option, tmp_path):
    name, _, value = option.partition("=")
    message = f"^--gpus 1 and --slurm {option} both ask for GPUs; give one$"
    with pytest.raises(UsageError, match=message):
        Slurm(tmp_path, cluster="local", gpus=1, options={name: value})
    Slurm(tmp_path, cluster="local", gpus=1, options={"gres": "licence:1", "cpus-per-gpu": "4"})


@pytest.mark.parametrize("gpus", [0.5, 1.5, -1])
def test_gpus_of_a_task_are_whole(gpus, tmp_path):
    with pytest.raises(UsageError, match=f"^a task of Slurm gets whole GPUs, got --gpus {gpus}; "):
        Slurm(tmp_path, cluster="local", gpus=gpus)


def test_options_are_passed_on_as_they_are(cluster):
    options = ["reservation=mine", "licenses=a:1", "ntasks=1", "gpus=1", "mem=8G", "site-option=3", "nodes=1"]
    lines = cluster(*(word for option in options for word in ("--slurm", option)))
    assert {f"#SBATCH --{option}" for option in options} <= set(lines)


def test_what_sbatch_says_of_what_it_refuses_is_told(tmp_path, cluster, monkeypatch):
    (tmp_path / "sbatch").write_text("#!/bin/sh\necho 'invalid option --site-option' >&2\nexit 1\n")
    executor = Slurm(tmp_path / "slurm", options={"site-option": "3"})
    with pytest.raises(MeasurementError, match=r"^sbatch has refused the tasks: invalid option --site"):
        list(executor.run(jobs(tmp_path, "net/lenet"), lambda job: None))


@pytest.mark.parametrize("present", [True, False])
def test_options_by_which_tasks_are_found_are_no_choice(present, tmp_path, monkeypatch, request):
    """Also where there is no Slurm to submit to: they are looked at first."""
    if present:
        request.getfixturevalue("cluster")
    with pytest.raises(UsageError, match="--slurm output is no choice"):
        Slurm(tmp_path / "slurm", options={"output": "log"})


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


# --- tasks that do several models


def test_a_task_keeps_its_process_between_models(tmp_path, monkeypatch):
    import_here(monkeypatch)
    alone, out = tmp_path / "alone", tmp_path / "out"
    models = [telling(tmp_path, name) for name in ("a", "b", "c")]
    executor, begun = Slurm(tmp_path / "slurm", cluster="debug", models=2), []
    assert executor.executor.parameters["timeout_min"] == 120
    found = [(job.model, o.status) for job, o in executor.run(trusted(out, *models), begun.append)]
    assert sorted(found) == [(model, "done") for model in models]
    assert sorted(job.model for job in begun) == models
    assert process_of(tmp_path, "a") == process_of(tmp_path, "b") != process_of(tmp_path, "c")
    list(sweep(jobs(alone, *models), Here()))
    assert numbers(out) == numbers(alone)


def test_a_model_that_ends_its_process_costs_the_task_no_other(tmp_path, monkeypatch):
    import_here(monkeypatch)
    kill = telling(tmp_path, "k", "os.kill(os.getpid(), 9)")
    models = [telling(tmp_path, "a"), kill, telling(tmp_path, "b")]
    executor = Slurm(tmp_path / "slurm", cluster="debug", models=3)
    found = {job.model: o for job, o in executor.run(trusted(tmp_path / "out", *models), lambda job: None)}
    assert [found[model].status for model in models] == ["done", "lost", "done"]
    assert "SIGKILL" in found[kill].message
    assert process_of(tmp_path, "a") != process_of(tmp_path, "b")


@pytest.mark.slow
def test_a_task_that_is_lost_costs_the_model_under_way(tmp_path, monkeypatch):
    """As when its node fails: what it had done is known, and what it had not begun is given to another."""
    import_here(monkeypatch)
    kill = telling(tmp_path, "k", "import multiprocessing as m; os.kill(m.parent_process().pid, 9); exit()")
    models = [telling(tmp_path, "a"), kill, telling(tmp_path, "b"), telling(tmp_path, "c")]
    executor = Slurm(tmp_path / "slurm", cluster="local", models=4)
    found = {job.model: o for job, o in executor.run(trusted(tmp_path / "out", *models), lambda job: None)}
    assert [found[model].status for model in models] == ["done", "lost", "done", "done"]
    assert process_of(tmp_path, "b") == process_of(tmp_path, "c")


def test_no_model_is_no_task(tmp_path):
    with pytest.raises(UsageError, match="at least 1 model, got models=0"):
        Slurm(tmp_path / "slurm", cluster="local", models=0)


def test_what_is_known_of_a_share_comes_from_its_journal_and_its_end(tmp_path):
    todo = jobs(tmp_path / "out", "net/lenet", "net/simple", "net/fc2", options=None)
    journal, begun = tmp_path / "journal", []
    outcomes = do_share(todo, journal, None)
    lines = journal.read_text().splitlines(keepends=True)
    assert [line == "null\n" for line in lines] == [True, False] * 3

    def share(text: str) -> _Share:
        begun.clear()
        made = _Share(todo, journal)
        journal.write_text(text)
        return made

    made = share("".join(lines[:3]) + lines[3][:-9])  # the last is being written
    assert list(made.news(begun.append)) == [(todo[0], outcomes[0])]
    assert begun == todo[:2]
    assert list(made.news(begun.append)) == []
    assert list(made.settle(outcomes)) == list(zip(todo[1:], outcomes[1:], strict=True))
    cases = [  # lines that the journal has, those lost, those left for others
        ([], todo, []),
        (lines[:1], todo[:1], todo[1:]),
        (lines[:2], [], todo[1:]),
        (lines[:3], todo[1:2], todo[2:]),
        (lines, [], []),
    ]
    for text, lost, left in cases:
        made = share("".join(text))
        list(made.news(begun.append))
        settled = list(made.settle(TimeoutError("the node failed")))
        assert ([job for job, _ in settled], made.jobs) == (lost, left)
        assert {(o.status, o.message) for _, o in settled} <= {("lost", "the node failed")}
    made = share("")
    assert [o.status for _, o in made.settle(ImportError("no such package"))] == ["failed"] * 3
