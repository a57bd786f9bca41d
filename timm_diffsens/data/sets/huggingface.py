"""Data sets of the Hugging Face Hub, fetched whole or as a stream.

`datasets` has to be 4 or newer: older ones may run a Python script that lies beside the data.
"""

from timm_diffsens import registry
from timm_diffsens.data.folders import check_name
from timm_diffsens.data.source import Request
from timm_diffsens.data.streaming import Stream
from timm_diffsens.data.through_timm import Encoded, create

_PATTERN = r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?"
_PACKAGE = ("datasets", "datasets", 4)


@registry.register(
    "datasets",
    "hfds/NAME",
    help="a data set of the Hugging Face Hub, fetched whole (package `datasets`)",
    order=7,
)
def hub(request: Request) -> Encoded:
    """A table of images; --data-dir is the cache."""
    check_name("hfds", request.name, _PATTERN)
    request.require(*_PACKAGE)
    split = request.split or "validation"
    advice = "check the name and --split; without a network, give a cache that holds it with --data-dir"
    root = None if request.data_dir is None else str(request.data_dir)
    dataset = create(request.spec, advice, name=f"hfds/{request.name}", root=root, split=split)
    return Encoded(request.origin(split), dataset)


@registry.register(
    "datasets",
    "hfids/NAME",
    help="the same as a stream: the first images (package `datasets`)",
    order=8,
)
def hub_stream(request: Request) -> Stream:
    """The first images of a table."""
    check_name("hfids", request.name, _PATTERN)
    request.require(*_PACKAGE)
    return Stream(request, f"hfids/{request.name}")
