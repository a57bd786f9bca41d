"""What is measured of one layer."""

from typing import Any

from pydantic import Field

from timm_diffsens.schema.values import Count, Fraction, Grid, Numbers, Part, Size, Whole, rounded


class LayerSensitivity(Part):
    """What one layer makes of deformations (D) and noise (G), with R = D / G: Eq. 1 of arXiv 2210.01506.

    As measured; in a record its numbers are rounded.

    Attributes:
        layer: module path; `#k` marks the k-th further call of a module, `[j]` an item of its output.
        index: order of execution among the measured layers, from 0.
        depth: relative depth k / K: (index + 1) / number of measured layers; 1 at the output.
        d, g, r: the sensitivities, or None.
        d_stderr, g_stderr, r_stderr: standard errors over images, or None.
        n: number of images.
        reason: None, or why a value is None.
        kind: class of the module.
        aliases: other names under which the same tensor was seen.
        shape: shape of one sample.
        channel_axis: axis of the channels in `shape`, or None where it is not known.
    """

    layer: str = Field(description="module path; `#k` the k-th further call, `[j]` an item of the output")
    index: Whole = Field(description="0-based order of execution among the measured layers")
    depth: float = Field(ge=0, le=1, description="(index + 1) / number of measured layers; the output is 1")
    d: float | None = Field(ge=0)
    g: float | None = Field(ge=0)
    r: float | None = Field(ge=0)
    d_stderr: float | None = Field(ge=0)
    g_stderr: float | None = Field(ge=0)
    r_stderr: float | None = Field(ge=0)
    n: Whole
    reason: str | None = Field(None, description="why a value is null")
    kind: str = Field("", description="class of the module")
    aliases: tuple[str, ...] = Field((), description="other names of the same tensor")
    shape: tuple[Whole, ...] = Field((), description="shape of one sample")
    channel_axis: Whole | None = Field(
        None, description="axis of the channels in `shape`, null where unknown"
    )

    @classmethod
    def of(cls, n: int, **known: Any) -> "LayerSensitivity":
        """From the fields that are known: no other values, and a layer without a name at the output."""
        return cls(**{**_UNKNOWN, **known}, n=n)

    def rounded(self) -> "LayerSensitivity":
        """With numbers as records have them."""
        values = {name: getattr(self, name) for name in ("depth", *MEASURES)}
        # zero, because a negative one equals it
        changed = {n: rounded(v) for n, v in values.items() if v is not None and (v == 0 or rounded(v) != v)}
        return self.model_copy(update=changed) if changed else self


MEASURES = ("d", "g", "r", "d_stderr", "g_stderr", "r_stderr")
_UNKNOWN: dict[str, Any] = {**dict.fromkeys(MEASURES), "layer": "", "index": 0, "depth": 1.0}


class Spectrum(Part):
    """One convolution's filters on the eigenvectors of the grid Laplacian: Eq. 3 of arXiv 2210.01506."""

    layer: str
    kernel: list[Count]
    eigenvalues: Grid = Field(description="of the modes, ascending")
    power: Numbers = Field(description="gamma: mean squared projection on each mode")
    low_frequency_share: Fraction | None = Field(description="share of the constant mode in the power")
    mean_frequency: Size | None = Field(description="power-weighted mean eigenvalue")
    levels: Grid = Field(default_factory=list, description="distinct eigenvalues, ascending")
    level_power: Numbers = Field(
        default_factory=list, description="power summed over the modes of each distinct eigenvalue"
    )
    reason: str | None = None
