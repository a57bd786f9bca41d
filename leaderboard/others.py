"""Measure classifiers that others trained, as `imagenet.csv` or `cifar10.csv` lists them, one after another.

    python leaderboard/others.py imagenet --weights DIR --images DIR [--out DIR]
        [--variants | --components | --errors] [NAME ...]

`--weights` has the checkpoints, `<checkpoint>.safetensors` anywhere below it; `--images` the images, a
folder for each class, of ImageNet its WordNet id. What has a record already is not measured again.
`--variants` measures all variants of those of ImageNet, and `--components` translation, rotation, dilation
and shear and two more sizes, with fewer images, for docs/beyond.md (`--out docs/beyond/imagenet`). `--errors`
measures little else than the test error, over all images, and says how far it is from the `error` of the
table. That of ImageNet is of the same photographs before they were encoded as JPEG, which costs small
networks a point or two. NAME picks checkpoints by their start.

`.qat8` and `.qnnpack8` are networks of 8-bit weights, put back into float32 with batch-norm folded in;
activations are float.

Columns: `model`, a spec (of a factory below `examples`); `checkpoint`; `input_size`; `error`, top-1;
`train_error`, on the training images of the same data set, empty where it was not measured; `source` and
`licence` of the weights, empty where none is stated: such weights may not be passed on.
"""

import argparse
import csv
import json
import subprocess
import sys
from pathlib import Path

from build import ALL, BENCH, SIZES

HERE = Path(__file__).resolve().parent
EXAMPLES = HERE.parent / "examples"
# The board's size is the first: the same deformation of a picture for networks of 128 and of 224 pixels.
BOARD = ("--images", "300", "--variants", "original", "--delta", "1@224,0.25@224,1,0.25")
BOARD += ("--no-per-image", "--full-error")
FEWER = ("--images", "64", "--layers", "stages", "--no-per-image")
VARIANTS = (*ALL, "--delta", "1@224,0.25@224", *FEWER)
COMPONENTS = ("--variants", "original", "--components", "--delta", "1@224,0.5@224,2@224", *FEWER)
CIFAR10 = (*BENCH, *SIZES, "--full-error")
ERRORS = ("--images", "10", "--variants", "original", "--layers", "stages", "--full-error")
MOST_APART = 0.01


def main() -> None:
    """Measure each network of the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("dataset", choices=["imagenet", "cifar10"])
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--weights", required=True, type=Path)
    parser.add_argument("--images", required=True)
    parser.add_argument("--out", default=str(HERE))
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--variants", dest="how", action="store_const", const=VARIANTS)
    how.add_argument("--components", dest="how", action="store_const", const=COMPONENTS)
    how.add_argument("--errors", dest="how", action="store_const", const=ERRORS)
    options = parser.parse_args()
    if options.how in (VARIANTS, COMPONENTS) and options.dataset != "imagenet":
        parser.error(
            "what is measured of cifar10 has all variants; --variants and --components are of imagenet"
        )
    how = options.how or {"imagenet": BOARD, "cifar10": CIFAR10}[options.dataset]
    where = ("--dataset", options.dataset, "--data-dir", options.images, "--out", options.out)
    for row in networks(HERE / f"{options.dataset}.csv", options.names):
        record = measure(row, options.weights, (*where, *how))
        whole = "--full-error" in how
        print(told(row, record["test_error"]["value"]) if whole else row["checkpoint"], flush=True)


def networks(table: Path, names: list[str]) -> list[dict[str, str]]:
    """The rows of the table whose checkpoints begin with one of the names; all without names."""
    with table.open(newline="") as file:
        return [row for row in csv.DictReader(file) if row["checkpoint"].startswith(tuple(names) or "")]


def measure(row: dict[str, str], weights: Path, how: tuple[str, ...]) -> dict:
    """The record of one network."""
    spec, file = row["model"], f"{row['checkpoint']}.safetensors"
    checkpoint = next(weights.rglob(file), None)
    if checkpoint is None:
        raise SystemExit(f"there is no {file} below {weights}")
    model = f"{EXAMPLES}/{spec}" if ".py:" in spec else spec
    command = [sys.executable, "-m", "timm_diffsens", "bench", model, "--checkpoint", str(checkpoint), *how]
    command += ["--input-size", row["input_size"], "--json"]
    for option, said in (("train-error", "train_error"), ("origin", "source"), ("licence", "licence")):
        command += [f"--{option}", row[said]] if row[said] else []
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout)[0]


def told(row: dict[str, str], error: float) -> str:
    """The error beside that of the table.

    >>> told({"checkpoint": "a.qat8", "error": "0.5"}, 0.504)
    'a.qat8: 50.4 %, +0.4 points from 50.0 %'
    >>> told({"checkpoint": "a.qat8", "error": "0.5"}, 0.48)
    'a.qat8: 48.0 %, -2.0 points from 50.0 %: FAR OFF'
    """
    text = f"{row['checkpoint']}: {100 * error:.1f} %"
    if not row["error"]:
        return text
    gap = error - float(row["error"])
    far = ": FAR OFF" if abs(gap) > MOST_APART + 1e-9 else ""
    return f"{text}, {100 * gap:+.1f} points from {100 * float(row['error']):.1f} %{far}"


if __name__ == "__main__":
    main()
