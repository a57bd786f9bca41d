"""The leaderboard in the repository: it follows from its records, and its checkpoints from nobody's word."""

import importlib.util
import json
import math
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import torch
import typer

from timm_diffsens import bench
from timm_diffsens.cli import app
from timm_diffsens.cli.recipe_file import read_recipes
from timm_diffsens.models.architectures import find_architecture
from timm_diffsens.models.checkpoints import read_recipe
from timm_diffsens.models.inputs import InputOptions
from timm_diffsens.models.loading import LoadedModel, load_model
from timm_diffsens.results.records.store import iter_records
from timm_diffsens.schema.protocol import delta_text
from timm_diffsens.schema.records import Record
from timm_diffsens.schema.training import TrainOptions
from timm_diffsens.train.recipe import Recipe
from timm_diffsens.train.run import train

ROOT = Path(__file__).parent.parent
BOARD = ROOT / "leaderboard"
CHECKPOINTS, FITTED = BOARD / "checkpoints", BOARD / "checkpoints-fitted"
NOISY = BOARD / "checkpoints-noisy-fitted"
UNIT = 2.0**-24  # rounding of one float32 operation, relative


def script(name: str):
    spec = importlib.util.spec_from_file_location(name, BOARD / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # `others` imports `build`
    spec.loader.exec_module(module)
    return module


build, others = script("build"), script("others")


def written(folder: Path) -> dict[str, bytes]:
    """What follows from the records, by name."""
    names = ["leaderboard.csv", "README.md", "index.html"]
    paths = [*(folder / name for name in names), *sorted(folder.glob("figures/*"))]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def test_the_leaderboard_follows_from_its_records_to_the_byte(tmp_path):
    shutil.copytree(BOARD / "records", tmp_path / "records")
    shutil.copy(BOARD / "CONTRIBUTING.md", tmp_path)
    build.board(tmp_path)
    ours, theirs = written(BOARD), written(tmp_path)
    assert list(ours) == list(theirs)
    different = [name for name, content in ours.items() if content != theirs[name]]
    assert not different, f"run `python leaderboard/build.py board`: {', '.join(different)} differ"


def test_the_guide_measures_as_the_board_does():
    guide = (BOARD / "CONTRIBUTING.md").read_text()
    command = guide[guide.index("diffsens bench MODEL") : guide.index("--out mine")]
    asked = command.replace("\\\n", " ").split()
    assert [word for word in asked if word in build.BENCH] == [*build.BENCH]
    assert "python leaderboard/build.py board" in guide


# ---- which checkpoints are kept


def trained(
    folder: Path, model: str, size: int, *, task: str = "cifar10", seed: int = 0, **arguments
) -> dict:
    """What `diffsens train --json` tells of a training, and its checkpoint of so many bytes."""
    name = f"{model.replace('/', '-')}.{size:08x}.seed{seed}"
    checkpoint = folder / name / "checkpoint.safetensors"
    checkpoint.parent.mkdir(parents=True)
    checkpoint.write_bytes(bytes(size))
    recipe = {"task": task, "model": model, "arguments": arguments, "seed": seed}
    return {"recipe": recipe, "checkpoint": str(checkpoint)}


def test_the_limits_are_ten_twentyfive_and_three_megabytes():
    for folder, most in ((CHECKPOINTS, 10_000_000), (FITTED, 25_000_000), (NOISY, 3_000_000)):
        limits = [limit for name, limit in build.LIMIT.items() if build.kept_in(name) == folder.name]
        assert sum(limits) <= most
        assert sum(path.stat().st_size for path in folder.glob("*.safetensors")) <= most
    assert set(build.LIMIT) == {path.stem for path in BOARD.glob("*.recipes")}


def test_kept_checkpoints_have_plain_names_one_a_network(tmp_path):
    runs = [
        trained(tmp_path / "runs", "net/resnet20", 10, width=8, dims=2),
        trained(tmp_path / "runs", "net/resnet20", 20, width=16),
        trained(tmp_path / "runs", "net/resnet20", 20, width=16, seed=1),
        trained(tmp_path / "runs", "examples/cifar_networks.py:vit", 30),
        trained(tmp_path / "runs", "net/fc2", 40),
        trained(tmp_path / "runs", "net/fc2", 41),
    ]
    build.keep(runs, "cifar10", tmp_path / "kept")
    assert sorted(path.name for path in (tmp_path / "kept").iterdir()) == [
        "cifar10-fc2-00000028.safetensors",
        "cifar10-fc2-00000029.safetensors",
        "cifar10-resnet20-width16.safetensors",
        "cifar10-resnet20-width8.safetensors",
        "cifar10-vit.safetensors",
    ]


def test_what_does_not_fit_is_named_and_other_tasks_are_left_alone(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(build.LIMIT, "cifar10", 100)
    kept = tmp_path / "kept"
    kept.mkdir()
    for name in ("scale1-lenet", "cifar10-gone"):
        (kept / f"{name}.safetensors").write_bytes(b"x")
    runs = [
        trained(tmp_path / "runs", f"net/{name}", size) for name, size in (("c", 90), ("a", 40), ("b", 60))
    ]
    build.keep(runs, "cifar10", kept)
    names = sorted(path.name for path in kept.iterdir())
    assert names == ["cifar10-a.safetensors", "cifar10-b.safetensors", "scale1-lenet.safetensors"]
    told = capsys.readouterr().err
    assert "cifar10-c" in told
    assert told.count("not kept") == 1


def test_networks_that_fit_are_kept_with_their_curves_and_others_are_not(tmp_path):
    runs = [trained(tmp_path / "runs", f"net/{name}", size) for name, size in (("a", 40), ("b", 60))]
    for run, reached in zip(runs, (True, False), strict=True):
        run["fitted"] = reached
        Path(run["checkpoint"]).with_name("curve.json").write_text("[]")
    kept = tmp_path / "kept"
    kept.mkdir()
    for name in ("cifar10-gone.safetensors", "cifar10-gone.curve.json"):
        (kept / name).write_bytes(b"x")
    build.keep(runs, "cifar10-fitted", kept)
    names = sorted(path.name for path in kept.iterdir())
    assert names == ["cifar10-a.curve.json", "cifar10-a.safetensors"]


def recipes(name: str) -> list[Recipe]:
    """Of a file of the leaderboard, as `diffsens train --recipes` reads it."""
    command = typer.main.get_command(app).commands["train"]
    return read_recipes(BOARD / f"{name}.recipes", build.task_of(name), TrainOptions(), command)


@pytest.mark.parametrize("name", ["cifar10-fitted", "cifar10-noisy-fitted"])
def test_the_networks_kept_as_fitted_are(name):
    """Training errors of at most 1 %, without augmentation, as the checkpoint and its curve say alike."""
    paths = sorted((BOARD / build.kept_in(name)).glob("*.safetensors"))
    assert paths
    wanted = [recipe.to_json() for recipe in recipes(name)]
    for path in paths:
        stated, curve = read_recipe(path), json.loads(path.with_suffix(".curve.json").read_text())
        result, recipe = curve["result"], curve["recipe"]
        assert stated["training"] == recipe
        assert {name: stated[name] for name in result} == result
        assert result["train_error"] <= 0.01
        assert curve["curve"][-1]["fitted_error"] == result["train_error"]
        assert (recipe["augment"], recipe["until_fitted"], recipe["validation_images"]) == (False, True, 0)
        assert (recipe["corrupt"] > 0) == ("noisy" in name)
        assert recipe in wanted, f"no recipe of {path.name}"


def test_every_recipe_names_a_network_that_there_is(monkeypatch):
    monkeypatch.chdir(ROOT)
    for task in build.LIMIT:
        for recipe in recipes(task):
            assert find_architecture(recipe.model).arch


@pytest.mark.parametrize("task", ["cifar10", "scale1"])
def test_kept_checkpoints_are_of_the_recipes(task):
    """To the value, and so to the hash: each can be made again."""
    wanted = [recipe.to_json() for recipe in recipes(task)]
    for path in sorted(CHECKPOINTS.glob(f"{task}-*.safetensors")):
        assert read_recipe(path)["training"] in wanted, f"no recipe of {path.name}"


# ---- kept checkpoints give the numbers of their records


@dataclass(frozen=True)
class Kept:
    """A checkpoint, the network that it holds, and the record of these weights."""

    path: Path
    loaded: LoadedModel
    record: Record | None


def kept(checkpoints: Path, records: Path) -> list[Kept]:
    """Checkpoints, the smallest first."""
    known = [record for _, record in iter_records(records) if isinstance(record, Record)]
    by_weights = {record.model.weights.sha256: record for record in known}
    found = []
    for path in sorted(checkpoints.glob("*.safetensors"), key=lambda path: (path.stat().st_size, path.name)):
        recipe = read_recipe(path)
        assert recipe is not None, f"{path.name} does not say what it is"
        loaded = load_model(recipe["model"], checkpoint=path)
        found.append(Kept(path, loaded, by_weights.get(loaded.weights.sha256)))
    return found


def measured_again(one: Kept, data_dir: Path | None) -> Record:
    """The original network on the images of its record, without any other file."""
    record, protocol = one.record, one.record.protocol
    given = {}
    if protocol.delta is not None:
        given = {"delta": delta_text(protocol.delta, protocol.reference_side), "cut": protocol.cut}
    return bench(
        one.loaded,
        dataset=record.data.spec,
        data_dir=data_dir,
        images=record.data.n,
        seed=protocol.seed,
        layers=protocol.layers,
        variants=["original"],
        corruption=protocol.corruption_sigma,
        full_error=bool(record.key_extra.get("full_error")),
        **given,
    )


def assert_same_numbers(one: Kept, again: Record) -> None:
    """Equal images and weights; D, G, R and the error to what rounding differs by from machine to machine.

    Sums of m products in float32 err by about sqrt(m) u of their size (Higham and Mary 2019), the more so the
    more layers there are one after another. D is the square of a difference of two such outputs, smaller than
    they are by sqrt(D), so its relative error is at most 4 layers sqrt(m) u / sqrt(D); that of R is the sum
    of two. An image whose two largest outputs are closer than this may change its class.
    """
    record = one.record
    assert again.data.sample_sha256 == record.data.sample_sha256
    assert again.model.weights.sha256 == record.model.weights.sha256
    assert again.protocol.rms_displacement == record.protocol.rms_displacement
    weights = [p for p in one.loaded.module.parameters() if p.dim() > 1]
    forward = len(weights) * math.sqrt(max(p[0].numel() for p in weights)) * UNIT
    before, now = record.variants["original"], again.variants["original"]
    assert [layer.layer for layer in now] == [layer.layer for layer in before]
    for old, new in zip(before, now, strict=True):
        bounds = {name: 4 * forward / math.sqrt(getattr(old, name)) for name in ("d", "g")}
        bounds["r"] = bounds["d"] + bounds["g"]
        for name, bound in bounds.items():
            assert bound < 0.02, "the bound says nothing"
            assert getattr(new, name) == pytest.approx(getattr(old, name), rel=bound), (old.layer, name)
    flips = 2 * forward * record.test_error.n
    assert again.test_error.n == record.test_error.n
    changed = abs(again.test_error.value - record.test_error.value) * record.test_error.n
    assert changed <= flips + 4 * math.sqrt(flips) + 1e-6


@pytest.fixture(scope="module")
def fresh(tmp_path_factory) -> Kept:
    """A network trained for three epochs now, measured as the board's are, and kept as theirs are."""
    folder = tmp_path_factory.mktemp("fresh")
    recipe = Recipe("scale1", "net/lenet", epochs=3, half=True)
    result = train(recipe, TrainOptions(out=folder / "runs"))
    told = {"recipe": recipe.to_json(), "checkpoint": str(result.checkpoint)}
    build.keep([told], "scale1", folder / "checkpoints")
    build.measure("scale1", told, None, folder)
    (only,) = kept(folder / "checkpoints", folder / "records")
    return only


def test_a_kept_checkpoint_gives_the_numbers_of_its_record(fresh):
    assert fresh.path.name == "scale1-lenet.safetensors"
    assert fresh.record is not None
    assert fresh.path.stat().st_size < 2.2 * sum(p.numel() for p in fresh.loaded.module.parameters())
    assert_same_numbers(fresh, measured_again(fresh, None))


def test_other_weights_do_not_give_them(fresh):
    other = load_model("net/lenet", checkpoint=fresh.path)
    with torch.no_grad():
        next(other.module.parameters()).mul_(1.05)
    changed = replace(fresh, loaded=other)
    again = measured_again(changed, None)
    same = again.model_copy(update={"model": fresh.record.model})
    with pytest.raises(AssertionError):
        assert_same_numbers(changed, same)


@pytest.fixture(scope="module")
def checkpoints() -> Iterator[list[Kept]]:
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(ROOT)  # recipes name the files of their networks from here
        yield kept(CHECKPOINTS, BOARD / "records")


def test_every_kept_checkpoint_has_a_record(checkpoints):
    unknown = [one.path.name for one in checkpoints if one.record is None]
    assert not unknown, f"no record is of these weights: {unknown}"


def smallest(checkpoints: list[Kept], task: str, noise: float = 0) -> list[Kept]:
    """The first two of a task; that there are two is part of what is tested."""
    records = [(one, one.record) for one in checkpoints if one.record]
    found = [one for one, of in records if (of.data.spec, of.protocol.corruption_sigma) == (task, noise)]
    assert len(found) > 1, f"fewer than two kept checkpoints of {task} have a record"
    return found[:2]


def test_the_smallest_scale_detection_networks_measured_again(checkpoints):
    for one in smallest(checkpoints, "scale1"):
        assert_same_numbers(one, measured_again(one, None))


@pytest.mark.parametrize("place", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_smallest_fitted_cifar_networks_measured_again(place, monkeypatch, real_data):
    monkeypatch.chdir(ROOT)
    one = smallest(kept(FITTED, BOARD / "records"), "cifar10")[place]
    assert_same_numbers(one, measured_again(one, real_data.folder("cifar10-jpeg-test")))


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.14, 0.28])
@pytest.mark.parametrize("place", [0, 1])
def test_the_smallest_networks_trained_on_noisy_images_measured_again(noise, place, monkeypatch, real_data):
    monkeypatch.chdir(ROOT)
    one = smallest(kept(NOISY, BOARD / "records"), "cifar10", noise)[place]
    assert_same_numbers(one, measured_again(one, real_data.folder("cifar10-jpeg-test")))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["mobilenetv1_025_128.qat8", "mobilenetv1_050_160.qat8"])
def test_imagenet_networks_that_may_be_passed_on_measured_again(name, real_data):
    (row,) = others.networks(BOARD / "imagenet.csv", [name])
    assert row["licence"]
    path = next(real_data.source.rglob(f"{name}.safetensors"))
    side = int(row["input_size"])
    model = f"{ROOT / 'examples'}/{row['model']}"
    loaded = load_model(model, checkpoint=path, input_options=InputOptions((side, side)))
    records = [record for _, record in iter_records(BOARD / "records") if isinstance(record, Record)]
    (record,) = [one for one in records if one.model.weights.sha256 == loaded.weights.sha256]
    one = Kept(path, loaded, record)
    assert_same_numbers(one, measured_again(one, real_data.folder("imagenet-nips17")))
