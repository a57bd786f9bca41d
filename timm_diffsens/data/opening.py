"""What the user names or gives -> an open `ImageSource`."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from timm_diffsens import registry
from timm_diffsens.data.folders import check_split
from timm_diffsens.data.source import ImageSource, Request
from timm_diffsens.errors import UsageError


def open_images(
    data: str | ImageSource,
    *,
    data_dir: str | Path | None = None,
    split: str | None = None,
    download: bool = False,
    parameters: Mapping[str, Any] | None = None,
) -> ImageSource:
    """Open a data set; no image is read yet, and what it is for need not be known.

    Args:
        data: `dead-leaves`, `cifar10`, `imagenet`, `folder`, a timm name: `diffsens ls datasets` lists them.
        data_dir: the folder of the data set; its cache for `hfds/`, `hfids/` and `tfds/`.
        split: by default validation, with timm's synonyms; the test set where there is no such split.
        download: fetch the set first, where that can be done.
        parameters: of the set itself: dims, size, xi and gap of `scale1` and `scale2`.

    Raises:
        UsageError: an unknown name, a folder or a package that is missing, a set that cannot be had, a
            parameter that belongs to other sets.
    """
    if isinstance(data, ImageSource):
        return data
    entry, name = _find(data)
    check_split(split)
    given = {key: value for key, value in (parameters or {}).items() if value is not None}
    for key in given:
        _check_parameter(entry, key)
    folder = None if data_dir is None else Path(data_dir).expanduser().absolute()
    shown = data if name else entry.name
    source: ImageSource = entry.build(request=Request(shown, name, folder, split, download), **given)
    return source


def _find(spec: str) -> tuple[registry.Entry, str]:
    """The entry of a spec, and the name behind the `/` for those with a prefix, such as `torch/NAME`."""
    prefix, slash, name = spec.partition("/")
    family = f"{prefix.lower()}/NAME"
    if slash and ".py:" not in spec and family in registry.names("datasets"):
        return registry.find("datasets", family), name
    return registry.find("datasets", spec), ""


def _check_parameter(entry: registry.Entry, name: str) -> None:
    if not entry.takes(name):
        owners = " and ".join(other.name for other in registry.entries("datasets") if other.takes(name))
        raise UsageError(f"{name} belongs to {owners or 'no data set'}, not to {entry.name}")
