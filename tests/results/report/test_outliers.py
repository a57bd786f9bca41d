"""Names beside the points furthest from a line: which ones, and where they stand."""

import numpy as np
import pytest

from timm_diffsens.results.report.outliers import LogFrame, furthest, name_rows, placed, short_name

SIZE, LETTER = 10.0, 0.62


def test_the_furthest_are_those_with_the_largest_studentised_residuals():
    """By the hat matrix, written out."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=20), rng.normal(size=20)
    x[3], y[3] = 6.0, 2.0  # far out, where the line follows it
    design = np.column_stack([np.ones(20), x])
    hat = design @ np.linalg.inv(design.T @ design) @ design.T
    studentised = np.abs(y - hat @ y) / np.sqrt(1 - np.diag(hat))
    assert furthest(x, y) == list(np.argsort(-studentised)[:3])
    assert furthest(x, y, most=1) == [int(np.argmax(studentised))]


def test_without_a_line_nothing_is_far_from_it():
    assert furthest(np.ones(9), np.arange(9.0)) == []
    assert furthest(np.arange(3.0), np.array([1.0, 0, 1])) == []
    assert furthest(np.array([]), np.array([])) == []


def box(name) -> tuple[float, float, float, float]:
    wide = len(name.text) * SIZE * LETTER
    left = name.x - {"left": 0, "center": wide / 2, "right": wide}[name.align]
    return left, name.y - SIZE / 2, left + wide, name.y + SIZE / 2


@pytest.mark.parametrize("seed", range(20))
def test_names_stay_inside_and_apart_and_beside_their_points(seed):
    rng = np.random.default_rng(seed)
    width, height = 250.0, 210.0
    points = [(rng.uniform(0, width), rng.uniform(0, height)) for _ in range(30)]
    points[:4] = [(0.0, 0.0), (width, height), (0.0, height), (width, 0.0)]  # the corners too
    names = [(i, "n" * int(rng.integers(1, 25))) for i in range(6)]
    found = placed(points, names, width, height, SIZE)
    assert len(found) >= 4  # the last ones may find all places taken
    assert found[0].point == 0
    boxes = [box(name) for name in found]
    for left, top, right, bottom in boxes:
        assert -1e-9 <= left < right <= width + 1e-9
        assert -1e-9 <= top < bottom <= height + 1e-9
    for i, (left, top, right, bottom) in enumerate(boxes):
        for other in boxes[:i]:
            assert right <= other[0] or other[2] <= left or bottom <= other[1] or other[3] <= top
    for name, (left, top, right, bottom) in zip(found, boxes, strict=True):
        x, y = points[name.point]
        assert max(left - x, x - right, top - y, y - bottom) <= 8  # no further than the point is wide


def test_a_name_takes_the_side_where_nothing_is():
    crowded = [(100.0, 100.0), (115.0, 100.0), (130.0, 100.0)]
    (name,) = placed(crowded, [(0, "abc")], 250, 210, SIZE)
    assert name.align == "right"
    (name,) = placed(crowded[:1], [(0, "abc")], 250, 210, SIZE)
    assert name.align == "left"
    assert placed([(10.0, 10.0)], [(0, "x" * 50)], 100, 100, SIZE) == []


def test_places_on_logarithmic_axes_and_back():
    frame = LogFrame((0.01, 1.0), (0.1, 0.9), 200, 100)
    assert frame.pixels(0.1, 0.3) == pytest.approx((100, 50))
    assert frame.pixels(0.01, 0.9) == pytest.approx((0, 0))
    assert frame.values(*frame.pixels(0.037, 0.21)) == pytest.approx((0.037, 0.21))
    (row,) = name_rows([(0.1, 0.3)], [(0, "a")], frame, SIZE)
    assert (row["text"], row["align"], row["point"]) == ("a", "left", 0)
    assert frame.pixels(row["x"], row["y"]) == pytest.approx((107, 50))


def test_names_are_cut_to_what_tells_networks_apart():
    assert short_name("vit (cifar_networks.py), depth 4") == "vit, depth 4"
    assert short_name("imagenet_networks.py:mobilenetv1:alpha=0.25") == "mobilenetv1:alpha=0.25"
    assert (
        short_name("torchvision/squeezenet1_1") == short_name("hf-hub:some/squeezenet1_1") == "squeezenet1_1"
    )
    assert short_name("a" * 40) == "a" * 23 + "…"
    assert short_name("vit (large)") == "vit (large)"
