"""Tables of images of the Hugging Face Hub.

`datasets` has to be 4 or newer: older ones may run a Python script that lies beside the data.
"""

from timm_diffsens import registry
from timm_diffsens.data.source import Origin, Request
from timm_diffsens.data.splits import check_name
from timm_diffsens.data.streaming import Stream, located
from timm_diffsens.data.through_timm import Table, create

_HUB_NAME = r"[A-Za-z0-9_][\w.-]*(/[A-Za-z0-9_][\w.-]*)?"
_HUB_ADVICE = "check the name and --split; without a network, give a cache that holds it with --data-dir"


@registry.register(
    "datasets",
    "hfds/NAME",
    help="a data set of the Hugging Face Hub, fetched whole (package `datasets`)",
    order=7,
)
def hub(request: Request) -> Table:
    """A table of images; --data-dir is the cache."""
    check_name("hfds", request.name, _HUB_NAME)
    request.require("datasets", "datasets", 4)
    split = request.split or "validation"
    dataset = create(request.spec, _HUB_ADVICE, **located(request, f"hfds/{request.name}"), split=split)
    return Table(Origin(request.spec, split), dataset)


@registry.register(
    "datasets", "hfids/NAME", help="the same as a stream: the first images (package `datasets`)", order=8
)
def hub_stream(request: Request) -> Stream:
    """The first images of a table."""
    check_name("hfids", request.name, _HUB_NAME)
    request.require("datasets", "datasets", 4)
    return Stream(request, f"hfids/{request.name}")
