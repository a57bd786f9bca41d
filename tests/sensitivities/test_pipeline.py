import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from timm_diffsens import Diffeo, UsageError, measure, sensitivity
from timm_diffsens.errors import MeasurementError
from timm_diffsens.perturb import streams as streams_file
from timm_diffsens.perturb.noise import matched_noise, of_matched_norm
from timm_diffsens.perturb.normals import normals
from timm_diffsens.perturb.streams import Streams
from timm_diffsens.sensitivities.batch_size import is_out_of_memory
from timm_diffsens.sensitivities.forwards import PassSettings, channels_last
from timm_diffsens.sensitivities.perturbed import KEPT, Perturbation, PerturbedImages, batches_of
from timm_diffsens.sensitivities.run import count_wrong, run_pass

VALUES = ("d", "g", "r", "d_stderr", "g_stderr", "r_stderr")


@pytest.fixture(scope="module")
def resnet():
    return timm.create_model("test_resnet", pretrained=False).eval()


@pytest.fixture(scope="module")
def images():
    return torch.rand(64, 3, 32, 32, generator=torch.Generator().manual_seed(1))


def largest_difference(one, other):
    pairs = [
        (getattr(a, name), getattr(b, name))
        for a, b in zip(one, other, strict=True)
        for name in VALUES
        if getattr(a, name) is not None
    ]
    assert len(pairs) > 6 * 30
    return max(abs(a / b - 1) for a, b in pairs)


def test_batch_sizes_1_7_and_64_give_the_same_numbers(resnet, images):
    """To 1e-5, standard errors too: float32 forwards in other blockings differ by some 1e-7 a value."""
    results = [measure(resnet, images, layers="all", batch_size=size) for size in (1, 7, 64)]
    assert largest_difference(results[0], results[1]) < 1e-5
    assert largest_difference(results[0], results[2]) < 1e-5


def test_batch_size_does_not_matter_in_double_precision(resnet, images):
    double = timm.create_model("test_resnet", pretrained=False).eval().double()
    results = [measure(double, images.double()[:15], layers="all", batch_size=size) for size in (1, 4, 15)]
    assert largest_difference(results[0], results[1]) < 1e-10
    assert largest_difference(results[0], results[2]) < 1e-10


def test_draws_belong_to_the_image(images):
    whole = Perturbation(seed=3).parts(images[:8], range(8)).reshape(3, 8, 3, 32, 32)
    order = [5, 0, 7]
    part = Perturbation(seed=3).parts(images[order], order).reshape(3, 3, 3, 32, 32)
    # resampling and norms are per image, so equal to the bit in any batch
    assert torch.equal(part[:2], whole[:2, order])
    assert torch.allclose(part[2], whole[2, order], rtol=0, atol=1e-6)


def own_noise(clean, deformed, generator):
    draws = [torch.from_numpy(g.random(clean.shape[1:], np.float32)) for g in generator]
    return torch.stack(draws).to(clean)


def to_the_right(images, generator):
    shifts = [int(g.integers(1, 8)) for g in generator]
    return torch.stack([image.roll(shift, -1) for image, shift in zip(images, shifts, strict=True)])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("noise", [matched_noise, own_noise, of_matched_norm(own_noise)])
def test_several_deformations_at_once_are_each_of_them_alone_to_the_bit(images, dtype, noise):
    deformations = (Diffeo(0.5), to_the_right, Diffeo(2.0, cut=4), Diffeo(0.5))
    clean, indices = images[:5].to(dtype), [4, 0, 9, 2, 7]
    found = Perturbation(deformations, noise, seed=3).parts(clean, indices).split(5)
    assert len(found) == 9
    for k, deformation in enumerate(deformations):
        alone = Perturbation((deformation,), noise, seed=3).parts(clean, indices).split(5)
        assert torch.equal(torch.cat(alone), torch.cat((found[0], *found[1 + 2 * k : 3 + 2 * k])))


def test_sizes_of_one_family_are_the_same_draws_scaled(images):
    """So are the noises: one direction, at the norm of each deformation."""
    sizes = (0.6, 1.0, 2.4)
    fields = [Diffeo(s).displacement(5, 32, Streams(3, "diffeo", range(5)), torch.float64) for s in sizes]
    clean, *pairs = Perturbation(tuple(map(Diffeo, sizes))).parts(images[:5].double(), range(5)).split(5)
    etas = [(noised - clean).flatten(1) for noised in pairs[1::2]]
    gaps = [(deformed - clean).flatten(1).norm(dim=1) for deformed in pairs[::2]]
    for size, field, eta, gap in zip(sizes, fields, etas, gaps, strict=True):
        assert torch.allclose(field, size * fields[0] / sizes[0], rtol=1e-12)
        assert torch.allclose(eta / gap[:, None], etas[0] / gaps[0][:, None], rtol=0, atol=1e-12)


def test_noise_is_drawn_once_for_all_deformations(images, monkeypatch):
    drawn = []

    def counted(seed, purpose, *rest):
        drawn.append(purpose)
        return normals(seed, purpose, *rest)

    monkeypatch.setattr(streams_file, "normals", counted)
    Perturbation((Diffeo(0.6), Diffeo(), Diffeo(2.0))).parts(images[:6], range(6))
    assert sorted(drawn) == ["diffeo", "diffeo", "diffeo", "noise"]


def test_which_deformations_change_anything(images):
    same = PerturbedImages(batches_of(images), Perturbation((lambda x, generator: x, Diffeo(), to_the_right)))
    batches = same.batches(20, torch.empty(0), torch.contiguous_format)
    assert [len(parts) for _, parts in batches] == [140, 140, 140, 28]
    assert (same.pairs, same.deformed) == (3, [False, True, True])


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_layout_does_not_change_a_bit_of_the_draws(layout):
    images = torch.rand(3, 3, 160, 160, generator=torch.Generator().manual_seed(1))
    found = Perturbation().parts(images, [4, 0, 9], layout)
    assert torch.equal(found, Perturbation().parts(images, [4, 0, 9]))
    assert found.is_contiguous(memory_format=layout)


def test_batches_for_another_device_are_made_ahead():
    """`meta` stands for a GPU here: it has shapes and no values."""
    made = []

    def source(size):
        for i in range(3):
            made.append(i)
            yield [i], torch.rand(1, 3, 16, 16)

    like = torch.empty(0, device="meta", dtype=torch.float64)
    batches = PerturbedImages(source, Perturbation()).batches(1, like, torch.channels_last)
    indices, triple = next(batches)
    assert (list(indices), triple.device.type, triple.dtype) == ([0], "meta", torch.float64)
    assert triple.is_contiguous(memory_format=torch.channels_last)
    assert [list(indices) for indices, _ in batches] == [[1], [2]]
    assert made == [0, 1, 2]


@pytest.mark.parametrize("noise", [matched_noise, lambda clean, deformed, generator: torch.ones_like(clean)])
def test_parts_for_another_device_are_made_there(noise, monkeypatch):
    """From clean images alone, and without a look at what is there: `meta` cannot be read, and says so."""
    drawn = []

    def counted(seed, purpose, indices, shape, device, first):
        drawn.append((purpose, torch.device(device).type))
        return normals(seed, purpose, indices, shape, device, first)

    monkeypatch.setattr(streams_file, "normals", counted)
    perturbation = Perturbation((Diffeo(1.0), Diffeo(2.0)), noise, corruption=0.3)
    perturbed = PerturbedImages(batches_of(torch.rand(7, 3, 32, 32)), perturbation)
    like = torch.empty(0, device="meta", dtype=torch.bfloat16)
    found = [parts for _, parts in perturbed.batches(4, like, torch.channels_last)]
    assert [(part.device.type, part.dtype, len(part)) for part in found] == [
        ("meta", torch.bfloat16, 20),
        ("meta", torch.bfloat16, 15),
    ]
    assert {device for _, device in drawn} == {"meta"}
    with pytest.raises((NotImplementedError, RuntimeError), match="meta"):
        perturbed.deformed  # noqa: B018  # would wait for the device


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_parts_on_a_gpu_are_those_of_the_cpu(dtype):
    images = torch.rand(9, 3, 61, 47, dtype=dtype)
    perturbation = Perturbation((Diffeo(0.8), Diffeo(1.5)), corruption=0.3, seed=3)
    found = []
    for device in ("cpu", "cuda"):
        like = torch.empty(0, device=device, dtype=dtype)
        perturbed = PerturbedImages(batches_of(images), perturbation)
        found.append(torch.cat([p.cpu() for _, p in perturbed.batches(9, like, torch.channels_last)]))
        assert perturbed.deformed == [True, True]
    # four roundings of coordinates up to 61, at slopes of up to 1 and five times 0.3, along two axes
    atol = 2 * 4 * 2.5 * 61 * torch.finfo(dtype).eps
    assert torch.allclose(*found, rtol=0, atol=atol)


def test_what_goes_wrong_ahead_is_raised_here():
    def source(size):
        yield [0], torch.rand(1, 3, 16, 16)
        raise MeasurementError("the second image is gone")

    like = torch.empty(0, device="meta")
    batches = PerturbedImages(source, Perturbation()).batches(1, like, torch.contiguous_format)
    next(batches)
    with pytest.raises(MeasurementError, match="second image"):
        next(batches)


def test_seed_changes_the_draws_and_nothing_else_does(images):
    one, same, other = (Perturbation(seed=s).parts(images[:4], range(4)) for s in (1, 1, 2))
    assert torch.equal(one, same)
    assert torch.equal(one[:4], other[:4])
    assert not torch.equal(one[4:], other[4:])


def test_noise_has_the_norm_of_the_deformation_image_by_image(images):
    clean, moved, noised = Perturbation().parts(images.double(), range(64)).chunk(3)
    deformation = (moved - clean).flatten(1).norm(dim=1)
    assert torch.allclose((noised - clean).flatten(1).norm(dim=1), deformation, rtol=1e-12)


def test_a_loader_gives_what_a_tensor_gives(resnet, images):
    pairs = DataLoader(TensorDataset(images[:20], torch.zeros(20)), batch_size=6)
    for loader in (pairs, DataLoader(images[:20], batch_size=9)):
        found = measure(resnet, loader, layers="all", batch_size=4)
        assert largest_difference(found, measure(resnet, images[:20], layers="all", batch_size=4)) < 1e-5


class Tagged(nn.Module):
    """Takes more than images: tags, which it adds to what it makes of them, and a table of another length."""

    def __init__(self, plain):
        super().__init__()
        self.plain = plain

    def forward(self, tags, given, table):
        return self.plain(given["images"]) + 0 * tags[:, None] * table.sum()


def test_a_model_that_wants_more_than_images(resnet, images):
    """The same network behind another signature: same images, same order, so the same numbers."""

    def forward(model, batch):
        table = torch.ones(7, 2)
        return model(torch.arange(len(batch)), {"images": batch}, table=table)

    tagged = Tagged(resnet)
    found = measure(tagged, images[:20], layers="*layer*", batch_size=6, forward=forward)
    plain = measure(resnet, images[:20], layers="*layer*", batch_size=6)
    assert [layer.layer for layer in found[:-1]] == [f"plain.{layer.layer}" for layer in plain[:-1]]
    assert [[getattr(layer, name) for name in VALUES] for layer in found] == [
        [getattr(layer, name) for name in VALUES] for layer in plain
    ]
    labels = dict.fromkeys(range(20), 3)
    settings = PassSettings(batch_size=6, forward=forward)
    wrong = run_pass(tagged, perturbed(images[:20]), settings, labels=labels).wrong
    assert count_wrong(tagged, perturbed(images[:20]), labels, settings) == (wrong, 20)
    assert run_pass(resnet, perturbed(images[:20]), labels=labels).wrong == wrong


def test_an_iterator_is_refused(resnet, images):
    with pytest.raises(UsageError, match="iterated again"):
        measure(resnet, iter([images]))


@pytest.mark.parametrize("wrong", [torch.zeros(3, 32, 32), torch.zeros(2, 3, 8, 8, dtype=torch.uint8)])
def test_images_of_the_wrong_kind(resnet, wrong):
    with pytest.raises(UsageError, match="floating-point images"):
        measure(resnet, wrong)


def test_one_image_is_too_few(resnet, images):
    with pytest.raises(MeasurementError, match="at least 2"):
        measure(resnet, images[:1])


def test_a_model_that_returns_no_tensor(images):
    class Words(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv2d(3, 2, 1)

        def forward(self, x):
            self.layer(x)
            return "a cat"

    with pytest.raises(MeasurementError, match="no floating-point tensor but str"):
        measure(Words(), images)


def test_a_single_layer_against_the_definition(images):
    layer = nn.Conv2d(3, 5, 3, padding=1).double()
    moved = Perturbation((Diffeo(delta=2),), seed=9).parts(images.double(), range(64))
    with torch.no_grad():
        expected = sensitivity(*layer(moved).chunk(3))
    found = measure(nn.Sequential(layer), images.double(), diffeo=Diffeo(delta=2), seed=9, batch_size=10)[-1]
    assert (found.d, found.g, found.r) == pytest.approx(expected, rel=1e-10)


class Hungry(nn.Module):
    """Runs out of memory in its second layer until a batch is small enough."""

    def __init__(self, fits, error):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3)
        self.fits, self.error, self.forwards = fits, error, 0

    def forward(self, x):
        self.forwards += 1
        x = self.first(x)
        if len(x) > 3 * self.fits:
            raise self.error
        return self.second(x).mean((2, 3))


CPU_FULL = RuntimeError(
    "[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory: you tried"
)
GPU_FULL = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@pytest.mark.parametrize("error", [CPU_FULL, GPU_FULL, MemoryError()])
@pytest.mark.parametrize(("fits", "used"), [(4, 4), (3, 2), (1, 1)])
def test_out_of_memory_halves_the_batch_and_loses_nothing(images, error, fits, used):
    model = Hungry(fits, error).eval()
    done = run_pass(model, perturbed(images[:20]), PassSettings("all", 16))
    assert done.batch_size == used
    assert len(done.retries) == {4: 2, 2: 3, 1: 4}[used]
    assert "batch size 16" in done.retries[0]
    model.fits = 100
    smooth = run_pass(model, perturbed(images[:20]), PassSettings("all", used))
    assert done.layers == smooth.layers  # nothing of the failed attempts is left in the sums


def test_out_of_memory_with_one_image_is_an_error(images):
    with pytest.raises(MeasurementError, match="one image a batch"):
        run_pass(Hungry(0, CPU_FULL).eval(), perturbed(images), PassSettings(batch_size=2))


def test_anything_else_is_tried_once(images):
    model = Hungry(0, RuntimeError("mat1 and mat2 shapes cannot be multiplied")).eval()
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        run_pass(model, perturbed(images), PassSettings(batch_size=16))
    assert model.forwards <= 3  # two looks at it at most, and the forward itself
    assert not is_out_of_memory(ValueError("out of memory"))


def perturbed(images):
    return PerturbedImages(batches_of(images), Perturbation())


def test_top_1_errors_are_counted_on_the_clean_part(resnet, images):
    with torch.no_grad():
        truth = resnet(images).argmax(1)
    labels = {i: int(c) for i, c in enumerate(truth)}
    for i in range(10):
        labels[i] = (labels[i] + 1) % 1000
    assert run_pass(resnet, perturbed(images), labels=labels).wrong == 10
    for size in (3, "auto"):
        assert count_wrong(resnet, perturbed(images), labels, PassSettings(batch_size=size)) == (10, 64)


def test_corruption_is_fixed_for_each_image_and_comes_before_everything(images):
    fixed = Perturbation(corruption=0.3, seed=4)
    one, again = fixed.corrupted(images[:4], [0, 1, 2, 3]), fixed.corrupted(images[2:4], [2, 3])
    assert torch.equal(one[2:], again)
    noise = one - images[:4]
    # 12,288 draws: the standard deviation's own relative error is 1/sqrt(2 * 12288) = 0.64 %
    assert noise.std().item() == pytest.approx(0.3, rel=4 * 0.0064)
    assert torch.equal(Perturbation().corrupted(images, range(64)), images)


def test_layout_is_put_back(resnet):
    strides = [p.stride() for p in resnet.parameters()]
    with channels_last(resnet) as layout:
        assert layout == torch.channels_last
        assert resnet.conv1[0].weight.is_contiguous(memory_format=torch.channels_last)
    assert [p.stride() for p in resnet.parameters()] == strides
    vit = timm.create_model("test_vit", pretrained=False)
    with channels_last(vit) as layout:
        assert layout == torch.contiguous_format


@pytest.mark.slow
def test_memory_does_not_grow_with_the_images():
    """Peak of a process at 2,000 images within 5 % of the peak at 200, as far as that can be resolved.

    What malloc keeps differs by some 8 % between equal runs, so means of five runs are compared, and two
    standard errors of their ratio are granted. Memory in proportion to the images would be seen tenfold.
    """
    few, many = ([_peak(n) for _ in range(5)] for n in (200, 2000))
    ratio = statistics.mean(many) / statistics.mean(few)
    spread = [statistics.stdev(runs) / statistics.mean(runs) for runs in (few, many)]
    stderr = ratio * (sum(s**2 for s in spread) / 5) ** 0.5
    assert ratio - 2 * stderr < 1.05, (few, many)


def _peak(n):
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parents[1])!r});"
        "from timm_diffsens import bench; from peaks import peak;"
        f"bench('net/resnet20', pretrained=False, images={n}, layers='all', variants=['original'],"
        "batch_size=64);"
        "print(peak())"
    )
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True
    )
    return int(run.stdout.split()[-1])


# --- what variants share


def counted(images):
    """A source that counts how often it is asked."""
    asked = []

    def source(size):
        asked.append(size)
        for start in range(0, len(images), size):
            yield range(start, min(start + size, len(images))), images[start : start + size]

    return source, asked


def keeping(source, keep=KEPT):
    return PerturbedImages(source, Perturbation(), keep)


def passes(drawn, size=4, layout=torch.contiguous_format, dtype=torch.float32, spoil=None):
    like, found = torch.empty(0, dtype=dtype), []
    for number, (indices, triple) in enumerate(drawn.batches(size, like, layout)):
        found.append((list(indices), triple.clone()))
        if spoil == number:
            triple.add_(1)
    return found


def test_a_second_pass_draws_nothing_and_sees_the_same():
    source, asked = counted(torch.rand(10, 3, 32, 32))
    drawn = keeping(source)
    first, second, fresh = passes(drawn), passes(drawn), passes(keeping(source, 0))
    assert asked == [4, 4]  # the first pass, and the one that keeps nothing
    for a, b, c in zip(first, second, fresh, strict=True):
        assert a[0] == b[0] == c[0]
        assert torch.equal(a[1], b[1])
        assert torch.equal(a[1], c[1])


def test_other_batches_are_drawn_anew():
    source, asked = counted(torch.rand(10, 3, 32, 32))
    drawn = keeping(source)
    passes(drawn)
    assert len(passes(drawn, size=5)) == 2
    passes(drawn, size=5, layout=torch.channels_last)
    assert passes(drawn, size=5, dtype=torch.float64)[0][1].dtype == torch.float64
    assert asked == [4, 5, 5, 5]


def test_beyond_the_limit_nothing_is_kept():
    images = torch.rand(10, 3, 32, 32)
    source, asked = counted(images)
    for limit, times in ((3 * images.nbytes, 1), (3 * images.nbytes - 1, 2)):
        asked.clear()
        drawn = keeping(source, limit)
        passes(drawn)
        passes(drawn)
        assert len(asked) == times
    assert drawn._batches == []


@pytest.mark.parametrize("pass_", [0, 1])
@pytest.mark.parametrize("number", [0, 2])
def test_what_a_network_has_written_into_is_drawn_anew(pass_, number):
    source, asked = counted(torch.rand(10, 3, 32, 32))
    drawn = keeping(source)
    truth = passes(keeping(source, 0))
    asked.clear()
    for k in range(3):
        found = passes(drawn, spoil=number if k == pass_ else None)
        assert all(torch.equal(a[1], b[1]) for a, b in zip(found, truth, strict=True))
    assert len(asked) == 2


def test_a_pass_that_ends_early_keeps_nothing():
    source, asked = counted(torch.rand(10, 3, 32, 32))
    drawn = keeping(source)
    for _ in drawn.batches(4, torch.empty(0), torch.contiguous_format):
        break
    assert len(passes(drawn)) == 3
    for _ in drawn.batches(4, torch.empty(0), torch.contiguous_format):
        break
    assert len(passes(drawn)) == 3
    assert asked == [4, 4, 4]
