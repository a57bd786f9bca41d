"""Which settings of scale detection have homogeneous filters in the network of largest margin.

    python benchmarks/max_margin.py --json benchmarks/max_margin.json

`diffsens theory --max-margin` has the filters, biases and curves of one setting.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

from bare import machine

from timm_diffsens.theory.margins import run_max_margin
from timm_diffsens.theory.report import theory_setting

SETTINGS: tuple[dict[str, Any], ...] = (
    {"task": 1, "length": 32, "xi": 9, "gap": 2},
    {"task": 1, "length": 32, "xi": 9, "gap": 6},
    {"task": 1, "length": 64, "xi": 9, "gap": 6},
    {"task": 1, "length": 64, "xi": 14, "gap": 2},
    {"task": 1, "length": 64, "xi": 14, "gap": 6},
    {"task": 1, "length": 64, "xi": 14, "gap": 10},
    {"task": 2, "length": 128, "xi": 32},
)


def row(values: dict[str, Any]) -> dict[str, Any]:
    """Margins, the smallest share of the constant mode, and exponents, of one setting."""
    started = time.process_time()
    result = run_max_margin(theory_setting(**values))
    free, even = result.found.free, result.found.homogeneous
    numbers = {
        "homogeneous": even.margin,
        "free": free.margin,
        "share": min(free.constant_shares),
        "exponents": {m: fit and round(fit.value, 3) for m, fit in result.exponents.items()},
        "exact": {m: fit and round(fit.value, 3) for m, fit in result.exact.items()},
        "seconds": round(time.process_time() - started, 1),
    }
    return {**machine(), **values, **numbers}


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown; exponents with those of the homogeneous network without biases in brackets."""
    names = ("task", "L", "xi", "gap", "margin, homogeneous", "free", "free / homogeneous", "smallest share")
    lines = [[*names, "D", "G", "R"], ["---:"] * (len(names) + 3)]
    for found in rows:
        pairs = [(found["exponents"][m], found["exact"][m]) for m in "dgr"]
        lines.append(
            [
                *(str(found.get(name, "")) for name in ("task", "length", "xi", "gap")),
                *(f"{found[name]:.4g}" for name in ("homogeneous", "free")),
                f"{found['free'] / found['homogeneous']:.3f}",
                f"{found['share']:.4f}",
                *(f"{own:.2f} ({exact:.2f})" for own, exact in pairs),
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Find, print, and keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found = []
    for setting in SETTINGS:
        found.append(row(setting))
        print(table(found[-1:]), found[-1]["seconds"], flush=True)
        if options.json:
            options.json.write_text(json.dumps(found, indent=1) + "\n")
    print(table(found))


if __name__ == "__main__":
    main()
