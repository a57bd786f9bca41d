"""Targets, in miniature: they run, go on where they were, and say what is missing."""

import json
import shutil
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from tiny import TINY

from timm_diffsens.errors import MeasurementError, UsageError
from timm_diffsens.models.checkpoints import read_recipe
from timm_diffsens.reproduce import targets as registry
from timm_diffsens.reproduce.claims import known_claims
from timm_diffsens.reproduce.run import reproduce, write_pages
from timm_diffsens.reproduce.settings import SCALES, SMALL
from timm_diffsens.reproduce.targets import IN_PAPER, TARGETS, chosen
from timm_diffsens.reproduce.workspace import Places, TimeUpError, Workspace, find_places
from timm_diffsens.results.records.store import read_layers
from timm_diffsens.train.recipe import Recipe

ROOT = Path(__file__).resolve().parents[2]


def workspace_in(out: Path, images: Path | None = None, **more) -> Workspace:
    return Workspace(out, TINY, find_places(images), device="cpu", **more)


def hashes(recipes: tuple[Recipe, ...]) -> set[str]:
    return {recipe.sha256 for recipe in recipes}


@pytest.fixture(scope="module")
def made(tmp_path_factory, images):
    """All targets but those with published weights of torchvision, from nothing."""
    lines: list[str] = []
    file = tmp_path_factory.mktemp("weights") / "test_resnet.safetensors"
    save_file(timm.create_model("test_resnet").state_dict(), file)
    weights = {"test_resnet": file}
    workspace = workspace_in(tmp_path_factory.mktemp("made"), images, progress=lines.append, weights=weights)
    reports = {report.target: report for report in reproduce(list(TARGETS), workspace)}
    return workspace, reports, lines


def test_every_target_gives_charts_or_tables_and_claims(made):
    _, reports, _ = made
    assert set(reports) == set(IN_PAPER)
    for target, report in reports.items():
        assert report.tables, (target, report.missing)
        assert report.charts or target.startswith("table"), target
    judged = {target for target, report in reports.items() if report.claims}
    assert judged == set(IN_PAPER) - {"fig10", "fig13", "fig14"}
    keys = [claim.key for report in reports.values() for claim in report.claims]
    judged_elsewhere = {key for key in known_claims() if key.startswith("fig4.imagenet")}  # needs weights
    assert sorted(keys) == sorted(known_claims().keys() - judged_elsewhere)


def test_published_weights_that_cannot_be_had_are_named(made):
    _, reports, _ = made
    for target in ("fig3", "fig4", "fig12"):
        assert any("--weights torchvision/vgg11=FILE" in line for line in reports[target].missing), target
    assert not any(reports[target].missing for target in ("fig1", "fig7", "fig11", "fig14"))


def test_the_components_are_those_of_the_records(made):
    """R of every curve, and the same images and copies under each deformation."""
    workspace, reports, _ = made
    folder = workspace.records_of("cifar10-components")
    table, read = reports["components"].tables["depth"], read_layers(folder / "records")
    assert sorted(table["r"]) == sorted(read["r"])
    assert set(table["deformation"]) == {"max-entropy", "translation", "rotation", "dilation", "shear"}
    assert table.groupby(["network", "variant", "deformation"])["layer"].agg(list).map(tuple).nunique() == 1
    assert read["rms"].nunique() == 1


def test_files_are_what_the_reports_say(made):
    workspace, reports, _ = made
    for target, report in reports.items():
        folder = workspace.out / "figures" / target
        listed = json.loads((folder / "report.json").read_text())
        assert listed["claims"] == [json.loads(json.dumps(c.to_json())) for c in report.claims]
        assert {path.name for path in folder.iterdir()} == {
            *listed["figures"],
            *listed["tables"],
            "report.json",
        }
        for name, table in report.tables.items():
            assert len(pd.read_csv(folder / f"{name}.csv")) == len(table) > 0
        for name in report.charts:
            assert (folder / f"{name}.svg").read_text().startswith("<svg")


def test_nothing_is_trained_or_measured_twice(made):
    workspace, _, lines = made
    trained = [line for line in lines if line.startswith("training ")]
    measured = [line for line in lines if line.startswith("measured ")]
    assert len(trained) == len(set(trained))
    simple = sum(TINY.simple_seeds)
    noisy = len(TINY.noises) * len(TINY.noisy) - len(hashes(TINY.noisy) & hashes(TINY.cifar10))
    # the first VGG is among the networks of Fig. 8 and of Fig. 9
    assert len(trained) == simple + len(TINY.cifar10) + noisy + len(
        hashes(TINY.scale1) | hashes(TINY.pooling)
    )
    assert measured

    before = {path: path.stat().st_mtime_ns for path in workspace.out.rglob("*") if path.is_file()}
    again: list[str] = []
    workspace = replace(workspace, progress=again.append)
    list(reproduce(["fig8", "fig9", "fig7", "fig3", "fig1"], workspace))
    assert again == []
    kept = {path for path in before if "figures" not in path.parts}
    assert all(path.stat().st_mtime_ns == before[path] for path in kept)


def test_an_interrupted_run_ends_as_an_unbroken_one(made, tmp_path):
    whole, _, _ = made

    class StopError(Exception):
        pass

    def stop_at_second(line: str) -> None:
        heard.append(line)
        if sum(text.startswith("training") for text in heard) == 2:
            raise StopError

    heard: list[str] = []
    with pytest.raises(StopError):
        list(reproduce(["fig8"], workspace_in(tmp_path, progress=stop_at_second)))
    heard.clear()
    list(reproduce(["fig8"], workspace_in(tmp_path, progress=heard.append)))
    assert sum(text.startswith("training") for text in heard) == len(TINY.scale1) - 1
    for name in ("scatter.csv", "scatter-correlations.csv", "scatter.svg"):
        files = [out / "figures" / "fig8" / name for out in (tmp_path, whole.out)]
        assert files[0].read_bytes() == files[1].read_bytes()


def test_without_images_a_target_says_so_and_others_go_on(tmp_path):
    workspace = replace(
        workspace_in(tmp_path), settings=replace(TINY, scale1=TINY.scale1[:1], pooling=TINY.pooling[:1])
    )
    reports = {report.target: report for report in reproduce(["fig8", "fig4", "fig1", "fig13"], workspace)}
    assert reports["fig8"].claims
    assert not reports["fig8"].missing
    assert "no CIFAR-10 images" in reports["fig1"].missing[0]
    assert not reports["fig1"].charts
    assert all(claim.key.startswith("fig4.scale1") for claim in reports["fig4"].claims)
    assert len(reports["fig4"].missing) == 2  # CIFAR-10 and ImageNet
    assert "no CIFAR-10 images" in reports["fig13"].missing[0]


def test_a_target_that_fails_does_not_end_the_others(tmp_path, monkeypatch):
    def broken(workspace):
        raise MeasurementError("the network <b>broke</b>")

    monkeypatch.setitem(registry.TARGETS, "fig7", broken)
    workspace = workspace_in(tmp_path)
    reports = {report.target: report for report in reproduce(["fig6", "fig7", "table1"], workspace)}
    assert reports["fig7"].missing == ["the network <b>broke</b>"]
    assert reports["table1"].claims
    page, markdown = (path.read_text() for path in write_pages(workspace))
    assert "<b>broke" not in page
    assert "<b>broke" not in markdown
    assert "broke" in page


def test_the_page_shows_each_claim_with_its_verdict_and_reason(made, tmp_path):
    workspace, reports, _ = made
    page, markdown = (path.read_text() for path in write_pages(workspace, tmp_path / "deep" / "page.md"))
    assert page.count('class="verdict ') == sum(len(report.claims) for report in reports.values())
    assert page.count("<img ") == sum(len(report.charts) for report in reports.values())
    assert 'src="http' not in page
    for target, report in reports.items():
        assert f"## {target}\n" in markdown
        for name in report.charts:
            links = [part.split(")")[0] for part in markdown.split("](")]
            found = [link for link in links if link.endswith(f"{target}/{name}.svg")]
            assert found
            assert (tmp_path / "deep" / found[0]).resolve().is_file()
    differs = any(c.verdict != "held" for c in reports["fig8"].claims)
    assert ("not tested: longer trainings" in markdown) == differs
    limits = [claim for claim in reports["fig7"].claims if claim.untestable]
    assert limits
    assert all(claim.untestable in page and claim.untestable in markdown for claim in limits)


def test_a_checkpoint_of_the_same_recipe_is_used_in_place_of_a_training(made, tmp_path):
    workspace, _, _ = made
    recipe = TINY.scale1[2]
    source = workspace.trained(recipe)
    folder = tmp_path / "kept" / "checkpoints-any"  # of a board
    folder.mkdir(parents=True)
    (folder / "any name.safetensors").write_bytes(source.read_bytes())
    (folder / "other.safetensors").write_bytes(workspace.trained(TINY.scale1[0]).read_bytes())
    lines: list[str] = []
    other = workspace_in(tmp_path / "out", checkpoints=[folder], progress=lines.append)
    assert other.trained(recipe) == folder / "any name.safetensors"
    other = workspace_in(tmp_path / "out", board=folder.parent, progress=lines.append)
    assert other.trained(recipe) == folder / "any name.safetensors"
    written = workspace.out / "runs"  # by `diffsens train --out`, a folder a network
    other = workspace_in(tmp_path / "out", checkpoints=[written], progress=lines.append)
    assert other.trained(recipe).is_relative_to(written)
    assert lines == []
    wider = replace(recipe, arguments=replace(recipe.arguments, width=8))
    for changed in (replace(recipe, seed=1), replace(recipe, epochs=2), wider):
        lines.clear()
        assert other.trained(changed).is_relative_to(tmp_path / "out")
        assert lines


def test_when_the_time_is_up_a_training_keeps_its_last_epoch_and_goes_on(tmp_path):
    lines: list[str] = []
    recipe = replace(TINY.scale1[0], epochs=4)
    over = workspace_in(tmp_path, progress=lines.append, until=time.monotonic() - 1)
    with pytest.raises(TimeUpError):
        over.trained(recipe)
    assert lines == []  # nothing was begun

    class Clock(float):
        """Over after the first epoch."""

        asked = 0

        def __le__(self, other):
            Clock.asked += 1
            return Clock.asked > 1

    with pytest.raises(TimeUpError):
        replace(over, until=Clock()).trained(recipe)
    assert [path.name for path in tmp_path.rglob("state.pt")] == ["state.pt"]
    stopped = workspace_in(tmp_path).trained(recipe)
    whole = workspace_in(tmp_path / "whole").trained(recipe)
    assert load_file(stopped).keys() == load_file(whole).keys()
    assert all(torch.equal(value, load_file(whole)[name]) for name, value in load_file(stopped).items())
    assert workspace_in(tmp_path, until=0.0).trained(recipe) == stopped  # what is done takes no time


def test_records_of_other_settings_in_the_same_folder_are_left_aside(made, tmp_path):
    workspace, reports, _ = made
    other = replace(workspace, settings=replace(TINY, images=6, seeds=1))
    (changed,) = reproduce(["fig8"], other)
    (again,) = reproduce(["fig8"], workspace)
    scatter = reports["fig8"].tables["scatter"]
    assert again.tables["scatter"].equals(scatter)
    assert len(changed.tables["scatter"]) == len(scatter)
    assert not changed.tables["scatter"]["d"].equals(scatter["d"])


def test_a_record_that_another_figure_made_is_not_measured_again(tmp_path, monkeypatch):
    lines: list[str] = []
    workspace = workspace_in(tmp_path, progress=lines.append)
    first = workspace.record("one", TINY.scale1[0], layers="blocks")
    lines.clear()
    monkeypatch.setattr("timm_diffsens.benchmark.run.run", None)
    assert workspace.record("two", TINY.scale1[0], layers="blocks") == first
    assert lines == []
    assert len(list((tmp_path / "boards" / "two").rglob("*.json"))) == 1


def test_the_small_scale_uses_the_checkpoints_of_the_repository():
    """Lines of the recipes, seed 0, so that a clone trains no network on CIFAR-10 but the noisy ones."""
    kept = Workspace(Path("unused"), SMALL, board=ROOT / "leaderboard")
    files = (ROOT / "leaderboard").glob("checkpoints*/cifar10-*.safetensors")
    images = {read_recipe(path)["data_sha256"] for path in files}
    assert len(images) == 1
    kept.__dict__["_cifar10_sha256"] = images.pop()  # as if they were here
    for recipe in (*SMALL.cifar10, *SMALL.components, *SMALL.depth, *SMALL.more):
        assert kept.trained(recipe).is_relative_to(ROOT), recipe


def test_a_checkpoint_of_other_images_is_not_used(made, tmp_path, images):
    workspace, _, _ = made
    recipe, lines = TINY.cifar10[0], []
    folder = tmp_path / "kept"
    folder.mkdir()
    shutil.copy(workspace.trained(recipe), folder / "a.safetensors")
    other = workspace_in(tmp_path / "out", images, checkpoints=[folder], progress=lines.append)
    assert other.trained(recipe).parent == folder
    shutil.copytree(images, tmp_path / "images")
    shutil.copy(*sorted((tmp_path / "images/cifar10/train/cat").iterdir())[:2])  # two of them alike now
    other = workspace_in(tmp_path / "out", tmp_path / "images", checkpoints=[folder], progress=lines.append)
    assert other.trained(recipe).parent != folder
    assert "trained on other images" in lines[0]


def test_each_verdict_other_than_held_says_what_was_tested_or_that_it_was_not():
    """Of the results in the repository: no guess stands beside a verdict as if it were known."""
    files = sorted((ROOT / "docs" / "reproduction" / "figures").glob("*/report.json"))
    claims = [claim for path in files for claim in json.loads(path.read_text())["claims"]]
    assert {claim["key"] for claim in claims} >= known_claims().keys() - {
        "fig4.imagenet",
        "fig4.imagenet-first",
    }
    for claim in claims:
        if claim["verdict"] == "not testable":
            assert claim["untestable"].startswith("asymptotic: not testable at K = "), claim["key"]
        elif claim["verdict"] != "held":
            assert "tested: " in claim["why"], claim["key"]
            assert not any(word in claim["why"] for word in ("likely", "probably")), claim["key"]


@pytest.mark.parametrize("settings", SCALES.values(), ids=SCALES)
def test_settings_are_consistent(settings):
    assert all(recipe.model in ("net/vgg11", "net/vgg11_bn") for recipe in settings.depth)
    assert settings.noises[0] == 0
    assert list(settings.noises) == sorted(set(settings.noises))
    assert len(settings.noisy) >= 5
    assert len(settings.cifar10) >= 5
    assert len(settings.scale1) >= 8
    assert len(settings.components) >= 2
    groups = (settings.cifar10, settings.noisy, settings.scale1, settings.pooling, settings.components)
    for group in (*groups, settings.depth, settings.more):
        assert len({recipe.sha256 for recipe in group}) == len(group)
        assert all(isinstance(r, Recipe) and r.corrupt == 0 and r.seed == 0 for r in group)
    json.dumps(settings.to_json(), allow_nan=False)


def test_places(tmp_path, images):
    found = find_places(images)
    assert found == Places(images / "cifar10" / "train", images / "cifar10" / "test", images / "imagenet")
    assert find_places(None) == Places()
    for name in ("cifar100", "cifar-100-python", "imagenette2"):
        (tmp_path / name).mkdir()
    with pytest.raises(UsageError, match="neither"):
        find_places(tmp_path)
    (tmp_path / "cifar-10-batches-py").mkdir()
    assert find_places(tmp_path) == Places(cifar10=tmp_path)
    with pytest.raises(UsageError, match="neither"):
        find_places(images / "imagenet" / "n00000000")
    (tmp_path / "cifar10").mkdir()
    with pytest.raises(UsageError, match=r"cifar-10-batches-py, cifar10, each of which may be CIFAR-10"):
        find_places(tmp_path)
    with pytest.raises(UsageError, match="no folder"):
        find_places(tmp_path / "nowhere")


def test_targets_are_made_once_each_and_unknown_ones_are_named():
    assert chosen(["all"]) == chosen(["fig6", "all"]) == list(TARGETS)
    assert chosen(["fig8", "fig6", "fig8"]) == ["fig6", "fig8"]
    assert set(IN_PAPER) == set(TARGETS)
    with pytest.raises(UsageError, match=r"fig2.*did you mean"):
        chosen(["fig2"])
