"""How long `diffsens leaderboard` takes over many records, and how much memory.

    python benchmarks/board.py 1500

Each record is the project's own of EfficientNet-Lite0 (18 layers, five variants, spectra: 56 kB) with other
weights, test error and numbers: every D and G is moved at random, and R at the output goes with the error.
The command runs in a process of its own, Python's start included; the seconds are the wall clock's and, on a
machine that does other things too, those of the processors, over all its processes. Memory is that of its
largest process. What the
records are made of decides the time as much as their number does: `--layers` cuts them to the first few.
"""

import argparse
import math
import random
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from timm_diffsens.results.records.store import load_record, write_record
from timm_diffsens.schema.layers import LayerSensitivity
from timm_diffsens.schema.records import Record, record_key

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "leaderboard" / "records" / "imagenet" / "tf_efficientnet_lite0.ef2bf38ea093.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("records", type=int, nargs="?", default=1500)
    parser.add_argument("--layers", type=int, help="of each record; all of them by default")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="a folder for the board, which is then not removed")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        model = load_record(MODEL)
        for number in range(options.records):
            write_record(folder / "records", varied(model, number, options.layers))
        size = sum(path.stat().st_size for path in folder.rglob("records/*/*.json"))
        print(f"{options.records} records, {size / 1e6:.0f} MB")
        for _ in range(options.repeats):
            wall, processors = timed(folder)
            print(f"{wall:.1f} s, {processors:.1f} s of processors")
        page = (folder / "index.html").stat().st_size
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
        print(f"page {page / 1e6:.1f} MB; peak memory {memory / 1024:.0f} MiB")


def varied(model: Record, number: int, layers: int | None) -> Record:
    """The record of another network; only its numbers are made up."""
    source = random.Random(number)
    quality = source.gauss(0, 0.5)
    fields = model.model_dump()
    fields["model"] |= {"spec": f"network{number:04d}", "parameters": 100_000 + 9_973 * number}
    fields["model"]["weights"]["sha256"] = f"{number:064x}"
    fields["test_error"]["value"] = min(0.25 * math.exp(quality), 0.99)
    fields["variants"] = {
        name: [moved(source, layer, 0 if name == "init" else quality) for layer in cut(listed, layers)]
        for name, listed in model.variants.items()
    }
    record = Record.model_validate(fields)
    parts = (record.model, record.data, record.protocol, list(record.variants), record.key_extra)
    return record.model_copy(update={"key": record_key(*parts, version=record.schema_version)})


def cut(listed: list[LayerSensitivity], layers: int | None) -> list[LayerSensitivity]:
    """The first layers, numbered and placed anew."""
    kept = listed[:layers]
    return [layer.model_copy(update={"depth": (layer.index + 1) / len(kept)}) for layer in kept]


def moved(source: random.Random, layer: LayerSensitivity, quality: float) -> dict:
    """A layer's fields with other D and G; R goes with `quality` the more the deeper it lies."""
    fields = layer.model_dump()
    if layer.r is None:
        return fields
    factor = {
        "d": math.exp(quality * layer.depth + source.gauss(0, 0.1)),
        "g": math.exp(source.gauss(0, 0.1)),
    }
    factor["r"] = factor["d"] / factor["g"]
    for name, by in factor.items():
        fields |= {key: fields[key] * by for key in (name, f"{name}_stderr")}
    return fields


def timed(folder: Path) -> tuple[float, float]:
    """Seconds of one run of the command: of the clock, and of the processors (user and system)."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "timm_diffsens", "leaderboard", "--include-unfitted", "--quiet"]
    started = time.perf_counter()
    subprocess.run([*command, "--out", str(folder)], check=True, stdout=subprocess.DEVNULL)
    wall, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
