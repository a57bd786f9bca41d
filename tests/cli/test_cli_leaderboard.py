"""`diffsens leaderboard`."""

import json
import time
from pathlib import Path

import pytest
from record_factory import replace_layer
from results.stats.test_leaderboard import HOSTILE, trained, written
from typer.testing import CliRunner

from timm_diffsens.cli import app
from timm_diffsens.results.records.store import write_record
from timm_diffsens.schema.records import Record


def run(*arguments: object):
    return CliRunner(env={"COLUMNS": "160"}).invoke(app, ["leaderboard", *map(str, arguments)])


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return [trained(i) for i in range(8)]


@pytest.fixture
def folder(tmp_path, records) -> Path:
    return written(tmp_path, records)


def test_table_verdict_and_files(folder, records):
    result = run("--out", folder, "--resamples", 200)
    assert result.exit_code == 0, result.output
    for record in records:
        assert record.model.spec in result.stdout
    for word in ("cifar10, val", "95 % families", "Over 8 networks", "R correlates", "channel-shuffled"):
        assert word in result.stdout
    for name in ("leaderboard.csv", "README.md", "index.html"):
        assert (folder / name).stat().st_size > 500
        assert name in result.stderr
    assert len(list((folder / "figures").glob("*.svg"))) == 2


def test_json_is_one_document(folder):
    result = run("--out", folder, "--resamples", 200, "--json")
    assert result.exit_code == 0
    board = json.loads(result.stdout)
    (group,) = board["groups"]
    assert len(group["models"]) == len(group["points"]) == 8
    assert group["verdict"].startswith("Over 8 networks")
    assert {row["measure"] for row in group["correlations"]} == {"d", "g", "r"}
    assert board["faulty"] == []
    assert Path(board["written"][0]).name == "leaderboard.csv"


def test_the_error_that_a_board_expects_of_a_network(folder, tmp_path):
    """The made-up errors go with R in all families: it is predicted; nothing is written."""
    file = write_record(tmp_path / "new", trained(50))
    result = run("--out", folder, "--predict", file, "--json")
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert (found["group"], found["family"], found["family on the board"]) == (
        "cifar10, val",
        "family50",
        False,
    )
    row = next(row for row in found["predictions"] if row["measure"] == "r")
    assert row["low"] < found["test error"] < row["high"]
    assert row["low"] < row["error"] < row["high"]
    assert 0 <= row["inside"] <= row["of"] == 8
    shown = run("--out", folder, "--predict", file)
    assert f"{row['inside']:g} of 8" in shown.stdout
    assert "family50, of which the board has none, or too few" in shown.stdout
    there = Record.load(next((folder / "records").rglob("*.json")))
    by_key = run("--out", folder, "--predict", there.key[:12], "--json")
    assert json.loads(by_key.stdout)["model"] == there.model.spec
    assert [path.name for path in folder.iterdir() if path.is_file()] == []
    far = trained(52, train_error=0.3, test_error={"value": 0.999})
    far = replace_layer(
        far, -1, far.variants["original"][-1].model_copy(update={"d": 50.0, "r": 50.0 / far.output.g})
    )
    file = write_record(tmp_path / "new", far)
    shown = run("--out", folder, "--predict", file).output
    assert "D lies outside of the board's" in shown
    told = json.loads(run("--out", folder, "--predict", file, "--json").stdout)["cautions"]
    assert all(caution in shown for caution in told)
    assert len(told) == 4
    assert "extrapolated" in shown
    assert "outside of the interval by" in shown
    assert "its training error is 30.0%" in shown
    refused = run("--out", folder, "--predict", write_record(tmp_path / "new", trained(51, dataset="folder")))
    assert refused.exit_code == 2
    assert "data set: folder instead of cifar10" in refused.stderr


def test_figures_in_every_format(folder, tmp_path):
    assert run("--out", folder, "--resamples", 200, "--figures", tmp_path / "drawn").exit_code == 0
    starts = {".png": b"\x89PNG", ".svg": b"<svg", ".pdf": b"%PDF"}
    files = list((tmp_path / "drawn").iterdir())
    assert len(files) == 6
    for file in files:
        assert file.read_bytes().startswith(starts[file.suffix])


def test_figures_for_a_column_leave_those_of_the_board_as_they_are(folder, tmp_path):
    assert run("--out", folder, "--resamples", 200).exit_code == 0
    before = {path.name: path.read_bytes() for path in (folder / "figures").iterdir()}
    options = ["--figures", tmp_path / "drawn", "--only", "r", "--column", "85mm", "--names"]
    assert run("--out", folder, "--resamples", 200, *options).exit_code == 0
    assert {path.name: path.read_bytes() for path in (folder / "figures").iterdir()} == before
    (drawn,) = (path.read_text() for path in (tmp_path / "drawn").glob("*scatter.svg"))
    assert "R = D / G" in drawn
    assert "D (deformation)" not in drawn
    for wrong, fault in ((["--names"], "give --figures DIR"), (["--only", "sizes"], "give --figures DIR")):
        assert fault in run("--out", folder, *wrong).stderr
    narrow = run("--out", folder, "--figures", tmp_path / "drawn", "--column", "85mm")
    assert narrow.exit_code == 2
    assert "too narrow for 3 panels: use --only r" in narrow.stderr


def test_a_faulty_file_is_named_and_everything_else_is_built(folder):
    (folder / "records" / "half.json").write_text('{"schema_version": 1')
    result = run("--out", folder, "--resamples", 200)
    assert result.exit_code == 1
    assert "half.json" in result.stderr
    assert "Over 8 networks" in result.stdout
    assert (folder / "index.html").exists()


def test_only_faulty_files(tmp_path):
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / "half.json").write_text("{")
    result = run("--out", tmp_path)
    assert result.exit_code == 1
    assert "half.json" in result.stderr
    assert not (tmp_path / "README.md").exists()


def test_unfitted_networks_on_request(tmp_path, records):
    folder = written(tmp_path, [*records[:5], trained(20, train_error=0.3)])
    result = run("--out", folder, "--resamples", 200)
    assert "Over 5 networks" in result.stdout
    assert "train error 30.0%" in result.stdout
    result = run("--out", folder, "--resamples", 200, "--include-unfitted")
    assert "Over 6 networks" in result.stdout


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["--out", "nowhere"], "no folder"),
        (["--errors", "nowhere.csv"], "cannot read"),
        (["record.json"], "without --check"),
        (["--check"], "needs the files"),
        (["--check", "nowhere.json"], "no file or folder"),
        (["--resamples", "3"], "100"),
    ],
)
def test_wrong_use(arguments, word, folder, monkeypatch):
    monkeypatch.chdir(folder)
    result = run("--out", folder, *arguments)
    assert result.exit_code == 2
    assert word in result.stderr
    assert result.stdout == ""


def test_check_of_new_records(folder, tmp_path):
    good = write_record(tmp_path / "new", trained(30))
    odd = write_record(tmp_path / "new", trained(31, protocol={"delta": 2.0}))
    result = run("--out", folder, "--check", good)
    assert (result.exit_code, result.stdout) == (0, f"{good}: ok\n1 records, 0 bad\n")
    assert not (folder / "README.md").exists(), "nothing is written"
    result = run("--out", folder, "--check", good, odd, "--json")
    assert result.exit_code == 1
    faults = {Path(file["path"]): file["faults"] for file in json.loads(result.stdout)["files"]}
    assert faults[good] == []
    assert "delta: 2 instead of 1" in faults[odd][0]


def test_check_of_records_that_lie_in_the_board_already(folder):
    new = write_record(folder / "records", trained(30))
    assert run("--out", folder, "--check", new).exit_code == 0
    assert run("--out", folder, "--check", folder / "records").exit_code == 0, "there is no board beside them"


def test_published_errors(tmp_path, records):
    table = tmp_path / "errors.csv"
    table.write_text("model,top1_err\nnet00,31.0\n")
    weights = {"source": "pretrained", "sha256": "a" * 64}
    imagenet = [
        trained(i, dataset="imagenet", model={"weights": weights | {"sha256": f"{i:064x}"}}) for i in range(2)
    ]
    result = run("--out", written(tmp_path / "board", imagenet), "--errors", table, "--json")
    assert result.exit_code == 0
    board = json.loads(result.stdout)
    rows = {row["model"]: row for row in board["groups"][0]["models"]}
    assert (rows["net00"]["error"], rows["net00"]["error_source"]) == (0.31, "published")
    assert rows["net01"]["error_source"] == "measured"
    assert "net01" in board["notes"][0]


def test_a_hostile_name_is_shown_as_it_is(tmp_path, records):
    folder = written(tmp_path, [*records[:5], trained(9, HOSTILE + "\x1b[31m[bold]")])
    result = run("--out", folder, "--resamples", 200)
    assert result.exit_code == 0
    assert "\x1b" not in result.stdout
    assert "[bold]" in "".join(result.stdout.split())


@pytest.mark.slow
def test_fifteen_hundred_records(tmp_path):
    """Ten seconds on an idle machine, in processor time of this process."""
    folder = written(tmp_path, [trained(i, train_error=None) for i in range(1500)])
    started = time.process_time()
    assert run("--out", folder).exit_code == 0
    assert time.process_time() - started < 10
