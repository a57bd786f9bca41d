"""How inputs were perturbed and what was read: equal hashes are comparable."""

import hashlib
import json
from typing import Any, Literal

from pydantic import Field

from timm_diffsens.schema.values import Number, Part


class Protocol(Part):
    """How the inputs were moved and which layers were read."""

    deformation: Literal["max-entropy", "active pixels"] = Field(
        "max-entropy", description="active pixels: of scale detection, each moves by at most one pixel"
    )
    delta: Number | None = Field(
        description="deformation size in pixels, by the relation T = 4 delta^2/(pi n^2 ln cut); max-entropy"
    )
    cut: int | None = Field(description="cutoff of the displacement field's Fourier modes; max-entropy")
    rms_displacement: Number = Field(description="exact rms displacement in pixels at this input size")
    noise: Literal["gaussian, norm matched image by image"] = "gaussian, norm matched image by image"
    corruption_sigma: Number = Field(0.0, description="sd of the noise fixed for each image, in input units")
    seed: int
    layers: list[str] = Field(description="the layer selection, as asked for")
    dtype: str = "float32"
    shuffles: int = Field(1, description="channel-shuffled copies averaged over")
    shuffle_linear: bool = False
    init_samples: int = Field(1, description="fresh initialisations averaged over")
    sha256: str = Field("", description="hash of the fields above; equal hashes are comparable")

    @property
    def deformation_text(self) -> str:
        """The deformation in words."""
        if self.deformation == "active pixels":
            return "active pixels move by at most one pixel"
        parts: list[str] = [] if self.deformation == "max-entropy" else [self.deformation]
        if self.delta is not None:
            parts.append(f"delta = {self.delta:g} px")
        if self.cut is not None:
            parts.append(f"cut = {self.cut}")
        return ", ".join(parts)


def digest(value: Any) -> str:
    """sha256 of a JSON-able value, independent of the order of keys."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def protocol_hash(protocol: Protocol) -> str:
    """Hash of what must agree for two records to be comparable: all of the protocol that is an input.

    The rms displacement follows from delta, cut and the input size, so it is left out: networks with
    inputs of different sizes are compared under the same delta, as in the paper.
    """
    return digest(protocol.model_dump(mode="json", exclude={"sha256", "rms_displacement"}))
