"""Faults that the schema alone cannot see."""

import pytest
from record_factory import make_layer, make_record, replace_layer

from timm_diffsens.results.records.checks import faults
from timm_diffsens.results.records.store import checked_file, write_record
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
    assert faults(record) == []
    assert checked_file(write_record(tmp_path, record)) == (record, [])


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
    _, (fault,) = checked_file(path.rename(path.with_name("resnet18.0123456789ab.json")))
    assert "file name" in fault


@pytest.mark.parametrize(
    ("record", "word"),
    [
        (with_first_layer(d=1e-300, d_stderr=0.0, r=None, r_stderr=None, reason="small"), "d is 1e-300"),
        (with_first_layer(g=1e80, r=0.0, d=0.0, d_stderr=0.0, r_stderr=0.0), "g is 1e+80"),
        (with_first_layer(r_stderr=1e6), "r_stderr is 1000000.0, more than 100 times"),
        (with_first_layer(r=0.5), "r is 0.5, but d / g is"),
        (with_first_layer(g=0.0, g_stderr=0.0), "but g is 0"),
        (with_first_layer(n=0), "values of no images"),
        (with_first_layer(index=1), "index is 1, expected 0"),
        (with_first_layer(depth=0.5), "depth is 0.5, expected 1/10"),
        (with_first_layer(r=None, r_stderr=None), "null without a reason"),
        (with_first_layer(r=None, reason="constant"), "null but has a standard error"),
        (make_record(test_error={"value": None}), "both a value and its source"),
        (make_record(model={"parameters": 7}), "model.parameters is 7, too few"),
        (make_record(model={"recipe": {"training": {"seed": 2**80}}}), "training.seed is out of range"),
        (make_record(variants=("init",)), "original network has no layers"),
        (with_spectrum(power=[1.0]), "1 powers for 9 eigenvalues"),
        (with_spectrum(power=[-1.0] * 9), "power is -1.0"),
        (with_spectrum(level_power=[1e200]), "power is 1e+200"),
        (with_spectrum(eigenvalues=[9.0, 0.0, *[10.0] * 7]), "do not ascend"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_values_out_of_range_are_found(record, word):
    found = faults(record)
    assert len(found) == 1
    assert word in found[0]
