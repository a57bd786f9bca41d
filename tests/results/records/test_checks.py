"""Faults that the schema alone cannot see."""

import pytest
from record_factory import make_layer, make_record, replace_layer

from timm_diffsens.results.records.checks import faults
from timm_diffsens.results.records.store import write_record
from timm_diffsens.schema.records import Record


def with_spectrum(**changes) -> Record:
    record = make_record()
    spectrum = record.spectra["original"][0].model_copy(update=changes)
    return record.model_copy(update={"spectra": {"original": [spectrum]}})


def with_first_layer(**fields) -> Record:
    layer = make_layer(0, 10, "act1").model_copy(update=fields)
    return replace_layer(make_record(), 0, layer)


def test_a_good_record_has_none(tmp_path):
    record = make_record()
    assert faults(record, write_record(tmp_path, record)) == []


def test_an_edited_record_is_found():
    record = make_record()
    edited = record.model_copy(update={"data": record.data.model_copy(update={"n": 10})})
    assert any("key does not follow" in fault for fault in faults(edited))


def test_a_wrong_protocol_hash_is_found():
    record = make_record()
    protocol = record.protocol.model_copy(update={"sha256": "0" * 64})
    assert faults(record.model_copy(update={"protocol": protocol})) == [
        "protocol.sha256 does not follow from the protocol"
    ]


def test_a_file_name_of_another_record_is_found(tmp_path):
    path = write_record(tmp_path, make_record())
    (fault,) = faults(make_record(n=7), path)
    assert "file name" in fault


@pytest.mark.parametrize(
    ("record", "word"),
    [
        (with_first_layer(d=-0.1), "d is -0.1"),
        (with_first_layer(r_stderr=-1.0), "r_stderr is -1.0"),
        (with_first_layer(index=1), "index is 1, expected 0"),
        (with_first_layer(depth=0.5), "depth is 0.5, expected 1/10"),
        (with_first_layer(r=None, r_stderr=None), "null without a reason"),
        (with_first_layer(r=None, reason="constant"), "null but has a standard error"),
        (make_record(test_error={"value": 28.8}), "test_error is 28.8"),
        (make_record(test_error={"value": None}), "both a value and its source"),
        (make_record(train_error=-0.1), "train_error is -0.1"),
        (make_record(data={"n": 0}), "data.n is 0"),
        (make_record(variants=("init",)), "original network has no layers"),
        (with_spectrum(power=[1.0]), "1 powers for 9 eigenvalues"),
        (with_spectrum(power=[-1.0] * 9), "negative power"),
        (with_spectrum(eigenvalues=[9.0, 0.0, *[10.0] * 7]), "do not ascend"),
        (with_spectrum(low_frequency_share=1.5), "low_frequency_share is 1.5"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_values_out_of_range_are_found(record, word):
    found = faults(record)
    assert len(found) == 1
    assert word in found[0]
