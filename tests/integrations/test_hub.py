"""Records on the hub, against a server that answers as the hub does; and in model cards."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import safetensors.torch
import timm
import yaml
from fake_hub import TOKEN, FakeHub, fake_hub
from record_factory import make_record
from typer.testing import CliRunner

from timm_diffsens.cli import app
from timm_diffsens.integrations.hub import card
from timm_diffsens.results.records.reading import MOST_BYTES
from timm_diffsens.results.records.store import iter_records, write_record
from timm_diffsens.schema.records import Record


@pytest.fixture
def hub():
    with fake_hub() as server:
        yield server


@pytest.fixture
def verb(hub, tmp_path):
    """A command in a process of its own, whose hub is the fake one: the client reads the address once."""
    names = ("HF_HUB_OFFLINE", "HF_TOKEN")
    clean = {name: value for name, value in os.environ.items() if name not in names}
    own = {
        "HF_ENDPOINT": hub.url,
        "HF_HOME": str(tmp_path / "hf"),
        "HF_HUB_DISABLE_XET": "1",
        "OMP_NUM_THREADS": "1",
    }

    def run(*words: object, token: str | None = TOKEN) -> subprocess.CompletedProcess[str]:
        environment = clean | own | ({"HF_TOKEN": token} if token else {})
        command = [sys.executable, "-m", "timm_diffsens", *map(str, words)]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    return run


@pytest.fixture
def records(tmp_path) -> list[Path]:
    return [
        write_record(tmp_path / "mine" / "records", make_record(name)) for name in ("resnet18", "vit_tiny")
    ]


def test_records_come_back_as_they_were_sent(verb, hub: FakeHub, records, tmp_path):
    sent = verb("push", "me/records", *records, "--json")
    assert sent.returncode == 0, sent.stderr
    assert json.loads(sent.stdout)["commit"].startswith(hub.url)
    files = hub.repos["datasets/me/records"]
    assert {name: data for name, data in files.items() if name != "README.md"} == {
        f"records/imagenet/{path.name}": path.read_bytes() for path in records
    }
    assert b"diffsens pull me/records" in files["README.md"]
    files["README.md"] = b"their own words"
    assert verb("push", "me/records", records[0]).returncode == 0
    assert files["README.md"] == b"their own words"

    files["records/imagenet/forged.json"] = files[f"records/imagenet/{records[0].name}"].replace(
        b"500", b"501"
    )
    got = verb("pull", "me/records", "--out", tmp_path / "board", "--json", token=None)
    assert got.returncode == 1
    told = json.loads(got.stdout)
    assert {Path(path).read_bytes() for path in told["new"]} == {path.read_bytes() for path in records}
    assert any("forged.json" in fault for fault in told["left_out"])
    assert len(list(iter_records(tmp_path / "board" / "records"))) == 2
    files["records/large.json"] = b" " * (MOST_BYTES + 1)
    again = verb("pull", "me/records", "--out", tmp_path / "board", "--json", token=None)
    told = json.loads(again.stdout)
    assert told["new"] == []
    assert any("large.json" in fault for fault in told["left_out"])
    assert not any("resolve" in asked and "large.json" in asked for asked in hub.requests)


def test_what_the_hub_refuses_is_one_line(verb, hub: FakeHub, records, tmp_path):
    missing = verb("pull", "me/nothing", "--out", tmp_path / "board")
    refused = verb("push", "me/records", records[0], token="hf_wrong")
    for done, said in ((missing, "the records of me/nothing cannot be fetched"), (refused, "cannot be sent")):
        assert done.returncode == 2, done.stderr
        (line,) = done.stderr.strip().splitlines()
        assert said in line
        assert "hf auth login" in line


def test_nothing_is_sent_of_what_is_no_record(verb, hub: FakeHub, records):
    records[0].write_text(records[0].read_text().replace("500", "501"))
    done = verb("push", "me/records", *records)
    assert done.returncode == 2
    assert str(records[0]) in done.stderr
    assert hub.requests == []


def test_a_private_repository_is_made_private(verb, hub: FakeHub, records, tmp_path):
    assert verb("push", "me/hidden", records[0], "--private").returncode == 0
    assert hub.private == {"datasets/me/hidden"}
    assert verb("pull", "me/hidden", "--out", tmp_path / "a", token=None).returncode == 2
    assert verb("pull", "me/hidden", "--out", tmp_path / "a").returncode == 0


def test_a_model_of_the_hub_is_measured(verb, hub: FakeHub, tmp_path):
    """`hf-hub:owner/name`, through timm's own loading code: configuration, weights, preprocessing."""
    module = timm.create_model("test_resnet", pretrained=False, num_classes=7)
    shown = {"input_size": [3, 64, 64], "mean": [0.1, 0.2, 0.3], "std": [0.5, 0.5, 0.5], "num_classes": 7}
    config = {"architecture": "test_resnet", "num_classes": 7, "pretrained_cfg": {**shown, "license": "mit"}}
    weights = tmp_path / "model.safetensors"
    safetensors.torch.save_file(module.state_dict(), weights)
    hub.repos["models/me/net"] = {
        "config.json": json.dumps(config).encode(),
        "model.safetensors": weights.read_bytes(),
    }
    asked = (
        "--images",
        2,
        "--layers",
        "output",
        "--variants",
        "original",
        "--out",
        tmp_path / "out",
        "--json",
    )
    done = verb("bench", "hf-hub:me/net", *asked)
    assert done.returncode == 0, done.stderr
    (record,) = json.loads(done.stdout)
    assert record["model"]["weights"]["source"] == "pretrained"
    assert record["model"]["weights"]["licence"] == "mit"
    assert record["model"]["input"]["mean"] == [0.1, 0.2, 0.3]
    assert record["model"]["classes"] == 7
    gone = verb("bench", "hf-hub:me/gone", *asked)
    assert gone.returncode == 2
    assert "hf-hub:me/gone" in gone.stderr


# ---- model cards


def parts(text: str) -> tuple[dict, str]:
    _, head, body = text.split("---\n", 2)
    return yaml.safe_load(head), body


def test_a_card_has_the_numbers_of_the_record():
    record = make_record("resnet18")
    head, body = parts(card(record))
    (entry,) = head["model-index"]
    metrics = {one["name"]: one["value"] for one in entry["results"][0]["metrics"]}
    output = record.variants["original"][-1]
    assert metrics == {
        "D at the output": output.d,
        "G at the output": output.g,
        "R at the output": output.r,
        "top-1 error": record.test_error.value,
    }
    assert f"record {record.key[:12]}" in body
    assert body.count("\n| ") == len(record.variants) + 2


def test_a_card_that_is_there_keeps_all_but_an_older_section(tmp_path):
    existing = tmp_path / "README.md"
    existing.write_text("---\nlicense: mit\n---\n\n# Mine\n\nMy words.\n\n## After\n\nMore words.\n")
    first, second = make_record("resnet18"), make_record("resnet18", n=400)
    files = [write_record(tmp_path / "mine", record) for record in (first, second)]
    for file in files:
        done = CliRunner().invoke(app, ["card", str(file), "--update", str(existing)])
        assert done.exit_code == 0, done.stderr
    head, body = parts(existing.read_text())
    assert head["license"] == "mit"
    assert body.count("## Sensitivity to deformations") == 1
    assert "400 images" in body.replace("\n", " ")
    assert "500 images" not in body
    assert all(words in body for words in ("# Mine", "My words.", "## After", "More words."))
    assert len(head["model-index"][0]["results"][0]["metrics"]) == 4


def test_records_are_found_by_model_and_by_key_as_by_show(records, tmp_path):
    for name in ("resnet18", Record.load(records[0]).key[:8]):
        done = CliRunner().invoke(app, ["card", name, "--out", str(tmp_path / "mine")])
        assert done.exit_code == 0, done.stderr
        assert done.stdout.strip() == card(Record.load(records[0])).strip()
    missing = CliRunner().invoke(app, ["push", "me/records", "resnet81", "--out", str(tmp_path / "mine")])
    assert missing.exit_code == 2
    assert "did you mean resnet18" in missing.stderr


def test_results_on_other_images_stay(tmp_path):
    existing = tmp_path / "README.md"
    existing.write_text(card(make_record("resnet18")))
    (head, _) = parts(card(make_record("resnet18", "cifar10"), existing))
    sets = [result["dataset"]["type"] for result in head["model-index"][0]["results"]]
    assert sorted(sets) == ["cifar10", "imagenet"]


def test_a_name_in_a_card_is_text_and_nothing_else(tmp_path):
    text = card(make_record("<img src=x>|net"))
    assert "<img" not in parts(text)[1]


NO_END = b"# x\n<!-- timm-diffsens -->\n## Training details\n"


@pytest.mark.parametrize(
    "content", [b"\xff\xfe", b"---\n- a\n- b\n---\n# x\n", b"---\na: [\n---\n# x\n", NO_END]
)
def test_what_is_no_card_is_refused(tmp_path, content):
    existing = tmp_path / "README.md"
    existing.write_bytes(content)
    file = write_record(tmp_path / "mine", make_record("resnet18"))
    done = CliRunner().invoke(app, ["card", str(file), "--update", str(existing)])
    assert done.exit_code == 2
    assert str(existing) in done.stderr
    assert existing.read_bytes() == content
