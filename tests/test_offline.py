"""With weights and data on disk nothing asks the network, and no subprocess is given to a shell.

Every Python process of these tests, the workers of a sweep too, starts with a guard that ends it at once when
it reaches for either.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

GUARD = """
import os, sys

def audit(event, args):
    network = event in ("socket.getaddrinfo", "socket.gethostbyname")
    # an address that is no tuple is a file of this machine
    network |= event in ("socket.connect", "socket.bind") and isinstance(args[1], tuple)
    shell = event == "os.system" or (event == "subprocess.Popen" and os.path.basename(str(args[0])) in SHELLS)
    if network or shell:
        print("refused:", event, args, file=sys.stderr, flush=True)
        os._exit(77)

SHELLS = {"sh", "bash", "cmd.exe"}
sys.addaudithook(audit)
"""
WHAT_IT_REFUSES = [
    "import socket; socket.create_connection(('127.0.0.1', 9))",
    "import socket; socket.getaddrinfo('example.org', 80)",
    "import subprocess; subprocess.run('true', shell=True)",
    "import os; os.system('true')",
]


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(GUARD)
    paths = [str(tmp_path / "guard"), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1"}


def python(environment: dict[str, str], *args: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *map(str, args)], env=environment, capture_output=True, text=True)


@pytest.fixture
def verb(tmp_path, warm, environment):
    """A command, and the processes that it starts, under the guard."""
    begin = f"import runpy; runpy.run_path({str(tmp_path / 'guard' / 'sitecustomize.py')!r}); "
    main = "runpy.run_module('timm_diffsens', run_name='__main__', alter_sys=True)"

    def run(*words: object, code: str = main) -> subprocess.CompletedProcess[str]:
        command = [*warm, "-c", begin + code, *map(str, words)]
        return subprocess.run(command, env=environment, capture_output=True, text=True)

    return run


@pytest.mark.parametrize("code", WHAT_IT_REFUSES)
def test_the_guard_would_notice(code, environment, verb):
    assert python(environment, "-c", code).returncode == 77
    assert verb(code=code).returncode == 77


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    for name in "ab":
        for i in range(2):
            path = tmp_path / "photographs" / name / f"{i}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((40, 40), 60 + i).convert("RGB").save(path)
    return tmp_path / "photographs"


def test_training_measuring_sweeping_and_the_leaderboard_need_neither(tmp_path, photographs, verb):
    tasks = ["--size", "16", "--xi", "7", "--train-images", "64", "--epochs", "1", "--device", "cpu"]
    trained = verb("train", "scale1", "net/lenet", *tasks, "--out", tmp_path, "--json")
    assert trained.returncode == 0, trained.stderr
    (result,) = json.loads(trained.stdout)
    common = ["--images", "4", "--layers", "output", "--variants", "original", "--out", tmp_path]
    folder = ["--no-pretrained", "--dataset", "folder", "--data-dir", photographs]
    for words in (
        ["bench", "net/lenet", "--checkpoint", result["checkpoint"], "--dataset", "scale1", *common],
        ["sweep", "test_resnet", *folder, *common],
        ["leaderboard", "--include-unfitted", "--out", tmp_path],
    ):
        done = verb(*words)
        assert done.returncode == 0, (words, done.stderr)
