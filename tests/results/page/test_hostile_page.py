"""The page of three hundred hostile records in a headless Chromium: nothing runs, nothing is asked for."""

import json
import unicodedata

import pytest
from browser import find_browser, running
from hostile import PAYLOADS, every_payload, write_corpus

from timm_diffsens.results.page.build import render_page
from timm_diffsens.results.stats.leaderboard import Choices, build_leaderboard

COMMAND = find_browser()
pytestmark = pytest.mark.skipif(COMMAND is None, reason="no Chromium here (apt-get install chromium)")
ROWS = "[...document.querySelectorAll('table.models tbody tr')]"
TEXTS = """
[document.body.textContent, ...[...document.querySelectorAll('*')]
.flatMap(e => [...e.attributes].map(a => a.value))].join("\\n")
"""


def test_each_detail_view_opens_and_nothing_runs(tmp_path):
    write_corpus(tmp_path / "records")
    board = build_leaderboard(tmp_path, Choices(resamples=100, include_unfitted=True))
    path = tmp_path / "index.html"
    path.write_text(render_page(board), encoding="utf-8")
    count = sum(len(group.models) for group in board.groups)
    with running(str(COMMAND)) as browser:
        browser.open(path)
        assert browser.evaluate(f"{ROWS}.length") == count > 40
        for place in range(count):
            row = f"{ROWS}[{place}]"
            name = browser.evaluate(f"{row}.dataset.model")
            panel = f"{row}.closest('section').querySelector('.details')"
            browser.evaluate(f"{panel}.replaceChildren(), {row}.querySelector('button').click()")
            browser.wait(f"{panel}.querySelector('h3')?.textContent === {json.dumps(name)}")
            browser.evaluate(f"{panel}.querySelectorAll('details').forEach(d => {{ d.open = true; }})")
            browser.wait(f"{panel}.querySelector('details table')")
            acting = [
                c for c in browser.evaluate(TEXTS) if unicodedata.category(c) in ("Cc", "Cf") and c != "\n"
            ]
            assert not acting, (name, acting)
        assert browser.evaluate("window.ran ?? 0") == 0
        assert browser.evaluate("document.querySelectorAll('img, script:not([type]) ~ script').length") == 0
        assert browser.evaluate(
            "[...document.querySelectorAll('a')].every(a => a.textContent && "
            "(a.getAttribute('href').startsWith('#') || a.hostname === 'arxiv.org'))"
        )
        for kind in ("Runtime.exceptionThrown", "Log.entryAdded", "Page.javascriptDialogOpening"):
            assert not browser.methods(kind)
        requests = {request["request"]["url"] for request in browser.methods("Network.requestWillBeSent")}
        assert requests == {path.as_uri()}
    assert len(PAYLOADS) * 2 <= count


def test_a_figure_as_a_page_runs_nothing(tmp_path):
    from typer.testing import CliRunner

    from timm_diffsens.cli import app

    source, path = tmp_path / "every.json", tmp_path / "figure.html"
    source.write_text(every_payload())
    assert CliRunner().invoke(app, ["show", str(source), "--figure", str(path)]).exit_code == 0
    with running(str(COMMAND)) as browser:
        browser.open(path)
        browser.wait("document.querySelector('svg, canvas')")
        assert browser.evaluate("window.ran ?? 0") == 0
        requests = {request["request"]["url"] for request in browser.methods("Network.requestWillBeSent")}
        assert requests == {path.as_uri()}
