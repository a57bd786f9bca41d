"""What this machine can measure with: versions, devices, optional parts, and a check of the numbers."""

import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Literal

import torch
from packaging.requirements import Requirement
from torch import nn

from timm_diffsens import registry
from timm_diffsens.device import allocator
from timm_diffsens.errors import first_line
from timm_diffsens.perturb.normals import normals
from timm_diffsens.perturb.philox import reference
from timm_diffsens.sensitivities.functional import sensitivity
from timm_diffsens.sensitivities.probe import Probe

DISTRIBUTION = "timm-diffsens"
# extras that no measurement needs, and that of all others
_UNLISTED = ("test", "test-integrations", "dev", "docs", "all")
_DRIVERS = (Path("/proc/driver/nvidia/version"), Path("/dev/nvidiactl"))
_LITTLE_SPACE = 2**30  # bytes: published weights take up to some gigabytes
_CLOSE = 1e-4  # of D and G in float32, over 3 x 8 x 256 numbers: far above their rounding, far below a fault

State = Literal["ok", "optional", "fault"]


@dataclass(frozen=True)
class Check:
    """One thing that was looked at.

    Attributes:
        part: versions, optional, devices, numbers or places. name: of the thing.
        state: `optional` is missing and not needed, `fault` keeps measurements from being made or right.
        said: what was found. mend: the command that mends it, if one does.
    """

    part: str
    name: str
    state: State
    said: str
    mend: str | None = None


def examine() -> list[Check]:
    """All checks, in order; none of them needs a network."""
    allocator.prepare()
    return [*_versions(), *_extras(), *_extensions(), *_devices(), *_numbers(), *_places()]


def _versions() -> Iterator[Check]:
    """Python, this package, and the packages that it requires, each with what it must be."""
    yield Check("versions", "python", "ok", sys.version.split()[0])
    yield Check("versions", DISTRIBUTION, "ok", metadata.version(DISTRIBUTION))
    for requirement in _requirements():
        if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
            yield _installed(requirement, "versions", "fault", f"pip install '{_plain(requirement)}'")


def _extras() -> Iterator[Check]:
    """What each optional part needs, and how it is installed."""
    extras = metadata.metadata(DISTRIBUTION).get_all("Provides-Extra") or []
    for extra in (name for name in extras if name not in _UNLISTED):
        for requirement in _requirements():
            marker = requirement.marker
            own = marker and marker.evaluate({"extra": extra}) and not marker.evaluate({"extra": ""})
            if own and requirement.name != DISTRIBUTION:  # which is an extra made of others
                yield _installed(requirement, extra, "optional", f"pip install '{DISTRIBUTION}[{extra}]'")


def _requirements() -> list[Requirement]:
    return [Requirement(text) for text in metadata.requires(DISTRIBUTION) or []]


def _plain(requirement: Requirement) -> str:
    return f"{requirement.name}{requirement.specifier}"


def _installed(requirement: Requirement, part: str, otherwise: State, mend: str) -> Check:
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return Check(part, requirement.name, otherwise, "not installed", mend)
    if not requirement.specifier.contains(version, prereleases=True):
        return Check(part, requirement.name, otherwise, f"{version}, needs {requirement.specifier}", mend)
    return Check(part, requirement.name, "ok", version)


def _extensions() -> Iterator[Check]:
    """Things of other installed packages; one that cannot be imported is named, and hurts no other."""
    for kind in registry.KINDS:
        for entry in registry.entries(kind)[len(registry.built_ins(kind)) :]:
            state: State = "fault" if entry.thing is None else "ok"
            yield Check("extensions", f"{kind}: {entry.name}", state, entry.help or "")


def _devices() -> Iterator[Check]:
    """The CPU and each GPU, and why a GPU that is there cannot be used."""
    threads = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
    yield Check("devices", "cpu", "ok", f"{threads}, {torch.backends.cpu.get_cpu_capability()}")
    for i in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(i)
        bfloat16 = "bfloat16" if torch.cuda.is_bf16_supported() else "no bfloat16"
        yield Check(
            "devices", f"cuda:{i}", "ok", f"{card.name}, {card.total_memory / 2**30:.0f} GiB, {bfloat16}"
        )
    if not torch.cuda.is_available() and any(driver.exists() for driver in _DRIVERS):
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        if hidden is not None:
            yield Check("devices", "cuda", "optional", f"hidden: CUDA_VISIBLE_DEVICES is {hidden!r}")
        elif torch.version.cuda is None:
            mend = "pip install torch torchvision --index-url https://download.pytorch.org/whl/cu128"
            said = f"there is a driver, and torch {torch.__version__} is built without CUDA"
            yield Check("devices", "cuda", "fault", said, mend)
        else:
            said = (
                f"torch {torch.__version__} for CUDA {torch.version.cuda} cannot use the driver that is there"
            )
            yield Check("devices", "cuda", "fault", said)


def _numbers() -> Iterator[Check]:
    """On each device: the fast code gives what the definitions give, and the same random draws."""
    names = ["cpu", *(f"cuda:{i}" for i in range(torch.cuda.device_count()))]
    for name in names:
        for what, tried in (("draws", _draws_agree), ("D and G", _sensitivities_agree)):
            yield _tried(f"{what} on {name}", torch.device(name), tried)


def _tried(name: str, device: torch.device, check: Callable[[torch.device], str]) -> Check:
    try:
        said = check(device)
    except Exception as error:  # of a compiler, a driver, a broken installation
        return Check("numbers", name, "fault", f"{type(error).__name__}: {first_line(error)}")
    return Check("numbers", name, "fault" if said else "ok", said or "as they are defined")


def _draws_agree(device: torch.device) -> str:
    """Empty, or how the draws differ from those of the reference."""
    expected = torch.empty(2, 64)
    reference.fill(expected, reference.Place.of(7, "noise", [0, 5], 0))
    same = torch.equal(normals(7, "noise", [0, 5], (64,), device).cpu(), expected)
    return "" if same else "they differ from those of the reference"


def _sensitivities_agree(device: torch.device) -> str:
    """Empty, or how far D and G of a layer are from the plain definition."""
    draws = torch.Generator().manual_seed(0)
    clean = torch.randn(8, 4, 8, 8, generator=draws)
    deformed, noised = (clean + 0.1 * torch.randn(clean.shape, generator=draws) for _ in range(2))
    expected = sensitivity(*(part.double() for part in (clean, deformed, noised)))
    layer = nn.Sequential(nn.Identity()).to(device)
    with torch.no_grad(), Probe(layer, layers="all") as probe:
        layer(torch.cat([clean, deformed, noised]).to(device))
    found = probe.results()[-1]
    apart = max(abs((found.d or 0) / expected.d - 1), abs((found.g or 0) / expected.g - 1))
    return "" if apart < _CLOSE else f"they are {apart:.1e} from their definition"


def _places() -> Iterator[Check]:
    """Where weights are kept, and whether there is room."""
    hub = importlib.import_module("huggingface_hub.constants")
    for name, folder in (
        ("weights of the hub", Path(hub.HF_HUB_CACHE)),
        ("temporary files", tempfile.gettempdir()),
    ):
        there = next(place for place in (Path(folder), *Path(folder).parents) if place.exists())
        free = shutil.disk_usage(there).free
        said = f"{folder}, {free / 2**30:.0f} GiB free"
        fine = free > _LITTLE_SPACE and os.access(there, os.W_OK)
        yield Check(
            "places", name, "ok" if fine else "fault", said if fine else f"{said}; not writable or full"
        )
    if hub.HF_HUB_OFFLINE:
        yield Check("places", "hub", "optional", "offline: HF_HUB_OFFLINE is set")
