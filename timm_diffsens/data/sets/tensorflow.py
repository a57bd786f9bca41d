"""TensorFlow Datasets."""

from timm_diffsens import registry
from timm_diffsens.data.source import Request
from timm_diffsens.data.splits import check_name
from timm_diffsens.data.streaming import Stream


@registry.register(
    "datasets",
    "tfds/NAME",
    help="TensorFlow Datasets: the first images (package `tensorflow-datasets`)",
    order=10,
)
def tfds(request: Request) -> Stream:
    """The first images of a set; --data-dir is the cache."""
    check_name("tfds", request.name, r"[a-z0-9_]+(/[A-Za-z0-9_][\w.-]*)?(:[0-9.*]+)?")
    request.require("tensorflow_datasets", "tensorflow-datasets")
    request.require("tensorflow", "tensorflow")
    return Stream(request, f"tfds/{request.name}")
