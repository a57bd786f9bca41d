"""Philox 4x32-10 and the normals made of it: known answers, one set of bits everywhere, and normal indeed."""

import hashlib
import importlib
import itertools
import json
import math
import os
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from scipy.special import ndtr

from timm_diffsens.perturb import normals as normals_file
from timm_diffsens.perturb.normals import normals
from timm_diffsens.perturb.philox import reference
from timm_diffsens.perturb.philox.reference import Place

pytest.importorskip("numba")
compiled = importlib.import_module("timm_diffsens.perturb.philox.compiled")  # a fault of ours is no skip

# kat_vectors of the Random123 distribution: counter, key, answer.
KNOWN = [
    ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
SEED, INDICES = 2**63 + 2**33 + 5, [0, 7, 2**32 - 1, 2**32, 2**60 + 3]


def plain(counter, key):
    """Philox in Python's own integers, written from the paper."""
    (c0, c1, c2, c3), (k0, k1) = counter, key
    for step in range(10):
        if step:
            k0, k1 = (k0 + 0x9E3779B9) % 2**32, (k1 + 0xBB67AE85) % 2**32
        first, second = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = second // 2**32 ^ c1 ^ k0, second % 2**32, first // 2**32 ^ c3 ^ k1, first % 2**32
    return c0, c1, c2, c3


def exact_pair(radial, angular):
    """Two normals in float64, of the float32 numbers that the words are rounded to."""
    u = (np.float32(radial) * np.float32(2**-32) + np.float32(2**-33)).astype(np.float64)
    t = angular.astype(np.uint32).view(np.int32).astype(np.float32).astype(np.float64) / 2**32
    radius = np.sqrt(-2 * np.log(u))
    return radius * np.cos(2 * np.pi * t), radius * np.sin(2 * np.pi * t)


def filled(fill, elements, first=0, indices=INDICES):
    out = torch.full((len(indices), elements), torch.nan)
    fill(out, Place.of(SEED, "noise", indices, first))
    return out


# ---- Philox


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_known_answers(counter, key, answer):
    assert plain(counter, key) == answer
    words = reference.philox(tuple(np.array([c], dtype=np.uint64) for c in counter), key)
    assert tuple(int(word[0]) for word in words) == answer
    assert tuple(map(int, compiled._philox(*map(np.uint64, (*counter, *key))))) == answer


def test_where_each_number_comes_from():
    """Key: the seed; counter: element, purpose, image; in float64 arithmetic, from Python's integers."""
    found = filled(reference.fill, 18, first=2**31 + 9)
    for row, index in zip(found, INDICES, strict=True):
        for block in range(5):
            counter = 2**31 + 9 + block, zlib.crc32(b"noise"), index % 2**32, index // 2**32
            words = np.array(plain(counter, (SEED % 2**32, SEED // 2**32)), dtype=np.uint64)
            expected = np.concatenate([exact_pair(words[:1], words[1:2]), exact_pair(words[2:3], words[3:])])
            here = row[4 * block : 4 * block + 4].numpy()
            assert np.abs(here - expected[: len(here), 0]).max() < 1e-6


def test_distinct_seeds_purposes_and_images_have_counters_of_their_own():
    seeds = [0, 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**63, 2**64 - 1, zlib.crc32(b"noise") << 32]
    purposes = ["diffeo", "noise", "corruption", "corruption of train", "unit of noise", "example"]
    places = [Place.of(s, p, INDICES) for s, p in itertools.product(seeds, purposes)]
    all_of_them = {(place.key, place.purpose, int(i)) for place in places for i in place.images}
    assert len(all_of_them) == len(seeds) * len(purposes) * len(INDICES)
    assert all(max(*place.key, place.purpose) < 2**32 for place in places)
    assert Place.of(-1, "noise", []).key == Place.of(2**64 - 1, "noise", []).key


# ---- normals


def test_normals_are_exact_to_a_millionth():
    """At the ends of the range, of binades and of quarter turns, and in between."""
    edges = [e + d for e in (0, *(2**k for k in range(1, 33))) for d in range(-40, 41)]
    edges += [int(2**k * 2**-0.5) + d for k in range(1, 33) for d in range(-40, 41)]  # where log changes over
    edges += [q * 2**29 + d for q in range(9) for d in range(-200, 201)]  # eighths of a turn
    radial = np.array([w for w in edges if 0 <= w < 2**32], dtype=np.uint64)
    random = np.random.default_rng(0)
    angular = np.concatenate([random.permutation(radial), random.integers(0, 2**32, 500_000, np.uint64)])
    radial = np.concatenate([radial, random.integers(0, 2**32, 500_000, np.uint64)])
    expected = exact_pair(radial, angular)
    for found, value in zip(reference._box_muller(radial, angular), expected, strict=True):
        assert found.dtype == np.float32
        assert np.abs(found - value).max() < 1e-6
    # u = 2^-33 gives the largest
    most = reference._box_muller(np.zeros(1, np.uint64), np.zeros(1, np.uint64))[0]
    assert most[0] == pytest.approx(math.sqrt(66 * math.log(2)), abs=1e-6)


@pytest.mark.parametrize("elements", [1, 2, 3, 4, 5, 18, 4099, 40_000])
def test_compiled_normals_are_those_of_the_reference_to_the_bit(elements):
    for first in (0, 3):
        assert torch.equal(filled(compiled.fill, elements, first), filled(reference.fill, elements, first))


INTERPRETED = """
import json, sys, torch, triton, triton.language as tl
from timm_diffsens.perturb.philox import on_gpu, reference
from timm_diffsens.perturb.philox.reference import Place

@triton.jit
def kernel(into, counter, key):
    one = tl.zeros((1,), tl.uint32)
    c0, c1 = tl.load(counter) + one, tl.load(counter + 1) + one
    c2, c3 = tl.load(counter + 2) + one, tl.load(counter + 3) + one
    w0, w1, w2, w3 = tl.philox_impl(c0, c1, c2, c3, tl.load(key), tl.load(key + 1), 10)
    place = into + tl.arange(0, 1)
    tl.store(place, w0)
    tl.store(place + 1, w1)
    tl.store(place + 2, w2)
    tl.store(place + 3, w3)

words = []
for counter, key, _ in json.loads(sys.argv[1]):
    out = torch.zeros(4, dtype=torch.uint32)
    kernel[(1,)](out, torch.tensor(counter, dtype=torch.uint32), torch.tensor(key, dtype=torch.uint32))
    words.append(out.tolist())
equal = []
for elements in (1, 7, 18, 5000):
    place = Place.of(2**63 + 2**33 + 5, "noise", [0, 2**32 - 1, 2**60 + 3], first=3)
    pair = torch.full((2, 3, elements), torch.nan)
    reference.fill(pair[0], place)
    on_gpu.fill(pair[1], place)
    equal.append(torch.equal(*pair))
print(json.dumps([words, equal]))
"""


def test_the_kernel_for_gpus_makes_the_same_bits(tmp_path):
    """In Triton's interpreter: known answers of Philox, and the reference's normals."""
    pytest.importorskip("triton")
    script = tmp_path / "interpreted.py"  # Triton reads the source of its kernels
    script.write_text(INTERPRETED)
    run = subprocess.run(
        [sys.executable, script, json.dumps(KNOWN)],
        capture_output=True,
        text=True,
        env={**os.environ, "TRITON_INTERPRET": "1"},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    words, equal = json.loads(run.stdout)
    assert [tuple(each) for each in words] == [answer for *_, answer in KNOWN]
    assert all(equal)


COMPILED = """
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from timm_diffsens.perturb.philox import on_gpu
types = {"out": "*fp32", "images": "*i64", "block": "constexpr"}
types |= dict.fromkeys(("k0", "k1", "purpose", "start", "elements"), "i32")
source = ASTSource(fn=on_gpu._kernel, signature=types, constexprs={"block": 1024})
done = triton.compile(source, target=GPUTarget("cuda", 80, 32), options={"enable_fp_fusion": False})
code = done.asm["ptx"]
print("mul.rn.f32" in code, "sqrt.rn.f32" in code, "fma" in code)
"""


def test_the_kernel_for_gpus_compiles_without_one():
    """To products, sums and roots that are rounded each; contracted ones would have other bits."""
    pytest.importorskip("triton")
    pytest.importorskip("triton.backends.nvidia")
    run = subprocess.run([sys.executable, "-c", COMPILED], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == ["True", "True", "False"]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_makes_the_same_bits():
    for shape in ((1,), (3, 3), (3, 57, 31)):
        arguments = SEED, "noise", INDICES, shape
        assert torch.equal(normals(*arguments, device="cuda").cpu(), normals(*arguments))


@pytest.mark.parametrize("fill", [reference.fill, compiled.fill])
@pytest.mark.parametrize("size", [1, 7, 64])
def test_draws_do_not_depend_on_the_batch(fill, size, monkeypatch):
    monkeypatch.setattr(normals_file, "_implementation", lambda device: sys.modules[fill.__module__])
    indices = np.random.default_rng(0).permutation(100)[:70].tolist()
    whole = normals(3, "noise", indices, (3, 11, 13))
    for start in range(0, 70, size):
        part = slice(start, start + size)
        assert torch.equal(normals(3, "noise", indices[part], (3, 11, 13)), whole[part])
    shard = slice(2, None, 3)
    assert torch.equal(normals(3, "noise", indices[shard], (3, 11, 13)), whole[shard])
    assert torch.equal(normals(3, "noise", indices[::-1], (3, 11, 13)), whole.flip(0))
    assert torch.equal(normals(3, "noise", indices, (100,)), whole.flatten(1)[:, :100])
    assert torch.equal(normals(3, "noise", indices, (101,), first=5), whole.flatten(1)[:, 20:121])


@pytest.mark.parametrize("fill", [reference.fill, compiled.fill])
def test_threads_do_not_change_a_draw(fill):
    few, before = filled(fill, 40_001), torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert torch.equal(filled(fill, 40_001), few)
    finally:
        torch.set_num_threads(before)


def test_without_numba_the_bits_are_the_same():
    code = (
        "import sys, hashlib; sys.modules['numba'] = None\n"
        "from timm_diffsens.perturb.normals import _implementation, normals\n"
        "draws = normals(3, 'noise', [5, 2], (3, 5))\n"
        "print(_implementation('cpu').__name__, hashlib.sha256(draws.numpy().tobytes()).hexdigest())"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    digest = hashlib.sha256(normals(3, "noise", [5, 2], (3, 5)).numpy().tobytes()).hexdigest()
    assert run.stdout.split() == ["timm_diffsens.perturb.philox.reference", digest]


def test_the_draws_are_pinned():
    # Every published number hangs on these draws; no platform and no release may change them.
    asked = itertools.product((0, 2**40), ("diffeo", "noise"))
    draws = [normals(seed, purpose, [5, 2**40], (3, 37)) for seed, purpose in asked]
    digest = hashlib.sha256(torch.stack(draws).numpy().tobytes()).hexdigest()
    assert digest[:16] == "ea16ed65d6de5423"


def test_shapes_and_devices():
    assert normals(0, "noise", [], (3, 2)).shape == (0, 3, 2)
    assert normals(0, "noise", [1, 2], ()).shape == (2,)
    assert normals(0, "noise", [1, 2], (0, 4)).shape == (2, 0, 4)
    there = normals(0, "noise", [1, 2], (3, 2), "meta")
    assert (there.device.type, there.dtype, tuple(there.shape)) == ("meta", torch.float32, (2, 3, 2))


# ---- statistics: bounds of 4.5 standard errors, as some hundred numbers are looked at


N = 2**20


@pytest.fixture(scope="module")
def draws():
    return normals(0, "noise", range(16), (N // 16,)).double()


def test_they_are_normal(draws):
    """Kolmogorov and Smirnov: sqrt(n) D exceeds 1.95 once in a thousand times."""
    for some in (draws, draws[:, ::4], draws[:, 1::2]):
        kind = np.sort(some.flatten().numpy())
        n, expected = len(kind), ndtr(kind)
        gap = max((np.arange(1, n + 1) / n - expected).max(), (expected - np.arange(n) / n).max())
        assert math.sqrt(n) * gap < 1.95


@pytest.mark.parametrize("power", [1, 2, 3, 4, 6])
def test_moments(draws, power):
    double_factorial = [1, 0, 1, 0, 3, 0, 15, 0, 105, 0, 945, 0, 10395]  # E x^k
    mean, square = double_factorial[power], double_factorial[2 * power]
    found = float((draws**power).mean())
    assert abs(found - mean) < 4.5 * math.sqrt((square - mean**2) / N)


@pytest.mark.parametrize("beyond", [3.0, 4.0])
def test_tails(draws, beyond):
    for tail in (draws > beyond, draws < -beyond):
        expected = N * ndtr(-beyond)
        assert abs(int(tail.sum()) - expected) < 4.5 * math.sqrt(expected)


def test_neighbours_are_unrelated(draws):
    """Elements, images, purposes and seeds next to each other."""
    ones, flat = normals(0, "noise", range(N), (1,)).flatten().double(), draws.flatten()
    pairs = {f"element + {k}": (flat[:-k], flat[k:]) for k in (1, 2, 3, 4, 5, 16)}
    pairs["image + 1"] = draws[:-1].flatten(), draws[1:].flatten()
    pairs["image + 1, one element"] = ones[:-1], ones[1:]
    pairs["image + 2^32"] = draws[0], normals(0, "noise", [2**32], draws.shape[1:])[0].double()
    for seed in (1, 2, 2**32, 2**63):
        pairs[f"seed {seed}"] = flat, normals(seed, "noise", range(16), draws.shape[1:]).flatten().double()
    for purpose in ("diffeo", "corruption"):
        other = normals(0, purpose, range(16), draws.shape[1:]).flatten().double()
        pairs[purpose] = flat, other
    pairs["seed and image exchanged"] = (
        normals(1, "noise", [0], (N,)).flatten().double(),
        normals(0, "noise", [1], (N,)).flatten().double(),
    )
    for name, (x, y) in pairs.items():
        for a, b in itertools.product((x, x.square() - 1), (y, y.square() - 1)):
            found = float((a * b).mean() / a.std() / b.std())
            assert abs(found) < 4.5 / math.sqrt(len(a)), name
