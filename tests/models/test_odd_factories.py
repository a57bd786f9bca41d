"""Code of somebody else's that ends in odd ways: it is that model's failure, and nobody else's."""

import json

import pytest
from typer.testing import CliRunner

from timm_diffsens import Config
from timm_diffsens.cli import app
from timm_diffsens.errors import DiffsensError, first_line, said
from timm_diffsens.models.loading import load_model

CODE = """
import sys, torch


class Odd(BaseException):
    pass


class Mute(Exception):
    def __str__(self):
        raise Odd


class Net(torch.nn.Module):
    pretrained_cfg = dict(input_size=(3, 16, 16), mean=(0.5,) * 3, std=(0.5,) * 3, crop_pct=1.0,
                          interpolation="bicubic", num_classes=2)

    def __init__(self):
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 2, 3)
        {made}

    def forward(self, x):
        {called}
        return self.conv(x).mean((2, 3))
"""
FAULTS = {"exit": "sys.exit(3)", "odd": "raise Odd('odd')", "mute": "raise Mute", "quiet": "sys.exit()"}
QUICK = ["--no-pretrained", "--images", "2", "--layers", "output", "--variants", "original", "--json"]


def network(folder, name, made="pass", called="pass"):
    path = folder / f"{name}.py"
    path.write_text(CODE.replace("{made}", made).replace("{called}", called))
    return f"{path}:Net"


@pytest.mark.parametrize("place", ["made", "called"])
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("verb", ["bench", "sweep"])
def test_the_next_model_is_measured(tmp_path, verb, fault, place):
    bad = network(tmp_path, "bad", **{place: FAULTS[fault]})
    good = network(tmp_path, "good")
    engine = []
    if verb == "sweep":  # in this process: a fault that escaped would end it
        (tmp_path / "here.py").write_text(HERE)
        engine = ["--engine", f"{tmp_path / 'here.py'}:Here"]
    done = CliRunner().invoke(app, [verb, bad, good, *QUICK, *engine, "--out", str(tmp_path / "out")])
    assert done.exit_code == 1
    assert isinstance(done.exception, SystemExit)
    assert len(list((tmp_path / "out" / "records").rglob("*.json"))) == 1
    if verb == "sweep":
        assert json.loads(done.stdout)["status"] == {"done": 1, "failed": 1}


HERE = """
from timm_diffsens.sweep.work import work


class Here:
    def run(self, jobs, started):
        for job in jobs:
            yield job, work(job)
"""


def test_ctrl_c_inside_of_a_model_ends_everything(tmp_path):
    models = [network(tmp_path, name, made="raise KeyboardInterrupt") for name in ("one", "two")]
    done = CliRunner().invoke(app, ["bench", *models, *QUICK, "--out", str(tmp_path / "out")])
    assert done.exit_code == 130


def test_an_error_that_cannot_say_anything_is_named_by_its_class():
    class MuteError(Exception):
        def __str__(self):
            raise SystemExit

    assert said(MuteError()) == ""
    assert first_line(MuteError()) == "MuteError"


def test_a_home_folder_that_nobody_has_is_wrong_use():
    for values in ({"checkpoint": "~nosuchuser/w.pt"}, {"data_dir": "~nosuchuser"}):
        with pytest.raises(DiffsensError, match="no home folder is known for ~nosuchuser"):
            Config(**values).plain()
    with pytest.raises(DiffsensError, match="no home folder is known for ~nosuchuser"):
        load_model("~nosuchuser/net.py:Net")
