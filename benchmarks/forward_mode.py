"""Which of timm's architectures have a small limit: the smallest of each model file, with random weights.

    python benchmarks/forward_mode.py --json benchmarks/forward_mode.json

First `measure_infinitesimal` of the stages of all of them, for two images of 128 x 128 pixels, or of the
architecture's own size where it takes no other. Then, in double precision, beside it D and G of a deformation
of 1e-6 px over the square of its size, which the limit has to equal (of a larger one where a network computes
in single precision itself, so that a smaller one drowns in rounding). Each architecture has a process of its
own and a time limit; its row is written when it is done, and what is there already is kept. Files whose
smallest architecture has more than 30 million parameters are left out, by name.
"""

import argparse
import csv
import json
import multiprocessing
import statistics
import sys
import warnings
from functools import partial
from pathlib import Path

import torch
from bare import machine

from timm_diffsens import Diffeo, DiffsensError, measure, measure_infinitesimal
from timm_diffsens.errors import DiffsensWarning, first_line
from timm_diffsens.models.inputs import InputOptions
from timm_diffsens.models.loading import load_model
from timm_diffsens.results.report.markdown import text
from timm_diffsens.sensitivities.reductions.dispatch import prepare

ROOT = Path(__file__).resolve().parent.parent
MOST = 30_000_000  # parameters
SIDE = 128  # pixels
STEPS = (1e-6, 1e-3, 1e-1)  # of the finite difference, in pixels; a later one where the first is not exact
EXACT = 1e-3
NO_DERIVATIVE = "has no forward-mode derivative: "
LEFT_OUT = f"not tried: more than {MOST // 1_000_000} million parameters"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--limit", type=float, default=600, help="seconds an architecture may take")
    options = parser.parse_args()
    prepare(torch.device("cpu"))  # for all processes
    rows = {row["file"]: row for row in json.loads(options.json.read_text())} if options.json.exists() else {}
    for file, model, parameters in smallest():
        if file not in rows:
            row = {"file": file, "model": model, "parameters": parameters}
            left_out = parameters > MOST
            row |= {"reason": LEFT_OUT} if left_out else in_process(partial(works, model), options.limit)
            rows[file] = row | machine()
            save(options.json, rows, file)
    for file, row in rows.items():
        if row["reason"] is None and "difference" not in row and "unchecked" not in row:
            found = in_process(partial(exactness, row["model"]), options.limit)
            row |= {"unchecked": found["reason"]} if "reason" in found else found
            save(options.json, rows, file)
    print(table(list(rows.values())))


def save(path, rows, file):
    print(rows[file], flush=True)
    path.write_text(json.dumps([rows[name] for name in sorted(rows)], indent=1) + "\n")


def smallest():
    """(model file, its smallest architecture, parameters); those made for tests do not count."""
    import timm

    with (ROOT / "leaderboard" / "coverage.csv").open(newline="") as file:
        sizes = {row["model"]: int(row["parameters"]) for row in csv.DictReader(file)}
    for file in sorted(timm.models.list_modules()):
        names = [name for name in timm.list_models(module=file) if not name.startswith("test_")]
        found = min((name for name in names if name in sizes), key=sizes.__getitem__)
        yield file, found, sizes[found]


def in_process(work, limit):
    """What a function gives in a process of its own; or the reason why it gives nothing."""
    context = multiprocessing.get_context("fork")
    receiving, sending = context.Pipe(duplex=False)
    process = context.Process(target=lambda: sending.send(work()))
    process.start()
    sending.close()
    try:
        return receiving.recv() if receiving.poll(limit) else {"reason": f"not done after {limit:g} s"}
    except EOFError:
        process.join()
        return {"reason": f"ended with exit code {process.exitcode}"}
    finally:
        process.kill()
        process.join()


def works(model):
    """Whether it has a small limit, else why not; and what it warned of."""
    loaded, images = loaded_at(model)
    row = {"input": "x".join(map(str, loaded.input_shape)), "reason": None, "warned": []}
    try:
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always", DiffsensWarning)
            row["layers"] = len(measure_infinitesimal(loaded.module, images.float(), layers="stages"))
    except DiffsensError as error:
        row["reason"] = first_line(error)
    row["warned"] = [str(w.message) for w in seen if issubclass(w.category, DiffsensWarning)]
    return row


def exactness(model):
    """How far D0 and G0 are from finite differences in double precision, and R0 from that in single."""
    loaded, images = loaded_at(model)
    warnings.simplefilter("ignore")
    single = measure_infinitesimal(loaded.module, images.float(), layers="stages")
    module = loaded.module.double()
    try:
        limit = measure_infinitesimal(module, images, layers="stages")
    except (RuntimeError, DiffsensError) as error:  # it makes numbers of single precision on its way
        return {"unchecked": first_line(error)}
    found = {}
    for step in STEPS:
        small = measure(module, images, diffeo=Diffeo(step), layers="stages")
        gaps = [gap for both in zip(limit, small, strict=True) for gap in differences(*both, step)]
        found[step] = max(gaps, default=0)
        if found[step] < EXACT:
            break
    step = min(found, key=found.get)
    return {"difference": float(f"{found[step]:.2g}"), "step": step, "rounding": rounding(single, limit)}


def loaded_at(model):
    """The network and two images, in double precision."""
    loaded = load_model(model, pretrained=False)
    try:
        smaller = load_model(model, pretrained=False, input_options=InputOptions(size=(SIDE, SIDE)))
        with torch.no_grad():
            smaller.module(torch.rand(2, *smaller.input_shape))
        loaded = smaller
    except Exception as error:  # whatever the network says of that size
        print(f"{model} at {SIDE} pixels: {first_line(error)}", file=sys.stderr)
    seeded = torch.Generator().manual_seed(0)
    return loaded, torch.rand(2, *loaded.input_shape, generator=seeded, dtype=torch.float64)


def differences(limit, small, step):
    """Of D0 and G0 from D and G of a small step, relative; infinite where only one of them has a value."""
    for name in ("d", "g"):
        ours, theirs = getattr(limit, name), getattr(small, name)
        if ours is None and theirs is None:
            continue
        yield abs(ours * step**2 / theirs - 1) if ours is not None and theirs else float("inf")


def rounding(single, double):
    """The largest relative change of R0 by single precision."""
    both = [(one.r, two.r) for one, two in zip(single, double, strict=True) if one.r and two.r]
    return float(f"{max((abs(one / two - 1) for one, two in both), default=0):.2g}")


def table(rows):
    """Markdown: how many work, how well, and the others by reason."""
    tried = [row for row in rows if row["reason"] != LEFT_OUT]
    groups = {}
    for row in rows:
        reason = "works" if row["reason"] is None else row["reason"].rpartition(NO_DERIVATIVE)[2]
        groups.setdefault(reason, []).append(row["model"])
    lines = [
        f"{len(groups.get('works', []))} of {len(tried)} have the small limit. {agreement(tried)}",
        "",
        "| small limit | files | the smallest architecture of each |",
        "| --- | ---: | --- |",
    ]
    last = {"works": 0, LEFT_OUT: 2}
    for reason in sorted(groups, key=lambda reason: (last.get(reason, 1), -len(groups[reason]), reason)):
        names = ", ".join(map(text, groups[reason]))
        lines.append(f"| {text(reason)} | {len(groups[reason])} | {names} |")
    return "\n".join(lines)


def agreement(rows):
    """How near the limit is to finite differences, and to itself in double precision."""
    checked = [row for row in rows if "difference" in row]
    if not checked:
        return ""
    worst, rough = (max(checked, key=lambda row: row[name]) for name in ("difference", "rounding"))
    said = (
        f"Of {len(checked)} the numbers were held against finite differences in double precision: D0 and G0 "
        f"of all stages agree to {_median(checked, 'difference'):.0e} (median of the architectures), in the "
        f"worst case to {percent(worst['difference'])} ({text(worst['model'])}, with a step of "
        f"{worst['step']:g} px); single precision changes R0 by {_median(checked, 'rounding'):.0e} (median) "
        f"to {rough['rounding']:.0e} ({text(rough['model'])})."
    )
    named = {
        "Not in double precision": [text(row["model"]) for row in rows if "unchecked" in row],
        "With a warning": [text(row["model"]) for row in rows if row.get("warned")],
    }
    return " ".join([said, *(f"{what}: {', '.join(names)}." for what, names in named.items() if names)])


def percent(share):
    return f"{100 * share:.2g} %"


def _median(rows, name):
    return statistics.median(row[name] for row in rows)


if __name__ == "__main__":
    main()
