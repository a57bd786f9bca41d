"""What measuring costs beside the network alone, for several networks and selections of layers.

    python benchmarks/overhead.py resnet50 --json benchmarks/overhead.json

(a) the bare network with default settings, (b) the bare network with the allocator and the layout that
`measure` uses, then the measurement of each selection, drawing deformations and noise included. The same
triplets go through all of them, in a process of its own each; the runs are interleaved. Medians over repeats;
ratios are to (b). Peak memory is that of the process above what imports and the compiled kernel take. Rows
of the networks that are measured replace those in the file.
"""

import argparse
import json
import statistics
from pathlib import Path

from bare import MB, Process, Setting, machine, others

NETWORKS = {  # images a batch, as --batch-size auto takes them, and batches a timed run
    "resnet18": (16, 1),
    "resnet50": (16, 1),
    "vgg11_bn": (16, 1),
    "efficientnet_b0": (16, 2),
    "convnext_tiny": (16, 1),
    "vit_small_patch16_224": (16, 1),
    "net/resnet20": (64, 8),
}
SETTINGS = "(a),(b),stages,blocks,convs,all"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(NETWORKS))
    parser.add_argument("--images", type=int, help="a batch; by default 16, or 64 of 32 x 32 pixels")
    parser.add_argument("--batches", type=int, help="a timed run; by default 1, more of fast networks")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--settings", default=SETTINGS)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for model in options.models:
        rows += measure_model(model, options)
        print(table(rows[-len(options.settings.split(",")) :]), flush=True)
        if options.json:
            save(options.json, rows)


def measure_model(model, options):
    images, batches = NETWORKS.get(model, (16, 1))
    images, batches = options.images or images, options.batches or batches
    settings = [
        Setting(name, model, images, batches, options.threads, options.device)
        for name in options.settings.split(",")
    ]
    processes = [Process(setting) for setting in settings]
    runs = [[] for _ in settings]
    for repeat in range(options.repeats):
        for i in range(len(settings)):  # each comes after every other
            at = (i + repeat) % len(settings)
            runs[at].append(processes[at].run())
    about = machine(options.device)
    for process in processes:
        process.close()
    rows = [
        row(setting, process.about, done, about)
        for setting, process, done in zip(settings, processes, runs, strict=True)
    ]
    bare = next((r for r in rows if r["setting"] == "(b)"), None)
    for r in rows:
        if bare:
            r["ratio"] = round(r["seconds"] / bare["seconds"], 3)
            r["memory_above_b_mb"] = round(r["memory_mb"] - bare["memory_mb"], 1)
    return rows


def row(setting, about, runs, machine):
    seconds = [run["seconds"] for run in runs]
    median = statistics.median(seconds)
    allowed = (about["three_largest"] + about["one_image"]) / MB if about["layers"] else None
    return {
        "model": setting.model,
        "setting": setting.name,
        "layers": about["layers"],
        "images": setting.images * setting.batches,
        "batch": setting.images,
        "seconds": round(median, 4),
        "min": round(min(seconds), 4),
        "max": round(max(seconds), 4),
        "draws": round(statistics.median(run["draws"] for run in runs), 4),
        "images_per_second": round(setting.images * setting.batches / median, 2),
        "memory_mb": round(runs[-1]["memory"] / MB, 1),
        "allowed_mb": None if allowed is None else round(allowed, 1),
        "repeats": len(runs),
        "threads": setting.threads,
        "device": setting.device,
        **machine,
    }


def save(path, rows):
    """Rows of other networks and devices stay."""
    order = {name: i for i, name in enumerate(NETWORKS)}
    both = sorted(
        [*others(path, rows), *rows],
        key=lambda r: (r["device"], order.get(r["model"], len(order)), r["model"]),
    )
    path.write_text(json.dumps(both, indent=1) + "\n")


def table(rows):
    """Markdown; (c) beside (b) in memory, and what is allowed there."""
    head = (
        "| network | setting | layers | seconds | min - max | draws | images/s | ratio to (b) "
        "| peak, MB | above (b), MB | allowed, MB |\n"
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    )
    lines = [
        f"| {r['model']} | {r['setting']} | {r['layers'] or ''} | {r['seconds']:.3f} "
        f"| {r['min']:.3f} - {r['max']:.3f} | {r['draws'] or ''} | {r['images_per_second']:.1f} "
        f"| {r.get('ratio', '')} | {r['memory_mb']:.0f} | {_beside(r)} |"
        for r in rows
    ]
    return "\n".join([head, *lines])


def _beside(r):
    if r["allowed_mb"] is None or "memory_above_b_mb" not in r:
        return "|"
    return f"{r['memory_above_b_mb']:.0f} | {r['allowed_mb']:.0f}"


if __name__ == "__main__":
    main()
