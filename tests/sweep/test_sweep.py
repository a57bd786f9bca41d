"""The account that a sweep keeps: skipping, retrying, failing, tables."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import pytest
from sweeps import QUICK, Here, jobs, network

from timm_diffsens.errors import DiffsensError, DiffsensWarning, UsageError
from timm_diffsens.results.records.store import load_record
from timm_diffsens.sweep import run as run_module
from timm_diffsens.sweep.jobs import Job
from timm_diffsens.sweep.outcomes import log_error, lost, read_outcome
from timm_diffsens.sweep.run import ATTEMPTS, sweep
from timm_diffsens.sweep.tables import read_outcomes, summarise, write_tables
from timm_diffsens.sweep.work import work

OUT_OF_MEMORY = 'raise RuntimeError("DefaultCPUAllocator: can\'t allocate memory: you tried")'


def errors(out):
    path = out / "errors.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def record_of(out, outcome):
    return load_record(out / "records" / outcome.row["record"])


def test_a_second_sweep_skips_what_is_done(tmp_path):
    todo, first, second = jobs(tmp_path, "test_resnet", "net/lenet"), Here(), Here()
    before = list(sweep(todo, first))
    assert [(o.model, o.status, o.before) for o in before] == [
        ("test_resnet", "done", False),
        ("net/lenet", "done", False),
    ]
    after = list(sweep([*todo, *jobs(tmp_path, "test_efficientnet")], second))
    assert [job.model for job in second.done] == ["test_efficientnet"]
    assert [o.before for o in after] == [True, True, False]
    assert [replace(o, before=False) for o in after[:2]] == before


def test_done_is_what_has_its_record(tmp_path):
    todo = jobs(tmp_path, "net/lenet")
    (outcome,) = sweep(todo, Here())
    (tmp_path / "records" / outcome.row["record"]).unlink()
    again = Here()
    list(sweep(todo, again))
    assert len(again.done) == 1
    todo[0].file.write_text("{ half")
    list(sweep(todo, again))
    assert len(again.done) == 2  # but the record is found, and nothing is measured


def test_force_does_everything_again(tmp_path):
    list(sweep(jobs(tmp_path, "net/lenet"), Here()))
    again = Here()
    (outcome,) = sweep(jobs(tmp_path, "net/lenet", force=True), again)
    assert again.done
    assert not outcome.before


def test_what_may_have_changed_is_given_to_a_worker(tmp_path):
    """Code of one's own, and images from a folder: the record's key decides."""
    todo = jobs(tmp_path, network(tmp_path, "mine"))
    list(sweep(todo, Here()))
    record = next((tmp_path / "records").rglob("*.json"))
    written = record.stat().st_mtime_ns
    again = Here()
    (outcome,) = sweep(todo, again)
    assert outcome.status == "done"
    assert len(again.done) == 1
    assert record.stat().st_mtime_ns == written
    network(tmp_path, "mine", "x = x + 1")
    list(sweep(todo, again))
    assert len(list((tmp_path / "records").rglob("*.json"))) == 2


def test_a_failure_is_tried_once_and_ends_nothing(tmp_path):
    bad = network(tmp_path, "bad", 'raise ValueError("no good")')
    todo, executor = jobs(tmp_path, bad, "net/lenet"), Here()
    found = {o.model: o for o in sweep(todo, executor)}
    assert [job.model for job in executor.done] == [bad, "net/lenet"]
    assert found["net/lenet"].status == "done"
    assert (found[bad].status, found[bad].error, found[bad].attempt) == ("failed", "ValueError", 1)
    (line,) = errors(tmp_path)
    assert line["model"] == bad
    assert line["class"] == "ValueError"
    assert "no good" in line["message"]
    assert set(line["versions"]) == {"timm_diffsens", "torch", "timm", "torchvision"}
    assert read_outcome(todo[0].file) == found[bad]


@pytest.mark.parametrize("options", [QUICK, None], ids=["measured", "structure"])
def test_a_network_finds_the_files_beside_it_while_it_runs(options, tmp_path):
    (tmp_path / "parts.py").write_text("def act(x): return x.relu()\n")
    model = network(tmp_path, "late", "from parts import act; x = act(x)")
    (job,) = jobs(tmp_path / "out", model, options=options)
    assert (work(job).status, work(job).error) == ("done", None)


def test_a_network_that_ends_the_program_is_a_failed_job(tmp_path):
    (job,) = jobs(tmp_path / "out", network(tmp_path, "ends", "raise SystemExit(3)"))
    outcome = work(job)
    assert outcome.status == "failed"
    images = "images of 3 x 16 x 16 (--input-size gives it others)"
    assert outcome.message == f"ends.py:Net could not be run on {images}: SystemExit: 3"


@pytest.mark.parametrize("fits", [1, 3, 7])
def test_out_of_memory_at_the_first_batch_sizes_ends_with_a_smaller_one(tmp_path, fits):
    fault = f"if len(x) > {3 * fits}: {OUT_OF_MEMORY}"
    options = QUICK.changed(images=8, batch_size=8)
    executor = Here()
    (outcome,) = sweep(jobs(tmp_path, network(tmp_path, "large", fault), options=options), executor)
    (plain,) = sweep(jobs(tmp_path, network(tmp_path, "small"), options=options), Here())
    assert len(executor.done) == 1  # the batch is made smaller where it failed
    record, reference = record_of(tmp_path, outcome), record_of(tmp_path, plain)
    sizes = [size for size in (8, 4, 2, 1) if size > fits]
    assert record.environment.retries == [f"out of memory at batch size {size}" for size in sizes]
    assert record.environment.batch_size == sizes[-1] // 2 == outcome.row["batch size"]
    assert record.output.r == pytest.approx(reference.output.r, rel=1e-5)
    assert not errors(tmp_path)


def test_out_of_memory_is_tried_again_and_recorded(tmp_path):
    (tmp_path / "sometimes.tries").write_text("x")  # so many that fail
    options = QUICK.changed(batch_size=1)
    fault = f"left = tries.read_text(); tries.write_text(left[1:]); exec({OUT_OF_MEMORY!r} if left else '')"
    executor = Here()
    (outcome,) = sweep(jobs(tmp_path, network(tmp_path, "sometimes", fault), options=options), executor)
    assert (outcome.status, outcome.attempt) == ("done", 2)
    (first,) = record_of(tmp_path, outcome).environment.retries
    assert first.startswith("attempt 1: RuntimeError: out of memory with one image a batch")


def test_out_of_memory_throughout_is_given_up(tmp_path):
    executor = Here()
    (outcome,) = sweep(jobs(tmp_path, network(tmp_path, "huge", OUT_OF_MEMORY)), executor)
    assert (outcome.status, outcome.attempt) == ("out of memory", ATTEMPTS)
    assert [job.attempt for job in executor.done] == [1, 2, 3]
    assert executor.done[-1].options["batch_size"] == 1
    assert len(outcome.tried) == 2
    assert [line["status"] for line in errors(tmp_path)] == ["out of memory"] * 3


class Losing(Here):
    """Loses the workers of the first attempts."""

    def __init__(self, attempts):
        super().__init__()
        self.attempts = attempts

    def run(self, jobs, started):
        for job, outcome in super().run([j for j in jobs if j.attempt > self.attempts], started):
            yield job, outcome
        for job in jobs:
            if job.attempt <= self.attempts:
                yield job, lost(job, 0.1, "the worker was ended by SIGKILL")


def test_lost_workers_are_tried_again_and_recorded(tmp_path):
    (outcome,) = sweep(jobs(tmp_path, "net/lenet"), Losing(2))
    assert (outcome.status, outcome.attempt) == ("done", 3)
    retries = record_of(tmp_path, outcome).environment.retries
    assert [text.partition(":")[0] for text in retries] == ["attempt 1", "attempt 2"]
    assert all("SIGKILL" in text for text in retries)


def test_workers_that_are_always_lost_are_given_up(tmp_path):
    todo = jobs(tmp_path, "net/lenet")
    (outcome,) = sweep(todo, Losing(99))
    assert (outcome.status, outcome.attempt) == ("lost", 3)
    assert read_outcome(todo[0].file) == outcome
    assert run_module.done_before(todo[0]) is None


def test_large_models_are_left_out_until_the_limit_is_raised(tmp_path):
    executor = Here()
    (outcome,) = sweep(jobs(tmp_path, "net/lenet", max_parameters=1000), executor)
    assert (outcome.status, outcome.row["parameters"]) == ("left out", 62006)
    (outcome,) = sweep(jobs(tmp_path, "net/lenet", max_parameters=2000), executor)
    assert outcome.before
    (outcome,) = sweep(jobs(tmp_path, "net/lenet", max_parameters=70_000), executor)
    assert outcome.status == "done"
    assert len(executor.done) == 2


def test_the_table_has_every_model_of_all_sweeps_alike(tmp_path):
    bad = network(tmp_path, "bad", 'raise ValueError("no good")')
    todo = jobs(tmp_path, "test_resnet", bad)
    list(sweep(todo[:1], Here()))
    list(sweep(todo[1:], Here()))
    list(sweep(jobs(tmp_path, "net/lenet", options=QUICK.changed(seed=1)), Here()))
    table, summary = write_tables(tmp_path, todo[:1])
    rows = {row["model"]: row for row in csv.DictReader(table.read_text().splitlines())}
    assert set(rows) == {"test_resnet", bad}
    assert rows["test_resnet"]["status"] == "done"
    assert float(rows["test_resnet"]["R original"]) > 0
    assert "no good" in rows[bad]["cause"]
    said = json.loads(summary.read_text())
    assert said["status"] == {"done": 1, "failed": 1}
    assert list(said["failures"]) == [bad]
    text = table.read_bytes()
    assert write_tables(tmp_path, todo[1:])[0].read_bytes() == text


def test_damaged_outcomes_are_no_rows(tmp_path):
    todo = jobs(tmp_path, "net/lenet", options=None)
    list(sweep(todo, Here()))
    for content in ("", "{", "[]", '{"job": 1}', "null"):
        (todo[0].file.parent / "x.json").write_text(content)
        assert [o.model for o in read_outcomes(tmp_path, todo)] == ["net/lenet"]
    assert summarise([])["models"] == 0


def test_a_full_disk_is_an_error_of_the_job(tmp_path, monkeypatch):
    def full(*args):
        raise OSError(28, "No space left on device")

    (job,) = jobs(tmp_path, "net/lenet")
    monkeypatch.setattr("timm_diffsens.files.os.fsync", full)
    outcome = work(job)
    assert outcome.status == "failed"
    assert "No space left" in outcome.message


FULL = Path("/dev/full")  # a disk without room for a byte
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")


@needs_full
def test_a_log_without_room_is_told_once_and_ends_nothing(tmp_path):
    bad = network(tmp_path, "bad", 'raise ValueError("no good")')
    worse = network(tmp_path, "worse", 'raise ValueError("no better")')
    (tmp_path / "errors.jsonl").symlink_to(FULL)
    with pytest.warns(DiffsensWarning) as told:
        found = {o.model: o for o in sweep(jobs(tmp_path, bad, "net/lenet", worse), Here())}
    (warning,) = told
    assert f"cannot write {tmp_path / 'errors.jsonl'}: No space left on device" in str(warning.message)
    assert "the sweep goes on" in str(warning.message)
    assert {model: o.status for model, o in found.items()} == {
        bad: "failed",
        "net/lenet": "done",
        worse: "failed",
    }
    assert found[bad].cause.endswith("no good")
    assert summarise(list(found.values()))["failures"] == {bad: found[bad].cause, worse: found[worse].cause}


def test_an_outcome_that_cannot_be_written_is_told_once_and_ends_nothing(tmp_path):
    todo = jobs(tmp_path, "net/lenet", "net/simple")
    for job in todo:
        (job.file / "in the way").mkdir(parents=True)  # no file can take its place
    with pytest.warns(DiffsensWarning, match="cannot write") as told:
        found = list(sweep(todo, Losing(99)))
    assert len(told) == 1
    assert [(o.status, o.attempt) for o in found] == [("lost", 3)] * 2
    assert all("SIGKILL" in cause for cause in summarise(found)["failures"].values())


def test_a_line_that_a_full_disk_cut_short_is_told_and_spoils_no_other(tmp_path):
    resource = pytest.importorskip("resource")
    (job,) = jobs(tmp_path, "net/lenet")
    outcome = lost(job, 0.1, "the worker was ended by SIGKILL")
    log_error(tmp_path, outcome)
    path = tmp_path / "errors.jsonl"
    before, limits = path.read_bytes(), resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 10, limits[1]))
    try:
        with pytest.raises(DiffsensError, match="No space left"):
            log_error(tmp_path, outcome)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert len(path.read_bytes()) == len(before) + 10
    log_error(tmp_path, outcome)
    first, half, last = path.read_bytes().splitlines(keepends=True)
    assert (first, len(half)) == (before, 11)
    assert json.loads(last)["model"] == "net/lenet"


def test_a_folder_that_cannot_be_written_is_found_before(tmp_path):
    (tmp_path / "sweep").write_text("a file in the way")
    with pytest.raises(UsageError, match="cannot write"):
        list(sweep(jobs(tmp_path, "net/lenet"), Here()))


def test_a_job_is_plain_values(tmp_path):
    (job,) = jobs(tmp_path, "net/lenet", options=QUICK.changed(data_dir=tmp_path))
    assert isinstance(json.loads(json.dumps(job.options)), dict)
    assert isinstance(job, Job)
