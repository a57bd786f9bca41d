import re
import runpy
import subprocess
from pathlib import Path

import pytest
from test_architecture import ORDER, RESULTS

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "timm_diffsens"
FOLDERS = (".ci", ".github", "benchmarks", "docs", "examples", "leaderboard", "tests", "timm_diffsens")
GUIDES = ("CONTRIBUTING.md", "docs/architecture.md")


def test_measured_tables_are_those_of_the_records(warm):
    script = ROOT / "docs" / "render.py"
    done = subprocess.run([*warm, str(script), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "<!-- record:" in (ROOT / "docs" / "measured.md").read_text()


def test_the_library_example_runs_as_it_stands(warm):
    (code,) = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    done = subprocess.run([*warm, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith("output ")


def test_the_projects_own_records_are_valid(warm):
    done = subprocess.run(
        [*warm, "-m", "timm_diffsens.cli", "validate", str(ROOT / "leaderboard" / "records")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((ROOT / "leaderboard" / "records").rglob("*.json"))) >= 2


def guide(name: str) -> str:
    """A page without what docs/render.py fills in, and without the folders that its commands write."""
    page = re.sub(r"(<!-- (\w+) -->).*?<!-- /\2 -->", "", (ROOT / name).read_text(), flags=re.DOTALL)
    return re.sub(r"--out \S+", "", page)


@pytest.mark.parametrize("name", GUIDES)
def test_every_path_that_a_guide_names_is_there(name):
    tops = "|".join(map(re.escape, FOLDERS))
    named = re.findall(rf"(?<![\w./-])(?:(?:{tops})/[\w./-]*|\w+\.(?:md|toml|txt|cff)\b)", guide(name))
    assert len(named) > 20
    here = (ROOT, (ROOT / name).parent)
    assert not [path for path in named if not any((folder / path.rstrip(".")).exists() for folder in here)]


def test_the_architecture_describes_every_folder_of_the_package():
    page = (ROOT / "docs" / "architecture.md").read_text()
    for file in PACKAGE.rglob("__init__.py"):
        if file.parent != PACKAGE:
            assert f"| `{file.parent.relative_to(ROOT).as_posix()}/` | " in page
    for name in FOLDERS:
        assert f"| `{name}/` | " in page or name == PACKAGE.name


def test_the_architecture_gives_the_order_that_is_enforced():
    order = runpy.run_path(str(ROOT / "docs" / "render.py"))["order"]
    page = (ROOT / "docs" / "architecture.md").read_text()
    there = {path.stem for path in PACKAGE.iterdir()}
    assert order(page) == [part for part in dict.fromkeys(ORDER) if part in there]
    assert "Inside of `results` the order is " + ", ".join(f"`{part}`" for part in RESULTS) + "." in page
