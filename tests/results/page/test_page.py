"""The page as a file: complete, self-contained, harmless whatever a record holds, and always the same."""

import base64
import hashlib
import json
import math
import re
import zlib
from functools import cache
from html.parser import HTMLParser
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from board_factory import FOUR, make_board, make_group, make_series, random_record
from record_factory import VARIANTS, make_record, null_layer, replace_layer

from timm_diffsens.results.numbers import PAGE
from timm_diffsens.results.page import svg as page_svg
from timm_diffsens.results.page.build import SCRIPTS, render_page
from timm_diffsens.results.page.record_data import deflated, pack
from timm_diffsens.results.page.scatter import log_ticks
from timm_diffsens.results.records.store import write_record
from timm_diffsens.results.report.export import render
from timm_diffsens.results.report.outliers import furthest, short_name
from timm_diffsens.results.report.theme import MOST_FAMILIES, OTHER_FAMILIES, family_looks, theme_of
from timm_diffsens.results.stats.leaderboard import Choices, build_leaderboard
from timm_diffsens.schema.records import Record

ATTACKS = [
    "</script><img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "' onmouseover='alert(1)",
    "<!--<script>",
    "{{ 7 * 7 }}{% raw %}",
    "]]></style><b>&amp;lt;",
    "javascript:alert(1)",
]
VOID = {"meta", "br", "input", "img", "link", "hr"}


class Page(HTMLParser):
    """Elements of a page, as (tag, attributes, text directly inside)."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str], list[str]]] = []
        self.open: list[int] = []
        self.hidden: set[int] = set()  # elements that are not shown, or inside one that is not
        self.unbalanced: list[str] = []
        self.feed(text)
        self.close()
        self.unbalanced += [self.elements[i][0] for i in self.open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"<{tag}> has an attribute twice"
        if "hidden" in dict(attrs) or (self.open and self.open[-1] in self.hidden):
            self.hidden.add(len(self.elements))
        self.elements.append((tag, {name: value or "" for name, value in attrs}, []))
        if tag not in VOID:
            self.open.append(len(self.elements) - 1)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag: str) -> None:
        if self.open and self.elements[self.open[-1]][0] == tag:
            self.open.pop()
        else:
            self.unbalanced.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        if self.open:
            self.elements[self.open[-1]][2].append(data)

    def all(self, tag: str, **wanted: str) -> list[tuple[dict[str, str], str]]:
        """Attributes and own text of the elements of a kind."""
        return [
            (attributes, "".join(text))
            for name, attributes, text in self.elements
            if name == tag and all(attributes.get(k.replace("_", "-")) == v for k, v in wanted.items())
        ]

    @property
    def data(self) -> dict[str, Any]:
        """What the script gets."""
        ((_, text),) = self.all("script", id="diffsens-data")
        plain: dict[str, Any] = json.loads(text)
        return plain


def unpacked(text: str) -> list[dict[str, Any]]:
    """What the browser gets from `deflated`."""
    return json.loads(zlib.decompress(base64.b64decode(text)))


def embedded_records(data: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Id of a row -> what the page has of its record."""
    parts = [unpacked(part) for part in data["parts"]]
    return {row: parts[part][place] for row, (part, place) in data["places"].items()}


def records(count: int = 12) -> list[Record]:
    return [random_record(f"family/net_{i}", i, 5) for i in range(count)]


@pytest.fixture(scope="module")
def board():
    untrained = make_record("untrained", trained=False)
    return make_board(
        [*records(), untrained],
        series=[make_series()],
        not_comparable=pd.DataFrame(
            [
                {
                    "model": "other",
                    "key": "k",
                    "file": "records/o.json",
                    "dataset": "cifar10",
                    "reason": "data set",
                }
            ]
        ),
        faulty=[(Path("some/where/half.json"), "some/where/half.json is not a record: empty file")],
        notes=["a note on the board"],
    )


@pytest.fixture(scope="module")
def text(board) -> str:
    return render_page(board)


@pytest.fixture(scope="module")
def page(text) -> Page:
    return Page(text)


# ---- one file, that asks nobody


def test_nothing_is_loaded_from_anywhere(page):
    loading = {"src", "srcset", "data", "poster", "background", "action", "formaction", "xlink:href", "ping"}
    for tag, attributes, _ in page.elements:
        assert tag not in {"link", "img", "iframe", "object", "embed", "base", "form", "image", "use"}, tag
        assert not loading & set(attributes), (tag, attributes)
        assert not [name for name in attributes if name.startswith("on") or name == "style"], attributes
    targets = [attributes["href"] for attributes, _ in page.all("a")]
    outside = [target for target in targets if not target.startswith("#")]
    assert outside == ["https://arxiv.org/abs/2210.01506"]  # to be clicked
    ids = {attributes.get("id") for _, attributes, _ in page.elements}
    assert {target[1:] for target in targets if target.startswith("#")} <= ids


def test_style_and_script_name_no_other_place(page):
    ((_, style),) = page.all("style")
    script = page.all("script")[-1][1]
    assert not re.search(r"url\(|@import|@font-face", style)
    asking = r"\bfetch\(|XMLHttpRequest|WebSocket|EventSource|sendBeacon|\bimport\b|importScripts|new Worker"
    assert not re.search(asking, script)
    # The one address is the name of the SVG namespace, which nobody looks up.
    assert re.findall(r"https?://[^\"' ]+", style + script) == ["http://www.w3.org/2000/svg"]


def test_the_script_makes_no_markup_of_text(page):
    script = page.all("script")[-1][1]
    assert not re.search(
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|\beval\b|\bFunction\(", script
    )
    assert not re.search(r"createContextualFragment|DOMParser|setHTML|setAttribute\([\"']on", script)


def test_the_policy_allows_this_script_and_this_style_alone(page, text):
    ((attributes, _),) = page.all("meta", http_equiv="Content-Security-Policy")
    policy = dict(part.strip().split(" ", 1) for part in attributes["content"].split(";"))
    assert policy["default-src"] == "'none'"
    for directive, tag in (("script-src", "script"), ("style-src", "style")):
        (content,) = [t for a, t in page.all(tag) if a.get("type") != "application/json"]
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert policy[directive] == f"'sha256-{digest}'"
    assert "unsafe" not in attributes["content"]
    # A policy holds for what comes after it.
    assert text.index("Content-Security-Policy") < min(text.index("<style"), text.index("<script"))


def test_a_hundred_networks_of_fifty_layers_fit_in_two_megabytes():
    """Four variants and spectra with random digits, which no compressor can shorten: the worst case."""
    many = render_page(make_board([random_record(f"network_{i}", i, 50, FOUR) for i in range(100)]))
    assert len(many.encode()) < 2_000_000
    assert len(Page(many).data["places"]) == 100


def test_the_charts_are_what_vega_lite_takes(board, monkeypatch):
    """They are drawn unchecked, so their specifications are checked here."""
    drawn = []
    monkeypatch.setattr(page_svg, "render", lambda chart, form: drawn.append(chart) or render(chart, form))
    render_page(board)
    assert len(drawn) >= 6
    for chart in drawn:
        chart.to_dict(validate=True)


def test_equal_boards_give_equal_bytes(board, text):
    assert render_page(board) == text
    assert "\r" not in text


def test_the_templates_are_part_of_the_package():
    folder = resources.files("timm_diffsens.results.page") / "templates"
    for name in ("page.html.j2", "page.css", *SCRIPTS):
        assert (folder / name).is_file()


# ---- complete


def test_every_record_is_in_the_table_with_its_numbers(board, page):
    rows = {a["data-model"]: a for a, _ in page.all("tr") if "data-model" in a}
    assert sorted(rows) == sorted(record.model.spec for _, record in board.records)
    values = [float(a["data-value"]) for a, _ in page.all("td") if "data-value" in a]
    for _, record in board.records:
        for number in (record.output.r, record.output.d, record.test_error.value, record.model.parameters):
            assert any(math.isclose(value, number, rel_tol=1e-6) for value in values)


def test_records_that_are_left_out_are_listed_with_reasons(page):
    cells = [text for _, text in page.all("td")]
    for expected in (
        "random weights",
        "records/o.json",
        "cifar10",
        "half.json",
        "half.json is not a record: empty file",
    ):
        assert expected in cells
    assert "a note on the board" in [text for _, text in page.all("p")]
    assert not [cell for cell in cells if "some/where" in cell]  # where it was built is nobody's business


def test_every_network_is_a_point_of_each_scatter_plot(board, page):
    points = [a for a, _ in page.all("path") if "data-point" in a]
    rows = {a["data-point"] for a, _ in page.all("tr") if "data-point" in a}
    assert len(points) == 3 * len(board.records)
    assert {a["data-point"] for a in points} == rows
    for _, record in board.records:
        assert sum(record.model.spec + ":" in a["data-tip"] for a in points) == 3
    assert sum("not in the fit: random weights" in a["data-tip"] for a in points) == 3


def test_points_lie_where_their_numbers_say():
    """Both axes are logarithmic: pixel distances are proportional to logarithms of ratios."""
    group = make_board(records(6)).groups[0]
    svg = Page(render_page(make_board(records(6))))
    by_point: dict[str, tuple[float, float]] = {}
    for a, _ in svg.all("path"):
        if ": test error" in a.get("data-tip", "") and ", R " in a["data-tip"]:
            x, y = re.match(r"translate\(([-\d.]+),([-\d.]+)\)", a["transform"]).groups()
            by_point[a["data-tip"].split(":")[0]] = (float(x), float(y))
    table = group.points.set_index("model")
    first, second, *others = by_point
    for axis, column in ((0, "r"), (1, "error")):

        def log(name: str, column: str = column) -> float:
            return math.log(table[column][name])

        scale = (by_point[second][axis] - by_point[first][axis]) / (log(second) - log(first))
        assert scale > 0 if axis == 0 else scale < 0  # pixels count downwards
        for name in others:
            expected = by_point[first][axis] + scale * (log(name) - log(first))
            # Places are rounded to 0.005 pixels; the scale, from two of them, carries that on.
            reach = abs((log(name) - log(first)) / (log(second) - log(first)))
            assert abs(by_point[name][axis] - expected) <= 0.005 * 2 * (1 + reach) + 1e-9


def numbers(column: str) -> list[float | None]:
    return [None if word == "-" else float(word) for word in column.split(" ")]


def rounded(values: list[float | None], digits: int) -> list[float | None]:
    return [None if value is None else float(f"{value:.{digits}g}") for value in values]


def test_the_embedded_data_are_those_of_the_records(board, page):
    rows = {a["data-model"]: a["id"] for a, _ in page.all("tr") if "data-model" in a}
    embedded = embedded_records(page.data)
    assert set(rows.values()) == set(embedded)
    for _, record in board.records:
        content = embedded[rows[record.model.spec]]
        assert set(content["variants"]) == set(record.variants)
        for variant, layers in record.variants.items():
            columns = content["variants"][variant]
            assert columns.get("layers", content["layers"]) == [layer.layer for layer in layers]
            depths = numbers(columns.get("depth", content["depth"]))
            assert depths == rounded([layer.depth for layer in layers], 4)
            for measure in ("d", "g", "r"):
                assert numbers(columns[measure]) == rounded([getattr(x, measure) for x in layers], 4)
                stderrs = [getattr(x, f"{measure}_stderr") for x in layers]
                assert numbers(columns[f"{measure}_stderr"]) == rounded(stderrs, 2)
        for variant, spectra in record.spectra.items():
            columns = content["spectra"][variant]
            assert columns["layers"] == [s.layer for s in spectra]
            assert numbers(columns["mean"]) == rounded([s.mean_frequency for s in spectra], 4)
            for i, spectrum in enumerate(spectra):
                assert numbers(columns["power"][i]) == rounded(spectrum.power, 4)
                assert numbers(content["grids"][columns["grid"][i]]) == rounded(spectrum.eigenvalues, 4)


def test_layers_without_a_value_stay_without():
    record = replace_layer(make_record(variants=("original",)), 2, null_layer(2, 10, "layer1.1", "constant"))
    content = unpacked(deflated([pack(record)]))[0]
    assert numbers(content["variants"]["original"]["r"])[2] is None
    assert "constant" in content["summary"]


def test_a_variant_with_layers_of_its_own_keeps_their_names():
    record = make_record(variants=("original", "mean-filter"))
    shorter = record.variants["mean-filter"][:-1]
    record = record.model_copy(update={"variants": {**record.variants, "mean-filter": shorter}})
    content = unpacked(deflated([pack(record)]))[0]
    assert content["variants"]["mean-filter"]["layers"] == content["layers"][:-1]
    assert "layers" not in content["variants"]["original"]


# ---- harmless


@cache
def page_of(text: str) -> Page:
    """A page where `text` stands in every place that a record, a file or a note may fill."""
    record = make_record(text, names=[text, "fc"], warnings=[text], data={"note": text})
    apart = {"model": text, "key": text, "file": text, "dataset": text, "reason": text}
    board = make_board(
        [record, *records(3)],
        notes=[text],
        not_comparable=pd.DataFrame([apart]),
        faulty=[(Path("f.json"), text)],
    )
    return Page(render_page(board))


@pytest.mark.parametrize("attack", ATTACKS)
def test_hostile_names_are_text(attack):
    hostile, harmless = page_of(attack), page_of("harmless")
    for part in (lambda tag, a: tag, lambda tag, a: set(a)):  # the same elements with the same attributes
        assert [part(tag, a) for tag, a, _ in hostile.elements] == [
            part(tag, a) for tag, a, _ in harmless.elements
        ]
    assert not hostile.unbalanced
    assert attack in [a.get("data-model") for a, _ in hostile.all("tr")]
    assert [text for a, text in hostile.all("span") if a.get("class") == "name"].count(attack) == 1
    (content,) = [c for c in embedded_records(hostile.data).values() if attack in c["layers"]]
    assert ["note on the images", attack] in content["facts"]


def test_file_names_that_are_no_text_are_spelt_out():
    text = render_page(make_board(records(1), faulty=[(Path("a\udcff.json"), "a\udcff.json: empty file")]))
    assert "a\\udcff.json" in text
    text.encode()  # it can be written


def test_hostile_keys_and_titles_are_text():
    attack = ATTACKS[0]
    record = make_record("a", key="\"><img src=x>'")
    listed = [(Path("records/a.json"), record)]
    group = make_group(listed, title=attack)
    page = Page(render_page(make_board([record], groups=[group, make_group(listed, title="b", slug="b")])))
    assert not page.all("img")
    assert attack in [text for _, text in page.all("h2")]
    assert attack in [text for _, text in page.all("option")]
    assert all(re.fullmatch(r"[\w.-]+", a["id"]) for _, a, _ in page.elements if "id" in a)


# ---- for everyone


def test_ids_are_unique_and_what_refers_to_them_is_right():
    listed = [(Path(f"records/{i}.json"), record) for i, record in enumerate(records(6))]
    groups = [make_group(listed, slug="one"), make_group(listed, slug="two"), make_group([], slug="none")]
    page = Page(render_page(make_board(records(6), groups=groups, series=[make_series()])))
    ids = [a["id"] for _, a, _ in page.elements if "id" in a]
    assert len(set(ids)) == len(ids)
    for tag, attributes, _ in page.elements:
        for name in ("aria-labelledby", "aria-controls", "aria-describedby", "for"):
            assert set(attributes.get(name, "").split()) <= set(ids), (tag, attributes)
    assert len(page.all("option")) == 1 + len(groups)
    # Rows of one record in two groups are two rows with curves of their own.
    assert len(page.data["places"]) == 12


def test_landmarks_headings_and_language(page):
    assert page.all("html")[0][0]["lang"] == "en"
    for landmark in ("header", "nav", "main", "footer", "h1", "title"):
        assert len(page.all(landmark)) == 1, landmark
    levels = [int(tag[1]) for tag, _, _ in page.elements if re.fullmatch(r"h[1-6]", tag)]
    assert levels[0] == 1
    assert all(b <= a + 1 for a, b in pairwise(levels))  # none is skipped
    assert any("width=device-width" in a.get("content", "") for a, _ in page.all("meta"))
    assert not page.unbalanced


def test_everything_has_a_name(page):
    labelled = {a["for"] for a, _ in page.all("label") if "for" in a}
    for a, _ in page.all("input"):
        assert a["id"] in labelled
    for a, _ in page.all("svg"):
        assert a.get("aria-hidden") == "true" or (a["role"] == "img" and a["aria-label"])
    for a, text in page.all("button"):
        assert text.strip() or a.get("aria-label")
    for _, a, _ in page.elements:
        if a.get("role") == "region" or "tabindex" in a:
            assert a.get("aria-label") or a.get("aria-labelledby")


def test_tables_have_captions_and_scopes(page):
    assert len(page.all("caption")) == len(page.all("table")) > 3
    assert all(a.get("scope") in {"col", "row"} for a, _ in page.all("th"))
    (sorted_by,) = [(a["aria-sort"], text) for a, text in page.all("th") if "aria-sort" in a]
    assert sorted_by == ("ascending", "test error")


def test_without_the_script_no_dead_control_is_seen(page):
    seen = [tag for i, (tag, _, _) in enumerate(page.elements) if i not in page.hidden]
    assert not {"button", "input", "select", "output"} & set(seen)
    assert {"table", "svg", "noscript"} <= set(seen)


def test_points_outside_the_fit_are_hollow(page):
    found = {
        ("not in the fit" in a["data-tip"], a["fill"], a["stroke"] == a["fill"])
        for a, _ in page.all("path")
        if "data-point" in a
    }
    assert {hollow: filled for hollow, _, filled in found} == {True: False, False: True}
    assert {fill for hollow, fill, _ in found if hollow} == {"var(--paper)"}


def with_families(count: int, each: int = 2) -> list[Record]:
    made = [random_record(f"net_{i}", i, 3, ("original",)) for i in range(count * each)]
    return [
        record.model_copy(
            update={"model": record.model.model_copy(update={"family": f"family {i % count:02d}"})}
        )
        for i, record in enumerate(made)
    ]


@pytest.mark.parametrize("count", [2, 13, MOST_FAMILIES])
def test_each_family_has_a_colour_and_a_shape_that_no_other_has(count):
    """The same for all its points in all three charts, and in the one legend of the row."""
    page = Page(render_page(make_board(with_families(count))))
    looks: dict[str, set[tuple[str, str]]] = {}
    for a, _ in page.all("path"):
        if "data-point" in a:
            (family,) = re.findall(r"family (family \d\d)", a["data-tip"])
            looks.setdefault(family, set()).add((a["stroke"], re.sub(r"[\d.-]+", "", a["d"])))
    assert len(looks) == count
    assert all(len(own) == 1 for own in looks.values())
    ((_, style),) = page.all("style")
    colours = {colour for own in looks.values() for colour, _ in own}
    assert all(f"{colour[4:-1]}: #" in style for colour in colours)
    by_size = {name for name, _ in looks.items()}
    listed = [text.strip() for _, text in page.all("li") if text.strip() in by_size]
    assert sorted(listed) == sorted(looks)
    drawn = [(entry.colour, entry.point) for entry in family_looks(looks).values()]
    assert len(set(drawn)) == count


def test_more_families_than_looks_share_the_last():
    page = Page(render_page(make_board(with_families(MOST_FAMILIES + 3, each=1))))
    listed = [text.strip() for _, text in page.all("li")]
    assert len([name for name in listed if name.startswith("family ")]) == MOST_FAMILIES - 1
    assert OTHER_FAMILIES in listed


def test_error_bars_are_as_long_as_the_standard_errors_say():
    """Across, on a logarithmic axis: the ratio of the ends of a bar is that of its length to the axis."""
    (board_records,) = [with_families(6)]
    svg = Page(render_page(make_board(board_records)))
    places = {
        a["data-tip"].split(":")[0]: tuple(map(float, re.findall(r"[-\d.]+", a["transform"])))
        for a, _ in svg.all("path")
        if ", R " in a.get("data-tip", "")
    }
    bars = [
        tuple(map(float, found))
        for a, _ in svg.all("path")
        if a.get("class") == "bar"
        for found in re.findall(r"M([-\d.]+),([-\d.]+)h([-\d.]+)", a["d"])
    ]
    measured = {record.model.spec: record.output for record in board_records}
    first, second = list(places)[:2]
    scale = (places[second][0] - places[first][0]) / math.log(measured[second].r / measured[first].r)
    for name, (x, y) in places.items():
        low, high = (math.log(1 + sign * measured[name].r_stderr / measured[name].r) for sign in (-1, 1))
        expected = (x + scale * low, y, scale * (high - low))
        assert any(bar == pytest.approx(expected, abs=0.2) for bar in bars), name


def test_of_many_networks_as_many_are_drawn_as_the_page_says_and_the_named_among_them(monkeypatch):
    monkeypatch.setattr("timm_diffsens.results.page.scatter.MOST_DOTS", 10)
    monkeypatch.setattr("timm_diffsens.results.page.build.MOST_DOTS", 10)
    made = make_board(with_families(4, each=10))
    page = Page(render_page(made))
    tips = [a["data-tip"] for a, _ in page.all("path") if "data-point" in a]
    assert len(tips) == 3 * 10
    assert sum("10 of 40 networks are drawn" in text for _, text in page.all("figcaption")) == 3
    labels = [text for a, text in page.all("text") if a.get("class") == "label"]
    assert labels
    assert all(any(tip.startswith(f"{name}:") for tip in tips) for name in labels)


def test_names_beside_points_are_of_the_networks_furthest_from_the_line(board, page):
    points = board.groups[0].points
    labels = [text for a, text in page.all("text") if a.get("class") == "label"]
    expected = []
    for measure in ("d", "g", "r"):
        x, y = (np.log(points[name].to_numpy(float)) for name in (measure, "error"))
        expected += [points["model"].iloc[place] for place in furthest(x, y)]
    assert sorted(labels) == sorted(map(short_name, expected))
    assert all(a["aria-hidden"] == "true" for a, _ in page.all("text") if a.get("class") == "label")


def test_variants_have_the_colours_of_all_figures(page):
    ((_, style),) = page.all("style")
    shown = {v: re.search(rf"--{v}: (#\w+)", style)[1] for v in VARIANTS}
    assert shown == {name: look.colour for name, look in theme_of(VARIANTS).items()}


def luminance(colour: str) -> float:
    """Relative luminance: WCAG 2.2, section on contrast."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def test_colours_have_enough_contrast():
    """WCAG 2.2 level AA: 4.5 for text, 3 for lines and points; in light and in dark."""
    ((_, style),) = Page(render_page(make_board(with_families(MOST_FAMILIES + 1, each=1)))).all("style")
    blocks = [
        dict(re.findall(r"--([\w-]+): (#\w{6})", block)) for block in re.findall(r"\{([^{}]*)\}", style)
    ]
    grounds, variants = ([b for b in blocks if name in b] for name in ("paper", VARIANTS[0]))
    grounds = [block for block in grounds if "mark" in block]
    assert sum(name.startswith("look-") for name in variants[0]) == 9  # eight colours, and that of the rest
    assert len(grounds) == len(variants) == 3  # light, dark by the system, dark by the button
    themes = [{**ground, **lines} for ground, lines in zip(grounds, variants, strict=True)]
    assert themes[1] == themes[2]
    for theme in themes:
        for name, least in [
            *((n, 4.5) for n in ("ink", "soft", "accent")),
            *((v, 3.0) for v in (*VARIANTS, "mark", *(name for name in theme if name.startswith("look-")))),
        ]:
            for ground in ("paper", "chosen", "shade") if least > 4 else ("paper",):
                low, high = sorted((luminance(theme[name]), luminance(theme[ground])))
                assert (high + 0.05) / (low + 0.05) >= least, (name, ground)


# ---- little and odd boards


def test_no_records():
    page = Page(render_page(make_board([])))
    assert not page.all("table")
    assert page.data["places"] == {}


@pytest.mark.parametrize("count", [1, 2, 4])
def test_few_records(count):
    page = Page(render_page(make_board(records(count))))
    assert len([a for a, _ in page.all("tr") if "data-model" in a]) == count
    headings = [text for _, text in page.all("h3")]
    assert ("Correlation with the test error" in headings) == (count >= 3)
    kind = "td" if count >= 3 else "figcaption"
    assert "too few" in " ".join(text for _, text in page.all(kind))


def test_records_without_values():
    nothing = make_record(
        "nothing", test_error={"value": None, "stderr": None, "reason": "no labels"}, spectra={}
    )
    empty = replace_layer(nothing, 9, null_layer(9, 10, "fc"))
    page = Page(render_page(make_board([empty, *records(2)])))
    assert sum(": test error" in a.get("data-tip", "") for a, _ in page.all("path")) == 3 * 2
    cells = [a for a, text in page.all("td") if text == "–"]
    assert cells
    assert not [a for a in cells if "data-value" in a]


def test_trainings_of_one_network_share_a_point():
    recipe = {"lr": 0.1}
    twins = [
        make_record(
            "net/vgg",
            key=f"{seed:064x}",
            model={"recipe": {"training": {**recipe, "seed": seed}}},
            test_error={"value": 0.2 + seed / 100},
        )
        for seed in (0, 1)
    ]
    page = Page(render_page(make_board([*twins, *records(4)])))
    rows = [a for a, _ in page.all("tr") if a.get("data-model") == "net/vgg"]
    assert len({a["id"] for a in rows}) == 2
    assert len({a["data-point"] for a in rows}) == 1
    notes = [text for _, text in page.all("small")]
    assert any("seed 0" in note for note in notes)
    assert any("seed 1" in note for note in notes)


def test_a_board_built_from_files(tmp_path):
    """The tables have the names that the page reads, and the page does not know where it was built."""
    for record in [*records(8), make_record("untrained", trained=False)]:
        write_record(tmp_path / "records", record)
    (tmp_path / "records" / "half.json").write_text("{", encoding="utf-8")
    text = render_page(build_leaderboard(tmp_path, Choices(resamples=200)))
    page = Page(text)
    assert len([a for a, _ in page.all("tr") if "data-model" in a]) == 9
    assert len(page.data["places"]) == 9
    assert len([a for a, _ in page.all("path") if "data-point" in a]) == 3 * 9
    assert "half.json" in [cell for _, cell in page.all("td")]
    assert str(tmp_path) not in text
    assert "nan" not in {cell.lower() for _, cell in page.all("td")}


# ---- pieces


@pytest.mark.parametrize("low", [1e-6, 0.024, 0.11, 0.5, 0.95, 3.0])
@pytest.mark.parametrize("ratio", [1.33, 1.7, 2.5, 8, 60, 1e4, 1e9])
def test_axes_have_at_least_three_ticks_inside_and_not_too_many(low, ratio):
    ticks = log_ticks(low, low * ratio)
    assert 3 <= len(ticks) <= 9
    assert all(low <= tick <= low * ratio for tick in ticks)
    assert ticks == sorted(set(ticks))
    assert all(float(f"{tick:.2g}") == tick for tick in ticks)  # as their labels say


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_numbers_of_the_page(missing):
    assert PAGE.percentage(0.12345, 0.01) == "12.3 ± 1.0 %"
    assert PAGE.percentage(0.12345, missing) == "12.3 %"
    assert PAGE.with_interval(-0.5, -0.7, 0.1) == "−0.50 (−0.70 to 0.10)"
    assert PAGE.with_interval(-0.5, missing, 0.1) == "−0.50"
    assert [PAGE.p_value(p) for p in (9e-5, 0.0123, missing)] == ["< 0.0001", "0.012", "–"]
    assert PAGE.decimals(missing) == PAGE.interval(missing, 1.0) == PAGE.percentage(missing) == "–"
