"""What a task asks of an architecture: the input it must read, the scores it must give, its size."""

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from timm_diffsens.errors import UsageError, unknown
from timm_diffsens.schema import limits

SCALES = ("bias_mean", "bias_std", "weight_mean", "weight_std", "readout_mean", "gain")
SIGNED = ("bias_mean",)
BIASES = ("none", "last", "all")


@dataclass(frozen=True)
class ModelArguments:
    """Arguments of an architecture; None leaves it to the architecture.

    Attributes:
        in_chans: channels of the input. num_classes: scores in the output; 1 for a single score.
        size: of the input in pixels, one side or (height, width); the length if `dims` is 1.
        dims: 2 for images (n, c, h, w), 1 for sequences (n, c, length).
        width, depth, filter, stride: of our own networks that have them.
        bias, bias_mean, bias_std, weight_mean, weight_std, readout_mean, gain: of net/simple, see
            `models.nets.simple.SimpleCNN`.

    Raises:
        UsageError: a size that is no positive integer or beyond `schema.limits.ARGUMENTS`, other
            dimensions than 1 and 2, a scale that is no number of at least 0.
    """

    in_chans: int | None = None
    num_classes: int | None = None
    size: int | tuple[int, int] | None = None
    dims: int = 2
    width: int | None = None
    depth: int | None = None
    filter: int | None = None
    stride: int | None = None
    bias: str | None = None
    bias_mean: float | None = None
    bias_std: float | None = None
    weight_mean: float | None = None
    weight_std: float | None = None
    readout_mean: float | None = None
    gain: float | None = None

    def __post_init__(self) -> None:
        if isinstance(self.size, list | tuple):
            object.__setattr__(self, "size", tuple(self.size))
        for name, value in dataclasses.asdict(self).items():
            if value is not None:
                self._check(name, value if isinstance(value, tuple) else (value,), value)
        if self.dims not in (1, 2):
            raise UsageError(f"model argument dims must be 1 or 2, got {self.dims}")
        if isinstance(self.size, tuple) and (len(self.size) != 2 or self.dims == 1):
            expected = "(height, width)" if self.dims == 2 else "a length"
            raise UsageError(f"model argument size: expected {expected}, got {self.size}")

    def _check(self, name: str, values: tuple[Any, ...], shown: object) -> None:
        for value in values:
            check_argument("model argument", name, value, shown)
        most = limits.ARGUMENTS.get(name)
        if most is not None and max(values) > most:
            raise UsageError(f"model argument {name} must be at most {limits.shown(most)}, got {shown!r}")

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


def check_argument(what: str, name: str, value: Any, shown: object) -> None:
    """Refuse what an argument cannot be; `what` begins the message, which has `shown` in it.

    Raises:
        UsageError: biases in an unknown place; a scale that is no number, or below 0 but for `SIGNED`;
            anything else that is no positive integer.
    """
    if name == "bias":
        if value not in BIASES:
            raise unknown(f"{what} bias", str(value), BIASES)
        return
    whole = name not in SCALES
    number = isinstance(value, int if whole else int | float) and not isinstance(value, bool)
    least = -math.inf if name in SIGNED else whole
    if not (number and math.isfinite(value) and value >= least and (value or name != "gain")):
        kinds = {"gain": "number above 0", **dict.fromkeys(SIGNED, "number")}
        kind = "positive integer" if whole else kinds.get(name, "number of at least 0")
        raise UsageError(f"{what} {name} must be a {kind}, got {shown!r}")


def check_biases(bias: str | None, mean: float | None, std: float | None) -> None:
    """Raises: UsageError: initial biases other than 0 where there are none."""
    if bias in (None, "none") and (mean or std):
        raise UsageError("bias_mean and bias_std need bias=last or bias=all")


NO_ARGUMENTS = ModelArguments()
