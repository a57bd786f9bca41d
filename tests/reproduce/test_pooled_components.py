"""R by component: verdicts of networks made to pool in one way, and what the components are in a patch."""

import math

import numpy as np
import pytest
from record_factory import make_layer, make_record

from timm_diffsens.perturb.components import COMPONENTS, Dilation, Rotation, Shear, Translation
from timm_diffsens.perturb.diffeo import Diffeo
from timm_diffsens.reproduce import components
from timm_diffsens.reproduce.claims import Claim
from timm_diffsens.reproduce.components import FIELD, PARTS, Measured, local_share
from timm_diffsens.schema.further import Further

ALL = (FIELD, *COMPONENTS)
NAMES = ["conv1", "conv2", "output"]
IMAGES, COPIES = 200, 5
LOST = 1.5  # log of the factor by which R falls where it does

Falls = dict[str, float]


def network(
    trained: Falls,
    shuffled: Falls,
    noise: float = 0.05,
    seed: int = 0,
    copies: int = COPIES,
    raised: float = 0,
) -> Measured:
    """A network whose log R falls by this much under each deformation, and the distances of its images.

    With the channels shuffled log R of the first convolution is raised by `raised`; falls are from there.
    """
    source = np.random.default_rng(seed)

    def distances(falls: Falls, first: float = 0) -> np.ndarray:
        values = np.exp(0.3 * source.normal(size=IMAGES) + noise * source.normal(size=(3, 11, IMAGES)))
        values[:2, : 2 * len(ALL) : 2] *= math.exp(first)
        for pair, name in enumerate(ALL):
            values[1, 2 * pair] *= math.exp(-falls[name])
        return values.astype(np.float32)

    kept = {
        "original": [distances(trained)],
        "channel-shuffled": [distances(shuffled, raised) for _ in range(copies)],
    }
    flat = {"original": kept["original"][0]}
    flat |= {f"channel-shuffled#{c}": one for c, one in enumerate(kept["channel-shuffled"])}
    record = make_record(names=NAMES, variants=tuple(kept), n=IMAGES)
    protocol = record.protocol.model_copy(update={"deformation": FIELD, "shuffles": copies})
    under = [{name: layers_of(copies, pair) for name, copies in kept.items()} for pair in range(len(ALL))]
    further = [
        Further.of(protocol.model_copy(update={"deformation": name}), under[pair])
        for pair, name in enumerate(ALL)
        if pair
    ]
    changed = {"protocol": protocol, "variants": under[0], "further": further}
    return Measured("net", record.model_copy(update=changed), flat)


def layers_of(copies: list[np.ndarray], pair: int):
    ratios = [c[:, 2 * pair].mean(axis=1) / c[:, 2 * pair + 1].mean(axis=1) for c in copies]
    means = np.mean(ratios, axis=0)
    return [make_layer(k, 3, NAMES[k], r=float(r), r_stderr=0.01) for k, r in enumerate(means)]


def alike(value: float) -> Falls:
    return dict.fromkeys(ALL, value)


def judged(one: Measured) -> dict[str, str]:
    found = components.component_numbers([one])
    return {key: Claim.of(f"components.{key}", parts).verdict for key, parts in found.items()}


def test_a_network_that_pools_as_section_2_says():
    trained = {FIELD: LOST, "translation": 2 * LOST, "rotation": LOST, "dilation": LOST / 2, "shear": LOST}
    shuffled = {**alike(0.0), "translation": 2 * LOST}
    assert set(judged(network(trained, shuffled)).values()) == {"held"}


def test_pooling_over_places_alone_leaves_nothing_to_shuffling():
    found = judged(network(alike(LOST), alike(LOST + 0.2)))
    assert (found["falls"], found["translation-spatial"]) == ("held", "held")
    assert found["others-channel"] == "not held"
    assert found["others-more"] != "held"  # the truth is the border: one part of three may fall outside


def test_pooling_over_channels_alone_leaves_flat_curves():
    found = judged(network(alike(LOST), alike(-0.5)))
    assert (found["falls"], found["others-channel"]) == ("held", "held")
    assert found["translation-spatial"] == "not held"
    assert found["others-more"] != "held"


def test_shuffling_that_takes_most_of_the_fall_of_translations():
    found = judged(network(alike(LOST), {**alike(LOST), "translation": 0.2}))
    assert (found["others-more"], found["translation-spatial"]) == ("not held", "held")


@pytest.mark.parametrize(("field", "verdict"), [(1.0, "held"), (0.2, "not held"), (2.0, "not held")])
def test_the_field_between_its_components(field, verdict):
    trained = {FIELD: field, "translation": 0.5, "rotation": 1.5, "dilation": 1.0, "shear": 1.2}
    assert judged(network(trained, alike(0.0)))["between"] == verdict


def test_components_that_are_all_as_the_field_seldom_seem_to_lie_around_it():
    """Of either part, a share of 2.5 % at most, though the component is chosen on the same data."""
    held, repeats = 0, 400
    for seed in range(repeats):
        parts = components._between(network(alike(0.0), alike(0.0), seed=seed, copies=1))
        held += sum(part.verdict((0, math.inf)) == "held" for part in parts)
    assert held / (2 * repeats) <= 0.025 + 3 * math.sqrt(0.025 * 0.975 / (2 * repeats))


def test_the_furthest_component_has_the_lower_end_of_a_choice_among_four():
    trained = {FIELD: 1.0, "translation": 0.5, "rotation": 1.5, "dilation": 1.0, "shear": 1.2}
    one = network(trained, alike(0.0))
    most, least = components._between(one)
    assert (most.name, least.name) == ("net, translation over field", "net, field over rotation")
    for part, signed in ((most, 1), (least, -1)):
        name = part.name.split()[1 if signed > 0 else 3]
        terms = [(signed, components.LAST, "original", name), (-signed, components.LAST, "original", FIELD)]
        plain, strict = one.sum_of(terms), one.sum_of(terms, 1 - 0.025 / 4)
        assert (part.value, part.low, part.high) == (plain.value, strict.low, plain.high)


def test_curves_that_do_not_fall_hold_no_claim():
    assert "held" not in judged(network(alike(0.0), alike(0.0), noise=1.0)).values()


def test_what_either_pooling_loses_is_all_that_is_lost():
    table = components._by_pooling([network({**alike(1.0), "shear": 2.0}, alike(0.25))])
    values = table.pivot(index="deformation", columns="part", values="value")[list(PARTS)]
    assert set(values.index) == set(ALL)
    whole, spatial, channel = values.to_numpy().T
    assert spatial + channel == pytest.approx(whole, abs=1e-12)
    # means over 200 images with 5 % noise in both of R's parts, at two layers: 0.7 %, four times
    assert values.loc["shear"].tolist() == pytest.approx([2.0, 0.25, 1.75], abs=0.03)


def test_r1_is_that_as_trained_whatever_shuffling_does_to_it():
    """Shuffled, R_1 is e^0.7 times that as trained, and R_K e^0.5 times R_1 as trained."""
    one = network(alike(1.0), alike(0.2), raised=0.7)
    table = components._by_pooling([one]).set_index(["deformation", "part"])["value"]
    for name in ALL:
        whole, spatial, channel = (table[name, part] for part in PARTS)
        assert spatial + channel == pytest.approx(whole, abs=1e-12)
        assert [whole, spatial, channel] == pytest.approx([1.0, -0.5, 1.5], abs=0.03)
    (claimed,) = components.component_numbers([one])["translation-spatial"]
    assert claimed.value == table["translation", "by spatial pooling"]
    # though the shuffled curve falls from its own R_1
    assert judged(one)["translation-spatial"] == "not held"


def test_a_network_of_one_convolution_decides_nothing():
    one = network(alike(LOST), alike(LOST))
    layers = [layer.model_copy(update={"layer": "output"}) for layer in one.record.variants["original"][1:]]
    variants = {**one.record.variants, "original": [one.record.variants["original"][0], *layers]}
    short = Measured("net", one.record.model_copy(update={"variants": variants}), one.distances)
    assert set(judged(short).values()) == {"not decided"}
    assert components._by_pooling([short]).empty


# ---- in a patch


@pytest.mark.parametrize("kind", [Rotation, Dilation, Shear])
@pytest.mark.parametrize(("side", "patch"), [(32, 3), (32, 16), (33, 2)])
def test_linear_fields_are_translations_of_small_patches(kind, side, patch):
    assert local_share(kind(), side, patch) == pytest.approx((patch**2 - 1) / (side**2 - 1), rel=1e-3)


def test_translations_are_translations_of_every_patch():
    assert local_share(Translation(), 33, 3) == pytest.approx(0, abs=1e-9)


def test_the_field_deforms_a_patch_more():
    """Mode by mode: coefficients are independent, so their squares add."""
    side, patch, within, whole = 32, 3, 0.0, 0.0
    for i in range(1, 4):
        for j in range(1, 4):
            if i**2 + j**2 < 3.5**2:
                at = math.pi * np.linspace(0, 1, side)
                wave = np.outer(np.sin(j * at), np.sin(i * at)) / math.hypot(i, j)
                windows = np.lib.stride_tricks.sliding_window_view(wave, (patch, patch))
                whole += (wave**2).mean()
                within += windows.var(axis=(2, 3)).mean()
    # of 1,000 draws: each sum is of 12 and more squares of normals, known to 2 % or so together
    assert local_share(Diffeo(), side, patch) == pytest.approx(within / whole, rel=0.06)
    assert within / whole > 3 * local_share(Shear(), side, patch)
