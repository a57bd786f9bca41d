"""What a sweep is made of: one job a model, known by a hash of all that it asks for."""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, TypeVar

import timm_diffsens
from timm_diffsens import registry
from timm_diffsens.errors import UsageError, unknown
from timm_diffsens.files import slug
from timm_diffsens.patterns import is_pattern, matching
from timm_diffsens.schema.config import Config

Kind = Literal["structure", "measured"]
_Item = TypeVar("_Item")

_ID_DIGITS = 12
# options that do not change the numbers beyond rounding
_ELSEWHERE = ("device", "batch_size", "origin", "licence")
_MADE_HERE = ("dead-leaves", "scale1", "scale2")  # images that follow from the options alone


@dataclass(frozen=True)
class Job:
    """One model to be done, in plain values, as it travels to another process or machine.

    Attributes:
        model: spec. out: absolute folder that records and outcomes go below.
        options: of `schema.config.Config`; None finds the structure alone, on the meta device.
        max_parameters: a larger model is left out.
        threads: of torch, None for its own choice.
        force: measure what is done already.
        attempt: from 1. tried: what ended the attempts before.
    """

    model: str
    out: str
    options: dict[str, Any] | None = None
    max_parameters: int | None = None
    threads: int | None = None
    force: bool = False
    attempt: int = 1
    tried: tuple[str, ...] = ()

    @property
    def kind(self) -> Kind:
        """What is done with the model."""
        return "structure" if self.options is None else "measured"

    @property
    def id(self) -> str:
        """The same for jobs that give the same outcome: model, options and versions."""
        asked = {k: v for k, v in (self.options or {}).items() if k not in _ELSEWHERE}
        text = json.dumps([self.kind, self.model, asked, versions()], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:_ID_DIGITS]

    @property
    def file(self) -> Path:
        """Where its outcome is written."""
        return outcome_folder(Path(self.out), self.kind) / f"{slug(self.model)}.{self.id}.json"

    @property
    def built_in(self) -> bool:
        """Whether it runs no code but that of this package and the libraries it names."""
        if ":" in self.model or self.model in registry.names("models"):  # from elsewhere
            return False
        if self.options is None:
            return True
        config = Config(**self.options)
        asked = {
            "datasets": [config.dataset],
            "deformations": config.deformation,
            "noises": [config.noise],
            "variants": config.variants,
        }
        return all(
            _is_built_in(kind, registry.split_arguments(spec)[0])
            for kind, specs in asked.items()
            for spec in specs
        )

    @property
    def self_contained(self) -> bool:
        """Whether nothing outside this package and the libraries it names can change the outcome."""
        if self.options is None or not self.built_in:
            return self.built_in
        config = Config(**self.options)
        files = any(registry.suffixes(registry.split_arguments(spec)[0]) for spec in config.deformation)
        made_here = registry.split_arguments(config.dataset)[0] in _MADE_HERE
        return made_here and not (config.pretrained or config.checkpoint or files)

    @property
    def on_any_gpu(self) -> bool:
        """Whether it runs on a GPU where there is one, and on any."""
        return self.options is not None and self.options.get("device", "auto") in ("auto", "cuda")

    @property
    def name(self) -> str:
        """The model with its checkpoint, for people: those of trainings differ by their folders."""
        checkpoint = (self.options or {}).get("checkpoint")
        return f"{self.model} ({'/'.join(Path(checkpoint).parts[-2:])})" if checkpoint else self.model

    def of(self, model: str) -> "Job":
        """The same for another model."""
        return replace(self, model=model)

    def again(self, reason: str) -> "Job":
        """The job of the next attempt; the last but one failing, with the smallest batch there is."""
        options = self.options
        if options is not None and self.attempt > 1:
            options = {**options, "batch_size": 1}
        return replace(self, options=options, attempt=self.attempt + 1, tried=(*self.tried, reason))


def _is_built_in(kind: str, name: str) -> bool:
    known = {entry.name for entry in registry.built_ins(kind)}
    family = f"{name.partition('/')[0].lower()}/NAME"  # `torch/NAME`: a data set of a library
    return name in known or (".py:" not in name and "/" in name and family in known)


def outcome_folder(out: Path, kind: Kind) -> Path:
    """Folder of the outcomes of one kind: one file a job."""
    return out / "sweep" / kind


def versions() -> dict[str, str]:
    """Of this package and of what it measures with."""
    found = {"timm_diffsens": timm_diffsens.__version__}
    for package in ("torch", "timm", "torchvision"):
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def find_models(patterns: Sequence[str], pretrained: bool = False) -> list[str]:
    """The specs that patterns and names stand for, each once, in the order of the names there are.

    Args:
        patterns: shell patterns over the names of `models.architectures.known_names`, or model specs as
            `models.loading.load_model` takes them. A pattern that fits no architecture is tried on timm's
            names with the tags of their weights (`resnet50.*`).
        pretrained: leave out architectures without published weights.

    Raises:
        UsageError: nothing fits a pattern, or a spec is not known.
    """
    from timm_diffsens.models.architectures import find_architecture, known_names

    names = known_names()
    kept = {name.partition(".")[0] for name in known_names(pretrained=True)} if pretrained else set(names)
    found: dict[str, None] = {}
    for pattern in patterns:
        if not is_pattern(pattern):
            find_architecture(pattern)
            found[registry.absolute(pattern)] = None
            continue
        fitting = [name for name in matching(names, pattern) if name in kept]
        fitting = fitting or matching(known_names(pretrained=True), pattern)
        if not fitting:
            raise unknown("model", pattern, names, "patterns are those of a shell: '*resnet*'")
        found.update(dict.fromkeys(fitting))
    return list(found)


def take_shard(models: Sequence[_Item], shard: str | None) -> list[_Item]:
    """The i-th of N parts, `i/N`, that together are all models; every N-th, so that they are alike in size.

    Raises:
        UsageError: not i/N with i from 1 to N.

    Example:
        >>> take_shard(["a", "b", "c", "d", "e"], "2/3")
        ['b', 'e']
    """
    if shard is None:
        return list(models)
    first, _, last = shard.partition("/")
    if not (first.isdecimal() and last.isdecimal() and 1 <= int(first) <= int(last)):
        raise UsageError(f"--shard must be i/N with i from 1 to N, such as 1/4; got {shard!r}")
    return list(models[int(first) - 1 :: int(last)])
