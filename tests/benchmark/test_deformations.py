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


def test_sizes_at_a_reference_side_stand_beside_those_in_pixels():
    """Both units in one pass: on inputs of 24 pixels 2@48 is 1, to the bit, and another protocol."""
    components = {"components": True, "infinitesimal": True}
    record = bench(network(), delta="2@48,1", **{**OPTIONS, "variants": "original"}, **components)
    plain = bench(network(), delta=1, **{**OPTIONS, "variants": "original"}, **components)
    views = {(v.protocol.deformation, v.protocol.reference_side): v for v in record.views()}
    own = {v.protocol.deformation: v for v in plain.views()}
    kinds = ["max-entropy", "translation", "rotation", "dilation", "shear"]
    for kind in kinds:
        view = views[kind, 48]
        assert view.protocol.rms_displacement == own[kind].protocol.rms_displacement
        assert view.variants["original"] == own[kind].variants["original"]
        assert view.protocol.sha256 != own[kind].protocol.sha256
        assert "delta = 2@48 px" in view.protocol.deformation_text
    assert views["max-entropy", None].protocol == plain.protocol
    # in the limit D over delta^2, delta in the unit asked for, here twice as many of half the size
    limit = "max-entropy, small limit"
    small = views[limit, 48].output
    assert small.d == pytest.approx(own[limit].output.d / 4, rel=1e-6)
    assert small.r == pytest.approx(own[limit].output.r, rel=1e-6)
    table = record.layers()
    assert set(table.loc[table["deformation"] == "shear", "reference_side"]) == {48}
    assert table["reference_side"].isna().sum() == len(plain.variants["original"])


def test_networks_of_other_sides_have_one_protocol_in_pixels_at_a_reference_side():
    records = [
        bench(network(), delta="1@48", dataset="dead-leaves", images=4, input_size=side, variants="original")
        for side in (24, 32)
    ]
    assert records[0].protocol.sha256 == records[1].protocol.sha256
    rms = [record.protocol.rms_displacement for record in records]
    assert rms == [pytest.approx(Diffeo(side / 48).rms(side), rel=1e-6) for side in (24, 32)]


def test_a_record_in_pixels_of_the_input_does_not_name_the_unit():
    record = bench(network(), delta="1,2@48", **{**OPTIONS, "variants": "original"})
    written = record.model_dump(mode="json")
    assert "reference_side" not in written["protocol"]
    assert written["further"][0]["reference_side"] == 48


@pytest.mark.parametrize("spec", ["diffeo:delta=2@48", "diffeo:delta=2,reference_side=48"])
def test_a_spec_names_its_unit(spec):
    record = bench(network(), deformation=spec, **{**OPTIONS, "variants": "original"})
    assert (record.protocol.delta, record.protocol.reference_side) == (2, 48)
    given = bench(network(), deformation=Diffeo(2, reference_side=48), **{**OPTIONS, "variants": "original"})
    assert given.protocol == record.protocol


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"delta": "1@"}, "PIXELS@SIDE"),
        ({"delta": "1@1"}, "a side between 2 and 8,192 after the @, got '1@1'"),
        ({"delta": "1@48,1,1.0@48"}, "asked for twice: delta = 1@48 px"),
        ({"delta": "-1@48"}, "positive number of pixels"),
        ({"delta": "1@48", "deformation": "diffeo:delta=1"}, "diffeo has delta=1: leave out delta 1@48"),
        ({"delta": "1", "deformation": "diffeo:delta=1@48"}, "diffeo has delta=1.0, reference_side=48"),
        (
            {"delta": "1@48", "deformation": lambda images, generator: images},
            "takes no delta: leave out delta 1@48",
        ),
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
