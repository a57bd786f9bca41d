"""What faster forwards change in D, G and R.

    python benchmarks/precision.py --json benchmarks/precision.json
    python benchmarks/precision.py --device cuda --tf32 --json benchmarks/precision.json

The same images go through a network in the type of its weights, then in bfloat16 (`--amp`), on CUDA with
`--tf32` too. For each number: the largest and the median relative change over the layers, and for how many
layers it is above the standard error.
"""

import argparse
import json
import statistics
from pathlib import Path

from bare import machine

from timm_diffsens import bench

ROOT = Path(__file__).resolve().parent.parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("model", nargs="?", default=f"{ROOT / 'examples' / 'small_cnn.py'}:small_cnn")
    parser.add_argument("--checkpoint", type=Path, default=None)
    parser.add_argument("--dataset", default="dead-leaves")
    parser.add_argument("--data-dir", type=Path, default=None)
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--tf32", action="store_true")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    asked = {
        name: getattr(options, name) for name in ("checkpoint", "dataset", "data_dir", "images", "device")
    }
    asked |= {"layers": "all", "variants": ["original"]}
    exact = bench(options.model, **asked)
    faster = {"amp": {"amp": True}} | ({"tf32": {"tf32": True}} if options.tf32 else {})
    rows = []
    for more in faster.values():
        rows += compare(exact, bench(options.model, **asked, **more), machine(options.device))
    print(table(rows))
    if options.json:
        save(options.json, rows)


def compare(exact, other, about):
    rows = []
    for name in ("d", "g", "r"):
        changes, beyond = [], 0
        for one, two in zip(exact.variants["original"], other.variants["original"], strict=True):
            value, now = getattr(one, name), getattr(two, name)
            if value and now:
                changes.append(abs(now / value - 1))
                beyond += abs(now - value) > getattr(one, f"{name}_stderr")
        rows.append(
            {
                "model": exact.model.arch,
                "dataset": exact.data.spec,
                "images": exact.data.n,
                "forwards": other.protocol.dtype,
                "number": name.upper(),
                "layers": len(changes),
                "median": round(statistics.median(changes), 5),
                "largest": round(max(changes), 5),
                "beyond_stderr": beyond,
                "seconds": [round(r.timings.seconds, 1) for r in (exact, other)],
                **about,
            }
        )
    return rows


def save(path, rows):
    """Rows of other networks, devices and precisions stay."""

    def which(row):
        return row["model"], row["machine"], row["forwards"]

    old = json.loads(path.read_text()) if path.exists() else []
    kept = [row for row in old if which(row) not in {which(new) for new in rows}]
    path.write_text(json.dumps([*kept, *rows], indent=1) + "\n")


def table(rows):
    """Markdown; changes in per cent."""
    head = (
        "| network | images | forwards | number | layers | median change | largest | beyond stderr |\n"
        "| --- | ---: | --- | --- | ---: | ---: | ---: | ---: |"
    )
    lines = [
        f"| {r['model']} | {r['images']} | {r['forwards']} | {r['number']} | {r['layers']} "
        f"| {100 * r['median']:.2g} % | {100 * r['largest']:.2g} % | {r['beyond_stderr']} |"
        for r in rows
    ]
    return "\n".join([head, *lines])


if __name__ == "__main__":
    main()
