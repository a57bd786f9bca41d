"""One pass over a layer: against float64 sums, for every type, layout and number of threads."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from timm_diffsens.device import threads
from timm_diffsens.sensitivities.reductions import reference
from timm_diffsens.sensitivities.reductions.dispatch import add_rows
from timm_diffsens.sensitivities.reductions.reference import square_norm
from timm_diffsens.sensitivities.reductions.state import FEW, TILE, Block, RunningSums, blocks_of

SIZES = [0, 1, 7, TILE - 1, TILE, TILE + 1, 5 * TILE + 321, 70 * TILE + 9]
# A float32 sum of TILE squares in at least eight lanes: TILE / 8 roundings of half a unit, at most.
FLOAT32 = TILE / 8 * 2**-24
TYPES = [
    (torch.float32, torch.float32, FLOAT32),
    (torch.float32, torch.float64, 1e-12),
    (torch.float64, torch.float64, 1e-12),
    (torch.bfloat16, torch.float32, FLOAT32),
    (torch.float16, torch.float64, 1e-12),
]


def case(d, given=torch.float32, real=torch.float32, n=5, pairs=1):
    stream = torch.Generator().manual_seed(d)
    parts = torch.randn(1 + 2 * pairs, n, d, generator=stream, dtype=torch.float64).to(given)
    pivot, drift = torch.randn(2, d, generator=stream, dtype=torch.float64).to(real)
    return parts, pivot, drift


def new_sums(pairs=1, kept=FEW):
    (sums,) = RunningSums.of_layers(1, torch.device("cpu"), pairs, kept)
    return sums


def truth(parts, first, last, pivot, before):
    """Gaps to the pivot (n, d), the sums and products of (a, ..., b), and what they are of each image."""
    clean, *moved = parts[:, first:last].double()
    gaps = clean - pivot.double()
    squares = torch.stack([*(part - clean for part in moved), gaps]).square().sum(2)
    in_block = squares[-1].sum()
    squares[-1] *= 2 * before / (before + 1)
    return gaps, torch.cat([squares.sum(1)[None], squares @ squares.T]), in_block, squares.T


@pytest.mark.parametrize("add", [add_rows, reference.add_rows])
@pytest.mark.parametrize(("given", "real", "tolerance"), TYPES)
@pytest.mark.parametrize("d", SIZES)
@pytest.mark.parametrize("pairs", [1, 3])
def test_sums_inside_a_block_are_those_of_float64(add, given, real, tolerance, d, pairs):
    parts, pivot, drift = case(d, given, real, pairs=pairs)
    before, start = drift.clone(), pivot.clone()
    sums = new_sums(pairs)
    add(parts, [Block(1, 4, 0, number=1, after=0)], pivot, drift, sums)
    gaps, expected, in_block, each = truth(parts, 1, 4, pivot, 0)
    # products of two sums have twice their relative error
    torch.testing.assert_close(sums.memory[: 2 + 2 * pairs], expected, rtol=2.1 * tolerance, atol=0)
    torch.testing.assert_close(sums.images[1:4], each, rtol=tolerance, atol=0)
    assert not sums.images[[0, *range(4, FEW)]].any()
    torch.testing.assert_close(sums.in_block, in_block, rtol=tolerance, atol=0)
    assert torch.equal(pivot, start)
    # three additions of sums below 6 standard deviations
    bound = 3 * 12 * torch.finfo(real).eps
    torch.testing.assert_close(drift.double(), before.double() + gaps.sum(0), rtol=0, atol=bound)


@pytest.mark.parametrize("add", [add_rows, reference.add_rows])
@pytest.mark.parametrize(("given", "real", "tolerance"), TYPES)
@pytest.mark.parametrize("d", SIZES)
@pytest.mark.parametrize(("kept", "pairs"), [(True, 1), (False, 1), (False, 2)])
def test_the_end_of_a_block_moves_the_pivot_to_the_mean(add, given, real, tolerance, d, kept, pairs):
    parts, pivot, drift = case(d, given, real, n=4, pairs=pairs)
    gaps, expected, in_block, each = truth(parts, 0, 4, pivot, 6)
    mean = pivot.double() + gaps.sum(0) / 10
    sums = new_sums(pairs)
    drift.fill_(torch.nan)  # what it held before is of no account
    add(parts, [Block(0, 4, 6, number=6, after=10)], pivot, drift if kept else None, sums)
    torch.testing.assert_close(sums.memory[: 2 + 2 * pairs], expected, rtol=2.1 * tolerance, atol=0)
    torch.testing.assert_close(sums.images[6:10], each, rtol=tolerance, atol=0)
    assert not sums.first.any()  # these are not the first
    assert sums.in_block == 0
    settled = in_block - gaps.sum(0).square().sum() / 10
    # the drift carries the rounding of its four additions into its square, of which a tenth is taken away
    torch.testing.assert_close(sums.settled, settled, rtol=10 * tolerance, atol=0)
    torch.testing.assert_close(pivot.double(), mean, rtol=0, atol=4 * 12 * torch.finfo(real).eps)


@pytest.mark.parametrize("given", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize(
    ("n", "count", "open_count"), [(40, 0, 0), (13, 3, 1), (16, 16, 0), (40, 21, 5), (3, 1, 0)]
)
def test_blocks_of_a_batch_together_give_the_bits_that_they_give_alone(given, n, count, open_count):
    parts, pivot, drift = case(20 * TILE + 9, given, torch.float32, n)
    blocks = blocks_of(n, count, open_count)
    assert [p.first for p in blocks] + [n] == [0] + [p.last for p in blocks]  # none missing, none twice
    ways = [[[p] for p in blocks], [blocks]]
    if blocks[0].opens and blocks[-1].after:
        ways.append([blocks])
    found = []
    for way in ways:
        sums, mean = new_sums(), pivot.clone()
        total = None if len(found) == 2 else drift.clone()
        for some in way:
            add_rows(parts, some, mean, total, sums)
        found.append((sums.memory, mean))
    for memory, mean in found[1:]:
        assert torch.equal(memory, found[0][0])
        assert torch.equal(mean, found[0][1])


def test_blocks_end_where_batches_do_not_matter():
    ends = [1, 2, 4, 8, 16, 32, 48, 64, 80]
    for size in (1, 3, 16, 20, 80):
        count, still_open, found = 0, 0, []
        while count < 80:
            n = min(size, 80 - count)
            blocks = blocks_of(n, count, still_open)
            found += [p.after for p in blocks if p.after]
            count += n
            still_open = 0 if blocks[-1].after else count - blocks[-1].before
        assert found == ends


def test_parts_need_not_be_contiguous():
    parts, pivot, drift = case(3 * TILE + 5)
    spread = torch.empty(*parts.shape, 2)[..., 0].copy_(parts)
    results = []
    for given in (parts, spread):
        sums, total = new_sums(), drift.clone()
        add_rows(given, [Block(0, 5, 0, number=2, after=0)], pivot, total, sums)
        results.append((sums.memory, total))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])


def one_pass(threads, kept, after, d=90 * TILE + 5):
    """(sums, pivot) after five images of that width on so many threads."""
    parts, pivot, drift = case(d)
    sums, before = new_sums(), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        add_rows(parts, [Block(0, 5, 3, number=3, after=after)], pivot, drift if kept else None, sums)
    finally:
        torch.set_num_threads(before)
    return sums.memory, pivot


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("d", [TILE - 100, 5 * TILE, 90 * TILE + 5])
def test_neither_threads_nor_the_place_of_the_drift_change_a_bit(kept, d):
    expected = one_pass(1, True, 8, d)
    for count in (1, 2, 3, 16):
        found = one_pass(count, kept, 8, d)
        assert torch.equal(found[0], expected[0])
        assert torch.equal(found[1], expected[1])


def test_without_the_openmp_of_pytorch_threads_of_python_do_the_same(monkeypatch):
    expected = one_pass(2, False, 8)
    monkeypatch.setattr(threads, "team", lambda: threads.run_on_python_threads)
    found = one_pass(4, False, 8)
    assert torch.equal(found[0], expected[0])
    assert torch.equal(found[1], expected[1])


@pytest.mark.parametrize("d", [TILE // 2, TILE, TILE + 1, 2 * TILE, 90 * TILE])
def test_a_layer_of_half_a_tile_or_more_is_shared_by_two_threads(monkeypatch, d):
    asked = []

    def team(function, task, count):
        asked.append(count)
        threads.run_on_python_threads(function, task, count)

    monkeypatch.setattr(threads, "team", lambda: team)
    one_pass(2, False, 8, d)
    assert asked == [2]


@pytest.mark.skipif(sys.platform != "linux", reason="PyTorch's wheels for Linux bring OpenMP")
def test_pytorchs_own_threads_run_the_kernel():
    code = (
        "import torch; from timm_diffsens.device import threads\n"
        "assert threads.team() is not threads.run_on_python_threads\n"
        "from tests.sensitivities.test_reductions import one_pass; one_pass(2, False, 8)\n"
        "from pathlib import Path\n"
        "maps = Path('/proc/self/maps').read_text().split()\n"
        "print(len({m for m in maps if 'gomp' in m or 'omp.so' in m or 'omp5' in m}))"
    )
    root = Path(__file__).resolve().parents[2]
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=root)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "1"  # one OpenMP in the process


@pytest.mark.parametrize("add", [add_rows, reference.add_rows])
@pytest.mark.parametrize(("pairs", "kept"), [(1, 100), (3, 100), (2, 1), (1, 200)])
def test_the_first_images_are_kept_and_no_more(add, pairs, kept):
    parts, pivot, _ = case(40, torch.float64, torch.float64, n=120, pairs=pairs)
    sums, drift, count, still_open = new_sums(pairs, kept), torch.zeros_like(pivot), 0, 0
    for batch in parts.split(97, dim=1):  # a limit of 100 lies inside the second
        blocks = blocks_of(batch.shape[1], count, still_open)
        add(batch, blocks, pivot, drift, sums)
        count += batch.shape[1]
        still_open = 0 if blocks[-1].after else count - blocks[-1].before
    clean, *moved = parts[:, :kept]
    expected = torch.stack([part - clean for part in moved], dim=2).square().sum(1)
    torch.testing.assert_close(sums.images[:120, :-1], expected, rtol=1e-12, atol=0)
    assert not sums.images[120:].any()
    assert sums.images.shape == (kept, 2 * pairs + 1)


@pytest.mark.parametrize("add", [add_rows, reference.add_rows])
@pytest.mark.parametrize(("real", "tolerance"), [(torch.float32, FLOAT32), (torch.float64, 1e-12)])
def test_each_pair_has_the_sums_that_it_has_alone(add, real, tolerance):
    parts, pivot, _ = case(3 * TILE + 7, torch.float32, real, n=13, pairs=4)
    blocks, together, mean = blocks_of(13, 3, 1), new_sums(4), pivot.clone()
    add(parts, blocks, mean, torch.zeros_like(pivot), together)
    for pair in range(4):
        alone, own = new_sums(), pivot.clone()
        some = parts[[0, 1 + 2 * pair, 2 + 2 * pair]]
        add(some, blocks, own, torch.zeros_like(pivot), alone)
        found = together.of_pair(pair)
        # two orders of the same sums, each as far from the truth as it may be
        torch.testing.assert_close(found.memory, alone.memory, rtol=4.2 * tolerance, atol=0)
        assert torch.equal(found.totals[2], alone.totals[2])
        assert torch.equal(found.memory[4], alone.memory[4])
        assert torch.equal(mean, own)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("add", [add_rows, reference.add_rows])
@pytest.mark.parametrize("pairs", [1, 2])
@pytest.mark.parametrize("part", [1, 2])
def test_what_is_not_finite_stays_so_and_is_that_of_its_pair(add, bad, pairs, part):
    parts, pivot, drift = case(TILE + 100, pairs=pairs)
    part += 2 * (pairs - 1)
    parts[part, 2, 17] = bad
    sums = new_sums(pairs)
    add(parts, [Block(0, 5, 4, number=6, after=0)], pivot, drift, sums)
    finite = torch.arange(1 + 2 * pairs) != part - 1
    assert torch.equal(sums.totals.isfinite(), finite)
    assert torch.equal(sums.products.isfinite(), finite & finite[:, None])
    assert sums.memory[2 + 2 * pairs].isfinite().all()


@pytest.mark.parametrize("d", SIZES)
def test_square_norm(d):
    x = torch.randn(d, generator=torch.Generator().manual_seed(d))
    torch.testing.assert_close(square_norm(x), x.double().square().sum(), rtol=FLOAT32, atol=0)


def test_loading_the_kernel_leaves_the_number_of_threads():
    code = (
        "import torch\n"
        "torch.set_num_threads(1)\n"
        "import timm_diffsens.sensitivities.reductions.compiled\n"
        "print(torch.get_num_threads())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["1"]


_MEASURE = """
import json, sys, warnings
warnings.filterwarnings("error", "", UserWarning, "timm_diffsens")
if {without}:
    sys.modules["numba"] = None
from timm_diffsens import measure
import timm, torch
torch.manual_seed(0)
model = timm.create_model("test_resnet", pretrained=False)
images = torch.rand(37, 3, 48, 48, generator=torch.Generator().manual_seed(1))
layers = measure(model, images, layers="all", batch_size=11)
print(json.dumps([layer.model_dump() for layer in layers]))
"""


def test_without_numba_a_measurement_gives_the_same_numbers_and_one_line_says_so(warm):
    runs = []
    for without in (True, False):
        run = subprocess.run([*warm, "-c", _MEASURE.format(without=without)], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        runs.append((json.loads(run.stdout), run.stderr.splitlines()))
    (plain, said), (compiled, quiet) = runs
    assert [line for line in said if "numba" in line] == said[:1]
    assert "pip install 'timm-diffsens[fast]'" in said[0]
    assert quiet == []
    assert len(plain) == len(compiled) > 20
    for one, two in zip(plain, compiled, strict=True):
        for name, value in two.items():
            # a ratio of two sums of float32 squares; its error by the delta method from sums of products
            same = pytest.approx(value, rel=8 * FLOAT32) if isinstance(value, float) else value
            assert one[name] == same, (one["layer"], name)
