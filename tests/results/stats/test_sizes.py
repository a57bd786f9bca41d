"""R against the size of the deformation: which sizes are small."""

import numpy as np
import pandas as pd
import pytest
import torch
from record_factory import make_record
from torch import nn

from timm_diffsens import bench
from timm_diffsens.results.records.per_image import read_per_image
from timm_diffsens.results.records.store import record_files
from timm_diffsens.results.report.record_chart import record_figure
from timm_diffsens.results.report.summary import summary
from timm_diffsens.results.stats.sizes import by_size, classified, regime, sizes_of

SIZES = (1.0, 0.02, 0.2, 4.0)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """A network that is linear for small changes and saturates for large ones; and its distances."""
    out = tmp_path_factory.mktemp("sizes")
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(5), nn.Tanh(), nn.Linear(5, 3))
    images = torch.rand(80, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    options = {"dataset": images, "images": "all", "input_size": 24, "layers": "all", "variants": "original"}
    record = bench(net.eval(), out=out, delta=SIZES, **options)
    (path,) = record_files(out / "records")
    return record, read_per_image(path, record)


def test_sizes_are_sorted_and_those_of_the_record_alone(measured):
    record, _ = measured
    assert [view.protocol.delta for _, view in sizes_of(record)] == sorted(SIZES)
    assert [k for k, _ in sizes_of(record)] == [1, 2, 0, 3]
    assert len(by_size(make_record())) == 0


def test_sizes_of_the_other_unit_are_no_sizes_of_it():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.LazyLinear(5)).eval()
    record = bench(net, delta="1@32,0.5,2@32", dataset="dead-leaves", images=3, input_size=16)
    assert [view.protocol.delta for _, view in sizes_of(record)] == [1, 2]
    assert "delta = 2@32 px" in regime(by_size(record), 2.0, 32)


def test_a_size_is_small_where_r_does_not_differ_from_the_smallest(measured):
    record, distances = measured
    table = by_size(record, distances)
    last = table["index"].max()
    output = table[table["index"] == last].set_index("delta")
    assert output.loc[0.02, "linear"]
    assert not output.loc[4.0, "linear"]
    for delta in SIZES:
        (row,) = table[(table["index"] == last) & (table["delta"] == delta)].to_dict("records")
        view = next(v for v in record.views() if v.protocol.delta == delta)
        assert row["r"] == view.output.r
        assert row["ratio"] == pytest.approx(row["r"] / output.loc[0.02, "r"], rel=1e-12)
    # beyond the first size that is not small none is
    flags = list(output.sort_index()["linear"])
    assert flags == sorted(flags, reverse=True)


def test_pairing_finds_more(measured):
    record, distances = measured
    paired, unpaired = by_size(record, distances), by_size(record)
    wide = {name: np.log(table["high"] / table["low"]) for name, table in (("p", paired), ("u", unpaired))}
    known = wide["p"] > 0
    assert (wide["p"][known] <= wide["u"][known] + 1e-12).mean() > 0.9
    assert np.array_equal(paired["r"], unpaired["r"])


def test_sizes_that_are_small_large_and_undecided(measured):
    """1 px differs decidedly (1.27 +- 0.13), but by how much 80 images cannot say."""
    record, distances = measured
    table = by_size(record, distances)
    assert [word in regime(table, 0.2) for word in ("is in", "is outside", "undecided")] == [1, 0, 0]
    assert [word in regime(table, 1.0) for word in ("is in the linear regime:", "undecided")] == [0, 1]
    assert [word in regime(table, 4.0) for word in ("is in", "is outside", "undecided")] == [0, 1, 0]


def test_what_is_said_follows_the_interval():
    def said(*sizes):
        rows = [dict(zip(("delta", "ratio", "low", "high"), row, strict=True)) for row in sizes]
        return regime(classified(pd.DataFrame(rows).assign(layer="output", index=3)), sizes[-1][0])

    least = (0.5, 1.0, 1.0, 1.0)
    assert "is in the linear regime: R at the output is 1.02" in said(least, (1.0, 1.02, 0.95, 1.09))
    assert "is in the linear regime:" in said(least, (1.0, 1.05, 1.02, 1.08))  # differs, by less than 10 %
    for low, high in ((0.9, 1.05), (0.95, 1.11), (0.5, 2.0), (1.02, 1.2)):
        assert "(R within 10%) is undecided" in said(least, (1.0, 1.0, low, high))
    assert "is outside of the linear regime" in said(least, (1.0, 1.3, 1.11, 1.5))
    assert "is outside of the linear regime" in said(least, (1.0, 0.7, 0.6, 0.9))
    back = said(least, (1.0, 1.3, 1.2, 1.4), (2.0, 1.0, 0.99, 1.01))  # is larger on the way
    assert back == (
        "The size, delta = 2 px, is outside of the linear regime: R at the output for 1 px is 1.3 times that "
        "at 0.5 px (1.2 to 1.4)."
    )


def test_the_summary_says_whether_the_size_used_is_small(measured):
    record, distances = measured
    said = regime(by_size(record, distances), 4.0)
    assert said.startswith("The size, delta = 4 px, is outside of the linear regime: R at the output is")
    assert regime(by_size(record, distances), 0.02) == ""  # nothing smaller to compare it with
    assert "linear regime" in summary(record, distances)
    assert "linear regime" not in summary(make_record())


def test_the_figure_has_a_panel_of_sizes(measured):
    record, distances = measured
    chart = record_figure(record, distances).to_dict()
    rows = chart["datasets"]["sizes"]
    assert {row["delta"] for row in rows} == set(SIZES)
    assert all(row["r_low"] <= row["r"] <= row["r_high"] for row in rows)
    assert "sizes" not in record_figure(make_record()).to_dict()["datasets"]
    alone = record_figure(record, distances, ["sizes"], "85mm").to_dict()
    assert list(alone["datasets"]) == ["sizes"]
    assert alone["datasets"]["sizes"] == rows
    under = record_figure(record, distances, ["r", "deformations"]).to_dict()
    assert list(under["datasets"]) == ["deformations"]
    assert [len(row["hconcat"]) for row in under["vconcat"] if "hconcat" in row] == [1]
