"""`diffsens show`, and what all verbs share: exit codes, one JSON document, errors in one line."""

import json
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
from record_factory import RESNET18, make_layers, make_record, null_layer, replace_layer
from rich.console import Console
from typer.testing import CliRunner

from timm_diffsens import __version__
from timm_diffsens.cli import app
from timm_diffsens.cli.output import layer_table
from timm_diffsens.errors import DiffsensError, DiffsensWarning
from timm_diffsens.results.records.store import write_record
from timm_diffsens.schema.records import Record

SHOW = sys.modules["timm_diffsens.cli.show"]  # the package's attribute of that name is the verb
HEAVY = {"torch", "torchvision", "timm", "pandas", "altair", "scipy", "numpy"}


def run(*arguments: object, columns: int = 120):
    return CliRunner(env={"COLUMNS": str(columns)}).invoke(app, [str(a) for a in arguments])


def process(*arguments: object, **options) -> subprocess.Popen:
    code = "from timm_diffsens.cli import main; main()"
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], **pipes, **options)


@pytest.fixture
def out(tmp_path) -> Path:
    """Three records: two of resnet18, one of another model."""
    for record in (make_record(), make_record(dataset="cifar10", n=50), make_record("vit_tiny.augreg")):
        write_record(tmp_path / "records", record)
    return tmp_path


def table_text(layers, width: int, **options) -> list[str]:
    console = Console(width=width, file=None)
    with console.capture() as capture:
        console.print(layer_table(layers, width=width, **options))
    return capture.get().splitlines()


# ---- one record


def test_a_record_is_shown_in_full(out):
    result = run("show", "vit_tiny.augreg", "--out", out)
    assert result.exit_code == 0
    for text in (
        "vit_tiny.augreg (timm, 11,689,512 parameters)",
        "pretrained (timm/resnet18.a1_in1k)",
        "imagenet, val, 500 images of 224 x 224",
        "delta = 1 px, cut = 3 (rms 0.839 px), layers = blocks, seed = 0",
        "28.8% ± 2.0% (measured over 500 images)",
        "R falls from 0.920 ± 0.030 at act1",
        "8 convolutions; constant mode 18% to 41%",
        *RESNET18,
    ):
        assert text in result.stdout.replace("\n", " ") or text in result.stdout
    lines = result.stdout.splitlines()
    curves = {line.split()[0] for line in lines if re.search("[▁▂▃▄▅▆▇█]{10}", line)}
    assert {"original", "channel-shuffled", "mean-channel", "mean-filter", "init"} <= curves
    assert result.stderr == ""


def test_a_record_is_found_by_file_key_model_and_architecture(out):
    record = make_record("vit_tiny.augreg")
    (path,) = (out / "records").rglob("vit*.json")
    for name in (path, record.key[:6], record.key, "vit_tiny.augreg", "vit_tiny"):
        result = run("show", name, "--out", out, "--json")
        assert result.exit_code == 0, result.stderr
        assert Record.model_validate_json(result.stdout) == record


@pytest.mark.parametrize(
    ("wrong", "n", "said"),
    [
        (8, 8, "100.0%, 95 %: 67.6% to 100.0% (measured over 8 images)"),  # Wilson: 1 / (1 + z^2 / 8)
        (0, 8, "0.0%, 95 %: 0.0% to 32.4% (measured over 8 images)"),
        (2, 50, "4.0%, 95 %: 1.1% to 13.5% (measured over 50 images)"),
        (10, 50, "20.0% ± 5.7% (measured over 50 images)"),
    ],
)
def test_a_test_error_of_few_images_has_an_interval(wrong, n, said, tmp_path):
    share = wrong / n
    error = {"value": share, "stderr": (share * (1 - share) / n) ** 0.5, "n": n, "source": "measured"}
    path = write_record(tmp_path / "records", make_record(test_error=error))
    assert said in run("show", path).stdout


def test_several_matches_are_listed(out):
    result = run("show", "resnet18", "--out", out)
    assert result.exit_code == 2
    assert "2 records match 'resnet18'" in result.stderr
    assert make_record().key[:12] in result.stderr
    assert "resnet18 on cifar10, n = 50)" in result.stderr


def test_several_matches_that_look_equal_are_told_apart(tmp_path):
    for seed in (0, 7):
        write_record(tmp_path / "records", make_record(protocol={"seed": seed}))
    result = run("show", "resnet18", "--out", tmp_path)
    assert result.exit_code == 2
    assert "resnet18 on imagenet, n = 500, seed 7)" in result.stderr


def test_a_trait_that_one_of_several_lacks_is_called_none(tmp_path):
    for split in ("val", None):
        write_record(tmp_path / "records", make_record(data={"split": split}))
    result = run("show", "resnet18", "--out", tmp_path)
    assert "n = 500, split val)" in result.stderr
    assert "n = 500, split none)" in result.stderr


def test_no_match_names_the_nearest(out):
    result = run("show", "vit_tny", "--out", out)
    assert result.exit_code == 2
    assert "did you mean vit_tiny.augreg?" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (["x", "--out", "nowhere"], "no folder"),
        (["gone.json"], "No such file"),
        (["pyproject.toml"], "not a record"),
        (["vit_tiny", "--variant", "shuffled"], "did you mean channel-shuffled"),
        (["vit_tiny", "--figure", "a.jpg"], ".png, .svg, .pdf, .html"),
        (["vit_tiny", "--figures", "a.png"], "--figure"),
        (["vit_tiny", "--figure", "a.png", "--only", "x"], "--only must be d, g, r, deformations"),
        (["vit_tiny", "--figure", "a.png", "--only", "sizes"], "has no panel sizes"),
        (["vit_tiny", "--figure", "a.png", "--column", "85mm"], "use --only r"),
        (["vit_tiny", "--only", "r"], "--only is about figures: give --figure FILE too"),
        ([], "RECORD"),
    ],
    ids=str,
)
def test_wrong_use_is_exit_2_in_one_line(out, arguments, word, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    result = run("show", *arguments, *([] if "--out" in arguments else ["--out", out]))
    assert result.exit_code == 2
    assert result.stdout == ""
    assert word in result.stderr
    assert result.stderr.startswith("error: ")
    assert len(result.stderr.splitlines()) == 1


def test_a_figure_is_drawn(out, tmp_path):
    result = run("show", "vit_tiny", "--out", out, "--figure", tmp_path / "a.svg", "--json")
    assert result.exit_code == 0
    assert "vit_tiny.augreg" in (tmp_path / "a.svg").read_text()
    assert json.loads(result.stdout)["model"]["spec"] == "vit_tiny.augreg"
    assert "a.svg" in result.stderr


def test_one_panel_is_drawn(out, tmp_path):
    options = ("--only", "r", "--column", "85mm")
    assert run("show", "vit_tiny", "--out", out, "--figure", tmp_path / "a.svg", *options).exit_code == 0
    drawn = (tmp_path / "a.svg").read_text()
    assert "R = D / G" in drawn
    assert "D (deformation)" not in drawn


def test_another_variant_is_listed(out):
    original, init = (
        run("show", "vit_tiny", "--out", out, "--variant", v).stdout for v in ("original", "init")
    )
    assert "init, 10 layers" in init
    assert "0.570 ± 0.018" in init
    assert "0.570 ± 0.018" not in original


def test_warnings_are_part_of_the_record_unless_silenced(tmp_path):
    write_record(tmp_path / "records", make_record(n=20, warnings=["the moon was full"]))
    shown = run("show", "resnet18", "--out", tmp_path).stdout
    assert "warning: the moon was full" in shown
    assert "warning: too few images (20), the standard errors are rough: use --images 100 or more" in shown
    assert "warning" not in run("show", "resnet18", "--out", tmp_path, "--quiet").stdout


# ---- the layer table


def test_a_null_is_a_dash_and_its_reason():
    layers = list(replace_layer(make_record(), 4, null_layer(4, 10, "layer2.1")).variants["original"])
    (line,) = [text for text in table_text(layers, 120) if "layer2.1" in text]
    assert line.split() == ["layer2.1", "BasicBlock", "0.50", "-", "-", "-", "constant"]


def test_the_middle_is_left_out_beyond_forty():
    names = [f"blocks.{i}" for i in range(100)]
    lines = table_text(make_layers(names), 120)
    shown = [line.split()[0] for line in lines if line.startswith("blocks")]
    assert shown == names[:20] + names[-20:]
    assert any("60 layers in the middle are left out; --all-layers lists them" in line for line in lines)
    everything = [line.split()[0] for line in table_text(make_layers(names), 120, all_layers=True)[1:]]
    assert everything == names
    assert len([x for x in table_text(make_layers(names[:40]), 120) if x.startswith("blocks")]) == 40


@pytest.mark.parametrize("width", [80, 100, 120, 200])
def test_no_number_is_cut_off(width):
    names = [f"stages.{i}.blocks.{i}.token_mixer.attention.projection" for i in range(30)]
    layers = make_layers(names)
    lines = table_text(layers, width)
    assert max(map(len, lines)) <= width
    assert len(lines) == 31
    for layer, line in zip(layers, lines[1:], strict=True):
        assert re.findall(r"(\S+) ?±", line)[2] == f"{layer.r:#.3g}"
        assert line.startswith("stag")


def test_bars_are_logarithmic():
    layers = [x.model_copy(update={"r": 10.0**-i}) for i, x in enumerate(make_layers(["a", "b", "c"]))]
    bars = [line.split()[-1] for line in table_text(layers, 120)[1:]]
    assert bars == ["██████████", "█████", "▏"]


# ---- all verbs


def test_help_is_quick_and_imports_nothing_heavy():
    code = (
        "import sys, time\n"
        "sys.argv = ['diffsens', '--help']\n"
        "from timm_diffsens.cli import main\n"
        "try:\n    main()\n"
        "finally:\n"
        f"    print(sorted({HEAVY!r} & set(sys.modules)), time.process_time(), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    base = "import time, typer, rich.console; print(time.process_time())"
    needed = subprocess.run([sys.executable, "-c", base], capture_output=True, text=True, check=True)
    assert "validate" in done.stdout
    loaded, seconds = done.stderr.strip().rsplit(" ", 1)
    assert loaded == "[]"
    assert float(seconds) < 8 * float(needed.stdout)  # whatever the machine


def test_version():
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"diffsens {__version__}\n")


def test_an_unknown_verb_names_the_nearest():
    result = run("shw", "x")
    assert result.exit_code == 2
    assert result.stderr.startswith("error: unknown command 'shw'; did you mean show")


def test_an_unknown_option_before_the_verb():
    result = run("--bogus", "show")
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == "error: No such option: --bogus\n"


@pytest.mark.parametrize(
    ("fault", "code", "line"),
    [
        (DiffsensError("the [disk] is full"), 1, "error: the [disk] is full\n"),
        (KeyboardInterrupt(), 130, "error: interrupted\n"),
    ],
)
def test_faults_become_a_line_and_a_code(monkeypatch, fault, code, line):
    def fail(*args):
        raise fault

    monkeypatch.setattr(SHOW, "find", fail)
    result = run("show", "x")
    assert (result.exit_code, result.stdout, result.stderr) == (code, "", line)


@pytest.mark.parametrize(
    "arguments", [["show", "vit_tiny", "--json"], ["show", "vit_tiny"], ["ls", "records", "--json"]]
)
def test_a_reader_that_leaves_is_no_fault(out, arguments):
    """Whether the output is longer than the buffer or not."""
    child = process(*arguments, "--out", out)
    child.stdout.close()
    assert child.stderr.read() == ""
    assert child.wait(timeout=600) == 1
    child.stderr.close()


def test_an_output_that_cannot_show_blocks_still_works(out):
    child = process("show", "vit_tiny", "--out", out, env={"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"})
    printed, errors = child.communicate(timeout=600)
    assert child.returncode == 0, errors
    assert "0.0721 ? 0.0023" in printed


def damage(folder: Path) -> None:
    (folder / "records" / "half.json").write_text('{"schema')


def test_what_is_left_out_is_named_on_standard_error(out):
    damage(out)
    before = warnings.filters[:]
    result = run("ls", "records", "--out", out, "--json")
    assert result.exit_code == 1
    assert len(json.loads(result.stdout)) == 3
    assert result.stderr.startswith("error: left out: ")
    assert "half.json" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert warnings.filters == before


@pytest.mark.parametrize(
    "arguments", [["--quiet", "show", "vit_tiny.augreg"], ["show", "vit_tiny.augreg", "--quiet"]], ids=str
)
def test_quiet_silences_warnings(out, arguments):
    damage(out)
    result = run(*arguments, "--out", out)
    assert (result.exit_code, result.stderr) == (0, "")


def test_other_warnings_are_left_alone(monkeypatch, out):
    def find(*args):
        warnings.warn("ours", DiffsensWarning, stacklevel=1)
        warnings.warn("theirs", UserWarning, stacklevel=1)
        return make_record()

    monkeypatch.setattr(SHOW, "find", find)
    with pytest.warns(UserWarning, match="theirs"):
        result = run("show", "x", "--json")
    assert result.stderr == "warning: ours\n"
