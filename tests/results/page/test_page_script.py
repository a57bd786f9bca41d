"""The functions of the page's script that need no page, run by Node.js; skipped where there is none."""

import json
import math
import shutil
import subprocess
from typing import Any

import pytest

from timm_diffsens.results.page.build import SCRIPTS, TEMPLATES, _script
from timm_diffsens.results.page.scatter import log_ticks

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(NODE is None, reason="no Node.js here (apt-get install nodejs)")


def run(expression: str) -> Any:
    """The value of an expression beside the functions of plot.js and table.js."""
    code = "".join((TEMPLATES / name).read_text(encoding="utf-8") for name in ("plot.js", "table.js"))
    code += f"\nconsole.log(JSON.stringify({expression}));"
    done = subprocess.run(
        [str(NODE), "-e", code], capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL
    )
    return json.loads(done.stdout)


def test_the_whole_script_is_correct_javascript(tmp_path):
    path = tmp_path / "page.js"
    path.write_text(_script(), encoding="utf-8")
    done = subprocess.run([str(NODE), "--check", path], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert sorted(SCRIPTS) == sorted(file.name for file in TEMPLATES.glob("*.js"))


def test_short_numbers():
    values = [0, 1, 0.123456, 123.456, 1234.56, 99999, 123456, 0.00012345, -0.5, 1e-12, 0.001]
    expected = ["0", "1", "0.123", "123", "1230", "100000", "1.23e5", "1.23e-4", "-0.5", "1e-12", "0.001"]
    assert run(f"{values}.map(short)") == expected


def test_ticks_are_those_of_the_other_charts():
    ends = [[low, low * ratio] for low in (1e-5, 0.11, 0.5, 0.95) for ratio in (1.1, 1.33, 2, 7, 100, 1e6)]
    assert run(f"{ends}.map(([a, b]) => logTicks(a, b))") == [log_ticks(low, high) for low, high in ends]


def test_linear_ticks():
    assert run("linearTicks(0, 1, 5)") == [0, 0.2, 0.4, 0.6, 0.8, 1]
    assert run("linearTicks(0.13, 0.48, 4)") == [0.2, 0.3, 0.4]
    assert run("linearTicks(2, 2, 4)") == [2]


def test_scales_meet_the_ends_and_the_logarithmic_middle():
    assert run("[1, 10, 100].map(scaleOf([1, 100], [0, 50], true))") == pytest.approx([0, 25, 50])
    assert run("[0, 1, 4].map(scaleOf([0, 4], [100, 0], false))") == [100, 75, 0]
    assert all(math.isfinite(x) for x in run("[3].map(scaleOf([3, 3], [0, 1], true))"))


def test_domains_hold_the_values_and_are_never_empty():
    low, high = run("domainOf([0.2, 0.3], true, 10)")
    assert low <= 0.2 / 1.3
    assert high >= 0.3 * 1.3
    assert high / low >= 10 * (1 - 1e-9)
    assert run("domainOf([], true, 1)") == [0.1, 1]
    low, high = run("domainOf([0, 0], false, 1)")
    assert low < 0 < high


def test_lines_have_gaps_where_values_are_missing():
    assert run("pathOf([[0, 1], null, [2, 3], [4, 5]])") == "M0.0,1.0M2.0,3.0L4.0,5.0"
    assert run("pathOf([])") == ""


@pytest.mark.parametrize("ascending", ["true", "false"])
def test_missing_keys_come_last_either_way(ascending):
    order = run(f"[null, 2, 10, null, 1].sort((a, b) => compareKeys(a, b, {ascending}))")
    assert order == ([1, 2, 10] if ascending == "true" else [10, 2, 1]) + [None, None]


def test_names_sort_by_their_numbers():
    assert run("['net10', 'Net9', 'net1', ''].sort((a, b) => compareKeys(a, b, true))") == [
        "net1",
        "Net9",
        "net10",
        "",
    ]


def test_a_filter_needs_all_its_words():
    assert run("['ResNet', 'net res', 'zz', ''].map(f => matches('resnet50 a1', f))") == [
        True,
        True,
        False,
        True,
    ]
