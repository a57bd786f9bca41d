"""Records on disk: one file a record, written atomically, named by what it holds."""

import json
import os
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from timm_diffsens.errors import DiffsensWarning, UsageError
from timm_diffsens.files import check_writable_folder, slug, write_atomic
from timm_diffsens.results.records.memory import mapped
from timm_diffsens.results.records.per_image import per_image_path
from timm_diffsens.results.records.reading import checked
from timm_diffsens.results.records.reading import load_record as load_record
from timm_diffsens.schema.records import Record

if TYPE_CHECKING:
    import pandas as pd

    from timm_diffsens.results.records.frames import Row

Folder = str | Path
KEY_DIGITS = 12  # of the key in the file name: enough that no two records of a folder ever meet
_MOST_NAMED = 20  # faulty files in one warning


def record_path(folder: Folder, record: Record) -> Path:
    """`<folder>/<dataset>/<model>.<first 12 digits of the key>.json`; never outside `folder`."""
    name = f"{slug(record.model.spec)}.{record.key[:KEY_DIGITS]}.json"
    return Path(folder) / slug(record.data.spec) / name


def record_text(record: Record) -> str:
    """The record as it stands in its file: equal records give equal text.

    Indented JSON in the schema's order, with rows (a layer, a spectrum) and lists of numbers on one line.

    Raises:
        ValueError: the record was changed past its schema, by `model_copy` say.
    """
    checked = Record.model_validate_json(record.model_dump_json())
    return _format(checked.model_dump(mode="json"), "") + "\n"


def write_record(folder: Folder, record: Record) -> Path:
    """Write a record atomically, replacing one of the same key; returns its path."""
    path = record_path(folder, record)
    write_atomic(path, record_text(record).encode())
    return path


def copy_record(path: Path, folder: Folder) -> Path:
    """Write the record of a file into another folder, with the distances kept beside it; returns its path."""
    record = load_record(path)
    copy = record_path(folder, record)
    if per_image_path(path).exists():
        write_atomic(per_image_path(copy), per_image_path(path).read_bytes())
    return write_record(folder, record)


def check_writable(folder: Folder, dataset: str | None = None) -> None:
    """Make sure, before anything is measured, that a record could be written.

    Args:
        folder: of the records.
        dataset: spec of the images, where known: its sub-folder is tried instead.

    Raises:
        UsageError: no file can be written there.
    """
    check_writable_folder(Path(folder) / slug(dataset) if dataset else Path(folder))


def find_record(folder: Folder, key: str) -> Path | None:
    """The file that holds the record of this key, or None; a damaged or altered file does not count."""
    for path in record_files(Path(folder), f".{key[:KEY_DIGITS]}.json"):
        try:
            record = load_record(path)
        except UsageError:
            continue
        if record.key == key:
            return path
    return None


def checked_file(path: Path) -> tuple[Record | None, list[str]]:
    """As `reading.checked`; the name of the file must agree with the key too."""
    record, found = checked(path)
    if record is not None and not path.name.endswith(ending := f".{record.key[:KEY_DIGITS]}.json"):
        found.append(f"the file name does not end in {ending}, the start of its key")
    return record, found


def faults_in(path: Path) -> list[str]:
    """What `checked_file` finds."""
    return checked_file(path)[1]


def iter_records(folder: Folder) -> Iterator[tuple[Path, Record | UsageError]]:
    """Every record file below `folder`, sorted by path, with its record or what is wrong with it.

    Raises:
        UsageError: there is no such folder, or it cannot be read.
    """
    for path in files_below(Path(folder)):
        try:
            yield path, load_record(path)
        except UsageError as error:
            yield path, error


def files_below(folder: Path) -> list[Path]:
    """As `record_files`.

    Raises:
        UsageError: there is no such folder, or it cannot be read.
    """
    if not folder.is_dir():
        raise UsageError(f"no folder {folder}: records are written by `diffsens bench`, under --out")
    check_readable(folder)
    return record_files(folder)


def read_records(folder: Folder) -> "pd.DataFrame":
    """All records below `folder` as a table, one row a record, sorted by path.

    Columns, in order; a value that does not exist is missing (NaN or NA):

    - `key`, `file` (name), `model` (spec), `arch`, `family`, `library`, `weights` (source), `parameters`,
      `dataset` (spec), `protocol` and `sample` (hashes: equal ones are comparable), `n` (images), `trained`;
    - `error`, `error_stderr` (top-1, a fraction), `error_source`, `train_error`;
    - `split`, `data_parameters` (JSON, of generated sets), `corruption_sigma`, `height`, `width` (of the
      input), `weights_detail`, `weights_sha256`, `network` (equal for trainings that differ by their seed
      alone), `training_seed`;
    - `d`, `g`, `r`, `d_stderr`, `g_stderr`, `r_stderr` at the output of the original network;
    - `<variant>_d`, ..., `<variant>_r_stderr` for the other variants, `channel-shuffled_r` for one: those
      of this package, then those of somebody else's that some record has;
    - `path` of the file.

    Files that are no records (foreign, damaged, half-written) are left out, and named in one warning.

    Example:
        >>> import tempfile
        >>> from timm_diffsens import read_records
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     len(read_records(folder))
        0
    """
    from timm_diffsens.results.records.frames import rows_frame

    rows, bad = read_rows(folder)
    if bad:
        warnings.warn(left_out(bad), DiffsensWarning, stacklevel=2)
    return rows_frame(rows)


def read_layers(folder: Folder) -> "pd.DataFrame":
    """All layers of all records below `folder` as a long table, sorted by path, then as in the record.

    Columns: `key`, `model` (spec), `dataset` (spec), `protocol` (hash: only records of equal ones are
    comparable, and those of version 1 and 2 of the schema never are), `variant`, `deformation`, `delta`
    (pixels), `reference_side` (at which they are meant; missing: the input's own), `rms` (displacement,
    pixels), `layer`, `index`, `depth`, `d`, `g`, `r`, `d_stderr`, `g_stderr`, `r_stderr`, `n`, `reason`,
    `kind`, and `e`, `e_stderr` (equivariance, if measured); a value that does not exist is missing. Files
    that are no records are left out, and named in one warning.

    Raises:
        UsageError: there is no such folder, or it cannot be read.
    """
    table, bad = layers_below(folder)
    if bad:
        warnings.warn(left_out(bad), DiffsensWarning, stacklevel=2)
    return table


def layers_below(folder: Folder) -> tuple["pd.DataFrame", list[str]]:
    """The table of `read_layers`, and what is wrong with other files."""
    from timm_diffsens.results.records.frames import layers_frame

    found = [record for _, record in iter_records(folder)]
    bad = [str(fault) for fault in found if isinstance(fault, UsageError)]
    return layers_frame([record for record in found if isinstance(record, Record)]), bad


def read_rows(folder: Folder, *, parallel: bool = False) -> tuple[list["Row"], list[str]]:
    """A row of the table for each record below `folder`, sorted by path; and what is wrong with other files.

    Raises:
        UsageError: there is no such folder, or it cannot be read.
    """
    found = list(mapped(_row_in, files_below(Path(folder)), parallel=parallel))
    bad = [fault for fault in found if isinstance(fault, str)]
    return [row for row in found if not isinstance(row, str)], bad


def _row_in(path: Path) -> "Row | str":
    from timm_diffsens.results.records.frames import record_row

    try:
        return record_row(path, load_record(path))
    except UsageError as error:
        return str(error)


def left_out(bad: Sequence[str]) -> str:
    """The files that are no records, and why, in one sentence."""
    named = "; ".join(bad[:_MOST_NAMED])
    more = f"; and {len(bad) - _MOST_NAMED} more (`diffsens validate` lists them)"
    return f"{len(bad)} left out: {named}{more if len(bad) > _MOST_NAMED else ''}"


def check_readable(folder: Path) -> None:
    """Raises: UsageError: the folder, or one below it, may not be read: what is there would be missing."""
    for home, _, _ in os.walk(folder, onerror=_refuse):
        if not os.access(home, os.R_OK | os.X_OK):
            raise UsageError(f"cannot read the folder {home}: permission denied")


def _refuse(error: OSError) -> None:
    raise UsageError(f"cannot read the folder {error.filename}: {str(error.strerror).lower()}")


def record_files(folder: Path, ending: str = ".json") -> list[Path]:
    """What lies below `folder` with a name that ends so, sorted: files, and what stands in place of one.

    Hidden ones (temporary files, .git) are no records.
    """
    found = (path for path in folder.rglob(f"*{ending}") if not path.is_dir())
    return sorted(p for p in found if not any(part.startswith(".") for part in p.relative_to(folder).parts))


def _format(value: Any, indent: str) -> str:
    deeper = indent + "  "
    if isinstance(value, dict) and value:
        items = [
            f"{deeper}{json.dumps(k, ensure_ascii=False)}: {_format(v, deeper)}" for k, v in value.items()
        ]
        return "{\n" + ",\n".join(items) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(v, dict | list) for v in value):
        items = [deeper + (_line(v) if _is_row(v) else _format(v, deeper)) for v in value]
        return "[\n" + ",\n".join(items) + f"\n{indent}]"
    return _line(value)


def _is_row(value: Any) -> bool:
    """Whether an object holds only plain values and lists of them."""
    fields = value.values() if isinstance(value, dict) else [value]
    plain = [item for v in fields for item in (v if isinstance(v, list) else [v])]
    return not any(isinstance(item, dict | list) for item in plain)


def _line(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
