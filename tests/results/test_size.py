"""Thousands of records: several processes, little memory and a small page give the same results."""

import os
from pathlib import Path

import numpy as np
import pytest
from board_factory import random_record

from timm_diffsens.results.page.build import render_page
from timm_diffsens.results.page.record_data import contents, curve, deflated, pack
from timm_diffsens.results.records import memory
from timm_diffsens.results.records.memory import mapped
from timm_diffsens.results.records.store import faults_in, read_rows, record_files, write_record
from timm_diffsens.results.stats import families, reading, resampling
from timm_diffsens.results.stats.families import leave_families_out
from timm_diffsens.results.stats.leaderboard import Choices, build_leaderboard
from timm_diffsens.results.stats.resampling import resampled_fits, weighted_fits


@pytest.fixture
def folder(tmp_path) -> Path:
    for number in range(24):
        write_record(tmp_path / "records", random_record(f"net_{number}", number, 6))
    (tmp_path / "records" / "half.json").write_text("{")
    return tmp_path


def curve_read(text: str) -> list[float | None]:
    """As the page's script does."""
    total, values = 0.0, []
    for part in text.removeprefix("~").split(" "):
        total += float(part) if part not in ("-", "z") else 0
        values.append(None if part == "-" else 0.0 if part == "z" else 10 ** (total / 200))
    return values


def test_a_curve_holds_to_one_per_cent_however_long():
    values = list(np.exp(np.random.default_rng(0).normal(-3, 4, 500)))
    found = curve_read(curve(values))
    assert np.abs(np.array(found) / values - 1).max() < 0.006
    assert curve_read(curve([None, 0.0, 1.0, None, 100.0])) == [None, 0.0, 1.0, None, 100.0]


def test_processes_give_what_one_gives(folder, monkeypatch):
    files = record_files(folder / "records")
    alone = list(mapped(faults_in, files))
    rows, bad = read_rows(folder / "records")
    monkeypatch.setattr(memory, "_FOR_A_PROCESS", 5)
    monkeypatch.setattr(memory, "_TOGETHER", 4)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1}, raising=False)
    assert list(mapped(faults_in, files, parallel=True)) == alone
    assert read_rows(folder / "records", parallel=True) == (rows, bad)
    pages = [
        render_page(build_leaderboard(folder, Choices(resamples=100), pack=pack, parallel=p))
        for p in (False, True)
    ]
    assert pages[0] == pages[1]


def test_outputs_alone_give_the_board_of_whole_records(folder):
    whole = build_leaderboard(folder, Choices(resamples=100))
    thin = build_leaderboard(folder, Choices(resamples=100), pack=pack)
    assert render_page(whole) == render_page(thin)
    assert {len(layers) for _, record in thin.records for layers in record.variants.values()} == {1}


def test_a_large_board_has_curves_alone(folder, monkeypatch):
    full = build_leaderboard(folder, Choices(resamples=100), pack=pack)
    monkeypatch.setattr(reading, "MOST_IN_FULL", 10)
    brief = build_leaderboard(folder, Choices(resamples=100), pack=pack)
    assert set(brief.pages) == set(full.pages)
    size, whole = (len(deflated(list(board.pages.values()))) for board in (brief, full))
    assert size < 0.4 * whole
    record = random_record("net_3", 3, 6)
    found = contents(record, brief=True)
    for name, layers in record.variants.items():
        for measure in "dgr":
            values = [getattr(layer, measure) for layer in layers]
            assert curve_read(found["variants"][name][measure]) == pytest.approx(values, rel=0.006)


@pytest.mark.parametrize("kinds", [1, 3, 40])
def test_weightings_that_are_not_held_are_those_that_are(monkeypatch, kinds):
    source = np.random.default_rng(kinds)
    x, y, names = (
        source.normal(size=(40, 3)),
        source.normal(size=40),
        source.integers(0, kinds, 40).astype(str),
    )
    held = [resampled_fits(x, y, 300, 7), weighted_fits(x, y, leave_families_out(names))]
    for module in (resampling, families):
        monkeypatch.setattr(module, "MANY", 10)
    monkeypatch.setattr(resampling, "_TOGETHER", 400)
    others = [resampled_fits(x, y, 300, 7), weighted_fits(x, y, leave_families_out(names))]
    for one, other in zip(held, others, strict=True):
        for name in ("pearson", "slope", "intercept"):
            np.testing.assert_allclose(getattr(other, name), getattr(one, name), rtol=1e-9, atol=1e-9)
