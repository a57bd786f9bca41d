"""How random simple CNNs of finite width differ from the one of infinite width: they do as 1 / width.

    python benchmarks/infinite_width.py --json benchmarks/infinite_width.json

Task 2 on 16 pixels with xi = 4 and four layers of F = 2, small enough for the width 2,048 on a processor.
D, G and R of the last layer, on the same 8 images, moves and noises, averaged over networks.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bare import machine

from timm_diffsens import sensitivity
from timm_diffsens.models.nets.simple import SimpleCNN
from timm_diffsens.theory.infinite_width import InfiniteWidth
from timm_diffsens.theory.pixel_pairs import PairImages, PixelPairs

DEPTH, FILTER, SIDE, XI, IMAGES = 4, 2, 16, 4, 8
NETWORKS = {32: 4000, 128: 3000, 512: 1500, 2048: 300}  # width -> drawn; the spread falls as its root
MEASURES = ("d", "g", "r")


def drawn(width: int, networks: int, sample: PairImages, seed: int = 0) -> np.ndarray:
    """D, G and R of the last layer of each network: (networks, 3)."""
    three = torch.cat([sample.clean, sample.deformed, sample.clean + sample.eta.relu()]).float()
    shape = {"side": SIDE, "dims": 1, "depth": DEPTH, "filter": FILTER, "stride": FILTER}
    net = SimpleCNN(channels=1, classes=1, width=width, **shape)
    layers, found = list(net)[: 2 * DEPTH], []
    torch.manual_seed(seed)
    for _ in range(networks):
        values = three
        for layer in layers:
            if hasattr(layer, "reset_parameters"):
                layer.reset_parameters()
            values = layer(values)
        found.append(sensitivity(*values.split(len(sample.clean))))
    return np.array(found)


def rows() -> list[dict[str, Any]]:
    """One a width: relative differences, and their standard errors."""
    sample = PixelPairs.task2(SIDE, XI).sample(IMAGES, np.random.default_rng(0))
    last = InfiniteWidth(DEPTH, FILTER, FILTER).layers([sample], pairs=IMAGES - 1)[-1]
    truth = np.array([getattr(last, name) for name in MEASURES])
    found = []
    for width, networks in NETWORKS.items():
        values = drawn(width, networks, sample) / truth - 1
        error = values.std(axis=0, ddof=1) / np.sqrt(networks)
        numbers = {"width": width, "networks": networks, "infinite": truth.round(6).tolist()}
        numbers |= {"difference": values.mean(axis=0).round(6).tolist(), "stderr": error.round(6).tolist()}
        found.append({**machine(), **numbers})
        print(table(found[-1:]), flush=True)
    return found


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown: differences in per cent, and times the width."""
    names = [m.upper() for m in MEASURES]
    head = ["width", "networks", *(f"{n}, %" for n in names), *(f"{n} x width" for n in names)]
    lines = [head, ["---:"] * len(head)]
    for row in rows:
        both = list(zip(row["difference"], row["stderr"], strict=True))
        percent = [f"{100 * value:.2f} ± {100 * error:.2f}" for value, error in both]
        scaled = [f"{row['width'] * value:.1f} ± {row['width'] * error:.1f}" for value, error in both]
        lines.append([f"{row['width']:,}", f"{row['networks']:,}", *percent, *scaled])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


@torch.no_grad()
def main() -> None:
    """Measure, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = rows()
    print(table(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    main()
