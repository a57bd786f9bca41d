"""What a leaderboard keeps of each record, so that thousands of them fit into memory."""

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from timm_diffsens.errors import UsageError
from timm_diffsens.results.records.memory import mapped
from timm_diffsens.results.records.store import files_below, load_record
from timm_diffsens.results.stats.by_depth import log_curves
from timm_diffsens.results.stats.resampling import Array
from timm_diffsens.schema.records import Record

MOST_IN_FULL = 1000  # records of a board whose page has every number of each; those of larger ones have fewer
Pack = Callable[[Record, bool], str]  # a record, and whether briefly -> what the page has of it


@dataclass(frozen=True)
class Kept:
    """Of one record.

    Attributes:
        path: of its file.
        record: with the output layer of each variant alone, and without spectra, where `page` is there.
        curves: variant -> log D, G and R at the depths of `by_depth.DEPTHS`, (3, 10).
        page: what the page has of it, see `Pack`; empty if that was not asked for.
    """

    path: Path
    record: Record
    curves: dict[str, Array]
    page: str


def _kept(path: Path, record: Record, page: str) -> Kept:
    if not page:
        return Kept(path, record, log_curves(record), page)
    return Kept(path, record.outputs(), log_curves(record), page)


def read_board(
    folder: Path, without: Sequence[Path] = (), pack: Pack | None = None, *, parallel: bool = False
) -> tuple[list[Kept], list[tuple[Path, str]]]:
    """All records below a folder, in an order that no file name changes; and what is no record, and why.

    Args:
        folder: of the records.
        without: files to leave aside, as they were not there.
        pack: what to keep of each for the page; a function of a module, where `parallel`.
        parallel: in several processes, where that pays.
    """
    aside = {os.path.realpath(path) for path in without}
    files = [path for path in files_below(folder) if not aside or os.path.realpath(path) not in aside]
    read = partial(_read, pack=pack, brief=len(files) > MOST_IN_FULL)
    found = list(zip(files, mapped(read, files, parallel=parallel), strict=True))
    kept = [one for _, one in found if isinstance(one, Kept)]
    faulty = [(path, one) for path, one in found if isinstance(one, str)]
    return sorted(kept, key=lambda one: (one.record.key, one.path)), faulty


def _read(path: Path, pack: Pack | None, brief: bool) -> Kept | str:
    try:
        record = load_record(path)
    except UsageError as error:
        return str(error)
    return _kept(path, record, "" if pack is None else pack(record, brief))
