"""The compiled reduction beside the reference in plain PyTorch: layer by layer, and end to end.

    python benchmarks/kernel.py --json benchmarks/kernel.json

For each size of the networks' layers, and each type, the same batch is added to running sums by both, in
turns; then the networks are measured with all their layers by both, in turns, and run bare. Ratios are those
of neighbouring runs, of which the median is given with its range. All times are processor time of one thread,
so that what else the machine does matters little.
"""

import argparse
import json
import os
import statistics
import time
from pathlib import Path

from bare import machine

from timm_diffsens.device import allocator

NETWORKS = {"resnet18": 16, "net/resnet20": 64}  # images a batch, as --batch-size auto takes them
TYPES = ("float32", "float64", "bfloat16")
_LEAST = 0.02  # seconds of a timed run, at least


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    allocator.prepare()
    import torch

    torch.set_num_threads(1)
    about = {**machine(), "load": os.getloadavg()[0]}
    rows = []
    for model in options.models:
        rows += one_network(model, options.repeats)
        print(table(rows), flush=True)
    if options.json:
        options.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


def one_network(model, repeats):
    import torch

    from timm_diffsens import Diffeo, Probe, load_model, matched_noise
    from timm_diffsens.sensitivities.forwards import channels_last
    from timm_diffsens.sensitivities.reductions import compiled, dispatch
    from timm_diffsens.sensitivities.reductions.state import RunningSums, blocks_of

    images = NETWORKS.get(model, 16)
    loaded = load_model(model, pretrained=False)
    clean = torch.rand(images, *loaded.input_shape)
    deformed = Diffeo()(clean)
    with torch.no_grad(), channels_last(loaded.module) as layout, Probe(loaded.module, "all") as probe:
        batch = torch.cat([clean, deformed, clean + matched_noise(clean, deformed)])
        batch = batch.contiguous(memory_format=layout)
        probe.run(batch)

        def measure(reduction):
            dispatch._compiled = lambda: reduction
            probe.run(batch)

        whole = {"compiled": lambda: measure(compiled), "reference": lambda: measure(None)}
        end = compare(whole, repeats)
        sizes = sorted({e.pivot.numel() for e in probe._estimators.values()})
    bare = compare({"bare": lambda: loaded.module(batch)}, repeats)
    rows = []
    for size in sizes:
        for name in TYPES:
            dtype = getattr(torch, name)
            parts = torch.randn(3, images, size).to(dtype)
            pivot = torch.zeros(size, dtype=torch.float64 if size <= 2**12 else torch.float32)
            pivot = pivot.double() if name == "float64" else pivot
            (sums,) = RunningSums.of_layers(1, torch.device("cpu"))
            given = parts, blocks_of(images, 64, 0), pivot, None, sums

            def add(reduction, given=given):
                dispatch._compiled = lambda: reduction
                dispatch.add_rows(*given)

            both = {"compiled": lambda add=add: add(compiled), "reference": lambda add=add: add(None)}
            rows.append({"what": f"{model}, {size} numbers, {name}", **compare(both, repeats)})
    return [*rows, {"what": f"{model}, all layers, end to end", **end, "bare": bare["bare"]}]


def compare(runs, repeats):
    """Median milliseconds of each, and of the ratios of neighbours the median, the least and the most."""
    import torch

    times = {name: [] for name in runs}
    counts = {}
    with torch.no_grad():
        for name, run in runs.items():
            run()
            counts[name] = max(1, round(_LEAST / once(run)))
        for repeat in range(repeats):
            for name in list(runs) if repeat % 2 else reversed(runs):
                times[name].append(once(runs[name], counts[name]))
    found = {name: round(1000 * statistics.median(taken), 4) for name, taken in times.items()}
    if len(times) == 2:
        one, two = times.values()
        ratios = [b / a for a, b in zip(one, two, strict=True)]
        found |= {"ratio": round(statistics.median(ratios), 2)}
        found |= {"range": [round(min(ratios), 2), round(max(ratios), 2)]}
    return found


def once(run, count=1):
    start = time.process_time()
    for _ in range(count):
        run()
    return (time.process_time() - start) / count


def table(rows):
    head = "| what | compiled, ms | reference, ms | ratio | range | bare, ms |\n"
    head += "| --- | ---: | ---: | ---: | ---: | ---: |"
    lines = [
        f"| {r['what']} | {r['compiled']:.3f} | {r['reference']:.3f} | {r['ratio']:.2f} "
        f"| {r['range'][0]:.2f} - {r['range'][1]:.2f} | {r.get('bare', '')} |"
        for r in rows
    ]
    return "\n".join([head, *lines])


if __name__ == "__main__":
    main()
