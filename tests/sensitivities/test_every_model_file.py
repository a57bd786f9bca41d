"""In-place operations change no number, in any of timm's model files.

Of every file the smallest architecture is measured at its own input size, and every layer is compared with a
copy that was made of it on the spot. How large each architecture is stands in leaderboard/coverage.csv, which
`diffsens sweep --structure` writes; slow tests count again.
"""

import csv
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from clones import cloned_outputs, compare, in_parts
from test_probe import triple

from timm_diffsens import Probe
from timm_diffsens.device import seeding
from timm_diffsens.models.inputs import timm_input
from timm_diffsens.sensitivities.functional import Sensitivity, mean_pair_distance, mean_square
from timm_diffsens.sensitivities.reductions.state import TILE
from timm_diffsens.sweep.structure import count_parameters

MOST_PARAMETERS = 30_000_000
N = 2
COLUMNS = 2**20
# The probe's float32 sums over a stretch, in at least eight lanes, err by TILE / 8 roundings at most, and
# by three for a difference and its square; the copies are summed in float64. Of two images the denominator is
# S - S' / 2 from two such sums that are equal but for rounding: 3 times the error of one. A quotient adds up.
TOLERANCE = (1 + 3) * (TILE / 8 + 3) * 2**-24
# The estimator calls a spread below this constant, relative to the norm (see its _ROUNDING_UNITS); here with
# the rounding of sums on top.
NO_SPREAD = (64 * 2**-23) ** 2 * (1 + 2 * TOLERANCE)

COVERAGE = Path(__file__).resolve().parents[2] / "leaderboard" / "coverage.csv"
# Files without an architecture of at most 30 million parameters: the parameters of their smallest.
TOO_LARGE = {
    "beit": 86_530_984,
    "deepseek_vit": 411_842_560,
    "gemma4_vit": 167_364_608,
    "inception_resnet_v2": 55_843_464,
    "inception_v4": 42_679_816,
    "mobilenetv5": 82_647_976,
    "naflexvit": 86_461_672,
    "nasnet": 88_753_150,
    "nextvit": 31_763_368,
    "pnasnet": 86_057_668,
    "qwen3_vit": 87_414_528,
    "selecsls": 30_354_952,
    "tresnet": 31_389_032,
    "vgg": 132_863_336,
    "vision_transformer_sam": 86_457_064,
}


def sizes() -> dict[str, tuple[int, int]]:
    """Architecture -> its parameters and the pixels of its input, from the table."""
    with COVERAGE.open(newline="") as file:
        rows = [row for row in csv.DictReader(file) if row["library"] == "timm"]
    return {row["model"]: (int(row["parameters"]), pixels(row["input"])) for row in rows}


def pixels(size: str) -> int:
    _, height, width = map(int, size.split("x"))
    return height * width


SIZES = sizes()
FILES = {file: [n for n in timm.list_models(module=file) if n in SIZES] for file in timm.list_modules()}
SMALLEST = {file: min(names, key=lambda n: (*SIZES[n], n)) for file, names in FILES.items() if names}
MEASURED = sorted(file for file, name in SMALLEST.items() if SIZES[name][0] <= MOST_PARAMETERS)


def build(name: str) -> torch.nn.Module:
    """With random weights, also where they are zero at initialisation: what is zero hides what is wrong."""
    with seeding.seeded(0):
        model = timm.create_model(name, pretrained=False).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.02)
    return model


def probed(model: torch.nn.Module, batch: torch.Tensor) -> Probe:
    with Probe(model, "all") as probe, torch.no_grad():
        model(batch)
    return probe


# --- which architectures


def test_every_file_is_measured_or_too_large():
    if timm.__version__ != json.loads(COVERAGE.with_suffix(".json").read_text())["versions"]["timm"]:
        pytest.skip("the table is of another version of timm")
    assert set(timm.list_models()) == set(SIZES)
    assert sorted(name for names in FILES.values() for name in names) == sorted(SIZES)
    too_large = {file: SIZES[name][0] for file, name in SMALLEST.items() if file not in MEASURED}
    assert too_large == TOO_LARGE
    assert (len(FILES), len(MEASURED), len(TOO_LARGE)) == (98, 83, 15)
    assert set(MEASURED) | set(TOO_LARGE) == set(timm.list_modules())


@pytest.mark.slow
@pytest.mark.parametrize("file", timm.list_modules())
def test_the_table_has_the_numbers_of_parameters(file):
    assert {name: count_parameters(name) for name in FILES[file]} == {
        name: SIZES[name][0] for name in FILES[file]
    }


# --- that the comparison can fail


def test_a_reference_without_a_copy_is_found_wrong():
    model, batch = build("test_resnet"), triple(n=N)
    probe = probed(model, batch)
    copies = cloned_outputs(model, batch)
    assert compare(probe.results(), probe.layers, copies, N, TOLERANCE) > 30
    kept = cloned_outputs(model, batch, copy=lambda tensor: tensor)
    assert torch.equal(kept["conv1.1"], copies["conv1.1"].relu())
    with pytest.raises(AssertionError, match=r"conv1\.1"):
        compare(probe.results(), probe.layers, kept, N, TOLERANCE)


def test_a_probe_that_reduces_too_late_is_found_wrong(monkeypatch):
    model, batch, late = build("test_resnet"), triple(n=N), []
    reduce = Probe._reduce
    monkeypatch.setattr(Probe, "_reduce", lambda self, *output: late.append((self, *output)))
    probe = probed(model, batch)
    for output in late:
        reduce(*output)
    with pytest.raises(AssertionError, match=r"conv1\.1"):
        compare(probe.results(), probe.layers, cloned_outputs(model, batch), N, TOLERANCE)


# --- every layer


@pytest.mark.slow
@pytest.mark.parametrize("file", MEASURED)
def test_no_number_is_changed_in_place(file, record_property):
    name = SMALLEST[file]
    model = build(name)
    assert sum(p.numel() for p in model.parameters()) == SIZES[name][0] <= MOST_PARAMETERS
    shown = timm_input(model)
    assert shown.height == shown.width
    batch = triple(n=N, side=shown.height)
    probe = probed(model, batch)
    readable = {layer.call: layer for layer in probe.layers if layer.reason is None}
    copies = cloned_outputs(
        model, batch, lambda call, copy: reduced(readable[call], copy) if call in readable else None
    )
    gaps: dict[tuple[str, str], float] = {}
    without = Counter[str]()
    for layer, result in zip(probe.layers, probe.results(), strict=True):
        if result.reason is None:
            expected, _ = copies[layer.call]
            for kind in ("d", "g", "r"):
                got, true = getattr(result, kind), getattr(expected, kind)
                gaps[layer.name, kind] = abs(got - true) / abs(true)
        else:
            check_reason(layer, result, copies)
            without[result.reason] += 1
    assert {key: gap for key, gap in gaps.items() if not gap <= TOLERANCE} == {}
    assert len(gaps) == 3 * (len(probe.layers) - without.total()) > 30
    record_property("layers compared", len(gaps) // 3)
    for reason, count in without.items():
        record_property(f"layers without a value, {reason}", count)
    record_property("largest relative difference", max(gaps.values()))


def reduced(layer, copy: torch.Tensor):
    """D, G and R, and by how much clean images differ more than what counts as constant.

    The definition in float64, summed over columns some at a time: the largest layers fill gigabytes.
    """
    sums = np.zeros(4)
    for columns in in_parts(layer, copy, N).split(COLUMNS, dim=2):
        clean, moved, noised = columns.double().numpy()
        mean = clean.mean(axis=0)
        sums += [
            mean_square(moved - clean),
            mean_square(noised - clean),
            mean_pair_distance(clean),
            mean @ mean,
        ]
    a, g, pairs, size = sums
    with np.errstate(invalid="ignore", divide="ignore"):
        return Sensitivity(a / pairs, g / pairs, a / g), pairs - 2 * NO_SPREAD * size


def check_reason(layer, result, copies):
    """A layer without a value has none in its copy: it does not move, or holds no batch of images."""
    if layer.reason is None:
        assert result.reason in ("constant", "input-independent"), (layer.name, result.reason)
        assert copies[layer.call][1] <= 0, layer.name
    else:
        assert layer.reason in (
            "input-independent",
            "not floating-point",
            "dim 0 is not a multiple of the batch",
            "the images of a batch cannot be told apart along dim 0",
        ), (layer.name, layer.reason)
