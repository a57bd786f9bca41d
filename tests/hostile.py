"""Records and files of ill will, and damaged ones: what a leaderboard may be sent by strangers."""

import copy
import json
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from record_factory import make_record

from timm_diffsens.results.records.store import record_text
from timm_diffsens.schema.further import Further
from timm_diffsens.schema.protocol import protocol_hash
from timm_diffsens.schema.records import Extension, ExtensionLook, Record, record_key

PAYLOADS = (
    "<script>window.ran = 1</script>",
    "</script><img src=x onerror='window.ran = 1'>",
    '"><svg onload=window.ran=1>',
    "javascript:window.ran=1",
    "{{ 7 * 7 }}{% raw %}",
    "](https://example.org/x) ![x](https://example.org/y.png)",
    "`|` **bold** \\| <b>",
    '=HYPERLINK("https://example.org","x")',
    "+1+cmd|' /C calc'!A0",
    "-2+3",
    "@SUM(1)",
    "\t=1+1",
    "\r=1+1",
    "\x1b[2J\x1b[31mred\x1b]0;title\x07",
    "\x9b31m\x85\x7f\x00\x08",
    "abc\u202egnp.exe\u2066\u200f",
    "a\nerror: forged line\nb",
    "\u2028\u2029\ufeff\u00ad",
    "../../../etc/passwd",
    "[bold red]markup[/] :smile: " + "x" * 3000,
)
FREE_TEXT: tuple[tuple[str | int, ...], ...] = (
    ("model", "spec"),
    ("model", "arch"),
    ("model", "weights", "detail"),
    ("model", "weights", "sha256"),
    ("model", "input", "crop_mode"),
    ("model", "input", "interpolation"),
    ("model", "recipe", "training", "optimizer"),
    ("data", "spec"),
    ("data", "split"),
    ("data", "sample_sha256"),
    ("data", "skipped", 0),
    ("data", "note"),
    ("data", "title"),
    ("data", "parameters", "task"),
    ("protocol", "deformation"),
    ("protocol", "noise"),
    ("protocol", "layers", 0),
    ("protocol", "dtype"),
    ("protocol", "init_statistics"),
    ("protocol", "options", "twist"),
    ("test_error", "reason"),
    ("variants", "original", 0, "layer"),
    ("variants", "original", 0, "reason"),
    ("variants", "original", 0, "kind"),
    ("variants", "original", 0, "aliases", 0),
    ("further", 0, "deformation"),
    ("further", 0, "variants", "original", "reason", 0),
    ("spectra", "original", 0, "layer"),
    ("spectra", "original", 0, "reason"),
    ("key_extra", "code"),
    ("not_called", 0),
    ("warnings", 0),
    ("extensions", 0, "kind"),
    ("extensions", 0, "spec"),
    ("extensions", 0, "sha256"),
    ("extensions", 0, "look", "point"),
    ("environment", "package"),
    ("environment", "torch"),
    ("environment", "retries", 0),
    ("timings", "started"),
)
FIXED_TEXT: tuple[tuple[str | int, ...], ...] = (  # of which only a few values are right
    ("key",),
    ("model", "library"),
    ("model", "weights", "source"),
    ("data", "selection"),
    ("test_error", "source"),
    ("protocol", "sha256"),
    ("extensions", 0, "look", "colour"),
)
_COUNT, _SEED, _FRACTION = (2**53 - 1, 2**53), (2**64 - 1, 2**64), (1.0, 1.0000001)
# Place -> the last number that is right, and the first that is not; below zero none is.
NUMBERS: dict[tuple[str | int, ...], tuple[float, float]] = {
    ("schema_version",): (2, 3),
    ("model", "parameters"): _COUNT,
    ("model", "classes"): (1000, 2**53),
    ("model", "weights", "seed"): _SEED,
    ("model", "input", "channels"): _COUNT,
    ("model", "input", "height"): _COUNT,
    ("model", "input", "width"): _COUNT,
    ("model", "recipe", "training", "seed"): _SEED,
    ("data", "n"): _COUNT,
    ("data", "seed"): _SEED,
    ("protocol", "delta"): (1e100, 1e101),
    ("protocol", "cut"): _COUNT,
    ("protocol", "rms_displacement"): (1e100, 1e101),
    ("protocol", "corruption_sigma"): (1e100, 1e101),
    ("protocol", "seed"): _SEED,
    ("protocol", "shuffles"): _COUNT,
    ("protocol", "init_samples"): _COUNT,
    ("test_error", "value"): _FRACTION,
    ("test_error", "stderr"): _FRACTION,
    ("test_error", "n"): _COUNT,
    ("train_error",): _FRACTION,
    ("variants", "init", -1, "depth"): (1.0, 1.1),
    ("variants", "init", -1, "index"): (2, 3),
    ("variants", "init", -1, "d"): (1e40, 1e41),
    ("variants", "init", -1, "g"): (1e40, 1e41),
    ("variants", "init", -1, "r"): (1e40, 1e41),
    ("variants", "init", -1, "d_stderr"): (0.1, 1e9),
    ("variants", "init", -1, "g_stderr"): (0.1, 1e9),
    ("variants", "init", -1, "r_stderr"): (0.1, 1e9),
    ("variants", "init", -1, "n"): _COUNT,
    ("variants", "init", -1, "shape", 0): _COUNT,
    ("variants", "init", -1, "channel_axis"): _COUNT,
    ("further", 0, "delta"): (1e100, 1e101),
    ("further", 0, "cut"): _COUNT,
    ("further", 0, "rms_displacement"): (1e100, 1e101),
    ("further", 0, "variants", "init", "d", -1): (1e40, 1e41),
    ("further", 0, "variants", "init", "r_stderr", -1): (0.1, 1e9),
    ("further", 0, "variants", "init", "n", -1): _COUNT,
    ("spectra", "original", 0, "kernel", 0): _COUNT,
    ("spectra", "original", 0, "power", 0): (1e100, 1e101),
    ("spectra", "original", 0, "low_frequency_share"): _FRACTION,
    ("spectra", "original", 0, "mean_frequency"): (1e100, 1e101),
    ("environment", "threads"): _COUNT,
    ("environment", "batch_size"): _COUNT,
    ("timings", "peak_memory_bytes"): _COUNT,
}
NAMES = ["stem", "block", "fc"]


@dataclass(frozen=True)
class Hostile:
    """A file, and whether a reader must leave it out."""

    name: str
    write: Callable[[Path], None]
    bad: bool


def corpus() -> list[Hostile]:
    """All of them; equal calls give equal files."""
    return [*_texts(), *_numbers(), *_files()]


def write_corpus(folder: Path) -> dict[Path, bool]:
    """Writes them below a folder; path -> whether it must be left out."""
    folder.mkdir(parents=True, exist_ok=True)
    written = {}
    for one in corpus():
        path = folder / one.name
        one.write(path)
        written[path] = one.bad
    return written


def every_payload() -> str:
    """A sound record with all texts: one for each layer and each deformation, and all in a row elsewhere."""
    document = _document(600, [f"layer{i}" for i in range(len(PAYLOADS))])
    for place in FREE_TEXT:
        document = changed(document, place, " ".join(PAYLOADS))
    for layers in document["variants"].values():
        for layer, payload in zip(layers, PAYLOADS, strict=True):
            layer["layer"] = payload
    (other,) = document["further"]
    document["further"] = [{**other, "deformation": payload} for payload in PAYLOADS]
    return sealed(document)


def _document(number: int, names: Sequence[str] = NAMES) -> dict[str, Any]:
    """A record with something in every field; of another network for each number."""
    weights = {"source": "checkpoint", "detail": "x.pt", "seed": 3, "sha256": f"{number:064x}"}
    record = make_record(
        f"net{number:03d}",
        names=list(names),
        model={"weights": weights, "recipe": {"training": {"seed": number, "optimizer": "sgd"}}},
        data={"note": "a note", "title": "Images", "skipped": ["a.jpg"], "parameters": {"task": "one"}},
        protocol={
            "init_statistics": "as made",
            "options": {"twist": "left"},
            "shuffles": 2,
            "init_samples": 2,
        },
        test_error={"value": 0.1 + 0.0005 * number},
        train_error=0.001,
        key_extra={"code": "ab"},
        not_called=["aux"],
        warnings=["a warning"],
        environment={"retries": ["halved"]},
        extensions=[
            Extension(
                kind="variant",
                spec="blurred",
                sha256="cd" * 32,
                look=ExtensionLook(colour="#112233", dash=(1, 2), point="circle"),
            )
        ],
    )
    other = record.protocol.model_copy(update={"delta": 2.5})
    record = record.model_copy(update={"further": [Further.of(other, record.variants)]})
    document: dict[str, Any] = json.loads(record_text(record))
    document["further"][0]["variants"]["original"]["reason"] = ["none"] + [None] * (len(names) - 1)
    document["variants"]["original"][0] |= {"reason": "none", "aliases": ["other"]}
    document["spectra"]["original"][0]["reason"] = "none"
    document["timings"]["peak_memory_bytes"] = 1
    return document


def sealed(document: dict[str, Any]) -> str:
    """As JSON, with the hashes that follow from it where it has a record's shape at all."""
    with suppress(ValueError, KeyError):
        record = Record.model_validate(document)
        protocol = record.protocol.model_copy(update={"sha256": protocol_hash(record.protocol)})
        document["protocol"]["sha256"] = protocol.sha256
        parts = (record.model, record.data, protocol, list(record.variants), record.key_extra)
        document["key"] = record_key(*parts, further=[one.protocol_like(protocol) for one in record.further])
    return json.dumps(document)


def changed(document: dict[str, Any], place: tuple[str | int, ...], value: Any) -> dict[str, Any]:
    """A copy with another value at one place."""
    document = copy.deepcopy(document)
    target: Any = document
    for step in place[:-1]:
        target = target[step]
    target[place[-1]] = value
    return document


def _texts() -> Iterator[Hostile]:
    for number, payload in enumerate(PAYLOADS):
        document = _document(number)
        for place in FREE_TEXT:
            document = changed(
                document, place, payload if place != ("model", "spec") else payload + str(number)
            )
        yield _text_file(f"text{number}-all.json", sealed(document), bad=False)
        extra = payload if payload.isprintable() and len(payload) <= 200 else "printable"
        document = _document(100 + number)
        for part in (document, document["further"][0]):
            part["variants"][extra] = part["variants"]["init"]
        yield _text_file(f"text{number}-variant.json", sealed(document), bad=False)
        place = FIXED_TEXT[number % len(FIXED_TEXT)]
        fixed = json.loads(sealed(_document(200 + number)))
        yield _text_file(f"text{number}-fixed.json", json.dumps(changed(fixed, place, payload)), bad=True)
        yield _text_file(f"text{number}-field.json", json.dumps({**fixed, payload: payload}), bad=True)


def _numbers() -> Iterator[Hostile]:
    for count, (place, (last, beyond)) in enumerate(NUMBERS.items()):
        document = _document(300 + count)
        if place[-1] in ("d", "g", "r"):
            del document["variants"]["init"][-1]["r_stderr"]
            document["variants"]["init"][-1] |= {"d_stderr": None, "g_stderr": None, "r_stderr": None}
        if place[-1] == "classes":
            document["model"]["parameters"] = 1000
        label = "-".join(map(str, place))
        values = {"last": (last, False), "beyond": (beyond, True), "negative": (-1, True)}
        values |= {"true": (True, True), "quoted": (str(last), True), "huge": (10**400, True)}
        if place == ("model", "recipe", "training", "seed"):  # free-form: other types are no seed
            values |= {"true": (True, False), "quoted": ("1", False)}
        for name, (value, bad) in values.items():
            text = sealed(changed(document, place, value))
            yield _text_file(f"number-{label}-{name}.json", text, bad=bad)
    for place, value in {
        ("variants", "init", -1, "d"): 5e-324,
        ("variants", "original", -1, "r"): 0.5,
        ("variants", "original", -1, "g"): 0.0,
        ("model", "parameters"): 7,
        ("train_error",): float("nan"),
        ("timings", "seconds"): float("inf"),
    }.items():
        document = changed(_document(400), place, value)
        yield _text_file(f"odd-{'-'.join(map(str, place))}.json", sealed(document), bad=True)


def _files() -> Iterator[Hostile]:
    good = sealed(_document(500))
    deep = _document(501)
    deep["key_extra"] = {"code": json.loads("[" * 40 + "]" * 40)}
    contents: dict[str, str | bytes] = {
        "half": good[: len(good) // 2],
        "empty": "",
        "list": "[]",
        "foreign": "{}",
        "utf16": good.encode("utf-16"),
        "bom": "\ufeff" + good,
        "binary": os.urandom(0) + bytes(range(256)),
        "deep": "[" * 100_000,
        "deep-object": '{"a":' * 100_000,
        "deep-free": json.dumps(deep),
        "surrogate": good.replace('"a note"', '"\\ud800"'),
        "twice": good.replace('"trained": true', '"trained": false, "trained": true'),
        "twice-inside": good.replace('"layer": "stem"', '"layer": "a", "layer": "stem"'),
        "values": '{"schema_version": 1, "x": [' + "[]," * 2_000_000 + "[]]}",
        "long-number": good.replace('"channels": 3', '"channels": ' + "3" * 100_000),
        "renamed-key": good.replace('"trained"', '"Trained"'),
        "edited": good.replace("net500", "net501"),
        "\x1b[31mred": "{}",
        "=cmd()": "{}",
        "\u202egnp": "{}",
        "line\nbreak": "{}",
        "<img src=x onerror=window.ran=1>": "{}",
    }
    for name, content in contents.items():
        yield _text_file(f"{name}.json", content, bad=True)
    yield _text_file("good.json", good, bad=False)
    yield Hostile("pipe.json", lambda path: os.mkfifo(path), bad=True)
    yield Hostile("socket.json", _socket, bad=True)
    yield Hostile("device.json", lambda path: path.symlink_to("/dev/zero"), bad=True)
    yield Hostile("dangling.json", lambda path: path.symlink_to("nowhere"), bad=True)
    yield Hostile("loop.json", lambda path: path.symlink_to(path.name), bad=True)
    yield Hostile("large.json", _large, bad=True)


def _text_file(name: str, content: str | bytes, *, bad: bool) -> Hostile:
    data = content if isinstance(content, bytes) else content.encode()
    return Hostile(name, lambda path: path.write_bytes(data) and None, bad)


def _socket(path: Path) -> None:
    before = Path.cwd()
    os.chdir(path.parent)  # the path of a socket may have 108 bytes
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(before)


def _large(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(65 * 2**20)
