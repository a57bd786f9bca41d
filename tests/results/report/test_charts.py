"""Charts: that they show the right data, in the right looks, in every format."""

import os
import re
import xml.etree.ElementTree as ET
from typing import Any

import pytest
from chart_parts import parts
from record_factory import VARIANTS, make_layer, make_record, null_layer, replace_layer

from timm_diffsens.errors import DiffsensError, UsageError
from timm_diffsens.results.report.export import figure_format, render, save_chart
from timm_diffsens.results.report.record_chart import record_figure
from timm_diffsens.results.report.theme import numbered_looks, theme_of
from timm_diffsens.schema.records import Record

ORIGINAL = theme_of(["original"])["original"]
SVG = "{http://www.w3.org/2000/svg}"


def rows(chart: Any, name: str) -> list[dict[str, Any]]:
    """A data set of the chart, and proof that the chart uses it."""
    spec = chart.to_dict()
    assert {"name": name} in parts(spec, "data")
    return spec["datasets"][name]


def many_layers(count: int = 120) -> list[str]:
    return [f"stages.{i // 30}.blocks.{i % 30}.token_mixer.attention" for i in range(count)]


@pytest.fixture(scope="module")
def record() -> Record:
    """With a layer without values, and one whose error bar would reach below zero."""
    record = replace_layer(make_record(), 4, null_layer(4, 10, "layer2.1"))
    return replace_layer(record, 8, make_layer(8, 10, "layer4.1", r=0.05, r_stderr=0.2))


@pytest.fixture(scope="module")
def depth(record) -> Any:
    return record_figure(record)


@pytest.fixture(scope="module")
def svg(record) -> str:
    return render(record_figure(record), "svg").decode()


def test_every_layer_of_every_variant_is_in_the_data(record, depth):
    data = rows(depth, "depth")
    assert len(data) == sum(map(len, record.variants.values()))
    for row in data:
        layer = next(x for x in record.variants[row["variant"]] if x.layer == row["layer"])
        assert (row["depth"], row["d"], row["g"], row["r"]) == (layer.depth, layer.d, layer.g, layer.r)
        if layer.r is not None:
            assert row["r_high"] == layer.r + layer.r_stderr
            assert 0 < row["r_low"] <= layer.r


def test_a_null_is_a_gap_in_the_line(svg):
    """The original's three lines of ten layers, the fifth null, are drawn in two pieces each."""
    strokes = [
        p.get("d") for p in ET.fromstring(svg).iter(f"{SVG}path") if p.get("stroke") == ORIGINAL.colour
    ]
    lines = [d for d in strokes if d and d.count("L") >= 5 and "C" not in d and "A" not in d]
    assert [d.count("M") for d in lines[:3]] == [2, 2, 2]
    assert [d.count("L") for d in lines[:3]] == [3 + 4] * 3


def test_the_axes_are_logarithmic_and_hold_the_values_not_the_bars(depth):
    scales = [s for s in parts(depth.to_dict()["vconcat"][1], "scale") if s.get("type") == "log"]
    assert len(scales) >= 3
    for scale in scales:
        low, high = scale["domain"]
        assert 0 < low < high
        assert high / low < 1e3


def test_zero_is_a_gap_on_a_logarithmic_axis(record):
    zero = replace_layer(record, 2, make_layer(2, 10, "layer1.1", d=0.0, r=0.0))
    row = next(
        r
        for r in rows(record_figure(zero), "depth")
        if (r["variant"], r["layer"]) == ("original", "layer1.1")
    )
    assert row["d"] is None
    assert row["r_low"] is None
    assert row["g"] is not None


def test_each_variant_has_its_own_colour_dash_and_point(record):
    assert ORIGINAL.dash == (1, 0), "full, as in Fig. 3"
    for names in (VARIANTS, ("original", "init")):
        spec = record_figure(make_record(variants=names, spectra={})).to_dict()
        theme = theme_of(names)
        for channel, part in (("color", "colour"), ("strokeDash", "dash"), ("shape", "point")):
            expected = [getattr(look, part) for look in theme.values()]
            assert len(set(expected)) == len(names)
            scales = [e["scale"] for e in parts(spec, channel) if "scale" in e]
            assert scales
            for scale in scales:
                assert scale["domain"] == list(names)
                assert [tuple(v) if isinstance(v, list) else v for v in scale["range"]] == expected


def test_the_title_says_what_was_measured(svg, record):
    text = " ".join(ET.fromstring(svg).itertext())
    for word in ("resnet18", "imagenet", "n = 500", "delta = 1 px", "28.8%", "standard error", *VARIANTS):
        assert word in text, word
    assert "D (deformation)" in text
    assert "1. layer1.0.conv2" in text


def test_bars_turn_into_bands_where_there_are_many_layers():
    few, many = (
        record_figure(make_record(names=many_layers(n), variants=("original", "init"))).to_dict()
        for n in (40, 120)
    )
    marks = [{m["type"] for m in parts(spec["vconcat"][1], "mark")} for spec in (few, many)]
    assert marks == [{"rule", "line", "point"}, {"area", "line", "point"}]
    data = many["datasets"]["depth"]
    assert 15 <= sum(row["marked"] for row in data if row["variant"] == "original") <= 20


def test_a_lone_value_among_nulls_is_marked():
    names = many_layers()
    record = make_record(names=names, variants=("original",))
    for index in (60, 62):
        record = replace_layer(record, index, null_layer(index, 120, names[index]))
    marked = [row["layer"] for row in rows(record_figure(record), "depth") if row["marked"]]
    assert names[61] in marked


def test_spectra_are_drawn_mode_by_mode(record):
    chart = record_figure(record)
    data = rows(chart, "modes")
    for variant, spectra in record.spectra.items():
        for spectrum in spectra:
            powers = [r["power"] for r in data if (r["variant"], r["layer"]) == (variant, spectrum.layer)]
            assert powers == spectrum.power
    frequencies = {(r["variant"], r["layer"]): r["frequency"] for r in rows(chart, "frequencies")}
    assert frequencies == {
        (variant, s.layer): s.mean_frequency for variant, spectra in record.spectra.items() for s in spectra
    }


def test_flat_spectra_look_flat(record):
    """Whatever the values, an axis of power spans a decade at least."""
    base = record.spectra["original"][0]
    powers = {"flat": [1.0, 1.01, 0.99] * 3, "steep": [10.0**-i for i in range(9)], "one": [0.0] * 8 + [0.5]}
    spectra = [base.model_copy(update={"layer": name, "power": power}) for name, power in powers.items()]
    data = rows(record_figure(record.model_copy(update={"spectra": {"original": spectra}})), "modes")
    room = {row["layer"]: (row["low"], row["high"]) for row in data if "low" in row}
    assert room["flat"] == pytest.approx((0.1**0.5, 10**0.5), rel=0.01)
    assert room["steep"] == (1e-8, 1.0)
    assert room["one"] == pytest.approx((0.5 * 0.1**0.5, 0.5 * 10**0.5))
    assert [row["power"] for row in data if row["layer"] == "one"][:2] == [None, None]


def test_at_most_twelve_convolutions_get_a_panel():
    chart = record_figure(make_record(names=many_layers()))
    panels = {row["panel"]: row["position"] for row in rows(chart, "modes")}
    assert len(panels) == len(set(panels.values())) == 12
    assert {1, 118} <= set(panels.values()), "the first and the last among them"
    assert len(max(panels, key=len)) < 35
    assert "12 of 118 convolutions" in str(chart.to_dict())
    assert {row["position"] for row in rows(chart, "frequencies")} == set(range(1, 119))


def test_a_network_without_convolutions_has_no_spectra_drawn():
    record = make_record(spectra={"original": [], "init": []})
    assert len(record_figure(record).to_dict()["vconcat"]) == 2  # legend and depth


def test_a_record_without_a_single_value_can_be_drawn():
    nulls = [null_layer(i, 3, f"l{i}") for i in range(3)]
    record = make_record(variants=("original",)).model_copy(update={"variants": {"original": nulls}})
    assert b"<svg" in render(record_figure(record), "svg")


@pytest.mark.parametrize("form", ["png", "svg"])
def test_equal_records_give_equal_files(depth, form):
    assert render(depth, form) == render(depth, form)


def test_measures_beside_other_panels_are_drawn_too(record):
    found = record_figure(record, only=["r", "spectra"]).to_dict()["datasets"]
    assert set(found) == {"depth", "modes", "frequencies"}


@pytest.mark.parametrize("only", [["r"], ["d", "g"], ["spectra"]])
def test_some_panels_alone_show_what_they_show_among_all(record, depth, only):
    whole, alone = depth.to_dict(), record_figure(record, only=only).to_dict()
    assert alone["datasets"] == {name: whole["datasets"][name] for name in alone["datasets"]}
    assert set(alone["datasets"]) == ({"modes", "frequencies"} if only == ["spectra"] else {"depth"})
    if only != ["spectra"]:
        titles = [next(iter(parts(panel, "y")))["title"] for panel in alone["vconcat"][1]["hconcat"]]
        assert [title[0].lower() for title in titles] == only


def test_a_panel_that_was_not_measured_is_refused(record):
    with pytest.raises(UsageError, match=r"resnet18 has no panel sizes.*choose of d, g, r, spectra"):
        record_figure(record, only=["sizes"])


@pytest.mark.parametrize(("only", "column"), [(["r"], "85mm"), (["d", "g", "r"], "17cm"), (["g"], "240pt")])
def test_a_figure_is_as_wide_as_the_column(record, only, column):
    """Within the width of a label that is longer than most."""
    asked = {"85mm": 240.9, "17cm": 481.9, "240pt": 240.0}[column]
    svg = ET.fromstring(render(record_figure(record, only=only, column=column), "svg"))
    assert float(svg.get("width")) == pytest.approx(asked, abs=6)


def test_more_than_eight_lines_all_look_different():
    looks = numbered_looks([f"line {i}" for i in range(40)])
    assert len({(look.colour, look.point) for look in looks.values()}) == 40


def test_equal_records_give_equal_specifications(record, depth):
    assert record_figure(record.model_copy()).to_json() == depth.to_json()


@pytest.mark.parametrize(
    ("name", "start"),
    [("a.png", b"\x89PNG"), ("a.svg", b"<svg"), ("a.PDF", b"%PDF"), ("folder/a.html", b"<!DOCTYPE html>")],
)
def test_the_suffix_is_the_format(tmp_path, depth, name, start):
    save_chart(depth, tmp_path / name)
    assert (tmp_path / name).read_bytes().lstrip().startswith(start)


def test_the_page_needs_no_network(depth):
    page = render(depth, "html").decode()
    assert not re.findall(r"<(?:script|link)[^>]*(?:src|href)=", page)
    assert "import(" not in page.split("vegaEmbed(")[-1]
    assert "layer3.0" in page


@pytest.mark.parametrize("name", ["a.jpg", "a", "a.svgz", ".png"])
def test_another_suffix_names_the_four(name):
    with pytest.raises(UsageError, match=r"\.png, \.svg, \.pdf, \.html"):
        figure_format(name)


def test_a_figure_is_written_whole_or_not_at_all(tmp_path, depth, monkeypatch):
    path = tmp_path / "a.svg"
    path.write_text("old")

    def fail(*args, **kwargs):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(DiffsensError, match="cannot write"):
        save_chart(depth, path)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
