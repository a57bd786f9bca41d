"""`diffsens train --recipes`: several trainings in one process."""

import json
import sys
from contextlib import contextmanager

import pytest
from safetensors import safe_open
from safetensors.torch import load_file
from typer.testing import CliRunner

from timm_diffsens.cli import app
from timm_diffsens.train import data, loop

SIZES = ("--train-images", "64", "--epochs", "3")
LINES = """\
# two that learn, and one that cannot
net/fc2 --width 8 --half   # the smaller one

net/fc4 --lr 1e30
net/lenet --validation-images 32 --seeds 2
"""


def run(*args):
    return CliRunner().invoke(app, ["train", "scale1", *map(str, args)])


@pytest.fixture
def recipes(tmp_path, monkeypatch):
    """A file of recipes; few test images, which decide nothing here."""
    monkeypatch.setattr(data, "_TEST_IMAGES", 50)
    path = tmp_path / "some.recipes"
    path.write_text(LINES)
    return path


def test_all_lines_are_trained_but_the_one_that_fails_which_is_named(recipes, tmp_path):
    out = tmp_path / "runs"
    first = run("--recipes", recipes, *SIZES, "--out", out)
    assert first.exit_code == 1
    assert "net/fc4, seed 0: net/fc4 diverged in epoch" in first.stderr
    assert "1 of 4 trainings failed, the others are done: net/fc4, seed 0" in first.stderr
    assert [line.split()[1:4] for line in first.stdout.splitlines()] == [
        ["net/fc2", "seed", "0:"],
        ["net/lenet", "seed", "0:"],
        ["net/lenet", "seed", "1:"],
    ]
    again = run("--recipes", recipes, *SIZES, "--out", out, "--json")
    assert again.exit_code == 1
    told = json.loads(again.stdout)
    assert [each.get("now") for each in told] == [False, None, False, False]
    assert "diverged" in told[1]["error"]
    small, _, one, other = (each["recipe"] for each in told)
    assert (small["arguments"]["width"], small["half"], small["epochs"]) == (8, True, 3)
    assert (one["validation_images"], one["seed"], other["seed"]) == (32, 0, 1)
    assert small["validation_images"] == 0


def test_a_line_means_what_it_means_on_the_command_line(recipes, tmp_path):
    out = tmp_path / "runs"
    alone = run("net/lenet", "--validation-images", "32", "--seeds", "2", *SIZES, "--out", out, "--json")
    told = json.loads(run("--recipes", recipes, *SIZES, "--out", out, "--json").stdout)
    assert [each["recipe"] for each in json.loads(alone.stdout)] == [each["recipe"] for each in told[2:]]
    assert [each["now"] for each in told[2:]] == [False, False]


def test_what_a_line_says_goes_before_what_the_command_line_says(recipes, tmp_path):
    recipes.write_text("net/fc2 --epochs 1 --width 8\nnet/fc2 --epochs 1 --width 8\nnet/fc2 --width 9")
    told = json.loads(run("--recipes", recipes, *SIZES, "--out", tmp_path, "--json").stdout)
    assert [each["epochs"] for each in told] == [1, 3]  # and the same twice is trained once


def test_images_are_made_once_for_networks_that_share_them(recipes, tmp_path, monkeypatch):
    made, real = [], data._scale_detection
    monkeypatch.setattr(data, "_scale_detection", lambda *args: made.append(args) or real(*args))
    recipes.write_text("net/fc2 --width 8\nnet/fc2 --width 9\nnet/fc2 --width 9 --seed 1\n")
    assert run("--recipes", recipes, *SIZES, "--out", tmp_path / "runs").exit_code == 0
    assert len(made) == 2
    assert run("--recipes", recipes, *SIZES, "--out", tmp_path / "runs").exit_code == 0
    assert len(made) == 2  # what is done needs none


def content(path):
    """Bytes; of checkpoints, whose metadata have no fixed order, what is in them."""
    if path.suffix != ".safetensors":
        return path.read_bytes()
    with safe_open(path, "pt") as file:
        return file.metadata(), {name: tensor.numpy().tobytes() for name, tensor in load_file(path).items()}


def files_below(folder):
    return {path.relative_to(folder): content(path) for path in folder.rglob("*") if path.is_file()}


def test_interrupted_in_the_second_network_it_goes_on_to_the_same_files(recipes, tmp_path, monkeypatch):
    monkeypatch.setattr(loop.time, "perf_counter", lambda: 0.0)  # all else in the files is the training
    module = sys.modules["timm_diffsens.cli.train"]  # the name in the package is the verb

    @contextmanager
    def interrupting(recipe, place, quiet):
        def tell(row):
            if place.startswith("2 of 3") and row["epoch"] == 2:
                raise KeyboardInterrupt

        yield tell

    recipes.write_text("net/fc2 --width 8\nnet/resnet20 --width 4 --half\nnet/lenet\n")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert run("--recipes", recipes, *SIZES, "--out", whole).exit_code == 0
    with monkeypatch.context() as patch:
        patch.setattr(module, "_progress", interrupting)
        stopped = run("--recipes", recipes, *SIZES, "--out", broken)
    assert stopped.exit_code == 130
    assert {path.name for path in files_below(broken)} >= {"state.pt", "checkpoint.safetensors"}
    assert len(list(broken.rglob("checkpoint.safetensors"))) == 1
    again = run("--recipes", recipes, *SIZES, "--out", broken, "--json")
    assert again.exit_code == 0, again.stderr
    assert [each["now"] for each in json.loads(again.stdout)] == [False, True, True]
    assert files_below(broken) == files_below(whole)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("net/fc2 --out x", "line 2: --out is for the command line"),
        ("net/fc2 --no-graph", "line 2: --graph is for the command line"),
        ("net/fc2 --json", "line 2: --json is for the command line"),
        ("net/fc2 --lr fast", "line 2: Invalid value for '--lr'"),
        ("net/fc2 --nosuch 3", "line 2: No such option"),
        ("--lr 1", "line 2: no MODEL"),
        ("net/fc2 --lr -1", "line 2: lr must be positive"),
        ("net/fc2 --fitted-at 0.1", "line 2: --fitted-at says when --until-fitted stops"),
        ("net/fc2 'a", "line 2: No closing quotation"),
        ("net/fc3", "did you mean net/fc"),
        ("net/simple --bias-mean -10", "bias_mean and bias_std need bias=last or bias=all"),
        ("net/fc2 --channels-last", "--channels-last is for CUDA devices, got cpu"),
    ],
)
def test_a_wrong_line_is_named_before_anything_is_trained(recipes, tmp_path, line, message):
    recipes.write_text(f"net/fc2 --width 8\n{line}\n")
    result = run("--recipes", recipes, *SIZES, "--out", tmp_path / "runs", "--device", "cpu")
    assert result.exit_code == 2
    assert message in result.stderr.replace("\n", " ")
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ((), "Give MODEL... or --recipes FILE"),
        (("net/fc2", "--recipes", "x"), "Give MODEL... or --recipes FILE"),
        (("--recipes", "nosuch.recipes"), "nosuch.recipes cannot be read"),
    ],
)
def test_without_recipes_there_is_nothing_to_train(args, message):
    result = run(*args)
    assert result.exit_code == 2
    assert message in result.stderr.replace("\n", " ")


def test_a_file_without_recipes_is_refused(recipes):
    recipes.write_text("# nothing yet\n")
    result = run("--recipes", recipes)
    assert result.exit_code == 2
    assert "has no recipes" in result.stderr


def test_a_network_that_raises_anything_does_not_stop_the_others(recipes, tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text(
        "import torch\n\n\nclass Net(torch.nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.w = torch.nn.Linear(1024, 1)\n\n"
        "    def forward(self, x):\n        return self.w(x.flatten(1)) if len(x) == 2 else {}[len(x)]\n"
    )
    recipes.write_text(f"{broken}:Net\nnet/fc2 --width 8\n")
    result = run("--recipes", recipes, *SIZES, "--out", tmp_path / "runs")
    assert result.exit_code == 1
    assert "broken.py:Net, seed 0: KeyError: 64" in result.stderr
    assert "net/fc2 seed 0: test error" in result.stdout
