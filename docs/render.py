"""Write the measured tables of the README from the records: `python docs/render.py`; `--check` compares.

A block stands between `<!-- record: KEY -->` and `<!-- /record -->`, KEY being the start of a record's key.
"""

import argparse
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

    return BLOCK.sub(fill, page.read_text())


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
