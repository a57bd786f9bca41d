"""How inputs were perturbed and what was read: equal hashes are comparable."""

import hashlib
import json
import math
from typing import Any, ClassVar

from pydantic import Field

from timm_diffsens.errors import UsageError
from timm_diffsens.schema import limits
from timm_diffsens.schema.values import Count, FreeForm, Part, Seed, Size


class Protocol(Part):
    """How the inputs were perturbed and which layers were read."""

    sparse: ClassVar[tuple[str, ...]] = ("reference_side", "init_statistics", "draws", "options")

    deformation: str = Field(
        "max-entropy",
        description="max-entropy; active pixels: of scale detection, each moves by at most one pixel; or the "
        "spec of another, with the hash of its source",
    )
    delta: Size | None = Field(
        description="deformation size in pixels, by the relation T = 4 delta^2/(pi n^2 ln cut); max-entropy"
    )
    reference_side: Count | None = Field(
        None,
        description="delta is in pixels of images whose shorter side has this many: on this network's input "
        "it is delta times shorter side / reference_side; left out: in pixels of the input",
    )
    cut: Count | None = Field(description="cutoff of the displacement field's Fourier modes; max-entropy")
    rms_displacement: Size | None = Field(
        description="exact rms displacement in pixels at this input size, null where not known"
    )
    noise: str = "gaussian, norm matched image by image"
    corruption_sigma: Size = Field(0.0, description="sd of the noise fixed for each image, in input units")
    seed: Seed
    layers: list[str] = Field(description="the layer selection, as asked for")
    dtype: str = "float32"
    shuffles: Count = Field(1, description="channel-shuffled copies averaged over")
    shuffle_linear: bool = False
    init_samples: Count = Field(1, description="fresh initialisations averaged over")
    init_statistics: str = Field(
        "",
        description="running statistics of norms in fresh initialisations; left out: zero and one, as made",
    )
    draws: str = Field(
        "", description="generator of noise and fields; left out: numpy's Philox4x64-10, as in version 1"
    )
    options: FreeForm = Field(
        default_factory=dict,
        description="further options that are not at their defaults",
    )
    sha256: str = Field("", description="hash of the fields above; equal hashes are comparable")

    @property
    def rms_text(self) -> str:
        """The rms displacement to three digits, or that it is not known."""
        known = self.rms_displacement
        return "rms not known" if known is None else f"rms {known:.3g} px"

    @property
    def deformation_text(self) -> str:
        """The deformation in words."""
        if self.deformation == "active pixels":
            return "active pixels move by at most one pixel"
        parts: list[str] = [] if self.deformation == "max-entropy" else [self.deformation]
        if self.delta is not None:
            parts.append(f"delta = {delta_text(self.delta, self.reference_side)} px")
        elif self.reference_side is not None:
            parts.append(f"delta in pixels at a side of {self.reference_side}")
        if self.cut is not None:
            parts.append(f"cut = {self.cut}")
        return ", ".join(parts)

    @property
    def noise_text(self) -> str:
        """The noise in words; "" for that of the paper."""
        return "" if self.noise == type(self).model_fields["noise"].default else f"noise = {self.noise}"


def digest(value: Any) -> str:
    """sha256 of a JSON-able value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def protocol_hash(protocol: Protocol) -> str:
    """Hash of what must agree for two records to be comparable: all of the protocol that is an input.

    The rms displacement follows from delta, cut and the input size, so it is left out: networks with
    inputs of different sizes are compared under the same delta: in pixels of each network's own input, as in
    the paper, or in pixels at a reference side. These are two protocols, with two hashes.
    """
    return digest(protocol.model_dump(mode="json", exclude={"sha256", "rms_displacement"}))


SMALL_LIMIT = "small limit"  # with which the name of such a deformation ends


def delta_text(delta: float, reference_side: int | None) -> str:
    """A size of deformations as `--delta` takes it.

    >>> delta_text(1.0, None), delta_text(0.25, 224)
    ('1', '0.25@224')
    """
    return f"{delta:g}" if reference_side is None else f"{delta:g}@{reference_side}"


def read_delta(text: str) -> tuple[float, int | None]:
    """The size that a text names, in pixels, and the side at which; None for the side of each input.

    Raises:
        UsageError: it is no size.

    >>> read_delta("0.25@224"), read_delta("2")
    ((0.25, 224), (2.0, None))
    """
    number, at, side = text.partition("@")
    try:
        read = float(number), int(side) if at else None
    except ValueError:
        raise UsageError(f"needs PIXELS or PIXELS@SIDE, 1 or 1@224 say, got {text!r}") from None
    if read[1] is not None and not 2 <= read[1] <= limits.SIDE:
        raise UsageError(f"needs a side between 2 and {limits.shown(limits.SIDE)} after the @, got {text!r}")
    return read


def delta_bounds(side: int, cut: int) -> tuple[float, float]:
    """Least and most delta, in pixels, of a `Diffeo` on images whose shorter side has n pixels.

    Below the least the displacement is smaller than half a pixel; above the most the map stops being
    one-to-one. By T = 4 delta^2/(pi n^2 ln cut) they are the bounds of T in Petrini et al. 2021, Appendix C:
    1/(pi n^2 ln cut) and 4/(pi^3 cut^2 ln cut). On small images no delta lies between them.
    """
    return 0.5, side / (math.pi * cut)


def delta_problem(delta: float, cut: int, side: int, reference_side: int | None = None) -> str | None:
    """What is wrong with a `Diffeo` on images of that shorter side, and the delta to choose; or None."""
    least, most = delta_bounds(side, cut)
    scale = 1.0 if reference_side is None else side / reference_side
    here = delta * scale
    if least <= here <= most:
        return None
    unit, steps = ("", 100) if reference_side is None else (f"@{reference_side}", 1000)
    # rounded inwards, so that what is advised is accepted
    low, high = math.ceil(least / scale * steps) / steps, math.floor(most / scale * steps) / steps
    remedy = "use larger images or a lower --cut"
    if low <= high:
        remedy = f"choose --delta between {low}{unit} and {high}{unit}"
    fault = "moves less than a pixel" if here < least else "stops being one-to-one"
    size = delta_text(delta, reference_side)
    return f"with delta = {size} the deformation {fault} on a side of {side} pixels: {remedy}"
