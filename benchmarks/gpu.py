"""All that there is to know of a GPU in one command of at most eight minutes.

    python benchmarks/gpu.py --json benchmarks/gpu.json

Parts, each of which is left out when the time is up: `equality` of D, G and R with the CPU's, draws included;
`overhead` of drawing and of the hooks beside the bare forward, for selections of layers and precisions, with
the time that reading the activations once would take; `command`, the seconds of `diffsens bench` beyond its
imports; `training`, seconds an epoch; `memory` that the measurement adds. Runs that are compared are
interleaved; medians. With `--device cpu` and small numbers all of it can be tried anywhere.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from bare import machine, now

from timm_diffsens.device import allocator

allocator.prepare()

from timm_diffsens.device.precision import Precision  # noqa: E402
from timm_diffsens.models.inputs import InputOptions  # noqa: E402
from timm_diffsens.models.loading import load_model  # noqa: E402
from timm_diffsens.sensitivities.forwards import PassSettings, channels_last  # noqa: E402
from timm_diffsens.sensitivities.perturbed import Perturbation, PerturbedImages  # noqa: E402
from timm_diffsens.sensitivities.probe import Probe  # noqa: E402
from timm_diffsens.sensitivities.run import run_pass  # noqa: E402

OVERHEAD = "resnet50,vit_small_patch16_224,convnext_tiny,efficientnet_b0,net/resnet20"
EQUALITY = f"resnet18,vgg11_bn,{OVERHEAD}"
SELECTIONS = ("stages", "blocks", "all")
PRECISIONS = {"float32": Precision(), "tf32": Precision(tf32=True), "bfloat16": Precision(amp=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("parts", nargs="*", default=list(PARTS), help=", ".join(PARTS))
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--images", type=int, default=64, help="a batch; four times as many of 32 x 32")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--minutes", type=float, default=8)
    parser.add_argument("--networks", help="commas between them; by default those of each part")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found, start = {**machine(options.device)}, time.perf_counter()
    for part in options.parts:
        if time.perf_counter() - start > 60 * options.minutes:
            print(f"{part}: left out, {options.minutes:g} minutes are over")
            continue
        begun = time.perf_counter()
        found[part] = PARTS[part](options, start + 60 * options.minutes)
        print(f"\n{part}, {time.perf_counter() - begun:.0f} s\n{table(found[part])}", flush=True)
        if options.json:
            options.json.write_text(json.dumps(found, indent=1) + "\n")


def equality(options, end):
    """Largest relative difference of D, G and R between the device and the CPU, over the blocks."""
    rows = []
    for name in (options.networks or EQUALITY).split(","):
        if time.perf_counter() > end:
            break
        loaded, images = network(name, 16)
        layers = {}
        for device in ("cpu", options.device):
            model = loaded.module.to(device)
            layers[device] = run_pass(model, images, PassSettings("blocks", 16)).layers[0]
        pairs = list(zip(layers["cpu"], layers[options.device], strict=True))
        row = {"network": name, "layers": len(pairs)}
        for field in ("d", "g", "r"):
            values = [(getattr(a, field), getattr(b, field)) for a, b in pairs]
            row[field] = max((abs(a - b) / a for a, b in values if a and b), default=None)
        rows.append(row)
    return rows


def overhead(options, end):
    """A row a network, precision and selection: milliseconds a batch, and ratios to the bare forward."""
    rows = []
    for name in (options.networks or OVERHEAD).split(","):
        for precision, how in PRECISIONS.items():
            if time.perf_counter() > end or (options.device == "cpu" and how.tf32):
                continue
            rows += of_network(name, precision, how, options)
            print(table(rows[-len(SELECTIONS) :]), flush=True)
    return rows


def of_network(name, precision, how, options):
    device = torch.device(options.device)
    n = options.images * (4 if name.startswith("net/") else 1)
    loaded, images = network(name, n)
    model = loaded.module.to(device).eval()
    like, per_byte = next(model.parameters()), seconds_a_byte(device)
    with torch.no_grad(), how.applied(device), channels_last(model) as layout:

        def draw():
            return next(iter(images.batches(n, like, layout)))[1]

        batch = draw()
        runs = {"bare": lambda: model(batch), "draws": draw}
        probes = {selection: Probe(model, selection) for selection in SELECTIONS}

        def measured(probe, given):
            with probe:
                start = now(device)
                probe.run(given())
                return now(device) - start

        for selection, probe in probes.items():
            runs[selection] = lambda probe=probe: measured(probe, lambda: batch)
            runs[f"{selection} with draws"] = lambda probe=probe: measured(probe, draw)
        times = interleaved(runs, device, options.repeats)
    rows = []
    for selection, probe in probes.items():
        read = sum(e.pivot.numel() * 3 * n * (2 if how.amp else 4) for e in probe._estimators.values())
        rows.append(
            {
                "network": name,
                "precision": precision,
                "layers": f"{selection} ({len(probe.layers)})",
                "bare, ms": 1000 * times["bare"],
                "draws, ms": 1000 * times["draws"],
                "hooks": times[selection] / times["bare"],
                "whole": times[f"{selection} with draws"] / times["bare"],
                "bound": 1 + read * per_byte / times["bare"],
            }
        )
    return rows


def interleaved(runs, device, repeats):
    """Median seconds of each of several runs that take turns; the first two rounds are the warm-up."""
    seconds = {name: [] for name in runs}
    for _ in range(repeats + 2):
        for name, run in runs.items():
            start = now(device)
            given = run()
            taken = given if isinstance(given, float) else now(device) - start
            seconds[name].append(taken)
    return {name: statistics.median(taken[2:]) for name, taken in seconds.items()}


def seconds_a_byte(device):
    """Of reading memory: a sum over 1 GiB (64 MiB on a CPU)."""
    x = torch.ones((2**28 if device.type == "cuda" else 2**24), device=device)
    times = interleaved({"sum": lambda: x.sum()}, device, 5)
    return times["sum"] / x.nbytes


def network(name, n):
    """A network with random weights, and n random images under a perturbation."""
    loaded = load_model(name, pretrained=False, input_options=InputOptions())
    clean = torch.rand(n, *loaded.input_shape, generator=torch.Generator().manual_seed(0))
    return loaded, PerturbedImages(lambda size: iter([(range(n), clean)]), Perturbation())


def command(options, end):
    """Seconds of the command line, and of what it imports alone."""
    name = (options.networks or "resnet50").split(",")[0]
    first = "import timm_diffsens; timm_diffsens.measure"  # as the command does, before torchvision
    imports = f"{first}; import torch, timm, torchvision; torch.zeros(1, device='{options.device}')"
    count = "500" if options.device != "cpu" else "8"
    with tempfile.TemporaryDirectory() as out:
        asked = ["bench", name, "--no-pretrained", "--images", count, "--device", options.device]
        bench = [sys.executable, "-m", "timm_diffsens", *asked, "--out", out, "--force", "--quiet"]
        times = interleaved(
            {
                "imports": lambda: subprocess.run([sys.executable, "-c", imports], check=True) and None,
                "bench": lambda: subprocess.run(bench, check=True, stdout=subprocess.DEVNULL) and None,
            },
            torch.device("cpu"),
            1,
        )
    row = {"network": name, "images": count, **times, "beyond imports": times["bench"] - times["imports"]}
    return [row]


def training(options, end):
    """Seconds an epoch of two networks, see training.py."""
    asked = [] if options.device != "cpu" else ["--images", "256"]
    script = Path(__file__).with_name("training.py")
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "rows.json"
        asked += ["--device", options.device, "--json", str(out)]
        subprocess.run([sys.executable, str(script), *asked], check=True)
        return json.loads(out.read_text())


def memory(options, end):
    """Peak bytes on the device: bare, and with all layers measured."""
    device, rows = torch.device(options.device), []
    if device.type != "cuda":
        return rows
    for name in (options.networks or OVERHEAD).split(","):
        loaded, images = network(name, options.images)
        model = loaded.module.to(device).eval()
        with torch.no_grad(), channels_last(model) as layout:
            batch = next(iter(images.batches(options.images, next(model.parameters()), layout)))[1]
            model(batch)
            torch.cuda.reset_peak_memory_stats(device)
            model(batch)
            bare = torch.cuda.max_memory_allocated(device)
            with Probe(model, "all") as probe:
                probe.run(batch)
                probe.run(batch)
            measured = torch.cuda.max_memory_allocated(device)
        rows.append({"network": name, "bare, MB": bare / 2**20, "all, MB": measured / 2**20})
        del model, loaded, batch, probe
        torch.cuda.empty_cache()
    return rows


def table(rows):
    """Markdown."""
    if not rows:
        return "nothing"
    head = list(rows[0])
    lines = [head, ["---"] * len(head), *([shown(row[name]) for name in head] for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def shown(value):
    return f"{value:.3g}" if isinstance(value, float) else str(value)


PARTS = {
    "equality": equality,
    "overhead": overhead,
    "command": command,
    "training": training,
    "memory": memory,
}

if __name__ == "__main__":
    main()
