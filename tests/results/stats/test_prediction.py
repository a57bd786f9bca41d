"""Test errors that a board expects: the line with an intercept for each family, and how often it is right."""

import numpy as np
import pandas as pd
import pytest
from record_factory import make_layer, make_record
from scipy import stats

from timm_diffsens.errors import UsageError
from timm_diffsens.results.page.build import render_page
from timm_diffsens.results.records.store import write_record
from timm_diffsens.results.report.board_text import markdown, plain_board
from timm_diffsens.results.stats.held_out import held_out, held_out_sentence, held_out_table, interval
from timm_diffsens.results.stats.leaderboard import Choices, build_leaderboard
from timm_diffsens.results.stats.mixed import RandomIntercept
from timm_diffsens.results.stats.prediction import predict
from timm_diffsens.schema.records import Record


def made_up(rng, sizes, ratio, new):
    """Networks whose families differ in X and lie off the line by u; and one more, of a new family or not."""
    count = len(sizes)
    place = np.repeat(np.arange(count), sizes)
    centres, off = rng.normal(size=count + 1), rng.normal(size=count + 1) * np.sqrt(ratio)
    k = count if new else int(rng.integers(count))
    place = np.append(place, k)
    x = centres[place] + rng.normal(size=len(place))
    y = 0.3 * x + off[place] + rng.normal(size=len(place))
    return x, y, np.array([f"family {k:02d}" for k in place])


@pytest.mark.parametrize("ratio", [0.0, 1.0, 9.0])
@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("sizes", [(5, 2, 1, 2, 1, 1), (3,) * 10])
def test_the_interval_holds_nine_in_ten(sizes, new, ratio):
    rng, boards, held = np.random.default_rng(1), 250, 0
    for _ in range(boards):
        x, y, families = made_up(rng, sizes, ratio, new)
        law = RandomIntercept.of(x[:-1], y[:-1], families[:-1])
        low, _, high = interval(law, x[-1], families[-1])
        held += low <= y[-1] <= high
    assert 0.85 <= held / boards <= 0.95


def test_what_is_held_out_is_held_as_often():
    """A new family in turn: the share that the verb states is that of the interval, to 4 sigma of 60 boards.

    Networks of one family are in or out together where families differ: 12 families a board are counted.
    """
    rng, shares = np.random.default_rng(2), []
    for _ in range(60):
        x, y, families = made_up(rng, (2,) * 12, 4.0, new=False)
        shares.append(np.nanmean(held_out(x, y, families)[:, 0]))
    assert np.mean(shares) == pytest.approx(0.9, abs=4 * np.sqrt(0.09 / (60 * 12)))


def test_with_a_network_of_each_family_it_is_the_interval_of_least_squares():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=9), rng.normal(size=9)
    law = RandomIntercept.of(x, y, np.array(list("abcdefghi")))
    line = stats.linregress(x, y)
    rest = y - line.intercept - line.slope * x
    error = np.sqrt(rest @ rest / 7 * (1 + 1 / 9 + (2.0 - x.mean()) ** 2 / np.sum((x - x.mean()) ** 2)))
    middle, half = line.intercept + line.slope * 2.0, stats.t.ppf(0.95, 7) * error
    assert interval(law, 2.0) == pytest.approx((middle - half, middle, middle + half), rel=1e-9)


def test_a_family_that_is_known_is_predicted_from_its_own():
    """Families far apart and hardly any noise: the intercept of the family, and the slope of all."""
    rng = np.random.default_rng(3)
    families = np.repeat(list("abcdef"), 4)
    off = np.repeat([3.0, -2.0, 1.0, 0.0, -4.0, 2.0], 4)
    x = rng.normal(size=24)
    law = RandomIntercept.of(x, 0.5 * x + off + 0.01 * rng.normal(size=24), families)
    low, middle, high = interval(law, 1.0, "e")
    assert middle == pytest.approx(0.5 - 4.0, abs=0.02)
    assert high - low < 0.1
    new = interval(law, 1.0, "of another family")
    assert new == interval(law, 1.0)
    assert new[2] - new[0] > 4  # the intercepts have a standard deviation of 2.6


# ---- boards


def trained(i: int, family: str, **fields) -> Record:
    """Its error is the root of R at the output, and G that of all."""
    error, names, g = 0.05 + 0.01 * i, ["conv", "fc"], 0.25
    d = float(f"{error**2 * g:.7g}")
    layers = [make_layer(k, 2, name, d=d, g=g, r=d / g) for k, name in enumerate(names)]
    known = {
        "model": {"family": family, "weights": {"source": "checkpoint", "sha256": f"{i:064x}"}},
        "test_error": {"value": error},
        **fields,
    }
    record = make_record(f"{family}{i:02d}", "cifar10", names=names, variants=("original",), **known)
    return record.model_copy(update={"variants": {"original": layers}})


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    folder = tmp_path_factory.mktemp("board")
    for i in range(12):
        write_record(folder / "records", trained(i, "abcdef"[i // 2] * 3))
    return build_leaderboard(folder, Choices(resamples=100))


def row_of_r(found) -> pd.Series:
    return found.rows.set_index("measure").loc["r"]


def test_an_exact_law_gives_the_error_to_the_digits_of_records(board):
    record = trained(20, "zzz")
    found = predict(board, record)
    row = row_of_r(found)
    assert (found.family, found.known, row["n"], row["families"]) == ("zzz", False, 12, 6)
    assert row["error"] == pytest.approx(0.25, rel=1e-5)
    assert row["low"] == pytest.approx(row["high"], rel=1e-4)


def test_a_network_on_the_board_is_left_out(board):
    record = trained(4, "ccc")
    found = predict(board, record)
    assert row_of_r(found)["n"] == 11
    assert found.known


def test_what_cannot_be_predicted_is_said(board):
    with pytest.raises(UsageError, match=r"can be compared with zzz20: delta: 2 instead of 1"):
        predict(board, trained(20, "zzz", protocol={"delta": 2.0}))
    with pytest.raises(UsageError, match="zzz20 has random weights"):
        predict(board, trained(20, "zzz").model_copy(update={"trained": False}))
    notes = predict(board, trained(20, "zzz")).rows.set_index("measure")["note"]
    assert dict(notes) == {"d": "", "g": "all networks have the same value", "r": ""}


def test_a_board_of_few_families_has_no_interval(tmp_path):
    for i in range(8):
        write_record(tmp_path / "records", trained(i, "abcd"[i // 2] * 3))
    row = row_of_r(predict(build_leaderboard(tmp_path, Choices(resamples=100)), trained(20, "zzz")))
    assert (row["note"], row["n"]) == ("4 families, an interval needs 5", 8)
    assert np.isnan(row["error"])


# ---- what a board states


def points_of(rng, sizes, **columns) -> pd.DataFrame:
    families = np.repeat([f"family {k}" for k in range(len(sizes))], sizes)
    y, *x = rng.normal(size=(4, len(families)))
    points = {"family": families, "error": np.exp(y), **dict(zip("dgr", np.exp(x), strict=True)), **columns}
    return pd.DataFrame(points)


def test_a_board_counts_the_networks_inside_of_their_intervals():
    """One by one, each from a law of the others that is fitted here."""
    rng = np.random.default_rng(5)
    points = points_of(rng, (2, 3, 2, 3, 2, 3, 1))
    points.loc[0, "error"] = 1e6  # one that no law holds
    inside, widths, off, off_mean = [], [], [], []
    for row in points.to_dict("records"):
        others = points[points["family"] != row["family"]]
        x, y = (np.log(others[name].to_numpy()) for name in ("r", "error"))
        law = RandomIntercept.of(x, y, others["family"].to_numpy(str))
        low, middle, high = interval(law, np.log(row["r"]))
        inside.append(low <= np.log(row["error"]) <= high)
        widths.append(high - low)
        off.append((np.log(row["error"]) - middle) ** 2)
        off_mean.append((np.log(row["error"]) - y.mean()) ** 2)
    assert not inside[0]
    table = held_out_table(points).set_index("measure")
    assert (table["inside"]["r"], table["of"]["r"], table["families"]["r"]) == (sum(inside), 16, 7)
    assert table["span"]["r"] == pytest.approx(np.exp(np.median(widths)))
    assert table["off"]["r"] == pytest.approx(np.exp(np.mean(off) ** 0.5))
    assert table["off_mean"]["r"] == pytest.approx(np.exp(np.mean(off_mean) ** 0.5))
    shares = [f"{inside} of 16" for inside in table["inside"]]
    assert held_out_sentence(held_out_table(points)).startswith(
        f"Left out in turn, each with its family, {shares[0]} networks lie within their 90 % interval by D, "
        f"{shares[1]} by G, {shares[2]} by R. From end to end"
    )


@pytest.mark.parametrize(
    ("count", "why"),
    [
        (0, "0 families, an interval needs 5"),
        (4, "4 families, an interval needs 5"),
        (5, "5 families, and those without one are too few for an interval"),
    ],
)
def test_with_few_families_a_board_says_why_nothing_is_predicted(count, why):
    table = held_out_table(points_of(np.random.default_rng(0), (2,) * count))
    assert held_out_sentence(table) == f"No network is predicted from the other families: {why}."
    assert list(table["of"]) == [0, 0, 0]


def test_a_measure_without_a_law_is_named_alone():
    points = points_of(np.random.default_rng(0), (2,) * 6, g=0.25)
    said = held_out_sentence(held_out_table(points))
    assert said.endswith(" None by G: all networks have the same value.")


def test_the_statement_is_on_the_page_in_the_text_and_in_the_json(board):
    said = held_out_sentence(board.main.held_out)
    assert "12 of 12 networks lie within their 90 % interval by D, " in said
    assert said in markdown(board)
    assert said in render_page(board)
    (rows,) = [group["held_out"] for group in plain_board(board)["groups"]]
    assert [(row["measure"], row["of"]) for row in rows] == [("d", 12), ("g", 0), ("r", 12)]
