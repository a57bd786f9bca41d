import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest
from results.stats.test_leaderboard import trained, written

ROOT = Path(__file__).parent.parent


def test_measured_tables_are_those_of_the_records():
    script = ROOT / "docs" / "render.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "<!-- record:" in (ROOT / "README.md").read_text()


def test_the_library_example_runs_as_it_stands():
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("output ")


@pytest.fixture(scope="module")
def render():
    spec = importlib.util.spec_from_file_location("docs_render", ROOT / "docs" / "render.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_a_block_of_the_board_shows_its_correlations(render, tmp_path, monkeypatch):
    written(tmp_path, [trained(i, train_error=0.2) for i in range(7)])
    monkeypatch.setattr(render, "BOARD_FOLDER", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- board: cifar10 -->\nstale\n<!-- /board -->\nb\n")
    filled = render.rendered(page)
    group = render.board_groups(tmp_path)["cifar10"]
    rho = group.correlations.set_index(["variant", "measure"]).loc[("original", "r"), "pearson"]
    row = next(line for line in filled.splitlines() if line.startswith("| original | R |"))
    assert f"| {rho:.2f} |" in row
    assert f"figures/{group.slug}-scatter.svg" in filled
    assert "7 networks in 7 trainings" in filled
    assert "None of the 7 networks fits its training set (train error above 1 %)" in filled
    assert "stale" not in filled


def test_a_block_without_enough_networks_says_nothing(render, tmp_path, monkeypatch):
    written(tmp_path, [trained(i) for i in range(4)])
    monkeypatch.setattr(render, "BOARD_FOLDER", tmp_path)
    page = tmp_path / "page.md"
    page.write_text(
        "<!-- board: cifar10 -->\nold\n<!-- /board -->\n<!-- board: scale1 -->\n<!-- /board -->\n"
    )
    empty = "<!-- board: cifar10 -->\n<!-- /board -->\n<!-- board: scale1 -->\n<!-- /board -->\n"
    assert render.rendered(page) == empty


def test_the_projects_own_records_are_valid():
    done = subprocess.run(
        [sys.executable, "-m", "timm_diffsens.cli", "validate", str(ROOT / "leaderboard" / "records")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((ROOT / "leaderboard" / "records").rglob("*.json"))) >= 2
