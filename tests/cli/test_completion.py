"""What the shell completes, and the cache that keeps it quick."""

import json
from importlib import metadata

import click
import pytest
import typer

from timm_diffsens import registry
from timm_diffsens.cli import app, completion
from timm_diffsens.models.architectures import known_names


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "timm-diffsens" / "names.json"


def completed(verb: str, parameter: str, incomplete: str) -> list[str]:
    """What the command line's own parser completes."""
    command = typer.main.get_command(app).commands[verb]
    (found,) = [each for each in command.params if each.name == parameter]
    return [item.value for item in found.shell_complete(click.Context(command), incomplete)]


@pytest.mark.parametrize(
    ("verb", "parameter"), [("bench", "models"), ("sweep", "patterns"), ("train", "models")]
)
def test_models_are_completed(verb, parameter):
    assert completed(verb, parameter, "resnet1") == [n for n in known_names() if n.startswith("resnet1")]
    assert "net/lenet" in completed(verb, parameter, "net/")


@pytest.mark.parametrize(
    ("parameter", "kind"),
    [("dataset", "datasets"), ("deformation", "deformations"), ("noise", "noises"), ("variants", "variants")],
)
def test_every_open_kind_is_completed(parameter, kind):
    for verb in ("bench", "sweep"):
        assert completed(verb, parameter, "") == registry.names(kind)


def test_of_several_names_the_last_is_completed():
    assert completed("bench", "variants", "original,mean-c") == ["original,mean-channel"]
    assert completed("bench", "dataset", "a,b") == []


def test_names_come_from_the_cache_until_a_version_changes(cache, monkeypatch):
    complete = completion.completes("models")
    assert "resnet18" in complete("resnet18")
    kept = json.loads(cache.read_text())
    kept["names"]["models"] = ["from the cache"]
    cache.write_text(json.dumps(kept))
    assert complete("") == ["from the cache"]
    real = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "9.9" if name == "timm" else real(name))
    assert "resnet18" in complete("resnet18")


@pytest.mark.parametrize("content", ["", "{", "[]", '{"versions": 1}', "null"])
def test_a_damaged_cache_is_made_anew(cache, content):
    cache.parent.mkdir()
    cache.write_text(content)
    assert completion.completes("variants")("init") == ["init"]
    assert json.loads(cache.read_text())["names"]["variants"] == registry.names("variants")


def test_without_a_place_for_the_cache_names_are_found_all_the_same(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert completion.completes("noises")("") == registry.names("noises")
