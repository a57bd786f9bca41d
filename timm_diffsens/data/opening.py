"""What the user names or gives -> an open `ImageSource`."""

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from timm_diffsens import registry
from timm_diffsens.data.given import given_source
from timm_diffsens.data.source import ImageSource, Request
from timm_diffsens.errors import UsageError, collected_warnings

_SPLIT_PATTERN = r"[\w\[\]{}%:+|,.-]+"  # nothing that could be read as a path or a command


def open_images(
    data: Any,
    *,
    data_dir: str | Path | None = None,
    split: str | None = None,
    download: bool = False,
    parameters: Mapping[str, Any] | None = None,
) -> ImageSource:
    """Open a data set; no image is read yet, and what it is for need not be known.

    Args:
        data: `dead-leaves`, `cifar10`, `imagenet`, `folder`, a timm name (`diffsens ls datasets` lists them),
            or your own, as an object, as `file.py:attr`, `package.module:attr` or an entry point of the group
            `timm_diffsens.datasets`: a tensor (n, c, h, w); a tuple (tensor, labels); a map-style `Dataset`
            of images, each a PIL image or a tensor, or of (image, label), the same whenever it is read; a
            `DataLoader` or another iterable of batches, each a tensor or (tensor, labels), which is read
            once, in its order, and kept in memory, so that all variants see the same images; an
            `ImageSource`. The network is shown tensors as they are, PIL images after its own preprocessing.
            Labels are the model's class indices.
        data_dir: the folder of the data set; its cache for `hfds/`, `hfids/` and `tfds/`.
        split: by default validation, with timm's synonyms; the test set where there is no such split.
        download: fetch the set first, where that can be done.
        parameters: of the set itself: dims, size, xi and gap of `scale1` and `scale2`.

    Raises:
        UsageError: an unknown name, a folder or a package that is missing, a set that cannot be had, a
            parameter that belongs to other sets.
    """
    if not isinstance(data, str):
        if data_dir or split or download or any(v is not None for v in (parameters or {}).values()):
            raise UsageError("data_dir, split, download and parameters are for data sets that are named")
        return data if isinstance(data, ImageSource) else given_source(data)
    entry, name = _find(data)
    if split is not None and (not re.fullmatch(_SPLIT_PATTERN, split) or set(split) <= {"."}):
        raise UsageError(f"{split!r} is no split name: expected one such as validation, test or train")
    given = {key: value for key, value in (parameters or {}).items() if value is not None}
    if entry.sha256 is not None:  # a built-in set has these from its request
        asked = {"split": split, "data_dir": data_dir, "download": download}
        given |= {key: value for key, value in asked.items() if value}
    for key in given:
        if key in entry.parameters and entry.parameters[key] != given[key]:
            raise UsageError(
                f"{data} has {key}={entry.parameters[key]}, but {key} {given[key]} is asked for too"
            )
        if not entry.takes(key):
            owners = " and ".join(other.name for other in registry.entries("datasets") if other.takes(key))
            raise UsageError(f"{key} belongs to {owners or 'no data set'}, not to {entry.name}")
    folder = None if data_dir is None else Path(data_dir).expanduser().absolute()
    shown = entry.recorded if entry.sha256 is not None else data if name else entry.name
    with collected_warnings() as remarks:
        found = entry.build(request=Request(shown, name, folder, split, download), **given)
        opened = found if isinstance(found, ImageSource) else given_source(found, shown)
    opened.origin = replace(opened.origin, spec=shown)
    opened.entry, opened.remarks = entry, tuple(remarks)
    return opened


def _find(spec: str) -> tuple[registry.Entry, str]:
    """The entry of a spec, and the name behind the `/` for those with a prefix, such as `torch/NAME`."""
    prefix, slash, name = spec.partition("/")
    family = f"{prefix.lower()}/NAME"
    if slash and ".py:" not in spec and family in registry.names("datasets"):
        return registry.find("datasets", family), name
    return registry.find("datasets", spec), ""
