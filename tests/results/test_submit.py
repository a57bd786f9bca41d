"""A branch with new records: what is on it, what is refused, and that nothing else changes."""

import json
import shutil
import subprocess
from pathlib import Path

import pytest
from record_factory import make_record
from typer.testing import CliRunner

from timm_diffsens.cli import app
from timm_diffsens.errors import DiffsensError, UsageError
from timm_diffsens.results.board import write_board
from timm_diffsens.results.records.store import write_record
from timm_diffsens.results.stats.leaderboard import build_leaderboard
from timm_diffsens.results.submit import submit
from timm_diffsens.schema.records import Record


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", folder, *arguments], capture_output=True, text=True, check=True)
    return done.stdout


def network(i: int, **changes) -> Record:
    weights = {"source": "checkpoint", "detail": f"{i}.pt", "sha256": f"{i:064x}"}
    model = {"weights": weights, "parameters": 10_000 + i}
    return make_record(
        f"net{i}", model=model, test_error={"value": 0.1 + i / 100}, train_error=0.0, **changes
    )


@pytest.fixture
def clone(tmp_path, monkeypatch) -> Path:
    """A repository with a board of five networks, and something that is being worked on."""
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "A")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "a@example.org")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    top = tmp_path / "clone"
    for i in range(5):
        write_record(top / "leaderboard" / "records", network(i))
    write_board(build_leaderboard(top / "leaderboard"), top / "leaderboard")
    git(tmp_path, "init", "--quiet", "--initial-branch", "main", str(top))
    git(top, "add", "--all")
    git(top, "commit", "--quiet", "--message", "A board")
    (top / "work.txt").write_text("in progress")
    return top


@pytest.fixture
def new(tmp_path) -> Path:
    return write_record(tmp_path / "mine", network(7))


def state(clone: Path) -> tuple[str, ...]:
    return git(clone, "status", "--porcelain"), git(clone, "branch"), git(clone, "worktree", "list")


def test_the_branch_has_the_record_and_the_board_that_follows_from_it(clone, new, tmp_path):
    made = submit([new], clone)
    assert git(clone, "branch", "--show-current") == "main\n"
    assert git(clone, "status", "--porcelain") == "?? work.txt\n"
    assert git(clone, "worktree", "list").count("\n") == 1
    assert made.commit == git(clone, "rev-parse", made.branch).strip()
    assert made.push == f"git -C {clone} push --set-upstream origin {made.branch}"
    git(clone, "switch", "--quiet", made.branch)
    added = git(clone, "diff", "--name-only", "--diff-filter=A", "main").split()
    assert f"leaderboard/records/imagenet/{new.name}" in added
    assert (clone / "leaderboard/records/imagenet" / new.name).read_bytes() == new.read_bytes()
    shutil.copytree(clone / "leaderboard" / "records", tmp_path / "again" / "records")
    write_board(build_leaderboard(tmp_path / "again"), tmp_path / "again")
    for name in ("leaderboard.csv", "index.html", "README.md"):
        assert (clone / "leaderboard" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()
    assert "net7" in (clone / "leaderboard" / "README.md").read_text()


def test_the_text_says_what_is_known_and_asks_for_the_rest(clone, new):
    made = submit([new], clone)
    assert made.title == "Add net7 to the leaderboard"
    assert f"sha256 {7:064x}" in made.description
    assert "- test error: 17.00% (" in made.description
    assert "- licence: TO BE FILLED IN" in made.description
    assert made.title in git(clone, "log", "-1", made.branch)
    assert made.description.splitlines()[2] in git(clone, "log", "-1", "--format=%B", made.branch)


def test_records_that_do_not_fit_leave_nothing_behind(clone, tmp_path):
    before = state(clone)
    old = write_record(tmp_path / "mine", network(3))
    with pytest.raises(UsageError, match="the board has a record of this key"):
        submit([old], clone)
    other = write_record(tmp_path / "mine", network(8, protocol={"delta": 2.0}))
    with pytest.raises(UsageError, match="not comparable with the board's"):
        submit([other], clone)
    assert state(clone) == before


def test_a_failure_on_the_way_leaves_nothing_behind(clone, new, monkeypatch):
    before = state(clone)
    monkeypatch.setenv("GIT_AUTHOR_NAME", "")
    with pytest.raises(DiffsensError, match="git commit"):
        submit([new], clone)
    assert state(clone) == before


def test_what_is_no_clone_of_a_board_is_refused(clone, new, tmp_path):
    (tmp_path / "plain").mkdir()
    with pytest.raises(UsageError, match="not a git repository"):
        submit([new], tmp_path / "plain")
    with pytest.raises(UsageError, match="gone"):
        submit([new], tmp_path / "gone")
    with pytest.raises(UsageError, match=r"there is no boards/records at HEAD"):
        submit([new], clone, Path("boards"))


def test_a_second_time_the_branch_is_there_already(clone, new):
    made = submit([new], clone)
    with pytest.raises(UsageError, match=f"{made.branch} is there already"):
        submit([new], clone)


def test_the_command_prints_the_text_and_the_next_step(clone, new):
    done = CliRunner().invoke(app, ["submit", str(new), "--repository", str(clone), "--json"])
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["branch"].startswith("record/net7-")
    other = write_record(new.parent.parent / "records", network(9))
    key, out = Record.load(other).key[:12], str(new.parent.parent)  # found as by `show`
    done = CliRunner().invoke(app, ["submit", key, "--out", out, "--repository", str(clone)])
    assert "send it: git -C" in done.stdout
    assert "- licence: TO BE FILLED IN" in done.stdout.splitlines()
    refused = CliRunner().invoke(app, ["submit", str(other), "--repository", str(clone)])
    assert refused.exit_code == 2
