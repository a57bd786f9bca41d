"""Command lines of all verbs, put together at random: each ends soon, with an exit code and no traceback."""

import random
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from record_factory import make_record
from typer.testing import CliRunner

from timm_diffsens.cli import app
from timm_diffsens.results.records.store import write_record

LONGEST = 300  # seconds a command, on a busy machine
CODES = {0, 1, 2, 130}
INTEGERS = [*"01237", "-1", "1000001", "1" + 20 * "0", "-1" + 20 * "0", "1e3", "abc", "", "nan", "３"]
NUMBERS = ["-1", "0", "0.5", "1", "1e308", "1e-320", "nan", "inf", "-inf", "x", "", "1,2", "1e400"]
TEXTS = [
    "",
    ".",
    "/dev/null",
    "~nosuchuser/x",
    "no/such",
    "é\u202e\x1b[31m",
    "a,b",
    "x" * 300,
    "*",
    "[",
    "=",
    ":",
]
TEXTS += [
    "a.py:Net",
    "diffeo:cut=1" + 9 * "0",
    "scale1:size=1" + 20 * "0",
    "net/fc2",
    "all",
    "-",
    "{}",
    "0/0",
    "1/1",
]
MODELS = ["net/fc2", "net/lenet", "net/fc2:width=4", "net/nosuch", "net/fc2:width=1000000000", "resnet5000"]
MODELS += [
    "torchvision/x",
    "x.py:Net",
    "json:loads",
    "",
    "zz*",
    "net/simple:depth=1" + 20 * "0",
    "test_resnet",
]
MODELS += ["hf-hub:a/b", "net/fc2:width=x", ":", "=", "net/*", "timm_diffsens:nothing", "net/lenet:size=1"]

# What keeps a command that is right short; an option that is drawn too comes later, and counts.
SMALL = ["--no-pretrained", "--dataset", "scale1", "--images", "2", "--layers", "output"]
BASES = {
    "bench": [*SMALL, "--variants", "original"],
    "sweep": [
        *SMALL,
        "--variants",
        "original",
        "--engine",
        str(Path(__file__).parents[1] / "sweep/sweeps.py:Here"),
    ],
    "train": ["--epochs", "1", "--train-images", "16"],
    "demo": [],
    "leaderboard": ["--resamples", "100"],
    "reproduce": [],
    "theory": ["--depth", "2", "--images", "16", "--length", "32"],
    "show": [],
    "ls": [],
    "validate": [],
}
ARGUMENTS = {
    "train": [["scale1"], ["scale2"], ["cifar10"], ["scale3"], []],
    "demo": [
        ["x"],
        ["--device", "cuda:99"],
        ["--device", "x"],
    ],  # eight trainings: never right
    "leaderboard": [[], ["x.json"], ["--check"], ["--check", "records"]],
    "reproduce": [["fig2"], ["table9", "all"], [], ["fig1", "--scale", "x"], ["fig1", "--device", "x"]],
    "theory": [[], ["x.safetensors"]],
    "show": [["resnet18"], ["resnet"], ["0000"], ["x.json"], ["."], ["/dev/null"], []],
    "ls": [
        ["models"],
        ["layers", "net/fc2"],
        ["datasets"],
        ["records"],
        ["x"],
        ["layers"],
        ["variants", "*"],
    ],
    "validate": [[], ["records"], ["x"], ["/dev/null"], ["."]],
}


def drawn_value(draw: random.Random, parameter) -> str:
    described = getattr(parameter, "type_descriptor", None)  # of newer Typer
    kind = described.annotation.__name__ if described else parameter.type.name
    numbers = INTEGERS if kind.startswith("int") else NUMBERS if kind == "float" else None
    return draw.choice(numbers or draw.choice([TEXTS, INTEGERS, NUMBERS, MODELS]))


def command_line(seed: int) -> list[str]:
    draw = random.Random(seed)
    verbs = typer.main.get_command(app).commands
    verb = draw.choice(sorted(BASES))
    line = [verb, *draw.choice(ARGUMENTS.get(verb, [[]]))]
    if verb in ("bench", "sweep", "train"):
        line += draw.choices(MODELS, k=draw.choice([0, 1, 1, 1, 2, 3]))
    if draw.random() < 0.9:
        line += BASES[verb]
    options = [p for p in verbs[verb].params if p.opts[0].startswith("--") and not skipped(p)]
    for parameter in draw.sample(options, min(len(options), draw.choice([0, 1, 1, 2, 3]))):
        flag = draw.choice([*parameter.opts, *parameter.secondary_opts])
        line += [flag] if getattr(parameter, "is_flag", False) else [flag, drawn_value(draw, parameter)]
    if draw.random() < 0.05:
        line.insert(draw.randrange(len(line)), draw.choice(["--nosuch", "--", "-q", "--help", "-x"]))
    return line


def skipped(parameter) -> bool:
    """Engines of other machines."""
    return parameter.name in ("engine", "address", "help")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    write_record(tmp_path / "leaderboard" / "records", make_record())
    (tmp_path / "records").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


class Clock:
    """Ends a command that takes too long, and knows that it did."""

    def __init__(self) -> None:
        self.late: list[list[str]] = []

    def run(self, line: list[str]):
        def ring(*_: object) -> None:
            self.late.append(line)
            raise KeyboardInterrupt

        before = signal.signal(signal.SIGALRM, ring)
        signal.alarm(LONGEST)
        try:
            return CliRunner().invoke(app, line)
        finally:
            signal.alarm(0)
            signal.signal(signal.SIGALRM, before)


def faults(lines: Iterator[list[str]]) -> tuple[list[tuple[list[str], object]], Counter]:
    clock, found, codes = Clock(), [], Counter[int]()
    for line in lines:
        done = clock.run(line)
        codes[done.exit_code] += 1
        raised = done.exception is not None and not isinstance(done.exception, SystemExit)
        if raised or done.exit_code not in CODES or "Traceback (most" in done.output:
            found.append((line, done.exception))
    return [*found, *((line, "too long") for line in clock.late)], codes


needs_alarm = pytest.mark.skipif(sys.platform == "win32", reason="no alarm")


@needs_alarm
@pytest.mark.filterwarnings("ignore")
def test_forty_command_lines(folder):
    found, codes = faults(map(command_line, range(40)))
    assert found == []
    assert codes[0] >= 5
    assert codes[2] >= 10


@needs_alarm
@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_five_hundred_command_lines(folder):
    found, codes = faults(map(command_line, range(500)))
    assert found == []
    assert codes[0] >= 60
    assert codes[1] >= 10
    assert codes[2] >= 150
