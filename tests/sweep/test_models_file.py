"""A sweep's models from a file: rows with options of their own, and what is wrong with them."""

import json
from pathlib import Path

import pytest
import safetensors.torch
import torch
from typer.testing import CliRunner

from timm_diffsens.cli import app
from timm_diffsens.errors import UsageError
from timm_diffsens.results.records.store import iter_records
from timm_diffsens.schema.config import Config
from timm_diffsens.sweep.models_file import read_models

QUICK = ["--dataset", "scale1", "--images", "2", "--layers", "output", "--variants", "original"]
QUICK += ["--threads", "1"]
NETS = """from torch import nn

def small(in_chans=1, num_classes=1):
    return nn.Sequential(
        nn.Conv2d(in_chans, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes)
    )
"""
TWO = "model,checkpoint\nnets.py:small,1.safetensors\nnets.py:small,2.safetensors\n"


@pytest.fixture
def zoo(tmp_path) -> Path:
    """A folder with a network's file and two checkpoints of it."""
    folder = tmp_path / "zoo"
    folder.mkdir()
    (folder / "nets.py").write_text(NETS)
    made: dict = {}
    exec(NETS, made)
    for seed in (1, 2):
        torch.manual_seed(seed)
        safetensors.torch.save_file(made["small"]().state_dict(), folder / f"{seed}.safetensors")
    return folder


def run(*args):
    return CliRunner().invoke(app, ["sweep", *map(str, args)])


def test_csv_and_yaml_say_the_same(zoo):
    (zoo / "zoo.csv").write_text(
        "Model,checkpoint,Input-Size,mean,error,licence\n"
        'nets.py:small,1.safetensors,32,"0.5,0.4,0.3",0.25,MIT\n'
        "net/lenet,,,,,\n",
        encoding="utf-8-sig",
    )
    (zoo / "zoo.yaml").write_text(
        "- model: nets.py:small\n  checkpoint: 1.safetensors\n  input: 32\n  mean: [0.5, 0.4, 0.3]\n"
        "  error: 0.25\n  licence: MIT\n- model: net/lenet\n  std:\n"
    )
    common = Config(images=7, licence="ours")
    tables = [read_models(zoo / name, common) for name in ("zoo.csv", "zoo.yaml")]
    assert [(row.model, row.options) for row in tables[0]] == [(row.model, row.options) for row in tables[1]]
    first, second = tables[0]
    assert first.model == f"{zoo}/nets.py:small"
    assert first.options == {
        "checkpoint": str(zoo / "1.safetensors"),
        "input_size": [32, 32],
        "mean": [0.5, 0.4, 0.3],
        "test_error": 0.25,
        "licence": "MIT",
        "images": 7,
    }
    assert (second.model, second.options) == ("net/lenet", {"images": 7, "licence": "ours"})


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("model,chekpoint\nnet/lenet,x\n", ["zoo.csv: unknown column 'chekpoint'", "checkpoint"]),
        ("checkpoint\nx\n", ["row 1", "needs a model"]),
        ("model\nnet/lenet\nnet/lenett\n", ["row 2 (net/lenett)", "net/lenet"]),
        (
            "model,checkpoint\nnet/lenet,gone.pt\n",
            ["row 1 (net/lenet)", "checkpoint", "gone.pt is not there"],
        ),
        ("model,error\nnet/lenet,50\n", ["row 1 (net/lenet)", "test_error", "between 0 and 1", "50"]),
        ("model\nnet/lenet,7\n", ["row 1", "more cells"]),
        ('model\n"net/lenet\n', ["after line 1", "unexpected end of data"]),
        ("model,images\n", ["names no models"]),
        ("", ["names no models"]),
    ],
)
def test_what_is_wrong_with_a_table_is_said_of_its_row(tmp_path, text, said):
    file = tmp_path / "zoo.csv"
    file.write_text(text)
    with pytest.raises(UsageError) as error:
        read_models(file, Config())
    assert all(part in str(error.value) for part in said), str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("zoo.yaml", b"model: net/lenet\n", "must be a list of mappings"),
        ("zoo.yaml", b"- net/lenet\n", "must be a list of mappings"),
        ("zoo.yaml", b"- {model: [\n", "cannot read"),
        ("zoo.yaml", b"- {model: !!python/object/apply:os.getcwd []}\n", "needs a model, got \\[\\]"),
        ("zoo.yaml", b"- model: [3]\n", "needs a model, got"),
        ("zoo.yaml", b"- {model: net/lenet, error: 0.1, error: 0.2}\n", "'error' stands twice"),
        ("zoo.yaml", b"- {model: net/lenet, error: 0.1, test_error: 0.2}\n", "two columns say test_error"),
        ("zoo.yaml", b"[" * 5000, "cannot read"),
        ("zoo.csv", b"model,error,test_error\nnet/lenet,0.1,0.2\n", "two columns say test_error"),
        ("zoo.csv", b"model,error,error\nnet/lenet,0.1,\n", "two columns say test_error"),
        ("zoo.csv", b"model,device\nnet/lenet,cuda:1\n", "unknown column 'device'"),
        ("zoo.csv", b"model\nnet/\xff\n", "no UTF-8"),
        ("zoo.txt", b"net/lenet\n", ".csv or .yaml"),
    ],
)
def test_files_of_another_kind_are_refused(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=said):
        read_models(tmp_path / name, Config())


def test_two_checkpoints_of_one_architecture_are_measured_and_make_a_board(zoo, tmp_path):
    """One command: records with what the rows say, the table with a row each, the board."""
    (zoo / "zoo.csv").write_text(
        "model,checkpoint,error,origin,licence\nnets.py:small,1.safetensors,0.1,ours,MIT\n"
        "nets.py:small,2.safetensors,,,\n"
    )
    out = tmp_path / "out"
    done = run("--models", zoo / "zoo.csv", *QUICK, "--out", out, "--board", "--json")
    assert done.exit_code == 0, done.stderr
    told = json.loads(done.stdout)
    assert told["status"] == {"done": 2}
    assert [Path(path).name for path in told["written"]][:3] == ["sweep.csv", "sweep.json", "leaderboard.csv"]
    records = {record.model.weights.detail: record for _, record in iter_records(out / "records")}
    assert set(records) == {"1.safetensors", "2.safetensors"}
    first, second = records["1.safetensors"], records["2.safetensors"]
    assert (first.model.weights.origin, first.model.weights.licence) == ("ours", "MIT")
    assert (first.test_error.value, first.test_error.source) == (0.1, "given")
    assert second.test_error.source == "measured"
    assert "licence" not in second.model_dump(mode="json")["model"]["weights"]
    rows = (out / "sweep.csv").read_text().splitlines()
    assert len(rows) == 3
    assert (out / "index.html").exists()


def test_published_errors_are_read_before_anything_is_measured(zoo, tmp_path):
    (zoo / "zoo.csv").write_text(TWO)
    (tmp_path / "results.csv").write_text("model,top1\nresnet18,30\n")
    asked = (
        "--models",
        zoo / "zoo.csv",
        *QUICK,
        "--out",
        tmp_path / "out",
        "--errors",
        tmp_path / "results.csv",
    )
    for more, said in (((), "give --board too"), (("--board",), "has no column top1_err")):
        refused = run(*asked, *more)
        assert refused.exit_code == 2
        assert said in refused.stderr
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_that_changed_is_measured_again(zoo, tmp_path):
    (zoo / "zoo.csv").write_text("model,checkpoint\nnets.py:small,1.safetensors\n")
    out = tmp_path / "out"
    asked = ("--models", zoo / "zoo.csv", *QUICK, "--no-pretrained", "--out", out)
    assert run(*asked).exit_code == 0
    weights = safetensors.torch.load_file(zoo / "1.safetensors")
    changed = {name: value + torch.ones_like(value) for name, value in weights.items()}
    safetensors.torch.save_file(changed, zoo / "1.safetensors")
    assert run(*asked).exit_code == 0
    assert len(list(iter_records(out / "records"))) == 2


def test_a_network_that_fails_ends_no_other_and_is_named_with_its_checkpoint(zoo, tmp_path):
    wrong = {"nothing.weight": torch.zeros(1)}
    safetensors.torch.save_file(wrong, zoo / "1.safetensors")
    (zoo / "zoo.csv").write_text(TWO)
    done = run("--models", zoo / "zoo.csv", *QUICK, "--out", tmp_path / "out", "--json")
    assert done.exit_code == 1
    told = json.loads(done.stdout)
    assert told["status"] == {"done": 1, "failed": 1}
    (failed,) = told["failures"]
    assert failed.endswith("nets.py:small (zoo/1.safetensors)")


def test_numbers_of_yaml_are_those_that_are_written(tmp_path):
    (tmp_path / "zoo.yaml").write_text("- {model: net/lenet, seed: 010, full_error: true, std: 0.5}\n")
    (row,) = read_models(tmp_path / "zoo.yaml", Config())
    assert row.options == {"seed": 10, "full_error": True, "std": [0.5]}


def test_checkpoints_of_one_name_that_fail_are_both_named(zoo, tmp_path):
    for seed in "12":
        (zoo / seed).mkdir()
        safetensors.torch.save_file({"nothing": torch.zeros(1)}, zoo / seed / "checkpoint.safetensors")
    rows = "".join(f"nets.py:small,{seed}/checkpoint.safetensors\n" for seed in "12")
    (zoo / "zoo.csv").write_text("model,checkpoint\n" + rows)
    done = run("--models", zoo / "zoo.csv", *QUICK, "--out", tmp_path / "out", "--json")
    assert len(json.loads(done.stdout)["failures"]) == 2
    table = (tmp_path / "out" / "sweep.csv").read_text()
    assert "1/checkpoint.safetensors" in table
    assert "2/checkpoint.safetensors" in table


def test_a_row_twice_is_refused_and_a_corrected_licence_is_taken(zoo, tmp_path):
    (zoo / "zoo.csv").write_text("model,checkpoint,licence\n" + "nets.py:small,1.safetensors,MIT\n" * 2)
    refused = run("--models", zoo / "zoo.csv", *QUICK, "--out", tmp_path / "out")
    assert refused.exit_code == 2
    assert "row 2" in refused.stderr
    for licence in ("MIT", "BSD"):
        (zoo / "zoo.csv").write_text(f"model,checkpoint,licence\nnets.py:small,1.safetensors,{licence}\n")
        assert run("--models", zoo / "zoo.csv", *QUICK, "--out", tmp_path / "out").exit_code == 0
    ((_, record),) = iter_records(tmp_path / "out" / "records")
    assert record.model.weights.licence == "BSD"


def test_shards_of_a_file_share_its_table(zoo, tmp_path):
    (zoo / "zoo.csv").write_text(TWO)
    for shard in ("1/2", "2/2"):
        asked = ("--models", zoo / "zoo.csv", *QUICK, "--out", tmp_path / "out", "--shard", shard)
        assert run(*asked).exit_code == 0
    assert len((tmp_path / "out" / "sweep.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize("given", [(), ("net/lenet", "--models", "zoo.csv")])
def test_models_come_from_patterns_or_from_a_file(given):
    refused = run(*given)
    assert refused.exit_code == 2
    assert "needs either PATTERN... or --models FILE" in refused.stderr


def test_an_edited_row_takes_the_place_of_the_one_before(zoo, tmp_path):
    """And what is there already is said to be, also of networks of one's own, of which only workers know."""
    file, out = zoo / "zoo.csv", tmp_path / "out"
    asked = ["--models", file, "--no-pretrained", *QUICK, "--out", out]
    file.write_text("model,test_error\nnets.py:small,\nnet/lenet,\n")
    first = run(*asked)
    assert first.exit_code == 0, first.output
    assert "2 models: 2 done\n" in first.stdout
    file.write_text("model,test_error\nnets.py:small,0.2\nnet/lenet,\n")
    second = run(*asked)
    table = (out / "sweep.csv").read_text().splitlines()
    assert [line.partition(",")[0].rpartition("/")[2] for line in table[1:]] == ["nets.py:small", "lenet"]
    assert second.stderr.startswith("2 models, 1 done before\n")
    third = run(*asked)
    assert "2 models: 2 done (2 of them before)\n" in third.stdout
    assert "small: done before, " in third.stderr
    assert (out / "sweep.csv").read_text().splitlines() == table
    file.write_text("model,test_error\nnets.py:small,0.2\n")  # one without options is gone
    assert run(*asked).exit_code == 0
    assert (out / "sweep.csv").read_text().splitlines() == table[:2]


def test_a_file_that_is_not_there_names_the_nearest(zoo):
    """Nearest by its name: all files of a deep folder have long paths that are nearly the same."""
    deep = zoo / ("a-folder-with-a-long-name-" * 5)
    deep.mkdir()
    for name in ("zoo.csv", "q.yaml", "7.json"):
        (deep / name).write_text("model\nnet/lenet\n")
    with pytest.raises(UsageError) as raised:
        read_models(deep / "zoo.cvs", Config())
    missing = deep / "zoo.cvs"
    assert str(raised.value) == f"the file of models {missing} does not exist; did you mean {deep}/zoo.csv?"
    with pytest.raises(UsageError, match=r"hhhh\.csv does not exist$"):
        read_models(zoo / "hhhh.csv", Config())
