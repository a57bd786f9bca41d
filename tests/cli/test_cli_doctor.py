"""`diffsens doctor`: what it finds here, and faults that it has to find."""

import json
from importlib import metadata

import torch
from typer.testing import CliRunner

from timm_diffsens.benchmark import doctor
from timm_diffsens.cli import app
from timm_diffsens.registry import Entry


def run(*args):
    return CliRunner().invoke(app, ["doctor", *args])


def found() -> dict[str, doctor.Check]:
    return {f"{check.part}: {check.name}": check for check in doctor.examine()}


def test_this_machine_is_well():
    """Every package that the project requires is named with its version; the numbers are right."""
    done = run("--json")
    assert done.exit_code == 0, done.stdout
    checks = {(check["part"], check["name"]): check for check in json.loads(done.stdout)}
    assert checks["versions", "torch"]["said"] == metadata.version("torch")
    assert checks["versions", "timm"]["state"] == checks["devices", "cpu"]["state"] == "ok"
    assert checks["numbers", "D and G on cpu"]["said"] == "as they are defined"
    assert checks["fast", "numba"]["said"] == metadata.version("numba")
    required = [each for each in metadata.requires("timm-diffsens") if "extra" not in each]
    assert len([name for part, name in checks if part == "versions"]) == len(required) + 2


def test_what_is_missing_is_said_with_the_command_that_mends_it(monkeypatch):
    real = metadata.version

    def version(name):
        if name == "numba":
            raise metadata.PackageNotFoundError(name)
        return "13.6" if name == "rich" else real(name)

    monkeypatch.setattr(metadata, "version", version)
    checks = found()
    assert (checks["fast: numba"].state, checks["fast: numba"].mend) == (
        "optional",
        "pip install 'timm-diffsens[fast]'",
    )
    assert (checks["versions: rich"].state, checks["versions: rich"].said) == ("fault", "13.6, needs >=13.7")
    assert checks["versions: rich"].mend == "pip install 'rich>=13.7'"
    done = run()
    assert done.exit_code == 1
    assert "to mend it: pip install 'rich>=13.7'" in done.stdout


def test_only_a_missing_optional_part_is_no_fault(monkeypatch):
    real = metadata.version

    def version(name):
        if name == "numba":
            raise metadata.PackageNotFoundError(name)
        return real(name)

    monkeypatch.setattr(metadata, "version", version)
    assert run().exit_code == 0


def test_wrong_numbers_are_found(monkeypatch):
    """A kernel that is off by a thousandth, and one that crashes."""
    real = doctor.Probe.results

    def off(self):
        return [layer.model_copy(update={"d": layer.d * 1.001}) for layer in real(self)]

    monkeypatch.setattr(doctor.Probe, "results", off)
    check = found()["numbers: D and G on cpu"]
    assert check.state == "fault"
    assert check.said.startswith("they are 1.0e-03 from")
    monkeypatch.setattr(doctor, "normals", lambda *given: torch.zeros(2, 64))
    assert found()["numbers: draws on cpu"].state == "fault"

    def crash(*given):
        raise RuntimeError("illegal instruction\nand more")

    monkeypatch.setattr(doctor, "normals", crash)
    assert found()["numbers: draws on cpu"].said == "RuntimeError: illegal instruction"


def test_a_thing_of_another_package_that_cannot_be_imported_is_named(monkeypatch):
    real = doctor.registry.entries

    def entries(kind):
        more = [Entry(kind, "theirs", None, help="cannot be imported: no module x")]
        return real(kind) + (more if kind == "noises" else [])

    monkeypatch.setattr(doctor.registry, "entries", entries)
    check = found()["extensions: noises: theirs"]
    assert (check.state, check.said) == ("fault", "cannot be imported: no module x")


def test_a_driver_without_a_torch_that_can_use_it_is_a_fault(monkeypatch, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    (tmp_path / "nvidia").write_text("")
    monkeypatch.setattr(doctor, "_DRIVERS", (tmp_path / "nvidia",))
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    check = found()["devices: cuda"]
    assert check.state == "fault"
    assert torch.__version__ in check.said
    assert (check.mend is None) == (torch.version.cuda is not None)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    assert found()["devices: cuda"].state == "optional"
