"""A file of recipes: a training a line, as what follows `diffsens train TASK` on the command line."""

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from timm_diffsens.cli.options import RUNNING, WrongUse
from timm_diffsens.errors import UsageError
from timm_diffsens.schema.config import options
from timm_diffsens.schema.training import TrainOptions

if TYPE_CHECKING:
    from timm_diffsens.train.recipe import Recipe

# Options that hold for the whole run, and are the command line's.
_OF_THE_RUN = {name for name, each in options(TrainOptions).items() if each.section == RUNNING}
_OF_THE_RUN |= {"data_dir", "test_dir", "download", "recipes", "as_json", "quiet"}


def read_recipes(path: Path, task: str, config: TrainOptions, command: Any) -> "list[Recipe]":
    """The recipes of all lines, in order, each once; empty lines and comments (`#`) say nothing.

    Args:
        path: of the file.
        task: scale1, scale2 or cifar10.
        config: of the command line; it holds where a line does not say otherwise.
        command: `diffsens train` as its parser, whose options a line has.

    Raises:
        UsageError: a line is wrong (it is named), or there is none.
    """
    from timm_diffsens.train.recipe import recipes_of

    found = []
    for number, words in _lines(path):
        try:
            models, own = _parsed([task, *words], command)
            both = TrainOptions(**config.all_given() | own)
            found += [recipe for model in models for recipe in recipes_of(task, model, both)]
        except UsageError as error:
            raise UsageError(f"{path}, line {number}: {error}") from None
    if not found:
        raise UsageError(f"{path} has no recipes: expected a line such as `net/lenet --epochs 20`")
    return list({recipe.sha256: recipe for recipe in found}.values())


def _lines(path: Path) -> Iterator[tuple[int, list[str]]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"--recipes: {path} cannot be read: {error}") from None
    for number, line in enumerate(lines, 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:  # a quotation that does not end
            raise UsageError(f"{path}, line {number}: {error}") from None
        if words:
            yield number, words


def _parsed(words: list[str], command: Any) -> tuple[list[str], dict[str, Any]]:
    """Models and options, as the command line would read them."""
    try:
        line = command.make_context("train", words)
    except WrongUse as error:
        raise UsageError(error.format_message()) from None  # type: ignore[attr-defined]
    except typer.Exit:
        raise UsageError("a line asks for a training, not for help") from None
    given = {
        name: value
        for name, value in line.params.items()
        if (source := line.get_parameter_source(name)) and source.name == "COMMANDLINE"
    }
    misplaced = sorted(_OF_THE_RUN & given.keys())
    if misplaced:
        flag = misplaced[0].removeprefix("as_").replace("_", "-")
        raise UsageError(f"--{flag} is for the command line: it holds for all lines")
    if not given.get("models"):
        raise UsageError("no MODEL: expected a line such as `net/lenet --epochs 20`")
    return list(given["models"]), {name: given[name] for name in TrainOptions.model_fields if name in given}
