"""Verdicts: where an interval lies."""

import itertools
import math
from dataclasses import replace

import numpy as np
import pytest

from timm_diffsens.reproduce.claims import Claim, Finding, known_claims, region_of
from timm_diffsens.reproduce.page import measured, summary, verdict

REGION = (-1.0, 2.0)

POSITIVE, NEGATIVE = (0.0, math.inf), (-math.inf, 0.0)


@pytest.mark.parametrize(
    ("low", "high", "verdict"),
    [
        (-0.5, 1.5, "held"),
        (-1.0, 0.0, "not decided"),  # the border is outside
        (-2.0, -1.0, "not held"),
        (2.0, 3.0, "not held"),
        (1.0, 2.0, "not decided"),
        (-3.0, 3.0, "not decided"),
        (-4.0, -3.0, "not held"),
    ],
)
def test_an_interval_is_inside_outside_or_neither(low, high, verdict):
    assert Finding("x", (low + high) / 2, low, high).verdict(REGION) == verdict


@pytest.mark.parametrize(("value", "verdict"), [(0.0, "held"), (-1.0, "not held"), (5.0, "not held")])
def test_a_number_without_an_error_is_judged_by_its_value(value, verdict):
    assert Finding("x", value).verdict(REGION) == verdict


def test_mirrored_numbers_have_mirrored_verdicts():
    rng = np.random.default_rng(0)
    for value, half in rng.normal(size=(50, 2)):
        part = Finding("x", value, value - abs(half), value + abs(half))
        mirror = Finding("x", -value, -value - abs(half), -value + abs(half))
        assert part.verdict(POSITIVE) == mirror.verdict(NEGATIVE)


def claim(*verdicts: str) -> Claim:
    values = {"held": (1.0, 0.5, 1.5), "not held": (-1.0, -1.5, -0.5), "not decided": (0.1, -0.9, 1.1)}
    return Claim("k", "says", "source", "number", POSITIVE, tuple(Finding(v, *values[v]) for v in verdicts))


def test_a_claim_holds_if_it_does_for_each_part():
    for count in (1, 2, 3):
        for verdicts in itertools.product(("held", "not held", "not decided"), repeat=count):
            found = claim(*verdicts).verdict
            expected = (
                "not held"
                if "not held" in verdicts
                else "held"
                if set(verdicts) == {"held"}
                else "not decided"
            )
            assert found == expected
            assert claim(*verdicts).verdicts == list(verdicts)


# claims of the same number that exclude one another
OPPOSITES = [
    ("fig4.cifar10-middle", "fig4.cifar10-ends"),
    ("fig4.imagenet", "fig4.imagenet-first"),
    ("fig4.scale1-most", "fig4.scale1-not-before"),
]


@pytest.mark.parametrize(("one", "other"), OPPOSITES)
def test_statements_that_exclude_one_another_have_regions_that_do_not_overlap(one, other):
    """One border: no number is both, whatever its interval, and each off the border is one of them."""
    first, second = region_of(one), region_of(other)
    assert max(first[0], second[0]) == min(first[1], second[1])
    border = max(first[0], second[0])
    rng = np.random.default_rng(3)
    for value, half in rng.normal(border, 0.3, size=(200, 2)):
        for part in (Finding("x", value), Finding("x", value, value - abs(half), value + abs(half))):
            found = {part.verdict(first), part.verdict(second)}
            assert found in ({"held", "not held"}, {"not decided"})


def test_what_becomes_low_is_one_threshold_in_all_figures():
    regions = {region_of(key)[1] for key in ("fig4.cifar10-middle", "fig4.imagenet", "fig12.lower")}
    assert list(regions) == pytest.approx([math.log(0.95)])


@pytest.mark.parametrize(
    ("value", "p", "verdict"),
    [
        (1.0, 0.01, "held"),
        (-1.0, 0.01, "not held"),
        (1.0, 0.06, "not decided"),
        (1.0, math.nan, "not decided"),
    ],
)
def test_a_test_decides_in_place_of_an_interval(value, p, verdict):
    part = Finding("x", value, -5.0, 5.0, p=p)
    assert part.verdict(POSITIVE) == verdict
    assert Finding("x", value, -5.0, 5.0).verdict(POSITIVE) == "not decided"


def test_not_testable_is_counted_as_its_own_verdict():
    """Whatever the numbers are: they are not of the limit that the claim is about."""
    for verdicts in (("held",), ("not held", "held"), ()):
        limit = replace(claim(*verdicts), untestable="asymptotic: not testable at K = 7")
        assert limit.verdict == "not testable"
        assert limit.count == ""
    plain = [one.to_json() for one in (claim("held"), claim("not held"), limit, limit)]
    expected = "4 claims: 1 held, 1 not held, 0 not decided, 2 not testable"
    assert summary([{"claims": plain}]) == expected
    assert verdict(plain[2]) == "not testable"
    assert measured(replace(claim("held"), untestable="x").to_json()) == measured(plain[0])


def test_nothing_measured_decides_nothing():
    assert claim().verdict == "not decided"
    assert Finding("x", None, reason="why").verdict(POSITIVE) == "not decided"


def test_counts_and_plain_values():
    found = claim("held", "not held", "held")
    assert found.count == "2 of 3"
    assert claim("held").count == ""
    plain = found.to_json()
    assert plain["region"] == [0.0, None]
    assert plain["verdict"] == "not held"
    assert [part["verdict"] for part in plain["parts"]] == ["held", "not held", "held"]


@pytest.mark.parametrize("missing", [(math.nan, 0.0, 1.0), (0.5, None, 1.0), (0.5, 0.0, math.inf)])
def test_a_number_of_a_table_without_its_interval_is_none(missing):
    part = Finding.of("x", *missing, "too few")
    assert (part.value, part.low, part.high, part.reason) == (None, None, None, "too few")


def test_the_normal_interval_holds_the_truth_in_95_percent():
    rng = np.random.default_rng(1)
    draws = 20_000
    inside = sum(p.low < 0 < p.high for p in (Finding.normal("x", v, 1.0) for v in rng.normal(size=draws)))
    spread = math.sqrt(0.95 * 0.05 / draws)
    assert abs(inside / draws - 0.95) < 4 * spread


def test_the_claims_of_the_paper_are_regions_with_a_border():
    for key in known_claims():
        values = {"networks": 8, "layers": "1 to 4", "where": "64 pixels", "exact": "1.00"}
        claim = Claim.of(key, [], low="-1", high="1", **values)
        assert all((claim.says, claim.source, claim.number))
        assert claim.region[0] < claim.region[1]
        assert any(math.isfinite(end) for end in claim.region)
        assert "{" not in claim.number
