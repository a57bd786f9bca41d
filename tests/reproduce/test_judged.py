"""What each claim makes of records that were made to hold it, and of others made to break it."""

import math

import numpy as np
import pytest
from record_factory import make_layer, make_record, replace_layer

from timm_diffsens.reproduce import depth, filters, scaling
from timm_diffsens.reproduce.claims import Claim, Finding
from timm_diffsens.schema.records import Record
from timm_diffsens.spectra.filter_means import mean_filter
from timm_diffsens.theory.homogeneous import homogeneous_network
from timm_diffsens.theory.report import run_theory, theory_setting

CONVOLUTIONS = [f"conv{k}" for k in range(1, 9)]


def record_of(curves: dict[str, list[float]], error: float = 0.01) -> Record:
    """R by layer and variant; D and G follow with R."""
    names = [*CONVOLUTIONS[: len(next(iter(curves.values())))], "output"]
    record = make_record(names=names, variants=tuple(curves))
    for variant, values in curves.items():
        for index, r in enumerate([*values, 1.0]):
            layer = make_layer(index, len(names), names[index], r=r, r_stderr=error * r)
            record = replace_layer(record, index, layer, variant)
    protocol = record.protocol.model_copy(update={"shuffles": 10, "init_samples": 10})
    return record.model_copy(update={"protocol": protocol})


def judged(curves: dict[str, list[float]], **more) -> dict[str, str]:
    found = depth.pooling_numbers([("CIFAR-10, net", record_of(curves, **more))])
    return {key: Claim.of(f"fig3.{key}", parts).verdict for key, parts in found.items()}


FALLING, FLAT = [1.0, 0.5, 0.2, 0.1], [1.0, 1.0, 1.0, 1.0]


@pytest.mark.parametrize(
    ("original", "shuffled", "init", "verdicts"),
    [
        (FALLING, [1.0, 0.8, 0.6, 0.5], FLAT, ["held", "held", "held", "held"]),
        (FLAT, FLAT, FLAT, ["not decided", "not decided", "not decided", "not decided"]),
        (FALLING[::-1], [0.2, 0.2, 0.2, 0.5], FALLING, ["not held", "not held", "not held", "not held"]),
        (FALLING, FALLING, FALLING, ["held", "not held", "not decided", "held"]),
        (FALLING, [0.1, 0.1, 0.1, 0.2], [1.0, 0.8, 0.6, 0.5], ["held", "held", "held", "not held"]),
    ],
)
def test_curves_over_depth(original, shuffled, init, verdicts):
    found = judged({"original": original, "channel-shuffled": shuffled, "init": init})
    names = ["r-falls", "learned", "channel-pooling", "spatial-pooling"]
    assert [found[name] for name in names] == verdicts


def test_errors_that_reach_across_decide_nothing():
    curves = {"original": FALLING, "channel-shuffled": [1.0, 0.8, 0.6, 0.5], "init": FLAT}
    assert set(judged(curves, error=2.0).values()) == {"not decided"}


def test_few_copies_have_the_wide_interval_of_students_t():
    record = record_of({"original": FALLING, "channel-shuffled": [1.0, 0.8, 0.6, 0.5], "init": FLAT})
    few = record.protocol.model_copy(update={"shuffles": 3})
    wide, narrow = (depth._raised("x", r) for r in (record.model_copy(update={"protocol": few}), record))
    assert wide.value == narrow.value == pytest.approx(math.log(5))
    # 97.5 % quantiles of t with 2 and 9 degrees of freedom: 4.303 and 2.262
    ratio = (wide.high - wide.value) / (narrow.high - narrow.value)
    assert ratio == pytest.approx(4.303 / 2.262, rel=1e-3)
    one = record.protocol.model_copy(update={"shuffles": 1})
    assert depth._raised("x", record.model_copy(update={"protocol": one})).value is None


def test_layers_are_compared_by_name_where_a_variant_lacks_a_value():
    record = record_of({"original": FALLING, "channel-shuffled": FALLING})
    record = replace_layer(record, 3, make_layer(3, 5, "conv4", r=0.0, r_stderr=0.0), "channel-shuffled")
    assert depth._raised("x", record).value is None


# ---- spectra


def with_spectra(trained: list[list[float]], fresh: list[list[float]]) -> Record:
    """Powers of the modes of 1 x 3 filters by layer; their eigenvalues are 0, 1, 3."""
    record, eigenvalues = make_record(names=[*CONVOLUTIONS, "output"]), [0.0, 1.0, 3.0]
    like = next(iter(record.spectra["original"]))

    def spectrum(layer: str, power: list[float]):
        mean = float(np.dot(power, eigenvalues) / sum(power))
        share = power[0] / sum(power)
        values = {"layer": layer, "power": power, "eigenvalues": eigenvalues, "mean_frequency": mean}
        return like.model_copy(update=values | {"low_frequency_share": share})

    both = {"original": trained, "init": fresh}
    made = {v: [spectrum(f"conv{k}", p) for k, p in enumerate(powers, 1)] for v, powers in both.items()}
    return record.model_copy(update={"spectra": made})


EVEN, LOW = [1.0, 1.0, 1.0], [4.0, 1.0, 1.0]


def verdicts_of(found: dict[str, list[Finding]]) -> dict[str, tuple[str, int]]:
    return {key: (Claim.of(f"fig4.{key}", parts).verdict, len(parts)) for key, parts in found.items()}


def test_middle_layers_that_alone_become_low_frequency():
    trained = [LOW if k in filters.MIDDLE else EVEN for k in range(1, 9)]
    found = verdicts_of(filters.cifar10_numbers([("a", with_spectra(trained, [EVEN] * 8))]))
    assert found == {"cifar10-middle": ("held", 5), "cifar10-ends": ("held", 3)}


def test_one_layer_against_the_claim_is_enough():
    trained = [LOW] * 8  # the ends fall as much as the middle
    found = verdicts_of(filters.cifar10_numbers([("a", with_spectra(trained, [EVEN] * 8))]))
    assert found == {"cifar10-middle": ("held", 5), "cifar10-ends": ("not held", 3)}
    trained = [LOW if k in (2, 3, 4, 5) else EVEN for k in range(1, 9)]
    found = verdicts_of(filters.cifar10_numbers([("a", with_spectra(trained, [EVEN] * 8))]))
    assert found["cifar10-middle"] == ("not held", 5)
    imagenet = verdicts_of(filters.imagenet_numbers([("a", with_spectra([EVEN] + [LOW] * 7, [EVEN] * 8))]))
    assert imagenet == {"imagenet": ("held", 7), "imagenet-first": ("held", 1)}


def test_the_constant_mode():
    found = verdicts_of(filters.scale1_numbers([("a", with_spectra([LOW] * 8, [EVEN] * 8))]))
    assert {verdict for verdict, _ in found.values()} == {"held"}
    larger = [[1.5, 1.0, 1.0]] * 8  # the largest, with less than half
    found = verdicts_of(filters.scale1_numbers([("a", with_spectra(larger, [EVEN] * 8))]))
    assert [found[f"scale1-{name}"][0] for name in ("largest", "most", "not-before")] == [
        *("held", "not held", "held")
    ]
    found = verdicts_of(filters.scale1_numbers([("a", with_spectra([EVEN[::-1]] * 8, [LOW] * 8))]))
    assert {verdict for verdict, _ in found.values()} == {"not held"}


# ---- the theory


@pytest.mark.parametrize("task", [1, 2])
def test_the_relu_is_judged_on_the_same_noise_with_and_without_it(task, monkeypatch):
    result = run_theory(theory_setting(task, images=512))
    keys = {name: f"fig7.task{task}-{name}" for name in ("relu", "no-relu")}
    found = scaling.relu_numbers(result)
    assert [Claim.of(keys[name], [part]).verdict for name, part in found.items()] == ["held", "held"]

    monkeypatch.setattr(scaling, "homogeneous_network", lambda *a, relu: homogeneous_network(*a, relu=False))
    same = scaling.relu_numbers(result)["relu"]
    assert same.value == 0  # no ReLU in either: nothing is left to claim
    assert Claim.of(keys["relu"], [same]).verdict == "not held"


def test_filters_by_how_homogeneous_and_positive_they_are():
    flat, tilted, mixed = (mean_filter("a", np.array([[w]])) for w in ([1, 1], [0.9, 0.1], [1, -0.2]))
    homogeneous, positive = (
        [
            Finding("a", number(found)).verdict(Claim.of(f"table1.{key}", []).region)
            for found in (flat, tilted, mixed)
        ]
        for key, number in scaling.NUMBERS.items()
    )
    assert homogeneous == ["held", "not held", "not held"]
    assert positive == ["held", "held", "not held"]
