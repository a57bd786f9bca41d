"""Several deformations in one pass: each as if it had been measured alone."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from timm_diffsens import Diffeo, UsageError, bench, measure, read_layers
from timm_diffsens.results.records.per_image import per_image_path, read_per_image
from timm_diffsens.results.records.reading import load_record
from timm_diffsens.results.records.store import record_files
from timm_diffsens.schema.config import Config

IMAGES = torch.rand(12, 3, 24, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
SIZES = (1.0, 0.5, 2.0)
OPTIONS = {
    "dataset": IMAGES,
    "input_size": 24,
    "images": "all",
    "layers": "all",
    "variants": "all",
    "shuffles": 2,
    "init_samples": 2,
}


def network() -> nn.Module:
    """In double precision, so that positions in a batch change nothing that a record holds."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True), nn.Conv2d(6, 6, 3, groups=2)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)).double().eval()


def test_each_size_is_as_if_measured_alone():
    record = bench(network(), delta=SIZES, **OPTIONS)
    assert record.schema_version == 2
    assert [view.protocol.delta for view in record.views()] == list(SIZES)
    for delta, view in zip(SIZES, record.views(), strict=True):
        alone = bench(network(), delta=delta, **OPTIONS)
        assert alone.protocol == view.protocol
        assert list(alone.variants) == list(view.variants)
        for name, layers in alone.variants.items():
            assert layers == view.variants[name]
    assert record.key != bench(network(), delta=1, **OPTIONS).key


def test_measure_takes_several_and_gives_a_list_for_each():
    sizes = [Diffeo(0.7), Diffeo(1.3, cut=4)]
    together = measure(network(), IMAGES, diffeo=sizes, layers="all")
    for one, size in zip(together, sizes, strict=True):
        alone = measure(network(), IMAGES, diffeo=size, layers="all")
        for ours, theirs in zip(one, alone, strict=True):
            assert ours.layer == theirs.layer
            # sums of a few thousand products in double precision
            assert ours.d == pytest.approx(theirs.d, rel=1e-11)
            assert ours.r == pytest.approx(theirs.r, rel=1e-11)
            assert ours.r_stderr == pytest.approx(theirs.r_stderr, rel=1e-9)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with one record of three sizes, the record, and its file."""
    out = tmp_path_factory.mktemp("board")
    record = bench(network(), out=out, delta=SIZES, **OPTIONS)
    (path,) = record_files(out / "records")
    return out, record, path


def test_a_record_is_read_as_it_was_written(written):
    _, record, path = written
    assert load_record(path) == record


def test_the_distances_of_single_images_are_those_that_were_summed(written):
    _, record, path = written
    values = read_per_image(path, record)
    assert set(values) == {
        "original",
        "mean-channel",
        "mean-filter",
        *(f"{name}#{k}" for name in ("channel-shuffled", "init") for k in (0, 1)),
    }
    for k, view in enumerate(record.views()):
        for name in ("original", "mean-channel"):
            for layer, distances in zip(view.variants[name], values[name], strict=True):
                assert distances.shape == (2 * len(SIZES) + 1, len(IMAGES))
                if layer.r is None:
                    continue
                a, g = distances[2 * k].astype(float), distances[2 * k + 1].astype(float)
                # stored in float32 (half a unit in the last place each), R in seven digits
                assert a.sum() / g.sum() == pytest.approx(layer.r, rel=2e-6)
        copies = [values[f"channel-shuffled#{c}"][-1] for c in (0, 1)]
        mean = np.mean([copy[2 * k].sum() / copy[2 * k + 1].sum() for copy in copies])
        assert mean == pytest.approx(view.variants["channel-shuffled"][-1].r, rel=2e-6)


def test_distances_of_another_record_are_refused(written, tmp_path):
    _, record, path = written
    other = tmp_path / path.name
    with pytest.raises(UsageError, match="is not there"):
        read_per_image(other, record)
    per_image_path(other).write_bytes(per_image_path(path).read_bytes())
    with pytest.raises(UsageError, match="belongs to another record"):
        read_per_image(other, record.model_copy(update={"key": "0" * 64}))
    per_image_path(other).write_bytes(b"nothing sensible")
    with pytest.raises(UsageError, match="cannot be read"):
        read_per_image(other, record)


def test_none_are_kept_if_not_wanted(tmp_path):
    bench(network(), out=tmp_path, per_image=False, **{**OPTIONS, "variants": "original"})
    (path,) = record_files(tmp_path / "records")
    assert not per_image_path(path).exists()


def test_the_long_table_has_a_row_a_variant_deformation_and_layer(written):
    out, record, _ = written
    table = read_layers(out / "records")
    layers = len(record.variants["original"])
    assert len(table) == layers * len(record.variants) * len(SIZES)
    rows = table[(table["variant"] == "init") & (table["delta"] == 2.0)]
    assert list(rows["layer"]) == [layer.layer for layer in record.variants["init"]]
    expected = [layer.d for layer in record.views()[2].variants["init"]]
    assert [None if math.isnan(d) else d for d in rows["d"]] == expected
    assert set(table["deformation"]) == {"max-entropy"}
    assert table["rms"].nunique() == len(SIZES)


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"delta": (1, 0.5, 1)}, "asked for twice: delta = 1 px"),
        ({"delta": (1, 2), "deformation": "diffeo:delta=1"}, "diffeo has delta=1: leave out delta 1.0,2.0"),
        ({"deformation": "diffeo,diffeo"}, "asked for twice"),
        ({"delta": ()}, "delta"),
        ({"delta": (1, -2)}, "positive number of pixels, got -2"),
        ({"delta": tuple(range(1, 67))}, "at most 64"),
        ({"deformation": "difeo"}, "did you mean diffeo"),
    ],
)
def test_what_does_not_go_together_is_refused(options, fault):
    with pytest.raises(UsageError, match=fault):
        bench(network(), **{**OPTIONS, **options})


def test_specs_with_sizes_of_their_own_and_objects_stand_side_by_side():
    record = bench(
        network(),
        deformation=["diffeo:delta=2", Diffeo(0.25, cut=5)],
        **{**OPTIONS, "variants": "original"},
    )
    found = [(view.protocol.delta, view.protocol.cut) for view in record.views()]
    assert found == [(2, 3), (0.25, 5)]


def test_text_of_the_command_line():
    config = Config(delta="0.25,0.5", deformation="diffeo:delta=1,cut=4,diffeo")
    assert config.delta == (0.25, 0.5)
    assert config.deformation == ("diffeo:delta=1,cut=4", "diffeo")
    assert Config(delta=2).delta == (2.0,)
