"""How the cost of a measurement grows with images, layers, input size and threads.

    python benchmarks/scaling.py --json benchmarks/scaling.json

Images: one measurement of all layers of net/resnet20 in a process of its own, whose time and peak memory are
noted on the way. The others: single batches of resnet18 with and without the measurement, interleaved, in
processes of their own.
"""

import argparse
import itertools
import json
import statistics
from pathlib import Path

from bare import MB, Process, Setting, machine, memory, now, start_memory

MARKS = (100, 200, 500, 1000, 2000, 3000, 4000, 5000)
_BATCH = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="*", default=["images", "layers", "size", "threads"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    for part in options.parts:
        rows = {"images": images, "layers": layers, "size": sizes, "threads": threads}[part](options)
        found[part] = [{**row, **machine(options.device)} for row in rows]
        print(table(rows), flush=True)
        if options.json:
            options.json.write_text(json.dumps(found, indent=1) + "\n")


def images(options):
    """Seconds and peak memory after so many images; the slope is that since the mark before."""
    import torch

    from timm_diffsens import load_model, runtime
    from timm_diffsens.measures.pipeline import run_pass
    from timm_diffsens.measures.triplets import Protocol

    runtime.prepare()
    torch.set_num_threads(options.threads)
    device = torch.device(options.device)
    model = load_model("net/resnet20", pretrained=False).module.to(device)
    start_memory(device)
    before = memory(device)
    seen = []

    def source(size):
        for start in range(0, MARKS[-1], size):
            stream = torch.Generator().manual_seed(start)
            yield range(start, start + size), torch.rand(size, 3, 32, 32, generator=stream)

    def progress(done):
        if done in (_BATCH, *MARKS):
            seen.append((done, now(device), memory(device)))

    run_pass(model, source, Protocol(), layers="all", batch_size=_BATCH, progress=progress)
    return [
        {
            "images": n,
            "seconds": round(at - seen[0][1], 3),  # since the first batch, with which the layers are found
            "slope_ms": round(1000 * (at - earlier[1]) / (n - earlier[0]), 3),
            "memory_mb": round((peak - before) / MB, 1),
        }
        for earlier, (n, at, peak) in itertools.pairwise(seen)
    ]


def layers(options):
    return compare(options, [{"setting": name} for name in ("stages", "blocks", "convs", "all")])


def sizes(options):
    return compare(options, [{"setting": "all", "size": size} for size in (64, 128, 224, 320)])


def threads(options):
    return compare(options, [{"setting": "all", "threads": n} for n in range(1, options.threads + 1)])


def compare(options, cases):
    """Each case beside the bare network, of which there is one a size and number of threads."""
    rows = []
    for case in cases:
        size, count = case.get("size", 224), case.get("threads", options.threads)
        names = ("(b)", case["setting"])
        settings = [Setting(n, "resnet18", 16, 1, count, options.device, size) for n in names]
        pair = [Process(setting) for setting in settings]
        runs = [[process.run()["seconds"] for process in pair] for _ in range(options.repeats)]
        bare, probed = (statistics.median(times) for times in zip(*runs, strict=True))
        rows.append(
            {
                "size": size,
                "threads": count,
                **case,
                "layers": pair[1].about["layers"],
                "bare": round(bare, 4),
                "seconds": round(probed, 4),
                "ratio": round(probed / bare, 3),
            }
        )
        for process in pair:
            process.close()
    return rows


def table(rows):
    keys = list(rows[0])
    lines = ["| " + " | ".join(keys) + " |", "| " + " | ".join("---:" for _ in keys) + " |"]
    lines += ["| " + " | ".join(str(row[key]) for key in keys) + " |" for row in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
