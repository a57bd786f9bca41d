"""What several deformations in one pass cost, and the small limit, beside one deformation and the forwards.

    python benchmarks/pairs.py --json benchmarks/pairs.json
    python benchmarks/pairs.py resnet18 --pairs 1,2,4,8

The same images for each, in forwards as large as those that `--batch-size auto` makes, draws included. Each
runs in a process of its own; the runs are interleaved; medians. A forward is one of each image by the bare
network, in batches of three times as many as with one deformation. K deformations should take (1 + 2 K) / 3
times as long as one, and may take 5 % more; the small limit may take 8 forwards. It is timed as it is asked
for, `measure_infinitesimal` with the checks before its pass, which see some 40 images however many are
measured. Rows of the networks that are measured replace those in the file.
"""

import argparse
import json
import statistics
from pathlib import Path

from bare import Process, Setting, machine, others

NETWORKS = {"resnet18": 16, "vit_tiny_patch16_224": 16, "net/resnet20": 64}  # images a batch with K = 1
BATCHES = {"net/resnet20": 8}  # of so many images, a timed run; else 2
FORWARDS = 8  # that the small limit may take
ALLOWANCE = 1.05


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(NETWORKS))
    parser.add_argument("--layers", default="blocks")
    parser.add_argument("--pairs", default="1,5")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    rows = []
    for model in options.models:
        found = of_model(model, [int(k) for k in options.pairs.split(",")], options)
        print(table(found), flush=True)
        rows += found
        if options.json:
            save(options.json, rows)


def of_model(model, counts, options):
    usual = NETWORKS.get(model, 16)
    total = BATCHES.get(model, 2) * usual

    def setting(images, name=options.layers, **more):
        return Setting(name, model, images, total / images, options.threads, options.device, **more)

    settings = {"forward": setting(usual, "(b)")}
    for k in counts:
        settings[f"K = {k}"] = setting(max(1, 3 * usual // (1 + 2 * k)), pairs=k)
    settings["small limit"] = setting(usual, limit=True)
    seconds = timed(list(settings.values()), options.repeats)
    forward = statistics.median(seconds[0]) / 3
    one = next((statistics.median(s) for k, s in zip(settings, seconds, strict=True) if k == "K = 1"), None)
    rows = []
    for (name, made), runs in zip(settings.items(), seconds, strict=True):
        if name != "forward":
            rows.append(row(name, made, runs, forward, one) | machine(options.device))
    return rows


def timed(settings, repeats):
    """Seconds of each setting's runs, for the same number of images."""
    processes = [Process(setting) for setting in settings]
    runs = [[] for _ in settings]
    for repeat in range(repeats):
        for i in range(len(settings)):  # each comes after every other
            at = (i + repeat) % len(settings)
            same = settings[at].batches / round(settings[at].batches)
            runs[at].append(processes[at].run()["seconds"] * same)
    for process in processes:
        process.close()
    return runs


def row(name, setting, runs, forward, one):
    median = statistics.median(runs)
    expected = (1 + 2 * setting.pairs) / 3
    ratio = median / one if one and not setting.limit else None
    return {
        "model": setting.model,
        "measured": name,
        "layers": setting.name,
        "batch": 3 * setting.images // 4 if setting.limit else setting.images,  # of a forward
        "images": round(setting.images * setting.batches),
        "seconds": round(median, 4),
        "min": round(min(runs), 4),
        "max": round(max(runs), 4),
        "forwards": round(median / forward, 2),
        "forwards_allowed": FORWARDS if setting.limit else None,
        "ratio": ratio and round(ratio, 3),
        "ratio_allowed": ratio and round(expected * (ALLOWANCE if setting.pairs > 1 else 1), 3),
        "threads": setting.threads,
        "device": setting.device,
    }


def save(path, rows):
    """Rows of other networks and devices stay."""
    path.write_text(json.dumps([*others(path, rows), *rows], indent=1) + "\n")


def table(rows):
    """Markdown."""
    lines = [
        "| network | measured | batch | seconds | min - max | forwards | allowed | to K = 1 | allowed |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for r in rows:
        allowed = [r[name] or "" for name in ("forwards_allowed", "ratio", "ratio_allowed")]
        lines.append(
            f"| {r['model']} | {r['measured']} | {r['batch']} | {r['seconds']:.3f} | {r['min']:.3f} - "
            f"{r['max']:.3f} | {r['forwards']:.2f} | {allowed[0]} | {allowed[1]} | {allowed[2]} |"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
