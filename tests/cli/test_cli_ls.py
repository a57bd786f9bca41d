"""`diffsens ls`."""

import json

import pytest
from record_factory import make_record
from typer.testing import CliRunner

from timm_diffsens import registry
from timm_diffsens.cli import app
from timm_diffsens.models.nets import NETS
from timm_diffsens.results.records.store import write_record


def run(*arguments: object):
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, ["ls", *map(str, arguments)])


def listed(*arguments: object) -> list:
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.stderr
    return json.loads(result.stdout)


def test_models_of_all_three_libraries_are_listed():
    names = {row["name"] for row in listed("models")}
    assert {"resnet50", "torchvision/resnet50"} <= names
    assert {f"net/{name}" for name in NETS} <= names
    assert not [name for name in names if "fasterrcnn" in name], "classifiers only"


def test_a_pattern_selects_models():
    names = run("models", "*/resnet*").stdout.split()
    assert "torchvision/resnet18" in names
    assert "net/resnet20" in names
    assert all("/resnet" in name for name in names)
    assert {"test_resnet", "torchvision/resnet18"} <= {row["name"] for row in listed("models", "RESNET")}


def test_only_models_with_weights():
    names = {row["name"] for row in listed("models", "resnet50", "--pretrained")}
    assert "resnet50.a1_in1k" in names
    assert "resnet50" not in names


def test_layers_of_a_model():
    rows = listed("layers", "net/lenet", "--layers", "all")
    assert rows[-1]["depth"] == 1
    assert rows[-1]["shape"] == [10]
    assert rows[0]["kind"] == "Conv2d"
    assert [row["depth"] for row in rows] == sorted(row["depth"] for row in rows)
    text = run("layers", "net/lenet", "--layers", "all").stdout
    assert "6 x 28 x 28" in text


def test_several_selections_may_be_given_with_commas_or_not():
    separate = listed("layers", "net/lenet", "--layers", "0", "--layers", "3")
    assert listed("layers", "net/lenet", "--layers", "0,3") == separate
    assert [row["name"] for row in separate] == ["0", "3"]


def test_datasets():
    rows = {row["name"]: row["description"] for row in listed("datasets")}
    assert {"dead-leaves", "cifar10", "imagenet", "folder"} <= set(rows)
    assert all(rows.values())
    assert "dead-leaves" in run("datasets").stdout


def test_records(tmp_path):
    records = [make_record("a"), make_record("b", trained=None)]
    for record in records:
        write_record(tmp_path / "records", record)
    rows = listed("records", "--out", tmp_path)
    assert [row["key"] for row in rows] == [record.key for record in records]
    assert rows[0]["r"] == records[0].output.r
    assert rows[1]["trained"] is None
    assert [row["model"] for row in listed("records", "b", "--out", tmp_path)] == ["b"]
    text = run("records", "--out", tmp_path).stdout
    assert records[0].key[:12] in text
    assert "0.0721" in text


def test_records_that_look_equal_say_in_what_they_differ(tmp_path):
    """Of one network and data set; others have nothing to add."""
    checkpoint = {"weights": {"source": "checkpoint", "detail": "a.safetensors", "sha256": "11" * 32}}
    other = {"weights": {**checkpoint["weights"], "sha256": "22" * 32}}
    paler = make_record("a").model.input.model_dump() | {"mean": (0.4,) * 3}
    records = {
        "first": make_record("a", model=checkpoint),
        "smaller": make_record("a", model=checkpoint, protocol={"delta": 0.5}),
        "seeded": make_record("a", model=checkpoint, protocol={"seed": 3}),
        "retrained": make_record("a", model=other),
        "paler": make_record("a", model={**checkpoint, "input": paler}),
        "fewer": make_record("a", n=50, model=checkpoint),
        "alone": make_record("b"),
    }
    for record in records.values():
        write_record(tmp_path / "records", record)
    found = {row["key"]: row["apart"] for row in listed("records", "--out", tmp_path)}
    told = {name: found[record.key] for name, record in records.items()}
    usual = {"deformation": "delta = 1 px, cut = 3", "mean": "0.485, 0.456, 0.406"}
    assert told["first"] == {**usual, "seed": "0", "weights sha256": "11111111"}
    assert told["retrained"] == {**usual, "seed": "0", "weights sha256": "22222222"}
    assert told["seeded"] == {**usual, "seed": "3"}
    assert told["paler"] == {**usual, "mean": "0.4, 0.4, 0.4"}
    assert told["smaller"] == {"deformation": "delta = 0.5 px, cut = 3"}
    assert told["fewer"] is None
    assert told["alone"] is None
    text = " ".join(run("records", "--out", tmp_path).stdout.split())
    assert "apart" in text
    assert "seed 3" in text


def test_no_column_where_no_records_look_equal(tmp_path):
    for record in (make_record("a"), make_record("b"), make_record("a", n=50)):
        write_record(tmp_path / "records", record)
    assert "apart" not in run("records", "--out", tmp_path).stdout


def test_no_records_are_an_empty_list(tmp_path):
    (tmp_path / "records").mkdir()
    assert listed("records", "--out", tmp_path) == []
    assert run("records", "--out", tmp_path).stderr == "none\n"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["recrods"], "did you mean records"),
        (["models", "resnt50"], "did you mean resnet50"),
        (["datasets", "cifr10"], "did you mean cifar10"),
        (["layers"], "needs a model"),
        (["layers", "net/lent"], "lenet"),
        (["layers", "net/lenet", "--layers", "conv9"], "conv"),
        (["records", "--out", "nowhere"], "no folder"),
        ([], "models|layers|deformations|noises"),
    ],
    ids=str,
)
def test_wrong_use_is_exit_2_in_one_line(arguments, word):
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert word in result.stderr
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.parametrize("kind", [kind for kind in registry.KINDS if kind != "models"])
def test_every_open_kind_is_listed_with_what_it_is(kind):
    found = json.loads(CliRunner().invoke(app, ["ls", kind, "--json"]).stdout)
    assert [row["name"] for row in found] == registry.names(kind)
    assert all(row["description"] for row in found)
