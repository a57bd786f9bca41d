"""In-place operations change no number, in any of timm's model files.

One architecture of every file, the smallest, at its own input size with random weights; the truth is a copy
of every output at the moment it is made. Which is the smallest stands in leaderboard/coverage.csv, which
`diffsens sweep --structure` writes; that it lists every file is tested here.
"""

import csv
from pathlib import Path

import pytest
import timm
import torch
from clones import cloned_outputs, compare, truth
from test_probe import triple

from timm_diffsens import Probe, runtime
from timm_diffsens.models.sources import find_source
from timm_diffsens.sweep.structure import on_meta

MOST_PARAMETERS = 30_000_000
N = 2
# Both see the same float32 outputs. The probe sums their squares in blocks of float32 and float64, the
# reference in float64; test_reductions.py derives what that may differ by, test_traps.py asks for the same.
TOLERANCE = 1e-5

COVERAGE = Path(__file__).resolve().parents[2] / "leaderboard" / "coverage.csv"
# The smallest architecture of these files is larger.
TOO_LARGE = {
    *("beit", "deepseek_vit", "gemma4_vit", "inception_resnet_v2", "inception_v4", "mobilenetv5"),
    *("naflexvit", "nasnet", "nextvit", "pnasnet", "qwen3_vit", "selecsls", "tresnet", "vgg"),
    "vision_transformer_sam",
}


def smallest() -> dict[str, dict[str, str]]:
    """Model file -> row of its architecture with the fewest parameters, then the smallest input."""
    with COVERAGE.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["library"] == "timm"]
    rows.sort(key=lambda row: (int(row["parameters"]), pixels(row), row["model"]), reverse=True)
    return {row["file"]: row for row in rows}


def pixels(row: dict[str, str]) -> int:
    return int(row["input"].rpartition("x")[2])


FILES = smallest()
FITTING = {name: row for name, row in FILES.items() if int(row["parameters"]) <= MOST_PARAMETERS}


def test_every_model_file_is_here():
    entries = {timm.models.model_entrypoint(name).__module__ for name in timm.list_models()}
    assert {name.rpartition(".")[2] for name in entries} <= {*FILES, *renamed()}
    assert set(FILES) - set(FITTING) == TOO_LARGE


def renamed() -> set[str]:
    """Files whose architectures are all classes of another file, under which coverage.csv has them."""
    entries: dict[str, set[str]] = {}
    for name in timm.list_models():
        file = timm.models.model_entrypoint(name).__module__.rpartition(".")[2]
        entries.setdefault(file, set()).add(name)
    with COVERAGE.open(newline="") as file:
        classes = {row["model"]: row["file"] for row in csv.DictReader(file)}
    return {file for file, names in entries.items() if file not in {classes[name] for name in names}}


def test_the_comparison_finds_an_output_that_was_written_over():
    """Kept by reference, not copied: the truth would be wrong, and the comparison says so."""
    with runtime.seeded(0):
        model = timm.create_model("test_resnet").eval()
    batch = triple(n=N, side=64)
    with Probe(model, "all") as probe, torch.no_grad():
        model(batch)
    kept = cloned_outputs(model, batch)
    assert compare(probe.results(), probe.layers, kept, N, TOLERANCE) > 10
    written_over = {name: value.relu() if name.endswith("bn1") else value for name, value in kept.items()}
    with pytest.raises(AssertionError):
        compare(probe.results(), probe.layers, written_over, N, TOLERANCE)


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted(FITTING))
def test_no_number_is_changed_in_place(file, record_property):
    name, side = FITTING[file]["model"], pixels(FITTING[file])
    assert sum(p.numel() for p in on_meta(find_source(name)).parameters()) <= MOST_PARAMETERS
    with runtime.seeded(0):
        model = timm.create_model(name, pretrained=False).eval()
    batch = triple(n=N, side=side)
    with Probe(model, "all") as probe, torch.no_grad():
        model(batch)
    layers = {layer.call: layer for layer in probe.layers if layer.reason is None}
    kept = cloned_outputs(
        model, batch, lambda call, copy: truth(layers[call], copy, N) if call in layers else None
    )
    compared = compare(probe.results(), probe.layers, kept, N, TOLERANCE)
    record_property("layers compared", compared)
    assert compared > 10
