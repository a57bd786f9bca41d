"""Records on the Hugging Face Hub: a dataset repository of them, and what a model card says of one."""

import glob
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from huggingface_hub import CommitOperationAdd, HfApi, ModelCard, snapshot_download
from huggingface_hub.repocard_data import EvalResult

from timm_diffsens.errors import UsageError, first_line
from timm_diffsens.models.hub import fetch
from timm_diffsens.results.numbers import with_error
from timm_diffsens.results.records.reading import MOST_BYTES
from timm_diffsens.results.records.store import (
    checked_file,
    copy_record,
    files_below,
    find_record,
    record_path,
)
from timm_diffsens.results.report import markdown
from timm_diffsens.schema.records import Record

_FOLDER = "records"
_MEASURES = ("d", "g", "r")
_CARD = """---
tags: [timm-diffsens]
---

# Records of timm-diffsens

How much smooth deformations (D) and noise (G) of an image move each layer of vision models, and R = D / G:
a JSON file a measurement. `diffsens pull {repository} --out DIR` brings them, and `leaderboard --out DIR`
makes tables, figures and a page of them.
"""
_BEGIN, _END = "<!-- timm-diffsens -->", "<!-- /timm-diffsens -->"
_ADVICE = "check the repository's name (OWNER/NAME), the network, and your token (`hf auth login`)"


def push_records(
    paths: Sequence[Path], repository: str, *, private: bool = False, token: str | None = None
) -> str:
    """Add records to a dataset repository, in one commit; it is made where it is not there.

    A record lies there as in a folder of records, `records/<dataset>/<model>.<key>.json`, so one that is sent
    twice changes nothing.

    Args:
        paths: of records; each is checked first.
        repository: OWNER/NAME.
        private: a new repository is not seen by others; else it is as its owner's new ones are.
        token: in place of the one that is logged in.

    Returns:
        The address of the commit.

    Raises:
        UsageError: a file is no sound record; the hub cannot be reached, or refuses.
    """
    added = [
        CommitOperationAdd(f"{_FOLDER}/{record_path(Path(), record).as_posix()}", path)
        for path, record in [(path, _sound(path)) for path in paths]
    ]
    api = HfApi(token=token)

    def send() -> str:
        api.create_repo(repository, repo_type="dataset", private=private or None, exist_ok=True)
        if not api.file_exists(repository, "README.md", repo_type="dataset"):
            card = _CARD.format(repository=repository).encode()
            added.append(CommitOperationAdd("README.md", card))
        title = f"Add {len(paths)} record{'s' if len(paths) > 1 else ''}"
        return str(api.create_commit(repository, added, commit_message=title, repo_type="dataset").commit_url)

    return fetch(f"{len(paths)} records to {repository}", send, _ADVICE, done="sent")


def pull_records(
    repository: str, out: Path, *, revision: str | None = None, token: str | None = None
) -> tuple[list[Path], list[str]]:
    """Fetch the records of a dataset repository into `out`/records; those that are there already stay.

    Args:
        repository: OWNER/NAME.
        out: folder of a board.
        revision: a commit, branch or tag.
        token: in place of the one that is logged in.

    Returns:
        The files of new records, and what is wrong with each file that is no sound record: those are left.

    Raises:
        UsageError: the hub cannot be reached, or has no such repository.
    """
    with tempfile.TemporaryDirectory(prefix="diffsens-pull-") as place:
        faults: list[str] = []

        def bring() -> None:
            given: dict[str, Any] = {"repo_type": "dataset", "revision": revision}
            tree = HfApi(token=token).list_repo_tree(repository, recursive=True, **given)
            sizes = {file.path: getattr(file, "size", 0) or 0 for file in tree}
            names = [name for name in sizes if re.fullmatch(rf"{_FOLDER}/.+\.json", name)]
            large = [name for name in names if sizes[name] > MOST_BYTES]
            faults.extend(f"{name}: {sizes[name]:,} bytes, more than a record has" for name in large)
            wanted = [glob.escape(name) for name in names if name not in large]
            if wanted:
                snapshot_download(repository, allow_patterns=wanted, local_dir=place, token=token, **given)

        fetch(f"the records of {repository}", bring, _ADVICE)
        new, found = _taken(Path(place) / _FOLDER, out / _FOLDER)
        return new, [*faults, *found]


def _taken(source: Path, folder: Path) -> tuple[list[Path], list[str]]:
    """Copy the sound records that are not there yet."""
    new, faults = list[Path](), list[str]()
    for path in sorted(files_below(source)) if source.is_dir() else []:
        record, found = checked_file(path)
        faults += [f"{path.relative_to(source)}: {fault}" for fault in found]
        if record is not None and not found and find_record(folder, record.key) is None:
            new.append(copy_record(path, folder))
    return new, faults


def _sound(path: Path) -> Record:
    record, faults = checked_file(path)
    if record is None or faults:
        raise UsageError(f"{path}: {faults[0]}")
    return record


def card_text(record: Record) -> str:
    """A section for a model card: D, G and R at the output of each variant, with standard errors."""
    protocol, data, output = record.protocol, record.data, record.variants["original"][-1].layer
    rows = []
    for variant, layers in record.variants.items():
        last = layers[-1]
        values = [with_error(getattr(last, name), getattr(last, f"{name}_stderr")) for name in _MEASURES]
        rows.append(f"| {markdown.text(variant)} | {' | '.join(values)} |")
    said = [
        "## Sensitivity to deformations",
        "",
        f"At the output ({markdown.code(output)}), {markdown.text(protocol.deformation_text)}, {data.n} "
        f"images of {markdown.code(data.spec)}: how much a smooth deformation of the image moves it (D), how "
        "much noise of the same norm does (G), and R = D / G; 1 is the distance of two images.",
        "",
        "| network | D | G | R |",
        "| --- | ---: | ---: | ---: |",
        *rows,
        "",
        f"Measured with timm-diffsens {record.environment.package}; record {record.key[:12]}, "
        f"weights sha256 {record.model.weights.sha256[:12]}.",
    ]
    return "\n".join([_BEGIN, *said, _END])


def evaluations(record: Record) -> list[EvalResult]:
    """D, G and R at the output, and a measured test error, as entries of a model card's `model-index`."""
    output, data = record.variants["original"][-1], record.data
    found = {f"{name.upper()} at the output": getattr(output, name) for name in _MEASURES}
    if record.test_error.value is not None and record.test_error.source != "given":
        found["top-1 error"] = record.test_error.value
    return [
        EvalResult(
            task_type="image-classification",
            dataset_type=data.spec,
            dataset_name=data.spec,
            dataset_split=data.split,
            metric_type=name.lower().replace(" ", "-"),
            metric_name=name,
            metric_value=value,
        )
        for name, value in found.items()
        if value is not None
    ]


def _about(result: EvalResult) -> tuple[Any, ...]:
    """What a result is of: one of the same replaces it."""
    return result.metric_type, result.metric_name, result.dataset_type, result.dataset_split


def card(record: Record, existing: Path | None = None) -> str:
    """A model card with the section and the evaluations of a record: a new one, or an existing one with them.

    Args:
        existing: a README.md; an earlier section of ours in it is replaced, all else stays.

    Raises:
        UsageError: it cannot be read as a model card.
    """
    name = record.model.spec.split("/")[-1]
    text = f"---\ntags: [timm-diffsens]\n---\n\n# {markdown.text(name)}\n"
    if existing is not None:
        try:
            text = existing.read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise UsageError(f"cannot read {existing}: {error}") from None
    try:
        made = ModelCard(text, ignore_metadata_errors=False)
    except (ValueError, RecursionError, yaml.YAMLError) as error:
        raise UsageError(f"{existing} is no model card: {first_line(error)}") from None
    if made.text.count(_BEGIN) != made.text.count(_END) or made.text.count(_BEGIN) > 1:
        raise UsageError(f"{existing} must have {_BEGIN} and {_END} once each, or neither")
    data: Any = made.data
    ours = {_about(result) for result in evaluations(record)}
    kept = [each for each in data.eval_results or [] if _about(each) not in ours]
    data.model_name = data.model_name or name
    data.eval_results = [*kept, *evaluations(record)]
    before, _, rest = made.text.partition(_BEGIN)
    after = rest.partition(_END)[2]
    made.text = "\n\n".join(filter(None, [before.rstrip(), card_text(record), after.strip()])) + "\n"
    return str(made)
