"""Variants that this package does not have: read, shown and drawn everywhere; all others stay as they are."""

import csv
import io
import json
import re
from pathlib import Path

import altair as alt
import numpy as np
import pytest
from chart_parts import parts
from pydantic import ValidationError
from record_factory import VARIANTS, make_layer, make_record

from timm_diffsens import registry
from timm_diffsens.registry import Look
from timm_diffsens.results.page.build import render_page
from timm_diffsens.results.page.record_data import contents
from timm_diffsens.results.records.store import load_record, read_records, write_record
from timm_diffsens.results.report.board_charts import board_charts
from timm_diffsens.results.report.board_text import csv_text, markdown
from timm_diffsens.results.report.record_chart import record_figure
from timm_diffsens.results.report.summary import summary
from timm_diffsens.results.report.theme import theme_of, theme_of_records
from timm_diffsens.results.stats.correlate import correlate
from timm_diffsens.results.stats.leaderboard import Choices, Leaderboard, build_leaderboard
from timm_diffsens.schema.records import Record

BLURRED, ROTATED = "blur.py:blurred:sigma=2", "a lab's </style><b>own"
NAMES = ["conv", "fc"]


def network(i: int, *others: str) -> Record:
    """The i-th network; its numbers do not depend on which other variants it has."""
    values = {
        variant: [
            make_layer(k, 2, name, d=float(d), g=1.0, r=float(d))
            for k, (name, d) in enumerate(zip(NAMES, draws(i, variant), strict=True))
        ]
        for variant in ("original", "init", *others)
    }
    record = make_record(
        f"net{i}",
        "cifar10",
        names=NAMES,
        model={"weights": {"source": "checkpoint", "sha256": f"{i:064x}"}, "parameters": 1000 + i},
        test_error={"value": float(draws(i, "error")[0])},
        train_error=0.0,
        variants=tuple(values),
    )
    return record.model_copy(update={"variants": {name: values[name] for name in record.variants}})


def draws(i: int, purpose: str) -> np.ndarray:
    rng = np.random.default_rng([i, *purpose.encode()])
    return np.exp(rng.normal(-2, 0.5, 2)).round(6)


def board_of(folder: Path, records: list[Record]) -> Leaderboard:
    for record in records:
        write_record(folder / "records", record)
    return build_leaderboard(folder, Choices(resamples=100))


@pytest.fixture(scope="module")
def plain(tmp_path_factory) -> Leaderboard:
    return board_of(tmp_path_factory.mktemp("plain"), [network(i) for i in range(6)])


@pytest.fixture(scope="module")
def mixed(tmp_path_factory) -> Leaderboard:
    """The same networks, five of which have a variant more, and one of these another."""
    others = {**dict.fromkeys(range(4), (BLURRED,)), 4: (ROTATED, BLURRED)}
    records = [network(i, *others.get(i, ())) for i in range(6)]
    return board_of(tmp_path_factory.mktemp("mixed"), records)


def test_a_record_is_read_back_with_built_in_variants_first(tmp_path):
    record = network(0, "zoom", BLURRED)
    assert list(record.variants) == ["original", "init", BLURRED, "zoom"]
    assert load_record(write_record(tmp_path, record)) == record


@pytest.mark.parametrize("name", ["", "x" * 201, "two\nlines", "\x1b[2J"])
def test_names_that_cannot_be_shown_are_refused(name):
    with pytest.raises(ValidationError):
        network(0, name)


def test_tables_have_further_columns_only_where_a_record_has_them(plain, mixed):
    before, after = (
        list(csv.DictReader(io.StringIO(csv_text(board), newline=""))) for board in (plain, mixed)
    )
    more = [name for name in after[0] if name not in before[0]]
    assert more == [
        f"{variant}_{column}"
        for variant in (ROTATED, BLURRED)
        for column in ("d", "g", "r", "d_stderr", "g_stderr", "r_stderr")
    ]
    ours = {row["model"]: row for row in after}
    for row in before:
        changed = {name for name in row if row[name] != ours[row["model"]][name]}
        assert changed <= {"key", "file"}
    expected = network(0, BLURRED).variants[BLURRED][-1].r
    assert float(ours["net0"][f"{BLURRED}_r"]) == expected
    assert ours["net5"][f"{BLURRED}_r"] == ""


def test_the_built_in_columns_are_always_there(tmp_path):
    write_record(tmp_path, network(0))
    frame = read_records(tmp_path)
    assert [c for c in frame.columns if c.endswith("_r")] == [f"{v}_r" for v in VARIANTS[1:]]


def test_correlations_of_an_unknown_variant_are_those_of_its_values(tmp_path, mixed):
    rows = mixed.main.correlations.set_index(["variant", "measure"])
    used = [record for _, record in mixed.records if BLURRED in record.variants]
    x = np.log([record.variants[BLURRED][-1].r for record in used])
    y = np.log([record.test_error.value for record in used])
    row = rows.loc[(BLURRED, "r")]
    assert row["n"] == 5
    assert row["pearson"] == pytest.approx(np.corrcoef(x, y)[0, 1], rel=1e-6)
    assert (mixed.main.by_depth["variant"] == BLURRED).any()
    assert (mixed.main.comparisons["variant"] == BLURRED).any()
    for _, record in mixed.records:
        write_record(tmp_path, record)
    assert BLURRED in set(correlate(read_records(tmp_path), resamples=100)["variant"])


def test_without_it_all_numbers_of_the_others_stay(plain, mixed):
    columns = ["variant", "measure", "n", "pearson", "pearson_low", "exponent_high"]
    known = mixed.main.correlations[mixed.main.correlations["variant"].isin(VARIANTS)]
    assert known[columns].equals(plain.main.correlations[columns])


def test_texts_show_it(mixed):
    text = markdown(mixed)
    assert f"R, {BLURRED}" in text
    assert re.search(rf"^\| {re.escape(BLURRED)} \| R ", text, re.MULTILINE)
    assert "<b>" not in text
    record = network(0, BLURRED)
    assert f"The variant {BLURRED} gives a" in summary(record)
    assert list(contents(record)["variants"]) == ["original", "init", BLURRED]


def drawn(chart: alt.TopLevelMixin) -> list[dict[str, Look]]:
    """How each part of a chart draws the variants."""
    scales = [
        [e["scale"] for e in parts(chart.to_dict(), channel) if "scale" in e and e["field"] == "variant"]
        for channel in ("color", "strokeDash", "shape")
    ]
    (colours, dashes, points) = ({json.dumps(s) for s in found} for found in scales)
    assert len(colours) == len(dashes) == len(points) == 1
    colour, dash, point = (json.loads(one.pop()) for one in (colours, dashes, points))
    assert colour["domain"] == dash["domain"] == point["domain"]
    looks = zip(colour["range"], map(tuple, dash["range"]), point["range"], strict=True)
    return {name: Look(*look) for name, look in zip(colour["domain"], looks, strict=True)}


def test_figures_draw_it_as_the_theme_says(mixed):
    theme = theme_of_records(record for _, record in mixed.records)
    chart = next(c for name, c in board_charts(mixed).items() if name.endswith("depth"))
    found = drawn(chart)
    assert BLURRED in found
    assert found == {name: theme[name] for name in found}
    record = network(0, BLURRED)
    assert drawn(record_figure(record))[BLURRED] == theme_of_records([record])[BLURRED]


def test_the_page_shows_it_and_escapes_its_name(mixed):
    page = render_page(mixed)
    theme = theme_of_records(record for _, record in mixed.records)
    data = json.loads(re.search(r'id="diffsens-data">(.*?)</script>', page)[1])
    assert set(data["variants"]) == set(theme) == {*VARIANTS, BLURRED, ROTATED}
    styles = {name: look["style"] for name, look in data["variants"].items()}
    assert len(set(styles.values())) == len(styles)
    style = re.search(r"<style>(.*?)</style>", page, re.DOTALL)[1]
    for name, look in theme.items():
        assert re.fullmatch(r"[a-z0-9-]+", styles[name])
        assert f"--{styles[name]}: {look.colour}" in style
        assert f".line.{styles[name]} {{" in style
        assert data["variants"][name]["dash"] == " ".join(map(str, look.dash))
    assert f"var(--{styles[BLURRED]})" in page  # of its line over depth
    assert f"R, {BLURRED}</th>" in page
    assert page.count("</style>") == 1
    assert "<b>" not in page


# ---- looks


def test_unknown_variants_are_told_apart_by_colour_dash_and_point():
    many = [f"lab{i}.py:thing" for i in range(5)]
    theme = theme_of([*VARIANTS, *many])
    assert list(theme) == [*VARIANTS, *many]
    for part in ("colour", "dash", "point"):
        values = [getattr(look, part) for look in theme.values()]
        assert len(set(values)) == len(values)
    more = theme_of(f"lab{i}.py:thing" for i in range(20))
    assert len(set(more.values())) == 20


def test_a_look_depends_on_the_variants_alone():
    alone, beside = theme_of([BLURRED]), theme_of(["init", BLURRED])
    assert alone[BLURRED] == beside[BLURRED]
    assert theme_of(["original", "init"])["init"] == registry.find("variants", "init").look


STATED = f"{BLURRED}@{'ab' * 6}"  # with the start of the hash of its source


def stating(colour: str, dash: tuple[int, ...], point: str) -> Record:
    """A record that says how its variant is drawn."""
    look = {"colour": colour, "dash": dash, "point": point}
    extension = {"kind": "variant", "spec": BLURRED, "sha256": "ab" * 32, "look": look}
    return make_record(variants=("original", STATED), extensions=[extension])


def test_what_a_record_says_of_a_look_is_followed():
    found = theme_of_records([stating("#123456", (5, 1), "wedge")])[STATED]
    assert found == Look("#123456", (5, 1), "wedge")


@pytest.mark.parametrize(
    "look",
    [("#123456", (), "circle"), ("#123456", (-1, 2), "circle"), ("#123456", (1, 2), "</script>")],
)
def test_a_look_that_cannot_be_drawn_is_not(look):
    assert theme_of_records([stating(*look)])[STATED] == theme_of([STATED])[STATED]


@pytest.mark.parametrize("colour", ["red; } body { display: none", "#12345"])
def test_a_colour_is_a_colour(colour):
    with pytest.raises(ValidationError):
        stating(colour, (1, 0), "circle")


def test_nobody_changes_how_a_built_in_variant_is_drawn_or_copies_it():
    ours = registry.find("variants", "original").look
    record = stating("#123456", (5, 1), "wedge")
    renamed = record.extensions[0].model_copy(update={"spec": "original"})
    assert theme_of_records([record.model_copy(update={"extensions": [renamed]})])["original"] == ours
    same = stating(ours.colour, ours.dash, ours.point)
    assert theme_of_records([same])[STATED] == theme_of([STATED])[STATED]
