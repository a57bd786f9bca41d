"""A record made ready for a board: a branch with it, the board rebuilt, and what to say of the change."""

import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from timm_diffsens.errors import DiffsensError, UsageError
from timm_diffsens.files import slug
from timm_diffsens.results.board import write_board
from timm_diffsens.results.page.record_data import pack
from timm_diffsens.results.records.reading import load_record
from timm_diffsens.results.records.store import copy_record
from timm_diffsens.results.report.markdown import text
from timm_diffsens.results.report.submission import submission_faults
from timm_diffsens.results.stats.leaderboard import Leaderboard, build_leaderboard
from timm_diffsens.schema.records import Record

_BOARD = Path("leaderboard")
_DIGITS = 8
_ASK = "TO BE FILLED IN"


@dataclass(frozen=True)
class Submission:
    """A branch that can be pushed.

    Attributes:
        branch: its name. commit: its hash.
        files: what it changes, from the top of the repository.
        title, description: of the change, as Markdown.
        push: the command that sends it.
    """

    branch: str
    commit: str
    files: list[str]
    title: str
    description: str
    push: str


def submit(paths: Sequence[Path], repository: Path, board: Path = _BOARD) -> Submission:
    """Commit records and the rebuilt board to a branch of their own; what is checked out is left as it is.

    The branch starts at HEAD and is made in a working tree of its own, so that nothing lies in the way of
    what is being worked on, and a failure leaves nothing behind.

    Args:
        paths: of records that are not on the board.
        repository: a clone of the project, or of another that keeps a board.
        board: its folder in there.

    Raises:
        UsageError: no repository with such a board; a record that would not fit on it, each with the reason;
            the branch is there already.
        DiffsensError: git failed.
    """
    top = Path(_git(repository, "rev-parse", "--show-toplevel").strip())
    records = [load_record(path) for path in paths]
    branch = _branch_of(records)
    if _git(top, "branch", "--list", branch):
        raise UsageError(f"the branch {branch} is there already: push it, or `git branch -D {branch}` first")
    with _working_tree(top) as tree:
        folder = tree / board
        if not (folder / "records").is_dir():
            raise UsageError(f"{top} has no board: there is no {board / 'records'} at HEAD")
        _check(paths, build_leaderboard(folder))
        for path in paths:
            copy_record(path, folder / "records")
        write_board(build_leaderboard(folder, pack=pack, parallel=True), folder)
        _git(tree, "add", "--all", str(board))
        title = f"Add {', '.join(record.model.spec for record in records)} to the leaderboard"
        description = describe(records)
        _git(tree, "commit", "--quiet", "--message", title, "--message", description)
        files = _git(tree, "show", "--name-only", "--format=", "-z", "HEAD").strip("\0\n").split("\0")
        commit = _git(tree, "rev-parse", "HEAD").strip()
        _git(tree, "branch", branch, commit)
    push = shlex.join(["git", "-C", str(top), "push", "--set-upstream", "origin", branch])
    return Submission(branch, commit, files, title, description, push)


def describe(records: Sequence[Record]) -> str:
    """The text of the change: of each record what it is, what came out, and how it is measured again."""
    return "\n\n".join(_described(record) for record in records)


def _described(record: Record) -> str:
    model, weights, output = record.model, record.model.weights, record.variants["original"][-1]
    error, trained = record.test_error, record.train_error
    parts = {
        "network": f"{model.spec}, {model.parameters:,} parameters",
        "weights": f"{weights.detail or weights.source}, sha256 {weights.sha256}",
        "published by": weights.origin or _ASK,
        "licence": weights.licence or _ASK,
        "how they were trained": "see the record's recipe" if model.recipe else _ASK,
        "images": f"{record.data.spec}, {record.data.n}, sample {record.data.sample_sha256[:12]}",
        "test error": "not known" if error.value is None else f"{error.value:.2%} ({error.source})",
        "training error": _ASK if trained is None else f"{trained:.2%}",
        "at the output": f"D {output.d:.4g}, G {output.g:.4g}, R {output.r:.4g}"
        if output.r is not None
        else f"no value: {output.reason}",
        "key": record.key,
    }
    lines = [f"- {name}: {text(said)}" for name, said in parts.items()]
    return "\n".join([f"**{text(model.spec)}**", "", *lines])


def _branch_of(records: Sequence[Record]) -> str:
    first = records[0]
    more = f"-and-{len(records) - 1}-more" if len(records) > 1 else ""
    return f"record/{slug(first.model.spec)}-{first.key[:_DIGITS]}{more}"


def _check(paths: Sequence[Path], board: Leaderboard) -> None:
    faults = [f"{path}: {fault}" for path in paths for fault in submission_faults(path, board)]
    if faults:
        raise UsageError("\n".join(faults))


@contextmanager
def _working_tree(top: Path) -> Iterator[Path]:
    """HEAD, checked out elsewhere, without a branch; gone at the end."""
    with tempfile.TemporaryDirectory(prefix="diffsens-submit-") as place:
        tree = Path(place) / "tree"
        _git(top, "worktree", "add", "--quiet", "--detach", str(tree), "HEAD")
        try:
            yield tree
        finally:
            _git(top, "worktree", "remove", "--force", str(tree))


def _git(folder: Path, *arguments: str) -> str:
    """What git prints.

    Raises:
        UsageError: the folder is in no repository. DiffsensError: git is not there, or failed.
    """
    try:
        done = subprocess.run(
            ["git", "-C", str(folder), *arguments],
            capture_output=True,
            text=True,
            errors="replace",
            check=True,
        )
    except FileNotFoundError:
        raise DiffsensError("git is not installed") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().splitlines()[-1:] or [f"exit code {error.returncode}"]
        kind = (
            UsageError
            if "not a git repository" in said[0] or "cannot change to" in said[0]
            else DiffsensError
        )
        raise kind(f"git {arguments[0]} in {folder}: {said[0]}") from None
    return done.stdout
