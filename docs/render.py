"""Write the measured tables of the README from the records: `python docs/render.py`; `--check` compares.

A block stands between `<!-- record: KEY -->` and `<!-- /record -->`, KEY being the start of a record's key;
`<!-- coverage -->` and `<!-- /coverage -->` hold what leaderboard/coverage.csv and sweep.csv say.
"""

import argparse
import csv
import json
import re
import sys
from pathlib import Path

from timm_diffsens.results.numbers import with_error
from timm_diffsens.results.reading import reading
from timm_diffsens.results.record import Record
from timm_diffsens.results.store import iter_records

ROOT = Path(__file__).resolve().parent.parent
PAGES = (ROOT / "README.md",)
BLOCK = re.compile(r"(<!-- record: ([0-9a-f]+) -->\n).*?(<!-- /record -->)", re.DOTALL)
COVERAGE = re.compile(r"(<!-- coverage -->\n).*?(<!-- /coverage -->)", re.DOTALL)
ROWS = 7


def main() -> int:
    """Rewrite the pages; exit code 1 if `--check` finds one that differs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    stale = [page.name for page in PAGES if page.read_text() != rendered(page)]
    for page in () if check else PAGES:
        page.write_text(rendered(page))
    if check and stale:
        print(f"not what the records give: {', '.join(stale)}; run `python docs/render.py`", file=sys.stderr)
    return int(check and bool(stale))


def rendered(page: Path) -> str:
    """The page with every block filled from its record."""
    records = {r.key: r for _, r in iter_records(ROOT / "leaderboard" / "records") if isinstance(r, Record)}

    def fill(match: re.Match[str]) -> str:
        found = [record for key, record in records.items() if key.startswith(match[2])]
        if len(found) != 1:
            raise SystemExit(f"{page.name}: {len(found)} records have a key that starts with {match[2]}")
        return f"{match[1]}{table(found[0])}{match[3]}"

    filled = BLOCK.sub(fill, page.read_text())
    return COVERAGE.sub(lambda match: f"{match[1]}{structures()} {measured()}\n{match[2]}", filled)


def structures() -> str:
    """What was seen of every architecture on the meta device."""
    rows = lines_of("coverage")
    done = [row for row in rows if row["status"] == "done"]
    versions = json.loads((ROOT / "leaderboard" / "coverage.json").read_text())["versions"]
    each = {name: sum(row["library"] == name for row in done) for name in ("timm", "torchvision", "net")}

    def total(column: str) -> int:
        return sum(int(row[column]) for row in done)

    unknown = sum(
        int(part.rpartition(": ")[2]) for r in done for part in r["without values"].split("; ") if part
    )
    return (
        f"With `--structure` {len(done):,} of {len(rows):,} architectures passed: {each['timm']:,} of timm "
        f"{versions['timm']}, {each['torchvision']} of torchvision {versions['torchvision']}, {each['net']} of this "
        f"package. Of {total('leaf outputs'):,} outputs of calls that call no other module, {total('layer'):,} are "
        f"layers, {total('same tensor'):,} hand on a layer's tensor and are named with it, "
        f"{total('part of a fused norm'):,} lie inside a norm fused with its activation, and {total('dropped'):,} are "
        f"unaccounted for; {unknown:,} layers are listed with the reason why they have no value."
    )


def measured() -> str:
    """How many networks were measured with random weights."""
    rows = lines_of("sweep")
    counts = {status: sum(row["status"] == status for row in rows) for status in ("done", "left out")}
    tried = len(rows) - counts["left out"]
    layers = sum(int(row["layers"]) for row in rows if row["status"] == "done")
    return (
        f"With random weights, four images and all variants, {tried} architectures of at most 30 million parameters "
        f"have been tried so far, and {counts['done']} of them measured, {layers:,} layers in all."
    )


def lines_of(name: str) -> list[dict[str, str]]:
    """A table of a sweep."""
    with (ROOT / "leaderboard" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def table(record: Record) -> str:
    """Rows spread evenly over depth, R of the copies beside D, G and R, and the reading."""
    original = record.variants["original"]
    last = len(original) - 1
    rows = sorted({round(i * last / (ROWS - 1)) for i in range(ROWS)})
    copies = [name for name in ("channel-shuffled", "init") if name in record.variants]
    head = ["layer", "depth", "D", "G", "R", *(f"R, {name}" for name in copies)]
    lines = [head, ["---", *["---:"] * (len(head) - 1)]]
    for i in rows:
        layer = original[i]
        values = [with_error(getattr(layer, k), getattr(layer, f"{k}_stderr")) for k in ("d", "g", "r")]
        others = [
            with_error(record.variants[name][i].r, record.variants[name][i].r_stderr) for name in copies
        ]
        lines.append([f"`{layer.layer}`", f"{layer.depth:.2f}", *values, *others])
    return "\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{reading(record)}\n\n"


if __name__ == "__main__":
    sys.exit(main())
