"""Executors by name: the package's own, and one of somebody else's."""

import subprocess
import sys
from dataclasses import replace

import pytest
from sweeps import QUICK, jobs, network, numbers
from typer.testing import CliRunner

from timm_diffsens import registry
from timm_diffsens.cli import app
from timm_diffsens.errors import UsageError
from timm_diffsens.sweep.jobs import find_models
from timm_diffsens.sweep.run import sweep

ASKED = ["--no-pretrained", "--images", "2", "--layers", "output", "--variants", "original", "--quiet"]
BACKWARDS = """
from pathlib import Path
from timm_diffsens.sweep.work import work


class Backwards:
    def __init__(self, threads, folder, log="log"):
        self.log = Path(folder) / log

    def run(self, jobs, started):
        self.log.parent.mkdir(parents=True, exist_ok=True)
        for job in reversed(jobs):
            started(job)
            with self.log.open("a") as file:
                print(job.model, file=file)
            yield job, work(job)
"""


def test_they_are_listed_without_torch_or_what_they_run_on():
    code = "from timm_diffsens import registry; import sys; print(registry.names('executors'), "
    code += "sorted({'torch', 'ray', 'submitit'} & set(sys.modules)))"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "['local', 'ray', 'slurm'] []\n"


def test_each_is_given_what_it_takes():
    entry = registry.find("executors", "local:jobs=3")
    assert entry.build(jobs=1, threads=2, gpus=0, address=None, folder="x", options={}).jobs == 3
    with pytest.raises(UsageError, match="unknown argument of the executor local 'job'; did you mean jobs"):
        registry.find("executors", "local:job=3").build()


def test_somebody_elses_gives_the_records_of_the_local_one(tmp_path):
    (tmp_path / "mine.py").write_text(BACKWARDS)
    theirs, local = tmp_path / "theirs", tmp_path / "local"
    engine = f"{tmp_path / 'mine.py'}:Backwards:log=done.txt"
    models = ["net/lenet", network(tmp_path, "net")]
    done = CliRunner().invoke(app, ["sweep", *models, *ASKED, "--engine", engine, "--out", str(theirs)])
    assert done.exit_code == 0, done.stderr
    done = CliRunner().invoke(app, ["sweep", *models, *ASKED, "--jobs", "2", "--out", str(local)])
    assert done.exit_code == 0, done.stderr
    assert len(numbers(local)) == 2
    assert numbers(theirs) == numbers(local)
    (log,) = theirs.rglob("done.txt")
    assert log.read_text().split() == models[::-1]
    wrong = ["sweep", *models, *ASKED, "--engine", engine, "--address", "auto", "--out", str(theirs)]
    assert "--address is for --engine ray, got" in CliRunner().invoke(app, wrong).stderr


def test_what_a_job_names_in_a_file_is_found_from_any_folder(tmp_path, monkeypatch):
    network(tmp_path, "net")
    (tmp_path / "own.py").write_text("import torch\nimages = torch.rand(4, 3, 16, 16)\n")
    monkeypatch.chdir(tmp_path)
    assert find_models(["net.py:Net"]) == [f"{tmp_path / 'net.py'}:Net"]
    options = QUICK.changed(dataset="own.py:images").plain()
    assert options["dataset"] == f"{tmp_path / 'own.py'}:images"
    assert options["layers"] == ["output"]
    (job,) = jobs(tmp_path / "out", "net/lenet", options=QUICK.changed(dataset="own.py:images"))
    assert not job.self_contained
    (made_here,) = jobs(tmp_path / "out", "net/lenet", options=QUICK.changed(dataset="scale1:xi=11"))
    assert made_here.self_contained
    stored = QUICK.changed(dataset="dead-leaves", deformation="fields:a.npy")
    (from_file,) = jobs(tmp_path / "out", "net/lenet", options=stored)
    assert not from_file.self_contained
    monkeypatch.chdir("/")
    (outcome,) = sweep(
        [replace(job, model=f"{tmp_path / 'net.py'}:Net")], registry.find("executors", "local").build()
    )
    assert outcome.status == "done", outcome.cause
