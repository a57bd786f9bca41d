"""`diffsens validate`."""

import json
from pathlib import Path

import pytest
from record_factory import make_record
from typer.testing import CliRunner

from timm_diffsens.cli import app
from timm_diffsens.results.records.store import write_record


def run(*arguments: object):
    return CliRunner(env={"COLUMNS": "120"}).invoke(app, ["validate", *map(str, arguments)])


@pytest.fixture
def good(tmp_path) -> Path:
    return write_record(tmp_path / "records", make_record())


def edited(path: Path, old: str, new: str) -> Path:
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))
    return path


def test_a_good_record(good, tmp_path):
    result = run(good)
    assert result.exit_code == 0
    assert result.stdout == f"{good}: ok\n1 records, 0 bad\n"
    assert run("--out", tmp_path).stdout == result.stdout
    assert run(good, good.parent, tmp_path).stdout == result.stdout, "each file once"


@pytest.mark.parametrize(
    ("old", "new", "word"),
    [
        ('"parameters": 11689512', '"parameters": 11689513', "key does not follow"),
        (
            '"value": 0.288',
            '"value": 28.8',
            "test_error.value: Input should be less than or equal to 1, got 28.8",
        ),
        ('"train_error": null', '"train_error": NaN', "train_error"),
        ('"warnings": []', '"warning": []', "warning"),
        ('"schema_version": 2', '"schema_version": 9', "version 9"),
        ('  "key_extra"', '  "key_extra', "half-written"),
        ('"key_extra": {}', '"key_extra": {"full_error": true}', "key does not follow"),
    ],
)
def test_an_altered_record_is_bad(good, old, new, word):
    result = run(edited(good, old, new))
    assert result.exit_code == 1
    assert word in result.stdout
    assert len(result.stdout.splitlines()) == 2
    assert result.stdout.endswith("1 records, 1 bad\n")


def test_a_renamed_record_is_bad(good):
    result = run(good.rename(good.with_name("resnet18.0123456789ab.json")))
    assert result.exit_code == 1
    assert "file name" in result.stdout


def test_all_files_of_a_folder_are_checked(good, tmp_path):
    (tmp_path / "records" / "foreign.json").write_text("{}")
    write_record(tmp_path / "records", make_record("other"))
    result = run(tmp_path / "records", "--json")
    assert result.exit_code == 1
    found = json.loads(result.stdout)
    assert (found["good"], found["bad"]) == (2, 1)
    faults = {Path(file["path"]).name: file["faults"] for file in found["files"]}
    assert faults[good.name] == []
    assert "foreign" in faults["foreign.json"][0]


def test_a_path_that_is_not_there_is_wrong_use(good, tmp_path):
    for arguments in ([good, tmp_path / "gone.json"], ["--out", tmp_path / "gone"]):
        result = run(*arguments)
        assert result.exit_code == 2
        assert result.stdout == ""
        assert "gone" in result.stderr


def test_an_empty_folder_has_nothing_bad(tmp_path):
    result = run(tmp_path)
    assert (result.exit_code, result.stdout) == (0, "0 records, 0 bad\n")
