import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent


def test_measured_tables_are_those_of_the_records():
    script = ROOT / "docs" / "render.py"
    done = subprocess.run([sys.executable, str(script), "--check"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "<!-- record:" in (ROOT / "README.md").read_text()


def test_the_projects_own_records_are_valid():
    done = subprocess.run(
        [sys.executable, "-m", "timm_diffsens.cli", "validate", str(ROOT / "leaderboard" / "records")],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((ROOT / "leaderboard" / "records").rglob("*.json"))) >= 2
