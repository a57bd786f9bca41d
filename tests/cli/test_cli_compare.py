"""`diffsens compare` and `diffsens export`: from a user's own networks to figure and table."""

import json

import pandas as pd
import pytest
from typer.testing import CliRunner

from timm_diffsens import read_layers
from timm_diffsens.cli import app

NETWORKS = """
import torch
from torch import nn


def net(width):
    torch.manual_seed(width)
    layers = [nn.Conv2d(3, width, 3), nn.ReLU(), nn.Conv2d(width, 8, 3), nn.AdaptiveAvgPool2d(1)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8, 5))


def narrow():
    return net(4)


def wide():
    return net(16)
"""


def run(*args):
    return CliRunner().invoke(app, [str(arg) for arg in args])


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """A folder with records of two networks of one's own."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "networks.py").write_text(NETWORKS)
    models = [f"{folder / 'networks.py'}:{name}" for name in ("narrow", "wide")]
    options = ["--images", "12", "--input-size", "24", "--layers", "convs", "--delta", "1,0.5"]
    done = run("bench", *models, *options, "--out", folder, "--quiet")
    assert done.exit_code == 0, done.output
    return folder


def test_two_networks_in_a_table_a_figure_and_a_file(out, tmp_path):
    figure, table = tmp_path / "both.svg", tmp_path / "both.csv"
    names = ("networks.py:narrow", "networks.py:wide")
    done = run("compare", *names, "--out", out, "--figure", figure, "--csv", table, "--column", "170mm")
    assert done.exit_code == 0, done.output
    assert "wide (networks.py) over narrow (networks.py) (paired, 12 images)" in done.stdout
    assert "At the output" in done.stdout or "undecided" in done.stdout
    assert figure.read_text().count("narrow (networks.py)") >= 1
    frame = pd.read_csv(table)
    assert set(frame["measure"]) == {"r", "d", "g"}
    assert frame["p"].between(0, 1).all()


def test_names_as_tables_show_them_are_found(out):
    for name in ("narrow (networks.py)", "networks.py:narrow"):
        done = run("show", name, "--out", out, "--json")
        assert done.exit_code == 0, done.stderr
        assert json.loads(done.stdout)["model"]["spec"] == "networks.py:narrow"
    done = run("compare", "narrow (networks.py)", "wide (networks.py)", "--out", out, "--json")
    assert done.exit_code == 0, done.stderr
    done = run("show", "networks.py:narrow@init", "--out", out)
    assert done.exit_code == 2
    assert "is for `diffsens compare`, `show` has --variant VARIANT" in done.stderr.replace("\n", " ")
    done = run("card", "networks.py:narrow@init", "--out", out)
    assert done.exit_code == 2
    assert "unknown record 'networks.py:narrow@init'" in done.stderr
    assert "--variant" not in done.stderr


def test_json_is_the_rows_alone(out):
    done = run("compare", "networks.py:narrow", "networks.py:wide", "--out", out, "--only", "r", "--json")
    rows = json.loads(done.stdout)
    assert {row["measure"] for row in rows} == {"r"}
    assert [row["place"] for row in rows][-1] == "output"
    smaller = run(
        "compare", "networks.py:narrow", "networks.py:wide", "--out", out, "--json", "--deformation", 1
    )
    assert json.loads(smaller.stdout)[-1]["log_ratio"] != rows[-1]["log_ratio"]


def test_the_figure_and_the_table_have_the_same_measures(out, tmp_path):
    names, figure = ("networks.py:narrow", "networks.py:wide"), tmp_path / "two.svg"
    done = run("compare", *names, "--out", out, "--only", "G,r", "--figure", figure, "--json")
    assert {row["measure"] for row in json.loads(done.stdout)} == {"r", "g"}
    drawn = figure.read_text()
    assert "G (noise)" in drawn
    assert "R = D / G" in drawn
    assert "D (deformation)" not in drawn


def test_variants_of_one_network(out):
    name = "networks.py:wide"
    done = run("compare", name, f"{name}@channel-shuffled", "--out", out)
    assert done.exit_code == 0, done.output
    assert "wide (networks.py), channel-shuffled over wide (networks.py)" in done.stdout


@pytest.mark.parametrize(
    ("args", "fault"),
    [
        (["networks.py:narrow"], "at least 2 records"),
        (["networks.py:narrow", "networks.py:nothing"], "networks.py:nothing"),
        (["networks.py:narrow", "networks.py:wide", "--only", "x"], "--only must be r, d or g"),
        (["networks.py:narrow", "networks.py:wide", "--column", "85mm"], "give --figure FILE too"),
        (["networks.py:narrow", "networks.py:wide", "--deformation", "2"], "has 2 deformations"),
        (["networks.py:narrow", "networks.py:wide", "--figure", "x.bmp"], "bmp"),
    ],
)
def test_wrong_use_is_one_line(out, args, fault):
    done = run("compare", *args, "--out", out)
    assert done.exit_code == 2
    assert fault in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_without_distances_only_unpaired(out, tmp_path):
    (file,) = [path for path in (out / "records").rglob("*.json") if "narrow" in path.name]
    alone = tmp_path / file.name
    alone.write_text(file.read_text())
    done = run("compare", alone, "networks.py:wide", "--out", out)
    assert done.exit_code == 2
    assert "no distances of single images" in done.stderr
    assert "--unpaired" in done.stderr
    assert run("compare", alone, "networks.py:wide", "--out", out, "--unpaired").exit_code == 0


def test_all_layers_as_a_table(out, tmp_path):
    target = tmp_path / "layers.csv"
    done = run("export", target, "--out", out)
    assert done.exit_code == 0, done.output
    written, read = pd.read_csv(target), read_layers(out / "records")
    assert len(written) == len(read) == 2 * 2 * 3 * 3
    assert list(written.columns) == list(read.columns)
    assert written["r"].to_numpy() == pytest.approx(read["r"].to_numpy(), rel=1e-12, nan_ok=True)
    assert run("export", tmp_path / "layers.txt", "--out", out).exit_code == 2
    (out / "records" / "half.json").write_text('{"schema_version": 2')
    try:
        done = run("export", target, "--out", out, "--json")
        assert done.exit_code == 1
        assert len(json.loads(done.stdout)["left_out"]) == 1
        assert len(pd.read_csv(target)) == len(read)
    finally:
        (out / "records" / "half.json").unlink()
