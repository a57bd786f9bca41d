"""What a task asks of an architecture: the input it must read, the scores it must give, its size."""

import dataclasses
from dataclasses import dataclass
from typing import Any

from timm_diffsens.errors import UsageError, unknown
from timm_diffsens.schema import limits


@dataclass(frozen=True)
class ModelArguments:
    """Arguments of an architecture; None leaves it to the architecture.

    Attributes:
        in_chans: channels of the input. num_classes: scores in the output; 1 for a single score.
        size: of the input in pixels, one side or (height, width); the length if `dims` is 1.
        dims: 2 for images (n, c, h, w), 1 for sequences (n, c, length).
        width, depth, filter, stride: of our own networks that have them.

    Raises:
        UsageError: a number that is no positive integer or beyond `schema.limits.ARGUMENTS`, other
            dimensions than 1 and 2.
    """

    in_chans: int | None = None
    num_classes: int | None = None
    size: int | tuple[int, int] | None = None
    dims: int = 2
    width: int | None = None
    depth: int | None = None
    filter: int | None = None
    stride: int | None = None

    def __post_init__(self) -> None:
        if isinstance(self.size, list | tuple):
            object.__setattr__(self, "size", tuple(self.size))
        for name, value in dataclasses.asdict(self).items():
            values = value if isinstance(value, tuple) else (value,)
            if value is not None and not all(map(_is_positive, values)):
                raise UsageError(f"model argument {name} must be a positive integer, got {value!r}")
            most = limits.ARGUMENTS.get(name)
            if value is not None and most is not None and max(values) > most:
                raise UsageError(f"model argument {name} must be at most {limits.shown(most)}, got {value!r}")
        if self.dims not in (1, 2):
            raise UsageError(f"model argument dims must be 1 or 2, got {self.dims}")
        if isinstance(self.size, tuple) and (len(self.size) != 2 or self.dims == 1):
            expected = "(height, width)" if self.dims == 2 else "a length"
            raise UsageError(f"model argument size: expected {expected}, got {self.size}")

    @property
    def sides(self) -> tuple[int, int] | None:
        """(height, width) of the input; (1, length) in one dimension."""
        if self.size is None or isinstance(self.size, tuple):
            return self.size
        return (1 if self.dims == 1 else self.size), self.size

    @property
    def given(self) -> tuple[str, ...]:
        """Names of the arguments that are set; `dims` only where it is 1."""
        return tuple(name for name, value in self.to_json().items() if (name, value) != ("dims", 2))

    def require(self, what: str, *known: str) -> None:
        """Refuse arguments that an architecture does not have.

        Raises:
            UsageError: one is given that is not among `known`.
        """
        foreign = [name for name in self.given if name not in known]
        if foreign:
            raise UsageError(f"{what} takes no {' or '.join(foreign)}; it takes {', '.join(known)}")

    def to_json(self) -> dict[str, Any]:
        """As plain values, without those that are None."""
        plain = {name: value for name, value in dataclasses.asdict(self).items() if value is not None}
        return {name: list(value) if isinstance(value, tuple) else value for name, value in plain.items()}

    @classmethod
    def from_json(cls, plain: Any) -> "ModelArguments":
        """What `to_json` gave.

        Raises:
            UsageError: no object, an unknown name or an impossible value.
        """
        if not isinstance(plain, dict):
            raise UsageError(f"expected an object of model arguments, got {type(plain).__name__}")
        names = [f.name for f in dataclasses.fields(cls)]
        for name in plain:
            if name not in names:
                raise unknown("model argument", str(name), names)
        return cls(**plain)


def _is_positive(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


NO_ARGUMENTS = ModelArguments()
