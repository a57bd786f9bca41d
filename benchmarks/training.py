"""What an epoch of training costs, on images made here of the size of CIFAR-10.

    python benchmarks/training.py --device cuda
    python benchmarks/training.py --images 512 --width 4 --threads 1

A VGG11-BN and a ResNet-18, batches of 128, with augmentation. On CUDA each is trained in float32 and in
channels-last bfloat16, with steps as they are written and replayed as a CUDA graph. The first epoch, which
captures the graph, is apart: seconds are the median of those after it.
"""

import argparse
import json
import statistics
import time
from pathlib import Path

import torch

from timm_diffsens.device import allocator
from timm_diffsens.device.devices import resolve_device
from timm_diffsens.models.arguments import ModelArguments
from timm_diffsens.models.inputs import plain_input
from timm_diffsens.train.data import Images, TaskData
from timm_diffsens.train.loop import Session, fit
from timm_diffsens.train.recipe import CIFAR10_MEAN, CIFAR10_STD, Recipe
from timm_diffsens.train.run import build

NETWORKS = ("net/vgg11_bn", "net/resnet18")
# name, what the recipe has beside its defaults, whether steps are replayed as a CUDA graph
ON_CUDA = (
    ("float32, as written", {}, False),
    ("float32, graph", {}, True),
    ("bfloat16 channels-last, as written", {"amp": True, "channels_last": True}, False),
    ("bfloat16 channels-last, graph", {"amp": True, "channels_last": True}, True),
)
ON_CPU = (("float32", {}, False),)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("models", nargs="*", default=NETWORKS)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--width", type=int, default=32)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    allocator.prepare()
    torch.set_num_threads(options.threads)
    device = resolve_device(options.device)
    rows = epochs_of(options.models, device, options.images, options.width, options.epochs)
    print(table(rows))
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")


def epochs_of(models, device, images=50_000, width=32, epochs=3):
    """A row for each network and way: seconds of the first epoch, median of the others, last loss."""
    data = synthetic(images).to(device)
    return [
        row(model, way, data, width, epochs)
        for model in models
        for way in (ON_CUDA if device.type == "cuda" else ON_CPU)
    ]


def row(model, way, data, width, epochs):
    name, more, graph = way
    recipe = Recipe("cifar10", model, ModelArguments(width=width), epochs=epochs, lr=0.05, **more)
    module = build(recipe, data).module.to(data.train.x.device)
    begun = time.perf_counter()
    state = fit(module, data, recipe, Session(graph=graph))
    whole = time.perf_counter() - begun
    first, *others = (each["seconds"] for each in state.curve)
    return {
        "model": model,
        "width": width,
        "images": len(data.train),
        "way": name,
        "device": device_name(data.train.x.device),
        "first_epoch_s": first,
        "epoch_s": round(statistics.median(others or [first]), 3),
        "whole_s": round(whole, 3),
        "loss": state.curve[-1]["loss"],
    }


def synthetic(images):
    """Images of ten classes, each a colour under noise; a tenth as many for validation."""
    draws = torch.Generator().manual_seed(0)
    centres = torch.randn(10, 3, 1, 1, generator=draws)

    def part(n):
        y = torch.randint(10, (n,), generator=draws)
        return Images(centres[y] + torch.randn(n, 3, 32, 32, generator=draws), y)

    spec = plain_input(3, (32, 32), CIFAR10_MEAN, CIFAR10_STD)
    return TaskData(part(images), part(images // 10), part(10), input=spec, outputs=10)


def device_name(device):
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu"


def table(rows):
    """Markdown."""
    lines = ["| network | width | images | training | first epoch | epoch | loss |"]
    lines.append("| --- | ---: | ---: | --- | ---: | ---: | ---: |")
    lines += [
        f"| {r['model']} | {r['width']} | {r['images']:,} | {r['way']} | {r['first_epoch_s']:.2f} s "
        f"| {r['epoch_s']:.2f} s | {r['loss']:.4f} |"
        for r in rows
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
