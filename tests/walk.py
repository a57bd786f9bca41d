"""Stops a command of the command line at each of its file operations in turn, and does it again.

`python walk.py CASE FOLDER EVERY` prints as JSON what came of it. Every run is forked from this process,
which has imported everything.
"""

import io
import json
import os
import shutil
import sys
import time
from pathlib import Path

from safetensors import safe_open

from timm_diffsens import cli
from timm_diffsens.results import board
from timm_diffsens.sweep import preloaded  # noqa: F401  # imports what the verbs need
from timm_diffsens.train import demo, run  # noqa: F401

STOPPED = 99  # exit code
CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link", "os.symlink", "os.truncate"}
UNEQUAL = {"timings", "environment", "seconds", "time"}  # in every run
UNEQUAL |= {"before"}  # that a sweep found the record there, as it does where it was stopped after writing it

HERE = Path(__file__).parent
QUICK = ["--no-pretrained", "--dataset", "scale1", "--images", "2", "--layers", "output"]
QUICK += ["--variants", "original"]
CASES = {
    "bench": ["bench", "net/fc2", "net/lenet", *QUICK],
    "sweep": [
        *("sweep", "net/fc2", "net/lenet", f"{Path(__file__)}:failing", *QUICK),
        *("--engine", f"{HERE / 'sweep' / 'sweeps.py'}:Here"),
    ],
    "train": ["train", "scale1", "net/fc2", "--epochs", "2", "--train-images", "32", "--track", "auto"],
    "demo": ["demo", "--epochs", "1"],
    "leaderboard": ["leaderboard", "--resamples", "100"],
}


def failing() -> None:
    """A network of the sweep that cannot be made."""
    sys.exit("not today")


class Operations:
    """Counts what is done to files below a folder; before operation number `last` the process ends.

    A write ends in its middle: half of it has been done.
    """

    def __init__(self, folder: Path, last: int | None):
        self.folder, self.last, self.count = str(folder), last, 0
        fdopen, fsync, write = os.fdopen, os.fsync, os.write
        sys.addaudithook(self._audit)

        def halved(put, content) -> int:
            if self.count == self.last:
                put(content[: len(content) // 2])
            self.step()
            return put(content)

        class Written(io.FileIO):
            def write(self, content):
                return halved(super().write, content)

        def opened(descriptor, mode="r", *more, **others):
            return Written(descriptor, mode) if mode == "wb" else fdopen(descriptor, mode, *more, **others)

        def synchronised(descriptor):
            self.step()
            fsync(descriptor)

        os.fdopen, os.fsync = opened, synchronised
        os.write = lambda descriptor, content: halved(lambda part: write(descriptor, part), content)

    def step(self) -> None:
        if self.count == self.last:
            os._exit(STOPPED)
        self.count += 1

    def _audit(self, event: str, arguments: tuple) -> None:
        writes = (
            event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        )
        if (writes or event in CHANGES) and str(arguments[0]).startswith(self.folder):
            self.step()


def run_verb(arguments: list[str], folder: Path, last: int | None = None) -> tuple[int, int]:
    """Exit code, and how many operations there were (of a run that was not stopped)."""
    log, counted = folder.with_suffix(".log"), folder.with_suffix(".count")
    child = os.fork()
    if child == 0:
        code = 1
        try:
            descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            operations = Operations(folder, last)
            sys.argv = ["diffsens", *arguments, "--out", str(folder)]
            try:
                cli.main()
            except SystemExit as end:
                code = int(end.code or 0)
            counted.write_text(str(operations.count))
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return code, int(counted.read_text()) if code != STOPPED else 0


def lasting(value):
    """JSON without what differs from run to run."""
    if isinstance(value, dict):
        return {name: lasting(inner) for name, inner in value.items() if name not in UNEQUAL}
    return [lasting(inner) for inner in value] if isinstance(value, list) else value


def contents(folder: Path) -> dict[str, object]:
    """Every file: what is the same in every run. Fails where one cannot be read."""
    found: dict[str, object] = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".json":
            found[name] = lasting(json.loads(path.read_text()))
        elif path.suffix == ".jsonl":  # a log of attempts: a failure is there once for each
            lines = [line for line in path.read_text().splitlines() if line.endswith("}}")]  # not torn
            found[name] = sorted({json.dumps(lasting(json.loads(line))) for line in lines})
        elif path.name.endswith(".images.safetensors"):
            found[name] = path.read_bytes()
        elif path.suffix == ".safetensors":
            with safe_open(path, "pt") as file:
                recipe = lasting(json.loads(file.metadata()["recipe"]))
                found[name] = [recipe, {k: file.get_tensor(k).tolist() for k in file.keys()}]  # noqa: SIM118
        else:
            found[name] = path.read_bytes()
    return found


def temporary(names) -> list[str]:
    return [name for name in names if name.endswith(".tmp")]


def walk(case: str, home: Path, every: int) -> dict[str, object]:
    given = home / "given"  # what is there before the first run, if anything is
    folder = home / "run"

    def begin() -> None:
        shutil.rmtree(folder, ignore_errors=True)
        if given.is_dir():
            shutil.copytree(given, folder)

    begin()
    code, count = run_verb(CASES[case], folder)
    whole = contents(folder)
    found = {"code": code, "operations": count, "files": len(whole), "faults": [], "left by kills": 0}
    for last in range(0, count, every):
        begin()
        stopped, _ = run_verb(CASES[case], folder, last)
        left = contents(folder)
        found["left by kills"] += len(temporary(left))
        again, _ = run_verb(CASES[case], folder)
        now = contents(folder)
        differing = [name for name in {*whole, *now} if whole.get(name) != now.get(name)]
        if (stopped, again) != (STOPPED, code) or differing or temporary(now):
            found["faults"].append([last, stopped, again, differing])
    return found


if __name__ == "__main__":
    demo.NETWORKS, demo.IMAGES = demo.NETWORKS[:2], 4
    # the charts' bytes do not matter here, and take a second each run
    board.render = lambda chart, form: f"{form} {chart.to_dict(validate=False)['$schema']}".encode()
    began = time.monotonic()
    result = walk(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
    print(json.dumps({**result, "seconds": time.monotonic() - began}))
