"""`diffsens theory`."""

import json

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from timm_diffsens.cli import _Verbs
from timm_diffsens.cli.theory import theory
from timm_diffsens.models.arguments import ModelArguments
from timm_diffsens.schema.training import TrainOptions
from timm_diffsens.train.recipe import Recipe
from timm_diffsens.train.run import train

# a second command keeps Typer from leaving out the verb
app = typer.Typer(cls=_Verbs)
app.command()(theory)
app.command("other")(lambda: None)

SMALL = ("--depth", "4", "--images", "32")


def run(*arguments: object, columns: int = 140):
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(app, ["theory", *map(str, arguments)])


def test_tables():
    result = run("--task", "1", *SMALL)
    assert result.exit_code == 0, result.stderr
    for text in (
        "task 1, stride 1, F = 3",
        "43 pixels",
        "asymptotic",
        "-3",
        "layers 2 to 4",
        "Proposition A.1",
    ):
        assert text in result.stdout
    assert "task 2" not in result.stdout
    rows = [line.split() for line in result.stdout.splitlines()]
    assert next(row[:3] for row in rows if row[:1] == ["4"]) == ["4", "1.63", "1.63"]
    assert ["3", "0.2222", "0.3333", "0", "0", "2.309", "2.828", "2.828"] in rows


def test_one_json_document():
    result = run("--task", "2", "--depth", "4", "--depth", "5", "--images", "32", "--json")
    assert result.exit_code == 0, result.stderr
    document = json.loads(result.stdout)
    assert [s["depth"] for s in document["settings"]] == [4, 5]
    assert [s["length"] for s in document["settings"]] == [16, 32]
    first = document["settings"][0]["layers"][0]
    assert first["width"] == first["width_measured"] == 2
    assert first["homogeneous"]["n"] == 32
    assert document["settings"][0]["layers"][-1]["exact"]["d"] is None
    assert document["settings"][1]["exponents"]["r"]["asymptotic"] == -2
    assert {row["filter_size"] for row in document["proposition_a1"]} == {2, 3, 4, 5}


def test_both_tasks_by_default_and_a_figure(tmp_path):
    result = run(*SMALL, "--figure", tmp_path / "a.svg", "--json", "--quiet")
    assert result.exit_code == 0, result.stderr
    assert [s["task"] for s in json.loads(result.stdout)["settings"]] == [1, 2]
    text = (tmp_path / "a.svg").read_text()
    assert "task 1, stride 1, F = 3" in text
    assert "task 2, stride 2, F = 2" in text


def test_a_folder_of_results(tmp_path):
    result = run("--task", "1", *SMALL, "--out", tmp_path / "new")
    assert result.exit_code == 0, result.stderr
    assert {path.name for path in (tmp_path / "new").iterdir()} == {"theory.csv", "theory.json", "theory.svg"}
    document = json.loads((tmp_path / "new" / "theory.json").read_text())
    frame = pd.read_csv(tmp_path / "new" / "theory.csv")
    exact = frame.query("curve == 'exact' and measure == 'G'")["value"]
    assert exact.to_list() == [layer["exact"]["g"] for layer in document["settings"][0]["layers"]]


def test_random_networks_of_infinite_width_and_the_one_of_largest_margin(tmp_path):
    small = ("--task", "1", "--depth", "2", "--length", "16", "--xi", "4", "--gap", "1", "--images", "32")
    result = run(*small, "--max-margin", "--out", tmp_path)
    assert result.exit_code == 0, result.stderr
    assert "infinitely many channels" in result.stdout
    (setting,) = json.loads((tmp_path / "theory.json").read_text())["settings"]
    assert setting["gap"] == 1
    margins = [setting["max_margin"][name]["margin"] for name in ("homogeneous", "free")]
    assert margins[0] <= margins[1]
    assert f"Normalised margin {margins[1]:.4g}, of homogeneous filters {margins[0]:.4g}" in result.stdout
    frame = pd.read_csv(tmp_path / "theory.csv")
    infinite = frame.query("curve == 'init, infinite width' and measure == 'D'")["value"]
    first = [layer["infinite_width"]["init, infinite width"]["d"] for layer in setting["layers"]]
    assert infinite.to_list() == first
    assert {"max margin", "init, infinite width, biases"} <= set(frame["curve"])
    for name in ("max margin", "init, infinite width"):
        assert name in (tmp_path / "theory.svg").read_text()
    assert "max_margin" not in json.loads(run(*small, "--json").stdout)["settings"][0]


def test_many_layers_are_thinned_in_the_table():
    result = run("--task", "1", "--depth", "20", "--length", "64", "--xi", "16", "--images", "16")
    assert result.exit_code == 0, result.stderr
    assert "every 2 layers" in result.stdout
    assert any(line.split()[:1] == ["20"] for line in result.stdout.splitlines())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--task", "3"), "task must be 1 or 2, got 3"),
        (("--task", "2", "--length", "96"), "divisible by 128, got 96"),
        (("--task", "2", "--xi", "30"), "patches of at least 2 pixels, got 30"),
        (("--depth", "0"), "at least 1 layer"),
        (("--figure", "a.jpg"), "unknown figure format '.jpg'"),
        (("--images", "many"), "--images"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_two(arguments, message):
    result = run(*arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert result.stdout == ""


def test_trained_checkpoints_stand_beside_the_theory(tmp_path):
    size = {"size": 32, "xi": 4}
    arguments = ModelArguments(width=4, depth=4, filter=2, stride=2)
    for seed in (0, 1):
        recipe = Recipe(
            "scale2",
            "net/simple",
            arguments,
            scale={"dims": 1, **size},
            epochs=1,
            train_images=32,
            seed=seed,
        )
        train(recipe, TrainOptions(out=tmp_path))
    files = sorted(tmp_path.glob("scale2/*/checkpoint.safetensors"))
    result = run(*files, "--images", "16", "--out", tmp_path / "out")
    assert result.exit_code == 0, result.stderr
    assert "task 2, stride 2, F = 2: 4 layers, 32 pixels, xi = 4" in result.stdout
    assert "trained, seeds 0, 1: test error" in result.stdout
    curves = set(pd.read_csv(tmp_path / "out" / "theory.csv")["curve"])
    assert {"exact", "trained", "mean channel", "init"} <= curves
    document = json.loads((tmp_path / "out" / "theory.json").read_text())
    assert [s["seed"] for s in document["settings"][0]["trained"]["seeds"]] == [0, 1]
    result = run(*files, "--task", "2")
    assert result.exit_code == 2
    assert "the checkpoints say which task" in result.stderr
