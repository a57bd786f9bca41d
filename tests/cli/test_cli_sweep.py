import json
import sys

import pytest
from typer.testing import CliRunner

from timm_diffsens.cli import app

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
    assert not list(tmp_path.rglob("*.json"))


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
