"""The types that records are made of: rounded numbers, printable names, plain JSON."""

import json
from functools import lru_cache
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
)

_FORM = "%.7g"
_MOST_COUNT = 2**53  # above it a double, JavaScript's only number, no longer holds every whole number
_DEEPEST = 32  # levels of a free-form value
_LONGEST = 100_000  # characters of a text


def rounded(value: float) -> float:
    """To seven significant digits, the precision of the float32 forwards that numbers come from."""
    return float(_FORM % value) + 0.0  # no negative zero: it equals zero but prints otherwise


def _all_rounded(values: list[float]) -> list[float]:
    """A call a list, not one a number: most of a record's numbers stand in lists."""
    return [float(_FORM % value) + 0.0 for value in values]


def _grid_rounded(values: list[float]) -> list[float]:
    return list(_remembered(tuple(values)))


@lru_cache(maxsize=256)
def _remembered(values: tuple[float, ...]) -> list[float]:
    """Filters of one size have the same eigenvalues: a few lists in a thousand records."""
    return _all_rounded(list(values))


def _printable(value: Any) -> Any:
    """File names may hold bytes that are no text (lone surrogates in Python); they are spelt out."""
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value


def _jsonable(value: dict[str, Any]) -> dict[str, Any]:
    """As it will be read back: keys sorted at every level, tuples as lists, no NaN."""
    if _deeper(value, _DEEPEST):
        raise ValueError(f"is nested more than {_DEEPEST} levels deep")
    try:
        plain: dict[str, Any] = json.loads(json.dumps(value, sort_keys=True, allow_nan=False))
    except TypeError as error:
        raise ValueError(f"must be plain JSON: {error}") from None
    return plain


def _deeper(value: Any, levels: int) -> bool:
    """Whether a value is nested more than so many levels deep."""
    if not isinstance(value, dict | list | tuple):
        return False
    inside = value.values() if isinstance(value, dict) else value
    return levels == 0 or any(_deeper(item, levels - 1) for item in inside)


Count = Annotated[int, Field(ge=1, lt=_MOST_COUNT)]
Whole = Annotated[int, Field(ge=0, lt=_MOST_COUNT)]  # a count that may be none
Seed = Annotated[int, Field(ge=0, lt=2**64)]
Size = Annotated[float, Field(ge=0, le=1e100), AfterValidator(rounded)]
Fraction = Annotated[float, Field(ge=0, le=1), AfterValidator(rounded)]
Number = Annotated[float, AfterValidator(rounded)]
Numbers = Annotated[list[float], AfterValidator(_all_rounded)]
Grid = Annotated[list[float], AfterValidator(_grid_rounded)]
Name = Annotated[str, BeforeValidator(_printable)]
FreeForm = Annotated[dict[str, Any], AfterValidator(_jsonable)]


class Part(BaseModel):
    """A part of a record.

    In JSON the fields named in `sparse` are left out where they are empty, and those in `later`, which the
    first records did not have, where they were not given: what was read is written again to the byte.
    """

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, ser_json_inf_nan="strings", str_max_length=_LONGEST
    )
    sparse: ClassVar[tuple[str, ...]] = ()
    later: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _without_empty(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        plain: dict[str, Any] = handler(self)
        absent = {name for name in self.later if name not in self.model_fields_set}
        absent |= {name for name in self.sparse if not plain.get(name)}
        return {name: value for name, value in plain.items() if name not in absent}
