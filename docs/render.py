"""Write the measured tables of the pages from the records: `python docs/render.py`; `--check` compares.

A block stands between `<!-- record: KEY -->` and `<!-- /record -->`, KEY being the start of a record's
key. A block between `<!-- theory: FILE -->` and `<!-- /theory -->` shows the trained networks of a file
that `diffsens theory` wrote, one between `<!-- tried: FILE -->` and `<!-- /tried -->` in a line each;
`<!-- coverage -->` and `<!-- /coverage -->` hold what leaderboard/coverage.csv and sweep.csv say;
between `<!-- spectra: FILES -->` and `<!-- /spectra -->` stands the constant mode by layer, from files
that `diffsens reproduce fig4` wrote; between `<!-- NAME -->` and `<!-- /NAME -->` what
`benchmarks/NAME.py` wrote (`BENCHMARKS`). `<!-- folders -->` and `<!-- /folders -->` hold what the
folders of the package say of themselves, in the order that the page gives; `<!-- kinds -->` and `<!--
/kinds -->` where the built-in things of each kind are; `<!-- beyond: NAME -->` and `<!-- /beyond -->` a
table of docs/beyond/tables.py. docs/reproduction.md is made whole, from the reports that `diffsens
reproduce` wrote.
"""

import argparse
import ast
import csv
import json
import math
import re
import runpy
import sys
from pathlib import Path

from timm_diffsens.registry import KINDS
from timm_diffsens.reproduce.page import markdown_page
from timm_diffsens.reproduce.reports import read_reports
from timm_diffsens.reproduce.targets import IN_PAPER
from timm_diffsens.results.numbers import with_error
from timm_diffsens.results.records.store import iter_records
from timm_diffsens.results.report.summary import summary
from timm_diffsens.schema.records import Record

ROOT = Path(__file__).resolve().parent.parent
PAGES = tuple(
    ROOT / page
    for page in (
        "CONTRIBUTING.md",
        "docs/architecture.md",
        "docs/beyond.md",
        "docs/guide.md",
        "docs/measured.md",
        "docs/reproduction.md",
        "docs/scale_detection.md",
        "docs/statistics.md",
        "benchmarks/README.md",
    )
)
REPRODUCTION = ROOT / "docs" / "reproduction.md"
BOARD_FOLDER = ROOT / "leaderboard"
BLOCK = re.compile(r"(<!-- record: ([0-9a-f]+) -->\n).*?(<!-- /record -->)", re.DOTALL)
THEORY_BLOCK = re.compile(r"(<!-- theory: (\S+) -->\n).*?(<!-- /theory -->)", re.DOTALL)
TRIED = re.compile(r"(<!-- tried: (\S+) -->\n).*?(<!-- /tried -->)", re.DOTALL)
COVERAGE = re.compile(r"(<!-- coverage -->\n).*?(<!-- /coverage -->)", re.DOTALL)
BENCHMARKS = "overhead|pairs|scaling|precision|verdicts|forward_mode|infinite_width|max_margin"
BENCHMARK = re.compile(rf"(<!-- ({BENCHMARKS}) -->\n).*?(<!-- /\2 -->)", re.DOTALL)
FOLDERS = re.compile(r"(<!-- folders -->\n).*?(<!-- /folders -->)", re.DOTALL)
KINDS_BLOCK = re.compile(r"(<!-- kinds -->\n).*?(<!-- /kinds -->)", re.DOTALL)
BEYOND = re.compile(r"(<!-- beyond: (\w+) -->\n).*?(<!-- /beyond -->)", re.DOTALL)
ORDER = re.compile(r"^Order: (.*?)\n\n", re.DOTALL | re.MULTILINE)
SPECTRA = re.compile(r"(<!-- spectra: ([^>]+) -->\n).*?(<!-- /spectra -->)", re.DOTALL)
ROWS = 7
CHANCE = 0.5  # test error of a network that says the same of every image
CONSTANT = 0.9  # share of the constant mode from which on a mean filter counts as homogeneous


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


def beyond(name: str) -> str:
    """A table of docs/beyond/tables.py."""
    made: str = runpy.run_path(str(ROOT / "docs" / "beyond" / "tables.py"))["BLOCKS"][name]()
    return made


def rendered(page: Path) -> str:
    """The page with every block filled from the records."""
    if page == REPRODUCTION:
        figures = page.with_suffix("") / "figures"
        return markdown_page(read_reports(figures, IN_PAPER), figures, page.parent)
    records = {r.key: r for _, r in iter_records(BOARD_FOLDER / "records") if isinstance(r, Record)}

    def fill(match: re.Match[str]) -> str:
        found = [record for key, record in records.items() if key.startswith(match[2])]
        if len(found) != 1:
            raise SystemExit(f"{page.name}: {len(found)} records have a key that starts with {match[2]}")
        return f"{match[1]}{table(found[0])}{match[3]}"

    filled = BLOCK.sub(fill, page.read_text())
    filled = THEORY_BLOCK.sub(lambda match: f"{match[1]}{theory(ROOT / match[2])}{match[3]}", filled)
    filled = TRIED.sub(lambda match: f"{match[1]}{tried(ROOT / match[2])}{match[3]}", filled)
    filled = BENCHMARK.sub(lambda match: f"{match[1]}{benchmark(match[2])}{match[3]}", filled)
    filled = COVERAGE.sub(lambda match: f"{match[1]}{structures()} {measured()}\n{match[2]}", filled)
    filled = SPECTRA.sub(lambda match: f"{match[1]}{spectra(match[2].split())}{match[3]}", filled)
    filled = FOLDERS.sub(lambda match: f"{match[1]}{folders(order(filled))}{match[2]}", filled)
    filled = KINDS_BLOCK.sub(lambda match: f"{match[1]}{kinds()}{match[2]}", filled)
    return BEYOND.sub(lambda match: f"{match[1]}{beyond(match[2])}\n{match[3]}", filled)


def theory(file: Path) -> str:
    """Of each training: how, its test errors over seeds, and its exponents beside those of the theory."""
    settings = json.loads(file.read_text())["settings"]
    return "\n" + "\n\n".join(trained(setting) for setting in settings if "trained" in setting) + "\n\n"


def trained(setting: dict) -> str:
    """One training over its seeds."""
    found, first = setting["trained"], setting["trained"]["fitted_layers"]
    how, seeds = found["training"], found["seeds"]
    errors = ", ".join(f"{seed['test_error']:.2%}" for seed in seeds)
    lines = [
        f"### Task {setting['task']}, stride {setting['stride']}",
        f"{setting['depth']} layers of width {how['arguments']['width']}, F = {setting['filter_size']}; "
        f"{setting['length']} pixels, xi = {setting['xi']:g}. Trained on {how['train_images']} images for "
        f"{how['epochs']} epochs, {how['optimizer']}, learning rate {how['lr']:g}, weight decay "
        f"{how['weight_decay']:g}, {how['loss']} loss. Test error of the {len(seeds)} seeds: {errors}. "
        f"Exponents over layers {first[0]} to {first[1]}, mean over seeds ± its standard error; homogeneous: "
        "the exact values of the single-channel network over the same layers.",
        *budgets(seeds),
    ]
    curves = ("trained", "mean channel", "init")
    rows = [["exponent of", "asymptotic", "homogeneous, exact", *curves], ["---", *["---:"] * 5]]
    for measure, fits in found["exponents"].items():
        fitted = (with_error(fits[c]["value"], fits[c]["stderr"]) if fits[c] else "-" for c in curves)
        rows.append([measure.upper(), f"{fits['asymptotic']:g}", f"{fits['homogeneous']:.2f}", *fitted])
    return "\n\n".join([*lines, "\n".join(f"| {' | '.join(row)} |" for row in rows)])


def tried(file: Path) -> str:
    """The trainings of a file in a line each: what differs, and what came of the seeds."""
    settings = json.loads(file.read_text())["settings"]
    lines = [
        "| L, xi, gap | width | biases | filters, mean | optimiser | rate / decay | test errors | D | G "
        "| shares | margin |",
        "|" + " --- |" * 11,
    ]
    found_in = [one for one in settings if "trained" in one]
    for setting in sorted(found_in, key=least_margin, reverse=True):
        found = setting["trained"]
        how, seeds = found["training"], found["seeds"]
        net, task = how["arguments"], how["scale"]
        places = net.get("bias", "none")
        start = f" N({net.get('bias_mean', 0):g}, {net.get('bias_std', 0):g}²)" if places != "none" else ""
        gain = f", gain {net['gain']:.2f}" if "gain" in net else ""
        shares = [sum((share or 0) > CONSTANT for share in seed["constant_shares"]) for seed in seeds]
        cells = [
            f"{setting['length']}, {setting['xi']:g}, {task['gap']:g}",
            f"{net['width']}",
            f"{places}{start}{gain}",
            f"{net.get('weight_mean', 0):g}",
            f"{how['optimizer']}, batch {how['batch_size']}",
            f"{how['lr']:g} / {how['weight_decay']:g} on {how['decay']}",
            ", ".join(f"{seed['test_error']:.1%}" for seed in seeds),
            *(of_exact(found["exponents"][measure]) for measure in "dg"),
            f"{min(shares)} of {len(seeds[0]['constant_shares'])}",
            ", ".join("-" if margin is None else f"{margin:.2g}" for margin in map(margin_of, seeds)),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n" + "\n".join(lines) + "\n\n"


def margin_of(seed: dict) -> float | None:
    """The normalised margin; None without one, and of dead networks, whose margins are noise."""
    margin = seed["margin"]
    return None if margin is None or margin < 0 or seed["test_error"] >= CHANCE else margin


def least_margin(setting: dict) -> float:
    """Over the seeds of a training; of networks without one, less than any."""
    margins = [margin_of(seed) for seed in setting["trained"]["seeds"]]
    return min(-math.inf if margin is None else margin for margin in margins)


def of_exact(fits: dict) -> str:
    """`-1.89 (1.05)`: the trained exponent, and over the exact one; `-` where a seed has none."""
    if not fits["trained"]:
        return "-"
    value = fits["trained"]["value"]
    return f"{value:.2f} ({value / fits['homogeneous']:.2f})"


def budgets(seeds: list[dict]) -> list[str]:
    """Decay, margins and mean filters of the seeds of a training; nothing if its files are too old."""
    if any(seed.get("constant_shares") is None for seed in seeds):
        return []
    shares = [[share or 0 for share in seed["constant_shares"]] for seed in seeds]
    fewest = min(sum(share > CONSTANT for share in one) for one in shares)
    said = [
        f"The constant mode has more than {CONSTANT:g} of the power of the mean filter in {fewest} of "
        f"{len(shares[0])} layers, in the seed with fewest."
    ]
    budget, margins = ([seed[name] for seed in seeds] for name in ("decay_budget", "margin"))
    if None not in budget:
        said.append(f"Budget of decay: {', '.join(dict.fromkeys(f'{value:.2g}' for value in budget))}.")
    if None not in margins:
        said.append(f"Normalised margins: {', '.join(f'{value:#.3g}'.rstrip('.') for value in margins)}.")
    return [" ".join(said)]


def spectra(files: list[str]) -> str:
    """Share of the constant mode in the filters' power, trained and before; and how it stands to the next."""
    lines = [
        "| network | layer | share, trained | at initialisation | over the next largest mode, trained |",
        "| --- | --- | ---: | ---: | ---: |",
    ]
    for file in files:
        with (ROOT / file).open(newline="") as opened:
            rows = list(csv.DictReader(opened))
        powers: dict[tuple[str, str], list[float]] = {}
        for row in rows:
            powers.setdefault((row["layer"], row["variant"]), []).append(float(row["power"]))
        for layer in dict.fromkeys(row["layer"] for row in rows):
            trained, fresh = (powers[layer, variant] for variant in ("original", "init"))
            cells = (trained[0] / sum(trained), fresh[0] / sum(fresh), trained[0] / max(trained[1:]))
            shown = " | ".join(f"{value:.2f}" for value in cells)
            lines.append(f"| {rows[0]['network'].partition(', ')[2]} | {layer} | {shown} |")
    return "\n" + "\n".join(lines) + "\n\n"


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
        f"{versions['timm']}, {each['torchvision']} of torchvision {versions['torchvision']}, {each['net']} "
        f"of this package. Of {total('leaf outputs'):,} outputs of calls that call no other module, "
        f"{total('layer'):,} are layers, {total('same tensor'):,} hand on a layer's tensor and are "
        f"named with it, "
        f"{total('part of a fused norm'):,} lie inside a norm fused with its activation, and "
        f"{total('dropped'):,} are unaccounted for; {unknown:,} layers are listed with "
        f"the reason why they have no value."
    )


def measured() -> str:
    """How many networks were measured with random weights."""
    rows = lines_of("sweep")
    counts = {status: sum(row["status"] == status for row in rows) for status in ("done", "left out")}
    tried = len(rows) - counts["left out"]
    layers = sum(int(row["layers"]) for row in rows if row["status"] == "done")
    images = {row["images"] for row in rows if row["status"] == "done"}
    versions = json.loads((ROOT / "leaderboard" / "sweep.json").read_text())["versions"]
    failed = [row["model"] for row in rows if row["status"] not in ("done", "left out")]
    named = f" ({', '.join(failed)})" if failed else ""
    return (
        f"With random weights, {' or '.join(sorted(images))} images, all layers and all variants, {tried:,} "
        f"architectures of at most 30 million parameters (timm {versions['timm']}, torchvision "
        f"{versions['torchvision']}, this package) were tried: {counts['done']:,} were measured, "
        f"{layers:,} layers in all, and {len(failed)} failed{named}."
    )


def benchmark(name: str) -> str:
    """What `benchmarks/NAME.py` wrote, as it prints it, and where."""
    folder = ROOT / "benchmarks"
    found = json.loads((folder / f"{name}.json").read_text())
    parts = list(found.values()) if isinstance(found, dict) else [found]
    sys.path.insert(0, str(folder))  # its files import one another
    try:
        table = runpy.run_path(str(folder / f"{name}.py"))["table"]
    finally:
        sys.path.remove(str(folder))
    where = sorted({f"{row['machine']}; {row['versions']}" for rows in parts for row in rows})
    return "\n".join(["", " / ".join(where) + ".", "", *(f"{table(rows)}\n" for rows in parts), ""])


def order(page: str) -> list[str]:
    """The parts of the package in the order that a page gives."""
    found = ORDER.search(page)
    return re.findall(r"`(\w+)`", found[1]) if found else []


def folders(parts: list[str]) -> str:
    """What the parts of the package, and the folders inside, say of themselves in their first line."""
    lines = ["| part | holds |", "| --- | --- |"]
    for part in parts:
        place = ROOT / "timm_diffsens" / part
        for file in sorted(place.rglob("__init__.py")) or [place.with_suffix(".py")]:
            shown = file.relative_to(ROOT).as_posix().replace("__init__.py", "")
            said = ast.get_docstring(ast.parse(file.read_text(encoding="utf-8"))) or ""
            lines.append(f"| `{shown}` | {next(iter(said.splitlines()), '')} |")
    return "\n" + "\n".join(lines) + "\n\n"


def kinds() -> str:
    """Where the built-in things of each open kind are, and how a file says what it holds."""
    lines = ["| to add a | write a file in | which says |", "| --- | --- | --- |"]
    for kind, known in KINDS.items():
        place = known.package.replace(".", "/")
        lines.append(f'| {known.word} | `{place}/` | `@register("{kind}", NAME, ...)` |')
    return "\n" + "\n".join(lines) + "\n\n"


def lines_of(name: str) -> list[dict[str, str]]:
    """A table of a sweep."""
    with (ROOT / "leaderboard" / f"{name}.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def table(record: Record) -> str:
    """Rows spread evenly over depth, R of the copies beside D, G and R, and the summary."""
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
    return "\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines) + f"\n\n{summary(record)}\n\n"


if __name__ == "__main__":
    sys.exit(main())
