"""The reduction in Triton: interpreted, compiled for a GPU that need not be there, and on one that is."""

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from packaging.version import Version

from timm_diffsens.sensitivities.reductions import dispatch, reference
from timm_diffsens.sensitivities.reductions.state import RunningSums, blocks_of

triton = pytest.importorskip("triton", reason="Triton is for Linux")
ROOT = Path(__file__).resolve().parents[2]
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
# The interpreter of older ones does not run with the NumPy of today.
needs_interpreter = pytest.mark.skipif(Version(triton.__version__) < Version("3.7"), reason="old Triton")


@pytest.mark.parametrize(
    "environment",
    [
        pytest.param({"TRITON_INTERPRET": "1"}, id="interpreted", marks=needs_interpreter),
        pytest.param({}, id="compiled", marks=needs_gpu),
    ],
)
def test_the_kernels(environment):
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider"]
    run = subprocess.run(
        [*command, "tests/sensitivities/triton_kernels.py"],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout[-4000:]
    assert int(re.search(r"(\d+) passed", run.stdout)[1]) > 60


def assembly(kernel, types, **constants):
    """What Triton makes of a kernel for a GPU of compute capability 8.0, which need not be there."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names
    types = [*types, *["i32"] * (len(names) - len(types) - len(constants)), *["constexpr"] * len(constants)]
    source = ASTSource(kernel, dict(zip(names, types, strict=True)), constants)
    options = {"num_warps": 4, "enable_fp_fusion": True}
    return triton.compile(source, target=GPUTarget("cuda", 80, 32), options=options).asm["ptx"]


@pytest.mark.parametrize(
    ("given", "real", "unit", "columns", "loads"),
    [
        ("bf16", "fp32", 8, 256, "v4.b32"),  # 16 bytes at once
        ("fp32", "fp32", 4, 128, "v4.b32"),
        ("fp64", "fp64", 2, 64, "v2.b64"),
        ("fp16", "fp64", 1, 64, "b16"),
    ],
)
def test_a_layer_is_read_in_pieces_of_16_bytes(monkeypatch, tmp_path, given, real, unit, columns, loads):
    from timm_diffsens.sensitivities.reductions import on_gpu

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    types = [f"*{given}", f"*{real}", f"*{real}", "*i32", "*fp64"]
    found = assembly(on_gpu._squares, types, UNIT=unit, ROWS=16, COLUMNS=columns)
    # a program has 16 rows of 64 bytes to 512 for 128 threads; clean, deformed and noised are loaded in turn
    expected = 3 * 16 * columns // 128 // unit
    assert len(re.findall(rf"ld\.global\.{loads}\b", found)) == max(3, expected)


@pytest.mark.parametrize("width", [4, 16])
def test_the_last_program_of_the_second_kernel_sees_what_the_others_wrote(monkeypatch, tmp_path, width):
    from timm_diffsens.sensitivities.reductions import on_gpu

    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    constants = {"SLOTS": 8, "PROGRAMS": 512, "ROWS": 16, "NUMBERS": width}
    found = assembly(on_gpu._tally, ["*fp64", "*i32", "*fp64"], **constants)
    head, _, tail = found.partition("atom.global.gpu.acq_rel.add.f64")
    assert head.rstrip().count("bar.sync")  # all its threads have stored
    assert "ld.global.cg" in tail  # past the cache of one processor
    assert "ld.global.cg" not in head


class Kernel:
    """Stands for a kernel, or for what Triton compiled of it."""

    def __init__(self, returns=None, refuses=False):
        self.returns, self.refuses, self.calls = returns, refuses, []

    def __getitem__(self, grid):
        def start(*arguments, **options):
            if self.refuses:
                raise TypeError("function takes exactly 9 arguments")
            self.calls.append((grid, arguments))
            return self.returns

        return start


@pytest.mark.parametrize("refuses", [False, True])
def test_what_was_compiled_before_is_started_by_itself_if_that_can_be(monkeypatch, refuses):
    from timm_diffsens.sensitivities.reductions import on_gpu

    monkeypatch.setattr(on_gpu, "_ready", {})
    compiled, other = Kernel(refuses=refuses), Kernel()
    kernel = Kernel(returns=compiled)
    for number in range(4):
        on_gpu._launch(kernel, ("tally", 0, 4), number, (number, "a"), (8,))
    on_gpu._launch(Kernel(returns=other), ("tally", 0, 8), 5, (), ())
    expected = [((number, 1, 1), (number, "a", 8)) for number in range(4)]
    assert kernel.calls == (expected if refuses else expected[:1])  # none is lost, none started twice
    assert compiled.calls == ([] if refuses else expected[1:])
    assert other.calls == []  # compiled for another key


def test_where_triton_cannot_be_used_one_line_says_so(monkeypatch, caplog):
    from timm_diffsens.sensitivities.reductions import on_gpu

    def refuse(device):
        raise RuntimeError("no C compiler")

    monkeypatch.setattr(on_gpu, "try_out", refuse)
    dispatch._on_gpu.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert [dispatch._on_gpu(torch.device("cuda", 7)) for _ in range(2)] == [None, None]
    assert [record.getMessage() for record in caplog.records] == [
        "Triton cannot be used on cuda:7 (no C compiler): the same numbers take longer there"
    ]
    dispatch._on_gpu.cache_clear()


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("way", ["side by side", "columns apart"])
def test_on_a_gpu_the_dispatched_reduction_is_the_reference(dtype, way):
    parts = torch.randn(5, 40, 10_001, device="cuda").to(dtype)
    given = parts if way == "side by side" else torch.stack([parts, -parts], dim=-1)[..., 0]
    found = []
    for add in (dispatch.add_rows, reference.add_rows):
        (sums,) = RunningSums.of_layers(1, parts.device, 2)
        pivot = torch.zeros(10_001, device="cuda")
        add(given, blocks_of(40, 0, 0), pivot, torch.empty_like(pivot), sums)
        found.append((sums.memory, pivot))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-4, atol=0)
    torch.testing.assert_close(found[0][1], found[1][1], rtol=0, atol=1e-5)
