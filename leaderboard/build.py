"""Make the leaderboard again from images alone: train, measure, build.

    python leaderboard/build.py cifar10 --data-dir TRAIN --test-dir TEST
    python leaderboard/build.py scale1

    python leaderboard/build.py measure --test-dir TEST
    python leaderboard/build.py board

What is trained or measured already is not done again, so it can be interrupted, and run for one more line of
the recipes. `leaderboard/TASK.recipes` has a training a line, as `diffsens train --recipes` reads it. Records
go to leaderboard/records, and checkpoints, one a network, to leaderboard/checkpoints: the smallest first, as
far as the limit goes. `cifar10-fitted` has more recipes of cifar10: networks that fit their training set,
kept with their error curves in leaderboard/checkpoints-fitted, and only if they do; `cifar10-noisy-fitted`
trains some of them on images with noise (`--corrupt`), and they are measured on such images. `board` trains
and measures nothing: it makes table, page and pictures from the records. `measure` measures all kept
checkpoints, those of CIFAR-10 with several sizes of the deformation, and removes older records of the same
weights.
"""

import argparse
import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

from timm_diffsens.models.checkpoints import read_recipe
from timm_diffsens.results.records.reading import load_record
from timm_diffsens.schema.records import Record

HERE = Path(__file__).resolve().parent
ALL = ("--variants", "all", "--shuffles", "3", "--init-samples", "3")
BENCH = ("--images", "500", "--layers", "blocks", *ALL, "--no-per-image")
SIZES = ("--delta", "1,0.25,0.5,2")  # of images; scale detection has a deformation of its own
# Bytes of the checkpoints kept, by file of recipes: 10 MB of the board, 25 MB of the networks that fit, 3 MB
# of those that fit images with noise.
LIMIT = {"cifar10": 8_500_000, "scale1": 1_500_000, "cifar10-fitted": 25_000_000}
LIMIT["cifar10-noisy-fitted"] = 3_000_000


def main() -> None:
    """Run the recipes of one task."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument(
        "task", choices=[*sorted(path.stem for path in HERE.glob("*.recipes")), "measure", "board"]
    )
    parser.add_argument("--data-dir")
    parser.add_argument("--test-dir")
    parser.add_argument("--runs", default="runs")
    options = parser.parse_args()
    if options.task == "measure":
        again(options.test_dir)
    elif options.task != "board":
        results = train(options)
        images, task = options.test_dir or options.data_dir, task_of(options.task)
        for result in results:
            measure(task, result, images if task == "cifar10" else None, HERE)
        keep(results, options.task, HERE / kept_in(options.task))
    board(HERE)


def board(folder: Path) -> None:
    """Table, page and pictures of the records below a folder, as those in the repository are made."""
    before = {path: path.stat().st_mtime_ns for path in folder.glob("figures/*.svg")}
    diffsens("leaderboard", "--out", str(folder), "--quiet")
    for path, time in before.items():
        if path.stat().st_mtime_ns == time:  # not drawn again: of a group that is no more
            path.unlink()


def task_of(recipes: str) -> str:
    """The task of a file of recipes: that of `cifar10-fitted` is `cifar10`."""
    return recipes.partition("-")[0]


def fitted(recipes: str) -> bool:
    """Whether a file of recipes is one of networks that fit their training set."""
    return recipes.endswith("-fitted")


def kept_in(recipes: str) -> str:
    """The folder of the checkpoints of a file of recipes.

    >>> kept_in("scale1"), kept_in("cifar10-fitted")
    ('checkpoints', 'checkpoints-fitted')
    """
    return "checkpoints" + recipes.removeprefix(task_of(recipes))


def train(options: argparse.Namespace) -> list[dict]:
    """Train what the recipes say, or find it done."""
    places = [f"--{name}={value}" for name in ("data-dir", "test-dir") if (value := given(options, name))]
    recipes = ("--recipes", str(HERE / f"{options.task}.recipes"))
    where = (*recipes, *places, "--out", options.runs, "--json")
    return json.loads(diffsens("train", task_of(options.task), *where, read=True))


def measure(task: str, result: dict, images: str | None, out: Path) -> None:
    """The record of one trained network, on the images that it was tested on."""
    recipe = result["recipe"]
    where = ("--data-dir", images, "--full-error", *SIZES) if images else ()
    where += ("--corrupt", str(recipe["corrupt"])) if recipe.get("corrupt") else ()
    model = ("bench", recipe["model"], "--checkpoint", result["checkpoint"])
    diffsens(*model, "--dataset", task, *where, *BENCH, "--out", str(out), "--quiet")


def again(images: str) -> None:
    """Measure all kept checkpoints; older records of the same weights go."""
    for path in sorted(HERE.glob("checkpoints*/*.safetensors")):
        recipe, task = read_recipe(path)["training"], path.name.partition("-")[0]
        before = set(HERE.glob("records/*/*.json"))
        result = {"recipe": recipe, "checkpoint": str(path)}
        measure(task, result, images if task == "cifar10" else None, HERE)
        records = {file: load_record(file) for file in HERE.glob("records/*/*.json")}
        new = {measured(record) for file, record in records.items() if file not in before}
        for file in before:
            if measured(records[file]) in new:
                file.unlink()


def measured(record: Record) -> tuple[object, ...]:
    """Weights on images: of these one record is kept."""
    return record.model.weights.sha256, record.data.sample_sha256, record.protocol.corruption_sigma


def keep(results: list[dict], task: str, folder: Path) -> None:
    """Copy checkpoints of seed 0, the smallest first, as far as the limit goes; say which are not kept."""
    wanted = [result for result in results if result["recipe"]["seed"] == 0]
    if fitted(task):
        wanted = [result for result in wanted if result["fitted"]]
    names = checkpoint_names(wanted)
    folder.mkdir(exist_ok=True)
    stale, used = set(folder.glob(f"{task_of(task)}-*.*")), 0
    for name, path in sorted(names.items(), key=lambda item: (item[1].stat().st_size, item[0])):
        size = path.stat().st_size
        if used + size > LIMIT[task]:
            limit = f"{LIMIT[task] / 1e6:g} MB are {used / 1e6:.2f} MB full"
            print(f"checkpoint not kept: {name}, {size / 1e6:.2f} MB; the {limit}", file=sys.stderr)
            continue
        used += size
        files = {f"{name}.safetensors": path}
        if fitted(task):  # the curve says when it did
            files[f"{name}.curve.json"] = path.with_name("curve.json")
        for file, source in files.items():
            shutil.copyfile(source, folder / file)
            stale.discard(folder / file)
    for path in stale:
        path.unlink()


def checkpoint_names(results: list[dict]) -> dict[str, Path]:
    """`<task>-<network>-<arguments>` -> checkpoint; where recipes share one, the hash of each is added."""
    named = [(plain_name(result["recipe"]), Path(result["checkpoint"])) for result in results]
    count = Counter(name for name, _ in named)

    def unique(name: str, path: Path) -> str:
        return name if count[name] == 1 else f"{name}-{path.parent.name.split('.')[-2]}"

    return {unique(name, path): path for name, path in named}


def plain_name(recipe: dict) -> str:
    """`net/resnet20` of width 8 is `cifar10-resnet20-width8`.

    >>> plain_name({"task": "cifar10", "model": "net/resnet20", "arguments": {"width": 8, "dims": 2}})
    'cifar10-resnet20-width8'
    >>> plain_name({"task": "cifar10", "model": "examples/cifar_networks.py:vit"})
    'cifar10-vit'
    """
    network = re.split(r"[/:]", recipe["model"])[-1]
    arguments = sorted((recipe.get("arguments") or {}).items())
    told = [f"{k}{v}" for k, v in arguments if k != "dims"]
    told += [f"corrupt{recipe['corrupt']:g}"] if recipe.get("corrupt") else []
    return "-".join([recipe["task"], network, *told])


def given(options: argparse.Namespace, name: str) -> str | None:
    """An option's value."""
    return getattr(options, name.replace("-", "_"))


def diffsens(*arguments: str, read: bool = False) -> str:
    """Run the command line; a failure ends the build."""
    command = [sys.executable, "-m", "timm_diffsens", *arguments]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE if read else None, text=True)
    return done.stdout or ""


if __name__ == "__main__":
    main()
