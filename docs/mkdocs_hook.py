"""What the site has beyond the pages of docs/: a hook of MkDocs, named in mkdocs.yml.

- Pages from outside docs/ (`OUTSIDE`), so that each stands once in the repository.
- `reference.md`: every public name of the package, from its docstring.
- `notebooks/NAME.md` from each notebook, with the outputs that it keeps.
- Links as the code host shows them: those to files that are no page of the site lead to the repository.
- Formulas as MathML, made here: no script renders them, and none is fetched.
"""

import posixpath
import re
from html import unescape
from pathlib import Path
from textwrap import dedent, indent

import griffe
import nbformat
import yaml
from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from nbconvert import MarkdownExporter

from timm_diffsens import _HOMES

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
HOME = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))["repository-code"]
OUTSIDE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "leaderboard/CONTRIBUTING.md": "leaderboard.md",
    "CHANGELOG.md": "changelog.md",
}
SOURCES = {page: source for source, page in OUTSIDE.items()}
LINK = re.compile(r"(\[[\w/.]+\.md\]|\])\((?!\w+:|#)([^)#\s]+)(?=[)#])")
HEADING = re.compile(r"^# (.*)$", re.MULTILINE)
BARE = re.compile(r"(\\math\w+) (\w)")  # \mathbb E, which the converter wants with braces
FENCE = re.compile(r"^(```\w+) (?:file=(\S+)|\w+)$", re.MULTILINE)
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
REFERENCE = "# Reference\n\nThe public names, from their docstrings; by purpose: [In Python](library.md).\n"


def on_config(config: MkDocsConfig) -> None:
    """A link to the repository. (`repo_url` would make every page ask the code host for numbers.)"""
    assert config.nav is not None
    config.nav[-1]["Project"].append({"Source code": HOME})


def on_files(files: Files, config: MkDocsConfig) -> None:
    """Add the pages that are no file of docs/."""
    made: dict[str, str | bytes] = {page: (ROOT / source).read_text() for source, page in OUTSIDE.items()}
    names = [f"::: timm_diffsens.{home}.{name}\n" for name, home in sorted(_HOMES.items(), key=_by_name)]
    made["reference.md"] = "\n".join([REFERENCE, *names])
    for notebook in sorted((DOCS / "notebooks").glob("*.ipynb")):
        made |= notebook_page(notebook)
    for uri, content in made.items():
        files.append(File.generated(config, uri, content=content))


def _by_name(item: tuple[str, str]) -> str:
    return item[0].lower()


def notebook_page(file: Path) -> dict[str, str | bytes]:
    """The Markdown page of a notebook, and the pictures among its outputs, by their place in the site."""
    name = file.relative_to(DOCS).with_suffix("").as_posix()
    notebook = nbformat.read(file, as_version=4)
    resources = {"output_files_dir": f"{file.stem}_files", "unique_key": "output"}
    body, found = MarkdownExporter().from_notebook_node(notebook, resources)
    pictures = {
        posixpath.join(posixpath.dirname(name), path): data for path, data in found["outputs"].items()
    }
    body = body.replace('<table border="1" class="dataframe">', "<table>")
    title, _, rest = body.lstrip().partition("\n")
    download = f'<a href="{file.name}" download>This page as a notebook</a>, with the outputs that it had.'
    return {f"{name}.md": f"{title}\n\n{download}\n{rest}", **pictures}


def on_page_markdown(markdown: str, page: Page, **_: object) -> str:
    """Links for the site, and the headers of code blocks as its Markdown has them."""
    uri = page.file.src_uri
    source = ROOT / SOURCES[uri] if uri in SOURCES else DOCS / uri

    def linked(match: re.Match[str]) -> str:
        target, label = source.parent / match[2], match[1]
        heading = label != "]" and target.is_file() and HEADING.search(target.read_text(encoding="utf-8"))
        shown = f"[{heading[1]}]" if heading else label
        return f"{shown}({site_link(match[2], source.parent, posixpath.dirname(uri))}"

    def header(match: re.Match[str]) -> str:
        return f'{match[1]} title="{match[2]}"' if match[2] else match[1]

    return FENCE.sub(header, LINK.sub(linked, markdown))


def site_link(target: str, source: Path, folder: str) -> str:
    """Where a link of a page leads: to a page of the site where there is one, else to the repository.

    A link to nothing stays as it is, for MkDocs to name it. source: the folder of the page's file;
    folder: that of the page in the site.
    """
    path = Path(posixpath.normpath((source / target).as_posix()))
    if not path.exists() or not path.is_relative_to(ROOT):
        return target
    inside = path.relative_to(ROOT).as_posix()
    if path.suffix == ".ipynb":
        path = path.with_suffix(".md")
    if inside in OUTSIDE:
        return posixpath.relpath(OUTSIDE[inside], folder or ".")
    if path.is_relative_to(DOCS) and path.suffix not in (".py", ""):
        return posixpath.relpath(path.relative_to(DOCS).as_posix(), folder or ".")
    return f"{HOME}/{'tree' if path.is_dir() else 'blob'}/main/{inside}"


def on_page_content(html: str, **_: object) -> str:
    """Formulas as MathML."""
    return FORMULA.sub(lambda match: formula(unescape(match[3]), match[2] == "["), html)


def formula(text: str, block: bool) -> str:
    """One formula; a block has a line of its own."""
    made = convert(BARE.sub(r"\1{\2}", text.strip()), display="block" if block else "inline")
    return f'<div class="arithmatex">{made}</div>' if block else made


class Examples(griffe.Extension):
    """Sessions of the interpreter in docstrings, each as a block of code."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        """Give a session the heading that the reader of docstrings knows."""
        if not obj.docstring or ">>>" not in obj.docstring.value:
            return
        before, _, session = obj.docstring.value.partition(">>>")
        session = indent(dedent(f"{before[len(before.rstrip(' ')) :]}>>>{session}"), " " * 4)
        before = before.rstrip().removesuffix("Example:").rstrip()
        obj.docstring.value = f"{before}\n\nExamples:\n{session}"
