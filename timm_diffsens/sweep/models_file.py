"""Models from a file, a row each: a CSV table or a YAML list of models with options of their own."""

import csv
import io
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]

from timm_diffsens import registry
from timm_diffsens.errors import UsageError, first_line, nearest, unknown
from timm_diffsens.schema.config import Config, options, split_commas

_MODEL = "model"
_SHORT = {"data": "data_dir", "error": "test_error", "input": "input_size"}  # column -> option
_OF_THE_SWEEP = ("device",)  # GPUs are shared among its models
_ENDINGS = (".csv", ".yaml", ".yml", ".json")
_LARGEST = 50_000_000  # bytes
_PATHS, _SPECS, _SEVERAL = {"checkpoint", "data_dir"}, {"dataset", "noise"}, {"deformation", "variants"}


@dataclass(frozen=True)
class Row:
    """A model of the file.

    Attributes:
        model: spec; a file of the user's in it is absolute.
        options: of `Config`, as `Config.plain` gives them.
        where: file, row and model, for messages.
    """

    model: str
    options: dict[str, Any]
    where: str

    @property
    def inputs(self) -> dict[str, Any]:
        """The options that images and perturbations depend on."""
        known = options(Config)
        return {name: value for name, value in self.options.items() if not known[name].one_model}


def read_models(path: Path, common: Config) -> list[Row]:
    """The models of a file, with what each is measured by: its own options before the common ones.

    Columns are the options of `diffsens bench` by name (`checkpoint`, `input_size`, `mean`, `std`, `dataset`,
    `data_dir`, `test_error`, `train_error`, `origin`, `licence`, ...) beside `model`; `input`, `data` and
    `error` are short for `input_size`, `data_dir` and `test_error`. An empty cell says nothing. Paths, those
    in specs too, are seen from the file's folder.

    Args:
        path: a `.csv` file with a line of column names, or a `.yaml` (`.yml`, `.json`) list of mappings.
        common: options of all rows.

    Raises:
        UsageError: the file cannot be read; a column, a value or a model is not known; a file that a row
            names is not there. The message names the row.
    """
    from timm_diffsens.models.architectures import find_architecture

    rows: list[Row] = []
    for number, stated in enumerate(_entries(path), 1):
        with named(f"{path}, row {number}"):
            named_options = [(_option(name), value) for name, value in stated.items()]
            _refuse_twice([name for name, _ in named_options])
            given = {name: value for name, value in named_options if value not in (None, "")}
            model = given.pop(_MODEL, None)
            if not isinstance(model, str):
                raise UsageError(f"needs a model, got {model!r}")
        where = f"{path}, row {number} ({model})"
        with named(where):
            model = registry.absolute(model, path.parent)
            find_architecture(model)
            rows.append(Row(model, _checked(given, path.parent, common).plain(), where))
    if not rows:
        raise UsageError(f"{path} names no models")
    return rows


@contextmanager
def named(where: str) -> Iterator[None]:
    """Wrong use is said to be of a row."""
    try:
        yield
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from None


def _entries(path: Path) -> Iterator[Mapping[Any, Any]]:
    """The rows as they stand."""
    text = _text(path)
    if path.suffix.lower() == ".csv":
        reader = csv.DictReader(io.StringIO(text), restkey="", strict=True)
        try:
            with named(str(path)):
                _refuse_twice([_option(name) for name in reader.fieldnames or []])
            yield from reader
        except csv.Error as error:
            raise UsageError(f"{path}, after line {reader.line_num}: {error}") from None
        return
    if path.suffix.lower() not in _ENDINGS:
        raise UsageError(f"--models takes a .csv or .yaml file, got {path.name}")
    try:
        found = _Texts(text).get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise UsageError(f"cannot read {path}: {first_line(error)}") from None
    if not (isinstance(found, list) and all(isinstance(row, dict) for row in found)):
        raise UsageError(f"{path} must be a list of mappings, '- model: resnet18' and so on")
    yield from found


class _Texts(yaml.BaseLoader):  # type: ignore[misc]
    """Scalars as the texts that they are, as in a table (`010` is no 8); no key twice."""

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        """The mapping of a node.

        Raises:
            YAMLError: a key stands twice.
        """
        keys = [self.construct_object(key, deep=True) for key, _ in node.value]
        for place, key in enumerate(keys):
            if key in keys[:place]:
                raise yaml.YAMLError(f"{key!r} stands twice in one row{node.start_mark}")
        found: dict[Any, Any] = super().construct_mapping(node, deep)
        return found


def _refuse_twice(names: list[str]) -> None:
    """Raises: UsageError: an option has two columns, `error` and `test_error` say."""
    for place, name in enumerate(names):
        if name in names[:place]:
            raise UsageError(f"two columns say {name}")


def _text(path: Path) -> str:
    try:
        if path.stat().st_size > _LARGEST:
            raise UsageError(f"{path} is larger than {_LARGEST / 1e6:g} MB: no list of models")
        return path.read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        tables = [one.name for one in path.parent.glob("*") if one.suffix.lower() in _ENDINGS]
        close = [str(path.with_name(name)) for name in nearest(path.name, tables)]
        meant = f"; did you mean {', '.join(close)}?" if close else ""
        raise UsageError(f"the file of models {path} does not exist{meant}") from None
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UsageError(f"cannot read {path}: it is no UTF-8 text") from None


def _option(column: Any) -> str:
    """The option that a column is; `Input size` and `input-size` are `input_size`.

    Raises:
        UsageError: there is none; nothing at all stands over the cell.
    """
    if not column:
        raise UsageError("has more cells than there are columns")
    name = str(column).strip().lower().replace("-", "_").replace(" ", "_")
    name = _SHORT.get(name, name)
    known = [_MODEL, *(each for each in options(Config) if each not in _OF_THE_SWEEP)]
    if name not in known:
        raise unknown("column", str(column), [*known, *_SHORT])
    return name


def _checked(given: dict[str, Any], folder: Path, common: Config) -> Config:
    """The options of a row, over the common ones; files are seen from the folder, and are there."""
    for name in _PATHS & given.keys():
        given[name] = folder / Path(str(given[name])).expanduser()
        if not given[name].exists():
            raise UsageError(f"{name} {given[name]} is not there")
    for name in _SPECS & given.keys():
        given[name] = registry.absolute(str(given[name]), folder)
    for name in _SEVERAL & given.keys():
        given[name] = [registry.absolute(spec, folder) for spec in split_commas(given[name])]
    return common.changed(**given)
