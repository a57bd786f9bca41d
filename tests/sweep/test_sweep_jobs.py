"""Jobs: which models, which part of them, and what makes two of them the same."""

from dataclasses import replace
from pathlib import Path

import pytest
import timm
from hypothesis import example, given, settings
from hypothesis import strategies as st
from sweeps import QUICK, jobs

from timm_diffsens.errors import UsageError
from timm_diffsens.models.libraries.torchvision import torchvision_names
from timm_diffsens.sweep.jobs import Job, find_models, take_shard


@given(st.lists(st.text(max_size=3), max_size=30, unique=True), st.integers(1, 8))
def test_shards_are_a_partition(names, n):
    parts = [take_shard(names, f"{i}/{n}") for i in range(1, n + 1)]
    assert sorted(name for part in parts for name in part) == sorted(names)
    assert max(map(len, parts)) - min(map(len, parts)) <= 1


@pytest.mark.parametrize("wrong", ["0/2", "3/2", "1", "a/b", "1/0", "-1/2", "1/2/3", ""])
def test_a_wrong_shard_is_named(wrong):
    with pytest.raises(UsageError, match=r"--shard must be i/N"):
        take_shard(["a"], wrong)


def test_a_star_is_every_architecture_and_every_classifier():
    found = find_models(["*"])
    assert len(found) == len(set(found))
    assert set(timm.list_models()) <= set(found)
    assert {f"torchvision/{name}" for name in torchvision_names()} <= set(found)


def test_names_and_patterns_are_each_taken_once():
    assert find_models(["test_vit", "test_v*", "net/lenet"])[:2] == ["test_vit", "test_vit2"]
    assert find_models(["TEST_RESNET*"]) == ["test_resnet"]
    assert find_models(["resnet18.a*_in1k"]) == ["resnet18.a1_in1k", "resnet18.a2_in1k", "resnet18.a3_in1k"]


def test_without_published_weights_there_is_nothing_to_sweep_over():
    every, published = find_models(["*resnet*"]), find_models(["*resnet*"], pretrained=True)
    assert set(published) < set(every)
    assert "resnet18" in published


@pytest.mark.parametrize("pattern", ["resnte18", "no*such*model"])
def test_what_fits_nothing_is_named(pattern):
    with pytest.raises(UsageError, match="unknown model"):
        find_models([pattern])


def test_jobs_that_give_the_same_outcome_are_the_same(tmp_path):
    (job,) = jobs(tmp_path, "test_vit")
    same = [
        replace(job, threads=3, force=True, attempt=2, max_parameters=5, out="elsewhere"),
        job.again("lost"),
        *jobs(tmp_path, "test_vit", options=QUICK.changed(device="cpu", batch_size=2)),
    ]
    assert {other.id for other in same} == {job.id}
    others = [
        *jobs(tmp_path, "test_vit2"),
        *jobs(tmp_path, "test_vit", options=None),
        *jobs(tmp_path, "test_vit", options=QUICK.changed(seed=1)),
        *jobs(tmp_path, "test_vit", options=QUICK.changed(layers="stages")),
    ]
    assert len({job.id, *(other.id for other in others)}) == 5


def test_other_versions_are_another_job(tmp_path, monkeypatch):
    (job,) = jobs(tmp_path, "test_vit")
    before = job.id
    monkeypatch.setattr("timm_diffsens.sweep.jobs.versions", lambda: {"timm": "99"})
    assert job.id != before


@settings(deadline=None)
@given(st.text(max_size=200))
@example("../../x")
@example("/etc/passwd")
@example("")
@example("con")
@example("a" * 10_000)
@example("网络/сеть")
@example("\x00\n\ud800")
def test_no_outcome_leaves_its_folder(model):
    for options in (None, {}):
        job = Job(model, str(Path("out").resolve()), options=options)
        assert job.file.resolve().parent == Path("out").resolve() / "sweep" / job.kind
        assert job.file.name.endswith(f".{job.id}.json")
        assert len(job.file.name) < 120
