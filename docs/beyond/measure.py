"""Measure the networks of docs/beyond.md; what is there is not measured again.

    python docs/beyond/measure.py --cifar10 TEST --imagenet PHOTOGRAPHS --networks FOLDER

The images are folders with a sub-folder for each class. FOLDER holds `cifar10-networks` and
`imagenet-networks`, classifiers that others trained, with files of factories; networks whose weights are not
there are left out. Records go to docs/beyond/records.
"""

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
KEPT = HERE.parent.parent / "leaderboard"
HOW = [
    "--delta",
    "1,0.05,0.1,0.25,0.5,2,4",
    "--components",
    "--infinitesimal",
    "--equivariance",
    "--no-per-image",
]
HOW += ["--layers", "stages", "--variants", "original,channel-shuffled", "--shuffles", "2"]
# model, its weights, and how it wants its images
CIFAR10 = [
    ("net/resnet18", KEPT / "checkpoints-fitted" / "cifar10-resnet18-width16.safetensors", []),
    ("net/resnet20", KEPT / "checkpoints" / "cifar10-resnet20-width28.safetensors", []),
    (
        "cifar10-networks/cifar_nets.py:resnet8",
        "cifar10-networks/resnet8.mlperf_tiny.safetensors",
        ["--input-size", "32", "--mean", "0", "--std", "1"],
    ),
]
IMAGENET = [
    ("tf_efficientnet_lite0", "tf_efficientnet_lite0.safetensors", []),
    (
        "imagenet-networks/imagenet_nets.py:mobilenetv1_050",
        "imagenet-networks/mobilenetv1_050_160.qat8.safetensors",
        ["--input-size", "160", "--mean", "0.5", "--std", "0.5"],
    ),
]


def main() -> None:
    """Each network on its images."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--cifar10", type=Path, required=True)
    parser.add_argument("--imagenet", type=Path, required=True)
    parser.add_argument("--networks", type=Path, required=True)
    options = parser.parse_args()
    for dataset, folder, images, networks in (
        ("cifar10", options.cifar10, 500, CIFAR10),
        ("imagenet", options.imagenet, 100, IMAGENET),
    ):
        for model, weights, shown in networks:
            spec = str(options.networks / model) if ".py:" in model else model
            asked = ["--dataset", dataset, "--data-dir", str(folder), "--images", str(images), *shown]
            measure(spec, options.networks / weights, asked)


def measure(spec: str, weights: Path, options: list[str]) -> None:
    """One record."""
    if not weights.exists():
        print(f"{spec}: no {weights.name}, left out", file=sys.stderr)
        return
    asked = ["bench", spec, "--checkpoint", str(weights), *options, *HOW, "--out", str(HERE), "--quiet"]
    subprocess.run([sys.executable, "-m", "timm_diffsens", *asked], check=True, stdout=subprocess.DEVNULL)


if __name__ == "__main__":
    main()
