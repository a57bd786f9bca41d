"""One pass over a layer: against float64 sums, for every type, layout and number of threads."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from timm_diffsens.measures import kernel_cpu
from timm_diffsens.measures.reductions import STRETCH, reduce_rows, reduce_rows_in_blocks, square_norm

SIZES = [0, 1, 7, STRETCH - 1, STRETCH, STRETCH + 1, 5 * STRETCH + 321]
# A float32 sum of STRETCH squares in at least eight lanes: STRETCH / 8 roundings of half a unit, at most.
FLOAT32 = STRETCH / 8 * 2**-24
TYPES = [
    (torch.float32, torch.float32, FLOAT32),
    (torch.float32, torch.float64, 1e-12),
    (torch.float64, torch.float64, 1e-12),
    (torch.bfloat16, torch.float32, FLOAT32),
    (torch.float16, torch.float64, 1e-12),
]


def case(d, given=torch.float32, real=torch.float32, n=5):
    stream = torch.Generator().manual_seed(d)
    parts = torch.randn(3, n, d, generator=stream, dtype=torch.float64).to(given)
    pivot, drift = torch.randn(2, d, generator=stream, dtype=torch.float64).to(real)
    return parts, pivot, drift


def truth(parts, first, last, pivot):
    clean, moved, noised = parts[:, first:last].double()
    gaps = torch.stack([moved - clean, noised - clean, clean - pivot.double()])
    return gaps.square().sum(2), gaps[2].sum(0)


def by_blocks(parts, first, last, pivot, drift):
    return reduce_rows_in_blocks(parts, first, last, pivot, drift, 2 * STRETCH)


@pytest.mark.parametrize("reduce", [reduce_rows, by_blocks])
@pytest.mark.parametrize(("given", "real", "tolerance"), TYPES)
@pytest.mark.parametrize("d", SIZES)
def test_norms_and_drift_are_those_of_float64(reduce, given, real, tolerance, d):
    parts, pivot, drift = case(d, given, real)
    before = drift.clone()
    norms, moved_by = truth(parts, 1, 4, pivot)
    found = reduce(parts, 1, 4, pivot, drift)
    assert found.shape == (3, 3)
    assert found.dtype == torch.float64
    torch.testing.assert_close(found, norms, rtol=tolerance, atol=0)
    # three additions of numbers below 6 standard deviations
    bound = 3 * 12 * torch.finfo(real).eps
    torch.testing.assert_close(drift.double(), before.double() + moved_by, rtol=0, atol=bound)


def test_parts_need_not_be_contiguous():
    parts, pivot, drift = case(3 * STRETCH + 5)
    spread = torch.empty(*parts.shape, 2)[..., 0].copy_(parts)
    other = drift.clone()
    assert torch.equal(reduce_rows(spread, 0, 5, pivot, drift), reduce_rows(parts, 0, 5, pivot, other))
    assert torch.equal(drift, other)


def test_threads_do_not_change_a_bit():
    parts, pivot, drift = case(9 * STRETCH + 5)
    arrays = [parts.numpy(), pivot.numpy()]
    results = []
    for threads in (1, 2, 1000):
        total = drift.numpy().copy()
        results.append((kernel_cpu.reduce(arrays[0], 0, 5, arrays[1], total, threads), total))
    for squares, total in results[1:]:
        assert np.array_equal(squares, results[0][0])
        assert np.array_equal(total, results[0][1])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_stays_so(bad):
    parts, pivot, drift = case(STRETCH + 100)
    parts[1, 2, 17] = bad
    found = reduce_rows(parts, 0, 5, pivot, drift)
    assert not found[0, 2].isfinite()
    assert found[:, [0, 1, 3, 4]].isfinite().all()
    assert found[1:].isfinite().all()


@pytest.mark.parametrize("d", SIZES)
def test_square_norm(d):
    x = torch.randn(d, generator=torch.Generator().manual_seed(d))
    torch.testing.assert_close(square_norm(x), x.double().square().sum(), rtol=FLOAT32, atol=0)


def test_loading_the_kernel_leaves_the_number_of_threads():
    code = (
        "import torch\n"
        "torch.set_num_threads(1)\n"
        "import timm_diffsens.measures.kernel_cpu\n"
        "print(torch.get_num_threads())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["1"]
