"""Workers that keep their process from one model to the next, and what makes them give it up."""

import json
import os
import random
import signal
import threading
from multiprocessing import forkserver

import pytest
import torch
from kills import children, is_alive, needs_proc
from sweeps import TINY, Here, jobs, network, numbers, process_of, telling, trusted

from timm_diffsens.cli.sweep import _workers
from timm_diffsens.errors import UsageError
from timm_diffsens.schema import limits
from timm_diffsens.sweep import worker
from timm_diffsens.sweep.executors import local
from timm_diffsens.sweep.executors.local import Local, visible_gpus
from timm_diffsens.sweep.run import sweep
from timm_diffsens.sweep.worker import Place

ENDINGS = {
    "killed": ("os.kill(os.getpid(), 9)", "lost", "ended by SIGKILL (out of memory?)"),
    "segfault": ("import ctypes; ctypes.string_at(0)", "lost", "ended by SIGSEGV"),
    "exit": ("os._exit(0)", "lost", "ended with code 0 and said nothing"),
    "error": ("raise ValueError('no good')", "failed", "no good"),
    "sys.exit": ("raise SystemExit(3)", "failed", "SystemExit: 3"),
}
# an address space without room for another GiB: what a process has, and 256 MiB; the soft limit alone, since
# a second try in a process that has grown may not raise the hard one
LIMITED = (
    "import resource; pages = int(open('/proc/self/statm').read().split()[0]); "
    "hard = resource.getrlimit(resource.RLIMIT_AS)[1]; "
    "resource.setrlimit(resource.RLIMIT_AS, (pages * 4096 + 2**28, hard)); torch.ones(2**28)"
)


def outcomes(todo, executor) -> dict:
    return {outcome.model: outcome for outcome in sweep(todo, executor)}


def test_one_process_does_all_and_records_are_those_of_processes_of_their_own(tmp_path):
    warm, cold = tmp_path / "warm", tmp_path / "cold"
    names = ["a", "b", "c"]
    models = [telling(tmp_path, name) for name in names]
    assert {o.status for o in sweep([*trusted(warm, *models), *jobs(warm, *TINY[-3:])], Local(1))} == {"done"}
    assert len({process_of(tmp_path, name) for name in names}) == 1
    for job in [*jobs(cold, *models), *jobs(cold, *reversed(TINY[-3:]))]:
        assert [o.status for o in sweep([job], Local(1))] == ["done"]
    assert len({process_of(tmp_path, name) for name in names}) == 3
    assert len(numbers(warm)) == 6
    assert numbers(warm) == numbers(cold)


def test_code_from_outside_has_a_process_of_its_own(tmp_path):
    """Two files of one name, in two folders, beside networks that share a process."""
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "parts.py").write_text(f"name = {folder!r}\n")
    say = "from parts import name; assert pathlib.Path(__file__).parent.name == name"
    own = [telling(tmp_path / folder, "net", say) for folder in ("one", "two")]
    shared = [telling(tmp_path, name) for name in ("a", "b", "c", "d")]
    out = tmp_path / "out"
    todo = [*trusted(out, *shared[:2]), *jobs(out, *own), *trusted(out, *shared[2:])]
    assert {o.status for o in sweep(todo, Local(1))} == {"done"}
    a, b, c, d = (process_of(tmp_path, name) for name in ("a", "b", "c", "d"))
    assert (a, c) == (b, d)
    assert len({a, c, *(process_of(tmp_path / folder, "net") for folder in ("one", "two"))}) == 4


@pytest.mark.parametrize("ending", ENDINGS)
def test_what_ends_badly_counts_for_itself_alone(tmp_path, ending):
    fault, status, words = ENDINGS[ending]
    before, bad, after = (telling(tmp_path, "a"), telling(tmp_path, "bad", fault), telling(tmp_path, "b"))
    found = outcomes(trusted(tmp_path / "out", before, bad, after), Local(1))
    assert [(found[m].status, found[m].attempt) for m in (before, after)] == [("done", 1)] * 2
    assert (found[bad].status, found[bad].attempt) == (status, 3 if status == "lost" else 1)
    assert words in found[bad].message
    assert process_of(tmp_path, "a") != process_of(tmp_path, "b")
    lines = (tmp_path / "out" / "errors.jsonl").read_text().splitlines()
    assert {json.loads(line)["model"] for line in lines} == {bad}


@needs_proc
def test_after_memory_ran_out_the_next_has_a_new_process(tmp_path):
    """In an address space that is truly too small; its process would be too small for the next as well."""
    before, large, after = (telling(tmp_path, "a"), telling(tmp_path, "l", LIMITED), telling(tmp_path, "b"))
    found = outcomes(trusted(tmp_path / "out", before, large, after), Local(1))
    assert [(found[m].status, found[m].attempt) for m in (before, after)] == [("done", 1)] * 2
    assert (found[large].status, found[large].attempt) == ("out of memory", 3)
    assert "can't allocate memory" in found[large].message
    assert process_of(tmp_path, "a") != process_of(tmp_path, "b")


def test_a_changed_process_is_put_right_for_the_next(tmp_path):
    change = (
        "torch.set_default_dtype(torch.float64); torch.manual_seed(9); torch.set_num_threads(2); "
        "torch.use_deterministic_algorithms(True); os.chdir('/'); os.environ['TORCH_HOME'] = '/nowhere'"
    )
    out, alone = tmp_path / "out", tmp_path / "alone"
    after = telling(tmp_path, "b", "assert torch.get_default_dtype() == torch.float32")
    first = telling(tmp_path, "a", change)
    found = outcomes([*trusted(out, first, after), *jobs(out, "test_vit")], Local(1))
    assert [o.status for o in found.values()] == ["done"] * 3, [o.cause for o in found.values()]
    assert process_of(tmp_path, "a") == process_of(tmp_path, "b")
    list(sweep(jobs(alone, after, "test_vit"), Here()))
    assert numbers(alone).items() <= numbers(out).items()


@needs_proc
def test_memory_that_leaks_leads_to_a_new_process(tmp_path, caplog):
    leak = "torch.left = torch.ones(400 * 2**20, dtype=torch.uint8)"
    first, second, third = (
        telling(tmp_path, "a", leak),
        telling(tmp_path, "b", "assert not hasattr(torch, 'left')"),
        telling(tmp_path, "c"),
    )
    assert [o.status for o in sweep(trusted(tmp_path / "out", first, second, third), Local(1))] == [
        "done"
    ] * 3
    assert process_of(tmp_path, "a") != process_of(tmp_path, "b") == process_of(tmp_path, "c")
    (line,) = [record.getMessage() for record in caplog.records if record.name == worker.__name__]
    assert line.startswith(f"after {first}: 4")
    assert line.endswith("of the process did not come back (allowed: 256 MiB); a new worker takes over")
    assert not (tmp_path / "out" / "errors.jsonl").exists()


def test_a_worker_killed_while_it_is_idle_harms_no_model(tmp_path):
    place, todo = Place(), trusted(tmp_path / "out", telling(tmp_path, "a"), telling(tmp_path, "b"))
    try:
        assert place.do(todo[0]).status == "done"
        os.kill(process_of(tmp_path, "a"), signal.SIGKILL)
        assert place.do(todo[1]).status == "done"
    finally:
        place.end()
    assert not is_alive(process_of(tmp_path, "b"))


def test_a_limit_of_time_ends_that_model_alone(tmp_path):
    place = Place()
    slow, quick = trusted(
        tmp_path / "out", telling(tmp_path, "s", "import time; time.sleep(600)"), "net/lenet"
    )
    try:
        outcome = place.do(slow, 3)
        assert (outcome.status, outcome.message) == ("lost", "not done after 3 seconds")
        # on a busy machine it may not have begun
        assert not (tmp_path / "s.tries").exists() or not is_alive(process_of(tmp_path, "s"))
        assert place.do(quick, 600).status == "done"
    finally:
        place.end()


@needs_proc
def test_sixteen_workers_of_which_some_are_killed_lose_nothing(tmp_path):
    """Twice half of those at work are killed at once: no model can lose all its three tries."""
    pause = "import multiprocessing as m, time; m.parent_process() and time.sleep(0.3)"
    models = [*(network(tmp_path, f"net{i}", pause) for i in range(16)), *TINY[-4:]]
    whole = {o.model: o.row for o in sweep(jobs(tmp_path / "whole", *models, options=None), Here())}
    draw, waves, over = random.Random(0), [], threading.Event()

    def kill() -> None:
        while not over.wait(0.01) and len(waves) < 2:
            server = forkserver._forkserver._forkserver_pid
            if server and len(found := [pid for pid in children(server) if is_alive(pid)]) > 3:
                waves.append(draw.sample(found, len(found) // 2))
                for pid in waves[-1]:
                    os.kill(pid, signal.SIGKILL)
                over.wait(draw.uniform(0.1, 0.5))

    beside = threading.Thread(target=kill)
    beside.start()
    try:
        found = outcomes(jobs(tmp_path / "out", *models, options=None), Local(16))
    finally:
        over.set()
        beside.join()
    killed = [pid for wave in waves for pid in wave]
    assert killed
    assert {model: o.row for model, o in found.items()} == whole
    errors = tmp_path / "out" / "errors.jsonl"
    lost = [json.loads(line) for line in errors.read_text().splitlines()] if errors.exists() else []
    assert len(lost) <= len(killed)
    assert {line["class"] for line in lost} <= {"LostWorker"}
    assert not any(map(is_alive, killed))


# --- GPUs


def test_each_worker_sees_a_gpu_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "visible_gpus", lambda: ["GPU-a", "3"])
    both = "import time; tries.with_suffix('.gpu').write_text(os.environ['CUDA_VISIBLE_DEVICES'])"
    met = "; [time.sleep(0.02) for _ in iter(lambda: len(list(tries.parent.glob('*.gpu'))) > 1, True)]"
    todo = trusted(tmp_path / "out", *(telling(tmp_path, name, both + met) for name in ("a", "b")))
    assert [o.status for o in sweep(todo, Local(2))] == ["done"] * 2
    assert {path.read_text() for path in tmp_path.glob("*.gpu")} == {"GPU-a", "3"}


@pytest.mark.parametrize(
    ("count", "visible", "found"),
    [
        (0, None, []),
        (2, None, ["0", "1"]),
        (2, "5,3", ["5", "3"]),
        (1, "GPU-1,-1,2", ["GPU-1"]),  # what follows a wrong one is not seen
        (0, "", []),
    ],
)
def test_gpus_have_the_names_that_they_are_given(count, visible, found, monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert visible_gpus() == found


@pytest.mark.parametrize(
    ("engine", "asked", "device", "workers"),
    [
        ("local", "auto", "auto", 4),
        ("local", None, "cuda", 4),
        ("local", None, "cuda:1", 1),
        ("local", "auto", "cpu", 1),
        ("local", "3", "auto", 3),
        ("slurm", "auto", "auto", limits.WORKERS),  # as many as its scheduler has places for
    ],
)
def test_auto_is_a_worker_for_each_gpu(engine, asked, device, workers, tmp_path, monkeypatch):
    monkeypatch.setattr(local, "visible_gpus", lambda: list("0123"))
    (job,) = jobs(tmp_path, "net/lenet")
    assert _workers(engine, asked, type(job)(**{**vars(job), "options": {"device": device}})) == workers


def test_auto_without_numbers_is_a_worker_for_each_core(tmp_path, monkeypatch):
    monkeypatch.setattr(local, "visible_gpus", lambda: list("0123"))
    (job,) = jobs(tmp_path, "net/lenet", options=None)
    assert _workers("local", "auto", job) == os.cpu_count()
    with pytest.raises(UsageError, match="--jobs needs a whole number, or auto; got 'many'"):
        _workers("local", "many", job)
