"""What is measured of one layer."""

import math
from typing import Any, ClassVar

from pydantic import Field

from timm_diffsens.schema.values import Count, Fraction, Grid, Numbers, Part, Size, Whole, rounded

SIGMAS = 2.0  # standard errors to either side that an interval of 95 % has
_WIDEST = 100.0  # of half an interval of log R: its ends stay finite


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
        r_low, r_high: an interval of R of its own, see `r_interval`, or None.
        reason: None, or why a value is None.
        kind: class of the module.
        aliases: other names under which the same tensor was seen.
        shape: shape of one sample.
        channel_axis: axis of the channels in `shape`, or None where it is not known.
    """

    sparse: ClassVar[tuple[str, ...]] = ("r_low", "r_high")

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
    r_low: float | None = Field(
        None,
        gt=0,
        description="lower end of the 95 % interval of R, where it is not R exp(-2 r_stderr / R): from few "
        "images or several draws",
    )
    r_high: float | None = Field(None, gt=0, description="upper end, likewise")
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

    @property
    def r_interval(self) -> tuple[float, float] | None:
        """95 % interval of R, None where there is none: the one place that knows it.

        From few images, or averaged over draws, R has an interval of its own. Else it is two standard errors
        of log R (delta method) to either side.
        """
        if self.r_low is not None and self.r_high is not None:
            return self.r_low, self.r_high
        if not self.r or self.r_stderr is None:
            return None
        spread = math.exp(min(SIGMAS * self.r_stderr / self.r, _WIDEST))
        return self.r / spread, self.r * spread

    def with_r_spread(self, spread: float) -> "LayerSensitivity":
        """With an interval of its own, to `spread` on either side of log R."""
        assert self.r
        width = math.exp(min(spread, _WIDEST))
        return self.model_copy(update={"r_low": self.r / width, "r_high": self.r * width})

    def rounded(self) -> "LayerSensitivity":
        """With numbers as records have them."""
        values = {name: getattr(self, name) for name in _ROUNDED}
        # zero, because a negative one equals it
        changed = {n: rounded(v) for n, v in values.items() if v is not None and (v == 0 or rounded(v) != v)}
        return self.model_copy(update=changed) if changed else self


MEASURES = ("d", "g", "r", "d_stderr", "g_stderr", "r_stderr")
_UNKNOWN: dict[str, Any] = {**dict.fromkeys(MEASURES), "layer": "", "index": 0, "depth": 1.0}
_ROUNDED = ("depth", *MEASURES, "r_low", "r_high")


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
