"""How often intervals hold the truth, and verdicts are wrong, on data whose truth is known.

    python benchmarks/verdicts.py --json benchmarks/verdicts.json
    python benchmarks/verdicts.py --distances MODEL CHECKPOINT --data-dir DIR

The second form measures `benchmarks/distances.csv`: the square distances a and g of single images in a
trained network, from which samples are drawn, with replacement, as if those images were all there are.
"""

import argparse
import csv
import json
from pathlib import Path

import numpy as np
import torch
from bare import machine

from timm_diffsens.results.stats.comparisons import swapped
from timm_diffsens.results.stats.families import jackknife_rho, leave_families_out
from timm_diffsens.results.stats.held_out import held_out, interval
from timm_diffsens.results.stats.mixed import RandomIntercept
from timm_diffsens.results.stats.resampling import bca, fisher_z, resampled_fits, weighted_fits
from timm_diffsens.sensitivities.estimator import SensitivityEstimator

DISTANCES = Path(__file__).resolve().parent / "distances.csv"
IMAGES, FAMILIES = (20, 50, 500), (6, 3)
BOARDS = ((3, 2, 1, 1, 1), (3,) * 5, (5, 2, 1, 2, 1, 1), (3,) * 6, (3,) * 10)  # networks of each family
NETWORKS, BETWEEN, WITH_ERROR = (8, 16, 40), (0.0, 0.5, 0.9), 0.6
REPEATS = 1000


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--distances", nargs=2, metavar=("MODEL", "CHECKPOINT"))
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.distances:
        write_distances(*options.distances, options.data_dir)
        return
    about = machine("cpu")
    parts = {"intervals of R": intervals(), "R better": better(), "families": families()}
    parts["predictions"] = predictions()
    for rows in parts.values():
        print(table(rows), "\n")
    if options.json:
        filled = {name: [row | about for row in rows] for name, rows in parts.items()}
        options.json.write_text(json.dumps(filled, indent=1) + "\n")


# ---- the interval of R


def intervals(repeats=REPEATS):
    """Samples of n images: the interval of R, and two standard errors of log R beside it."""
    pools = {"lognormal, sigma 1": None, **{f"measured, {name}": pool for name, pool in distances().items()}}
    rows = []
    for name, pool in pools.items():
        row = {"distances": name}
        for n in IMAGES:
            rng = np.random.default_rng(n)
            found = np.mean([held(draw(rng, n, pool), pool) for _ in range(repeats)], axis=0)
            row |= {f"n = {n}": percent(found[0]), f"delta method, {n}": percent(found[1])}
        rows.append(row)
    return rows


def distances():
    """Layer -> (images, 2), a and g of each image."""
    with DISTANCES.open(newline="") as file:
        listed = list(csv.DictReader(file))
    found = {}
    for row in listed:
        found.setdefault(row["layer"], []).append((float(row["a"]), float(row["g"])))
    return {name: np.array(pairs) for name, pairs in found.items()}


def draw(rng, n, pool):
    return np.exp(rng.standard_normal((n, 2))) if pool is None else pool[rng.integers(0, len(pool), n)]


def held(pairs, pool):
    """Whether the interval, and two standard errors, hold the R of all; through the estimator itself."""
    truth = 1.0 if pool is None else pool[:, 0].sum() / pool[:, 1].sum()
    clean = torch.arange(len(pairs), dtype=torch.float64)[:, None]
    a, g = torch.from_numpy(pairs).sqrt().T[:, :, None]
    estimator = SensitivityEstimator()
    estimator.update(clean, clean + a, clean + g)
    (layer,) = estimator.compute()
    low, high = layer.r_interval
    return low <= truth <= high, abs(np.log(layer.r / truth)) <= 2 * layer.r_stderr / layer.r


# ---- is R better?


def better(repeats=REPEATS):
    """Boards of two equally good predictors: how often one is called better, and by a paired bootstrap."""
    rows = []
    for n in NETWORKS:
        for rho in BETWEEN:
            rng = np.random.default_rng(n)
            factor = np.linalg.cholesky(
                [[1, rho, WITH_ERROR], [rho, 1, WITH_ERROR], [WITH_ERROR, WITH_ERROR, 1]]
            )
            wrong = np.zeros(2)
            for _ in range(repeats):
                values = rng.standard_normal((n, 3)) @ factor.T
                wrong += verdicts(values[:, :2], values[:, 2])
            first, second = wrong / repeats
            rows.append({"networks": n, "rho between them": rho, "called better": percent(first)})
            rows[-1] |= {"by a paired bootstrap": percent(second)}
    return rows


def verdicts(x, y):
    n = len(y)
    pearson = np.abs(resampled_fits(x, y, 500, 0).pearson)
    low, high = bca(pearson[:, 0] - pearson[:, 1], n)
    return swapped(x, y, np.arange(n).astype(str)) <= 0.05, low > 0 or high < 0


# ---- families


def families(repeats=REPEATS):
    """Random intercepts as large as the residuals: how often four intervals hold the correlation."""
    count, size = FAMILIES
    rows = []
    for between, inside in ((0.0, 0.0), (0.8, 0.8), (0.8, 0.0), (0.8, -0.6), (-0.6, 0.9)):
        rng = np.random.default_rng(1)
        found = np.zeros(4)
        for _ in range(repeats):
            x, y = correlated(rng, (count, 1), between) + correlated(rng, (count, size), inside)
            found += of_families(x.ravel(), y.ravel(), count, (between + inside) / 2, rng)
        names = ("families", "Fisher z", "BCa", "bootstrap of families")
        rows.append({"rho between": between, "rho within": inside})
        rows[-1] |= dict(zip(names, map(percent, found / repeats), strict=True))
    return rows


def correlated(rng, shape, rho):
    x, other = rng.standard_normal((2, *shape))
    whole = np.broadcast_shapes(shape, FAMILIES)
    return np.stack([np.broadcast_to(v, whole) for v in (x, rho * x + np.sqrt(1 - rho**2) * other)])


def of_families(x, y, count, truth, rng):
    n = len(x)
    weights = leave_families_out(np.repeat(np.arange(count), n // count))
    ours = jackknife_rho(weighted_fits(x[:, None], y, weights).pearson[:, 0])
    plain = resampled_fits(x[:, None], y, 500, 0).pearson[:, 0]
    drawn = rng.multinomial(count, np.full(count, 1 / count), 500) / count
    whole = weighted_fits(x[:, None], y, np.repeat(drawn, n // count, axis=1) * count / n).pearson
    ends = [
        (ours.low, ours.high),
        fisher_z(plain[0], n),
        bca(plain, n),
        np.nanquantile(whole, [0.025, 0.975]),
    ]
    return np.array([low <= truth <= high for low, high in ends])


# ---- the error that a board expects


def predictions(repeats=REPEATS):
    """Families off one line: how often the 90 % interval of another network holds its error.

    Variances between families are in units of that within. A network of a family on the board, of a new one,
    and each network of the board from the others' families.
    """
    rows = []
    for sizes in BOARDS:
        for ratio in (0.0, 1.0, 9.0):
            found = {}
            for name, new in (("new family", True), ("family on the board", False)):
                rng = np.random.default_rng(1)
                found[name] = percent(np.mean([foretold(rng, sizes, ratio, new) for _ in range(repeats)]))
            rng = np.random.default_rng(2)
            shares = [held_out(*off_a_line(rng, sizes, ratio))[:, 0].mean() for _ in range(repeats // 10)]
            row = {"networks of each family": "  ".join(map(str, sizes)), "variance between": ratio}
            some = np.isfinite(shares).any()  # without one of five families there is no interval
            rows.append(row | found | {"held out": percent(np.nanmean(shares)) if some else "-"})
    return rows


def off_a_line(rng, sizes, ratio, extra=None):
    """x, y, families: X and intercepts differ between families; `extra`: that of one network more."""
    count = len(sizes)
    place = np.repeat(np.arange(count), sizes)
    if extra is not None:
        place = np.append(place, extra)
    centres, off = rng.standard_normal((2, count + 1))
    x = centres[place] + rng.standard_normal(len(place))
    y = 0.3 * x + np.sqrt(ratio) * off[place] + rng.standard_normal(len(place))
    return x, y, np.array([f"{k:02d}" for k in place])


def foretold(rng, sizes, ratio, new):
    extra = len(sizes) if new else int(rng.integers(len(sizes)))
    x, y, families = off_a_line(rng, sizes, ratio, extra)
    law = RandomIntercept.of(x[:-1], y[:-1], families[:-1])
    low, _, high = interval(law, x[-1], families[-1])
    return low <= y[-1] <= high


# ---- the measured distances


def write_distances(spec, checkpoint, folder, images=1000):
    """a and g of each image at the first, the middle and the last block, and the output."""
    from timm_diffsens.benchmark.plan import prepare
    from timm_diffsens.schema.config import Config
    from timm_diffsens.sensitivities.perturbed import PerturbedImages
    from timm_diffsens.sensitivities.probe import Probe
    from timm_diffsens.sensitivities.reductions.state import FEW

    plan = prepare(spec, Config(checkpoint=checkpoint, dataset="cifar10", data_dir=folder, images=images))
    sample, transform = plan.sample, plan.sample.transform(plan.model.input)

    def batches(size):
        for positions, pixels in sample.batches(transform, size):
            yield [sample.indices[i] for i in positions], pixels

    rows, module = [], plan.model.module.eval()
    perturbed = PerturbedImages(batches, plan.perturbation, 0)
    like = next(module.parameters())
    for _, parts in perturbed.batches(FEW, like, torch.contiguous_format):
        probe = Probe(module, "blocks")
        with probe, torch.no_grad():
            probe.run(parts, None)
            names = list(probe._estimators)
            for name in dict.fromkeys(names[i] for i in (0, len(names) // 2, len(names) - 2, len(names) - 1)):
                estimator = probe._estimators[name]
                pairs = estimator.sums.images[: estimator.count, :2].tolist()
                rows += [(name, f"{a:.5g}", f"{g:.5g}") for a, g in pairs]
    with DISTANCES.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([("layer", "a", "g"), *rows])


# ---- text


def percent(share):
    return f"{100 * share:.1f} %"


def table(rows):
    """Markdown; a column for each entry but where it ran."""
    names = [name for name in rows[0] if name not in ("machine", "versions")]
    lines = [
        names,
        ["---", *["---:"] * (len(names) - 1)],
        *([str(row[name]) for name in names] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
