"""How the cost of a measurement grows with images, batch size, layers, input size and threads.

    python benchmarks/scaling.py --json benchmarks/scaling.json

Images: measurements of all layers of net/resnet20, each in a process of its own, whose time and peak memory
are noted on the way; medians over them. The others: the same images with and without the measurement,
interleaved, in processes of their own.
"""

import argparse
import json
import multiprocessing
import statistics
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

from bare import MB, Process, Setting, machine, memory, now, start_memory

MARKS = (100, 200, 500, 1000, 2000, 3000, 4000, 5000)
_BATCH = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = json.loads(options.json.read_text()) if options.json and options.json.exists() else {}
    for part in options.parts:
        rows = PARTS[part](options)
        found[part] = [{**row, **machine(options.device)} for row in rows]
        print(table(rows), flush=True)
        if options.json:
            options.json.write_text(json.dumps(found, indent=1) + "\n")


def images(options):
    """Seconds and peak memory after so many images; the slope is that since the mark before."""
    with ProcessPoolExecutor(
        1, mp_context=multiprocessing.get_context("spawn"), max_tasks_per_child=1
    ) as alone:
        passes = [
            alone.submit(one_pass, options.threads, options.device).result() for _ in range(options.repeats)
        ]
    rows = []
    for i, n in enumerate(MARKS, start=1):
        slopes = [1000 * (p[i][0] - p[i - 1][0]) / (n - (MARKS[i - 2] if i > 1 else _BATCH)) for p in passes]
        rows.append(
            {
                "images": n,
                # since the first batch, with which the layers are found
                "seconds": round(statistics.median(p[i][0] - p[0][0] for p in passes), 3),
                "slope_ms": round(statistics.median(slopes), 3),
                "slope_min": round(min(slopes), 3),
                "slope_max": round(max(slopes), 3),
                "memory_mb": round(statistics.median(p[i][1] for p in passes) / MB, 1),
            }
        )
    return rows


def one_pass(threads, device):
    """(moment, peak memory above what imports take) after the first batch and at each mark."""
    from timm_diffsens import load_model
    from timm_diffsens.device import allocator

    allocator.prepare()
    import timm  # noqa: F401
    import torch

    from timm_diffsens.sensitivities.forwards import PassSettings
    from timm_diffsens.sensitivities.perturbed import Perturbation, PerturbedImages
    from timm_diffsens.sensitivities.reductions import dispatch
    from timm_diffsens.sensitivities.run import run_pass

    torch.set_num_threads(threads)
    device = torch.device(device)
    dispatch.prepare(device)
    start_memory(device)
    before = memory(device)
    model = load_model("net/resnet20", pretrained=False).module.to(device)
    seen = []

    def source(size):
        for start in range(0, MARKS[-1], size):
            stream = torch.Generator().manual_seed(start)
            yield range(start, start + size), torch.rand(size, 3, 32, 32, generator=stream)

    def progress(done):
        if done in (_BATCH, *MARKS):
            seen.append((now(device), memory(device) - before))

    images = PerturbedImages(source, Perturbation())
    run_pass(model, images, PassSettings("all", _BATCH), progress=progress)
    return seen


def batches(options):
    """The same 32 images in batches of several sizes, for networks of large and of small images."""
    cases = [{"batch": n, "batches": 32 // n} for n in (1, 2, 4, 8, 16, 32)]
    small = {"model": "net/resnet20", "size": 32}
    cases += [{**small, "batch": n, "batches": 512 // n} for n in (8, 16, 32, 64, 128, 256)]
    return compare(options, [{**case, "setting": "all"} for case in cases])


def layers(options):
    return compare(options, [{"setting": name} for name in ("stages", "blocks", "convs", "all")])


def sizes(options):
    return compare(options, [{"setting": "all", "size": size} for size in (64, 128, 224, 320)])


def threads(options):
    return compare(options, [{"setting": "all", "threads": n} for n in range(1, options.threads + 1)])


def compare(options, cases):
    """Each case beside the bare network in the same circumstances."""
    rows = []
    for case in cases:
        size, count = case.get("size", 224), case.get("threads", options.threads)
        model, batch, several = case.get("model", "resnet18"), case.get("batch", 16), case.get("batches", 1)
        names = ("(b)", case["setting"])
        settings = [Setting(n, model, batch, several, count, options.device, size) for n in names]
        pair = [Process(setting) for setting in settings]
        runs = [[process.run()["seconds"] for process in pair] for _ in range(options.repeats)]
        bare, probed = (statistics.median(times) for times in zip(*runs, strict=True))
        rows.append(
            {
                "model": model,
                "batch": batch,
                "images": batch * several,
                "size": size,
                "threads": count,
                "setting": case["setting"],
                "layers": pair[1].about["layers"],
                "bare": round(bare, 4),
                "seconds": round(probed, 4),
                "ratio": round(probed / bare, 3),
            }
        )
        for process in pair:
            process.close()
    return rows


PARTS = {"images": images, "batch": batches, "layers": layers, "size": sizes, "threads": threads}


def table(rows):
    keys = [key for key in rows[0] if key not in ("machine", "versions")]
    lines = ["| " + " | ".join(keys) + " |", "| " + " | ".join("---:" for _ in keys) + " |"]
    lines += ["| " + " | ".join(str(row[key]) for key in keys) + " |" for row in rows]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
