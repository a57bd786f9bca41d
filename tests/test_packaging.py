"""The files around the package agree with it and with one another."""

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import timm_diffsens

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PAGES = [
    *sorted(ROOT.glob("*.md")),
    ROOT / "leaderboard" / "CONTRIBUTING.md",
    *sorted((ROOT / "docs").glob("*.md")),
]
OWN_NAME = canonicalize_name(PROJECT["name"])


def fenced(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def read_pins() -> dict[str, Requirement]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(pin.name): pin for pin in pins}


def pinned_version(pin: Requirement) -> str:
    (only,) = pin.specifier
    assert only.operator == "==", pin
    return only.version


PINS = read_pins()


def direct_requirements() -> list[Requirement]:
    extras = PROJECT["optional-dependencies"]
    listed = [*PROJECT["dependencies"], *(text for extra in extras.values() for text in extra)]
    found = {canonicalize_name(r.name): r for r in map(Requirement, listed)}
    return [r for name, r in found.items() if name != OWN_NAME]


def requirements_of(name: str, extras: frozenset[str]) -> list[Requirement]:
    environment = default_environment()
    listed = [Requirement(text) for text in metadata.requires(name) or []]
    wanted = [{**environment, "extra": extra} for extra in ("", *extras)]
    return [r for r in listed if r.marker is None or any(r.marker.evaluate(e) for e in wanted)]


def test_the_constraints_are_sorted_and_exact():
    assert list(PINS) == sorted(PINS)
    assert all(pinned_version(pin) for pin in PINS.values())


@pytest.mark.parametrize("requirement", direct_requirements(), ids=lambda r: r.name)
def test_what_the_project_asks_for_is_pinned(requirement):
    pin = PINS[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pinned_version(pin))


def test_what_the_pinned_packages_ask_for_is_pinned_too():
    unpinned, seen = set(), set()
    todo = [(canonicalize_name(r.name), frozenset(r.extras)) for r in direct_requirements()]
    while todo:
        name, extras = todo.pop()
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        if name not in PINS:
            unpinned.add(name)
            continue
        try:
            version = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue  # of the `dev` extra
        if version.partition("+")[0] == pinned_version(PINS[name]):  # else another set is being tested
            todo += [(canonicalize_name(r.name), frozenset(r.extras)) for r in requirements_of(name, extras)]
    assert not {name for name in unpinned if not name.startswith(("nvidia", "cuda", "triton"))}


def test_the_tables_of_all_architectures_are_of_the_pinned_libraries():
    for name in ("coverage", "sweep"):
        versions = json.loads((ROOT / "leaderboard" / f"{name}.json").read_text())["versions"]
        assert {n: versions[n] for n in ("timm", "torchvision")} == {
            n: pinned_version(PINS[n]) for n in ("timm", "torchvision")
        }


def test_pre_commit_runs_the_pinned_versions():
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text(encoding="utf-8"))
    hooks = {hook["id"]: hook for repo in config["repos"] for hook in repo["hooks"]}
    assert {"ruff-check", "ruff-format", "mypy"} <= set(hooks)
    for hook in hooks.values():
        wanted = [Requirement(text) for text in hook.get("additional_dependencies", [])]
        # A hook with no dependencies of its own runs what is installed, which constraints.txt pins.
        assert wanted or hook["language"] == "system"
        for requirement in wanted:
            assert requirement.specifier == PINS[canonicalize_name(requirement.name)].specifier


def test_readme_sets_up_with_exactly_two_commands():
    first_screen = README.split("\n## ")[0]
    install, test = (block.strip() for block in fenced(first_screen, "sh"))
    assert install == (
        "python3 -m venv .venv && .venv/bin/pip install -c constraints.txt . && .venv/bin/diffsens demo"
    )
    steps = [step.strip() for step in test.split("&&")]
    *before, last = steps
    assert before == [
        "python3 -m venv .venv",
        ".venv/bin/pip install -c constraints.txt -e '.[test]'",
        ".venv/bin/ruff check .",
        ".venv/bin/ruff format --check .",
        ".venv/bin/mypy",
    ]
    assert last.split()[0] == ".venv/bin/pytest"


def ci_command(libraries: str) -> str:
    done = subprocess.run(
        [ROOT / ".ci" / "run", "--print"],
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "DIFFSENS_LIBRARIES": libraries},
    )
    return done.stdout.strip()


def test_the_ci_runs_the_test_command_of_readme():
    command = fenced(README.partition("<!-- test-command -->")[2], "sh")[0].strip()
    assert ci_command("") == ci_command("pinned") == command


@pytest.mark.parametrize("libraries", ["oldest", "newest"])
def test_the_ci_leaves_out_only_mypy_where_it_takes_other_libraries(libraries):
    pinned, steps = (re.split(r"\s*&&\s*", ci_command(which)) for which in ("pinned", libraries))
    expected = [step.replace("constraints.txt", "constraints.tmp") for step in pinned]
    assert steps == [step for step in expected if step != ".venv/bin/mypy"]


def python_versions() -> list[str]:
    """Those of the classifiers, oldest first."""
    prefix = "Programming Language :: Python :: "
    found = [c.removeprefix(prefix) for c in PROJECT["classifiers"] if re.match(rf"{prefix}\d+\.\d+$", c)]
    return sorted(found, key=lambda version: [int(part) for part in version.split(".")])


def test_the_hosted_ci_runs_the_oldest_and_the_newest():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    job = workflow["jobs"]["tests"]
    oldest, newest = python_versions()[0], python_versions()[-1]
    assert PROJECT["requires-python"] == f">={oldest}"
    runs = {(run["python"], run["libraries"]) for run in job["strategy"]["matrix"]["include"]}
    assert runs == {(oldest, "oldest"), (oldest, "newest"), (newest, "pinned"), (newest, "newest")}
    (tests,) = (step for step in job["steps"] if "run" in step)
    assert tests["run"] == ".ci/run"
    assert tests["env"]["DIFFSENS_LIBRARIES"] == "${{ matrix.libraries }}"


def constraints(libraries: str) -> set[str]:
    command = [ROOT / ".ci" / "constraints", libraries]
    printed = subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL)
    return {line for line in printed.stdout.splitlines() if not line.startswith("#")}


def test_the_ci_can_take_the_oldest_and_the_newest_libraries():
    pinned, oldest, newest = (constraints(which) for which in ("pinned", "oldest", "newest"))
    libraries = {"torch", "torchvision", "timm"}
    assert newest < pinned
    assert {Requirement(line).name for line in pinned - newest} == libraries | {"sympy", "triton"}
    bounds = {r.name: r.specifier for r in map(Requirement, PROJECT["dependencies"]) if r.name in libraries}
    assert oldest - newest == {f"{name}{str(bound).replace('>=', '==')}" for name, bound in bounds.items()}
    assert newest < oldest


def test_the_ci_can_take_the_libraries_of_integrations_at_their_lower_bounds():
    extras = ("hf", "lightning", "loggers", "torchmetrics", "test-integrations")
    asked = [Requirement(text) for extra in extras for text in PROJECT["optional-dependencies"][extra]]
    bounds = {str(r).replace(">=", "==") for r in asked if canonicalize_name(r.name) != OWN_NAME}
    assert len(bounds) > len(extras)
    assert constraints("oldest-extras") == bounds | {str(PINS[n]) for n in ("torch", "torchvision", "timm")}


@pytest.mark.parametrize("libraries", ["newest", "odlest"])
def test_the_integrations_are_tried_with_no_other_libraries(libraries, tmp_path):
    (tmp_path / ".ci").mkdir()
    script = shutil.copy(ROOT / ".ci" / "integrations", tmp_path / ".ci")  # it would install beside itself
    done = subprocess.run(
        [script],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        env={**os.environ, "DIFFSENS_LIBRARIES": libraries},
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"DIFFSENS_LIBRARIES is pinned or oldest here, got {libraries}\n"
    assert [path.name for path in tmp_path.iterdir()] == [".ci"]


def test_the_hosted_ci_runs_the_integrations_with_pinned_and_oldest_libraries():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    job = workflow["jobs"]["integrations"]
    assert {run["libraries"] for run in job["strategy"]["matrix"]["include"]} == {"pinned", "oldest"}
    (tests,) = (step for step in job["steps"] if "run" in step)
    assert tests["run"] == ".ci/integrations"
    assert tests["env"]["DIFFSENS_LIBRARIES"] == "${{ matrix.libraries }}"


def test_versions_agree():
    version = timm_diffsens.__version__
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == version
    assert citation["license"] == PROJECT["license"] == "Apache-2.0"
    assert f"## [{version}]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert metadata.version(PROJECT["name"]) == version


def test_the_citation_has_what_the_format_requires():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["authors"] == PROJECT["authors"]
    for part in (citation, *citation["references"]):
        assert part["title"]
        assert part["authors"]
    assert {r["identifiers"][0]["value"] for r in citation["references"]} == {
        "arXiv:2210.01506",
        "arXiv:2105.02468",
    }


def test_the_package_says_that_it_is_typed():
    assert (Path(timm_diffsens.__file__).parent / "py.typed").exists()


def test_the_command_is_installed():
    (command,) = metadata.entry_points(group="console_scripts", name="diffsens")
    assert command.value == "timm_diffsens.cli:main"


def test_the_project_has_one_home():
    home = PROJECT["urls"]["Source"]
    assert set(PROJECT["urls"]) == {"Documentation", "Source", "Issues", "Changelog"}
    assert all(url == home or url.startswith(f"{home}/") for url in PROJECT["urls"].values())
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["repository-code"] == home
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert set(re.findall(r"https://github\.com/[\w-]*/timm-diffsens", text)) <= {home}


def commands() -> set[str]:
    from typer.main import get_command

    from timm_diffsens.cli import app

    return set(get_command(app).commands)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_name_only_commands_that_exist(page):
    code = re.findall(
        r"(?:`|\bbin/|^)diffsens ([a-z]+)", page.read_text(encoding="utf-8"), flags=re.MULTILINE
    )
    assert set(code) <= commands()


def test_readme_is_short_and_free_of_entities():
    assert len(README.splitlines()) <= 120
    assert "&#" not in README


def test_readme_names_every_command():
    rows = [line for line in README.splitlines() if line.startswith("| `diffsens ")]
    assert commands() == {name for row in rows for name in re.findall(r"`diffsens ([a-z]+)", row)}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    text = page.read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?://)([^)]+)\)", text):
        file, _, anchor = target.partition("#")
        path = page.parent / file if file else page
        assert path.exists(), target
        if not anchor:
            continue
        headings = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
        assert anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}


def test_the_page_on_the_library_lists_the_public_names():
    page = (ROOT / "docs" / "library.md").read_text(encoding="utf-8")
    table = re.findall(r"^\| (`.*?) \|", page, flags=re.MULTILINE)
    listed = set(re.findall(r"`(\w+)\(", " ".join(table)))
    assert listed <= set(timm_diffsens.__all__)
    functions = {name for name in timm_diffsens.__all__ if name[0].islower()}
    assert functions <= listed


def test_the_example_of_readme_runs(capsys):
    (example,) = fenced(README, "python")
    exec(compile(example, "README.md", "exec"), {})
    names = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert names[-1] == "output"


def test_the_reasons_in_the_docs_are_those_of_the_code():
    section = (ROOT / "docs" / "models.md").read_text(encoding="utf-8").partition("## Reasons")[2]
    strings = {
        node.value
        for path in (ROOT / "timm_diffsens").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant)
    }
    reasons = re.findall(r"^\| `([^`]+)`", section, flags=re.MULTILINE)
    assert reasons
    assert set(reasons) <= strings
