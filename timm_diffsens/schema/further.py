"""What further deformations did in the pass of a record: values alone, layers are named once."""

from collections.abc import Sequence
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, model_validator

from timm_diffsens.schema.layers import LayerSensitivity
from timm_diffsens.schema.protocol import Protocol, protocol_hash
from timm_diffsens.schema.values import Count, Part, Size, Whole, rounded

_OF_LAYERS = ("d", "g", "r", "d_stderr", "g_stderr", "r_stderr", "n", "r_low", "r_high", "reason")
_OF_PROTOCOL = ("deformation", "delta", "reference_side", "cut", "rms_displacement")


def _rounded(values: list[float | None]) -> list[float | None]:
    return [None if value is None else rounded(value) for value in values]


Column = Annotated[list[Annotated[float, Field(ge=0)] | None], AfterValidator(_rounded)]


class LayerValues(Part):
    """The values of `LayerSensitivity` for all layers of a variant: a list a field, in their order."""

    sparse: ClassVar[tuple[str, ...]] = ("r_low", "r_high", "reason")

    d: Column
    g: Column
    r: Column
    d_stderr: Column
    g_stderr: Column
    r_stderr: Column
    n: list[Whole]
    r_low: Column = Field(default_factory=list, description="left out where all are null")
    r_high: Column = Field(default_factory=list, description="likewise")
    reason: list[str | None] = Field(default_factory=list, description="likewise")

    @model_validator(mode="after")
    def _of_one_length(self) -> "LayerValues":
        lengths = {name: len(getattr(self, name)) for name in _OF_LAYERS}
        wrong = [
            n for n, length in lengths.items() if length != len(self.n) and (length or n not in self.sparse)
        ]
        if wrong:
            raise ValueError(f"{wrong[0]} has {lengths[wrong[0]]} values, expected {len(self.n)}, as n has")
        return self

    @classmethod
    def of(cls, layers: Sequence[LayerSensitivity]) -> "LayerValues":
        """Those of these layers."""
        columns = {name: [getattr(layer, name) for layer in layers] for name in _OF_LAYERS}
        empty = {name for name in cls.sparse if all(value is None for value in columns[name])}
        return cls(**{name: [] if name in empty else values for name, values in columns.items()})

    def last(self) -> "LayerValues":
        """Those of the output alone."""
        return LayerValues(**{name: getattr(self, name)[-1:] for name in _OF_LAYERS})

    def joined(self, layers: Sequence[LayerSensitivity]) -> list[LayerSensitivity]:
        """These layers with these values in place of their own."""
        columns = {name: getattr(self, name) or [None] * len(layers) for name in _OF_LAYERS}
        return [
            layer.model_copy(update={name: values[place] for name, values in columns.items()})
            for place, layer in enumerate(layers)
        ]


class Further(Part):
    """One further deformation: its draws are those of the record's own, where both draw the same numbers.

    Everything else of the protocol is that of the record.
    """

    sparse: ClassVar[tuple[str, ...]] = ("reference_side",)

    deformation: str
    delta: Size | None = None
    reference_side: Count | None = Field(None, description="see `Protocol`; left out: delta is in pixels")
    cut: Count | None = None
    rms_displacement: Size | None = Field(None, description="in pixels at this input size")
    variants: dict[str, LayerValues]

    @classmethod
    def of(cls, protocol: Protocol, variants: dict[str, list[LayerSensitivity]]) -> "Further":
        """Of what was measured, given the protocol as if it had been measured alone."""
        own = {name: getattr(protocol, name) for name in _OF_PROTOCOL}
        return cls(**own, variants={name: LayerValues.of(layers) for name, layers in variants.items()})

    def protocol_like(self, protocol: Protocol) -> Protocol:
        """The protocol of the record with this deformation: equal to that of a record of it alone."""
        own = protocol.model_copy(update={name: getattr(self, name) for name in _OF_PROTOCOL})
        return own.model_copy(update={"sha256": protocol_hash(own)})
