"""Three hundred records of ill will: every verb that reads records goes on, and says what it left out."""

import csv
import json
import math
import re
import unicodedata
from pathlib import Path
from xml.etree import ElementTree

import pytest
from board_factory import random_record
from hostile import FREE_TEXT, NUMBERS, PAYLOADS, corpus, every_payload, write_corpus
from typer.testing import CliRunner, Result

from timm_diffsens import DiffsensWarning, read_records
from timm_diffsens.cli import app
from timm_diffsens.printable import all_spelt_out
from timm_diffsens.results.records.reading import MOST_BYTES, checked
from timm_diffsens.results.records.store import find_record, iter_records, write_record
from timm_diffsens.schema.records import Record


@pytest.fixture(scope="module")
def board(tmp_path_factory) -> tuple[Path, dict[Path, bool]]:
    folder = tmp_path_factory.mktemp("board")
    return folder, write_corpus(folder / "records")


def run(*arguments: object) -> Result:
    result = CliRunner(env={"COLUMNS": "120"}).invoke(app, list(map(str, arguments)))
    assert all(map(is_plain, result.output))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exc_info
    return result


def in_output(path: Path) -> str:
    """How a file's name stands in output."""
    return path.name.encode("unicode_escape").decode()


def test_there_are_many_and_they_reach_every_field():
    names = [one.name for one in corpus()]
    assert len(names) == len(set(names)) > 300
    assert len(PAYLOADS) == 20
    assert len(FREE_TEXT) > 35
    assert len(NUMBERS) > 35


def test_the_gate_lets_through_what_is_sound_and_nothing_else(board):
    _, files = board
    wrong = {path.name: checked(path)[1][:3] for path, bad in files.items() if bool(checked(path)[1]) != bad}
    assert not wrong


def test_a_reason_is_one_short_line(board):
    _, files = board
    for path, bad in files.items():
        if bad:
            for fault in checked(path)[1]:
                assert "\n" not in fault
                assert len(fault) <= 300, path.name


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("pipe", "no regular file"),
        ("socket", "no regular file"),
        ("device", "no regular file"),
        ("large", "larger than 64 MiB"),
        ("values", "more than 1,048,576 values"),
        ("deep", "recursion limit"),
        ("deep-free", "more than 32 levels"),
        ("twice", "trained stands twice"),
        ("twice-inside", "layer stands twice"),
        ("odd-variants-original--1-r", "r is 0.5, but d / g is"),
        ("odd-model-parameters", "too few"),
        ("number-data-seed-beyond", "less than 18446744073709551616"),
    ],
)
def test_the_reason_says_what_is_wrong(board, name, word):
    folder, _ = board
    assert word in " ".join(checked(folder / "records" / f"{name}.json")[1])


def test_a_record_of_the_largest_size_is_read(board, tmp_path):
    folder, _ = board
    good = (folder / "records" / "good.json").read_bytes()
    path = tmp_path / "padded.json"
    path.write_bytes(good + b" " * (MOST_BYTES - len(good)))
    assert checked(path)[1] == []
    path.write_bytes(good + b" " * (MOST_BYTES + 1 - len(good)))
    assert "larger" in checked(path)[1][0]


def test_python_reads_the_same(board):
    folder, files = board
    sound = {path for path, bad in files.items() if not bad}
    found = list(iter_records(folder / "records"))
    good = [(path, record) for path, record in found if isinstance(record, Record)]
    bad = [path for path, record in found if not isinstance(record, Record)]
    assert {path for path, _ in good} == sound
    assert len(bad) == len(files) - len(sound)
    with pytest.warns(DiffsensWarning, match=f"^{len(bad)} left out: "):
        assert len(read_records(folder / "records")) == len(sound)
    for path, record in good:
        assert path in sound
        assert find_record(folder, record.key) is None, "its file has another name"


def test_validate_names_each(board):
    folder, files = board
    result = run("validate", folder / "records", "--json")
    assert result.exit_code == 1
    found = {Path(file["path"]).name: file["faults"] for file in json.loads(result.stdout)["files"]}
    assert set(found) == {path.name for path in files}
    for path, bad in files.items():
        faults = [fault for fault in found[path.name] if "file name does not end" not in fault]
        assert bool(faults) == bad, path.name


def test_ls_lists_the_sound_and_names_the_others(board):
    folder, files = board
    result = run("ls", "records", "--out", folder, "--json")
    assert result.exit_code == 1
    assert len(json.loads(result.stdout)) == sum(not bad for bad in files.values())
    check_named(result, files)


@pytest.fixture(scope="module")
def built(board) -> Result:
    return run("leaderboard", "--out", board[0], "--resamples", 100, "--json")


def test_the_leaderboard_is_built_from_the_sound(board, built):
    folder, files = board
    assert built.exit_code == 1
    check_named(built, files)
    document = json.loads(built.stdout)
    listed = sum(len(group["models"]) for group in document["groups"]) + len(document["not_comparable"])
    assert listed == sum(not bad for bad in files.values())
    for name in ("leaderboard.csv", "README.md", "index.html"):
        assert (folder / name).stat().st_size > 0


def test_no_file_of_the_board_holds_what_acts_on_its_reader(board, built):
    folder, _ = board
    for path in (folder / "leaderboard.csv", folder / "README.md", folder / "index.html"):
        text = path.read_text(encoding="utf-8")
        assert all(map(is_plain, text)), path.name
    with (folder / "leaderboard.csv").open(encoding="utf-8", newline="") as file:
        cells = [cell for row in csv.reader(file) for cell in row]
    began = [cell for cell in cells if cell[:1] in tuple("=+-@\t\r")]
    assert all(math.isfinite(float(cell)) for cell in began)
    assert any(cell.startswith("'=HYPERLINK") for cell in cells)
    words = re.sub("`[^`\n]*`", "", (folder / "README.md").read_text("utf-8"))  # code spans show all as it is
    assert not re.search(r"\]\(https?:|<(img|script|svg)", words)


def test_figures_of_a_board_hold_nothing_that_acts(tmp_path):
    """The names and families of networks stand in them."""
    for number, payload in enumerate(PAYLOADS):
        one = random_record(f"{payload}{number}", number, 3, ("original",))
        model = one.model.model_copy(update={"family": payload})
        write_record(tmp_path / "records", one.model_copy(update={"model": model}))
    done = run("leaderboard", "--out", tmp_path, "--resamples", 100)
    assert done.exit_code == 0, done.output
    images = [path.read_text("utf-8") for path in sorted(tmp_path.glob("figures/*.svg"))]
    assert images
    texts = "\n".join(map(texts_of, images))
    assert any(all_spelt_out(payload) in texts for payload in PAYLOADS)


def check_figure(record: Path, figure: Path) -> str:
    """Its texts; draws it, and fails where a reader could be acted on."""
    for form in ("svg", "html"):
        assert run("show", record, "--figure", figure.with_suffix(f".{form}")).exit_code == 0
    assert "window.ran = 1</script>" not in figure.with_suffix(".html").read_text("utf-8")
    return texts_of(figure.with_suffix(".svg").read_text("utf-8"))


def texts_of(image: str) -> str:
    """All texts and attributes of an image that holds nothing which acts on its reader."""
    assert all(map(is_plain, image))
    tree = ElementTree.fromstring(image)
    assert not {"script", "img"} & {element.tag.rpartition("}")[2] for element in tree.iter()}
    return "\n".join([*tree.itertext(), *(value for one in tree.iter() for value in one.attrib.values())])


def test_figures_hold_nothing_that_acts(tmp_path):
    record = tmp_path / "every.json"
    record.write_text(every_payload())
    texts = check_figure(record, tmp_path / "figure")
    for payload in PAYLOADS:
        assert all_spelt_out(payload) in texts


@pytest.mark.slow
@pytest.mark.parametrize("number", range(len(PAYLOADS)))
def test_figures_of_one_text_hold_nothing_that_acts(board, tmp_path, number):
    folder, _ = board
    check_figure(folder / "records" / f"text{number}-all.json", tmp_path / "figure")


def test_check_says_why_each_cannot_be_added(board):
    folder, files = board
    bad = [path for path, is_bad in files.items() if is_bad]
    result = run("leaderboard", "--check", *bad, "--out", folder, "--json")
    assert result.exit_code == 1
    assert json.loads(result.stdout)["bad"] == len(bad)


def test_show_shows_the_sound_and_refuses_the_others(board):
    _, files = board
    for path, bad in files.items():
        result = run("show", path)
        assert result.exit_code == (2 if bad else 0), (path.name, result.stderr)
        assert bool(result.stdout) != bad


def check_named(result: Result, files: dict[Path, bool]) -> None:
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: left out: ")]
    assert len(lines) == sum(files.values())
    for path, bad in files.items():
        assert sum(in_output(path) in line for line in lines) >= bad, path.name


def is_plain(character: str) -> bool:
    """Whether a character may reach a reader: no control, format or separator, and no half of a pair."""
    return character == "\n" or unicodedata.category(character) not in ("Cc", "Cf", "Cs", "Zl", "Zp")
