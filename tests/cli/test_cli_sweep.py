import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from timm_diffsens.cli import app, sweep_view
from timm_diffsens.cli.output import progress_console
from timm_diffsens.errors import without_options
from timm_diffsens.schema.config import ONE_MODEL

QUICK = ["--no-pretrained", "--images", "2", "--layers", "output", "--variants", "original", "--threads", "1"]


def run(*args):
    return CliRunner().invoke(app, ["sweep", *map(str, args)])


def test_structure_writes_the_table_and_a_second_run_does_nothing(tmp_path):
    result = run("test_vit*", "net/lenet", "--structure", "--jobs", 1, "--out", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert "6 models: 6 done" in result.stdout
    assert "dropped 0" in result.stdout
    table = (tmp_path / "coverage.csv").read_text()
    assert len(table.splitlines()) == 7
    again = run("test_vit*", "net/lenet", "--structure", "--jobs", 1, "--out", tmp_path, "--json")
    assert again.exit_code == 0
    printed = json.loads(again.stdout)
    assert printed["status"] == {"done": 6}
    assert all(outcome["before"] for outcome in printed["outcomes"])
    assert (tmp_path / "coverage.csv").read_text() == table


def test_shards_together_make_the_whole_table(tmp_path):
    for part in ("1/2", "2/2"):
        assert run("test_vit*", "--structure", "--shard", part, "--out", tmp_path).exit_code == 0
    assert run("test_vit*", "--structure", "--out", tmp_path / "whole").exit_code == 0
    assert (tmp_path / "coverage.csv").read_text() == (tmp_path / "whole" / "coverage.csv").read_text()


def test_a_failure_is_exit_1_and_the_others_are_done(tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text("import torch\nclass Net(torch.nn.Module):\n    def forward(self, x): return x\n")
    result = run(f"{broken}:Net", "net/lenet", *QUICK, "--out", tmp_path, "--json")
    assert result.exit_code == 1
    printed = json.loads(result.stdout)
    assert printed["status"] == {"done": 1, "failed": 1}
    (failure,) = printed["failures"].values()
    assert "input size" in failure
    assert (tmp_path / "errors.jsonl").exists()
    assert len(list((tmp_path / "records").rglob("*.json"))) == 1


FULL = Path("/dev/full")
needs_full = pytest.mark.skipif(not FULL.exists(), reason="needs a device that is always full")


@needs_full
def test_a_full_disk_is_told_once_and_ends_nothing(tmp_path):
    for name in ("one", "two"):
        (tmp_path / f"{name}.py").write_text("def net():\n    raise ValueError('no such part')\n")
    out = tmp_path / "out"
    out.mkdir()
    (out / "errors.jsonl").symlink_to(FULL)
    bad = [f"{tmp_path / name}.py:net" for name in ("one", "two")]
    result = run(*bad, "net/lenet", "--structure", "--jobs", 1, "--out", out)
    assert result.exit_code == 1
    assert "3 models: 1 done, 2 failed" in result.stdout
    assert result.stdout.count("no such part") == 2
    assert result.stderr.count("warning: ") == 1
    assert "errors.jsonl: No space left on device; the sweep goes on" in result.stderr


def test_tables_that_cannot_be_written_are_told_beside_the_summary(tmp_path):
    (tmp_path / "coverage.csv" / "in the way").mkdir(parents=True)
    result = run("net/lenet", "--structure", "--jobs", 1, "--out", tmp_path)
    assert result.exit_code == 1
    assert "1 model: 1 done" in result.stdout
    assert f"error: cannot write {tmp_path / 'coverage.csv'}" in result.stderr
    (outcome,) = (tmp_path / "sweep" / "structure").glob("*.json")
    assert json.loads(outcome.read_text())["status"] == "done"


@needs_full
def test_standard_error_on_a_full_disk_ends_nothing(tmp_path):
    command = ["-m", "timm_diffsens", "sweep", "net/lenet", "--structure", "--jobs", "1", "--out", tmp_path]
    buffered = {**os.environ, "PYTHONUNBUFFERED": ""}
    with FULL.open("w") as full:
        result = subprocess.run(
            [sys.executable, *command], stdout=subprocess.PIPE, stderr=full, text=True, env=buffered
        )
    assert result.returncode == 0
    assert "1 model: 1 done" in result.stdout


@pytest.mark.parametrize(
    ("left", "force", "words"),
    [
        (0, False, ""),
        (1, False, "interrupted: 1 model left; the same command goes on\n"),
        (12, False, "interrupted: 12 models left; the same command goes on\n"),
        (2, True, "interrupted: 2 models left; the same command without --force goes on\n"),
    ],
)
@pytest.mark.parametrize(
    ("failures", "more"), [(20, ""), (21, "... and 1 more failure\n"), (22, "... and 2 more failures\n")]
)
def test_one_is_no_plural(left, force, words, failures, more, capsys):
    console = progress_console()
    sweep_view.Lines(console).begin(1, 0)
    summary = {"models": 1, "status": {"failed": 1}, "sums": {}, "left": left}
    summary["failures"] = {f"m{i}": "ValueError: no" for i in range(failures)}
    sweep_view.print_summary(console, summary, [], force=force)
    said = capsys.readouterr().err
    assert said.startswith(f"1 model\n1 model: 1 failed\n{words}m0: ")
    assert said.endswith(f"m19: ValueError: no\n{more}")


def test_an_interrupted_sweep_says_how_many_are_left_and_goes_on(tmp_path, monkeypatch):
    def interrupt(self, outcome):
        raise KeyboardInterrupt

    monkeypatch.setattr(sweep_view.Lines, "finished", interrupt)
    args = ("net/lenet", "net/simple", "--structure", "--jobs", 1, "--out", tmp_path, "--json")
    result = run(*args)
    assert result.exit_code == 130
    assert json.loads(result.stdout)["left"] == 2
    monkeypatch.undo()
    again = run(*args)
    assert again.exit_code == 0
    assert json.loads(again.stdout)["left"] == 0
    assert [o["before"] for o in json.loads(again.stdout)["outcomes"]] == [True, False]


def test_what_ends_a_sweep_before_it_begins_is_no_interruption(tmp_path):
    (tmp_path / "sweep").write_text("a file in the way")
    result = run("net/lenet", "--structure", "--jobs", 1, "--out", tmp_path)
    assert result.exit_code == 2
    assert "cannot write in" in result.stderr
    assert "goes on" not in result.stdout + result.stderr


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["resnet999"], "did you mean"),
        (["no*such"], "patterns"),
        (["net/lenet", "--engine", "rai"], "did you mean ray?"),
        (["net/lenet", "--shard", "3/2"], "--shard must be i/N"),
        (["net/lenet", "--max-parameters", "many"], "--max-parameters needs a number"),
        (["net/lenet", "--max-parameters", "-3M"], "--max-parameters needs a number"),
        (["net/lenet", "--jobs", "-1"], "--jobs must be at least 1"),
        (["net/lenet", "--threads", "0"], "--threads must be at least 1"),
        (["net/lenet", "--address", "auto"], "--address is for --engine ray"),
        (["net/lenet", "--slurm", "partition=a"], "--slurm is for --engine slurm"),
        (["net/lenet", "--engine", "ray", "--jobs", "2"], "--jobs is for --engine local or slurm"),
        (["net/lenet", "--gpus", "1"], "--gpus is for --engine ray or slurm, got --engine local"),
        (["net/lenet:pretrained=true"], "net/lenet"),
        (["net/lenet", "--variants", "shuffled"], "channel-shuffled"),
        (["net/lenet", "--images", "many"], "--images needs a whole number or all"),
        (["net/lenet", "--dataset", "cifra10"], "cifar10"),
        (["net/lenet", "--cut", "1"], "ln cut"),
        ([], "PATTERN"),
    ],
)
def test_wrong_use_is_exit_2_in_a_line_or_two(args, words, tmp_path):
    result = run(*args, "--no-pretrained", "--out", tmp_path)
    assert result.exit_code == 2, (result.stdout, result.stderr)
    assert words in result.stderr
    assert "Traceback" not in result.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("engine", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_an_engine_that_is_not_installed_names_its_extra(engine, package, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    result = run("net/lenet", *QUICK, "--engine", engine, "--out", tmp_path)
    assert result.exit_code == 2
    assert f"pip install 'timm-diffsens[{engine}]'" in result.stderr


def test_the_number_of_parameters_has_a_unit(tmp_path):
    result = run("net/lenet", "--structure", "--max-parameters", "60K", "--out", tmp_path, "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["status"] == {"left out": 1}


@pytest.mark.parametrize("spec", ["net/lenet", "swinv2_cr_tiny_224"])
def test_errors_advise_options_that_a_sweep_has(spec, tmp_path):
    """What `bench` advises beside, `--checkpoint`, belongs to one model."""
    result = run(spec, "--images", "2", "--threads", "1", "--out", tmp_path, "--json")
    said = result.stderr + result.stdout
    known = run("--help").stdout
    assert result.exit_code in (1, 2)
    assert spec in said
    flags = set(re.findall(r"--[a-z][a-z-]+", said))
    assert "--no-pretrained" in flags
    assert all(flag in known for flag in flags), flags


def test_advice_is_left_out_where_it_cannot_be_followed():
    for text, told in (
        (
            "no weights; pass --checkpoint FILE, or --no-pretrained for random",
            "no weights; pass --no-pretrained for random",
        ),
        ("no test error: unlabelled; pass --test-error if it is known", "no test error: unlabelled"),
        ("it takes no weights: chosen by --checkpoint and --no-pretrained", "it takes no weights"),
        ("unknown size; pass --input-size, and --mean", "unknown size; pass --input-size, and --mean"),
    ):
        assert without_options(text, ONE_MODEL) == told
