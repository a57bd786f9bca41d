"""Shards of webdataset in a folder."""

import os
from pathlib import Path

from timm_diffsens import registry
from timm_diffsens.data.source import Request
from timm_diffsens.data.splits import check_name
from timm_diffsens.data.streaming import Stream
from timm_diffsens.errors import UsageError

_SHARDS_ADVICE = "give a split of its _info.json, or the shards themselves: --split 'name-{0000..0009}.tar'"


@registry.register(
    "datasets",
    "wds/NAME",
    help="local webdataset shards in --data-dir: the first images (package `webdataset`)",
    order=9,
)
def shards(request: Request) -> Stream:
    """The first images of the shards of a split.

    Shard names come from a file of the data set: they must be files inside its folder, as webdataset would
    run `pipe:` names as commands and pass over missing files.
    """
    check_name("wds", request.name, r"[A-Za-z0-9_][\w.-]*")
    request.require("webdataset", "webdataset")
    root = request.folder()
    if request.split and ":" in request.split:
        raise UsageError(f"--split {request.split!r}: shards are files in --data-dir, not URLs or commands")
    source = Stream(request, f"wds/{request.name}", _SHARDS_ADVICE)
    for filename in map(str, source.reader.split_info.filenames):
        path = Path(os.path.normpath(root / filename))
        if not path.is_relative_to(root):
            raise UsageError(f"{request.spec}: the shard {filename!r} lies outside --data-dir {str(root)!r}")
        if not path.is_file():
            raise UsageError(f"{request.spec}: the shard {str(path)!r} does not exist")
    return source
