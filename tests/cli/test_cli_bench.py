import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from timm_diffsens.benchmark.run import bench
from timm_diffsens.cli import app
from timm_diffsens.errors import DiffsensError, MeasurementError
from timm_diffsens.results.records.store import load_record
from timm_diffsens.schema.records import Record

QUICK = ["--no-pretrained", "--images", "8", "--layers", "stages", "--variants", "original"]


def run(*args):
    return CliRunner().invoke(app, ["bench", *map(str, args)])


def test_json_is_the_list_of_records_as_written_and_nothing_else(tmp_path):
    result = run("test_resnet", "test_vit", *QUICK, "--out", tmp_path, "--json")
    assert result.exit_code == 0, result.stderr
    printed = json.loads(result.stdout)
    written = [json.loads(p.read_text()) for p in sorted((tmp_path / "records").rglob("*.json"))]
    assert sorted(printed, key=lambda r: r["key"]) == sorted(written, key=lambda r: r["key"])
    assert [r["model"]["spec"] for r in printed] == ["test_resnet", "test_vit"]
    for record in printed:
        Record.model_validate(record)


def test_table_reading_and_advice_are_printed(tmp_path):
    result = run("test_resnet", *QUICK, "--out", tmp_path)
    assert result.exit_code == 0
    for words in ("layer1", "output", "R", "synthetic", "too few images (8)", "--images", "random"):
        assert words in result.stdout
    assert "Traceback" not in result.stdout + result.stderr


def test_reduced_precision_is_said_and_measured_beside_the_full(tmp_path):
    run("test_resnet", *QUICK, "--out", tmp_path)
    result = run("test_resnet", *QUICK, "--out", tmp_path, "--amp")
    assert result.exit_code == 0
    assert "forwards in float32, bfloat16 autocast" in " ".join(result.stdout.split())
    assert len(list((tmp_path / "records").rglob("*.json"))) == 2
    refused = run("test_resnet", *QUICK, "--out", tmp_path, "--tf32", "--device", "cpu")
    assert refused.exit_code == 2
    assert "--tf32 is for CUDA devices" in refused.stderr


def test_a_second_run_says_that_it_is_done(tmp_path):
    run("test_resnet", *QUICK, "--out", tmp_path)
    result = run("test_resnet", *QUICK, "--out", tmp_path)
    assert result.exit_code == 0
    assert "measured before" in result.stderr
    assert "layer1" in result.stdout


def test_options_that_list_take_commas_and_repetition(tmp_path):
    common = ["test_resnet", "--no-pretrained", "--images", "8", "--out", tmp_path, "--json"]
    commas = run(*common, "--layers", "maxpool,layer1.0", "--variants", "original,init")
    repeated = run(
        *common, "--layers", "maxpool", "--layers", "layer1.0", "--variants", "original", "--variants", "init"
    )
    one, other = json.loads(commas.stdout)[0], json.loads(repeated.stdout)[0]
    assert one["key"] == other["key"]
    assert list(one["variants"]) == ["original", "init"]


def test_fields_are_written_and_give_the_same_numbers_again(tmp_path):
    fields = tmp_path / "fields, delta=0.9.npz"
    common = ["test_resnet", *QUICK, "--seed", 3, "--json"]
    asked = [*common, "--delta", 0.9, "--out"]
    drawn = json.loads(run(*asked, tmp_path / "a", "--save-fields", fields).stdout)[0]
    assert json.loads(run(*asked, tmp_path / "b").stdout)[0]["key"] == drawn["key"]
    read = json.loads(run(*common, "--deformation", f"fields:{fields}", "--out", tmp_path / "a").stdout)[0]
    assert read["protocol"]["deformation"].startswith("fields:sha256=")
    assert read["key"] != drawn["key"]
    for one, other in zip(drawn["variants"]["original"], read["variants"]["original"], strict=True):
        for measure in "dgr":  # rounding of a displacement of a pixel, relative to what it changes
            assert other[measure] == pytest.approx(one[measure], rel=1e-5)


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["test_resnet", "test_vit", "--save-fields", "a.npz"], "--save-fields belongs to one model"),
        (["test_resnet", "--no-pretrained", "--save-fields", "a.npy"], "a.npy must end in .npz"),
        (
            ["net/fc2", "--no-pretrained", "--dataset", "scale1", "--save-fields", "a.npz"],
            "the deformation ActivePixels has no displacement fields",
        ),
        (["resnet999"], "did you mean"),
        (["torchvision/resnet19"], "resnet18"),
        (["net/lenett"], "net/lenet"),
        (["test_resnet", "--variants", "shuffled"], "channel-shuffled"),
        (["test_resnet", "--images", "many"], "--images needs a whole number or all"),
        (["test_resnet", "--batch-size", "big"], "--batch-size needs a whole number or auto"),
        (["test_resnet", "--mean", "a,b,c"], "--mean needs numbers"),
        (["test_resnet", "--input-size", "1,2,3"], "--input-size needs H or H,W"),
        (["test_resnet", "--dataset", "cifra10"], "cifar10"),
        (["test_resnet", "--dataset", "folder"], "--data-dir"),
        (["test_resnet", "--checkpoint", "nowhere.safetensors"], "nowhere.safetensors"),
        (["test_resnet", "--cut", "1"], "ln cut"),
        (["test_resnet", "--device", "cuda:7"], "cuda:7"),
        (["test_resnet", "--imags", "8"], "--images"),
        (["test_resnet", "test_vit", "--checkpoint", "x"], "one model"),
        (["missing.py:net"], "missing.py"),
        (["net/lenet", "--no-pretrained", "--layers", "nosuch*"], "nosuch*"),
        (["net/lenet", "--checkpoint", __file__], "cannot be read"),
        (
            ["net/lenet", "--deformation", "diffeo:delta=abc"],
            "argument delta of the deformation diffeo must be",
        ),
        (
            ["net/lenet", "--deformation", "diffeo:cut=three,delta=2"],
            "argument cut of the deformation diffeo must",
        ),
    ],
)
def test_wrong_use_is_exit_2_in_a_line_or_two(args, words, tmp_path):
    result = run(*args, *([] if "--images" in args else ["--images", "4"]), "--out", tmp_path)
    message = result.stderr
    assert result.exit_code == 2, (result.stdout, message)
    assert words in message
    assert "Traceback" not in message
    assert len(message.strip().splitlines()) <= 3
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_ends_the_program_does_not_end_the_others(tmp_path):
    (tmp_path / "m4.py").write_text("import sys\ndef make():\n    sys.exit(3)\n")
    result = run(f"{tmp_path / 'm4.py'}:make", "test_resnet", *QUICK, "--out", tmp_path)
    assert result.exit_code == 1
    assert "m4.py:make raised SystemExit: 3" in result.stderr
    assert len(list((tmp_path / "records").rglob("*.json"))) == 1
    (tmp_path / "m4.py").write_text("import argparse\nargparse.ArgumentParser().parse_args(['x'])\n")
    result = run(f"{tmp_path / 'm4.py'}:make", "test_resnet", *QUICK, "--out", tmp_path)
    assert result.exit_code == 2
    assert "m4.py': SystemExit: 2" in result.stderr


def test_one_model_that_fails_does_not_end_the_others(tmp_path):
    broken = tmp_path / "broken.py"
    broken.write_text(
        "import torch\n"
        "class Net(torch.nn.Module):\n"
        "    pretrained_cfg = {}\n"
        "    def forward(self, x):\n"
        "        raise ValueError('no good')\n"
    )
    args = [f"{broken}:Net", "net/lenet", *QUICK, "--input-size", "32", "--mean", "0.5", "--std", "0.5"]
    result = run(*args, "--out", tmp_path, "--json")
    assert result.exit_code == 1
    assert "ValueError: no good" in result.stderr
    failed, measured = json.loads(result.stdout)
    images = "images of 3 x 32 x 32 (--input-size gives it others)"
    told = f"broken.py:Net could not be run on {images}: ValueError: no good"
    assert failed == {"model": args[0], "error": told}
    assert measured["model"]["spec"] == "net/lenet"
    alone = run(args[0], *args[2:], "--out", tmp_path, "--json")
    assert alone.exit_code == 1
    assert json.loads(alone.stdout) == [failed]
    assert alone.stderr.endswith(f"error: {failed['error']}\n")


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_a_record_that_cannot_be_written_is_printed(form, tmp_path, monkeypatch):
    def full(path, content):
        raise DiffsensError(f"cannot write {path.name}: No space left on device")

    monkeypatch.setattr("timm_diffsens.results.records.store.write_atomic", full)
    result = run("net/lenet", *QUICK, "--out", tmp_path, *form)
    assert result.exit_code == 1
    assert "No space left" in result.stderr
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
    if form:
        (record,) = json.loads(result.stdout)
        assert Record.model_validate(record).output.r > 0
    else:
        assert "output" in result.stdout
    with pytest.raises(MeasurementError, match="No space left") as error:
        bench("net/lenet", pretrained=False, images=8, variants="original", out=tmp_path)
    assert error.value.record.output.r > 0


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_standard_output_on_a_full_disk_loses_no_record(tmp_path, warm):
    command = [*warm, "-m", "timm_diffsens", "bench", "net/lenet", *QUICK, "--out", str(tmp_path)]
    for form in ([], ["--json"]):
        with Path("/dev/full").open("w") as full:
            done = subprocess.run([*command, *form], stdout=full, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 1
        assert done.stderr.endswith("error: what was found cannot be printed: No space left on device\n")
        (path,) = (tmp_path / "records").rglob("*.json")
        assert load_record(path).output.layer == "output"


def test_published_weights_out_of_reach_are_exit_2_with_a_way_out(tmp_path):
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    done = subprocess.run(
        [sys.executable, "-m", "timm_diffsens.cli", "bench", "test_resnet", "--out", str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2, done.stderr
    assert "--checkpoint" in done.stderr
    assert "--no-pretrained" in done.stderr
    assert "Traceback" not in done.stderr


def test_ctrl_c_is_exit_130_and_leaves_nothing_half_written(tmp_path, warm):
    command = [*warm, "-m", "timm_diffsens.cli", "bench", "test_resnet", "--no-pretrained"]
    options = ["--images", "3000", "--batch-size", "2", "--out", str(tmp_path)]
    process = subprocess.Popen(
        [*command, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        # a background job of a shell ignores Ctrl-C, and its children inherit that
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    line = process.stderr.readline()  # of the images, before they are measured
    time.sleep(2)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=600)
    assert process.returncode == 130, line + errors
    assert "Traceback" not in errors
    assert [p for p in tmp_path.rglob("*") if p.is_file()] == []
