"""docs/integrations.md, run as it stands."""

import re
import warnings
from pathlib import Path

import pytest

PAGE = (Path(__file__).parents[2] / "docs" / "integrations.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python ?(\w*)\n(.*?)```", PAGE, re.DOTALL)
NEEDS = {"": [], "lightning": ["lightning"], "loggers": ["tensorboard"], "torchmetrics": ["torchmetrics"]}


def test_there_is_a_block_of_each_kind():
    assert [name for name, _ in BLOCKS] == list(NEEDS)


@pytest.mark.parametrize(("extra", "code"), BLOCKS, ids=[name or "any loop" for name, _ in BLOCKS])
def test_the_blocks_run(extra, code, tmp_path, monkeypatch):
    for library in NEEDS[extra]:
        pytest.importorskip(library, reason=f"of the {extra} extra")
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "page"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        exec(compile(code, "integrations.md", "exec"), names)
    if extra == "":
        assert [done.epoch for done in names["monitor"].history] == [0, 2]
        assert (tmp_path / "depth.html").exists()
    if extra == "lightning":
        assert len(names["sensitivity"].monitor.history) == 2
    if extra == "loggers":
        assert list((tmp_path / "runs" / "deformations").glob("*.json"))
    if extra == "torchmetrics":
        parts = (names["clean"], names["deformed"], names["noised"])
        assert names["metric"].compute()["r"].item() == pytest.approx(names["sensitivity"](*parts).r)
