"""The paragraph and the advice: what they say, and what they must not say."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from record_factory import RESNET18, make_layer, make_layers, make_record, null_layer, replace_layer

from timm_diffsens.results.numbers import factor, sparkline, with_error
from timm_diffsens.results.report.advice import advice
from timm_diffsens.results.report.summary import summary
from timm_diffsens.schema.layers import LayerSensitivity
from timm_diffsens.schema.records import Record


def two_layers(first: tuple[float, float | None], last: tuple[float, float | None], **changes) -> Record:
    """A record of two layers with given R and standard error."""
    record = make_record(names=["stem", "fc"], variants=("original",), **changes)
    for index, (name, (r, stderr)) in enumerate(zip(("stem", "fc"), (first, last), strict=True)):
        record = replace_layer(record, index, make_layer(index, 2, name, r=r, r_stderr=stderr))
    return record


def with_output(record: Record, variant: str, r: float, stderr: float) -> Record:
    return replace_layer(record, -1, make_layer(9, 10, "fc", r=r, r_stderr=stderr), variant)


# ---- numbers


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (0.0123456, 0.00041, "0.0123 ± 0.0004"),
        (0.9996, 0.01, "1.00 ± 0.01"),
        (12345.6, 32.1, "12300 ± 30"),
        (0.5, 0.2, "0.500 ± 0.200"),
        (0.02, 4e-7, "0.0200 ± 4e-07"),
        (1.5e-9, 1e-10, "1.50e-09 ± 1.00e-10"),
        (0.0, 0.0, "0"),
        (0.5, None, "0.500"),
        (None, None, "-"),
    ],
)
def test_numbers_have_three_digits_and_their_error(value, stderr, text):
    assert with_error(value, stderr) == text


@given(st.floats(1e-12, 1e6), st.floats(0, 1e6))
def test_numbers_are_readable_back(value, stderr):
    shown = with_error(value, stderr).split(" ± ")[0]
    assert float(shown) == pytest.approx(value, rel=0.005)


def test_sparklines_are_logarithmic_and_leave_blanks():
    assert sparkline([1, 0.1, None, 0.0, 0.001]) == "█▆  ▁"
    assert sparkline([]) == ""
    assert sparkline([None, None]) == "  "
    assert sparkline([2.0, 2.0]) == "▄▄"
    assert sparkline([10.0, 1.0], scale=[0.1]) == "█▄" or sparkline([10.0, 1.0], scale=[0.1]) == "█▅"
    assert len(sparkline([1.0 + i for i in range(500)], width=60)) == 60


def of_r(r, **fields):
    return LayerSensitivity.of(500, r=r, **fields)


def test_a_factor_has_the_intervals_of_both_in_quadrature():
    top, bottom = of_r(2.0, r_low=1.0, r_high=3.0), of_r(1.0, r_low=0.8, r_high=1.1)
    found = factor(top, bottom)
    assert found.low == pytest.approx(2 * np.exp(-np.hypot(np.log(2 / 1), np.log(1.1 / 1))))
    assert found.high == pytest.approx(2 * np.exp(np.hypot(np.log(3 / 2), np.log(1 / 0.8))))
    assert factor(bottom, top).inverse.low == pytest.approx(found.low)
    assert factor(top, of_r(1.0)) is None
    assert factor(top, of_r(0.0, r_stderr=0.0)) is None


def test_the_range_of_a_factor_covers():
    """Two values of 5 % error each: the range of two standard errors holds the truth in 95 % of draws."""
    draws = np.random.default_rng(0).normal(1, 0.05, size=(4000, 2))
    ranges = [factor(of_r(3 * a, r_stderr=0.15), of_r(b, r_stderr=0.05)) for a, b in draws]
    covered = sum(r.low <= 3 <= r.high for r in ranges) / len(ranges)
    assert abs(covered - 0.9545) < 4 * (0.9545 * 0.0455 / 4000) ** 0.5 + 0.003


# ---- the paragraph


def test_a_fall_with_its_factor():
    text = summary(two_layers((1.0, 0.01), (0.1, 0.001)))
    assert (
        "falls from 1.00 ± 0.01 at stem to 0.100 ± 0.001 at fc, by a factor of 10 (between 9.72 and 10.3)"
        in text
    )
    assert "the last layer is less sensitive to smooth deformations" in text
    assert "moves more under noise than under deformations" in text


def test_a_rise_is_a_factor_above_one():
    text = summary(two_layers((0.5, 0.01), (2.0, 0.04)))
    assert "rises from 0.500 ± 0.010 at stem to 2.00 ± 0.04 at fc, by a factor of 4 (" in text
    assert "moves more under deformations than under noise" in text


def with_middle(ends, *middle):
    """A record whose R and standard error are given layer by layer."""
    values = [ends[0], *middle, ends[1]]
    names = ["stem", *(f"layer{i + 1}" for i in range(len(middle))), "fc"]
    record = make_record(names=names, variants=("original",))
    for index, (name, (r, stderr)) in enumerate(zip(names, values, strict=True)):
        record = replace_layer(record, index, make_layer(index, len(names), name, r=r, r_stderr=stderr))
    return record


@pytest.mark.parametrize(
    ("middle", "said"),
    [
        ([(0.2, 0.001)], "R rises from 0.200 ± 0.001 at layer1 to 0.400 ± 0.004 at fc, by a factor of 2 ("),
        ([(3.0, 0.01)], "R rises from 1.00 ± 0.001 at stem to 3.00 ± 0.01 at layer1, by a factor of 3 ("),
        ([(0.8, 0.001), (0.3, 0.001), (0.7, 0.001)], "R rises from 0.300 ± 0.001 at layer2 to 0.700"),
        ([(0.39, 0.05)], None),  # below the output, within the errors
        ([(0.7, 0.001)], None),
        ([(0.7, 0.001), (0.75, 0.04)], None),
    ],
)
def test_a_fall_that_is_none_at_some_step_says_so(middle, said):
    text = summary(with_middle([(1.0, 0.001), (0.4, 0.004)], *middle))
    assert "R falls from 1.00" in text
    again = "That is not so at every step: "
    assert (again + said in text) if said else (again not in text)
    turned = summary(with_middle([(0.4, 0.004), (1.0, 0.001)], *reversed(middle)))
    assert (again + "R falls" in turned) == (said is not None)


@pytest.mark.parametrize(
    ("middle", "said"),
    [
        ((0.2, 0.001), "On the way R is lower than at both: 0.200 ± 0.001 at layer1."),
        ((3.0, 0.01), "On the way R is higher than at both: 3.00 ± 0.01 at layer1."),
        ((0.9, 0.1), None),
    ],
)
def test_a_turn_between_equal_ends_is_told(middle, said):
    text = summary(with_middle([(1.0, 0.1), (1.0, 0.1)], middle))
    assert "which at 95 % may be no change" in text
    assert (said in text) if said else ("On the way" not in text)


def test_overlap_is_undecided():
    text = summary(two_layers((1.0, 0.2), (0.9, 0.2)))
    assert "which at 95 % may be no change" in text
    assert "under noise of the same norm is undecided" in text
    assert "falls" not in text


def test_without_standard_errors_nothing_is_decided():
    text = summary(two_layers((1.0, None), (0.1, None)))
    assert "without standard errors that decides nothing" in text
    assert "falls" not in text
    assert "moves more" not in text


@settings(deadline=None, max_examples=60)
@given(*[st.floats(0.01, 100)] * 2, *[st.floats(0.001, 2)] * 2)
def test_a_change_is_never_claimed_inside_two_standard_errors(first, last, first_error, last_error):
    text = summary(two_layers((first, first * first_error), (last, last * last_error)))
    spread = 2 * np.hypot(first_error, last_error)
    decided = abs(np.log(first / last)) > spread * (1 + 1e-5)
    if not decided and abs(np.log(first / last)) < spread * (1 - 1e-5):
        assert "falls" not in text
        assert "rises" not in text
    elif decided:
        assert ("falls" if first > last else "rises") in text


def test_shuffling_that_raises_r_speaks_of_channel_pooling():
    text = summary(with_output(make_record(protocol={"shuffles": 3}), "channel-shuffled", 0.72, 0.02))
    assert "Shuffling the channels (mean of 3 draws) raises R at the output by a factor of 9.98 (" in text


def test_one_draw_decides_nothing():
    """Four initialisations of one trained network gave R = 0.30, 0.45, 0.53 and 0.81."""
    text = summary(with_output(make_record(), "channel-shuffled", 0.72, 0.02))
    assert "One draw of shuffled channels has 9.98 times that R at the output; how far draws differ" in text
    assert "One draw of fresh random weights has 7.91 times that R" in text
    assert "--init-samples 3" in text
    assert "Shuffling the channels" not in text
    assert "larger R" not in text


def test_shuffling_within_the_errors_is_undecided():
    record = make_record(protocol={"shuffles": 4})
    text = summary(with_output(record, "channel-shuffled", record.output.r * 1.05, 0.01))
    assert "shuffling the channels (mean of 4 draws) changes R at the output is undecided" in text
    assert "R is then 1.05 (between 0." in text
    assert "raises R" not in text


def test_a_network_without_convolutions_has_nothing_to_shuffle():
    record = make_record()
    same = {**record.variants, "channel-shuffled": list(record.variants["original"])}
    text = summary(record.model_copy(update={"variants": same}))
    assert "changed nothing: no convolution" in text
    assert "undecided" not in text


def test_fresh_weights_are_compared_only_with_trained_ones():
    text = summary(make_record(protocol={"init_samples": 3}))
    assert "Fresh random weights (mean of 3 draws) give a larger R at the output, by a factor of 7.91" in text
    untrained = summary(make_record(trained=False))
    assert "architecture at initialisation, not a trained network" in untrained
    assert "Fresh random weights" not in untrained
    assert "Whether these weights are trained is not known" in summary(make_record(trained=None))


def test_a_record_without_values_says_why():
    nulls = [null_layer(i, 2, name, "non-finite") for i, name in enumerate(("stem", "fc"))]
    record = make_record().model_copy(update={"variants": {"original": nulls}})
    assert summary(record) == "No layer of resnet18 has a value of R (non-finite): there is nothing to read."


def test_an_output_without_a_value_says_why():
    text = summary(replace_layer(make_record(), -1, null_layer(9, 10, "fc", "constant")))
    assert "The output, fc, has no R (constant)." in text
    assert "to 0.104 ± 0.003 at layer4.1" in text
    assert "There is no R at 1 of 10 layers (constant)." in text
    assert "Shuffling" not in text


def test_it_is_one_paragraph():
    for record in (make_record(), make_record(dataset="dead-leaves", trained=None, variants=("original",))):
        assert "\n" not in summary(record)
        assert "  " not in summary(record)
    assert "synthetic" in summary(make_record(dataset="dead-leaves"))


# ---- the advice


def test_a_sound_record_needs_no_advice():
    assert advice(make_record()) == []


@pytest.mark.parametrize(
    ("record", "fault", "remedy"),
    [
        (make_record(n=99), "too few images (99)", "--images"),
        (make_record(trained=False), "weights are random", "--checkpoint"),
        (make_record(dataset="dead-leaves"), "synthetic", "--dataset"),
        (make_record(protocol={"delta": 0.4}), "less than a pixel", "--delta between 0.5 and 23.76"),
        (make_record(protocol={"delta": 23.8}), "one-to-one", "--delta between 0.5 and 23.76"),
        (make_record(protocol={"delta": 23.7, "cut": 4}), "one-to-one", "--delta between 0.5 and 17.82"),
        (make_record(not_called=["a", "b", "c", "d"]), "4: a, b, c and 1 more", "--layers all"),
        (make_record(data={"skipped": ["x.jpg"]}), "1: x.jpg", "--data-dir"),
        (make_record(environment={"retries": ["64 to 32"], "batch_size": 32}), "memory", "--batch-size 32"),
        (with_output(make_record(), "original", 0.1, 0.03), "is 30% of it", "--images 1200"),
        (replace_layer(make_record(), 2, null_layer(2, 10, "x")), "1 of 10 layers (constant: 1)", "--layers"),
        (
            replace_layer(make_record(), 2, null_layer(2, 10, "x", "non-finite")),
            "non-finite: 1",
            "checkpoint",
        ),
        (
            replace_layer(make_record(), 2, null_layer(2, 10, "x"), "init"),
            "layers of the init network",
            "--layers",
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_fault_comes_with_its_remedy(record, fault, remedy):
    (line,) = advice(record)
    assert fault in line
    assert remedy in line


def test_an_input_at_the_bound_of_the_temperature_is_in_range():
    assert advice(make_record(protocol={"delta": 0.5})) == []


def test_faults_add_up():
    layers = make_layers(RESNET18)
    record = make_record(n=20, dataset="dead-leaves", trained=False, variants=("original",))
    assert len(advice(record.model_copy(update={"variants": {"original": layers}}))) == 3
