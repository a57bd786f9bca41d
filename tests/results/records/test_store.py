"""Records on disk: names, round trips, faults, and the table of all of them."""

import errno
import json
import os
import sys
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from record_factory import VARIANTS, make_record, null_layer, replace_layer

from timm_diffsens.errors import DiffsensError, DiffsensWarning, UsageError
from timm_diffsens.files import slug
from timm_diffsens.results.records.frames import layers_frame
from timm_diffsens.results.records.store import (
    check_writable,
    find_record,
    iter_records,
    load_record,
    read_records,
    record_path,
    record_text,
    write_record,
)

WINDOWS_RESERVED = {"con", "prn", "aux", "nul", *(f"{p}{i}" for p in ("com", "lpt") for i in range(10))}


def damaged(good: str) -> dict[str, tuple[bytes, str]]:
    """Content of bad record files, and a word that the message must have."""
    document = json.loads(good)
    first = document["variants"]["original"][0]
    text_for_number, quoted = (
        json.dumps({**document, "variants": {"original": [{**first, "d": d}]}}).encode()
        for d in ("much", "0.5")
    )
    return {
        "half.json": (good[: len(good) // 2].encode(), "half-written"),
        "empty.json": (b"", "empty"),
        "binary.json": (b"\x80\x04\x95\xff", "damaged"),
        "deep.json": (b"[" * 100_000, "damaged"),
        "list.json": (b"[1, 2]", "foreign"),
        "foreign.json": (b'{"name": "package"}', "foreign"),
        "number.json": (b"9" * 5000, "damaged"),
        "newer.json": (json.dumps({**document, "schema_version": 3}).encode(), "version 3"),
        "nan.json": (good.replace('"seconds": 81.25', '"seconds": NaN').encode(), "timings.seconds"),
        "text.json": (text_for_number, "variants.original.0.d"),
        "quoted.json": (quoted, "variants.original.0.d"),
    }


# ---- names


@settings(deadline=None)
@given(st.text(max_size=200))
@example("../../x")
@example("/etc/passwd")
@example("C:\\Windows\\system32")
@example("")
@example(".")
@example("..")
@example("con")
@example("LPT1.weights")
@example("-rf")
@example("a" * 10_000)
@example("网络/сеть")
@example("\x00\n\ud800")
@example("~root")
def test_no_name_leaves_its_folder(name):
    part = slug(name)
    assert part == Path(part).name
    assert 1 <= len(part) <= 81
    assert set(part) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
    assert part[0] not in ".-"
    assert part[-1] not in ".-"
    assert part.split(".")[0].lower() not in WINDOWS_RESERVED


@settings(deadline=None)
@given(st.text(max_size=50), st.text(max_size=50))
@example("../../../x", "../..")
def test_no_record_leaves_the_folder(model, dataset):
    record = make_record()
    record = record.model_copy(
        update={
            "model": record.model.model_copy(update={"spec": model}),
            "data": record.data.model_copy(update={"spec": dataset}),
        }
    )
    folder = Path("records").resolve()
    path = record_path(folder, record)
    assert path.resolve().parent.parent == folder
    assert path.name.endswith(f".{record.key[:12]}.json")


def test_names_that_look_alike_get_files_of_their_own(tmp_path):
    specs = ["a/b", "a-b", "a:b", "../a/b", "a" * 200 + "1", "a" * 200 + "2", "сеть", "网络"]
    paths = {write_record(tmp_path, make_record(spec)) for spec in specs}
    assert len(paths) == len(specs)
    assert [load_record(path) for path in sorted(paths)] == [r for _, r in iter_records(tmp_path)]


# ---- writing and reading


def test_round_trip(tmp_path):
    record = make_record(key_extra={"b": [1.5, {"c": None}], "a": (1, 2)}, model={"recipe": {"lr": 1e-3}})
    path = write_record(tmp_path, record)
    assert load_record(path) == record
    assert path == record_path(tmp_path, record)
    assert find_record(tmp_path, record.key) == path


def test_rewriting_gives_the_same_bytes(tmp_path):
    path = write_record(tmp_path, make_record())
    first = path.read_bytes()
    write_record(tmp_path, load_record(path))
    assert path.read_bytes() == first


def test_equal_records_have_equal_bytes_whatever_the_order():
    one = make_record(
        key_extra={"a": {"x": 1, "y": 2}, "b": 2}, timings={"seconds_by_variant": {"a": 1, "b": 2}}
    )
    other = make_record(
        variants=VARIANTS[::-1],
        key_extra={"b": 2, "a": {"y": 2, "x": 1}},
        timings={"seconds_by_variant": {"b": 2, "a": 1}},
    )
    assert one == other
    assert record_text(one) == record_text(other)


def test_the_file_reads_well_in_a_diff():
    record = make_record()
    text = record_text(record)
    lines = text.splitlines()
    assert text.endswith("}\n")
    assert not text.endswith("\n\n")
    assert '      "mean": [0.485, 0.456, 0.406],' in lines
    layers = sum(map(len, record.variants.values())) + sum(map(len, record.spectra.values()))
    assert sum(line.lstrip().startswith('{"layer"') for line in lines) == layers
    assert json.loads(text) == record.model_dump(mode="json")


def test_a_record_changed_past_its_schema_is_not_written(tmp_path):
    layer = make_record().output.model_copy(update={"d": float("nan")})
    record = replace_layer(make_record(), -1, layer)
    with pytest.raises(ValueError, match="finite"):
        write_record(tmp_path, record)
    assert not list(tmp_path.rglob("*"))


@pytest.mark.skipif(os.name == "nt", reason="no umask")
def test_files_are_as_readable_as_the_umask_says(tmp_path):
    old = os.umask(0o022)
    try:
        path = write_record(tmp_path, make_record())
    finally:
        os.umask(old)
    assert path.stat().st_mode & 0o777 == 0o644


# ---- faults


@pytest.mark.parametrize("name", damaged(record_text(make_record())))
def test_a_damaged_file_is_named_with_its_fault(tmp_path, name):
    content, word = damaged(record_text(make_record()))[name]
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UsageError, match=word) as caught:
        load_record(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(UsageError, match="No such file") as caught:
        load_record(tmp_path / "gone.json")
    assert "gone.json" in str(caught.value)


def test_what_is_damaged_or_altered_is_not_done(tmp_path):
    record = make_record()
    path = write_record(tmp_path, record)
    good = path.read_text()
    assert find_record(tmp_path, record.key) == path
    assert find_record(tmp_path, make_record(n=7).key) is None
    for bad in (good[:-100], good.replace('"parameters": 11689512', '"parameters": 5')):
        path.write_text(bad)
        assert find_record(tmp_path, record.key) is None
    path.write_text(good)
    other = path.with_name(f"other.{record.key[:12]}.json")
    path.rename(other)
    assert find_record(tmp_path, record.key) == other
    assert find_record(tmp_path / "nowhere", record.key) is None


def test_bad_files_are_named_in_one_warning_and_left_out(tmp_path):
    write_record(tmp_path, make_record())
    for name, (content, _) in damaged(record_text(make_record())).items():
        (tmp_path / name).write_bytes(content)
    with pytest.warns(DiffsensWarning) as caught:
        frame = read_records(tmp_path)
    assert len(caught) == 1
    assert all(name in str(caught[0].message) for name in damaged(record_text(make_record())))
    assert list(frame["model"]) == ["resnet18"]


def test_temporary_and_hidden_files_are_no_records(tmp_path):
    path = write_record(tmp_path, make_record())
    path.with_name(f".{path.name}.0a1b2c.tmp").write_text("half")
    (path.parent / f".{path.name}").write_text("half")
    hidden = tmp_path / ".git" / path.name
    hidden.parent.mkdir()
    hidden.write_text("half")
    (tmp_path / "folder.json").mkdir()
    assert [p for p, _ in iter_records(tmp_path)] == [path]


# ---- a folder that cannot be written


def test_a_file_in_the_way_is_found_before_measuring(tmp_path):
    (tmp_path / "records").write_text("")
    with pytest.raises(UsageError, match="--out"):
        check_writable(tmp_path / "records")
    (tmp_path / "imagenet").write_text("")
    check_writable(tmp_path)
    with pytest.raises(UsageError, match="imagenet"):
        check_writable(tmp_path, "imagenet")


@pytest.mark.parametrize("code", [errno.EACCES, errno.ENOSPC, errno.EROFS])
def test_a_folder_that_refuses_files_is_found_before_measuring(tmp_path, monkeypatch, code):
    def refuse(*args, **kwargs):
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "open", refuse)
    with pytest.raises(UsageError, match=os.strerror(code)):
        check_writable(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="needs a folder that refuses even root")
def test_a_folder_that_refuses_even_root():
    with pytest.raises(UsageError, match="cannot write"):
        check_writable("/proc/records")


def test_checking_leaves_nothing_behind(tmp_path):
    (tmp_path / "there").mkdir()
    check_writable(tmp_path / "there" / "a" / "records", "cifar10")
    assert list(tmp_path.rglob("*")) == [tmp_path / "there"]


def test_a_full_disk_is_one_line_and_leaves_no_file(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiffsensError, match="No space left") as caught:
        write_record(tmp_path, make_record())
    assert caught.value.exit_code == 1
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]


# ---- tables


def test_one_row_a_record(tmp_path):
    first, second = make_record("a"), make_record("b", variants=("original",), trained=None)
    for record in (first, second):
        write_record(tmp_path, record)
    frame = read_records(tmp_path)
    assert list(frame["key"]) == [first.key, second.key]
    assert list(frame["path"]) == [str(record_path(tmp_path, r)) for r in (first, second)]
    row = frame.iloc[0]
    assert (row["d"], row["g"], row["r"]) == (first.output.d, first.output.g, first.output.r)
    assert row["channel-shuffled_r_stderr"] == first.variants["channel-shuffled"][-1].r_stderr
    assert (row["error"], row["error_source"], row["n"]) == (0.288, "measured", 500)
    assert row["protocol"] == first.protocol.sha256
    assert row["trained"]
    assert frame.iloc[1][["channel-shuffled_r", "init_d", "trained"]].isna().all()


def test_types_of_columns_do_not_depend_on_nulls(tmp_path):
    nothing = {"value": None, "stderr": None, "n": None, "source": None, "reason": "no labels"}
    full = make_record("full")
    empty = make_record("empty", trained=None, test_error=nothing)
    empty = replace_layer(empty, -1, null_layer(9, 10, "fc"))
    frames = []
    for name, records in {"full": [full], "empty": [empty], "none": []}.items():
        (tmp_path / name).mkdir()
        for record in records:
            write_record(tmp_path / name, record)
        frames.append(read_records(tmp_path / name))
    for frame in frames:
        assert list(frame.dtypes) == list(frames[0].dtypes)
        assert list(frame.columns) == list(frames[0].columns)
        assert all(frame[c].dtype == "float64" for c in ("d", "r_stderr", "error", "mean-filter_g"))
        assert frame["trained"].dtype == "boolean"
        assert frame["n"].dtype == frame["parameters"].dtype == "int64"
    assert [len(frame) for frame in frames] == [1, 1, 0]
    assert pd.isna(frames[1]["d"][0])


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(UsageError, match="diffsens bench"):
        read_records(tmp_path / "nowhere")


def test_one_row_a_layer():
    record = replace_layer(make_record(), 3, null_layer(3, 10, "layer2.0"))
    frame = layers_frame([record])
    assert len(frame) == sum(map(len, record.variants.values()))
    assert list(frame["variant"].unique()) == list(VARIANTS)
    assert frame.loc[3, ["d", "g", "r", "d_stderr"]].isna().all()
    assert frame.loc[3, "reason"] == "constant"
    assert frame["r"].dtype == "float64"
    assert frame.loc[4, "r"] == record.variants["original"][4].r


BOARD = Path(__file__).resolve().parents[3] / "leaderboard" / "records"


@pytest.mark.parametrize("path", sorted(BOARD.rglob("*.json")), ids=lambda path: path.name)
def test_a_committed_record_is_written_again_to_the_byte(path):
    assert record_text(load_record(path)).encode() == path.read_bytes()
