"""The leaderboard: groups, published errors, verdicts, CSV, Markdown, charts, submissions."""

import csv
import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from chart_parts import parts
from record_factory import make_layer, make_record

from timm_diffsens.errors import UsageError
from timm_diffsens.results.board import write_board
from timm_diffsens.results.page.build import render_page
from timm_diffsens.results.records.published import read_errors, with_published
from timm_diffsens.results.records.store import read_records, record_path, write_record
from timm_diffsens.results.report.board_charts import Drawing, board_charts, scatter_chart
from timm_diffsens.results.report.board_text import MARKER, csv_text, markdown
from timm_diffsens.results.report.export import render
from timm_diffsens.results.report.layout import Layout
from timm_diffsens.results.report.markdown import code, link, text
from timm_diffsens.results.report.submission import submission_faults
from timm_diffsens.results.stats.correlate import correlate
from timm_diffsens.results.stats.groups import titles
from timm_diffsens.results.stats.leaderboard import Choices, Leaderboard, build_leaderboard
from timm_diffsens.results.stats.verdict import verdict
from timm_diffsens.schema.records import InputSpec, Record

HOSTILE = "<img src=x onerror=alert(1)>|`**x**` [a](http://e.vil)"


def trained(
    i: int, spec: str | None = None, *, dataset: str = "cifar10", strength: float = 1.0, **changes
) -> Record:
    """The i-th network: its error goes with R at the output, and with R_k the more the deeper."""
    rng = np.random.default_rng(i)
    quality = rng.normal(0, 0.5)
    names = ["conv1", "conv2", "conv3", "fc"]
    variants = {}
    for variant in ("original", "channel-shuffled", "init"):
        layers = []
        for k, name in enumerate(names):
            own = 0 if variant == "init" else quality * strength * (k + 1) / 4
            d, g = np.exp(own - 3 + rng.normal(0, 0.05)), np.exp(-own / 2 - 2 + rng.normal(0, 0.05))
            # R follows from the rounded D and G, as in a measured record
            d, g = float(f"{d:.7g}"), float(f"{g:.7g}")
            layers.append(make_layer(k, 4, name, d=d, g=g, r=d / g))
        variants[variant] = layers
    fields = {
        "model": {
            "weights": {"source": "checkpoint", "sha256": f"{i:064x}"},
            "parameters": 10_000 + 977 * i,
            "family": f"family{i}",
        },
        "test_error": {"value": math.exp(quality - 2)},
        "train_error": 0.0,
        **changes,
    }
    return make_record(
        spec or f"net{i:02d}", dataset, names=names, variants=tuple(variants), **fields
    ).model_copy(update={"variants": variants})


def written(folder: Path, records: list[Record]) -> Path:
    for record in records:
        write_record(folder / "records", record)
    return folder


def build(folder: Path, **choices) -> Leaderboard:
    return build_leaderboard(folder, Choices(**{"resamples": 200, **choices}))


@pytest.fixture(scope="module")
def records() -> list[Record]:
    """Twelve networks, six on noisy images, two of another delta, one on other data."""
    clean = [trained(i) for i in range(12)]
    noisy = [trained(20 + i, protocol={"corruption_sigma": 0.25}) for i in range(6)]
    other = [trained(30 + i, protocol={"delta": 2.0}) for i in range(2)]
    return [*clean, *noisy, *other, trained(40, dataset="folder")]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, records) -> Path:
    return written(tmp_path_factory.mktemp("board"), records)


@pytest.fixture(scope="module")
def board(folder) -> Leaderboard:
    return build(folder)


# ---- names


def test_one_network_at_two_sizes_has_two_names(tmp_path):
    """The size stands where it tells networks apart, and nowhere else."""
    spec = "nets.py:small:width=2"
    records = [trained(i, spec if i < 2 else None) for i in range(6)]
    shown = {**records[0].model.input.model_dump(), "height": 128, "width": 160}
    model = records[0].model.model_copy(update={"input": InputSpec(**shown)})
    board = build(written(tmp_path, [make_record(spec, "cifar10", model=model), *records[1:]]))
    names = sorted(board.groups[0].models["model"])
    assert names[-2:] == ["small:width=2 (nets.py), 128 x 160", "small:width=2 (nets.py), 224 x 224"]
    assert not any(" x " in name for name in names[:-2])


# ---- groups


def test_the_two_units_of_delta_are_never_mixed(tmp_path):
    """As numbers they are equal; boards show both, each by itself."""
    plain = [trained(i) for i in range(6)]
    at_side = [trained(20 + i, protocol={"reference_side": 224}) for i in range(5)]
    board = build(written(tmp_path, [*plain, *at_side]))
    assert [len(group.models) for group in board.groups] == [6, 5]
    assert [group.title for group in board.groups] == [
        "cifar10, val, delta in pixels of each input",
        "cifar10, val, delta in pixels at a side of 224",
    ]
    assert board.groups[1].fields["reference side"] == "224"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ([{}, {"protocol": {"delta": 2.0}}], ["delta: 1", "delta: 2"]),
        (
            [{}, {"protocol": {"delta": 2.0, "cut": 5}}, {"protocol": {"cut": 5}}],
            ["delta: 1, cut: 3", "delta: 2, cut: 5", "delta: 1, cut: 5"],
        ),
        ([{"protocol": {"draws": "x"}}, {}], ["random draws: x", "random draws: numpy's Philox4x64-10"]),
        (
            [
                {"data": {"parameters": {"xi": 14.0, "gap": 2.0}}},
                {"data": {"parameters": {"xi": 7.0, "gap": 2.0}}},
            ],
            ["xi: 14", "xi: 7"],
        ),
        (
            [{"data": {"n": 500}}, {"data": {"n": 50}}],
            ["images: 500 random, seed 0", "images: 50 random, seed 0"],
        ),
        (
            [{"data": {"sample_sha256": "a" * 64}}, {"data": {"sample_sha256": "b" * 64}}],
            ["protocol %s, images aaaaaaaa", "protocol %s, images bbbbbbbb"],
        ),
    ],
)
def test_titles_say_in_words_what_tells_groups_apart(changes, expected):
    """As few fields as it takes; a hash where no field does; the anchor is a hash of them all."""
    records = [trained(0, **fields) for fields in changes]
    named = [text % records[0].protocol.sha256[:8] if "%s" in text else text for text in expected]
    assert titles(records) == [f"cifar10, val, {text}" for text in named]
    assert titles([*records, trained(1, protocol={"corruption_sigma": 0.5})])[-1] == (
        "cifar10, val, noise on the images, sigma = 0.5"
    )
    assert titles(records[:1]) == ["cifar10, val"]


def test_comparable_records_are_put_together(board):
    assert [len(group.models) for group in board.groups] == [12, 6]
    assert board.main is board.groups[0]
    assert board.main.title == "cifar10, val"
    assert board.groups[1].title == "cifar10, val, noise on the images, sigma = 0.25"
    assert len({group.slug for group in board.groups}) == 2
    assert len(board.records) == 18


def test_the_rest_is_listed_with_what_differs(board):
    rows = board.not_comparable
    assert sorted(rows["model"]) == ["net30", "net31", "net40"]
    reasons = dict(zip(rows["model"], rows["reason"], strict=True))
    assert reasons["net30"] == reasons["net31"] == "delta: 2 instead of 1"
    assert reasons["net40"] == "data set: folder instead of cifar10"


def test_each_thing_that_may_differ_is_named(tmp_path):
    odd = {
        "cut": trained(50, protocol={"cut": 2}),
        "split": trained(51, data={"split": "test"}),
        "images: seed 1 instead of 0": trained(52, data={"seed": 1, "sample_sha256": "ef" * 32}),
        "images: other files": trained(53, data={"sample_sha256": "ee" * 32}),
        "parameters": trained(54, data={"parameters": {"xi": 11}}),
        "layers": trained(55, protocol={"layers": ["convs"]}),
    }
    board = build(written(tmp_path, [*(trained(i) for i in range(5)), *odd.values()]))
    reasons = dict(zip(board.not_comparable["model"], board.not_comparable["reason"], strict=True))
    for word, record in odd.items():
        assert reasons.pop(record.model.spec).startswith(word)
    assert not reasons


def test_models_are_sorted_and_hold_the_records_values(board, records):
    models = board.main.models
    assert list(models["error"]) == sorted(models["error"])
    by_key = {record.key: record for record in records}
    for row in models.to_dict("records"):
        record = by_key[row["key"]]
        assert (row["d"], row["r"], row["error"]) == (
            record.output.d,
            record.output.r,
            record.test_error.value,
        )
        assert row["file"] == record_path("records", record).as_posix()


def test_correlations_are_those_of_the_table_of_records(folder, board):
    truth = correlate(read_records(folder / "records"), resamples=200)
    truth = truth[truth["group"] == 0].reset_index(drop=True)
    found = board.main.correlations
    assert list(found["measure"]) == list(truth["measure"])
    for name in ("pearson", "pearson_low", "p_corrected", "exponent_high", "kendall"):
        assert list(found[name]) == pytest.approx(list(truth[name]), rel=1e-6, nan_ok=True)


def test_records_left_out_are_shown_apart(tmp_path):
    odd = [
        trained(60, train_error=0.2),
        trained(61, trained=False),
        trained(62, test_error={"value": 0.0}),
        trained(
            63, test_error={"value": None, "stderr": None, "n": None, "source": None, "reason": "no labels"}
        ),
    ]
    folder = written(tmp_path, [*(trained(i) for i in range(6)), *odd])
    main = build(folder).main
    assert list(main.left_out["model"]) == ["net60", "net61", "net62", "net63"]
    assert main.models["in_fit"].sum() == len(main.points) == 6
    assert len(main.models) == 10
    asked = build(folder, include_unfitted=True)
    assert list(asked.main.left_out["model"]) == ["net61", "net62", "net63"]
    assert "above 1 %" in asked.notes[0]


def test_groups_that_differ_in_noise_alone_are_a_series(board):
    (series,) = board.series
    assert list(series.rows["sigma"]) == [0.0] * 3 + [0.25] * 3
    assert list(series.rows["measure"]) == ["d", "g", "r"] * 2
    for group, rows in zip(board.groups, (series.rows[:3], series.rows[3:]), strict=True):
        original = group.correlations[group.correlations["variant"] == "original"]
        assert list(rows["pearson"]) == list(original["pearson"])


def test_depth_curves_end_with_the_correlation_at_the_output(board):
    rows = board.main.by_depth
    rows = rows[(rows["variant"] == "original") & (rows["depth"] == 1.0)].set_index("measure")
    for row in board.main.correlations.to_dict("records"):
        if row["variant"] == "original":
            assert rows.loc[row["measure"], "pearson"] == pytest.approx(row["pearson"], abs=1e-6)
    assert 0 < board.main.from_depth["r"] <= 1


def test_neither_names_nor_order_of_files_matter(folder, records, board, tmp_path):
    """Only `file`, where the record lies, tells them apart."""
    for place, record in enumerate(reversed(records)):
        path = write_record(tmp_path / "records", record)
        path.rename(path.with_name(f"{place}.{record.key[:12]}.json"))
    other = build(tmp_path)
    for mine, their in zip(board.groups, other.groups, strict=True):
        pd.testing.assert_frame_equal(mine.models.drop(columns="file"), their.models.drop(columns="file"))
        for name in ("points", "correlations", "comparisons", "by_depth", "fits"):
            pd.testing.assert_frame_equal(getattr(mine, name), getattr(their, name))


def test_faulty_files_are_named_and_the_rest_is_built(tmp_path, records):
    written(tmp_path, records[:6])
    (tmp_path / "records" / "foreign.json").write_text("[]")
    half = next((tmp_path / "records").rglob("net00*.json"))
    half.write_text(half.read_text()[:700])
    board = build(tmp_path)
    assert sorted(path.name for path, _ in board.faulty) == sorted(["foreign.json", half.name])
    assert len(board.main.models) == 5
    assert "`foreign.json`" in markdown(board)


def test_a_folder_without_records_is_wrong_use(tmp_path):
    with pytest.raises(UsageError, match="no folder"):
        build(tmp_path)
    (tmp_path / "records").mkdir()
    with pytest.raises(UsageError, match="no records"):
        build(tmp_path)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_few_networks_make_a_board_without_intervals(tmp_path, count):
    folder = written(tmp_path, [trained(i) for i in range(count)])
    board = build(folder)
    assert board.main.verdict.startswith(f"Undecided: {count} network")
    few, some = "at least 3 are needed, and 5 for their intervals.", "an interval needs at least 5."
    assert (few in board.main.verdict, some in board.main.verdict) == (count < 3, count >= 3)
    assert board.main.correlations["pearson_low"].isna().all()
    assert board.main.fits.empty
    page = markdown(board, board_charts(board))
    assert "too few" in page
    assert ("### Correlation with" in page) == ("### Prediction" in page) == (count >= 3)
    assert not re.search(r"- \| - \| - \| - \| - \|", page) or count >= 3  # no table without a value


def test_a_group_without_any_usable_network_is_still_shown(tmp_path):
    folder = written(tmp_path, [trained(i, trained=False) for i in range(3)])
    board = build(folder)
    assert board.main.verdict.startswith("Undecided")
    assert len(board.main.left_out) == 3
    write_board(board, folder)
    assert "random weights" in (folder / "README.md").read_text()


# ---- verdicts


def tables(r=(0.9, 0.8, 0.95), d=(0.6, 0.3, 0.8), answer="yes", n=20, init=None):
    names = {"d": d, "g": (-0.5, -0.7, -0.2), "r": r}
    rows = [("original", name, *values) for name, values in names.items()]
    rows += [("init", "r", *init)] if init else []
    columns = ["variant", "measure", "pearson", "pearson_low", "pearson_high"]
    frame = pd.DataFrame(rows, columns=columns).assign(
        n=n, note="", families=9, within=math.nan, within_p=math.nan
    )
    frame["family_low"], frame["family_high"] = frame["pearson_low"], frame["pearson_high"]
    excluded = (frame["pearson_low"] > 0) | (frame["pearson_high"] < 0)
    frame["p_corrected"] = [0.01 if clear else 0.3 for clear in excluded]
    for name in ("exponent", "partial"):
        for end in ("", "_low", "_high"):
            frame[name + end] = frame["pearson" + end]
    low = {"yes": 0.1, "no": -0.4, "undecided": -0.1}[answer]
    p = 0.4 if answer == "undecided" else 0.02
    pairs = [("original", rival, n, low + 0.1, low, low + 0.2, p, answer) for rival in "dg"]
    names = ["variant", "rival", "n", "difference", "low", "high", "p", "answer"]
    return frame, pd.DataFrame(pairs, columns=names)


def test_a_clear_verdict():
    words = verdict(*tables(), {"d": 1.0, "g": None, "r": 0.6})
    for part in (
        "Over 20 networks of 9 families",
        "0.90 (0.80 to 0.95)",
        "better than D",
        "better than G",
        "depth 0.6 on",
    ):
        assert part in words
    assert "undecided" not in words


@pytest.mark.parametrize(
    ("answer", "part"), [("no", "worse than D"), ("undecided", "better than D is undecided")]
)
def test_what_the_comparison_does_not_allow_is_not_said(answer, part):
    words = verdict(*tables(answer=answer), {"r": None})
    assert part in words
    assert "correlates better than D:" not in words
    assert "depth" not in words


def test_a_test_that_fails_decides_nothing():
    words = verdict(*tables(r=(0.3, -0.2, 0.7)), {"r": None})
    assert "undecided (p = 0.3 corrected for all tests of the table)" in words
    assert "against the paper" in verdict(*tables(r=(-0.6, -0.8, -0.3)), {"r": None})


def test_an_interval_that_excludes_zero_where_the_corrected_test_does_not_is_explained():
    correlations, comparisons = tables(r=(0.9, 0.3, 0.99))
    of_r = (correlations["variant"] == "original") & (correlations["measure"] == "r")
    correlations.loc[of_r, "p_corrected"] = 0.11
    words = verdict(correlations, comparisons, {"r": None})
    assert "undecided (p = 0.1 corrected for all tests of the table, though its interval alone" in words
    correlations.loc[of_r, "family_low"] = -0.1
    assert "though" not in verdict(correlations, comparisons, {"r": None})


def test_a_sign_against_the_papers_is_told():
    assert "larger D err less, against" in verdict(*tables(d=(-0.6, -0.8, -0.2)), {"r": None})
    assert "against" not in verdict(*tables(d=(-0.3, -0.8, 0.2)), {"r": None})
    assert "against" not in verdict(*tables(), {"r": None})


def test_a_correlation_that_turns_inside_of_families_is_not_the_networks_own():
    """On a board of 16 networks D went against the error over all, and with it within families."""
    correlations, comparisons = tables(d=(-0.6, -0.8, -0.2))
    correlations.loc[0, ["within", "within_p"]] = 0.89, 0.02
    words = verdict(correlations, comparisons, {"r": None})
    assert "larger D err less" not in words
    assert (
        "Within families it is the other way for D: rho = 0.89 (p = 0.02), against -0.60 over all." in words
    )
    correlations.loc[0, "within_p"] = 0.2
    assert "Within families" not in verdict(correlations, comparisons, {"r": None})


def test_an_interval_without_its_test_says_nothing():
    correlations, comparisons = tables(init=(0.6, 0.3, 0.8))
    words = verdict(correlations.assign(p_corrected=0.06), comparisons, {"d": 1.0, "g": None, "r": 0.6})
    for part in ("err less", "depth 0.6", "seen too"):
        assert part not in words


def test_too_few_families_decide_nothing():
    correlations, comparisons = tables()
    correlations = correlations.assign(p_corrected=math.nan, families=2)
    words = verdict(correlations, comparisons, {"r": 0.6})
    assert words == (
        "Undecided: over 20 networks of 2 families rho(test error, R) = 0.90, and an interval needs at least "
        "3 families."
    )


def test_initialisation_is_set_beside():
    assert "cannot be told from none" in verdict(*tables(init=(0.1, -0.3, 0.5)), {"r": None})
    assert "seen too" in verdict(*tables(init=(0.6, 0.3, 0.8)), {"r": None})


def test_networks_that_did_not_fit_their_training_set_are_told():
    correlations, comparisons = tables()[:2]
    some, none = (verdict(correlations, comparisons, {"r": None}, unfitted) for unfitted in (3, 20))
    assert "3 of the 20 networks do not fit their training set (train error above 1 %)" in some
    assert "None of the 20 networks fits its training set" in none
    assert "fit its training" not in verdict(correlations, comparisons, {"r": None})


def test_unfitted_networks_in_the_fits_are_told_in_the_picture_and_seeds_are_one_point(tmp_path):
    """Three seeds of each of six networks: eighteen rows, six points, in the file, on the page and drawn."""
    made = [seeded(i, seed) for i in range(6) for seed in range(3)]
    board = build(written(tmp_path, made), include_unfitted=True)
    main = board.main
    assert (len(main.models), len(main.points), main.unfitted) == (18, 6, 6)
    assert set(main.points["seeds"]) == {3}
    assert main.correlations["n"].max() == 6
    assert set(main.models["model"]) == {f"net/resnet20, width {8 + i}" for i in range(6)}
    assert set(main.models["spec"]) == {"net/resnet20"}
    assert csv_text(board).count("net/resnet20, width 8") == 3
    drawn = render(board_charts(board)[f"{main.slug}-scatter"], "svg").decode()
    assert "6 networks, means over training seeds; 6 did not fit their training set" in drawn
    page = render_page(board)
    assert page.count("mean of 3 trainings") == 18  # six points in each of three charts
    assert "None of the 6 networks fits its training set" in page
    assert "None of the 6 networks fits its training set" in markdown(board)


def seeded(i: int, seed: int) -> Record:
    """One training of the i-th network, as `diffsens train` leaves it."""
    training = {"arguments": {"dims": 2, "width": 8 + i}, "seed": seed, "epochs": 3}
    first = trained(i)
    model = first.model.model_dump() | {"recipe": {"training": training}}
    model["weights"] |= {"sha256": f"{100 * i + seed:064x}"}
    return trained(i, "net/resnet20", model=model | {"spec": "net/resnet20"}, train_error=0.2)


def test_no_value_at_all():
    empty = pd.DataFrame(columns=["variant", "measure"])
    assert verdict(empty, empty, {}).startswith("Undecided")


# ---- published errors


@pytest.fixture
def results(tmp_path) -> Path:
    path = tmp_path / "results-imagenet.csv"
    path.write_text(
        "model,img_size,top1,top1_err,top5\nresnet50.a1_in1k,224,80.2,19.786,95\n"
        "resnet50.a1_in1k,288,81.2,18.779,95\nvit_small,384,83.9,16.1,97\n"
    )
    return path


def published(
    spec: str, detail: str | None = None, *, height: int = 224, dataset: str = "imagenet", **changes
):
    model = {
        "weights": {"source": "pretrained", "detail": detail, "sha256": spec.ljust(64, "0")},
        "input": make_record()
        .model.input.model_copy(update={"height": height, "width": height})
        .model_dump(),
    }
    return make_record(spec, dataset, model=model, **changes)


def test_published_errors_are_joined_by_name(results, tmp_path):
    records = {
        "resnet50": (published("resnet50", "timm/resnet50.a1_in1k"), 0.19786),
        "size": (published("resnet50.a1_in1k", height=288), 0.18779),
        "hub": (published("hf-hub:timm/vit_small", height=224), 0.161),
        "unknown": (published("resnet51"), None),
        "corrupt": (published("vit_small", protocol={"corruption_sigma": 0.1}), None),
        "other data": (published("vit_small", dataset="cifar10"), None),
        "own weights": (
            make_record(
                "vit_small", trained=None, model={"weights": {"source": "checkpoint", "sha256": "9"}}
            ),
            None,
        ),
    }
    folder = written(tmp_path / "board", [record for record, _ in records.values()])
    frame, notes = with_published(read_records(folder / "records"), read_errors(results))
    rows = frame.set_index("key")
    for name, (record, error) in records.items():
        row = rows.loc[record.key]
        assert row["error"] == (0.288 if error is None else pytest.approx(error)), name
        assert row["error_source"] == ("measured" if error is None else "published"), name
    assert len(notes) == 4
    assert any("resnet51" in note and "no row" in note for note in notes)


def test_published_errors_reach_the_board(results, tmp_path):
    folder = written(tmp_path / "board", [published("vit_small"), published("resnet51")])
    board = build(folder, errors=results)
    models = board.main.models.set_index("model")
    assert models.loc["vit_small", "error"] == 0.161
    assert math.isnan(models.loc["vit_small", "error_stderr"])
    assert board.main.fields["test errors"] == "1 measured, 1 published"
    assert "no published error for resnet51" in board.notes[0]


@pytest.mark.parametrize(
    ("content", "word"),
    [
        ("name,top1\na,1\n", "no column model and top1_err"),
        ("model,top1_err\na,high\n", "no percentage"),
        ("model,top1_err\na,120\n", "no percentage"),
        ("", "cannot read"),
        (None, "cannot read"),
    ],
)
def test_bad_results_files_are_refused(tmp_path, content, word):
    path = tmp_path / "errors.csv"
    if content is not None:
        path.write_text(content)
    with pytest.raises(UsageError, match=word):
        read_errors(path)


# ---- text


def test_the_csv_file_holds_every_record_sorted(board):
    rows = list(csv.DictReader(io.StringIO(csv_text(board))))
    assert len(rows) == 18
    assert [row["group"] for row in rows] == [board.groups[0].title] * 12 + [board.groups[1].title] * 6
    errors = [float(row["error"]) for row in rows]
    assert errors == sorted(errors[:12]) + sorted(errors[12:])
    assert [float(row["r"]) for row in rows[:12]] == list(board.main.models["r"])
    assert "\r" not in csv_text(board)


def test_the_page_in_markdown_shows_the_numbers(board):
    page = markdown(board, board_charts(board), "CONTRIBUTING.md")
    assert page.startswith(MARKER)
    row = board.main.correlations.to_dict("records")[2]
    assert f"| original | R | 12 | 12 | {row['pearson']:.2f} |" in page
    for model in board.main.models["model"]:
        assert f"`{model}`" in page
    assert "delta: 2 instead of 1" in page
    assert len(re.findall(r"!\[[^\]]+\]\(figures/[\w.-]+\.svg\)", page)) == 5
    assert "(CONTRIBUTING.md)" in page
    assert "CONTRIBUTING" not in markdown(board)
    assert "![" not in markdown(board)


def test_tables_are_whole(board):
    """Every row of a table has as many cells as its head."""
    for block in markdown(board).split("\n\n"):
        lines = [line for line in block.splitlines() if line.startswith("|")]
        assert len({line.count(" | ") for line in lines}) <= 1


def test_hostile_names_are_text(tmp_path):
    folder = written(tmp_path, [*(trained(i) for i in range(5)), trained(9, HOSTILE)])
    board = build(folder)
    page = markdown(board)
    line = next(line for line in page.splitlines() if "onerror" in line)
    assert "<img" not in page
    assert "](http" not in line
    assert line.count(" | ") == page.splitlines()[page.splitlines().index(line) - 1].count(" | ")
    write_board(board, folder)
    for name in ("README.md", "index.html"):
        assert "<img src=x" not in (folder / name).read_text()
    for figure in (folder / "figures").iterdir():
        assert "<img" not in figure.read_text()


def test_escaped_text():
    assert code("a`b") == "<code>a&#96;b</code>"
    assert code("line\nbreak\x1b[31m") == "`line break [31m`"
    assert code("") == "<code></code>"
    assert text("https://x.y www.z") == "&#104;ttps://x.y &#119;ww.z"
    assert link("records/a b#?(c).json") == "records/a%20b%23%3F%28c%29.json"


# ---- files


def test_rebuilding_gives_the_same_bytes(tmp_path, records):
    folder, copy = written(tmp_path / "here", records[:6]), written(tmp_path / "there", records[5::-1])
    first = {path.relative_to(folder): path.read_bytes() for path in write_board(build(folder), folder)}
    again = {path.relative_to(copy): path.read_bytes() for path in write_board(build(copy), copy)}
    assert first == again
    assert {path.name for path in first} >= {"leaderboard.csv", "README.md", "index.html"}
    assert str(folder).encode() not in b"".join(first.values())


def test_somebody_elses_readme_is_not_overwritten(tmp_path):
    folder = written(tmp_path, [trained(i) for i in range(5)])
    (folder / "README.md").write_text("# My project\n")
    with pytest.raises(UsageError, match="would be lost"):
        write_board(build(folder), folder)
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "records"]


def datasets(chart) -> dict:
    return {name: json.loads(rows) for name, rows in chart.to_dict()["datasets"].items()}


def test_charts_show_the_tables(board):
    charts = board_charts(board)
    main = board.main
    assert set(charts) == {
        *(f"{group.slug}-{kind}" for group in board.groups for kind in ("scatter", "depth")),
        board.series[0].slug,
    }
    data = datasets(charts[f"{main.slug}-scatter"])
    assert [row["r"] for row in data["points"]] == list(main.points["r"])
    assert [row["high"] for row in data["fit_g"]] == list(main.fits[main.fits["measure"] == "g"]["high"])
    drawn = render(charts[f"{main.slug}-scatter"], "svg").decode()
    row = main.correlations.to_dict("records")[2]
    assert f"rho = {row['pearson']:.2f}" in drawn
    data = datasets(charts[f"{main.slug}-depth"])
    rows = main.by_depth[main.by_depth["measure"] == "r"]
    assert [row["pearson"] for row in data["r"]] == list(rows["pearson"])
    assert len(datasets(charts[board.series[0].slug])["rows"]) == 6


def test_points_of_a_scatter_have_bars_and_families(board):
    group = board.main
    chart = scatter_chart(group, Drawing(measures=("r",), points="families"))
    rows, points = datasets(chart)["points"], group.points.to_dict("records")
    for row, point in zip(rows, points, strict=True):
        for name in ("error", "r"):
            value, stderr = point[name], point[f"{name}_stderr"]
            assert row[f"{name}_high"] == value + (0 if math.isnan(stderr) else stderr)
            assert row[f"{name}_low"] <= value
    marks = [mark["type"] for mark in parts(chart.to_dict(), "mark")]
    assert marks.count("rule") == 4  # across and upright, of networks in the fit and of others
    assert [row["model"] for row in datasets(chart)["apart"]] == list(
        group.models.loc[~group.models["in_fit"], "model"]
    )
    assert {row["text"] for row in datasets(chart)["names_r"]} <= set(group.points["model"])
    families = {row["variant"] for row in rows}
    assert families == set(group.points["family"])
    drawn = render(chart, "svg").decode()
    assert "R = D / G" in drawn
    assert "G (noise)" not in drawn
    assert all(name in drawn for name in families)


def test_small_families_share_a_look_where_there_are_many(board, monkeypatch):
    monkeypatch.setattr("timm_diffsens.results.report.theme.MOST_FAMILIES", 3)
    chart = scatter_chart(board.main, Drawing(points="families"))
    told = [row["variant"] for row in datasets(chart)["points"]]
    assert len(set(told)) == 3
    assert told.count("other families") == len(board.main.points) - 2


def test_points_of_a_scatter_have_their_names(board):
    points = board.main.points.assign(r=board.main.points["r"].where(board.main.points.index > 0))
    group = replace(board.main, points=points)  # one has no R, and no place
    chart = scatter_chart(group, Drawing(Layout("85mm"), ("r",), "names"))
    drawn = render(chart, "svg").decode()
    assert all(name in drawn for name in group.points["model"][1:])
    assert group.title not in drawn  # a caption says it
    assert float(re.search(r'width="([0-9.]+)"', drawn)[1]) == pytest.approx(85 * 72 / 25.4, abs=6)


# ---- submissions


def test_a_new_record_of_the_boards_kind_is_fit(board, tmp_path):
    assert submission_faults(write_record(tmp_path, trained(70)), board) == []
    assert (
        submission_faults(write_record(tmp_path, trained(71, protocol={"corruption_sigma": 0.25})), board)
        == []
    )
    assert submission_faults(write_record(tmp_path, trained(72)), None) == []


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        (
            {"protocol": {"delta": 2.0}},
            "not comparable with the board's 'cifar10, val': delta: 2 instead of 1",
        ),
        ({"protocol": {"reference_side": 224}}, "reference side: 224 instead of its default"),
        ({"data": {"split": "train"}}, "split: train instead of val"),
        ({"trained": False}, "random"),
        ({"test_error": {"value": None, "source": None, "stderr": None}}, "no test error"),
        ({"test_error": {"n": None}}, "how many images"),
        ({"data": {"n": 50}}, "measured on 50 images"),
        ({"key": "0" * 64}, "key does not follow"),
    ],
)
def test_an_unfit_record_is_refused_with_the_reason(board, tmp_path, changes, word):
    found = submission_faults(write_record(tmp_path, trained(80, **changes)), board)
    assert any(word in fault for fault in found), found


def test_implausible_layers_are_refused(board, tmp_path):
    record = trained(81)
    layers = list(record.variants["original"])
    layers[1] = make_layer(1, 4, "conv2", d=0.2, g=0.1, r=1.5)
    layers[2] = make_layer(2, 4, "conv3", d=2e4, g=1e4, r=2.0)
    path = write_record(tmp_path, record.model_copy(update={"variants": {"original": layers}}))
    found = " ".join(submission_faults(path, board))
    assert "conv2: r is 1.5, but d / g is 2" in found
    assert "conv3: D is 20000" in found


def test_a_record_that_is_there_already_is_refused(board, folder, tmp_path):
    path = write_record(tmp_path, trained(3))
    assert "has a record of this key" in submission_faults(path, board)[0]
    own = next((folder / "records").rglob("net03.*.json"))
    without = build_leaderboard(folder, Choices(resamples=100), without=[own])
    assert submission_faults(own, without) == [], "the change may have put it in its place"


def test_a_file_that_is_no_record_is_refused(board, tmp_path):
    path = tmp_path / "half.json"
    path.write_text('{"schema_version": 1, ')
    assert "half-written" in submission_faults(path, board)[0]


def test_an_option_that_only_one_protocol_has_is_named(tmp_path):
    odd = trained(50, protocol={"options": {"twist": 0.5}})
    board = build(written(tmp_path, [*(trained(i) for i in range(5)), odd]))
    assert list(board.not_comparable["reason"]) == ["twist: 0.5 instead of its default"]


def test_a_network_without_a_training_error_is_refused_where_all_others_state_theirs(folder, board, tmp_path):
    """It decides who is in the fits; where others do not state it either, the network is taken."""
    new = trained(50, train_error=None)
    (fault,) = submission_faults(write_record(tmp_path / "records", new), board)
    assert "--train-error" in fault
    published = [trained(60 + i, train_error=None if i == 0 else 0.0) for i in range(6)]
    other = build(written(tmp_path / "other", published))
    assert submission_faults(write_record(tmp_path / "records", new), other) == []
