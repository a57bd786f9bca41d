"""The hash of a network's code: everything that changes what it computes, apart from its weights."""

from pathlib import Path

import timm.layers
import torch
from torch import nn

from timm_diffsens.models.architectures import find_architecture
from timm_diffsens.models.checkpoints import state_sha256
from timm_diffsens.models.code import code_sha256

FILE = """
from torch import nn

class Net(nn.Linear):
    def forward(self, x):
        return FACTOR * super().forward(x)

def make():
    return Net(3, 2)
"""


def from_file(folder: Path, factor: int) -> str:
    path = folder / "net.py"
    path.write_text(FILE.replace("FACTOR", str(factor)))
    return code_sha256(find_architecture(f"{path}:make").build())


def test_weights_do_not_count():
    one, two = (nn.Sequential(nn.Linear(3, 2), nn.ReLU()) for _ in range(2))
    assert state_sha256(one.state_dict()) != state_sha256(two.state_dict())
    assert code_sha256(one) == code_sha256(two)


def test_structure_counts():
    linear = nn.Linear(3, 2)
    different = [
        nn.Sequential(linear, nn.ReLU()),
        nn.Sequential(linear, nn.GELU()),
        nn.Sequential(linear, nn.GELU(approximate="tanh")),
        nn.Sequential(nn.ReLU(), linear),
        nn.ModuleDict({"0": linear, "1": nn.ReLU()}),
        nn.Sequential(linear, nn.Sigmoid()),
        nn.Sequential(linear, timm.layers.Sigmoid()),  # shown the same way
    ]
    assert str(different[-1]) == str(different[-2])
    assert len({code_sha256(net) for net in different}) == len(different)


def test_the_file_counts():
    net = nn.Linear(3, 2)
    assert len({code_sha256(net), code_sha256(net, "a"), code_sha256(net, "b")}) == 3


def test_the_source_of_a_class_counts(tmp_path):
    assert from_file(tmp_path, 2) == from_file(tmp_path, 2)
    assert from_file(tmp_path, 2) != from_file(tmp_path, 3)


def test_the_source_is_that_of_the_file_read_last(tmp_path):
    for name in ("one", "two"):  # files by one name in two folders
        (tmp_path / name).mkdir()
    found = [from_file(tmp_path / name, factor) for name, factor in (("one", 2), ("two", 3), ("two", 4))]
    assert len({*found}) == len(found)


def test_a_class_without_source_still_has_a_hash():
    made = type("Typed", (nn.Identity,), {"__module__": "__main__"})
    assert code_sha256(made()) == code_sha256(made())
    assert code_sha256(made()) != code_sha256(nn.Identity())
    assert torch.equal(made()(torch.ones(1)), torch.ones(1))
