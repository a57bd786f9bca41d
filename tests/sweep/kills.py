"""Sweeps of the command line that are killed while they are at work, and what they leave behind."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from itertools import chain
from pathlib import Path

import pytest

from timm_diffsens.results.records.store import iter_records
from timm_diffsens.sweep.jobs import outcome_folder
from timm_diffsens.sweep.outcomes import read_outcome

CHILDREN = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
needs_proc = pytest.mark.skipif(not CHILDREN.exists(), reason="finds worker processes through /proc")
LONGEST_PAUSE = 1.5  # seconds between a kill and the next: the time of about two models


def command(out: Path, models: list[str], workers: int) -> list[str]:
    options = ["--no-pretrained", "--images", "2", "--layers", "output", "--variants", "original"]
    more = ["--threads", "1", "--jobs", str(workers), "--out", str(out)]
    return [sys.executable, "-m", "timm_diffsens", "sweep", *models, *options, *more]


def start(out: Path, models: list[str], workers: int, **streams) -> subprocess.Popen:
    """In a process group of its own, where Ctrl-C does what it does in a terminal."""
    return subprocess.Popen(
        command(out, models, workers),
        **streams,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )


def is_alive(pid: int) -> bool:
    """Whether there is such a process that has not ended; one that nobody waits for stays in the list."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def children(pid: int) -> list[int]:
    try:
        return [int(part) for part in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def workers_of(process: subprocess.Popen) -> list[int]:
    """Processes that do a model: forked from the one that the sweep has started for that."""
    found = [worker for child in children(process.pid) for worker in children(child)]
    return [pid for pid in found if is_alive(pid)]


def wait_until(true, seconds: float = 600) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def records_in(out: Path) -> dict[Path, bytes]:
    """Every record as it lies there; fails if one cannot be read."""
    folder = out / "records"
    found = dict(iter_records(folder)) if folder.exists() else {}
    assert not [fault for fault in found.values() if isinstance(fault, Exception)]
    return {path: path.read_bytes() for path in found}


def done_in(out: Path) -> set[str]:
    with suppress(FileNotFoundError):  # made and removed, when the sweep tries whether it can write there
        return _done_in(outcome_folder(out, "measured"))
    return set()


def _done_in(folder: Path) -> set[str]:
    outcomes = [read_outcome(path) for path in folder.glob("*.json")]
    assert None not in outcomes, "an outcome file cannot be read"
    return {outcome.model for outcome in outcomes if outcome.status == "done"}


def check_logs(out: Path) -> None:
    """Every other file is whole too, and nothing failed but what was killed."""
    log = out / "errors.jsonl"
    lines = [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []
    assert {line["class"] for line in lines} <= {"LostWorker"}
    summary = out / "sweep.json"
    assert not summary.exists() or json.loads(summary.read_text())


class KilledSweep:
    """One folder, swept until everything in it is done; a sweep that was killed is begun again.

    Checked after every kill: all files can be read; what was recorded before is there, to the byte. Of every
    sweep: it finds done what is done, and tells of no model twice that it is done; a kill costs one model for
    each worker that it ended, at most.

    Args:
        out, models, workers: of the sweep.
        kinds: kills to come, the next one last; each is taken away when it is done. `worker`: one that is at
            work; `sweep`: the process that was started; `server`: the one that workers are forked from;
            `all`: the process group.
        draw: for the moments, and the workers.
    """

    def __init__(self, out: Path, models: list[str], workers: int, kinds: list[str], draw: random.Random):
        self.out, self.models, self.workers, self.kinds, self.draw = out, models, workers, kinds, draw
        self.sweeps, self.told, self.records = 0, Counter[str](), dict[Path, bytes]()
        self.at_work: set[int] = set()

    def run(self) -> None:
        while self._sweep() != 0:
            pass
        assert done_in(self.out) == set(self.models)

    def _sweep(self) -> int:
        """One sweep, killed or ended by itself; gives its exit code."""
        finished, unsettled = done_in(self.out), self._recorded() - done_in(self.out)
        self.sweeps += 1
        log, kills = self.out.with_suffix(f".{self.sweeps}.log"), Counter[str]()
        with log.open("w") as file:
            process = start(self.out, self.models, self.workers, stdout=subprocess.DEVNULL, stderr=file)
        try:
            while self.kinds and self._wait_for_a_moment(process):
                if not self._kill(process, self.kinds[-1]):
                    continue
                kind = self.kinds.pop()
                kills[kind] += 1
                if kind in ("sweep", "all"):
                    process.wait(timeout=600)
                    wait_until(lambda: not any(map(is_alive, self.at_work)))  # they end with the sweep
                self._look()
            code = process.wait(timeout=600)
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        self._look()
        ended = self.workers * (kills["sweep"] + kills["all"]) + kills["worker"] + kills["server"]
        assert len(self._recorded() - done_in(self.out) - unsettled) <= ended
        self._read(log.read_text(), len(finished), kills, code)
        return code

    def _wait_for_a_moment(self, process: subprocess.Popen) -> bool:
        """Until a worker is at work and some time has gone by; False if the sweep has ended.

        Each second time, no longer than to the next file that comes or goes: while something is written.
        """
        end, in_writing, files = None, self.draw.random() < 0.5, set[Path]()
        while process.poll() is None:
            found = workers_of(process)
            self.at_work |= set(found)
            if found and end is None:
                end, files = time.monotonic() + self.draw.uniform(0, LONGEST_PAUSE), self._files()
            if found and (time.monotonic() > end or (in_writing and self._files() != files)):
                return True
            time.sleep(0.005)
        return False

    def _files(self) -> set[Path]:
        """Records and outcomes, also those that are being written; folders may go meanwhile."""
        walks = (os.walk(self.out / part) for part in ("records", "sweep"))
        return {Path(top, name) for walk in walks for top, *names in walk for name in chain(*names)}

    def _kill(self, process: subprocess.Popen, kind: str) -> bool:
        """Whether there was still somebody at work."""
        servers, found = [child for child in children(process.pid) if children(child)], workers_of(process)
        if not found or len(servers) != 1:
            return False
        assert len(found) <= self.workers
        if kind == "all":
            os.killpg(process.pid, signal.SIGKILL)
        else:
            pids = {"worker": self.draw.choice(found), "sweep": process.pid, "server": servers[0]}
            os.kill(pids[kind], signal.SIGKILL)
        return True

    def _recorded(self) -> set[str]:
        return {json.loads(content)["model"]["spec"] for content in self.records.values()}

    def _look(self) -> None:
        done, after = done_in(self.out), records_in(self.out)
        assert self.records.items() <= after.items()  # no finished model is lost, or measured again
        self.records = after
        assert done <= self._recorded()
        check_logs(self.out)
        self.at_work = {pid for pid in self.at_work if is_alive(pid)}

    def _read(self, said: str, finished: int, kills: Counter[str], code: int) -> None:
        """What the sweep said of itself."""
        assert "Traceback" not in said
        first, *lines = said.splitlines()
        assert first == f"{len(self.models)} models" + (f", {finished} done before" if finished else "")
        self.told.update(line.partition(":")[0] for line in lines if ": done, " in line)
        assert max(self.told.values(), default=0) <= 1
        lost = [line for line in lines if ": lost, " in line]
        assert len(lost) <= kills["worker"] + kills["server"]
        given_up = any(not line.endswith("; will be tried again") for line in lost)
        killed = kills["sweep"] + kills["all"] > 0
        assert code == (-signal.SIGKILL if killed else int(given_up))
