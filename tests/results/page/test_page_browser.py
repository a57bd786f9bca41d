"""The page in a headless Chromium: it sorts, filters, shows curves, asks nobody, and fits on a phone.

Chromium comes with the system (`apt-get install chromium`); these tests are skipped where there is none.
"""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from board_factory import make_board, make_series, random_record
from browser import Browser, find_browser, running
from record_factory import VARIANTS, make_record

from timm_diffsens.results.page.build import render_page
from timm_diffsens.results.page.record_data import pack

COMMAND = find_browser()
pytestmark = pytest.mark.skipif(COMMAND is None, reason="no Chromium here (apt-get install chromium)")

ATTACK = "</script><img src=x onerror=alert(1)>"
LAYER = "<svg onload=alert(2)>"
ROWS = "[...document.querySelectorAll('table.models tbody tr')]"
NAMES = f"{ROWS}.filter(r => !r.hidden).map(r => r.dataset.model)"
HEADING = "document.querySelector('.details h3')?.textContent"


@pytest.fixture(scope="module")
def started() -> Iterator[Browser]:
    with running(str(COMMAND)) as browser:
        yield browser


@pytest.fixture(scope="module")
def page_file(tmp_path_factory) -> Path:
    hostile = make_record(
        ATTACK, names=[LAYER, "fc"], spectra={}, test_error={"value": None, "stderr": None, "reason": LAYER}
    )
    records = [random_record(f"net_{i}", i, 6) for i in range(12)]
    path = tmp_path_factory.mktemp("page") / "index.html"
    path.write_text(render_page(make_board([*records, hostile], series=[make_series()])), encoding="utf-8")
    return path


@pytest.fixture
def browser(started, page_file) -> Iterator[Browser]:
    """The page, freshly opened; afterwards nothing may have been complained about or asked for."""
    started.events.clear()
    started.resize(1280, 900)
    started.open(page_file)
    yield started
    complaints = [*started.methods("Runtime.exceptionThrown"), *started.methods("Log.entryAdded")]
    complaints += started.methods("Runtime.consoleAPICalled")
    assert not complaints
    requests = {request["request"]["url"] for request in started.methods("Network.requestWillBeSent")}
    assert requests == {page_file.as_uri()}
    assert not started.methods("Page.javascriptDialogOpening")


def select(browser: Browser, model: str) -> None:
    name = json.dumps(model)
    browser.evaluate(f"{ROWS}.find(r => r.dataset.model === {name}).querySelector('button').click()")
    browser.wait(f"{HEADING} === {name}")


def test_a_heading_sorts_both_ways_and_puts_missing_values_last(browser):
    def errors() -> list[str]:
        return browser.evaluate(f"{ROWS}.map(r => r.cells[2].dataset.value ?? 'none')")

    first = errors()
    assert [float(e) for e in first[:-1]] == sorted(float(e) for e in first[:-1])
    head = "document.querySelectorAll('table.models thead th')[2]"
    assert browser.evaluate(f"{head}.getAttribute('aria-sort')") == "ascending"
    browser.evaluate(f"{head}.querySelector('button').click()")
    assert errors() == [*reversed(first[:-1]), "none"]
    assert browser.evaluate(f"{head}.getAttribute('aria-sort')") == "descending"
    browser.evaluate("document.querySelectorAll('table.models thead th')[1].querySelector('button').click()")
    sizes = [float(s) for s in browser.evaluate(f"{ROWS}.map(r => r.cells[1].dataset.value)")]
    assert sizes == sorted(sizes)
    assert browser.evaluate("document.querySelectorAll('table.models [aria-sort]').length") == 1
    browser.evaluate("document.querySelectorAll('table.models thead th')[0].querySelector('button').click()")
    names = [n for n in browser.evaluate(NAMES) if n.startswith("net")]
    assert names == [f"net_{i}" for i in range(12)]  # net_10 after net_9


def test_the_filter_hides_rows_and_dims_points(browser):
    box = "document.querySelector('input[type=search]')"

    def type_in(text: str) -> None:
        browser.evaluate(f"{box}.value = {json.dumps(text)}; {box}.dispatchEvent(new Event('input'))")

    type_in("NET_1 check")
    assert sorted(browser.evaluate(NAMES)) == ["net_1", "net_10", "net_11"]
    assert browser.evaluate("document.querySelector('output').textContent") == "3 of 13 records"
    lit = browser.evaluate("document.querySelectorAll('.point[data-point]:not(.dim)').length")
    assert lit == 3 * 3
    type_in("<img")
    assert browser.evaluate(NAMES) == [ATTACK]
    browser.evaluate(f"{box}.focus()")
    browser.press("Escape")
    assert len(browser.evaluate(NAMES)) == 13


def test_a_row_opens_its_curves(browser):
    select(browser, "net_3")
    figures = "document.querySelectorAll('.details figure')"
    assert browser.evaluate(f"{figures}.length") == 5  # D, G, R, mean frequency, power
    curves = "[...document.querySelectorAll('.details figure:nth-child(3) path.curve')]"
    assert browser.evaluate(f"{curves}.length") == 4  # variants
    assert browser.evaluate(f"{curves}.every(c => c.getAttribute('d').split('L').length === 6)")  # layers
    pressed = "document.querySelector('tr:has(button[aria-pressed=true])')"
    assert browser.evaluate(f"{pressed}.dataset.model") == "net_3"
    assert browser.evaluate("document.querySelectorAll('tr button[aria-pressed=true]').length") == 1
    assert browser.evaluate("document.querySelectorAll('.charts .point.selected').length") == 3
    assert "net_3" in browser.evaluate("document.querySelector('.status').textContent")


def test_curves_show_the_numbers_of_the_record(browser):
    select(browser, "net_5")
    browser.evaluate("document.querySelector('.details details').open = true")
    browser.wait("document.querySelector('.details details table')")
    shown = browser.evaluate(
        "[...document.querySelectorAll('.details details tbody tr')]"
        ".map(r => [...r.cells].map(c => c.textContent))"
    )
    record = random_record("net_5", 5, 6)
    expected = [(variant, layer) for variant, layers in record.variants.items() for layer in layers]
    assert len(shown) == len(expected)
    for (variant, layer), (name, path, depth, *values) in zip(expected, shown, strict=True):
        assert (name, path) == (variant, layer.layer)
        assert float(depth) == pytest.approx(layer.depth, rel=1e-2)
        for text, measure in zip(values, "dgr", strict=True):
            value, stderr = text.split(" ± ")
            # Four digits inside the page, three on the screen; two of an error.
            assert float(value) == pytest.approx(getattr(layer, measure), rel=0.0056)
            assert float(stderr) == pytest.approx(getattr(layer, f"{measure}_stderr"), rel=0.051)


def test_a_convolution_is_chosen_for_its_spectrum(browser):
    select(browser, "net_2")
    label = "document.querySelector('.details svg[aria-label^=\"Filter power\"]').getAttribute('aria-label')"
    assert "layer0.0.conv2" in browser.evaluate(label)
    browser.evaluate(
        "(() => { const s = document.querySelector('.details select'); s.value = 'layer0.4.conv2';"
        " s.dispatchEvent(new Event('change')); })()"
    )
    assert "layer0.4.conv2" in browser.evaluate(label)


def test_hostile_names_are_shown_and_not_run(browser):
    select(browser, ATTACK)
    assert LAYER in browser.evaluate("document.querySelector('.details').textContent")
    assert browser.evaluate("document.querySelectorAll('img').length") == 0
    assert browser.evaluate(
        "[...document.querySelectorAll('svg')].every(s => s.matches('.chart, [aria-hidden=true]'))"
    )


def test_a_page_of_thousands_shows_curves_alone(started, tmp_path):
    records = [random_record(f"net_{i}", i, 6) for i in range(6)]
    board = make_board(records, pages={record.key: pack(record, brief=True) for record in records})
    path = tmp_path / "index.html"
    path.write_text(render_page(board), encoding="utf-8")
    started.events.clear()
    started.open(path)
    select(started, "net_2")
    assert started.evaluate("document.querySelectorAll('.details figure').length") == 4  # no power
    started.evaluate("document.querySelector('.details details').open = true")
    started.wait("document.querySelector('.details details table')")
    shown = started.evaluate(
        "[...document.querySelectorAll('.details details tbody tr')].map(r => r.cells[5].textContent)"
    )
    measured = [layer.r for layers in records[2].variants.values() for layer in layers]
    assert [float(text) for text in shown] == pytest.approx(measured, rel=0.012)
    assert not started.methods("Runtime.exceptionThrown")


def test_a_point_says_what_it_is_and_opens_its_network(browser):
    point = "document.querySelector('.charts .point[data-tip^=\"net_7:\"]')"
    browser.evaluate(f"{point}.scrollIntoView({{block: 'center'}})")
    box = browser.evaluate(
        f"(({{x, y, width, height}}) => [x + width / 2, y + height / 2])({point}.getBoundingClientRect())"
    )
    browser.point_at(*box)
    assert browser.evaluate("document.getElementById('tip').hidden") is False
    assert "test error" in browser.evaluate("document.getElementById('tip').textContent")
    browser.point_at(*box, click=True)
    shown = browser.evaluate("document.getElementById('tip').textContent").split(":")[0]
    browser.wait(f"{HEADING} === {json.dumps(shown)}")


def test_the_keyboard_goes_everywhere(browser):
    browser.evaluate("document.querySelector('.charts svg .point').focus()")
    stops = browser.evaluate(
        "document.querySelectorAll('.charts svg:first-of-type .point[tabindex=\"0\"]').length"
    )
    charts = browser.evaluate(
        "[...document.querySelectorAll('svg.chart')].filter(s => s.querySelector('.point')).length"
    )
    assert stops == charts  # one stop of the Tab key in each chart
    first = browser.evaluate("document.activeElement.dataset.tip")
    browser.press("ArrowRight")
    second = browser.evaluate("document.activeElement.dataset.tip")
    assert second != first
    assert browser.evaluate("document.activeElement.getAttribute('aria-label')") == second
    browser.press("Enter")
    browser.wait(f"{HEADING} === {json.dumps(second.split(':')[0])}")
    browser.evaluate("document.querySelector('table.models tbody tr:nth-child(2) button').focus()")
    browser.press("Enter", "\r")
    browser.wait(f"{HEADING} === {ROWS}[1].dataset.model")


def boxes(browser: Browser, selector: str) -> list[list[float]]:
    """Left, top, right and bottom of elements, in pixels of the page."""
    return browser.evaluate(
        f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.getBoundingClientRect())"
        ".map(b => [b.left, b.top, b.right, b.bottom])"
    )


def test_a_legend_tells_the_families_of_the_points(browser):
    """Each look of the legend is that of points, in colour and in shape, and no other look is there."""
    told = browser.evaluate(
        "[...document.querySelectorAll('.families li')].map(li => [li.textContent.trim(),"
        " getComputedStyle(li.querySelector('.line')).color])"
    )
    points = browser.evaluate(
        "[...document.querySelectorAll('.charts .point[data-point]')].map(p => ["
        "p.dataset.tip.match(/, family ([^,;]+)/)[1], getComputedStyle(p).stroke])"
    )
    assert dict(points).keys() <= dict(told).keys()
    assert {tuple(point) for point in points} <= {tuple(look) for look in told}
    assert browser.evaluate("document.querySelectorAll('.families').length") == 1
    assert browser.evaluate("[...document.querySelectorAll('.families svg')].every(s => s.ariaHidden)")


def test_focus_says_name_family_and_values(browser):
    browser.evaluate("document.querySelector('.charts .point[data-tip^=\"net_7:\"]').focus()")
    shown = browser.evaluate("document.getElementById('tip').textContent")
    assert browser.evaluate("document.getElementById('tip').hidden") is False
    record = random_record("net_7", 7, 6)
    for part in ("net_7: ", f"{100 * record.test_error.value:.1f} ± 1.0 %", "D 0.", "family net"):
        assert part in shown
    assert browser.evaluate("document.activeElement.getAttribute('aria-label')") == shown


@pytest.mark.parametrize("width", [320, 1280])
def test_names_beside_outliers_stay_in_their_charts(browser, width):
    """With the letters of this machine; and no two lie on one another."""
    browser.resize(width, 900)
    charts = browser.evaluate("document.querySelectorAll('.charts svg:has(.label)').length")
    labels = boxes(browser, ".charts .label")
    assert charts == 3
    assert 2 * charts <= len(labels) <= 3 * charts
    inside = browser.evaluate(
        "[...document.querySelectorAll('.charts .label')].map(e => {"
        " const b = e.getBoundingClientRect(), c = e.closest('svg').getBoundingClientRect();"
        " return b.left >= c.left && b.right <= c.right && b.top >= c.top && b.bottom <= c.bottom; })"
    )
    assert all(inside)
    for i, (left, _, right, bottom) in enumerate(labels):
        for other in labels[:i]:
            middle = (other[1] + other[3]) / 2
            assert right <= other[0] or other[2] <= left or not labels[i][1] < middle < bottom


def test_the_filter_leaves_only_the_points_that_it_asks_for_in_sight(browser):
    box, bar = "document.querySelector('input[type=search]')", "document.querySelector('.charts .bar')"
    assert browser.evaluate(f"getComputedStyle({bar}).opacity") == "1"
    browser.evaluate(f"{box}.value = 'net_1'; {box}.dispatchEvent(new Event('input'))")
    assert float(browser.evaluate(f"getComputedStyle({bar}).opacity")) < 0.2


def test_colours_follow_the_system_and_the_button(browser):
    ground = "getComputedStyle(document.body).backgroundColor"
    browser.evaluate("localStorage.clear()")
    browser.resize(1280, 900, dark=True)
    dark = browser.evaluate(ground)
    browser.resize(1280, 900, dark=False)
    light = browser.evaluate(ground)
    assert dark != light
    button = "document.getElementById('theme')"
    browser.evaluate(f"{button}.click()")
    assert browser.evaluate(ground) == dark
    assert browser.evaluate(f"{button}.getAttribute('aria-pressed')") == "true"
    browser.evaluate(f"{button}.click(); localStorage.clear()")
    assert browser.evaluate(ground) == light


@pytest.mark.parametrize("width", [320, 360, 768])
def test_nothing_sticks_out_on_a_small_screen(browser, width):
    browser.resize(width, 740)
    select(browser, ATTACK)
    select(browser, "net_4")
    browser.evaluate("document.querySelectorAll('details').forEach(d => { d.open = true; })")
    browser.wait("document.querySelector('.details details table')")
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    outside = browser.evaluate(
        f"[...document.querySelectorAll('body *')].filter(e => e.getBoundingClientRect().right > {width} + 1"
        " && !e.closest('.scroll')).map(e => e.tagName)"
    )
    assert not outside


def test_rows_of_statistics_have_two_lines_at_most_and_long_titles_a_place(started, tmp_path):
    """On a desk all columns are in sight; on a phone they scroll, and the choice of groups fits."""
    board = make_board([random_record(f"net_{i}", i, 3) for i in range(6)])
    titles = ["CIFAR-10 (JPEG), " + "as long as the titles of groups are, " * 3, "another"]
    groups = [replace(board.groups[0], title=title, slug=f"slug-{i}") for i, title in enumerate(titles)]
    path = tmp_path / "index.html"
    path.write_text(render_page(replace(board, groups=groups)), encoding="utf-8")
    started.events.clear()
    started.resize(1200, 900)
    started.open(path)
    table = "document.querySelector('.statistics')"
    lines = started.evaluate(
        f"[...{table}.tBodies[0].rows].map(r => r.offsetHeight / parseFloat(getComputedStyle(r).lineHeight))"
    )
    assert len(lines) == 3 * len(VARIANTS)
    assert max(lines) < 3
    assert started.evaluate(f"{table}.offsetWidth <= {table}.parentNode.clientWidth")
    started.resize(400, 800)
    assert started.evaluate("document.documentElement.scrollWidth") <= 400
    assert started.evaluate("document.getElementById('group').getBoundingClientRect().right") <= 400
    assert started.evaluate(f"{table}.offsetWidth > {table}.parentNode.clientWidth")


def test_the_policy_stops_what_is_slipped_in(started, page_file):
    """A handler and a script that got into the page all the same would not run, and nothing would load."""
    started.events.clear()
    started.open(page_file)
    started.evaluate(
        "(() => { const d = document.createElement('div');"
        ' d.innerHTML = \'<img src="https://example.org/x.png" onerror="window.ran = 1">\';'
        " const s = document.createElement('script'); s.textContent = 'window.ran = 2';"
        " document.body.append(d, s); })()"
    )
    started.wait("document.querySelector('img').complete")
    assert started.evaluate("window.ran ?? 0") == 0
    assert any("Content Security Policy" in e["entry"]["text"] for e in started.methods("Log.entryAdded"))
    loaded = [r["response"]["url"] for r in started.methods("Network.responseReceived")]
    assert loaded == [page_file.as_uri()]
