"""How a sweep is shown: a live table while it runs, a summary at its end."""

import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from timm_diffsens.cli.output import plain_table, progress_console, though_unheard
from timm_diffsens.sweep.executor import Watch

if TYPE_CHECKING:
    from timm_diffsens.sweep.jobs import Job
    from timm_diffsens.sweep.outcomes import Outcome

_LAST, _MOST_RUNNING, _MOST_FAILURES = 5, 12, 20
_STYLES = {"done": "green", "left out": "dim", "failed": "red", "out of memory": "red", "lost": "red"}


class Lines(Watch):
    """A watch that prints a line a job."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def begin(self, total: int, before: int) -> None:
        """How many there are."""
        known = f", {before} done before" if before else ""  # of others only their workers find out
        self._print(Text(f"{_count(total, 'model')}{known}"))

    def finished(self, outcome: "Outcome") -> None:
        """Its line."""
        self._print(_line(outcome))

    def retried(self, outcome: "Outcome") -> None:
        """Its line too."""
        self._print(_line(outcome) + Text("; will be tried again"))

    def _print(self, line: Text) -> None:
        with though_unheard():
            self.console.print(line, soft_wrap=True)


class LiveTable(Lines):
    """A watch that keeps a table up to date: counts, what is running, what ended last, time left."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.total, self.before = 0, 0
        self.counts: Counter[str] = Counter()
        self.running: dict[str, float] = {}
        self.last: deque[Outcome] = deque(maxlen=_LAST)
        self.clock = time.monotonic()

    def begin(self, total: int, before: int) -> None:
        """Start the clock."""
        self.total, self.before, self.clock = total, before, time.monotonic()

    def started(self, job: "Job") -> None:
        """Show it as running."""
        self.running[job.name] = time.monotonic()

    def finished(self, outcome: "Outcome") -> None:
        """Count it."""
        self.running.pop(outcome.called, None)
        if outcome.before:
            self.before += 1
        else:
            self.counts[outcome.status] += 1
        self.last.append(outcome)

    def retried(self, outcome: "Outcome") -> None:
        """Show it among the last."""
        self.running.pop(outcome.called, None)
        self.counts["retries"] += 1
        self.last.append(outcome)

    def __rich__(self) -> Group:
        """The table as it stands."""
        now = time.monotonic()
        settled = sum(n for status, n in self.counts.items() if status != "retries")
        left = self.total - self.before - settled
        cells = {"models": self.total, "done before": self.before, **self.counts, "left": left}
        head = plain_table([*cells, "time left"])
        seconds = (now - self.clock) / settled * left if settled else None
        head.add_row(*map(str, cells.values()), "" if seconds is None else _duration(seconds))
        running = Table(box=None, pad_edge=False, show_header=False)
        for model, since in list(self.running.items())[:_MOST_RUNNING]:
            running.add_row(Text(model, style="cyan"), _duration(now - since))
        return Group(head, running, *(_line(outcome) for outcome in self.last))


@contextmanager
def watching(quiet: bool) -> Iterator[Watch]:
    """A watch on standard error: a live table on a terminal, else a line a job; nothing if `quiet`."""
    if quiet:
        yield Watch()
    elif not sys.stderr.isatty():
        yield Lines(progress_console())
    else:
        table = LiveTable(progress_console())
        with Live(table, console=table.console, refresh_per_second=4, transient=True):
            yield table


def print_summary(
    console: Console, summary: dict[str, Any], files: Sequence[Path], *, force: bool = False
) -> None:
    """Counts, sums over layers, failures by name and cause, and where everything is.

    What an interrupted sweep left goes on with the same command, unless that asked by `force` for
    everything anew.
    """
    counts = ", ".join(f"{n} {status}" for status, n in summary["status"].items())
    before = f" ({summary['before']} of them before)" if summary.get("before") else ""
    console.print(f"{_count(summary['models'], 'model')}: {counts or 'none'}{before}", soft_wrap=True)
    if summary["left"]:
        command = "the same command without --force" if force else "the same command"
        text = f"interrupted: {_count(summary['left'], 'model')} left; {command} goes on"
        console.print(Text(text, style="yellow"), soft_wrap=True)
    if summary["sums"]:
        sums = ", ".join(f"{name} {n:,}" for name, n in summary["sums"].items())
        console.print(f"over all of them: {sums}", soft_wrap=True)
    failures = list(summary["failures"].items())
    for model, cause in failures[:_MOST_FAILURES]:
        console.print(Text.assemble((model, "red"), f": {cause}"), soft_wrap=True)
    if len(failures) > _MOST_FAILURES:
        more = _count(len(failures) - _MOST_FAILURES, "more failure")
        console.print(f"... and {more}", soft_wrap=True)
    if files:
        console.print("written: " + ", ".join(map(str, files)), soft_wrap=True)


def _count(n: int, what: str) -> str:
    return f"{n} {what}{'' if n == 1 else 's'}"


def _line(outcome: "Outcome") -> Text:
    line = Text.assemble(outcome.called, ": ", (outcome.status, _STYLES[outcome.status]))
    line.append(" before" if outcome.before else "")
    line.append(f", {outcome.seconds:.1f} s")
    return line if outcome.cause is None else line.append(f", {outcome.cause}")


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
