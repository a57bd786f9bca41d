"""Displacement fields from files: the same numbers again, and what is no such file."""

import numpy as np
import pytest
import torch
from torch import nn

from timm_diffsens import Diffeo, StoredFields, UsageError, bench, save_fields
from timm_diffsens.perturb.fields import deform
from timm_diffsens.perturb.streams import Streams
from timm_diffsens.schema.config import Config

IMAGES = torch.rand(9, 3, 16, 20, generator=torch.Generator().manual_seed(0))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3)).eval()


def measured(**options):
    shown = {
        "dataset": IMAGES,
        "images": "all",
        "input_size": (16, 20),
        "layers": "all",
        "variants": "original",
    }
    return bench(network(), **{**shown, **options})


def test_the_fields_of_a_measurement_read_back_give_its_numbers(tmp_path):
    file = tmp_path / "fields.npz"
    save_fields(file, Diffeo(0.9), range(9), (16, 20), seed=5)
    drawn, read = measured(delta=0.9, seed=5), measured(deformation=f"fields:{file}", seed=5)
    assert read.variants == drawn.variants
    assert read.protocol.deformation.startswith("fields:sha256=")
    assert str(tmp_path) not in read.model_dump_json()
    assert read.protocol.rms_displacement == pytest.approx(
        float(
            Diffeo(0.9)
            .displacement(9, (16, 20), Streams(5, "diffeo", range(9)))
            .square()
            .sum(1)
            .mean()
            .sqrt()
        ),
        rel=1e-5,
    )


@pytest.mark.parametrize(("fields", "warned"), [(4, True), (8, True), (9, False), (12, False)])
def test_images_that_share_a_field_are_warned_of(fields, warned, tmp_path, recwarn):
    np.save(tmp_path / "few.npy", np.random.default_rng(0).normal(size=(fields, 2, 16, 20)))
    record = measured(deformation=f"fields:{tmp_path / 'few.npy'}")
    assert any("few.npy has" in text and "not independent" in text for text in record.warnings) == warned
    assert any("modulo" in str(one.message) for one in recwarn) == warned


def test_a_file_may_have_any_name(tmp_path):
    np.save(tmp_path / "plain.npy", np.random.default_rng(0).normal(size=(4, 2, 16, 20)))
    (tmp_path / "lr=0.1,run 2").mkdir()
    odd = tmp_path / "lr=0.1,run 2" / "a,b=c.npy"
    odd.write_bytes((tmp_path / "plain.npy").read_bytes())
    plain, named = (measured(deformation=f"fields:{file}") for file in (tmp_path / "plain.npy", odd))
    assert named.key == plain.key
    assert named.variants == plain.variants


def test_images_take_fields_in_turn(tmp_path):
    fields = np.random.default_rng(0).normal(size=(4, 2, 16, 20))
    np.save(tmp_path / "some.npy", fields)
    stored = StoredFields(str(tmp_path / "some.npy"))
    chosen = [7, 0, 2]
    expected = deform(IMAGES[:3], torch.from_numpy(fields[[3, 0, 2]]).float())
    assert torch.equal(stored(IMAGES[:3], Streams(0, "diffeo", chosen)), expected)
    assert torch.equal(stored.displacement(2, (16, 20))[1], torch.from_numpy(fields[1]).float())


def test_other_fields_are_another_protocol(tmp_path):
    records = []
    for seed in (0, 1):
        save_fields(tmp_path / "fields.npz", Diffeo(1.0), range(9), (16, 20), seed=seed)
        records.append(measured(deformation=f"fields:{tmp_path / 'fields.npz'}"))
    assert records[0].protocol.sha256 != records[1].protocol.sha256


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (np.zeros((2, 3, 16, 20)), r"expected floating-point fields \(n, 2, h, w\)"),
        (np.zeros((2, 2, 16, 20), dtype=int), "got int64"),
        (np.full((1, 2, 16, 20), np.nan), "not finite"),
        (np.array([{"a": 1}], dtype=object), "holds no displacement fields"),
        (np.zeros((1, 2, 8, 8)), "fields of 8 x 8 pixels, the images have 16 x 20"),
    ],
)
def test_what_holds_no_fields_is_refused(content, fault, tmp_path):
    np.save(tmp_path / "bad.npy", content)
    with pytest.raises(UsageError, match=fault):
        measured(deformation=f"fields:{tmp_path / 'bad.npy'}")


def test_files_that_are_none_are_refused(tmp_path):
    (tmp_path / "torn.npy").write_bytes(b"\x93NUMPY")
    (tmp_path / "a.txt").write_text("x")
    np.savez(tmp_path / "whole.npz", fields=np.zeros((2, 2, 16, 20)))
    content = (tmp_path / "whole.npz").read_bytes()
    (tmp_path / "cut.npz").write_bytes(content[: len(content) // 2])
    middle = len(content) // 2
    (tmp_path / "flipped.npz").write_bytes(
        content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]
    )
    np.savez(tmp_path / "few.npz", fields=np.zeros((2, 2, 16, 20)), images=np.array([3, 4]))
    for name, fault in (
        ("nowhere.npy", "no file nowhere.npy"),
        ("torn.npy", "holds no displacement fields"),
        ("cut.npz", "holds no displacement fields"),
        ("flipped.npz", "holds no displacement fields"),
        ("a.txt", "must be an .npy or .npz file"),
        ("few.npz", "has no field for image 0"),
    ):
        with pytest.raises(UsageError, match=fault):
            measured(deformation=f"fields:{tmp_path / name}")


def test_more_fields_than_can_be_read_are_not_written(tmp_path):
    with pytest.raises(UsageError, match=r"images of 224 x 224 take 18\.7 GiB, .* at most 4 GiB"):
        save_fields(tmp_path / "fields.npz", Diffeo(), range(50_000), 224)
    assert not list(tmp_path.iterdir())


def test_another_process_in_another_folder_finds_the_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (spec,) = Config(deformation="fields:some.npy").plain()["deformation"]
    assert spec == f"fields:{tmp_path / 'some.npy'}"


def test_how_many_images_is_not_which(tmp_path):
    with pytest.raises(UsageError, match=r"images must be their numbers, range\(5\) say, got 5"):
        save_fields(tmp_path / "fields.npz", Diffeo(), 5, 16)
