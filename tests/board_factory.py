"""Leaderboards made without measuring or correlating: tables in the shape that the page reads."""

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from record_factory import VARIANTS, make_layer, make_record, make_spectra

from timm_diffsens.results.records.frames import records_frame
from timm_diffsens.results.stats.leaderboard import Group, Leaderboard, Series
from timm_diffsens.schema.layers import LayerSensitivity, Spectrum
from timm_diffsens.schema.records import Record

MEASURES = ("d", "g", "r")
FOUR: tuple[str, ...] = ("original", "channel-shuffled", "mean-channel", "init")


def random_layer(
    source: random.Random, index: int, count: int, name: str, scale: float = 1.0
) -> LayerSensitivity:
    """Digits without a pattern: the worst case for compression."""
    d, g = source.lognormvariate(-2, 0.5) * scale, source.lognormvariate(-1, 0.5)
    spread = {"d": d, "g": g, "r": d / g}
    errors = {f"{m}_stderr": value * source.uniform(0.01, 0.1) for m, value in spread.items()}
    return make_layer(index, count, name, **spread, **errors)


def random_record(spec: str, number: int, layers: int, variants: tuple[str, ...] = FOUR) -> Record:
    """A record with spectra whose numbers have no pattern; larger R comes with a larger error."""
    source = random.Random(f"{spec}{number}{layers}")
    quality = source.uniform(-1, 1)
    names = [f"layer{i // 10}.{i % 10}" for i in range(layers)]
    record = make_record(
        spec,
        names=names,
        variants=variants,
        model={
            "parameters": 10_000 * (number + 1),
            "weights": {"source": "checkpoint", "sha256": f"{number:064x}"},
        },
        test_error={"value": round(0.2 * math.exp(0.5 * quality), 6), "stderr": 0.01, "n": 1000},
        train_error=0.001,
    )
    measured = {
        v: [random_layer(source, i, layers, name, math.exp(quality)) for i, name in enumerate(names)]
        for v in variants
    }
    spectra = {
        v: [_random_spectrum(source, s) for s in make_spectra([f"{name}.conv2" for name in names], v)]
        for v in ("original", "init")
    }
    return record.model_copy(update={"variants": measured, "spectra": spectra})


def _random_spectrum(source: random.Random, spectrum: Spectrum) -> Spectrum:
    def rounded(value: float) -> float:  # as a record's numbers are
        return float(f"{value:.7g}")

    power = [rounded(source.lognormvariate(-5, 1)) for _ in spectrum.power]
    return spectrum.model_copy(update={"power": power, "mean_frequency": rounded(source.uniform(0, 6))})


def make_group(records: list[tuple[Path, Record]], title: str = "imagenet", slug: str = "imagenet") -> Group:
    """A group whose statistics have the right names and plausible values; untrained records are apart."""
    models = records_frame(records).sort_values(["error", "key"], ignore_index=True)
    models["file"] = [f"records/{name}" for name in models["file"]]
    models["seed"] = models["training_seed"]
    models["spec"] = models["model"]
    models["input"] = "224 x 224"
    models["in_fit"] = models["trained"].fillna(False).astype(bool) & models["error"].notna()
    models["reason"] = ["" if fits else "random weights" for fits in models["in_fit"]]
    points = models[models["in_fit"]].drop_duplicates("network").assign(seeds=1)
    correlations = pd.DataFrame([_correlation(points, v, m) for v in VARIANTS for m in MEASURES])
    return Group(
        title=title,
        slug=slug,
        fields={"data set": "imagenet", "images": "500"},
        models=models,
        points=points,
        correlations=correlations,
        comparisons=pd.DataFrame([_comparison(rival) for rival in ("d", "g")]),
        by_depth=pd.DataFrame(
            [_at_depth(v, m, i) for v in ("original", "init") for m in MEASURES for i in range(1, 11)]
        ),
        fits=pd.concat([_fit(points, m) for m in MEASURES], ignore_index=True),
        deformations=pd.DataFrame([_under(d, m) for d in ("delta = 1 px", "delta = 2 px") for m in MEASURES]),
        held_out=pd.DataFrame([_held_out(m) for m in MEASURES]),
        left_out=models[~models["in_fit"]][["model", "key", "file", "reason"]],
        from_depth={"d": 0.5, "g": None, "r": 0.2},
        verdict="R predicts the test error.",
    )


def _under(deformation: str, measure: str) -> dict[str, Any]:
    rho = {"d": -0.2, "g": 0.3, "r": 0.8}[measure]
    interval = {"family_low": rho - 0.15, "family_high": rho + 0.15}
    return {"deformation": deformation, "measure": measure, "n": 12, "pearson": rho, **interval}


def _held_out(measure: str) -> dict[str, Any]:
    inside = {"d": 10, "g": 11, "r": 12}[measure]
    factors = {"span": 4.0, "off": 1.5, "off_mean": 1.75}
    return {"measure": measure, "n": 12, "families": 6, "inside": inside, "of": 12, "note": "", **factors}


def make_board(records: list[Record], **changes: Any) -> Leaderboard:
    """A board of one group; `changes` are fields of the board."""
    listed = [(Path(f"records/{r.data.spec}/{i}.json"), r) for i, r in enumerate(records)]
    fields: dict[str, Any] = {
        "groups": [make_group(listed)] if listed else [],
        "series": [],
        "not_comparable": pd.DataFrame(columns=["model", "key", "file", "dataset", "reason"]),
        "records": listed,
    }
    return Leaderboard(**{**fields, **changes})


def make_series() -> Series:
    """Correlations that fall with the noise."""
    rows = [
        {
            "sigma": sigma,
            "measure": m,
            "n": 12,
            "pearson": 0.9 - sigma,
            "pearson_low": 0.7 - sigma,
            "pearson_high": 1 - sigma,
        }
        for m in MEASURES
        for sigma in (0.0, 0.1, 0.5)
    ]
    return Series(title="Noise on the images", slug="noise", rows=pd.DataFrame(rows))


def _correlation(points: pd.DataFrame, variant: str, measure: str) -> dict[str, Any]:
    column = measure if variant == "original" else f"{variant}_{measure}"
    used = points[points[column].notna()]
    enough = len(used) >= 5
    rho = float(np.corrcoef(np.log(used[column]), np.log(used["error"]))[0, 1]) if enough else math.nan
    row: dict[str, Any] = {
        "variant": variant,
        "measure": measure,
        "n": len(used),
        "records": len(used),
        "left_out": 0,
    }
    for name in ("pearson", "fisher", "family", "without", "mixed", "partial", "exponent", "prefactor"):
        row |= {name: rho, f"{name}_low": rho - 0.1, f"{name}_high": rho + 0.1}
    return row | {
        "spearman": rho,
        "kendall": rho,
        "p": 0.01,
        "p_family": 0.01,
        "p_corrected": 0.02,
        "families": len(used),
        "within": rho,
        "within_p": 0.5,
        "note": "" if enough else "too few",
    }


def _comparison(rival: str) -> dict[str, Any]:
    numbers = {"difference": 0.1, "low": -0.05, "high": 0.2, "p": 0.3}
    return {"variant": "original", "rival": rival, "n": 12, **numbers, "answer": "undecided"}


def _at_depth(variant: str, measure: str, step: int) -> dict[str, Any]:
    rho = (0.09 if variant == "original" else -0.02) * step
    limits = (
        {"pearson_low": rho - 0.1, "pearson_high": rho + 0.1}
        if step > 2
        else dict.fromkeys(("pearson_low", "pearson_high"), math.nan)
    )
    return {"variant": variant, "measure": measure, "depth": step / 10, "n": 12, "pearson": rho, **limits}


def _fit(points: pd.DataFrame, measure: str) -> pd.DataFrame:
    used = points[points[measure].notna()]
    if len(used) < 5:
        return pd.DataFrame(columns=["measure", "x", "error", "low", "high"])
    x, y = np.log(used[measure].to_numpy()), np.log(used["error"].to_numpy())
    slope, intercept = np.polyfit(x, y, 1)
    at = np.linspace(x.min(), x.max(), 20)
    line = np.exp(intercept + slope * at)
    return pd.DataFrame(
        {"measure": measure, "x": np.exp(at), "error": line, "low": line * 0.9, "high": line * 1.1}
    )
