"""Whatever a checkpoint or an image holds, the process stays below 2 GB."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
import zlib
from pathlib import Path

import pytest
import timm
import torch
from PIL import Image, PngImagePlugin
from safetensors.torch import save, save_file

GIGABYTE = 10**9
HUGE = 10**12
HERE = Path(__file__).resolve().parent


def header(content: object, length: int | None = None) -> bytes:
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text


def tensor(shape: list[int], end: int = 16, kind: str = "F32") -> dict[str, object]:
    return {"dtype": kind, "shape": shape, "data_offsets": [0, end]}


def recipe(**changes: object) -> bytes:
    """A good file of weights whose recipe asks for too much."""
    plain = {"model": "net/lenet", "arguments": {}, "task": "cifar10"}
    network = {"conv.weight": torch.zeros(2, 2)}
    return save(network, metadata={"diffsens": json.dumps({**plain, **changes})})


def bomb(path: Path) -> None:
    """A zip file of 3 MB that unpacks to 3 GB."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({}))
        with archive.open("archive/data/0", "w", force_zip64=True) as entry:
            for _ in range(3000):
                entry.write(bytes(10**6))


def zipped(path: Path) -> None:
    """A file of torch's, zipped again so that it lies about sizes in its directory."""
    torch.save({"a": torch.zeros(10**6)}, path)
    with zipfile.ZipFile(path) as plain:
        entries = {info.filename: plain.read(info) for info in plain.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def legacy(numel: int) -> bytes:
    """torch's old format, with a storage that says it has so many numbers."""
    buffer = io.BytesIO()
    torch.save({"a": torch.zeros(4)}, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue().replace(b"K\x04", b"\x8a\x06" + numel.to_bytes(6, "little"))


def checkpoints(folder: Path) -> int:
    good = timm.create_model("resnet10t", pretrained=False).state_dict()
    texts: dict[str, bytes] = {
        "empty": b"",
        "noise": os.urandom(10**5),
        "page.html": b"<html>not found</html>",
        "pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
        "long-header": header({}, 2**60),
        "long-header-2": header({}, 2**31),
        "huge-shape": header({"a": tensor([HUGE])}) + bytes(16),
        "huge-offset": header({"a": tensor([HUGE // 4], HUGE)}) + bytes(16),
        "negative": header({"a": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 4]}}) + bytes(4),
        "empty-shape": header({"a": tensor([0, HUGE, HUGE], 0)}),
        "deep": header(b'{"a":' * 10**5),
        "many": header({f"a{i}": tensor([0], 0) for i in range(2 * 10**5)}),
        "metadata": save({"a": torch.zeros(1)}, metadata={"x": "y" * 5 * 10**7}),
        "recipe-height": recipe(input={"height": GIGABYTE, "width": GIGABYTE, "channels": 3}),
        "recipe-channels": recipe(arguments={"in_chans": GIGABYTE}),
        "recipe-classes": recipe(arguments={"num_classes": HUGE}),
        "recipe-width": recipe(arguments={"width": 10**7}),
        "recipe-depth": recipe(model="net/simple", arguments={"depth": GIGABYTE}),
        "recipe-mean": recipe(input={"mean": [0.5] * 10**6}),
        "recipe-deep": recipe(training=json.loads("[" * 500 + "]" * 500)),
        "recipe-no-json": save({"a": torch.zeros(1)}, metadata={"diffsens": "{" * 10**6}),
        "legacy-size": legacy(10**13),
        "legacy-size-2": legacy(2**31),
        "code": pickle.dumps(os.system),
        "deep-pickle": b"\x80\x02" + b"]" * 10**6 + b"a" * 10**6 + b".",
    }
    for name, content in texts.items():
        (folder / name).write_bytes(content)
    bomb(folder / "bomb.pth")
    zipped(folder / "zipped-again.pth")
    torch.save({"a": torch.zeros(1).expand(10**6, 10**6)}, folder / "expanded.pth")
    torch.save(
        {"a": torch.sparse_coo_tensor(torch.zeros(2, 1).long(), [1.0], (10**6, 10**6))}, folder / "sparse.pth"
    )
    torch.save({name: value.expand(1, *value.shape) for name, value in good.items()}, folder / "shapes.pth")
    torch.save({"state_dict": {}, "optimizer": [{"a": list(range(10**5))}]}, folder / "no-state.pth")
    save_file({f"{name}.x": value for name, value in good.items()}, folder / "names.safetensors")
    return len(list(folder.iterdir()))


def png(width: int, height: int, rows: int = 1) -> bytes:
    """A PNG file that says it is so large, and holds next to nothing."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    data = zlib.compress(bytes(rows * (3 * width + 1) if width < 10**6 else 100), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", data) + chunk(b"IEND", b"")


def images(folder: Path) -> int:
    """A folder for each hostile image, beside two hundred good ones: links to one would be counted once."""
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 10**7, zip=True)
    flat = Image.new("RGB", (64, 64))
    hostile: dict[str, object] = {
        "square.png": png(10**5, 10**5),
        "limit.png": png(13_000, 13_000, rows=13_000),
        "wide.png": png(2 * 10**9, 1),
        "long.png": png(1, 10**6),
        "flat.png": png(160_000, 1000, rows=1000),
        "cut.png": png(4000, 4000),
        "huge.ppm": b"P6\n1000000 1000000\n255\n" + bytes(100),
        "huge.pgm": b"P5\n99999999999 2\n255\n" + bytes(100),
        "text.png": (flat, {"pnginfo": text}),
        "thin.jpg": (Image.new("RGB", (20_000, 1)), {}),
        "thin.bmp": (Image.new("RGB", (1, 60_000)), {}),
        "huge.bmp": b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 0, 0, 0, 54, 40, 2**30, 2**30, 1, 24, 0, 0, 0, 0, 0, 0),
        "sixteen.tif": (Image.new("I;16", (9000, 9000)), {"compression": "tiff_deflate"}),
        "webp.webp": (Image.new("RGB", (16_000, 4000)), {}),
    }
    for name, made in hostile.items():
        place = folder / name.replace(".", "-")
        place.mkdir()
        flat.save(place / "a.png")
        flat.resize((40, 30)).save(place / "b.png")
        if isinstance(made, bytes):
            (place / name).write_bytes(made)
        else:
            made[0].save(place / name, **made[1])  # type: ignore[index]
    return len(hostile)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [checkpoints, images])
def test_the_process_stays_below_two_gigabytes(tmp_path, kind):
    count = kind(tmp_path)
    command = [sys.executable, str(HERE / "hostile_files.py"), kind.__name__, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert len(result["found"]) == count
    if kind is checkpoints:
        assert all(said.startswith("refused") for said in result["found"].values()), result["found"]
        assert count >= 30
    assert result["peak"] < 2 * GIGABYTE, result
