"""Weights from files: what fits is read, what does not is named, what could run code is refused unread."""

import argparse
import io
import json
import pickle
import struct
import tarfile
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from timm_diffsens.benchmark.run import bench
from timm_diffsens.data.loading import image_transform, load_images, match_labels
from timm_diffsens.errors import DiffsensError, DiffsensWarning, UsageError
from timm_diffsens.models.checkpoints import load_checkpoint, read_recipe, round_to_half, state_sha256
from timm_diffsens.models.loading import load_model
from timm_diffsens.results.records.store import record_text
from timm_diffsens.schema.records import verify_key


def network(seed: int = 0, width: int = 4) -> nn.Module:
    """Convolution, batch-norm with unusual statistics, linear layer; all of it a function of the seed."""
    generator = torch.Generator().manual_seed(seed)
    net = nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width * 36, 5))
    for value in net.state_dict().values():
        if value.is_floating_point():
            value.copy_(torch.rand(value.shape, generator=generator) + 0.5)
        else:
            value.fill_(seed + 7)
    return net


def sha(module: nn.Module) -> str:
    return state_sha256(module.state_dict())


def save(value: Any, path: Path, **options: Any) -> Path:
    torch.save(value, path, **options)
    return path


KNOWN = network(1)
STATE = KNOWN.state_dict()


def test_what_float16_cannot_hold_is_not_rounded():
    net, before = network(), sha(network())
    with torch.no_grad():
        net[3].weight[0, 0] = 1e5
    changed = sha(net)
    with pytest.raises(DiffsensError, match=r"3\.weight has numbers beyond 65,504"):
        round_to_half(net)
    assert sha(net) == changed != before


# --- what is read


@pytest.mark.parametrize(
    "wrapped",
    [
        STATE,
        dict(STATE),
        {"state_dict": STATE, "epoch": 3},
        {"model": STATE, "optimizer": {"lr": 0.1}},
        {"model_state_dict": STATE},
        {"model": {"state_dict": STATE}},
        {f"module.{name}": value for name, value in STATE.items()},
        {f"_orig_mod.{name}": value for name, value in STATE.items()},
        {f"module._orig_mod.{name}": value for name, value in STATE.items()},
        {"state_dict": {f"module.{name}": value for name, value in STATE.items()}},
        OrderedDict(reversed(STATE.items())),
    ],
    ids=lambda value: "/".join(str(name) for name in list(value)[:2]),
)
def test_torch_files_in_all_their_wrappers(wrapped, tmp_path):
    net = network()
    assert load_checkpoint(net, save(wrapped, tmp_path / "weights.pt")).metadata == {}
    assert sha(net) == sha(KNOWN) != sha(network())
    images = torch.rand(2, 3, 8, 8)
    assert torch.equal(net.eval()(images), KNOWN.eval()(images))


@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod."])
def test_safetensors(prefix, tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({prefix + name: value for name, value in STATE.items()}, path, metadata={"recipe": "long"})
    net = network()
    assert load_checkpoint(net, path).metadata == {"recipe": "long"}
    assert sha(net) == sha(KNOWN)


def test_the_file_name_does_not_matter_to_a_torch_file(tmp_path):
    for name in ("weights.pth", "weights.bin", "weights.tar", "weights"):
        net = network()
        load_checkpoint(net, save(STATE, tmp_path / name))
        assert sha(net) == sha(KNOWN)


def test_a_networks_own_names_are_no_prefix(tmp_path):
    net, known = nn.ModuleDict({"model": network()}), nn.ModuleDict({"model": network(1)})
    load_checkpoint(net, save(known.state_dict(), tmp_path / "a.pt"))
    assert sha(net) == sha(known)
    wrapped = {f"module.{name}": value for name, value in known.state_dict().items()}
    net = nn.ModuleDict({"model": network()})
    load_checkpoint(net, save(wrapped, tmp_path / "b.pt"))
    assert sha(net) == sha(known)


def test_files_without_the_counter_of_batch_norm(tmp_path):
    """Torch before 0.4.1 wrote none, and torch itself still reads such files."""
    old = {name: value for name, value in STATE.items() if not name.endswith("num_batches_tracked")}
    assert len(old) == len(STATE) - 1
    net = network()
    load_checkpoint(net, save(old, tmp_path / "old.pt"))
    assert torch.equal(net[1].running_mean, KNOWN[1].running_mean)


def test_half_precision_is_widened(tmp_path):
    net = network()
    load_checkpoint(net, save({n: v.half() for n, v in STATE.items()}, tmp_path / "half.pt"))
    assert torch.equal(net[0].weight, KNOWN[0].weight.half().float())


def averaged_and_raw(tmp_path: Path, **entries: Any) -> Path:
    """What training scripts write, with the given state dicts in it."""
    beside = {"epoch": 3, "args": argparse.Namespace(lr=0.1, model="x"), "metric": np.float64(71.5)}
    return save(
        {**beside, **entries, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}}, tmp_path / "w.tar"
    )


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("raw", ["state_dict", "model"])
@pytest.mark.parametrize("averaged", ["state_dict_ema", "model_ema"])
def test_averaged_weights_are_taken_as_timm_takes_them(averaged, raw, legacy, tmp_path):
    path = averaged_and_raw(tmp_path, **{raw: network(2).state_dict(), averaged: STATE})
    if legacy:
        save(torch.load(path, weights_only=False), path, _use_new_zipfile_serialization=False)
    net = network()
    with pytest.warns(
        DiffsensWarning, match=rf"measured is {averaged}, averaged weights.*; not {raw}, which"
    ):
        found = load_checkpoint(net, path)
    assert found.entry == averaged
    assert sha(net) == sha(KNOWN) == state_sha256(found.state)
    plain = save({raw: network(2).state_dict(), averaged: STATE}, tmp_path / "plain.pt")
    assert state_sha256(timm.models.load_state_dict(str(plain))) == sha(KNOWN)


def test_without_averaged_weights_the_raw_ones_are_taken_and_nothing_is_said(tmp_path, recwarn):
    net = network()
    found = load_checkpoint(net, averaged_and_raw(tmp_path, state_dict=STATE, state_dict_ema=None))
    assert (found.entry, sha(net)) == (None, sha(KNOWN))
    assert not [w for w in recwarn if issubclass(w.category, DiffsensWarning)]


def test_averaged_weights_by_another_name_are_not_guessed(tmp_path):
    """timm takes the raw ones then; which they are is said and recorded."""
    net = network()
    with pytest.warns(DiffsensWarning, match="measured is model; not ema_weights"):
        found = load_checkpoint(
            net, averaged_and_raw(tmp_path, model=STATE, ema_weights=network(2).state_dict())
        )
    assert (found.entry, sha(net)) == ("model", sha(KNOWN))
    path = averaged_and_raw(tmp_path, student=STATE, teacher=network(2).state_dict())
    with pytest.raises(UsageError, match=r"holds several state dicts: student, teacher; save the one meant"):
        load_checkpoint(net, path)


def test_the_record_says_which_weights_were_taken(tmp_path):
    raw, averaged = (load_model("net/lenet", pretrained=False, seed=seed).module for seed in (1, 2))
    path = averaged_and_raw(tmp_path, state_dict=raw.state_dict(), state_dict_ema=averaged.state_dict())
    options = {"images": 4, "variants": "original", "layers": "output"}
    with pytest.warns(DiffsensWarning, match="state_dict_ema"):
        record = bench("net/lenet", checkpoint=path, out=tmp_path, **options)
    assert (record.model.weights.detail, record.model.weights.entry) == ("w.tar", "state_dict_ema")
    assert verify_key(record)
    alone = save(averaged.state_dict(), tmp_path / "w.pt")
    plain = bench("net/lenet", checkpoint=alone, **options)
    assert '"entry"' not in record_text(plain)
    assert plain.model.weights.sha256 == record.model.weights.sha256
    assert [layer.r for layer in plain.variants["original"]] == [
        layer.r for layer in record.variants["original"]
    ]


@pytest.mark.parametrize(
    "beside",
    [{"scheduler": np.float32(3)}, {"best": np.int64(7)}, {"size": torch.Size([3])}, {"kept": {1, 2}}],
)
def test_old_files_of_torch(beside, tmp_path):
    net = network()
    path = tmp_path / "resnet.th"
    torch.save({"state_dict": STATE, **beside}, path, _use_new_zipfile_serialization=False)
    assert not zipfile.is_zipfile(path)
    load_checkpoint(net, path)
    assert sha(net) == sha(KNOWN)


@pytest.mark.parametrize("name", ["weights.pth", "weights.bin", "weights", "weights.safetensors"])
def test_formats_are_told_apart_by_content(name, tmp_path):
    path = tmp_path / name
    save_file(STATE, path, metadata={"recipe": json.dumps({"epochs": 3})})
    net = network()
    assert load_checkpoint(net, path).metadata == {"recipe": '{"epochs": 3}'}
    assert sha(net) == sha(KNOWN)
    assert read_recipe(path) == {"epochs": 3}
    net = network()
    load_checkpoint(net, save(STATE, path))
    assert sha(net) == sha(KNOWN)
    assert read_recipe(path) is None


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "backbone.", "net.encoder.", "a.b.c."])
@pytest.mark.parametrize("extra", [{}, {"n_averaged": torch.tensor(5)}, {"epoch": 3, "arch": "resnet"}])
def test_prefixes_are_left_out_though_something_stands_beside(prefix, extra, tmp_path):
    net = network()
    load_checkpoint(net, save({**extra, **{prefix + n: v for n, v in STATE.items()}}, tmp_path / "w.pt"))
    assert sha(net) == sha(KNOWN)


def test_the_state_of_an_averaged_model(tmp_path):
    model = torch.optim.swa_utils.AveragedModel(KNOWN)
    net = network()
    load_checkpoint(net, save({"model": model.state_dict()}, tmp_path / "w.pt"))
    assert sha(net) == sha(KNOWN)


def test_compiled_parts_inside_a_network(tmp_path):
    inside = {name.replace("0.weight", "0._orig_mod.weight"): value for name, value in STATE.items()}
    assert len(set(inside) - set(STATE)) == 1
    net = network()
    load_checkpoint(net, save({f"model.{name}": value for name, value in inside.items()}, tmp_path / "w.pt"))
    assert sha(net) == sha(KNOWN)


def test_the_part_of_a_larger_network_that_fits(tmp_path):
    larger = {f"backbone.{name}": value for name, value in STATE.items()} | {"neck.weight": torch.ones(3, 3)}
    net = network()
    with pytest.warns(DiffsensWarning, match=r"only what is under backbone\. is measured, not neck\.weight"):
        load_checkpoint(net, save(larger, tmp_path / "w.pt"))
    assert sha(net) == sha(KNOWN)


def test_two_networks_that_fit_are_not_guessed(tmp_path):
    both = {f"{who}.{name}": value for who in ("student", "teacher") for name, value in STATE.items()}
    with pytest.raises(UsageError, match=r"several networks that fit: student\., teacher\.; save the one"):
        load_checkpoint(network(), save(both, tmp_path / "w.pt"))


# --- what does not fit


def test_the_nearest_name_is_given(tmp_path):
    renamed = {name.replace("3.", "head.3."): value for name, value in STATE.items()}
    message = faults(renamed, tmp_path)
    assert "2 missing: 3.bias, 3.weight; 2 unexpected: head.3.bias, head.3.weight" in message
    assert "nearest to 3.bias is head.3.bias" in message


def test_an_extra_entry_does_not_hide_what_is_wrong_under_a_prefix(tmp_path):
    state = {f"module.{name}": value for name, value in STATE.items() if name != "3.bias"}
    message = faults({**state, "temperature": torch.ones(1)}, tmp_path)
    assert "1 missing: 3.bias; 1 unexpected: temperature" in message


def faults(state: dict[str, torch.Tensor], tmp_path: Path) -> str:
    net = network()
    before = sha(net)
    with pytest.raises(UsageError, match=r"'weights\.pt' does not fit the model") as error:
        load_checkpoint(net, save(state, tmp_path / "weights.pt"))
    assert sha(net) == before
    return str(error.value)


def test_missing_weights_are_named(tmp_path):
    state = {name: value for name, value in STATE.items() if not name.startswith("3.")}
    assert "2 missing: 3.bias, 3.weight" in faults(state, tmp_path)


def test_unexpected_weights_are_named(tmp_path):
    message = faults({**STATE, **{f"head.{i}": torch.ones(1) for i in range(5)}}, tmp_path)
    assert "5 unexpected: head.0, head.1, head.2, ..." in message


def test_weights_of_another_shape_are_named(tmp_path):
    message = faults({**STATE, "0.bias": torch.ones(6)}, tmp_path)
    assert "1 of another shape: 0.bias (6,) where (4,) is expected" in message
    assert "missing" not in message


def test_another_network_altogether(tmp_path):
    message = faults({"stem.weight": torch.ones(2)}, tmp_path)
    assert "missing" in message
    assert "1 unexpected: stem.weight" in message


@pytest.mark.parametrize(
    ("value", "found"),
    [({}, "found: "), ([1, 2], "list"), ({"a": 1, "b": {}}, "a, b"), (torch.ones(2), "Tensor")],
)
def test_files_without_a_state_dict(value, found, tmp_path):
    with pytest.raises(UsageError, match=f"holds no state dict; .*{found}"):
        load_checkpoint(network(), save(value, tmp_path / "weights.pt"))


# --- what cannot be read


def truncated(path: Path, share: float) -> Path:
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    return path


@pytest.mark.parametrize("share", [0.01, 0.5, 0.99])
@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt"])
def test_truncated_files(name, share, tmp_path):
    path = tmp_path / name
    if name.endswith("safetensors"):
        save_file(STATE, path)
    else:
        save(STATE, path)
    with pytest.raises(UsageError, match=r"checkpoint 'weights\.\w+' cannot be read"):
        load_checkpoint(network(), truncated(path, share))


@pytest.mark.parametrize("name", ["weights.safetensors", "weights.pt", "weights"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not weights\n",
        bytes(range(256)) * 8,
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 2) + b"{}",
    ],
    ids=["empty", "text", "binary", "endless header", "no tensors"],
)
def test_files_that_are_something_else(name, content, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(UsageError, match=rf"checkpoint '{name}'"):
        load_checkpoint(network(), path)


def test_a_zip_of_other_things(tmp_path):
    with zipfile.ZipFile(tmp_path / "weights.pt", "w") as archive:
        archive.writestr("readme.txt", "no weights")
    with pytest.raises(UsageError, match=r"checkpoint 'weights\.pt' cannot be read"):
        load_checkpoint(network(), tmp_path / "weights.pt")


@pytest.mark.parametrize("name", ["nowhere.pt", "nowhere.safetensors", "."])
def test_files_that_are_not_there(name, tmp_path):
    with pytest.raises(UsageError, match="does not exist or is not a file"):
        load_checkpoint(network(), tmp_path / name)


# --- what would run code


class Payload:
    """Unpickled, it makes the file `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return (open, (str(self.path), "w"))


def pickled(value: Any, path: Path) -> Path:
    path.write_bytes(pickle.dumps(value))
    return path


def tarred(value: Any, path: Path) -> Path:
    """The layout of torch before 0.1.10."""
    with tarfile.open(path, "w") as archive:
        for name, content in (("sys_info", {}), ("pickle", value), ("storages", 0), ("tensors", 0)):
            data = pickle.dumps(content)
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def zipped(value: Any, path: Path) -> Path:
    return save(value, path)


def legacy(value: Any, path: Path) -> Path:
    return save(value, path, _use_new_zipfile_serialization=False)


WRITERS = {"zip": zipped, "pickle": pickled, "legacy": legacy, "tar": tarred}


@pytest.fixture
def trace_of_code(tmp_path):
    """The file that the payload makes. It is proved here that it would: the tests below could fail."""
    path = tmp_path / "code-ran"
    pickle.loads(pickle.dumps(Payload(path)))
    assert path.exists()
    path.unlink()
    return path


@pytest.mark.parametrize("writer", WRITERS)
@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors", "weights"])
@pytest.mark.parametrize(
    "hide",
    [
        lambda payload: payload,
        lambda payload: {**STATE, "0.weight": payload},
        lambda payload: {"state_dict": STATE, "optimizer": {"state": [payload]}},
        lambda payload: {**STATE, "deep": {"er": [(payload,)]}},
    ],
    ids=["bare", "a weight", "the optimizer", "nested"],
)
def test_no_code_runs(writer, name, hide, tmp_path, trace_of_code):
    path = WRITERS[writer](hide(Payload(trace_of_code)), tmp_path / name)
    net = network()
    with pytest.raises(UsageError, match=rf"checkpoint '{name}'"):
        load_checkpoint(net, path)
    assert not trace_of_code.exists()
    assert sha(net) == sha(network())


def test_the_refusal_says_why(tmp_path, trace_of_code):
    with pytest.raises(
        UsageError, match=r"was refused: it holds more than tensors, and could run code \(.*\bopen\)"
    ):
        load_checkpoint(network(), zipped(Payload(trace_of_code), tmp_path / "weights.pt"))
    for writer in (pickled, tarred):
        with pytest.raises(UsageError, match="neither a safetensors file nor a whole file of torch's"):
            load_checkpoint(network(), writer(STATE, tmp_path / "weights.pt"))


def test_a_whole_model_is_refused(tmp_path):
    with pytest.raises(UsageError, match=r"was refused.*save its state_dict alone"):
        load_checkpoint(network(), save(KNOWN, tmp_path / "model.pt"))


@pytest.mark.filterwarnings("ignore:'torch.load' received a zip file")
def test_a_scripted_model_is_refused(tmp_path):
    torch.jit.script(KNOWN).save(str(tmp_path / "model.pt"))
    with pytest.raises(UsageError, match=r"checkpoint 'model\.pt'"):
        load_checkpoint(network(), tmp_path / "model.pt")


@pytest.mark.parametrize("inside", ["../outside", "weights/../../outside", "{absolute}"])
def test_a_zip_with_paths_out_of_it(inside, tmp_path):
    folder = tmp_path / "inner"
    folder.mkdir()
    path = save(STATE, folder / "weights.pt")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(inside.format(absolute=tmp_path / "outside"), b"out")
    net = network()
    try:
        load_checkpoint(net, path)
    except UsageError:
        assert sha(net) == sha(network())
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["inner", "weights.pt"]


# --- the hash


def test_the_hash_depends_on_neither_format_nor_order(tmp_path):
    save_file(STATE, tmp_path / "a.safetensors")
    save({"model": OrderedDict(reversed(STATE.items()))}, tmp_path / "b.pt")
    nets = network(2), network(3)
    for net, name in zip(nets, ("a.safetensors", "b.pt"), strict=True):
        load_checkpoint(net, tmp_path / name)
    assert sha(nets[0]) == sha(nets[1]) == sha(KNOWN) == state_sha256(dict(reversed(STATE.items())))


def test_the_hash_depends_on_every_bit():
    weight = torch.linspace(-1, 1, 12).reshape(3, 4)
    hashes = {state_sha256({"a": weight})}
    for place in range(12):
        for bit in (1, 2**30, -(2**31)):
            changed = weight.clone().view(torch.int32)
            changed.view(-1)[place] ^= bit
            hashes.add(state_sha256({"a": changed.view(torch.float32)}))
    assert len(hashes) == 1 + 12 * 3


def test_the_hash_depends_on_dtype_shape_and_name():
    weight = torch.linspace(-1, 1, 12).reshape(3, 4)
    different = [
        {"a": weight},
        {"b": weight},
        {"a": weight.view(torch.int32)},
        {"a": weight.double()},
        {"a": weight.reshape(4, 3)},
        {"a": weight.reshape(-1)},
        {"a": weight[:2], "b": weight[2:]},
        {"a": weight[:1], "b": weight[1:]},
        {},
        {"a": weight, "b": torch.empty(0)},
        {"a": torch.zeros(2)},
        {"a": -torch.zeros(2)},
    ]
    assert len({state_sha256(state) for state in different}) == len(different)


@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.bool, torch.complex64]
)
def test_all_dtypes_and_layouts_have_a_hash(dtype):
    weight = torch.from_numpy(np.arange(24).reshape(4, 6)).to(dtype)
    strided = weight.t().contiguous().t()
    assert strided.stride() != weight.stride()
    assert state_sha256({"a": weight}) == state_sha256({"a": strided})
    assert state_sha256({"a": weight}) != state_sha256({"a": weight[:3]})
    assert state_sha256({"a": weight[0, 0]}) != state_sha256({"a": weight[:1, 0]})  # no dimension, one


# --- the real thing


def test_trained_weights(real_data):
    path = real_data.file("tf_efficientnet_lite0.safetensors")
    model = load_model("tf_efficientnet_lite0", checkpoint=path)
    assert model.weights.source == "checkpoint"
    assert model.weights.detail == path.name
    sample = load_images("folder", data_dir=real_data.folder("imagenet-sample"), images=24)
    labels, reason = match_labels(sample, model.classes, model.class_names)
    assert labels is not None, reason
    transform = image_transform(model.input)
    with torch.no_grad():
        logits = model.module(torch.stack([transform(sample.load(i)) for i in range(24)]))
    right = int((logits.argmax(1) == torch.tensor(labels)).sum())
    # 12.3 % of all 1,000 are wrong, so 21 of 24 are right, give or take 1.6; by chance it would be none
    assert right >= 24 * (1 - 0.123) - 4 * (24 * 0.123 * 0.877) ** 0.5
    with pytest.raises(UsageError, match="does not fit the model"):
        load_model("test_efficientnet", checkpoint=path)
