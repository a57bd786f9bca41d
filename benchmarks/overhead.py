"""What probing costs: the same triplets through the bare network and through the probe, interleaved.

    python benchmarks/overhead.py resnet50 --images 16 --repeats 5

(a) the bare network in NCHW, (b) the same with the layout that `measure` uses, then the probe with each
selection. All of them see one batch of images x 3; drawing deformations and noise is timed apart. Medians
over interleaved repeats; ratios are to (b). The allocator's thresholds are raised for all of them;
`--allocator off` leaves them alone.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

from timm_diffsens import runtime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="+")
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--selections", default="stages,blocks,all")
    parser.add_argument("--allocator", choices=("on", "off"), default="on")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    runtime.guard_torchvision()
    if options.allocator == "on":
        runtime.tune_allocator()
    rows = [row for model in options.models for row in measure_model(model, options)]
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=2) + "\n")


def measure_model(spec, options):
    import torch

    from timm_diffsens.measures.pipeline import Protocol, channels_last, triplets
    from timm_diffsens.measures.probe import Probe
    from timm_diffsens.models.loading import load_model

    torch.set_num_threads(options.threads)
    loaded = load_model(spec, pretrained=False)
    model, shape = loaded.module, (loaded.input.channels, loaded.input.height, loaded.input.width)
    images = torch.rand(options.images, *shape, generator=torch.Generator().manual_seed(0))
    plain = triplets(images, range(options.images), Protocol())
    selections = options.selections.split(",")
    times = {name: [] for name in ("draws", "(a) bare, NCHW", "(b) bare", *selections)}
    with torch.no_grad():
        with channels_last(model) as layout:
            batch = plain.to(memory_format=layout)
            probes = {name: Probe(model, name) for name in selections}
            for (
                probe
            ) in probes.values():  # the look at the model happens once a measurement, not once a batch
                with probe:
                    model(batch)
        for _ in range(options.repeats + 1):
            clock(times["draws"], lambda: triplets(images, range(options.images), Protocol()))
            clock(times["(a) bare, NCHW"], lambda: model(plain))
            with channels_last(model):
                clock(times["(b) bare"], lambda: model(batch))
                for name, probe in probes.items():
                    with probe:
                        clock(times[name], lambda: model(batch))
    medians = {name: statistics.median(values[1:]) for name, values in times.items()}  # the first warms up
    return [
        {
            "model": spec,
            "what": name,
            "layers": len(probes[name].layers) if name in probes else None,
            "seconds": round(medians[name], 4),
            "spread": round(max(values[1:]) - min(values[1:]), 4),
            "ratio": round(medians[name] / medians["(b) bare"], 3),
            "images": options.images,
            "repeats": options.repeats,
            "threads": options.threads,
            "torch": torch.__version__,
        }
        for name, values in times.items()
    ]


def clock(into, run):
    start = time.perf_counter()
    run()
    into.append(time.perf_counter() - start)


def table(rows):
    head = "| model | what | layers | seconds | max - min | ratio to (b) |\n"
    head += "| --- | --- | ---: | ---: | ---: | ---: |"
    lines = [
        f"| {r['model']} | {r['what']} | {r['layers'] or ''} | {r['seconds']:.3f} | {r['spread']:.3f} "
        f"| {r['ratio']:.2f} |"
        for r in rows
    ]
    return "\n".join([head, *lines])


if __name__ == "__main__":
    main()
