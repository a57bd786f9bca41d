"""Random streams: one for each (seed, purpose, image), distinct, unrelated, and the same for ever."""

import hashlib
import itertools
import math
import os
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch

from timm_diffsens.errors import UsageError
from timm_diffsens.perturb import streams as streams_file
from timm_diffsens.perturb.normals import normals
from timm_diffsens.perturb.streams import Streams, standard_normal, stream

PURPOSES = ("diffeo", "noise", "corruption", "channel shuffle", "init")


def key(*numbers) -> tuple[int, ...]:
    """The Philox key of a stream, which settles all its draws."""
    return tuple(stream(*numbers).bit_generator.state["state"]["key"].tolist())


# ---- distinct and unrelated


def test_twenty_thousand_streams_have_no_first_draw_in_common():
    triples = itertools.product(range(40), PURPOSES, range(100))
    firsts = [int(stream(*triple).integers(2**63)) for triple in triples]
    # Chance alone makes 20,000^2 / 2 / 2^63 = 2e-11 pairs of equal draws.
    assert len(set(firsts)) == len(firsts) == 20_000


def test_streams_are_unrelated():
    # Correlations of n independent standard normal pairs spread by 1/sqrt(n); ten numbers are looked at.
    n, bound = 10_000, 4.5
    first, second = np.array([stream(0, "diffeo", i).standard_normal(2) for i in range(n)]).T
    others = {
        "next draw": second,
        "next image": np.roll(first, 1),
        "other purpose": np.array([stream(0, "noise", i).standard_normal() for i in range(n)]),
        "other seed": np.array([stream(1, "diffeo", i).standard_normal() for i in range(n)]),
    }
    for name, other in others.items():
        for power in (1, 2):
            x, y = first**power, other**power
            found = np.mean((x - x.mean()) * (y - y.mean())) / x.std() / y.std()
            assert abs(found) < bound / math.sqrt(n), name
    # One draw from each stream is as good as n from one: mean 0, variance 1 (whose spread is sqrt(2/n)).
    assert abs(first.mean()) < bound / math.sqrt(n)
    assert abs(first.var() - 1) < bound * math.sqrt(2 / n)


def test_big_seeds_do_not_run_into_purposes_and_images():
    # With words of varying length, a seed's upper half took the place of the purpose, the purpose that of
    # the image.
    high = zlib.crc32(b"diffeo")
    assert key(5 + (high << 32), "noise", 0) != key(5, "diffeo", zlib.crc32(b"noise"))
    seeds = [0, 1, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**33, 2**63, 2**64 - 1, high << 32]
    images = [0, 1, 2**31, 2**32 - 1]
    keys = {key(*triple) for triple in itertools.product(seeds, PURPOSES, images)}
    assert len(keys) == len(seeds) * len(PURPOSES) * len(images)


def test_seeds_are_taken_modulo_2_to_64():
    assert key(2**64 + 3, "diffeo", 1) == key(3, "diffeo", 1)
    assert key(-1, "diffeo", 1) == key(2**64 - 1, "diffeo", 1)


# ---- the same for ever


def test_same_arguments_same_draws():
    one, two = (stream(3, "noise", 7).standard_normal(100) for _ in range(2))
    assert np.array_equal(one, two)


def test_streams_of_several_images():
    together = [g.standard_normal(5).tolist() for g in Streams(3, "noise", [4, 2, 9])]
    assert together == [stream(3, "noise", i).standard_normal(5).tolist() for i in (4, 2, 9)]
    assert list(Streams(3, "noise", [])) == []
    few = Streams(3, "noise", [4, 2, 9])
    assert few[-1] is few[2]  # made once: its draws follow each other
    assert few[1:] == [few[1], few[2]]


def test_global_seeds_do_not_matter():
    found = []
    for seed in (0, 1):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            found.append(stream(3, "noise", 7).standard_normal(5).tolist())
    assert found[0] == found[1]


SUMS = """
import hashlib
from timm_diffsens.perturb.streams import stream
draws = [stream(2**40 + 1, purpose, 7).standard_normal(9).tobytes() for purpose in ("diffeo", "noise")]
print(hashlib.sha256(b"".join(draws)).hexdigest())
"""


def test_another_process_draws_the_same(capsys):
    exec(SUMS, {})
    environment = {**os.environ, "PYTHONHASHSEED": "12345"}
    other = subprocess.run([sys.executable, "-c", SUMS], capture_output=True, env=environment, check=True)
    assert other.stdout.decode() == capsys.readouterr().out


def test_the_streams_are_pinned():
    # Every published number hangs on these draws. numpy keeps a bit generator's raw numbers for ever; what
    # standard_normal makes of them may change with a numpy release, and has to be noticed too.
    raw = stream(0, "diffeo", 0).bit_generator.random_raw(3)
    assert [f"{number:016x}" for number in raw] == [
        "8b15080c5b1d4620",
        "39e76cae1373f670",
        "4ae2a71c02cb0c78",
    ]
    draws = {
        dtype: np.concatenate(
            [stream(s, p, 5).standard_normal(50, dtype) for s in (0, 2**40) for p in PURPOSES]
        )
        for dtype in (np.float32, np.float64)
    }
    sums = {dtype.__name__: hashlib.sha256(d.tobytes()).hexdigest()[:16] for dtype, d in draws.items()}
    assert sums == {"float32": "e6991dd7fe8bb315", "float64": "82093f027c948a24"}


# ---- standard_normal


def test_generators_of_every_kind_give_what_they_would_give_themselves():
    shape, dtype = (3, 2), torch.float64
    seeded = torch.Generator().manual_seed(1)
    expected = torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(1), dtype=dtype)
    assert torch.equal(standard_normal(4, shape, seeded, dtype), expected)

    expected = torch.from_numpy(np.random.default_rng(1).standard_normal((4, 3, 2)))
    assert torch.equal(standard_normal(4, shape, np.random.default_rng(1), dtype), expected)

    each = [np.random.default_rng(i) for i in range(4)]
    expected = torch.stack([standard_normal(1, shape, np.random.default_rng(i), dtype)[0] for i in range(4)])
    assert torch.equal(standard_normal(4, shape, each, dtype), expected)
    again = tuple(np.random.default_rng(i) for i in range(4))
    assert torch.equal(standard_normal(4, shape, again, dtype), expected)

    with torch.random.fork_rng():
        torch.manual_seed(1)
        found = standard_normal(4, shape, None, dtype)
    assert torch.equal(found, torch.randn(4, 3, 2, generator=torch.Generator().manual_seed(1), dtype=dtype))


@pytest.mark.parametrize("threads", [1, 3])
def test_threads_do_not_change_a_draw(threads):
    shape, before = (3, 80, 80), torch.get_num_threads()  # large enough to be shared
    torch.set_num_threads(threads)
    try:
        found = standard_normal(5, shape, list(Streams(0, "noise", range(5))), torch.float32)
        one = stream(0, "noise")  # its draws follow each other, whatever the number of threads
        follow = standard_normal(2, shape, [one, one], torch.float32)
    finally:
        torch.set_num_threads(before)
    for image, draw in enumerate(found):
        expected = stream(0, "noise", image).standard_normal(shape, np.float32)
        assert np.array_equal(draw.numpy(), expected)
    expected = stream(0, "noise").standard_normal((2, *shape), np.float32)
    assert np.array_equal(follow.numpy(), expected)


def test_streams_draw_for_all_images_at_once_and_go_on():
    """From the counters of `normals`; a second draw begins where the first ended."""
    several = Streams(3, "noise", [4, 2])
    found = [standard_normal(2, shape, several, torch.float32) for shape in ((3,), (2, 2), (5,), (1,))]
    whole = normals(3, "noise", [4, 2], (20,))
    starts = (0, 4, 8, 16)  # each draw uses up whole counters, of four numbers
    for draw, start in zip(found, starts, strict=True):
        flat = draw.flatten(1)
        assert torch.equal(flat, whole[:, start : start + flat.shape[1]])
    wide = standard_normal(2, (7,), Streams(3, "noise", [4, 2]), torch.float64)
    assert torch.equal(wide, whole[:, :7].double())
    assert standard_normal(2, (7,), Streams(3, "noise", [4, 2]), torch.float32, "meta").is_meta


def test_streams_begin_again_without_drawing_again(monkeypatch):
    calls = []

    def counted(*arguments):
        calls.append(arguments)
        return normals(*arguments)

    monkeypatch.setattr(streams_file, "normals", counted)
    whole, one = normals(3, "noise", [4, 2], (20,)), Streams(3, "noise", [4, 2])
    first = one.kept("a", lambda: one.normals((5,)))
    second = one.normals((5,))
    again = one.again()
    assert again.kept("a", lambda: again.normals((5,))) is first
    assert torch.equal(again.normals((5,)), second)  # goes on behind what is kept
    assert torch.equal(first, whole[:, :5])
    assert torch.equal(second, whole[:, 8:13])
    other = one.again()
    assert torch.equal(other.kept("b", lambda: other.normals((4,))), whole[:, :4])
    assert [len(call) for call in calls] == [6] * 4  # `first` is drawn once
    assert one.again()[0].random() == one[0].random() == stream(3, "noise", 4).random()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "make", [torch.Generator, np.random.default_rng, lambda: Streams(0, "noise", range(5))]
)
def test_shape_and_type(make, dtype):
    found = standard_normal(5, (3, 2), make(), dtype)
    assert (tuple(found.shape), found.dtype) == ((5, 3, 2), dtype)


def test_no_images():
    assert standard_normal(0, (3, 2), [], torch.float32).shape == (0, 3, 2)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_as_many_generators_as_images(count):
    with pytest.raises(UsageError, match=f"one generator for each of the 2 images, got {count}"):
        standard_normal(2, (3,), Streams(0, "noise", range(count)), torch.float32)


@pytest.mark.parametrize("wrong", [0, "seed", [1, 2], [torch.Generator(), torch.Generator()], object()])
def test_what_is_no_generator(wrong):
    with pytest.raises(UsageError, match="expected a torch or numpy generator"):
        standard_normal(2, (3,), wrong, torch.float32)
