"""The compiled reduction beside the reference in plain PyTorch: layer by layer, and end to end.

    python benchmarks/kernel.py --json benchmarks/kernel.json
    python benchmarks/kernel.py --device cuda --json benchmarks/kernel_gpu.json

For each size of the networks' layers, and each type, the same batch is added to running sums by both, in
turns; then the networks are measured with all their layers by both, in turns, and run bare. Ratios are those
of neighbouring runs, of which the median is given with its range. All times are processor time of one thread,
so that what else the machine does matters little. Several pairs of a deformation and a noise in one batch are
given as the ratio to one pair: K of them read (1 + 2 K) / 3 of its numbers.

With `--device cuda`, the reduction in Triton beside the reference on layers of a ResNet-50, 64 images: time
on the GPU, the bandwidth at which a layer is read beside that of a copy, and the time of the host a call.
"""

import argparse
import itertools
import json
import os
import statistics
import time
from pathlib import Path

from bare import machine

from timm_diffsens.device import allocator

NETWORKS = {"resnet18": 16, "net/resnet20": 64}  # images a batch, as --batch-size auto takes them
TYPES = ("float32", "float64", "bfloat16")
PAIRS = (2, 4)  # of a batch, beside one
GPU_SIZES = (1_000, 25_088, 100_352, 200_704, 802_816)
_LEAST = 0.02  # seconds of a timed run, at least
_CACHES = 2**27  # bytes that no cache holds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", default=list(NETWORKS))
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    allocator.prepare()
    import torch

    torch.set_num_threads(1)
    about = {**machine(), "load": os.getloadavg()[0]}
    rows = []
    if options.device == "cuda":
        about["gpu"] = torch.cuda.get_device_name()
        rows = on_gpu(options.repeats)
        print(table(rows), flush=True)
    for model in options.models if options.device == "cpu" else ():
        rows += one_network(model, options.repeats)
        print(table(rows), flush=True)
    if options.json:
        options.json.write_text(json.dumps({**about, "rows": rows}, indent=1) + "\n")


def one_network(model, repeats):
    import torch

    from timm_diffsens import Diffeo, Probe, load_model, matched_noise
    from timm_diffsens.sensitivities.forwards import channels_last
    from timm_diffsens.sensitivities.reductions import compiled, dispatch

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
    rows = [
        {"what": f"{model}, {size} numbers, {name}", **one_layer(size, name, images, repeats)}
        for size in sizes
        for name in TYPES
    ]
    return [*rows, {"what": f"{model}, all layers, end to end", **end, "bare": bare["bare"]}]


def one_layer(size, name, images, repeats):
    """Compiled and reference for one pair; and what more pairs cost, compiled, beside one."""
    from timm_diffsens.sensitivities.reductions import compiled, dispatch

    def add(pairs, reduction=compiled, most=0):
        first = layer(size, name, images, pairs, "cpu")
        others = min(most, _CACHES // first[0].nbytes)
        turns = itertools.cycle([first, *(layer(size, name, images, pairs, "cpu") for _ in range(others))])

        def run():
            dispatch._compiled = lambda: reduction
            dispatch.add_rows(*next(turns))

        return run

    found = compare({"compiled": add(1), "reference": add(1, None)}, repeats)
    for pairs in PAIRS:  # where one pair stays in the last cache, and several do not, they would not be alike
        found[f"pairs_{pairs}"] = compare({"one": add(1, most=16), "several": add(pairs, most=16)}, repeats)[
            "ratio"
        ]
    return found


def layer(size, name, images, pairs, device):
    """What `add_rows` is given of a batch that begins and ends with a block."""
    import torch

    from timm_diffsens.sensitivities.reductions.state import RunningSums, blocks_of

    parts = torch.randn(1 + 2 * pairs, images, size, device=device).to(getattr(torch, name))
    pivot = torch.zeros(size, dtype=torch.float64 if size <= 2**12 else torch.float32, device=device)
    pivot = pivot.double() if name == "float64" else pivot
    (sums,) = RunningSums.of_layers(1, torch.device(device), pairs)
    return parts, blocks_of(images, 64, 0), pivot, None, sums


def on_gpu(repeats):
    """Rows of the reduction in Triton: milliseconds, bytes a second over those of a copy, the host's part."""
    import torch

    from timm_diffsens.sensitivities.reductions import on_gpu, reference

    source = torch.empty(2**28, device="cuda")
    target = torch.empty_like(source)
    copied = 2 * source.nbytes / gpu_once(lambda: target.copy_(source), 20)
    rows = []
    for size, name, pairs in itertools.product(GPU_SIZES, ("float32", "bfloat16"), (1, 4)):
        given = layer(size, name, 64, pairs, "cuda")
        runs = {
            "triton": lambda g=given: on_gpu.add_rows(*g),
            "reference": lambda g=given: reference.add_rows(*g),
        }
        times = {key: [] for key in runs}
        for key in [*runs] * (repeats + 1):  # the first is warming up
            times[key].append(gpu_once(runs[key], 50))
        taken = {key: statistics.median(values[1:]) for key, values in times.items()}
        rows.append(
            {
                "what": f"{size} numbers, {name}, {pairs} pairs",
                **{key: round(1000 * seconds, 4) for key, seconds in taken.items()},
                "gigabytes_a_second": round(given[0].nbytes / taken["triton"] / 1e9),
                "of_a_copy": round(given[0].nbytes / taken["triton"] / copied, 2),
                "host_us": round(1e6 * host_once(runs["triton"], 100), 1),
            }
        )
    return rows


def gpu_once(run, count):
    """Seconds of the GPU a run, of many that it has waiting."""
    import torch

    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    for _ in range(count):
        run()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / 1000 / count


def host_once(run, count):
    """Seconds that the host takes to start a run."""
    import torch

    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(count):
        run()
    taken = time.perf_counter() - start
    torch.cuda.synchronize()
    return taken / count


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
    if rows and "triton" in rows[0]:
        return gpu_table(rows)
    pairs = [f"{p} pairs, of {(1 + 2 * p) / 3:.2f}" for p in PAIRS]
    head = f"| what | compiled, ms | reference, ms | ratio | range | {' | '.join(pairs)} | bare, ms |\n"
    head += "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |"
    lines = [
        f"| {r['what']} | {r['compiled']:.3f} | {r['reference']:.3f} | {r['ratio']:.2f} "
        f"| {r['range'][0]:.2f} - {r['range'][1]:.2f} | {' | '.join(more_pairs(r))} | {r.get('bare', '')} |"
        for r in rows
    ]
    return "\n".join([head, *lines])


def more_pairs(row):
    found = [row.get(f"pairs_{pairs}") for pairs in PAIRS]
    return ["" if ratio is None else f"{ratio:.2f}" for ratio in found]


def gpu_table(rows):
    head = "| what | Triton, ms | reference, ms | GB/s | of a copy | host, us |\n"
    head += "| --- | ---: | ---: | ---: | ---: | ---: |"
    lines = [
        f"| {r['what']} | {r['triton']:.3f} | {r['reference']:.3f} | {r['gigabytes_a_second']} "
        f"| {r['of_a_copy']:.2f} | {r['host_us']} |"
        for r in rows
    ]
    return "\n".join([head, *lines])


if __name__ == "__main__":
    main()
