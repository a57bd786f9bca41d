"""Fig. 6: what simple CNNs with homogeneous filters make of one input, layer by layer, at both strides."""

import math

import numpy as np
import pandas as pd
import torch

from timm_diffsens.reproduce.claims import Finding
from timm_diffsens.reproduce.panels import Panels
from timm_diffsens.reproduce.reports import Report
from timm_diffsens.reproduce.workspace import Workspace
from timm_diffsens.theory.homogeneous import homogeneous_network, layer_outputs
from timm_diffsens.theory.predictions import effective_receptive_field
from timm_diffsens.theory.receptive_field import receptive_fields

_SIDES = {"stride-1": (6, 5, 1, 128), "stride-2": (6, 2, 2, 128)}  # layers, F, stride, pixels
_PIXELS = (40, 61)  # active


def figure_6(workspace: Workspace) -> Report:
    """Both networks on one image of two active pixels; nothing is trained, and both scales are the same."""
    del workspace
    report = Report("fig6", "Representations of simple CNNs with homogeneous filters, for one input")
    for name, (depth, size, stride, length) in _SIDES.items():
        table = _representations(depth, size, stride, length)
        title = f"Stride {stride}, F = {size}"
        subtitle = f"two active pixels of {length}; every filter is constant and sums to one"
        axes = ("place", "place"), ("activity", "activity")
        report.show(name, table, Panels(*axes, "layer", title, subtitle, columns=4, side=190).bars(table))
    report.judge({"width": _widths(), "count": _counts(report.tables["stride-2"])})
    return report


def _image(length: int) -> torch.Tensor:
    image = torch.zeros(1, 1, length, dtype=torch.float64)
    image[..., list(_PIXELS)] = math.sqrt(length / 2)
    return image


def _representations(depth: int, size: int, stride: int, length: int) -> pd.DataFrame:
    """Long: layer (0: the input), place, activity, and the receptive field A_k in pixels."""
    layers = layer_outputs(homogeneous_network(depth, size, stride), _image(length))
    named = [("input", 0.0, _image(length))] + [
        (f"layer {k}", effective_receptive_field(k, size, stride), values)
        for k, values in enumerate(layers, start=1)
    ]
    tables = [
        {"layer": name, "place": range(values.shape[-1]), "activity": values[0, 0].numpy(), "width": width}
        for name, width, values in named
    ]
    whole: pd.DataFrame = pd.concat(map(pd.DataFrame, tables), ignore_index=True)
    return whole


def _widths() -> list[Finding]:
    """Stride 1: every active pixel becomes a profile whose width grows as sqrt(k)."""
    depth, size, stride, length = _SIDES["stride-1"]
    fields = receptive_fields(homogeneous_network(depth, size, stride), length, positions=4)
    return [
        Finding(f"layer {k}", abs(field.width / effective_receptive_field(k, size, stride) - 1))
        for k, field in enumerate(fields, start=1)
    ]


def _counts(table: pd.DataFrame) -> list[Finding]:
    """Stride F: a neuron's activity is the number of active pixels in its patch, scaled."""
    _, size, _, length = _SIDES["stride-2"]
    image = _image(length)[0, 0].numpy()
    parts = []
    for k, (name, rows) in enumerate(table.groupby("layer", sort=False)):
        if k:
            expected = image.reshape(-1, size**k).mean(axis=1)
            difference = np.abs(rows["activity"].to_numpy() - expected).max() / expected.max()
            parts.append(Finding(str(name), float(difference)))
    return parts
