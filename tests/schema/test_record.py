"""The record: what it accepts, what its key depends on, and its published schema."""

import json
import math
import subprocess
import sys
from pathlib import Path

import jsonschema
import pytest
from pydantic import ValidationError
from record_factory import make_layer, make_record

from timm_diffsens.results.records.store import record_text
from timm_diffsens.schema.records import Record, json_schema, record_key, verify_key

SCHEMA_FILE = Path(__file__).parents[2] / "docs" / "record.schema.json"


def as_dict(record: Record) -> dict:
    return json.loads(record_text(record))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "place",
    [
        ("variants", "original", 0, "d"),
        ("spectra", "original", 0, "mean_frequency"),
        ("spectra", "original", 0, "power", 2),
        ("spectra", "original", 0, "eigenvalues", 2),
        ("protocol", "delta"),
        ("model", "input", "crop_pct"),
        ("timings", "seconds"),
        ("test_error", "value"),
        ("key_extra", "given"),
        ("model", "recipe"),
    ],
    ids=str,
)
def test_nothing_may_be_nan_or_infinite(place, value):
    document = as_dict(make_record())
    target = document
    for step in place[:-1]:
        target = target[step]
    target[place[-1]] = {"lr": value} if place[-1] == "recipe" else value
    with pytest.raises(ValidationError):
        Record.model_validate(document)
    with pytest.raises(ValidationError):
        Record.model_validate_json(json.dumps(document))


@pytest.mark.parametrize(
    "part", [(), ("model",), ("model", "weights"), ("data",), ("variants", "original", 0)]
)
def test_unknown_fields_are_refused(part):
    document = as_dict(make_record())
    target = document
    for step in part:
        target = target[step]
    target["colour"] = "blue"
    with pytest.raises(ValidationError, match="colour"):
        Record.model_validate(document)


def test_numbers_are_rounded_to_the_precision_of_a_forward():
    measured = make_layer(0, 2, "stem").model_copy(update={"d": 0.123456789, "g": -0.0})
    record = make_record(names=["stem"], variants=("original",))
    layer = Record(**{**dict(record), "variants": {"original": [measured]}}).output
    assert layer.d == 0.1234568
    assert math.copysign(1, layer.g) == 1, "negative zero equals zero but prints otherwise"


def test_file_names_that_are_no_text_are_spelt_out():
    name = b"caf\xe9.jpg".decode("utf-8", "surrogateescape")
    record = make_record(data={"skipped": [name]})
    assert record.data.skipped == ["caf\\udce9.jpg"]
    assert Record.model_validate_json(record_text(record)) == record


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"spec": "resnet34"}},
        {"model": {"parameters": 5}},
        {"data": {"seed": 1}},
        {"data": {"sample_sha256": "00" * 32}},
        {"protocol": {"delta": 2.0}},
        {"protocol": {"layers": ["convs"]}},
        {"protocol": {"seed": 3}},
        {"key_extra": {"test_error": 0.2}},
    ],
    ids=str,
)
def test_the_key_depends_on_what_changes_the_numbers(change):
    assert make_record(**change).key != make_record().key


def test_the_key_depends_on_weights_and_preprocessing():
    base = make_record().model
    for part, change in [("weights", {"sha256": "00" * 32}), ("input", {"height": 192})]:
        changed = getattr(base, part).model_copy(update=change)
        assert make_record(model={part: changed.model_dump()}).key != make_record().key


def test_the_key_depends_on_the_variants_but_not_on_their_order():
    two = ("original", "init")
    assert make_record(variants=two).key == make_record(variants=two[::-1]).key != make_record().key


@pytest.mark.parametrize(
    "change",
    [
        {"model": {"recipe": {"epochs": 90}}},
        {"data": {"skipped": ["broken.jpg"]}},
        {"data": {"note": "synthetic"}},
        {"environment": {"batch_size": 7}},
        {"timings": {"seconds": 1.0}},
        {"test_error": {"value": 0.9}},
        {"warnings": ["x"]},
    ],
    ids=str,
)
def test_the_key_is_blind_to_what_was_found_on_the_way(change):
    assert make_record(**change).key == make_record().key


def test_no_extra_and_an_empty_extra_are_the_same():
    record = make_record()
    parts = record.model, record.data, record.protocol, list(record.variants)
    assert record_key(*parts) == record_key(*parts, {}) == record.key


def test_an_edited_record_does_not_verify():
    record = make_record(key_extra={"full_error": True})
    assert verify_key(record)
    assert verify_key(Record.model_validate_json(record_text(record)))
    edited = record.model_copy(update={"data": record.data.model_copy(update={"n": 9})})
    assert not verify_key(edited)
    assert not verify_key(record.model_copy(update={"key_extra": {}}))


def test_the_published_schema_is_in_sync():
    module = "timm_diffsens.schema.records"
    printed = subprocess.run(
        [sys.executable, "-m", module], capture_output=True, text=True, check=True
    ).stdout
    assert SCHEMA_FILE.read_text() == printed, f"run `python -m {module} > docs/record.schema.json`"


def test_the_published_schema_is_valid_and_agrees_with_the_model():
    schema = json.loads(SCHEMA_FILE.read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    assert schema == json_schema()
    validator = jsonschema.Draft202012Validator(schema)
    document = as_dict(make_record())
    assert not list(validator.iter_errors(document))
    for key, value in [("colour", "blue"), ("key", 3), ("variants", {"": []}), ("schema_version", 3)]:
        assert list(validator.iter_errors({**document, key: value})), key


def test_every_field_of_the_contract_is_described():
    """Layers carry what `LayerSensitivity` promises."""
    promised = {"layer", "index", "depth", "d", "g", "r", "d_stderr", "g_stderr", "r_stderr", "n", "reason"}
    assert promised <= set(json_schema()["$defs"]["LayerSensitivity"]["properties"])


def test_results_import_no_torch():
    root = Path(__file__).parents[2]
    files = [file for part in ("schema", "results") for file in (root / "timm_diffsens" / part).rglob("*.py")]
    names = [".".join(file.relative_to(root).with_suffix("").parts) for file in files]
    heavy = "('torch', 'timm', 'torchvision')"
    code = f"import sys, {', '.join(names)}; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
