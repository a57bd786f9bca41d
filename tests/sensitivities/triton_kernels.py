"""The reduction in Triton against float64 sums: run by test_on_gpu.py in a process of its own.

Without a GPU Triton interprets the kernels, slowly and one program after the other, so layers are small here.
"""

import os

import pytest
import torch
from sensitivities.test_reductions import FLOAT32, TYPES, case, truth

from timm_diffsens import sensitivity
from timm_diffsens.sensitivities import estimator
from timm_diffsens.sensitivities.reductions import on_gpu, reference
from timm_diffsens.sensitivities.reductions.state import Block, RunningSums, blocks_of

DEVICE = torch.device("cpu" if "TRITON_INTERPRET" in os.environ else "cuda")
# A program has 256 columns of a half type, 128 of float32, and 64 where it calculates in float64.
SIZES = [1, 70, 264]


def new_sums(pairs=1, kept=100):
    (sums,) = RunningSums.of_layers(1, DEVICE, pairs, kept)
    return sums


def placed(*tensors):
    return [tensor.to(DEVICE) for tensor in tensors]


def close(found, expected, rtol, atol=0.0, name=None):
    torch.testing.assert_close(found.cpu().double(), expected.cpu().double(), rtol=rtol, atol=atol, msg=name)


@pytest.mark.parametrize(("given", "real", "tolerance"), TYPES)
@pytest.mark.parametrize("d", SIZES)
@pytest.mark.parametrize("pairs", [1, 3])
def test_sums_inside_a_block_are_those_of_float64(given, real, tolerance, d, pairs):
    parts, pivot, drift = placed(*case(d, given, real, pairs=pairs))
    before, start, sums = drift.clone(), pivot.clone(), new_sums(pairs)
    on_gpu.add_rows(parts, [Block(1, 4, 0, number=1, after=0)], pivot, drift, sums)
    gaps, expected, in_block, each = truth(parts, 1, 4, pivot, 0)
    close(sums.memory[: 2 + 2 * pairs], expected, 2.1 * tolerance)
    close(sums.images[1:4], each, tolerance)
    assert not sums.images[[0, *range(4, 100)]].any()
    close(sums.in_block, in_block, tolerance)
    assert torch.equal(pivot, start)
    close(drift, before.double() + gaps.sum(0), 0, atol=3 * 12 * torch.finfo(real).eps)


@pytest.mark.parametrize(("given", "real", "tolerance"), TYPES)
@pytest.mark.parametrize(("d", "kept", "pairs"), [(1, True, 1), (264, False, 2)])
def test_the_end_of_a_block_moves_the_pivot_to_the_mean(given, real, tolerance, d, kept, pairs):
    parts, pivot, drift = placed(*case(d, given, real, n=4, pairs=pairs))
    gaps, expected, in_block, each = truth(parts, 0, 4, pivot, 6)
    mean, sums = pivot.double() + gaps.sum(0) / 10, new_sums(pairs)
    drift.fill_(torch.nan)  # what it held before is of no account
    on_gpu.add_rows(parts, [Block(0, 4, 6, number=6, after=10)], pivot, drift if kept else None, sums)
    close(sums.memory[: 2 + 2 * pairs], expected, 2.1 * tolerance)
    close(sums.images[6:10], each, tolerance)
    assert sums.in_block == 0
    close(sums.settled, in_block - gaps.sum(0).square().sum() / 10, 10 * tolerance)
    close(pivot, mean, 0, atol=4 * 12 * torch.finfo(real).eps)
    assert bool(drift.isnan().all())  # no block goes on


@pytest.mark.parametrize(("given", "real", "tolerance"), TYPES[:4])
@pytest.mark.parametrize("pairs", [1, 3])
def test_batches_that_end_anywhere_add_up_as_in_the_reference(given, real, tolerance, pairs):
    parts, pivot, drift = placed(*case(147, given, real, n=40, pairs=pairs))
    found = []
    for add in (on_gpu.add_rows, reference.add_rows):
        sums, mean, total, count, still_open = new_sums(pairs, 30), pivot.clone(), drift.clone(), 0, 0
        for batch in parts.split([5, 14, 1, 20], dim=1):  # 1 1 2 1 | 3 8 3 | 1 | 12 8
            blocks = blocks_of(batch.shape[1], count, still_open)
            add(batch, blocks, mean, total, sums)
            count += batch.shape[1]
            still_open = 0 if blocks[-1].after else count - blocks[-1].before
        found.append((sums.memory, mean, total))
    close(found[0][0], found[1][0], 10 * tolerance)
    for one, two in zip(found[0][1:], found[1][1:], strict=True):
        close(one, two, 0, atol=40 * 12 * torch.finfo(real).eps)


@pytest.mark.parametrize("size", [7, 40])
@pytest.mark.parametrize(("dtype", "promised"), [(torch.float64, 1e-10), (torch.float32, 1e-5)])
def test_the_estimator_gives_the_definition(monkeypatch, size, dtype, promised):
    monkeypatch.setattr(estimator, "add_rows", on_gpu.add_rows)
    monkeypatch.setattr(estimator, "_SMALL", 2)  # float32 sums for float32 layers
    draws = torch.randn(5, 40, 90, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    parts = (draws[0] + 10 + torch.tensor([0, 0.3, 0.7, 1, 2])[:, None, None] * draws).to(dtype)
    found = estimator.SensitivityEstimator(pairs=2)
    for batch in parts.to(DEVICE).split(size, dim=1):
        found.update_parts(batch)
    for pair, layer in enumerate(found.compute()):
        plain = sensitivity(parts[0], parts[1 + 2 * pair], parts[2 + 2 * pair])
        assert (layer.d, layer.g, layer.r) == pytest.approx(tuple(plain), rel=promised)


def test_blocks_of_a_batch_together_give_the_bits_that_they_give_alone():
    parts, pivot, drift = placed(*case(140, torch.bfloat16, n=21))
    blocks, found = blocks_of(21, 11, 3), []
    for way in ([[block] for block in blocks], [blocks]):
        sums, mean, total = new_sums(), pivot.clone(), drift.clone()
        for some in way:
            on_gpu.add_rows(parts, some, mean, total, sums)
        found.append((sums.memory, mean, total))
    assert all(torch.equal(one, two) for one, two in zip(*found, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_rows_may_lie_anywhere_in_memory(dtype):
    parts, pivot, drift = placed(*case(136, dtype, n=6))  # whole pieces of 16 bytes
    wide = torch.full((3, 6, 160), torch.nan, dtype=dtype, device=DEVICE)
    turned = parts.transpose(0, 1).contiguous().transpose(0, 1)
    ways = {"side by side": parts, "images first": turned}
    for start in (0, 16, 3):  # the last is not where a piece begins
        ways[f"in {start}"] = wide.clone()[:, :, start : start + 136].copy_(parts)
    found = {}
    for name, given in ways.items():
        assert on_gpu.fits(given), name
        sums, total = new_sums(), drift.clone()
        on_gpu.add_rows(given, [Block(0, 6, 8, number=8, after=0)], pivot, total, sums)
        found[name] = sums.memory, total
    pieces = {name: on_gpu._pieces(given)[0] * given.itemsize for name, given in ways.items()}
    assert list(pieces.values()) == [16, 16, 16, 16, dtype.itemsize]
    for name, (memory, total) in found.items():
        close(memory, found["side by side"][0], FLOAT32, name=name)
        close(total, found["side by side"][1], 0, atol=6 * 12 * 2**-23, name=name)


def test_what_does_not_fit():
    parts = torch.zeros(3, 4, 8)
    assert not on_gpu.fits(parts[:, :, ::2])
    assert not on_gpu.fits(parts[:, :, :0])
    assert on_gpu.fits(parts[:, :, ::2].contiguous())
    assert on_gpu.fits(parts[:, :, :1])
    assert not on_gpu.fits(torch.empty(2, 1, 2**31, device="meta"))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", [1, 4])
def test_what_is_not_finite_stays_so_and_is_that_of_its_pair(bad, part):
    parts, pivot, drift = placed(*case(140, pairs=2))
    parts[part, 2, 137] = bad
    sums = new_sums(2)
    on_gpu.add_rows(parts, [Block(0, 5, 4, number=4, after=9)], pivot, drift, sums)
    finite = torch.arange(5) != part - 1
    assert torch.equal(sums.totals.isfinite().cpu(), finite)
    assert torch.equal(sums.products.isfinite().cpu(), finite & finite[:, None])
    assert sums.memory[6].isfinite().all()
    assert pivot.isfinite().all()


def test_a_clean_image_that_is_not_finite():
    parts, pivot, drift = placed(*case(140))
    parts[0, 2, 137] = torch.nan
    sums = new_sums()
    on_gpu.add_rows(parts, [Block(0, 5, 4, number=4, after=9)], pivot, drift, sums)
    assert sums.totals.isnan().all()
    assert sums.settled.isnan()
    assert sums.in_block == 0
    assert torch.equal(pivot.isnan().cpu(), torch.arange(140) == 137)


@pytest.mark.parametrize("kept", [1, 9, 30])
def test_the_first_images_are_kept_and_no_more(kept):
    parts, pivot, drift = placed(*case(5, torch.float64, torch.float64, n=20, pairs=2))
    sums = new_sums(2, kept)
    sums.images.fill_(-1)
    on_gpu.add_rows(parts, blocks_of(20, 0, 0), pivot, drift, sums)
    expected = (parts[1:] - parts[0]).square().sum(2).T
    close(sums.images[:20, :-1], expected[:kept], 1e-12)
    assert bool((sums.images[20:] == -1).all())


def test_more_programs_than_are_added_at_once(monkeypatch):
    monkeypatch.setattr(on_gpu, "_PROGRAMS", 2)
    monkeypatch.setattr(on_gpu, "_ready", {})
    parts, pivot, drift = placed(*case(5 * 64 + 3, torch.float64, torch.float64, n=3))
    sums = new_sums()
    on_gpu.add_rows(parts, [Block(0, 3, 4, number=4, after=0)], pivot, drift, sums)
    _, expected, in_block, _ = truth(parts, 0, 3, pivot, 4)
    close(sums.memory[:4], expected, 1e-12)
    close(sums.in_block, in_block, 1e-12)


@pytest.mark.skipif(DEVICE.type != "cuda", reason="the interpreter starts nothing that was compiled before")
def test_a_second_launch_uses_what_was_compiled_for_other_shapes(monkeypatch):
    monkeypatch.setattr(on_gpu, "_ready", {})
    for n, d, pairs in ((16, 256, 1), (1, 8, 1), (40, 5000, 1), (7, 100_000, 1)):
        parts, pivot, drift = placed(*case(d, torch.bfloat16, n=n, pairs=pairs))
        sums = new_sums(pairs)
        on_gpu.add_rows(parts, blocks_of(n, 32, 0), pivot, drift, sums)
        assert len(on_gpu._ready) == 2
        assert all(on_gpu._ready.values())
        moved = (parts[1:].double() - parts[0].double()).square().sum(2)
        close(sums.totals[:-1], moved.sum(1), FLOAT32)
