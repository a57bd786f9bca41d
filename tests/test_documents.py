import contextlib
import io
import re
import runpy
import shlex
import subprocess
from pathlib import Path

import pytest
from test_architecture import ORDER, RESULTS
from typer.testing import CliRunner

import timm_diffsens
from timm_diffsens.cli import app

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "timm_diffsens"
FOLDERS = (".ci", ".github", "benchmarks", "docs", "examples", "leaderboard", "tests", "timm_diffsens")
GUIDES = ("CONTRIBUTING.md", "docs/architecture.md")
# Pages that are run, block after block in an empty folder; of a block that is not, the line before says why.
RUN = ("docs/tutorial.md", "docs/howto.md", "docs/authors_code.md", "docs/library.md")
BLOCK = re.compile(
    r"^(?:<!-- not run: ([^\n]+) -->\n)?```(\w+)(?: (\S+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL
)
ELSEWHERE = ("docs/extending.md", "docs/integrations.md")  # run by tests of their own
NUMBER = re.compile(r"-?\d+\.?\d*(?:e-?\d+)?")


def test_measured_tables_are_those_of_the_records(warm):
    script = ROOT / "docs" / "render.py"
    done = subprocess.run([*warm, str(script), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "<!-- record:" in (ROOT / "docs" / "measured.md").read_text()


def test_margins_are_those_of_every_seed_but_of_dead_networks():
    page = runpy.run_path(str(ROOT / "docs" / "render.py"))
    found = (0.1189, 0.1202, 0.1202, 13.8)
    seeds = [{"constant_shares": [1.0], "decay_budget": 6.5, "margin": margin} for margin in found]
    (text,) = page["budgets"](seeds)
    assert text.endswith("Budget of decay: 6.5. Normalised margins: 0.119, 0.120, 0.120, 13.8.")
    of = [{"margin": m, "test_error": e} for m, e in ((0.1, 0.0), (1e22, 0.5), (-1e-8, 0.4), (None, 0.0))]
    assert [page["margin_of"](seed) for seed in of] == [0.1, None, None, None]


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


def run_page(page: str) -> None:
    """Run every block of Python and every command in order; what a page shows as printed has to be.

    A block of Python is a program of its own, as whoever copies it into a file runs it.
    """
    printed = ""
    for why, language, header, code in BLOCK.findall(page):
        if why:
            continue
        if header.startswith("file="):
            Path(header.removeprefix("file=")).write_text(code)
        elif language == "python":
            with contextlib.redirect_stdout(io.StringIO()) as out:
                exec(compile(code, "<page>", "exec"), {"__name__": "page"})
            printed = out.getvalue()
        elif language == "sh":
            printed = "".join(map(run_command, code.replace("\\\n", " ").splitlines()))
        elif language == "text":
            assert_printed(code, printed)


def run_command(command: str) -> str:
    program, *arguments = shlex.split(command, comments=True)
    assert program == "diffsens", f"{command}: no command of this package; say why it is not run"
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, f"{command}\n{done.output}"
    return done.output


def assert_printed(shown: str, printed: str) -> None:
    """Every line that is shown, but `...` and empty ones, in order; numbers to 2 %, as machines round."""
    lines = iter(printed.splitlines())
    for line in filter(lambda line: line.strip(" ."), shown.splitlines()):
        words, values = NUMBER.sub("#", line).split(), [float(v) for v in NUMBER.findall(line)]
        assert any(
            NUMBER.sub("#", found).split() == words
            and [float(v) for v in NUMBER.findall(found)] == pytest.approx(values, rel=0.02)
            for found in lines
        ), f"not printed: {line}\n{printed}"


@pytest.mark.parametrize("name", RUN)
def test_every_block_of_a_page_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    run_page((ROOT / name).read_text(encoding="utf-8"))


def test_a_page_that_shows_what_is_not_printed_is_found():
    page = "```python\nprint('R falls by 1.41')\n```\n\n```text\nR falls by {}\n```\n"
    run_page(page.format(1.42))
    for wrong in ("1.45", "1.41 twice"):
        with pytest.raises(AssertionError, match="not printed"):
            run_page(page.format(wrong))


IMPORT = re.compile(r"^(?:from|import) (\w+)", re.MULTILINE)
OF_TORCHVISION = {"timm", "torchvision", "lightning", "pytorch_lightning", "torchmetrics"}


@pytest.mark.parametrize("name", [*RUN, *ELSEWHERE, "README.md"])
def test_this_package_is_imported_before_what_imports_torchvision(name):
    for _, language, _, code in BLOCK.findall((ROOT / name).read_text(encoding="utf-8")):
        imported = IMPORT.findall(code) if language == "python" else []
        first = next((module for module in imported if module in OF_TORCHVISION | {"timm_diffsens"}), "")
        assert first not in OF_TORCHVISION, f"{first} before timm_diffsens:\n{code}"


def test_every_public_name_is_in_the_table_of_the_library():
    page = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| (`.*?) \|", page, re.MULTILINE)
    listed = {name for row in rows for name in re.findall(r"`([A-Za-z_]+)", row)}
    assert set(timm_diffsens.__all__) - {"__version__"} <= listed


@pytest.mark.parametrize("page", sorted((ROOT / "docs").glob("*.md")), ids=lambda page: page.name)
def test_a_block_that_is_not_run_says_why(page):
    text = page.read_text(encoding="utf-8")
    blocks = [found for found in BLOCK.findall(text) if found[1] in ("sh", "python")]
    assert text.count("\n```sh") + text.count("\n```python") == len(blocks)
    if f"docs/{page.name}" not in RUN + ELSEWHERE:
        assert all(why for why, *_ in blocks)
