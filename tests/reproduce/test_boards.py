"""Sets of networks of a leaderboard in place of trainings: which are taken, and what is said of them."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from record_factory import make_record
from scipy import stats
from tiny import TINY

from timm_diffsens.data.scale_detection import ScaleDetection
from timm_diffsens.reproduce import correlations, depth
from timm_diffsens.reproduce.boards import Board
from timm_diffsens.reproduce.claims import Claim
from timm_diffsens.reproduce.curves import shuffling
from timm_diffsens.reproduce.over_networks import better, one_family_less, rho, same_order
from timm_diffsens.reproduce.settings import PAPER, SMALL
from timm_diffsens.reproduce.workspace import Workspace
from timm_diffsens.results.records.store import write_record
from timm_diffsens.schema.records import Record

ROOT = Path(__file__).resolve().parents[2]
CIFAR10, SCALE1 = TINY.noisy[0], TINY.scale1[0]
FAMILIES = ["vgg", "vgg", "resnet", "resnet", "alexnet", "lenet", "fc", "fc"]


@pytest.fixture(scope="module")
def real() -> Board:
    """The leaderboard of the repository."""
    return Board(ROOT / "leaderboard", 50)


def network(
    number: int, r: float, error: float, sigma: float = 0.0, task: str = "cifar10", **protocol
) -> Record:
    """A record of a network of the family with this number."""
    detection = ScaleDetection(task=1).parameters() if task == "scale1" else None
    deformed = {"deformation": "active pixels", "delta": None, "cut": None} if detection else {}
    record = make_record(
        f"net{number}",
        task,
        names=["conv1", "output"],
        variants=("original", "init"),
        model={
            "arch": f"net{number}",
            "family": FAMILIES[number],
            "weights": {"source": "checkpoint", "sha256": f"{number + 1000 * round(100 * sigma):064x}"},
        },
        data={"parameters": detection},
        protocol={"corruption_sigma": sigma, **deformed, **protocol},
        test_error={"value": error, "stderr": 0.01, "n": 1000},
        train_error=0.001,
    )
    layers = [
        layer.model_copy(update={"r": r, "d": r * 0.1, "g": 0.1}) for layer in record.variants["original"]
    ]
    return record.model_copy(update={"variants": record.variants | {"original": layers}})


def board_of(folder: Path, *records: Record) -> Board:
    for record in records:
        write_record(folder / "records", record)
    return Board(folder, 50)


# ---- which networks are taken


def test_the_board_of_the_repository_has_the_networks_of_figs_1_and_8(real):
    cifar10, scale1 = real.population(CIFAR10), real.population(SCALE1)
    assert len(cifar10.points) >= 16
    assert cifar10.points["family"].nunique() >= 9
    assert cifar10.unfitted == 0  # as the paper's: all of them fit their training set
    assert len(scale1.points) >= 12
    assert set(scale1.points["seeds"]) == {3}


@pytest.mark.parametrize("wrong", [{"size": 16}, {"xi": 9.0}, {"gap": 4.0}])
def test_networks_of_another_task_are_refused(real, wrong):
    assert real.population(replace(SCALE1, scale=SCALE1.scale | wrong)) is None
    assert real.population(SCALE1, sigma=0.5) is None


def test_networks_with_noise_are_found_by_its_size(tmp_path):
    errors = np.linspace(0.1, 0.5, 6)
    clean, noisy = (
        [network(k, e**2, float(e), sigma) for k, e in enumerate(errors)] for sigma in (0.0, 0.14)
    )
    larger = [network(k, 0.5, 0.1 + 0.01 * k, delta=2.0) for k in range(8)]  # another deformation
    board = board_of(tmp_path, *clean, *noisy, *larger)
    for sigma, of in ((0.0, clean), (0.14, noisy)):
        assert set(board.population(CIFAR10, sigma).models["key"]) == {record.key for record in of}
    assert board.population(CIFAR10, 0.28) is None
    series = board.series(board.population(CIFAR10))
    assert sorted(set(series.rows["sigma"])) == [0.0, 0.14]


def test_figures_take_the_board_and_train_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(Workspace, "trained", None)
    errors = np.linspace(0.1, 0.5, 6)
    records = [network(k, e**2, float(e), s) for s in (0.0, 0.14, 0.28) for k, e in enumerate(errors)]
    scale1 = [network(k, e**2, float(e), task="scale1") for k, e in enumerate(errors)]
    board_of(tmp_path / "board", *records, *scale1)
    settings = replace(TINY, noises=(0.0, 0.5, 1.0))
    workspace = Workspace(tmp_path / "out", settings, board=tmp_path / "board")
    workspace.__dict__["noise_unit"] = 0.28  # of images that are not here
    (report,) = (correlations.figure_1(workspace),)
    verdicts = {claim.key: claim.verdict for claim in report.claims}
    assert verdicts["fig1.r-positive"] == verdicts["fig1.noise-r-positive"] == "held"
    assert verdicts["fig1.same-order"] == "held"
    assert set(report.tables["noise"]["in units of eta*"]) == {0.0, 0.5, 1.0}
    noise = next(claim for claim in report.claims if claim.key == "fig1.noise-r-positive")
    assert [part.name for part in noise.parts] == ["noise 0.5 eta*", "noise 1 eta*"]
    assert list(correlations.figure_10(workspace).charts) == ["noise-0", "noise-0.5", "noise-1"]


def test_the_paper_s_scale_takes_none_of_them():
    """Its networks are wider, and trained for longer, than those of any board."""
    for settings, takes in ((SMALL, True), (PAPER, False)):
        workspace = Workspace(Path("unused"), settings, board=ROOT / "leaderboard")
        assert (workspace.populations is not None) == takes
    assert Workspace(Path("unused"), SMALL).populations is None


# ---- what is said of them


def points_of(tmp_path: Path, *columns: list[float]):
    r, errors = columns
    records = [network(k, x, e) for k, (x, e) in enumerate(zip(r, errors, strict=True))]
    return board_of(tmp_path, *records).population(CIFAR10)


def test_a_correlation_that_one_family_makes_is_said_to_be(tmp_path):
    """Without the family fc the other networks lie on a falling line."""
    r = [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 9.0, 9.5]
    errors = [0.30, 0.29, 0.28, 0.27, 0.26, 0.25, 0.70, 0.72]
    group = points_of(tmp_path, r, errors)
    text = one_family_less(group, "r")
    others = float(np.corrcoef(np.log(r[:6]), np.log(errors[:6]))[0, 1])
    assert text.startswith(f"tested: without the family fc it is {others:.2f}, without another one ")
    assert rho(group, "r", "x").verdict((0.0, math.inf)) == "not decided"
    assert one_family_less(None, "r") == one_family_less(group, "nothing") == ""


def test_an_equal_predictor_is_not_better(tmp_path):
    """D is a tenth of R in these networks: the difference is 0 but for rounding."""
    group = points_of(tmp_path, list(np.linspace(1, 2, 8)), [0.1, 0.2, 0.15, 0.3, 0.4, 0.35, 0.5, 0.6])
    part = better(group, "r", "d", "x")
    assert part.value == pytest.approx(0, abs=1e-12)
    assert part.verdict((0.0, math.inf)) == "not decided"
    assert better(None, "r", "d", "x").value is None


def test_the_order_is_spearman_s_over_architectures_on_both(tmp_path):
    first, second = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7], [0.11, 0.05, 0.3, 0.2, 0.5, 0.45, 0.9]
    boards = [
        board_of(tmp_path / task, *(network(k, 1 + k, e, task=task) for k, e in enumerate(errors)))
        for task, errors in (("cifar10", [*first, 0.8]), ("scale1", second))
    ]
    groups = boards[0].population(CIFAR10), boards[1].population(SCALE1)
    found, count = same_order(*groups)
    assert count == 7  # the eighth is on one board alone
    assert found.value == pytest.approx(stats.spearmanr(first, second).statistic)
    assert found.low < found.value <= found.high <= 1
    reverse, _ = same_order(groups[0], groups[0])
    assert reverse.value == 1
    assert Claim.of("fig1.same-order", [reverse], networks=8).verdict == "held"


def test_what_decay_changes_is_measured_on_networks_without(real, tmp_path):
    workspace = Workspace(tmp_path, SMALL, board=ROOT / "leaderboard")
    records = real.networks(SMALL.pooling[0], ["net/vgg11"])
    assert len(records) == 3
    assert {record.model.recipe["training"]["weight_decay"] for record in records} == {0.0}
    values = [shuffling("", record).value for record in records]
    text = depth.without_decay(workspace, shuffling)
    assert text.startswith("tested: trained without weight decay it is ")
    assert f"{min(values):.2f} to {max(values):.2f} in 3 of vgg11, " in text
    assert depth.without_decay(Workspace(tmp_path, SMALL), shuffling) == ""
