"""docs/notebooks: every cell runs, and gives the output that the file keeps."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "docs" / "notebooks").glob("*.ipynb"))
NUMBER = re.compile(r"-?\d+\.?\d*(?:e-?\d+)?")

every_notebook = pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)


def outputs(text: str) -> list[str]:
    """What the cells print and show, in order, other than pictures and warnings of the environment."""
    cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
    found = [output for cell in cells for output in cell["outputs"] if output.get("name") != "stderr"]
    shown = [
        output.get("text") or output["data"].get("text/html", output["data"]["text/plain"])
        for output in found
    ]
    return ["".join(parts) for parts in shown]


def test_there_are_two():
    assert [file.stem for file in NOTEBOOKS] == ["first_measurement", "r_during_training"]


@every_notebook
def test_a_notebook_keeps_its_outputs(file):
    cells = [cell for cell in json.loads(file.read_text())["cells"] if cell["cell_type"] == "code"]
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))
    kept = [output for cell in cells for output in cell["outputs"]]
    assert {"image/svg+xml"} <= {kind for output in kept for kind in output.get("data", ())}
    assert not [
        output for output in kept if output["output_type"] == "error" or output.get("name") == "stderr"
    ]


@every_notebook
def test_a_notebook_gives_what_it_keeps(file, tmp_path):
    for needed in ("nbclient", "nbconvert", "ipykernel"):
        pytest.importorskip(needed, reason=f"needs {needed}, of the extra docs")
    (tmp_path / file.name).write_text(file.read_text())
    command = [
        sys.executable,
        "-m",
        "nbconvert",
        "--to",
        "notebook",
        "--execute",
        "--output",
        "now",
        file.name,
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    now, kept = outputs((tmp_path / "now.ipynb").read_text()), outputs(file.read_text())
    assert len(now) == len(kept)
    for text, before in zip(now, kept, strict=True):
        assert NUMBER.sub("#", text) == NUMBER.sub("#", before)
        found, expected = ([float(v) for v in NUMBER.findall(t)] for t in (text, before))
        assert found == pytest.approx(expected, rel=0.02, abs=2e-3)  # of what is rounded to three places
