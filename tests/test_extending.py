"""docs/extending.md, run as it stands: one file outside the package for each open kind."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from timm_diffsens import Diffeo, UsageError, bench, read_records
from timm_diffsens.cli import app
from timm_diffsens.models.nets import make_net
from timm_diffsens.perturb.noise import of_matched_norm
from timm_diffsens.perturb.streams import Streams, standard_normal
from timm_diffsens.registry import find
from timm_diffsens.results.records.store import load_record
from timm_diffsens.sensitivities.perturbed import Perturbation

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```python file=(\S+)\n(.*?)```", PAGE, re.DOTALL))
COMMANDS = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
KINDS = {"deformation": "shift", "noise": "checks", "variant": "rounded", "dataset": "stripes"}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The page's files, and the records of its commands."""
    home = tmp_path_factory.mktemp("extending")
    for name, text in FILES.items():
        (home / name).write_text(text, encoding="utf-8")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for command in COMMANDS:
            program, *arguments = shlex.split(command)
            assert program == "diffsens"
            done = CliRunner().invoke(app, [*arguments, "--out", "board", "--quiet"])
            assert done.exit_code == 0, f"{command}\n{done.output}"
    return home


def records(folder):
    return [load_record(path) for path in sorted((folder / "board" / "records").rglob("*.json"))]


def one(folder, kind):
    (found,) = [r for r in records(folder) if any(e.kind == kind for e in r.extensions)]
    return found


def test_there_is_an_example_of_each_kind(folder):
    assert {"shift.py", "checks.py", "rounded.py", "stripes.py", "tiny.py", "here.py"} == set(FILES)
    assert len(records(folder)) == 7  # two of the sweep


@pytest.mark.parametrize("kind", KINDS)
def test_the_record_says_what_was_used(folder, kind):
    (extension,) = one(folder, kind).extensions
    assert extension.spec.startswith(f"{KINDS[kind]}.py:")
    assert len(extension.sha256) == 64


def test_a_deformation_of_ones_own(folder):
    record = one(folder, "deformation")
    assert record.protocol.deformation.startswith("shift.py:Shift:pixels=2@")
    assert (record.protocol.delta, record.protocol.cut) == (None, None)
    assert record.protocol.rms_displacement == 2
    # a network of circular symmetry this is not, but the first stage sees a whole-pixel shift of its input
    assert all(layer.r > 0 for layer in record.variants["original"])


def test_records_of_other_sources_are_not_compared(folder):
    frame = read_records(folder / "board" / "records")
    assert frame["protocol"].nunique() >= 3


def test_a_changed_source_is_another_protocol(folder, tmp_path, monkeypatch):
    text = FILES["shift.py"].replace("> abs(dy)", ">= abs(dy)")
    (tmp_path / "shift.py").write_text(text)
    monkeypatch.chdir(tmp_path)
    asked = {"images": 8, "layers": "stages", "pretrained": False, "deformation": "shift.py:Shift:pixels=2"}
    record = bench("net/resnet20", **asked)
    before = one(folder, "deformation")
    assert record.output == before.output  # no two draws are equal
    assert record.protocol.sha256 != before.protocol.sha256


@pytest.mark.parametrize("factor", [1, 10])
def test_of_a_noise_only_the_direction_matters(factor):
    """Noise of any size gets the norm of the deformation: G of a linear layer in closed form."""

    def noise(clean, deformed, generator=None):
        return factor * torch.ones_like(clean)

    images = torch.rand(8, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    linear = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 16 * 16, 4, bias=False))
    torch.nn.init.constant_(linear[1].weight, 0.5)
    found = bench(linear, dataset=images, noise=noise, layers="all", variants="original")
    deformed = Diffeo()(images, Streams(0, "diffeo", range(8)))
    radii = (deformed - images).flatten(1).norm(dim=1)
    # Every weight 1/2: a constant image of norm r moves each of the four outputs by r sqrt(768) / 2.
    expected = (radii.square() * 768 / 4 * 4).mean() / (images.flatten(1).sum(1) / 2).var() / 8
    assert found.output.g == pytest.approx(float(expected), rel=1e-4)


def test_a_noise_of_ones_own_has_the_norm_of_the_deformation(folder):
    """Image by image."""
    noise = of_matched_norm(find("noises", str(folder / "checks.py") + ":checks").build())
    clean = torch.rand(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    deformed = Diffeo()(clean, torch.Generator().manual_seed(1))
    eta = noise(clean, deformed)
    torch.testing.assert_close(eta.flatten(1).norm(dim=1), (deformed - clean).flatten(1).norm(dim=1))


def test_a_noise_of_ones_own_is_named(folder, monkeypatch):
    monkeypatch.chdir(folder)
    record = one(folder, "noise")
    said = " ".join(CliRunner().invoke(app, ["show", record.key[:12], "--out", "board"]).stdout.split())
    assert f", noise = checks.py:checks@{record.extensions[0].sha256[:12]}, layers" in said
    assert "noise (checks.py:checks) of the same norm" in said


def test_a_variant_of_ones_own_is_on_the_board_and_in_the_figure(folder, monkeypatch):
    record = one(folder, "variant")
    name = f"rounded.py:Rounded:bits=3@{record.extensions[0].sha256[:12]}"
    assert list(record.variants) == ["original", name]
    assert record.variants[name] != record.variants["original"]
    assert record.extensions[0].look.colour == "#117733"
    monkeypatch.chdir(folder)
    done = CliRunner().invoke(app, ["leaderboard", "--out", "board", "--quiet"])
    assert done.exit_code == 0, done.output
    assert name in (folder / "board" / "leaderboard.csv").read_text().splitlines()[0]
    assert name in (folder / "board" / "index.html").read_text()
    done = CliRunner().invoke(app, ["show", record.key[:12], "--out", "board", "--figure", "figure.svg"])
    assert done.exit_code == 0, done.output
    figure = (folder / "figure.svg").read_text()
    assert name in figure
    assert "#117733" in figure


def test_a_data_set_of_ones_own_has_its_labels(folder):
    record = one(folder, "dataset")
    assert record.data.labelled
    assert record.data.n == 8


def test_a_model_of_ones_own_takes_arguments(folder):
    (record,) = [r for r in records(folder) if r.model.library == "python"]
    assert record.model.spec == "tiny.py:tiny:width=4"
    assert record.model.parameters == (3 * 9 + 1) * 4 + (4 * 9 + 1) * 4 + (4 * 16 * 16 + 1) * 10


def test_an_executor_of_ones_own_gives_the_same_records(folder):
    for name in ("lenet", "fc2"):
        (record,) = [r for r in records(folder) if r.model.spec == f"net/{name}"]
        again = bench(f"net/{name}", pretrained=False, images=8, layers="stages")
        assert again.variants == record.variants
        assert again.key == record.key


@pytest.fixture
def python(warm):
    """Runs code with these folders on the path; what it prints."""

    def printed(code, *folders):
        path = os.pathsep.join([str(ROOT), *map(str, folders)])
        environment = {**os.environ, "PYTHONPATH": path}
        done = subprocess.run([*warm, "-c", code], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return printed


def test_the_page_in_python(folder, python):
    (code,) = re.findall(r"```python run\n(.*?)```", PAGE, re.DOTALL)
    assert python(code, folder).startswith("Shift:pixels=2@")


def test_an_installed_package_adds_names(tmp_path, python):
    """A distribution on the path, found as an installed one is."""
    info = tmp_path / "toy-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: toy\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[timm_diffsens.deformations]\nsideways = shift:Shift\n")
    (tmp_path / "shift.py").write_text(FILES["shift.py"])
    code = (
        "import json; from timm_diffsens import bench; from timm_diffsens.registry import names\n"
        "asked = dict(pretrained=False, images=4, layers='output', variants='original')\n"
        "record = bench('net/lenet', deformation='sideways:pixels=3', **asked)\n"
        "print(json.dumps([names('deformations'), record.protocol.deformation]))"
    )
    listed, recorded = json.loads(python(code, tmp_path))
    assert "sideways" in listed
    assert recorded.startswith("sideways:pixels=3@")


def test_an_object_is_recorded_with_its_parameters(folder):
    sys.path.insert(0, str(folder))
    try:
        from shift import Shift
    finally:
        sys.path.remove(str(folder))
    asked = {"images": 8, "layers": "stages", "input_size": 32, "mean": 0.5, "std": 0.5}
    record = bench(make_net("lenet"), deformation=Shift(pixels=2), **asked)
    assert record.protocol.deformation.startswith("Shift:pixels=2@")
    assert dict(record.extensions[0].parameters) == {"pixels": 2}


def test_a_variant_from_another_folder_stands_in_the_record_without_it(folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    spec = f"{folder / 'rounded.py'}:Rounded:bits=3"
    asked = {"images": 8, "layers": "stages", "pretrained": False}
    record = bench("net/resnet20", variants=["original", spec], **asked)
    before = one(folder, "variant")
    assert (record.key, record.variants) == (before.key, before.variants)
    (tmp_path / "rounded.py").write_text(FILES["rounded.py"] + "\n# another\n")
    other = bench("net/resnet20", variants=[spec, "rounded.py:Rounded:bits=3"], **asked)
    assert len(other.variants) == 3  # of two sources, and so two variants
    assert other.variants[list(record.variants)[1]] == record.variants[list(record.variants)[1]]


def test_json_is_alone_on_standard_output_whatever_the_users_code_prints(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = "print('imported')\n\ndef turned(images, generator=None):\n    print('called')\n"
    text += "    return images.flip(-1)\n"
    (tmp_path / "loud.py").write_text(text)
    asked = ["bench", "net/lenet", "--no-pretrained", "--images", "4", "--layers", "output"]
    done = CliRunner().invoke(app, [*asked, "--deformation", "loud.py:turned", "--json"])
    assert done.exit_code == 0, done.output
    (record,) = json.loads(done.stdout)
    assert record["protocol"]["rms_displacement"] is None
    assert "rms not known" in CliRunner().invoke(app, ["show", record["key"][:12]]).stdout


def test_a_deformation_that_writes_into_the_images_is_refused():
    asked = {"images": 4, "pretrained": False, "layers": "output", "variants": "original"}

    def brighter(images, generator=None):
        return images.mul_(1.5)

    def both(clean, deformed, generator=None):
        return deformed.sub_(clean)

    for option, thing in (("deformation", brighter), ("noise", both)):
        with pytest.raises(UsageError, match=rf"^the {option} {thing.__name__} writes into the images that"):
            bench("net/lenet", **asked, **{option: thing})
    assert (
        bench("net/lenet", deformation=lambda images, generator=None: images.flip(-1), **asked).output.d > 0
    )


FAULTY = """
import torch

def drawn(images, generator=None):
    return images + 0.1 * torch.randn_like(images)

def of_torch(images, generator=None):
    return images + 0.1 * torch.randn(images.shape, generator=generator)

def alone(images):
    return images.flip(-1)

def forgotten(images, generator=None):
    images.flip(-1)

def noise(clean, deformed, generator=None):
    return torch.randn_like(clean)

def noise_alone(clean, deformed):
    return clean
"""


@pytest.mark.parametrize(
    ("option", "name", "message"),
    [
        (
            "deformation",
            "drawn",
            "gives other values each time, with equal generators: draw from `generator`",
        ),
        ("deformation", "of_torch", "failed: TypeError: randn.*standard_normal"),
        ("deformation", "alone", r"failed: TypeError: .* expected f\(images, generator\) -> images"),
        ("deformation", "forgotten", r"gave NoneType; expected f\(images, generator\) -> images"),
        ("noise", "noise", "gives other values each time, with equal generators: draw from `generator`"),
        ("noise", "noise_alone", r"failed: TypeError: .* expected f\(clean, deformed, generator\) -> noise"),
    ],
)
def test_faults_of_code_from_outside_are_named_as_its_own(option, name, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "faulty.py").write_text(FAULTY)
    asked = {"images": 4, "pretrained": False, "layers": "output", "variants": "original"}
    with pytest.raises(UsageError, match=f"^the {option} faulty.py:{name} {message}"):
        bench("net/lenet", **asked, **{option: f"faulty.py:{name}"})


def test_rounding_is_no_other_value():
    """Such as that of sums whose order is not always the same."""
    calls = []

    def rounded(images, generator=None):
        calls.append(len(calls))
        return images.flip(-1) + 1e-7 * (-1) ** len(calls)

    def drawn(images, generator=None):
        calls.append(len(calls))
        return images.flip(-1) + 1e-2 * (-1) ** len(calls)

    images = torch.rand(4, 3, 8, 8)
    Perturbation((rounded,)).check(images, range(4))
    with pytest.raises(UsageError, match=r"^the deformation drawn gives other values each time"):
        Perturbation((drawn,)).check(images, range(4))


@pytest.mark.parametrize("fault", [ZeroDivisionError("ours"), KeyboardInterrupt()])
def test_faults_of_this_package_are_not_said_to_be_the_users(fault, monkeypatch):
    def fails(*given):
        raise fault

    monkeypatch.setattr(Diffeo, "__call__", fails)
    with pytest.raises(type(fault)) as raised:
        Perturbation((Diffeo(),)).parts(torch.rand(2, 3, 8, 8), range(2))
    assert raised.value is fault


def test_draws_as_the_page_says_are_the_same_again_whatever_the_batch():
    """Its table: normals of the images' shape, and numbers of each image's own NumPy generator."""

    def moved(images, generator):
        noise = standard_normal(len(images), images.shape[1:], generator, images.dtype, images.device)
        return images + torch.tensor([own.uniform(-1, 1) for own in generator])[:, None, None, None] * noise

    asked = {"images": 6, "pretrained": False, "layers": "output", "variants": "original"}
    at_once, in_pairs = (bench("net/lenet", deformation=moved, batch_size=n, **asked) for n in (6, 2))
    assert at_once.output.d == pytest.approx(in_pairs.output.d, rel=1e-5)


def test_a_variant_that_changes_the_original_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "half.py").write_text(
        "import copy\nimport torch\n\n\ndef halved(model, generator=None):\n    changed = copy.copy(model)\n"
        "    with torch.no_grad():\n        next(model.parameters()).mul_(0.5)\n    return changed\n"
    )
    with pytest.raises(UsageError, match="changed the model that it was given"):
        bench("net/lenet", pretrained=False, images=4, layers="output", variants="half.py:halved")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deformation": "diffeo:delta=2", "delta": 3}, "diffeo has delta=2: leave out delta 3"),
        ({"deformation": Diffeo(2.0), "cut": 5}, "Diffeo has cut=3: leave out cut 5|diffeo has cut=3"),
        ({"deformation": "shift.py:Shift", "delta": 2}, "shift.py:Shift takes no delta"),
        ({"dataset": "scale1:xi=11", "xi": 12}, "xi=11, but xi 12.0 is asked for too"),
        ({"dataset": "stripes.py:stripes", "split": "train"}, "split belongs to"),
        ({"variants": "channel-shuffled:shuffles=0"}, "shuffles must be at least 1"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_runs(options, message, folder, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(UsageError, match=message):
        bench("net/lenet", pretrained=False, images=4, **options)
