"""Records with realistic numbers, made without measuring anything."""

import math
from typing import Any

from timm_diffsens.schema.layers import LayerSensitivity, Spectrum
from timm_diffsens.schema.protocol import Protocol, protocol_hash
from timm_diffsens.schema.records import (
    Data,
    Environment,
    InputSpec,
    Model,
    Record,
    TestError,
    Timings,
    Weights,
    built_in_variants,
    record_key,
)

VARIANTS = built_in_variants()
RESNET18 = ["act1", *(f"layer{s}.{b}" for s in (1, 2, 3, 4) for b in (0, 1)), "fc"]
# (R at the first layer, by which factor it falls to the last)
FALLS = {
    "original": (0.92, 12.0),
    "channel-shuffled": (0.93, 3.1),
    "mean-channel": (0.80, 20.0),
    "mean-filter": (0.85, 6.0),
    "init": (0.97, 1.6),
}
LAPLACIAN_3X3 = [0.0, 1.0, 1.0, 2.0, 3.0, 3.0, 4.0, 4.0, 6.0]


def make_layer(
    index: int, count: int, name: str, *, variant: str = "original", n: int = 500, **fields: Any
) -> LayerSensitivity:
    """One layer as records have it; `fields` replace what the formulas give."""
    depth = (index + 1) / count
    first, factor = FALLS.get(variant, (0.9, 5.0))  # of somebody else's
    wiggle = 1 + 0.08 * math.sin(2.7 * index)
    g = 0.004 * (1 + 6 * depth) * wiggle
    r = first * factor ** (-index / max(count - 1, 1)) * wiggle
    error = 0.9 / math.sqrt(n)
    side = max(56 >> (index // 3), 1)
    values: dict[str, Any] = {
        "layer": name,
        "index": index,
        "depth": depth,
        "d": r * g,
        "g": g,
        "r": r,
        "d_stderr": r * g * error,
        "g_stderr": g * error * 0.7,
        "r_stderr": r * error * 0.8,
        "n": n,
        "kind": "Linear" if index == count - 1 else "BasicBlock",
        "shape": [1000] if index == count - 1 else [64, side, side],
        "channel_axis": 0,
    }
    return LayerSensitivity.model_validate({**values, **fields}).rounded()


def null_layer(index: int, count: int, name: str, reason: str = "constant") -> LayerSensitivity:
    """A layer without values."""
    nothing = dict.fromkeys(("d", "g", "r", "d_stderr", "g_stderr", "r_stderr"))
    return make_layer(index, count, name, reason=reason, **nothing)


def make_layers(names: list[str], variant: str = "original", n: int = 500) -> list[LayerSensitivity]:
    """One variant's layers."""
    return [make_layer(i, len(names), name, variant=variant, n=n) for i, name in enumerate(names)]


def make_spectra(names: list[str], variant: str = "original") -> list[Spectrum]:
    """3 x 3 filters: flat at initialisation, low-frequency when trained."""
    spectra = []
    for index, name in enumerate(names):
        slope = 0.05 if variant == "init" else 0.2 + 0.08 * index
        power = [1e-3 * math.exp(-slope * value) for value in LAPLACIAN_3X3]
        mean = sum(p * value for p, value in zip(power, LAPLACIAN_3X3, strict=True)) / sum(power)
        spectra.append(
            Spectrum(
                layer=name,
                kernel=[3, 3],
                eigenvalues=LAPLACIAN_3X3,
                power=power,
                low_frequency_share=power[0] / sum(power),
                mean_frequency=mean,
            )
        )
    return spectra


def _parts(spec: str, dataset: str, n: int) -> dict[str, Any]:
    weights = Weights(source="pretrained", detail="timm/resnet18.a1_in1k", sha256="ab" * 32)
    shown = InputSpec(
        channels=3,
        height=224,
        width=224,
        mean=(0.485, 0.456, 0.406),
        std=(0.229, 0.224, 0.225),
        crop_pct=0.95,
        crop_mode="center",
        interpolation="bicubic",
    )
    return {
        "model": Model(
            spec=spec,
            arch=spec.split(".")[0].split("/")[-1] or "net",
            library="timm",
            parameters=11_689_512,
            classes=1000,
            weights=weights,
            input=shown,
        ),
        "data": Data(spec=dataset, split="val", n=n, sample_sha256="cd" * 32, seed=0, labelled=True),
        "protocol": Protocol(delta=1.0, cut=3, rms_displacement=0.8388, seed=0, layers=["blocks"]),
        "test_error": TestError(value=0.288, stderr=math.sqrt(0.288 * 0.712 / n), n=n, source="measured"),
        "environment": Environment(
            package="0.1.0",
            python="3.11.7",
            torch="2.13.0",
            timm="1.0.31",
            platform="Linux-x86_64",
            device="cpu",
            threads=2,
            batch_size=16,
        ),
        "timings": Timings(started="2026-01-05T10:00:00Z", seconds=81.25, images_per_second=18.4),
        "trained": True,
        "train_error": None,
    }


def make_record(
    spec: str = "resnet18",
    dataset: str = "imagenet",
    *,
    n: int = 500,
    names: list[str] | None = None,
    variants: tuple[str, ...] = VARIANTS,
    **changes: Any,
) -> Record:
    """A valid record with a true key.

    Args:
        spec: of the model.
        dataset: spec of the images.
        n: number of images.
        names: of the layers; the blocks of a ResNet-18 by default.
        variants: which are measured.
        changes: fields of the record; a dictionary changes fields of that part, else it is replaced.
    """
    names = names or RESNET18
    convs = [f"{name}.conv2" for name in names[1:-1]]
    fields = _parts(spec, dataset, n)
    fields["variants"] = {variant: make_layers(names, variant, n) for variant in variants}
    fields["spectra"] = {v: make_spectra(convs, v) for v in ("original", "init") if v in variants}
    for name, value in changes.items():
        merged = isinstance(value, dict) and name in fields and not isinstance(fields[name], dict)
        if merged:
            value = type(fields[name]).model_validate(fields[name].model_dump() | value)
        fields[name] = value
    protocol: Protocol = fields["protocol"]
    fields["protocol"] = protocol.model_copy(update={"sha256": protocol_hash(protocol)})
    extra = fields.get("key_extra", {})
    parts = (fields["model"], fields["data"], fields["protocol"])
    fields.setdefault("key", record_key(*parts, list(fields["variants"]), extra))
    return Record.model_validate(fields)


def replace_layer(record: Record, index: int, layer: LayerSensitivity, variant: str = "original") -> Record:
    """The record with one layer exchanged."""
    variants = {name: list(layers) for name, layers in record.variants.items()}
    variants[variant][index] = layer
    return record.model_copy(update={"variants": variants})
