"""Variants as registered things: what a measurement and the charts read of them."""

import subprocess
import sys

import numpy as np
import pytest
import torch
from record_factory import VARIANTS
from torch import nn

from timm_diffsens import registry
from timm_diffsens.errors import UsageError
from timm_diffsens.models.variants.channel_shuffled import shuffle_channels
from timm_diffsens.models.variants.init import reinitialise
from timm_diffsens.perturb.streams import stream

OPTIONS = {"shuffles": 3, "shuffle_linear": True, "init_samples": 2}


def built(name: str):
    return registry.find("variants", name).build(**OPTIONS)


def changed(name: str, net: nn.Module, generator: np.random.Generator, factory=None) -> nn.Module:
    variant = built(name)
    return variant(net, **registry.accepted(variant, generator=generator, factory=factory))


def test_they_stand_in_the_order_of_the_record():
    assert tuple(registry.names("variants")) == VARIANTS


def test_no_two_are_drawn_alike():
    looks = [entry.look for entry in registry.entries("variants")]
    for part in ("colour", "dash", "point"):
        assert len({getattr(look, part) for look in looks}) == len(VARIANTS)


def test_how_they_are_drawn_is_known_without_torch():
    code = "from timm_diffsens import registry; import sys; registry.entries('variants')"
    code += "; print('torch' in sys.modules or 'numpy' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "False"


def test_what_a_measurement_reads_of_them():
    things = {name: built(name) for name in VARIANTS}
    copies = {name: getattr(thing, "copies", 1) for name, thing in things.items()}
    assert copies == {
        "original": 0,
        "channel-shuffled": 3,
        "mean-channel": 0,
        "mean-filter": 1,
        "init": 2,
    }
    assert [n for n, t in things.items() if getattr(t, "channel_averages", False)] == ["mean-channel"]
    assert [n for n, t in things.items() if getattr(t, "spectra", False)] == ["original", "init"]
    purposes = [getattr(things[n], "stream", n) for n in ("channel-shuffled", "init")]
    assert purposes == ["channel shuffle", "init"]


@pytest.mark.parametrize("spec", ["channel-shuffled:shuffles=0", "init:init_samples=-1"])
def test_an_average_over_no_copies_is_refused(spec):
    with pytest.raises(UsageError, match="at least 1, got"):
        registry.find("variants", spec).build()


def test_they_change_a_network_as_the_public_functions_do():
    net = nn.Sequential(nn.Conv2d(4, 6, 3), nn.Flatten(), nn.Linear(6, 2)).eval()
    shuffled = changed("channel-shuffled", net, stream(5, "channel shuffle", 1))
    expected = shuffle_channels(net, stream(5, "channel shuffle", 1), linear=True)
    assert all(map(torch.equal, shuffled.parameters(), expected.parameters()))
    fresh = changed("init", net, stream(5, "init", 1))
    expected = reinitialise(net, int(stream(5, "init", 1).integers(2**63)))
    assert all(map(torch.equal, fresh.parameters(), expected.parameters()))
    averaged = changed("mean-filter", net, stream(5, "mean-filter"))[0].weight
    assert bool((averaged == averaged[0, 0]).all())


def test_an_initialisation_is_made_by_the_factory_that_is_there_and_evaluates():
    made = changed("init", nn.Linear(2, 2), stream(0, "init"), lambda: nn.Sequential(nn.Dropout()))
    assert isinstance(made[0], nn.Dropout)
    assert not made.training
    assert not made[0].training
