"""The stand-in for new processes of Python does what they do."""

import os
import signal
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="passes streams and limits")
SHOWN = "import sys; print(sys.argv, sys.path, __name__, sys.stdin.fileno(), sys.stdout.fileno())"
CASES = [
    (SHOWN, "a b"),
    ("import os, sys; print(os.getcwd(), os.environ['MINE'], sys.stdin.read())", "<<< text"),
    ("import sys; print(sys.stdin, sys.stderr)", "<&- 2>&-"),
    ("import resource; print(resource.getrlimit(resource.RLIMIT_AS))", ""),
    ("print(1)", ">/dev/full"),
    ("import sys; [s.reconfigure(errors='replace') for s in (sys.stdout, sys.stderr)]", ""),
    ("import sys; print(sys.stdout.encoding, sys.stdout.errors, sys.stderr.errors, 'é')", ""),
    ("print('x' * 10**6)", "| true; exit ${PIPESTATUS[0]}"),
    ("import sys; sys.exit('no good')", ""),
    ("import sys; sys.exit(3)", ""),
    ("raise ValueError('no good')", ""),
    ("import atexit; atexit.register(print, 'last')", ""),
    ("import os; os.kill(os.getpid(), 9)", ""),
    ("import os; os._exit(7)", ""),
    ("import multiprocessing as m; print(m.get_context('spawn').Pool(1).map(abs, [-1]))", ""),
]


@pytest.mark.parametrize(("code", "more"), CASES)
def test_streams_limits_and_ends_are_those_of_a_new_process(code, more, warm, tmp_path):
    script = f'ulimit -v {30 * 2**20}; "$@" {more}'
    environment = {**os.environ, "MINE": "x", "PYTHONUNBUFFERED": ""}
    ends = []
    for python in (warm, [sys.executable]):
        command = ["bash", "-c", script, "bash", *python, "-c", code]
        done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=tmp_path)
        ends.append((done.returncode, done.stdout, done.stderr.splitlines()[-1:]))
    assert ends[0] == ends[1]


def test_a_module_a_file_and_an_interrupt(warm, tmp_path):
    (tmp_path / "mine.py").write_text("import sys, beside; print(sys.argv, __name__, __file__)")
    (tmp_path / "beside.py").write_text("")
    for arguments in (["-m", "mine", "x"], [str(tmp_path / "mine.py"), "x"]):
        texts = [
            subprocess.run([*python, *arguments], capture_output=True, text=True, cwd=tmp_path).stdout
            for python in (warm, [sys.executable])
        ]
        assert texts[0] == texts[1] != ""
    code = "import time; print('begun', flush=True); time.sleep(60)"
    begun = subprocess.Popen([*warm, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert begun.stdout.readline() == "begun\n"
    begun.send_signal(signal.SIGINT)
    assert begun.communicate(timeout=600)[1].endswith("KeyboardInterrupt\n")
    assert begun.returncode == -signal.SIGINT


def test_libraries_are_there_and_the_package_is_not(warm):
    code = "import sys; print([n in sys.modules for n in ('timm', 'torchvision', 'timm_diffsens', 'numba')])"
    done = subprocess.run([*warm, "-c", code], capture_output=True, text=True)
    assert done.stdout == "[True, True, False, False]\n", done.stderr
