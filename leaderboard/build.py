"""Make the leaderboard again from images alone: train, measure, build.

    python leaderboard/build.py cifar10 --data-dir TRAIN --test-dir TEST
    python leaderboard/build.py scale1

What is trained or measured already is not done again, so it can be interrupted, and run for one more line of
the recipes. `leaderboard/TASK.recipes` has a training a line: what follows `diffsens train TASK`. Records go
to leaderboard/records, and the smallest checkpoints, one a network, to leaderboard/checkpoints.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
BENCH = (
    "--images",
    "500",
    "--layers",
    "blocks",
    "--variants",
    "all",
    "--shuffles",
    "3",
    "--init-samples",
    "3",
)
LIMIT = {"cifar10": 8e6, "scale1": 2e6}  # bytes, of the checkpoints kept in the repository
ENV = dict(os.environ)  # of the command line


def main() -> None:
    """Run the recipes of one task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("task", choices=sorted(path.stem for path in HERE.glob("*.recipes")))
    parser.add_argument("--data-dir")
    parser.add_argument("--test-dir")
    parser.add_argument("--runs", default="runs")
    parser.add_argument("--jobs", type=int, default=1, help="trainings at a time; they share the cores")
    options = parser.parse_args()
    ENV["OMP_NUM_THREADS"] = str(max(1, (os.cpu_count() or 1) // options.jobs))
    with ThreadPoolExecutor(options.jobs) as pool:
        found = pool.map(lambda line: each(options, line), recipes(options.task))
        results = [result for trained in found for result in trained]
    keep(results, LIMIT[options.task])
    diffsens("leaderboard", "--include-unfitted", "--figures", str(HERE / "figures"), "--out", str(HERE))


def each(options: argparse.Namespace, line: list[str]) -> list[dict]:
    """Train what a line says, and measure it."""
    results = train(options, line)
    for result in results:
        measure(options, result)
    return results


def recipes(task: str) -> list[list[str]]:
    """Lines of the recipes, split as a shell does."""
    lines = (HERE / f"{task}.recipes").read_text().splitlines()
    return [shlex.split(line) for line in lines if line and not line.startswith("#")]


def train(options: argparse.Namespace, line: list[str]) -> list[dict]:
    """Train what a line says, or find it done."""
    places = [f"--{name}={value}" for name in ("data-dir", "test-dir") if (value := given(options, name))]
    found = diffsens("train", options.task, *line, *places, "--out", options.runs, "--json", read=True)
    return json.loads(found)


def measure(options: argparse.Namespace, result: dict) -> None:
    """The record of one trained network, on the images that it was tested on."""
    where = ("--data-dir", options.test_dir or options.data_dir) if options.task == "cifar10" else ()
    full = ("--full-error",) if options.task == "cifar10" else ()
    model = ("bench", result["recipe"]["model"], "--checkpoint", result["checkpoint"])
    diffsens(*model, "--dataset", options.task, *where, *BENCH, *full, "--out", str(HERE), "--quiet")


def keep(results: list[dict], limit: float) -> None:
    """Copy checkpoints of seed 0, the smallest first, as far as the limit goes."""
    first = [Path(r["checkpoint"]) for r in results if r["recipe"]["seed"] == 0]
    folder, used = HERE / "checkpoints", 0
    folder.mkdir(exist_ok=True)
    for path in sorted(first, key=lambda path: path.stat().st_size):
        used += path.stat().st_size
        if used <= limit:
            shutil.copyfile(path, folder / f"{path.parent.name}.safetensors")


def given(options: argparse.Namespace, name: str) -> str | None:
    """An option's value."""
    return getattr(options, name.replace("-", "_"))


def diffsens(*arguments: str, read: bool = False) -> str:
    """Run the command line; a failure ends the build."""
    command = [sys.executable, "-m", "timm_diffsens", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE if read else None, text=True, env=ENV)
    return done.stdout or ""


if __name__ == "__main__":
    main()
