"""What each claim makes of records that were made to hold it, and of others made to break it."""

import math
from dataclasses import replace

import numpy as np
import pytest
from record_factory import make_layer, make_record, replace_layer

from timm_diffsens.reproduce import curves, filters, scaling
from timm_diffsens.reproduce.claims import Claim, Finding
from timm_diffsens.schema.records import Record
from timm_diffsens.spectra.filter_means import mean_filter
from timm_diffsens.theory.exponents import fit_exponent
from timm_diffsens.theory.homogeneous import homogeneous_network
from timm_diffsens.theory.pixel_pairs import PixelPairs
from timm_diffsens.theory.predictions import exact_curve
from timm_diffsens.theory.report import run_theory, theory_exponents, theory_setting

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


def judged(values: dict[str, list[float]], **more) -> dict[str, str]:
    found = curves.pooling_numbers([("CIFAR-10, net", record_of(values, **more))])
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
    values = {"original": FALLING, "channel-shuffled": [1.0, 0.8, 0.6, 0.5], "init": FLAT}
    assert set(judged(values, error=2.0).values()) == {"not decided"}


def test_few_copies_have_the_wide_interval_of_students_t():
    record = record_of({"original": FALLING, "channel-shuffled": [1.0, 0.8, 0.6, 0.5], "init": FLAT})
    few = record.protocol.model_copy(update={"shuffles": 3})
    wide, narrow = (curves._raised("x", r) for r in (record.model_copy(update={"protocol": few}), record))
    assert wide.value == narrow.value == pytest.approx(math.log(5))
    # 97.5 % quantiles of t with 2 and 9 degrees of freedom: 4.303 and 2.262
    ratio = (wide.high - wide.value) / (narrow.high - narrow.value)
    assert ratio == pytest.approx(4.303 / 2.262, rel=1e-3)
    one = record.protocol.model_copy(update={"shuffles": 1})
    assert curves._raised("x", record.model_copy(update={"protocol": one})).value is None


def test_layers_are_compared_by_name_where_a_variant_lacks_a_value():
    record = record_of({"original": FALLING, "channel-shuffled": FALLING})
    record = replace_layer(record, 3, make_layer(3, 5, "conv4", r=0.0, r_stderr=0.0), "channel-shuffled")
    assert curves._raised("x", record).value is None


def test_shuffled_curves_that_cross_the_others_are_apart():
    """Ratios of 2 and 1/2 have signed logs that add up to 0, at a distance of a factor 2."""
    crossing = record_of({"original": FALLING, "channel-shuffled": [2.0, 1.0, 0.1, 0.05]})
    signed = np.log([2.0, 2.0, 0.5, 0.5]).mean()
    found = curves.shuffling("x", crossing)
    assert signed == pytest.approx(0)
    assert found.value == pytest.approx(math.log(2))
    assert Claim.of("fig9.shuffling", [found]).verdict == "not held"
    same = curves.shuffling("x", record_of({"original": FALLING, "channel-shuffled": FALLING}))
    assert same.value == 0
    assert Claim.of("fig9.shuffling", [same]).verdict == "held"


def test_dashed_curves_are_compared_between_networks_of_one_width():
    plain, close, far = (
        record_of({"original": FALLING, "channel-shuffled": values})
        for values in ([1.0, 0.9, 0.8, 0.7], [1.1, 0.9, 0.8, 0.7], [2.0, 0.45, 1.6, 0.35])
    )
    for other, verdict in ((close, "held"), (far, "not held")):
        records = [("CIFAR-10, vgg11 8", plain), ("CIFAR-10, vgg11_bn 8", other)]
        (part,) = curves.vgg_numbers(records)["dashed-overlap"]
        assert Claim.of("fig3.dashed-overlap", [part]).verdict == verdict
        assert part.name == "width 8"
    alone = [("CIFAR-10, vgg11 8", plain), ("CIFAR-10, vgg11_bn 6", far)]
    assert curves.vgg_numbers(alone)["dashed-overlap"] == []


@pytest.mark.parametrize(
    ("gaps", "verdicts"),
    [
        ([2, 1, 1, 1, 1, 1, 2, 0.5], ["held", "held", "held"]),  # either way: a gap has no sign
        ([1, 1.5, 1.5, 1.5, 1.5, 1.5, 3, 1.5], ["not held", "held", "not decided"]),
    ],
)
def test_gaps_are_beside_those_of_the_middle_layers(gaps, verdicts):
    own = np.linspace(1, 0.3, 8)
    record = record_of({"original": list(own), "channel-shuffled": list(own * gaps)})
    parts = curves.vgg_numbers([("n", record)])["larger-gaps"]
    assert [part.name for part in parts] == ["n, layer 1", "n, layer 7", "n, layer 8"]
    assert Claim.of("fig3.larger-gaps", parts).verdicts == verdicts


def test_what_augmentation_changes_is_counted_from_the_parts():
    def trained(augment: bool) -> Record:
        record = record_of({"original": FALLING})
        recipe = {"training": {"task": "cifar10", "augment": augment}}
        return record.model_copy(update={"model": record.model.model_copy(update={"recipe": recipe})})

    records = [("CIFAR-10, a 1", trained(True)), ("CIFAR-10, a 12", trained(False))]
    parts = [
        Finding("CIFAR-10, a 1", 1.0),
        Finding("CIFAR-10, a 12", -1.0),
        Finding("CIFAR-10, a 12, x", 1.0),
    ]
    text = curves.by_augmentation(records, parts, (0.0, math.inf))
    assert text.startswith("tested: 1 of 1 held where")
    assert "1 of 2 where they were not" in text
    assert curves.by_augmentation(records[:1], parts[:1], (0.0, math.inf)) == ""


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


def several(trained: list[list[float]]) -> list[tuple[str, Record]]:
    """Three networks that differ a little."""
    return [
        (f"n{k}", with_spectra([[p[0] + 0.01 * k, *p[1:]] for p in trained], [EVEN] * 8)) for k in range(3)
    ]


def test_middle_layers_that_alone_become_low_frequency():
    trained = [LOW if k in filters.MIDDLE else EVEN for k in range(1, 9)]
    found = verdicts_of(filters.cifar10_numbers(several(trained)))
    assert found == {"cifar10-middle": ("held", 5), "cifar10-ends": ("held", 3)}


def test_the_mean_change_is_told_by_kind_of_network():
    """Without batch-norm nothing changes; with it the mean frequency goes from 4/3 to 2/3."""
    flat, low = with_spectra([EVEN] * 8, [EVEN] * 8), with_spectra([LOW] * 8, [EVEN] * 8)
    text = filters.by_kind([("vgg11 1", flat), ("vgg11_bn 1", low), ("vgg11_bn 2", low)], lambda k: k > 1)
    assert text == (
        "tested: its mean over these layers is 0.00 without batch-norm, not augmented; "
        f"{math.log(0.5):.2f} with batch-norm, not augmented"
    )
    assert filters.by_kind([("vgg11 1", flat)], lambda k: True) == ""


def test_a_layer_in_which_networks_differ_decides_nothing():
    trained = [LOW if k in filters.MIDDLE else EVEN for k in range(1, 9)]
    records = several(trained)
    records[0] = ("other", with_spectra([EVEN] * 8, [EVEN] * 8))  # no layer of it becomes low-frequency
    found = verdicts_of(filters.cifar10_numbers(records))
    assert found == {"cifar10-middle": ("not decided", 5), "cifar10-ends": ("held", 3)}
    assert verdicts_of(filters.cifar10_numbers(records[:1]))["cifar10-middle"][0] == "not decided"


def test_one_layer_against_the_claim_is_enough():
    found = verdicts_of(filters.cifar10_numbers(several([LOW] * 8)))  # the ends fall as much as the middle
    assert found == {"cifar10-middle": ("held", 5), "cifar10-ends": ("not held", 3)}
    trained = [LOW if k in (2, 3, 4, 5) else EVEN for k in range(1, 9)]
    found = verdicts_of(filters.cifar10_numbers(several(trained)))
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
    shown = {"exact": "0", "low": "-1", "high": "1"}
    found = scaling.relu_numbers(result)
    judged = [Claim.of(keys[name], [part], **shown).verdict for name, part in found.items()]
    assert judged == ["held", "held"]

    monkeypatch.setattr(scaling, "homogeneous_network", lambda *a, relu: homogeneous_network(*a, relu=False))
    same = scaling.relu_numbers(result)["relu"]
    assert same.value == 0  # no ReLU in either: nothing is left to claim
    assert Claim.of(keys["relu"], [same]).verdict == "not held"


@pytest.mark.parametrize("task", [1, 2])
def test_the_exact_network_decides_what_is_testable(task):
    """At K = 12 and 7 the exact network itself fails the power of G; in the limit it would not."""
    setting = theory_setting(task)
    depth, key = setting.depth, f"fig7.task{task}-g-power"
    exact = theory_exponents(run_theory(replace(setting, images=16)))["g"].exact
    claim = Claim.of(key, [Finding("trained", 0.0, -0.1, 0.1)], layers="1 to 2")
    judged = scaling.asymptotic(claim, exact, 1.0, depth)
    assert judged.verdict == "not testable"
    assert f"K = {depth}" in judged.untestable
    assert f"{exact.value:.2f}" in judged.untestable
    limit = replace(exact, value=0.9)  # of a deeper network
    assert scaling.asymptotic(claim, limit, 1.0, depth) == claim
    assert scaling.asymptotic(claim, None, 1.0, depth).verdict == "held"


@pytest.mark.parametrize(("task", "lengths"), [(1, (64, 128, 512)), (2, (128, 256, 1024))])
def test_g_without_relu_is_constant_but_for_the_finite_image_and_pairs(task, lengths):
    """It holds the exact exponent, and not the one with ReLUs; that of the mean image goes as 1 / length."""
    upper = []
    for length in lengths:
        pairs = PixelPairs.task1(length, 14) if task == 1 else PixelPairs.task2(length, 32)
        size, stride, layers = (3, 1, range(6, 13)) if task == 1 else (2, 2, range(1, 4))
        curve = exact_curve(pairs, layers[-1], size, stride)
        low, high = scaling.constant_bounds(pairs, size, stride, layers)
        linear, rectified = (fit_exponent(curve.width, g, layers).value for g in (curve.g_linear, curve.g))
        assert low < linear < high < rectified
        upper.append(high * length)
    assert upper[2] < upper[1] < upper[0] < 2 * upper[2]


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
