"""The process as torch, torchvision and timm find it."""

import platform
import subprocess
import sys
import threading

import pytest
import torch

from timm_diffsens.device import allocator, devices, seeding, threads
from timm_diffsens.errors import UsageError

BUILDS_DIFFER = torch.version.cuda is None and "+cu" in allocator._torchvision_build()


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def test_torchvision_imports_after_the_guard():
    run = python(
        "from timm_diffsens.device.allocator import guard_torchvision\n"
        "print(guard_torchvision())\n"
        "import torchvision, timm\n"
        "print(torchvision.models.resnet18(weights=None).fc.out_features)"
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == [str(BUILDS_DIFFER), "1000"]


def test_the_guard_is_needed_exactly_where_the_builds_differ():
    run = python("import torch, torchvision")
    assert (run.returncode != 0) == BUILDS_DIFFER, run.stderr
    assert ("operator torchvision::nms does not exist" in run.stderr) == BUILDS_DIFFER


def test_the_guard_may_be_called_again():
    run = python(
        "from timm_diffsens.device.allocator import guard_torchvision as guard\n"
        "guard(); guard()\n"
        "import torchvision\n"
        "print(guard())"
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "False"


@pytest.mark.parametrize("version", ["__version__ = '0.28.0+cpu'", "__version__ = '0.28.0'", ""])
def test_the_guard_leaves_other_builds_of_torchvision_alone(monkeypatch, version):
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(allocator, "_torchvision_build", lambda: version)
    before = list(allocator._libraries)
    assert allocator.guard_torchvision() is False
    assert allocator._libraries == before


def test_the_guard_leaves_a_cuda_build_of_torch_alone(monkeypatch):
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    assert allocator.guard_torchvision() is False


def test_the_torchvision_build_is_read_without_importing_it():
    run = python(
        "import sys\n"
        "from timm_diffsens.device.allocator import _torchvision_build\n"
        "print('__version__' in _torchvision_build(), 'torchvision' in sys.modules)"
    )
    assert run.stdout.split() == ["True", "False"], run.stderr


def test_the_allocator_is_tuned_where_it_can_be():
    raised = allocator.tune_allocator()
    assert isinstance(raised, bool)
    assert raised == (platform.libc_ver()[0] == "glibc")


def test_prepare_may_be_called_again():
    allocator.prepare()
    allocator.prepare()


@pytest.mark.parametrize(
    ("name", "kind"), [("cpu", "cpu"), ("auto", "cuda" if torch.cuda.is_available() else "cpu")]
)
def test_devices_by_name(name, kind):
    assert devices.resolve_device(name).type == kind


@pytest.mark.parametrize(("name", "near"), [("cpuu", "cpu"), ("cud", "cuda"), ("automatic", "auto")])
def test_an_unknown_device_gets_the_nearest_name(name, near):
    with pytest.raises(UsageError, match=rf"{name!r}.*did you mean {near}\?"):
        devices.resolve_device(name)


def test_a_device_that_is_not_there_is_named_with_the_count():
    with pytest.raises(
        UsageError, match=rf"'cuda:99' does not exist.*{torch.cuda.device_count()} CUDA devices"
    ):
        devices.resolve_device("cuda:99")


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch's wheels for Linux use OpenMP")
def test_helpers_use_one_core_each_and_the_others_are_left_alone():
    run = python(
        "import torch, threading\n"
        "from timm_diffsens.device import seeding, threads\n"
        "torch.set_num_threads(3)\n"
        "with threads.helpers(2, 'test') as pool:\n"
        "    def count(_):\n"
        "        torch.rand(300, 300).exp()\n"
        "        return torch.get_num_threads()\n"
        "    print(*pool.map(count, range(8)), torch.get_num_threads())\n"
        "found = []\n"
        "other = threading.Thread(target=lambda: found.append(torch.get_num_threads()))\n"
        "other.start(); other.join(); print(*found)"
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["1"] * 8 + ["3", "3"]


@pytest.mark.parametrize("ours", [True, False])
def test_work_is_shared_among_threads_each_part_done_once(ours, monkeypatch):
    if not ours:
        monkeypatch.setattr(threads, "team", lambda: threads.run_on_python_threads)
    before, met = torch.get_num_threads(), threading.Barrier(2, timeout=600)
    torch.set_num_threads(2)
    try:
        done = []

        def work(number):
            if number < 2:
                met.wait()  # two threads are in it at once
            done.append(number)

        threads.share(work, 50)
        assert sorted(done) == list(range(50))
        torch.set_num_threads(1)
        threads.share(lambda number: done.append(threading.get_ident()), 2)
        assert done[50:] == [threading.get_ident()] * 2
    finally:
        torch.set_num_threads(before)


def test_what_shared_work_raises_is_raised_where_it_was_asked_for():
    def work(number):
        if number == 3:
            raise ValueError("the fourth")

    with pytest.raises(ValueError, match="the fourth"):
        threads.share(work, 9)
    threads.share(work, 0)


def test_equal_seeds_give_equal_draws():
    def draw(seed):
        with seeding.seeded(seed):
            return torch.randn(5)

    assert torch.equal(draw(3), draw(3))
    assert not torch.equal(draw(3), draw(4))


def test_the_global_stream_is_put_back():
    before = torch.get_rng_state()
    with seeding.seeded(3):
        torch.randn(5)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_global_stream_is_put_back_after_an_error():
    before = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError), seeding.seeded(3):
        raise ZeroDivisionError
    assert torch.equal(torch.get_rng_state(), before)
