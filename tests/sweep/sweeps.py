"""What the tests of sweeps share: an executor in this process, small jobs, networks that fail."""

import os
from pathlib import Path

import pytest

from timm_diffsens.results.records.store import iter_records
from timm_diffsens.schema.config import Config
from timm_diffsens.sweep.jobs import Job
from timm_diffsens.sweep.work import work

QUICK = Config(pretrained=False, images=2, layers="output", variants="original")
TINY = [
    *(
        f"test_{name}"
        for name in ("byobnet", "coatnet", "convnext", "convnext2", "convnext3", "efficientnet")
    ),
    *(f"test_efficientnet_{name}" for name in ("evos", "gn", "ln")),
    *(f"test_{name}" for name in ("mambaout", "maxvit", "nfnet", "resnet")),
    *(f"test_{name}" for name in ("vit", "vit2", "vit3", "vit4", "vit_relpos")),
    *("net/lenet", "net/simple"),
]
assert len(TINY) == 20

NETWORK = """
import pathlib, torch
tries = pathlib.Path(__file__).with_suffix(".tries")


class Net(torch.nn.Module):
    pretrained_cfg = dict(input_size=(3, 16, 16), mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0,
                          interpolation="bicubic", num_classes=2)

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 2, 3)

    def forward(self, x):
        {fault}
        return self.conv(x).mean((2, 3))
"""


class Here:
    """Does jobs in this process, one after another."""

    def __init__(self):
        self.done = []

    def run(self, jobs, started):
        for job in jobs:
            started(job)
            self.done.append(job)
            yield job, work(job)


def jobs(out: Path, *models: str, options: Config | None = QUICK, **more) -> list[Job]:
    plain = None if options is None else options.plain()
    return [Job(model, str(out), options=plain, threads=1, **more) for model in models]


def network(folder: Path, name: str, fault: str = "pass") -> str:
    """The spec of a network of one's own, with a line of code at the start of its forward."""
    path = folder / f"{name}.py"
    path.write_text(NETWORK.replace("{fault}", fault))
    return f"{path}:Net"


def numbers(out: Path) -> dict[str, dict]:
    """Every record without what a run does not determine: times, memory, retries."""
    found = {}
    for path, record in iter_records(out / "records"):
        assert not isinstance(record, Exception), record
        plain = record.model_dump(mode="json", exclude={"timings": True, "environment": True})
        found[path.relative_to(out).as_posix()] = plain
    return found


class Trusted(Job):
    """A network of one's own in a process that is kept, as only those of libraries are."""

    built_in = True


def import_here(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that are not ours find `Trusted` too."""
    there = [str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(there))


def trusted(out: Path, *models: str, **more) -> list[Job]:
    return [Trusted(**vars(job)) for job in jobs(out, *models, **more)]


def telling(folder: Path, name: str, fault: str = "pass") -> str:
    """A network that writes down the process that it runs in, then does something."""
    return network(folder, name, f"import os; tries.write_text(str(os.getpid())); {fault}")


def process_of(folder: Path, name: str) -> int:
    return int((folder / f"{name}.tries").read_text())
