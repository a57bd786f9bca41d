"""`diffsens reproduce`."""

import json
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from timm_diffsens.cli import _Verbs
from timm_diffsens.cli.reproduce import reproduce

# a second command keeps Typer from leaving out the verb
app = typer.Typer(cls=_Verbs)
app.command()(reproduce)
app.command("other")(lambda: None)


def run(*arguments: object):
    return CliRunner(env={"COLUMNS": "140"}).invoke(app, ["reproduce", *map(str, arguments)])


def test_figure_verdicts_and_pages(tmp_path):
    result = run("fig6", "--out", tmp_path, "--page", tmp_path / "docs" / "page.md")
    assert result.exit_code == 0, result.stderr
    assert result.stdout.count("held (6 of 6)") == 2
    for name in ("index.html", "docs/page.md", "figures/fig6/stride-1.svg", "figures/fig6/report.json"):
        assert (tmp_path / name).is_file(), name
    assert not (tmp_path / "README.md").exists()


def test_json(tmp_path):
    result = run("fig6", "--out", tmp_path, "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert document["scale"] == "small"
    assert [claim["verdict"] for claim in document["targets"][0]["claims"]] == ["held", "held"]


def test_a_target_without_its_images_is_exit_1(tmp_path):
    result = run("fig13", "fig6", "--out", tmp_path)
    assert result.exit_code == 1
    assert "missing: no CIFAR-10 images: give --data-dir" in result.stdout
    assert result.stdout.count("held (6 of 6)") == 2


def test_when_the_minutes_are_over_it_is_exit_3_and_the_same_command_goes_on(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # no leaderboard: fig8 needs trainings
    result = run("fig6", "fig8", "--out", tmp_path / "out", "--minutes", "1e-6")
    assert result.exit_code == 3, result.stderr
    assert "held (6 of 6)" in result.stdout
    assert "1 of 2 figures and tables are made; the same command goes on from here" in result.stderr
    assert (tmp_path / "out" / "index.html").is_file()
    assert not (tmp_path / "out" / "figures" / "fig8").exists()
    assert run("fig6", "--out", tmp_path / "out", "--minutes", "60").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["fig2"], "unknown figure or table 'fig2'; did you mean"),
        (["fig6", "--scale", "large"], "unknown scale 'large'"),
        (["fig6", "--data-dir", "nowhere"], "nowhere is no folder"),
        (["fig6", "--checkpoints", "nowhere"], "nowhere is no folder"),
        (["fig6", "--checkpoints", Path(__file__).parent], "there is no checkpoint, *.safetensors, in"),
        (["fig6", "--board", "nowhere"], "nowhere is no folder"),
        (["fig6", "--minutes", "0"], "--minutes must be positive, got 0"),
        (["fig6", "--weights", "resnet50"], "expected MODEL=FILE"),
        (["fig6", "--weights", "resnet50=nowhere"], "expected MODEL=FILE"),
        (["fig6", "--device", "tpu"], "tpu"),
    ],
)
def test_wrong_use_is_exit_2_and_writes_nothing(tmp_path, arguments, words):
    result = run(*arguments, "--out", tmp_path / "out")
    assert result.exit_code == 2, result.output
    assert words in result.stderr
    assert not (tmp_path / "out").exists()
