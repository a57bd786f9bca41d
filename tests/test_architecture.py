"""The rules that hold over all files: which may import which, and what none may do."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "timm_diffsens"
FILES = sorted(PACKAGE.rglob("*.py"))
TREES = {path: ast.parse(path.read_text(encoding="utf-8")) for path in FILES}

# A file imports only from its own part and from the parts before it.
ORDER = [
    "errors",
    "printable",
    "files",
    "patterns",
    "fingerprint",
    "registry",
    "schema",
    "results",
    "device",
    "models",
    "data",
    "perturb",
]
ORDER += ["perturb", "sensitivities", "spectra", "theory", "benchmark", "train", "sweep", "reproduce"]
ORDER += ["integrations", "cli"]  # the last ones know all the others
RESULTS = ["numbers", "records", "stats", "report", "page", "board", "submit"]  # the same inside of results
NO_TORCH = {"errors", "printable", "files", "patterns", "fingerprint", "registry", "schema", "results", ""}
HEAVY = {"torch", "torchvision", "timm"}
SLOW = HEAVY | {"numba", "pandas", "altair", "scipy", "numpy"}  # to import

every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(PACKAGE).as_posix())


def part_of(path: Path) -> str:
    """The part a file belongs to; empty for the package's own `__init__.py`."""
    first = path.relative_to(PACKAGE).parts[0].removesuffix(".py")
    return {"__init__": "", "__main__": "cli"}.get(first, first)


def imported(path: Path) -> Iterator[str]:
    """Dotted names of all that a file imports, wherever in the file."""
    home = ("timm_diffsens", *path.relative_to(PACKAGE).parts)
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = [*home[: -node.level], *filter(None, [node.module])] if node.level else [node.module]
            yield from (".".join([*base, alias.name]) for alias in node.names)


def dotted(node: ast.AST) -> str:
    """`a.b.c` of nested attributes, empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        base = dotted(node.value)
        return f"{base}.{node.attr}" if base else ""
    return ""


def names_used(path: Path) -> set[str]:
    used = {dotted(node) for node in ast.walk(TREES[path]) if isinstance(node, ast.Attribute)}
    return used | set(imported(path))


def public_definitions(body: list[ast.stmt], prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    for node in body:
        if not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            continue
        overload = any(isinstance(d, ast.Name) and d.id == "overload" for d in node.decorator_list)
        if node.name[0] != "_" and not overload:
            yield prefix + node.name, node
            if isinstance(node, ast.ClassDef):
                yield from public_definitions(node.body, f"{prefix}{node.name}.")


def test_every_part_has_a_place_in_the_order():
    assert {part_of(path) for path in FILES} - {""} <= set(ORDER)


@every_file
def test_a_file_imports_only_from_earlier_parts(path):
    part = part_of(path)
    if not part:
        return  # the public names, loaded lazily
    allowed = set(ORDER[: ORDER.index(part) + 1])
    allowed |= {"", "__version__", "__file__"}  # of the package itself, not the names it loads lazily
    for name in names_used(path):
        if name.split(".")[0] == "timm_diffsens":
            origin = name.removeprefix("timm_diffsens").strip(".").split(".")[0]
            assert origin in allowed, f"{path.name} ({part}) imports {name}"


@every_file
def test_results_import_only_from_earlier_parts_of_results(path):
    home = path.relative_to(PACKAGE).parts
    if home[0] != "results" or len(home) < 2 or home[1] == "__init__.py":
        return
    allowed = RESULTS[: RESULTS.index(home[1].removesuffix(".py")) + 1]
    for name in names_used(path):
        if name.startswith("timm_diffsens.results."):
            assert name.split(".")[2] in allowed, f"{'/'.join(home)} imports {name}"


def modules_imported(path: Path, known: dict[str, Path]) -> set[str]:
    """Modules of the package that a file imports, wherever in it."""
    found = set()
    for name in imported(path):
        while name and name not in known:
            name = name.rpartition(".")[0]
        found.add(name)
    return found - {"", "timm_diffsens"}


def test_no_files_import_one_another_in_a_circle():
    known = {".".join(p.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): p for p in FILES}
    graph = {name: modules_imported(path, known) - {name} for name, path in known.items()}
    for circle in circles(graph):
        raise AssertionError(" -> ".join(circle))


def circles(graph: dict[str, set[str]]) -> Iterator[list[str]]:
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> Iterator[list[str]]:
        if name in way:
            yield [*way[way.index(name) :], name]
        elif name not in done:
            for other in sorted(graph[name]):
                yield from walk(other, [*way, name])
            done.add(name)

    for name in graph:
        yield from walk(name, [])


@every_file
def test_what_is_read_and_written_knows_nothing_of_torch(path):
    if part_of(path) in NO_TORCH:
        assert not HEAVY & {name.split(".")[0] for name in imported(path)}


@every_file
def test_only_one_file_seeds_global_streams(path):
    if path.name != "seeding.py":
        seeds = {"torch.manual_seed", "torch.seed", "torch.cuda.manual_seed", "torch.cuda.manual_seed_all"}
        seeds |= {"torch.random.manual_seed", "np.random.seed", "numpy.random.seed", "random.seed"}
        assert not seeds & names_used(path)


@every_file
def test_nothing_is_read_or_run_unsafely(path):
    unsafe = {"pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load", "os.system", "os.popen"}
    unsafe |= {"subprocess.getoutput", "subprocess.getstatusoutput", "asyncio.create_subprocess_shell"}
    assert not unsafe & names_used(path)
    for node in ast.walk(TREES[path]):
        if isinstance(node, ast.keyword) and isinstance(node.value, ast.Constant):
            assert (node.arg, node.value.value) not in {("weights_only", False), ("shell", True)}


@every_file
def test_only_public_names_of_timm(path):
    private = re.compile(r"timm(\..+)?\._")
    assert not [name for name in names_used(path) if private.match(name)]


@every_file
def test_public_things_have_docstrings(path):
    tree = TREES[path]
    assert ast.get_docstring(tree), "the file has none"
    assert not [name for name, node in public_definitions(tree.body) if not ast.get_docstring(node)]


def project_text() -> Iterator[tuple[Path, str]]:
    """The project's text files: no environments, caches, builds or data."""
    shown = {".ci", ".github", ".gitignore", ".pre-commit-config.yaml"}
    built = {"build", "dist", "__pycache__"}
    suffixes = {".py", ".md", ".toml", ".txt", ".cff", ".yaml", ".yml", ".json", ".html", ".csv", ".svg", ""}
    for top in ROOT.iterdir():
        if (top.name.startswith(".") and top.name not in shown) or top.name.endswith(".egg-info"):
            continue
        for path in [top, *top.rglob("*")] if top.is_dir() else [top]:
            if path.is_file() and path.suffix in suffixes and not built & set(path.parts):
                yield path, path.read_text(encoding="utf-8")


def test_no_machine_paths():
    machine = re.compile(r"(?<![\w.:/])/(?:work|root|home|Users|opt|farm|tmp)/\w+")
    found = [
        (path.relative_to(ROOT).as_posix(), m.group())
        for path, text in project_text()
        for m in machine.finditer(text)
    ]
    assert not found


@pytest.mark.parametrize(
    "module", ["timm_diffsens", "timm_diffsens.cli", "timm_diffsens.results.records.store"]
)
def test_importing_does_not_load_torch(module):
    code = f"import {module}, sys; print(sorted({HEAVY!r} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "[]"


@pytest.mark.parametrize("arguments", [["-c", "import timm_diffsens"], ["-m", "timm_diffsens", "--help"]])
def test_the_package_and_its_help_import_nothing_slow(arguments):
    run = subprocess.run(
        [sys.executable, "-X", "importtime", *arguments], capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr
    loaded = {line.rpartition("|")[2].strip().split(".")[0] for line in run.stderr.splitlines()}
    assert "timm_diffsens" in loaded
    assert not loaded & SLOW
