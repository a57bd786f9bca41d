"""The figure of sensitivities against the receptive field: its data, looks and panels."""

import xml.etree.ElementTree as ET
from typing import Any

import pytest
from chart_parts import parts

from timm_diffsens.errors import UsageError
from timm_diffsens.results.report.export import render
from timm_diffsens.results.report.theory_chart import CURVES, MEASURES, STYLES, theory_chart

TASKS = ("task 1, stride 1, F = 3", "task 2, stride 2, F = 2")


def make_rows(
    curves=("prediction", "exact", "homogeneous"), depths=(4,), tasks=TASKS
) -> list[dict[str, Any]]:
    """Power laws 1/A on A = 2^k; the measured ones with an error."""
    return [
        {
            "task": task,
            "depth": depth,
            "curve": curve,
            "measure": measure,
            "layer": k,
            "width": 2.0**k,
            "value": 2.0**-k,
            "stderr": 0.1 * 2.0**-k if curve == "homogeneous" else None,
            "slope": -1.0,
        }
        for task in tasks
        for depth in depths
        for curve in curves
        for measure in MEASURES
        for k in range(1, depth + 1)
    ]


def panels(chart: Any) -> list[list[Any]]:
    """Rows of panels, below the legend."""
    return [row["hconcat"] for row in chart.to_dict()["vconcat"][1:]]


def test_a_row_a_task_and_a_column_a_measure():
    rows = panels(theory_chart(make_rows()))
    assert [len(row) for row in rows] == [3, 3]
    for task, row in zip(TASKS, rows, strict=True):
        for measure, panel in zip(MEASURES, row, strict=True):
            assert f"'{task}'" in str(parts(panel, "filter")).replace('"', "'")
            assert {title for title in parts(panel, "title") if title} == {"A_k (pixels)", f"{measure}_k"}
            types = [s.get("type") for e in ("x", "y") for s in parts(parts(panel, e), "scale")]
            assert set(types) == {"log"}


def test_every_row_is_in_the_data():
    rows = make_rows()
    data = theory_chart(rows).to_dict()["datasets"]["curves"]
    assert len(data) == len(rows)
    for row, shown in zip(rows, data, strict=True):
        assert {name: shown[name] for name in row} == row
        if row["stderr"]:
            assert shown["low"] == pytest.approx(0.9 * row["value"])
            assert shown["high"] == pytest.approx(1.1 * row["value"])


def test_zero_and_none_are_gaps():
    rows = make_rows()
    rows[0]["value"], rows[1]["value"] = 0.0, None
    shown = theory_chart(rows).to_dict()["datasets"]["curves"]
    assert [row["value"] for row in shown[:3]] == [None, None, 0.125]
    assert "low" not in shown[0]


def test_an_error_larger_than_the_value_stays_on_the_axis():
    rows = make_rows()
    rows[0] |= {"value": 1.0, "stderr": 2.0}
    assert theory_chart(rows).to_dict()["datasets"]["curves"][0]["low"] == 0.01


def test_local_slopes_have_a_row_where_there_are_several_depths():
    chart = theory_chart(make_rows(depths=(4, 6, 8), tasks=TASKS[:1]))
    assert len(panels(chart)) == 2
    labels = [row["label"] for row in chart.to_dict()["datasets"]["curves"] if row["label"]]
    assert set(labels) == {"K = 4", "K = 6", "K = 8"}
    text = " ".join(ET.fromstring(render(chart, "svg").decode()).itertext())
    for word in ("K = 8", "local slopes", TASKS[0], "prediction", "standard error"):
        assert word in text


def test_trained_curves_can_be_added():
    chart = theory_chart(make_rows(CURVES, tasks=TASKS[:1]))
    text = " ".join(ET.fromstring(render(chart, "svg").decode()).itertext())
    for curve in CURVES:
        assert curve in text


def test_looks_are_those_of_the_paper_where_it_has_them():
    assert STYLES["prediction"][:2] == ("#000000", [6, 4]), "black, dashed"
    assert STYLES["trained"][0] == STYLES["mean channel"][0]
    assert STYLES["mean channel"][1] == [2, 3], "dotted"
    looks = [(colour, str(dash)) for colour, dash, _ in STYLES.values()]
    assert len(set(looks)) == len(looks)
    for names in (CURVES, ("exact", "trained")):
        for scale in parts(
            parts(theory_chart(make_rows(names, tasks=TASKS[:1])).to_dict(), "color"), "scale"
        ):
            assert scale["domain"] == [curve for curve in CURVES if curve in names]
            assert scale["range"] == [STYLES[curve][0] for curve in scale["domain"]]


def test_deep_curves_have_few_points():
    data = theory_chart(make_rows(depths=(192,), tasks=TASKS[:1])).to_dict()["datasets"]["curves"]
    mine = [
        row for row in data if (row["curve"], row["measure"], row["task"]) == ("homogeneous", "D", TASKS[0])
    ]
    marked = [row["layer"] for row in mine if row["marked"]]
    assert 12 <= len(marked) <= 17
    assert {marked[0], marked[-1]} == {1, 192}


def test_unknown_curves_name_the_nearest():
    rows = make_rows()
    rows[3]["curve"] = "traind"
    with pytest.raises(UsageError, match="did you mean trained"):
        theory_chart(rows)
    rows[3] |= {"curve": "exact", "measure": "Q"}
    with pytest.raises(UsageError, match="unknown measure 'Q'"):
        theory_chart(rows)
    with pytest.raises(UsageError, match="no curves"):
        theory_chart([])


def test_equal_rows_give_equal_files():
    one, two = (render(theory_chart(make_rows(tasks=TASKS[:1])), "svg") for _ in range(2))
    assert one == two
