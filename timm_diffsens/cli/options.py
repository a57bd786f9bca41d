"""Options of the verbs that measure, made from the fields of the configuration."""

import inspect
from collections.abc import Callable
from functools import wraps
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo

from timm_diffsens.cli.completion import completes
from timm_diffsens.cli.output import nothing_but_json
from timm_diffsens.errors import DiffsensError, UsageError, without_options
from timm_diffsens.schema.config import MODEL as MODEL
from timm_diffsens.schema.config import ONE_MODEL, Config, Option, Options, options
from timm_diffsens.schema.config import RUNNING as RUNNING


def option(*names: str, help: str, panel: str, metavar: str | None = None, **more: Any) -> Any:
    """A Typer option under a heading of the help page."""
    return typer.Option(*names, help=help, rich_help_panel=panel, metavar=metavar, **more)


# The parser's own complaints; Typer exports only this one of their family.
WrongUse: type[Exception] = typer.BadParameter.__bases__[0]

Force = Annotated[bool, option("--force", help="Measure again what is done.", panel=RUNNING)]


def configured(verb: Callable[..., None], *, sweep: bool = False, config: type[Options] = Config) -> Any:
    """The verb with an option for each field of the configuration in place of its parameter `config`.

    Args:
        verb: takes a `Config` by the name of `config`.
        sweep: leave out what belongs to one model.
        config: whose fields.
    """
    fields = {n: o for n, o in options(config).items() if not (sweep and o.one_model)}
    own = list(inspect.signature(verb, eval_str=True).parameters.values())
    at = [parameter.name for parameter in own].index("config")
    asked = [_parameter(name, config.model_fields[name], each) for name, each in fields.items()]
    parameters = [*own[:at], *asked, *own[at + 1 :]]

    @wraps(verb)
    def run(**given: Any) -> None:
        values = {name: given.pop(name) for name in fields}
        with nothing_but_json(given["as_json"]):  # whatever the user's own code prints
            try:
                verb(**given, config=_made(config, {n: v for n, v in values.items() if v is not None}))
            except DiffsensError as error:
                if sweep:
                    error.args = (without_options(str(error), ONE_MODEL),)
                raise

    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run


def _made(config: type[Options], values: dict[str, Any]) -> Options:
    """The configuration; what is wrong with a field is said of its option."""
    try:
        return config(**values)
    except UsageError as error:
        name, *said = str(error).split(" ", 1)
        if name in config.model_fields:
            error.args = (" ".join([f"--{name.replace('_', '-')}", *said]),)
        raise


def _parameter(name: str, field: FieldInfo, known: Option) -> inspect.Parameter:
    """The command line's form of a field; None where it is not given, so that defaults stand in one place."""
    kind: Any = field.annotation
    if known.repeatable:
        kind = list[str]
    elif known.text or kind is Any:
        kind = str
    flags = [f"--{each.replace('_', '-')}" for each in (name, *known.aliases)]
    if kind is bool and field.default:
        flags = [f"{flag}/--no-{flag[2:]}" for flag in flags]
    text = known.sentence
    if not (known.repeatable or field.default is None or field.default is False):
        text += f" Default: {name if field.default is True else field.default}."
    completed = completes(known.kind, several=known.repeatable) if known.kind else None
    asked = option(*flags, help=text, panel=known.section, metavar=known.metavar, autocompletion=completed)
    place = inspect.Parameter.POSITIONAL_OR_KEYWORD
    return inspect.Parameter(name, place, default=None, annotation=Annotated[kind | None, asked])
